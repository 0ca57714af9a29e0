"""What a put costs with ``sync="full"``: one thread, several, and the bare system calls.

    python benchmarks/group_commit.py
    python benchmarks/group_commit.py --disk 5      # a disk whose sync takes 5 ms

In each round four things are done in turn: a bare loop of ``write`` and ``fdatasync`` of the
bytes that a put logs, once behind the end of a file and once into room that was allocated
before, as a log does; puts of one thread; and puts of several threads, whose syncs are
counted. A ratio is the median of the ratios within the rounds. README.md beside this file
says how to read it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter, sleep

from measurements import KEY_BYTES, VALUE_BYTES

from oblivion_dbm.engine.filesystem import File, FileSystem
from oblivion_dbm.engine.options import Options
from oblivion_dbm.engine.record import PUT, encode
from oblivion_dbm.engine.storage_engine import open_store

Pairs = list[tuple[bytes, bytes]]
Figures = dict[str, float]


class CountingFileSystem(FileSystem):
    """Counts syncs; each takes ``seconds`` instead of what the disk takes, unless that is None."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self.syncs = 0

    def sync(self, file: File) -> None:
        """Sync, or wait as long as it would take."""
        self.syncs += 1
        if self.seconds is None:
            super().sync(file)
        else:
            sleep(self.seconds)


def pairs(count: int, seed: int) -> Pairs:
    """Return random keys and values."""
    random = Random(seed)
    return [(random.randbytes(KEY_BYTES), random.randbytes(VALUE_BYTES)) for _ in range(count)]


def bare(folder: Path, written: Pairs, disk: CountingFileSystem, allocated: bool) -> float:
    """Return the seconds a put takes that only writes its record and syncs it."""
    records = [encode(PUT, key, value) for key, value in written]
    path = folder / f"bare-{allocated}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    file = File(descriptor, str(path))
    try:
        if allocated:
            os.posix_fallocate(descriptor, 0, sum(map(len, records)))
            os.fsync(descriptor)
        begin = perf_counter()
        for record in records:
            os.write(descriptor, record)
            disk.sync(file)
        return (perf_counter() - begin) / len(records)
    finally:
        os.close(descriptor)


def puts(
    folder: Path, written: Pairs, disk: CountingFileSystem, threads: int
) -> tuple[float, float]:
    """Return the seconds a put takes, all threads together, and the syncs of a put."""
    store = open_store(str(folder / f"store-{threads}"), "n", Options(sync="full"), filesystem=disk)
    store.put(b"first", b"")  # begins the log
    started = threading.Barrier(threads + 1)

    def work(part: Pairs) -> None:
        put = store.put
        started.wait()
        for key, value in part:
            put(key, value)

    workers = [
        threading.Thread(target=work, args=(written[number::threads],)) for number in range(threads)
    ]
    for worker in workers:
        worker.start()
    started.wait()
    syncs, begin = disk.syncs, perf_counter()
    for worker in workers:
        worker.join()
    seconds = perf_counter() - begin
    syncs = disk.syncs - syncs
    store.close()
    return seconds / len(written), syncs / len(written)


def measure(folder: Path, options: argparse.Namespace, number: int) -> Figures:
    """Return the figures of one round."""
    disk = CountingFileSystem(None if options.disk is None else options.disk / 1e3)
    written = pairs(options.puts, options.seed + number)
    many = written + pairs(options.puts, ~options.seed - number)
    figures: Figures = {}

    def one() -> None:
        figures["one thread"], figures["syncs of one thread"] = puts(folder, written, disk, 1)

    def several() -> None:
        figures["threads"], figures["syncs of threads"] = puts(folder, many, disk, options.threads)

    def bare_end() -> None:
        figures["bare"] = bare(folder, written, disk, False)

    def bare_allocated() -> None:
        figures["bare, allocated"] = bare(folder, written, disk, True)

    steps: list[Callable[[], None]] = [bare_end, one, bare_allocated, several]
    first = number % len(steps)
    for step in steps[first:] + steps[:first]:
        step()
    return figures


def report(rounds: list[Figures], threads: int) -> str:
    """Return a table of medians, and the ratios."""

    def middle(name: str) -> float:
        return median(figures[name] for figures in rounds)

    def ratio(name: str, other: str) -> float:
        return median(figures[name] / figures[other] for figures in rounds)

    several = f"{threads} threads"
    lines = ["| | µs a put | puts a second | syncs a put |", "|---|---:|---:|---:|"]
    for name, shown, syncs in (
        ("bare", "write + fdatasync, appending", 1.0),
        ("bare, allocated", "write + fdatasync, room allocated", 1.0),
        ("one thread", "one thread", middle("syncs of one thread")),
        ("threads", several, middle("syncs of threads")),
    ):
        each = middle(name)
        lines.append(f"| {shown} | {1e6 * each:,.0f} | {1 / each:,.0f} | {syncs:.3f} |")
    appending, allocated = ratio("one thread", "bare"), ratio("one thread", "bare, allocated")
    lines += [
        "",
        f"one thread takes {appending:.2f} of the time of the bare loop that appends,",
        f"and {allocated:.2f} of the one whose room is allocated",
        f"{several} do {ratio('one thread', 'threads'):.2f} times the puts a second of one thread,",
        f"{1 / middle('syncs of threads'):.1f} with each sync",
    ]
    return "\n".join(lines)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--puts", type=int, default=1000, metavar="N", help="of one thread; several do twice that")
    add("--rounds", type=int, default=5, metavar="N")
    add("--threads", type=int, default=8, metavar="N")
    add("--disk", type=float, metavar="MS", help="let each sync take so long, and sync nothing")
    add("--seed", type=int, default=1)
    add("--directory", type=Path, help="where the files are made, and removed again")
    add("--json", type=Path, metavar="FILE", help="write the figures of every round")
    return parser.parse_args(arguments)


def main() -> None:
    """Measure what the command line asks for, and report."""
    options = parse()
    rounds = []
    for number in range(options.rounds):
        folder = Path(tempfile.mkdtemp(prefix="group-commit-", dir=options.directory))
        try:
            rounds.append(measure(folder, options, number))
        finally:
            shutil.rmtree(folder)
    system = f"{platform.python_implementation()} {platform.python_version()}, {platform.system()}"
    print(f"{system}; {options.rounds} rounds of {options.puts:,} puts\n")
    print(report(rounds, options.threads))
    if options.json:
        options.json.write_text(json.dumps(rounds, indent=1))


if __name__ == "__main__":
    main()
