"""What it costs to open a damaged store, beside a whole one: time, and memory of Python's.

The damages are those that might cost most: lengths of records that claim as much as there
is, what else a header says, and any byte.
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import time
import tracemalloc
from collections.abc import Iterator
from typing import NamedTuple

from gates.prepared import LATER, WRITTEN, Boot
from oblivion_dbm import error
from oblivion_dbm.engine.header_page import DATA_AT
from oblivion_dbm.engine.options import Options
from oblivion_dbm.engine.record import BadRecord, read
from oblivion_dbm.engine.storage_engine import Writer, open_store

#: How a store is opened.
WAYS = [(flag, system) for flag in "rw" for system in (WRITTEN, LATER)]
#: From what ratio of times on both stores are opened again, in turn, so many times.
SLOW, ROUNDS = 1.5, 15


class Cost(NamedTuple):
    """What one opening took: seconds, and the most bytes that were allocated at once."""

    seconds: float
    peak: float


class Damage(NamedTuple):
    """Bytes of one file that are replaced."""

    name: str
    offset: int
    data: bytes

    def __str__(self) -> str:
        return f"{self.name}: {self.data.hex()} at byte {self.offset}"


def make(path: str, records: int) -> None:
    """Make a store of tables, and of a log of so many records whose writer was killed."""
    work = path + "-at-work"
    options = Options(background=False, memtable_limit=1 << 30, table_limit=1 << 18)
    engine = open_store(work, "n", options, 0o666, WRITTEN)
    assert isinstance(engine, Writer)
    dice = random.Random(records)
    for number in range(records):
        engine.put(b"%06d" % number, dice.randbytes(200))
    engine.flush()
    for _ in range(records):
        engine.put(b"%06d" % dice.randrange(records), dice.randbytes(200))
    engine.sync()
    shutil.copytree(work, path)
    engine.close()
    shutil.rmtree(work)


def damages(path: str, dice: random.Random) -> Iterator[Damage]:
    """Yield damages, without end."""
    files = {}
    for name in sorted(os.listdir(path)):
        with open(f"{path}/{name}", "rb") as file:
            files[name] = file.read()
    log = max(name for name in files if name.endswith(".wal"))
    places = records_of(files[log])
    while True:
        at = dice.choice(places)
        left = len(files[log]) - at - 19 - dice.randrange(3)
        yield Damage(log, at + 11, left.to_bytes(4, "little"))  # a value up to the end of the file
        yield Damage(log, at + dice.randrange(19), dice.randbytes(1))
        yield Damage(log, dice.randrange(DATA_AT), dice.randbytes(1))
        yield Damage(log, dice.randrange(len(files[log])), dice.randbytes(1))
        name = dice.choice(sorted(files))
        yield Damage(name, dice.randrange(len(files[name])), dice.randbytes(1))


def records_of(log: bytes) -> list[int]:
    """Return where the records of a log begin."""
    places: list[int] = []
    at = DATA_AT
    while True:
        try:
            after = read(log, at, len(log))[3]
        except BadRecord:
            return places
        places.append(at)
        at = after


def cost(path: str, flag: str, system: Boot, times: int) -> Cost:
    """Return what an opening takes: the median of so many, and the memory of one more."""
    seconds = [_open(path, flag, system) for _ in range(times)]
    tracemalloc.start()
    try:
        _open(path, flag, system)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return Cost(statistics.median(seconds or [0.0]), peak)


def _open(path: str, flag: str, system: Boot) -> float:
    """Open a store, or be told of the damage; return how long that took."""
    began = time.perf_counter()
    try:
        # In this mode closing changes nothing.
        engine = open_store(path, flag, Options(background=False, sync="off"), 0o666, system)
    except error:
        return time.perf_counter() - began
    seconds = time.perf_counter() - began
    engine.close()
    return seconds


def ratios(path: str, count: int, seed: int, times: int) -> Iterator[tuple[Damage, str, Cost]]:
    """Yield for each damage, and each way to open: what it costs, the whole store being 1.

    The Cost is one of ratios: times of the whole store's time and memory.
    """
    copy = path + "-whole"
    shutil.copytree(path, copy)
    whole = [cost(copy, flag, system, max(times, 3)) for flag, system in WAYS]
    stream = damages(path, random.Random(seed))
    for damage in [next(stream) for _ in range(count)]:
        file = f"{path}/{damage.name}"
        with open(file, "r+b") as changed:
            changed.seek(damage.offset)
            before = changed.read(len(damage.data))
            changed.seek(damage.offset)
            changed.write(damage.data)
        for (flag, system), usual in zip(WAYS, whole):
            found = cost(path, flag, system, times)
            ratio = found.seconds / usual.seconds
            if times and ratio > SLOW:  # or the machine was busy: side by side
                rounds = range(ROUNDS)
                ratio = statistics.median(
                    _open(path, flag, system) / _open(copy, flag, system) for _ in rounds
                )
            way = f"flag {flag!r}, {'same' if system is WRITTEN else 'other'} boot"
            yield damage, way, Cost(ratio, found.peak / usual.peak)
        with open(file, "r+b") as changed:
            changed.seek(damage.offset)
            changed.write(before)
    shutil.rmtree(copy)
