"""How late an event loop comes to its turn while a store reads cold pages, and what calls cost.

``python benchmarks/event_loop.py [--records N] [--gets N] [folder]``

Makes a store of records of 1,000 bytes, asks the system to forget its pages, and lets four
tasks read while another one notes by how much it was woken up too late; with ``read_ahead``
as aio sets it, and without. Page faults that read the disk are counted in the threads that
hold the interpreter's lock while they wait. Then the cost of single calls, out of memory.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from random import Random
from typing import Any

import oblivion_dbm
from oblivion_dbm import aio
from oblivion_dbm.aio.off_loop import OffLoop

PAUSE = 0.0005
TASKS = 4


def key(number: int) -> bytes:
    return b"%016d" % number


def make(path: Path, records: int) -> None:
    """Make the store, as one run of tables."""
    value = Random(1).randbytes(1000)
    with oblivion_dbm.Database(path, "n") as db:
        db.load((key(number), value) for number in range(records))
        db.compact()


def forget(path: Path) -> None:
    """Ask the system to forget the pages of all files."""
    for file in path.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


class Faults:
    """Counts the page faults that read the disk, in the threads of handles."""

    def __init__(self) -> None:
        self.count = 0
        submit = OffLoop.submit

        def counted(call: Callable[..., Any], *args: Any, **named: Any) -> Any:
            before = resource.getrusage(resource.RUSAGE_THREAD).ru_majflt
            try:
                return call(*args, **named)
            finally:
                self.count += resource.getrusage(resource.RUSAGE_THREAD).ru_majflt - before

        def counting(self: OffLoop, threads: Any, call: Any, *args: Any, **named: Any) -> Any:
            return submit(self, threads, counted, call, *args, **named)

        OffLoop.submit = counting  # type: ignore[method-assign]  # to count


async def note_delays(delays: list[float]) -> None:
    """Note by how much this task is woken up too late, until it is cancelled."""
    while True:
        before = time.perf_counter()
        await asyncio.sleep(PAUSE)
        delays.append(time.perf_counter() - before - PAUSE)


async def cold_reads(path: Path, records: int, gets: int, ahead: bool, faults: Faults) -> str:
    """Read with four tasks; return a line of the table."""
    random = Random(2)

    async def read(db: aio.Database) -> None:
        for _ in range(gets // TASKS):
            assert await db.get(key(random.randrange(records))) is not None

    delays: list[float] = []
    async with aio.open(path, read_ahead=ahead) as db:
        noting = asyncio.ensure_future(note_delays(delays))
        before, began = faults.count, time.perf_counter()
        await asyncio.gather(*(read(db) for _ in range(TASKS)))
        each = (time.perf_counter() - began) / gets
        noting.cancel()
    delays.sort()
    late = [1e3 * delays[int(len(delays) * share)] for share in (0.5, 0.99)] + [1e3 * delays[-1]]
    shown = " ".join(f"{delay:8.2f}" for delay in late)
    return f"{ahead!s:>10} {1e6 * each:8.0f} {shown} {faults.count - before:8d}"


async def cost(calls: Iterable[Awaitable[object]], together: bool = False) -> float:
    """Return the microseconds that each of the calls takes, one after the other or together."""
    made = list(calls)
    began = time.perf_counter()
    if together:
        await asyncio.gather(*made)
    else:
        for call in made:
            await call
    return 1e6 * (time.perf_counter() - began) / len(made)


async def warm_calls(path: Path) -> None:
    """Print what single calls cost when nothing waits for the disk."""
    numbers = range(5000)
    async with aio.Database(path, "n") as db:
        puts = await cost(db.put(key(n), b"v" * 100) for n in numbers)
        together = await cost((db.put(key(n), b"v" * 100) for n in numbers), together=True)
        memory = await cost(db.get(key(n)) for n in numbers)
        await db.flush()
        table = await cost(db.get(key(n)) for n in numbers)
        many = await cost([db.get_many([key(n) for n in numbers])]) / len(numbers)
    print(f"put {puts:.0f} µs, of {len(numbers)} together {together:.0f} µs")
    print(
        f"get out of memory {memory:.1f} µs, of a table {table:.0f} µs, by get_many {many:.1f} µs"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--records", type=int, default=400_000)
    parser.add_argument("--gets", type=int, default=2000)
    parser.add_argument("folder", nargs="?", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path, faults = Path(folder) / "store", Faults()
        make(path, arguments.records)
        print("read_ahead   µs/get  late: median, 99 %, worst (ms)  faults")
        for ahead in (False, True):
            forget(path)
            print(asyncio.run(cold_reads(path, arguments.records, arguments.gets, ahead, faults)))
        asyncio.run(warm_calls(Path(folder) / "warm"))


if __name__ == "__main__":
    main()
