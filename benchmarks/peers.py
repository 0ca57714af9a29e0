"""Oblivion beside its peers, in one run, in turn, as medians.

    python benchmarks/peers.py --records 100000 1000000 --plot peers.svg

In each round every measurement is taken of one store after the other, each in a process
of its own, so a slow minute of the machine slows all of them. A ratio is the median of
the ratios within the rounds. README.md beside this file says what is measured.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from engines import ENGINES, Engine, by_name
from measurements import MEASUREMENTS, Figures, Task, anonymous_memory
from report import Sample, report

HERE = Path(__file__).resolve().parent
#: How often one round starts a process that opens, reads one key and ends.
PROCESSES = 10
#: In the order in which they run; whole processes open what the fill has left.
STEPS = [*list(MEASUREMENTS)[:5], "process", *list(MEASUREMENTS)[5:]]
#: What a process costs that does nothing.
BARE = "python alone"


class Round:
    """One round: every step with every engine in turn, in a folder that is removed."""

    def __init__(self, number: int, records: int, options: argparse.Namespace) -> None:
        engines = [by_name(name) for name in options.engines]
        first = number % len(engines)
        self.engines = engines[first:] + engines[:first]
        self.number = number
        self.records = records
        self.options = options
        self.failed = False

    def samples(self) -> Iterator[Sample]:
        """Measure, and yield each figure."""
        folder = Path(tempfile.mkdtemp(prefix="peers-", dir=self.options.directory))
        try:
            for step in self.options.only:
                for engine in self.engines:
                    figures = self._measure(step, engine, folder)
                    for name, value in figures.items():
                        yield self._sample(engine.name, name, value)
                if step == "process":
                    yield self._sample(BARE, step, run_program("pass"))
        finally:
            shutil.rmtree(folder)

    def _sample(self, engine: str, name: str, value: float) -> Sample:
        return Sample(engine, name, self.records, self.number, value)

    def _measure(self, step: str, engine: type[Engine], folder: Path) -> Figures:
        if "compact" in step and not engine.compacts:
            return {}
        home = folder / (f"{engine.name}-memory" if step == "memory" else engine.name)
        home.mkdir(exist_ok=True)
        records = min(self.records, engine.limit or self.records)
        task = Task(
            engine=engine.name,
            measurement=step,
            path=str(home / "store"),
            records=records,
            operations=self.options.operations,
            seed=self.options.seed,
        )
        begin = time.perf_counter()
        try:
            figures = run_process(engine, task) if step == "process" else run_task(task)
        except subprocess.CalledProcessError as failure:
            print(failure.stderr, file=sys.stderr)
            self.failed = True
            figures = {}
        took = f"{time.perf_counter() - begin:.1f} s{'' if figures else ', FAILED'}"
        where = f"{self.records:,} records, round {self.number + 1}"
        print(f"{where}: {step}, {engine.name}: {took}", file=sys.stderr)
        return figures


def run_task(task: Task) -> Figures:
    """Carry out a task in a process of its own, and watch its memory if that is the task."""
    command = [sys.executable, str(HERE / "measurements.py"), json.dumps(task._asdict())]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    peak = 0
    while task.measurement == "memory" and child.poll() is None:
        peak = max(peak, anonymous_memory(child.pid))
        time.sleep(0.005)
    output, errors = child.communicate()
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command, output, errors)
    figures: Figures = json.loads(output)
    return figures | {"memory peak": peak} if peak else figures


def run_process(engine: type[Engine], task: Task) -> Figures:
    """Time whole processes that open the store, read one key and end."""
    module = engine.module or engine.name
    program = engine.program.format(module=module, path=task.path, key=task.keys()[0])
    return {"process": run_program(program)}


def run_program(program: str) -> float:
    """Return the median time of a process that runs a program, in ns."""
    command = [sys.executable, "-I", "-c", program]
    times = []
    for _ in range(PROCESSES):
        begin = time.perf_counter_ns()
        subprocess.run(command, check=True, capture_output=True, text=True)
        times.append(time.perf_counter_ns() - begin)
    return float(sorted(times)[PROCESSES // 2])


class Names:
    """Convert ``a,b`` on the command line to a list of known names, in their known order."""

    def __init__(self, known: list[str]) -> None:
        self.known = known

    def __call__(self, text: str) -> list[str]:
        """Return the names; argparse reports the error."""
        asked = text.split(",")
        unknown = ", ".join(sorted(set(asked) - set(self.known)))
        if unknown:
            raise argparse.ArgumentTypeError(f"no {unknown} here; there are: {self}")
        return [name for name in self.known if name in asked]

    def __str__(self) -> str:
        """Return the known names as they may be given."""
        return ",".join(self.known)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    installed = Names([engine.name for engine in ENGINES if engine.available()])
    steps = Names(STEPS)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--records", type=int, nargs="+", default=[100_000, 1_000_000], metavar="N")
    add("--rounds", type=int, default=3, metavar="N")
    add("--operations", type=int, default=200_000, metavar="N", help="calls timed, at most")
    add("--engines", type=installed, default=installed.known, metavar="A,B", help=str(installed))
    add("--only", type=steps, default=STEPS[:-1], metavar="A,B", help=str(steps))
    add("--memory", action="store_true", help="also watch the memory of a process that fills")
    add("--base", default=ENGINES[0].name, help="what ratios compare with (%(default)s)")
    add("--seed", type=int, default=1)
    add("--directory", type=Path, help="where the stores are made, and removed again")
    add("--json", type=Path, metavar="FILE", help="write every sample")
    add("--plot", type=Path, metavar="FILE.svg", help="draw the medians (wants matplotlib)")
    options = parser.parse_args(arguments)
    if options.memory:
        options.only = [*options.only, "memory"]
    if options.only[0] != "fill" and options.only != ["memory"]:
        options.only = ["fill", *options.only]
    return options


def main() -> None:
    """Measure what the command line asks for, and report."""
    options = parse()
    system = f"{platform.python_implementation()} {platform.python_version()}, {platform.system()}"
    print(f"{system}; {options.rounds} rounds, at most {options.operations:,} calls timed\n")
    samples: list[Sample] = []
    failed = False
    for records in options.records:
        for number in range(options.rounds):
            turn = Round(number, records, options)
            samples += turn.samples()
            failed |= turn.failed
    print(report(samples, options.base))
    if options.json:
        options.json.write_text(json.dumps([sample._asdict() for sample in samples], indent=1))
    if options.plot:
        from plot import plot

        plot(samples, options.base, options.plot)
    sys.exit(failed)


if __name__ == "__main__":
    main()
