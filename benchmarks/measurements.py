"""What is measured: one function for each measurement, each run in a process of its own.

A measurement opens the store that the ones before it left, is timed, and closes it.
So what it reads comes from the store's files (and the system's page cache), not from
the memory of the process that wrote them.

    python measurements.py '{"engine": "plyvel", "measurement": "fill", ...}'

prints the figures as JSON; ``peers.py`` does that for each store in turn.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter_ns
from typing import NamedTuple

from engines import Engine, by_name

KEY_BYTES = 16
VALUE_BYTES = 100
#: Repetitions of what is over in no time, and the seconds after which it is enough.
REPETITIONS = 20
ENOUGH = 2.0

Figures = dict[str, float]


class Task(NamedTuple):
    """One measurement of one store."""

    engine: str
    measurement: str
    path: str
    records: int
    #: How many calls are timed where not all records are needed.
    operations: int
    seed: int

    def keys(self) -> list[bytes]:
        """Return the keys in the order of the fill, which is random."""
        return _cut(Random(self.seed).randbytes(KEY_BYTES * self.records), KEY_BYTES)

    def values(self, count: int, generation: int) -> list[bytes]:
        """Return random values; another generation has others."""
        random = Random(f"{self.seed} values {generation}")
        return _cut(random.randbytes(VALUE_BYTES * count), VALUE_BYTES)

    def some_keys(self) -> list[bytes]:
        """Return keys that are in the store, in an order that is not that of the fill."""
        keys = self.keys()
        return Random(f"{self.seed} sample").sample(keys, min(self.operations, len(keys)))

    def absent_keys(self) -> list[bytes]:
        """Return keys that are not in the store."""
        random = Random(f"{self.seed} absent")
        return _cut(random.randbytes(KEY_BYTES * min(self.operations, self.records)), KEY_BYTES)


def _cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def fill(engine: Engine, task: Task) -> Figures:
    """Put every record into a new store, in random order."""
    keys = task.keys()
    figures = _put(engine, keys, task.values(len(keys), 0), "fill")
    return figures | {"bytes after fill": bytes_on_disk(Path(task.path))}


def overwrite(engine: Engine, task: Task) -> Figures:
    """Put other values under keys that are there."""
    keys = task.some_keys()
    figures = _put(engine, keys, task.values(len(keys), 1), "overwrite")
    return figures | {"bytes after overwrite": bytes_on_disk(Path(task.path))}


def _put(engine: Engine, keys: list[bytes], values: list[bytes], name: str) -> Figures:
    engine.open()
    begin = perf_counter_ns()
    engine.put_all(keys, values)
    written = perf_counter_ns()
    engine.settle()
    engine.close()
    closed = perf_counter_ns()
    return {
        name: (written - begin) / len(keys),
        f"{name}, closed": (closed - begin) / len(keys),
    }


def read(engine: Engine, task: Task) -> Figures:
    """Read keys that are there, in random order."""
    keys = task.some_keys()
    engine.open()
    begin = perf_counter_ns()
    engine.get_all(keys)
    end = perf_counter_ns()
    lengths = {len(engine.get(key) or b"") for key in keys[:1000]}
    engine.close()
    if lengths != {VALUE_BYTES}:
        raise SystemExit(f"{task.engine} returned values of {lengths} bytes")
    return {task.measurement: (end - begin) / len(keys)}


def absent(engine: Engine, task: Task) -> Figures:
    """Ask for keys that are not there."""
    keys = task.absent_keys()
    engine.open()
    begin = perf_counter_ns()
    engine.miss_all(keys)
    end = perf_counter_ns()
    engine.close()
    return {"absent": (end - begin) / len(keys)}


def scan(engine: Engine, task: Task) -> Figures:
    """Read every record in the store's own order."""
    engine.open()
    begin = perf_counter_ns()
    count = engine.scan()
    end = perf_counter_ns()
    engine.close()
    if count != task.records:
        raise SystemExit(f"{task.engine} has {count} records and not {task.records}")
    return {task.measurement: (end - begin) / count}


def opening(engine: Engine, task: Task) -> Figures:
    """Open a store that was closed cleanly."""
    opened: list[int] = []
    cycle: list[int] = []
    key = task.keys()[0]
    start = perf_counter_ns()
    while len(opened) < REPETITIONS and perf_counter_ns() - start < ENOUGH * 1e9:
        begin = perf_counter_ns()
        engine.open()
        ready = perf_counter_ns()
        engine.get(key)
        engine.close()
        opened.append(ready - begin)
        cycle.append(perf_counter_ns() - begin)
    return {"open": median(opened), "open, get, close": median(cycle)}


def compact(engine: Engine, task: Task) -> Figures:
    """Bring the files into their best form."""
    engine.open()
    begin = perf_counter_ns()
    engine.compact()
    end = perf_counter_ns()
    engine.close()
    return {
        "compact": (end - begin) / task.records,
        "bytes after compact": bytes_on_disk(Path(task.path)),
    }


def memory(engine: Engine, task: Task) -> Figures:
    """Fill a store with records that are made on the way; the parent watches."""
    before = anonymous_memory(os.getpid())
    engine.open()
    for keys, values in _stream(task):
        engine.put_all(keys, values)
    engine.settle()
    engine.close()
    return {"memory before fill": before}


def _stream(task: Task) -> Iterator[tuple[list[bytes], list[bytes]]]:
    random = Random(task.seed)
    for start in range(0, task.records, 1000):
        count = min(1000, task.records - start)
        keys = _cut(random.randbytes(KEY_BYTES * count), KEY_BYTES)
        yield keys, _cut(random.randbytes(VALUE_BYTES * count), VALUE_BYTES)


#: In the order in which they run; the later ones use what the earlier ones wrote.
MEASUREMENTS: dict[str, Callable[[Engine, Task], Figures]] = {
    "fill": fill,
    "read": read,
    "absent": absent,
    "scan": scan,
    "open": opening,
    "overwrite": overwrite,
    "read overwritten": read,
    "scan overwritten": scan,
    "compact": compact,
    "read compacted": read,
    "scan compacted": scan,
    "memory": memory,
}


def bytes_on_disk(path: Path) -> int:
    """Return the bytes allocated to the files of a store, all that stands in its folder."""
    files = [file for file in path.parent.rglob("*") if file.is_file()]
    return sum(file.stat().st_blocks * 512 for file in files)


def anonymous_memory(process: int) -> int:
    """Return the bytes of memory of a process that no file backs; 0 when it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    lines = [line for line in status.splitlines() if line.startswith("RssAnon:")]
    return int(lines[0].split()[1]) * 1024 if lines else 0


def main() -> None:
    """Carry out the task in the first argument."""
    task = Task(**json.loads(sys.argv[1]))
    engine = by_name(task.engine)(Path(task.path))
    print(json.dumps(MEASUREMENTS[task.measurement](engine, task)))


if __name__ == "__main__":
    main()
