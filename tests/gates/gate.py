"""Trials by the thousand: in forked children, seed by seed, and what came of them.

A trial is chosen by a number, its seed. It runs in a child with a folder of its own, so
that a crash of the interpreter, or a hang, is a failure of that seed and of no other. What
came of each is a line of JSON in a file; the next run goes on behind the last seed.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import oblivion_dbm

#: Seconds that a trial may take.
LONGEST = 1800
#: Failures of one gate after which no more trials are begun.
MOST_FAILURES = 5
SIZES = ("change", "long")
#: A folder in memory, and the room that there must be in it.
_MEMORY, _ROOM = "/dev/shm", 2 << 30


class Gate(NamedTuple):
    """A kind of trial.

    ``trial(seed, folder, size)`` returns how many ``unit``s it has tried, and raises where
    something is wrong.  ``wanted`` is the number of units for each size; where it is None
    the trials are ``seeds(size)``, all of them.
    """

    name: str
    unit: str
    trial: Callable[[int, str, str], int]
    wanted: dict[str, int | None]
    seeds: Callable[[str], int] | None = None
    #: Trials that may run at once.
    jobs: int = 2


class Outcome(NamedTuple):
    """What came of one trial: ``failure`` is "" where it went well."""

    gate: str
    seed: int
    units: int
    failure: str
    seconds: float

    def line(self, size: str) -> str:
        """Return it as a line of the file of results."""
        about = {"size": size, "python": platform.python_version()}
        return json.dumps(self._asdict() | about | {"version": oblivion_dbm.__version__}) + "\n"


class Child:
    """A trial under way in a process of its own."""

    def __init__(self, gate: Gate, seed: int, size: str) -> None:
        self.gate = gate
        self.seed = seed
        self.began = time.monotonic()
        self.folder = tempfile.mkdtemp(prefix="gate-", dir=memory())
        sys.stdout.flush()
        self.process = os.fork()
        if self.process == 0:
            self._be(size)

    def _be(self, size: str) -> None:
        """Run the trial in the child, and never return."""
        status = 1
        try:
            os.setpgid(0, 0)
            for name in ("output", "result"):
                Path(self.folder, name).touch()
            output = os.open(self.folder + "/output", os.O_WRONLY)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.stdout = sys.stderr = os.fdopen(output, "w")
            units = self.gate.trial(self.seed, self._work(), size)
            Path(self.folder, "result").write_text(str(units))
            status = 0
        except BaseException:  # noqa: BLE001 - the parent reads it
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            sys.stdout.flush()
            os._exit(status)

    def _work(self) -> str:
        work = os.path.join(self.folder, "work")
        os.mkdir(work)
        return work

    def ended(self) -> Outcome | None:
        """Return what came of it, None while it goes on; one that takes too long is killed."""
        process, status = os.waitpid(self.process, os.WNOHANG)
        seconds = time.monotonic() - self.began
        if process:
            return self._outcome(_meaning(status), seconds)
        if seconds < LONGEST:
            return None
        os.killpg(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        return self._outcome(f"it did not end within {LONGEST} s", seconds)

    def _outcome(self, failure: str, seconds: float) -> Outcome:
        result = Path(self.folder, "result").read_text()
        if failure:
            failure += "\n" + Path(self.folder, "output").read_text(errors="replace")[-4000:]
            failure += f"\nwhat it has left is kept in {self.folder}"
        else:
            shutil.rmtree(self.folder, ignore_errors=True)
        units = int(result) if result else 0
        return Outcome(self.gate.name, self.seed, units, failure, round(seconds, 3))


def memory() -> str | None:
    """Return a folder in memory, None where there is none or TMPDIR says where to work.

    What a disk would have after a crash is what a test keeps book of; so nobody needs to
    wait for a real one.
    """
    if "TMPDIR" in os.environ or not os.access(_MEMORY, os.W_OK | os.X_OK):
        return None
    status = os.statvfs(_MEMORY)
    return _MEMORY if status.f_bavail * status.f_frsize >= _ROOM else None


def _meaning(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return f"the interpreter was ended by {signal.Signals(-code).name}"
    return "an exception" if code else ""


def at_once(gate: Gate, seeds: Iterable[int], size: str, jobs: int) -> Iterator[Outcome]:
    """Yield what comes of the trials of ``seeds``, some of which run at once."""
    waiting, running = iter(seeds), list[Child]()
    todo = True
    try:
        while todo or running:
            while todo and len(running) < min(jobs, gate.jobs):
                seed = next(waiting, None)
                todo = seed is not None
                if seed is not None:
                    running.append(Child(gate, seed, size))
            for child in list(running):
                outcome = child.ended()
                if outcome is not None:
                    running.remove(child)
                    yield outcome
            time.sleep(0.002)
    finally:
        for child in running:
            os.killpg(child.process, signal.SIGKILL)
            os.waitpid(child.process, 0)
            shutil.rmtree(child.folder, ignore_errors=True)


class Results:
    """The file of results: what came of earlier trials of a size, and a line for each new one."""

    def __init__(self, path: Path | None, size: str, resume: bool) -> None:
        self.size = size
        self.earlier: list[dict[str, Any]] = []
        self.path = path
        if path is not None and resume and path.exists():
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            self.earlier = [line for line in lines if line["size"] == size]

    def of(self, gate: Gate) -> tuple[int, int]:
        """Return how many units earlier runs have tried, and the first seed that is new."""
        mine = [line for line in self.earlier if line["gate"] == gate.name]
        first = max((line["seed"] + 1 for line in mine), default=0)
        return sum(line["units"] for line in mine), first

    def add(self, outcome: Outcome) -> None:
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(outcome.line(self.size))


def run(
    gate: Gate, results: Results, first: int, *, end: float, jobs: int
) -> tuple[int, list[Outcome]]:
    """Run trials from seed ``first`` on until there were enough; return units and failures.

    Stops at ``end``, on the clock of ``time.monotonic``.
    """
    earlier, next_seed = results.of(gate)
    wanted = gate.wanted[results.size]
    total = gate.seeds(results.size) if gate.seeds is not None else sys.maxsize
    first = next_seed if gate.seeds is not None or results.earlier else first
    done, failures = earlier, list[Outcome]()

    def seeds() -> Iterator[int]:
        for seed in range(first, total):
            enough = wanted is not None and done >= wanted
            if enough or time.monotonic() >= end or len(failures) >= MOST_FAILURES:
                return
            yield seed

    for outcome in at_once(gate, seeds(), results.size, jobs):
        results.add(outcome)
        done += outcome.units
        if outcome.failure:
            failures.append(outcome)
            size = "" if results.size == SIZES[0] else f" --size {results.size}"
            again = f"python tests/long/gates.py {gate.name} --seed {outcome.seed}{size}"
            print(f"{outcome.failure}\n{gate.name} has failed; again: {again}", flush=True)
    return done, failures
