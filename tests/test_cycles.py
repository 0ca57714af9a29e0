"""Opening, writing and closing over and over leaves no descriptor, map, thread or file behind.

``OBLIVION_DBM_CYCLES`` says how often; ``tests/long`` does it 10,000 times.
"""

from __future__ import annotations

import errno
import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oblivion_dbm import CorruptionError, Database, error
from oblivion_dbm.engine import filesystem, lock

CYCLES = int(os.environ.get("OBLIVION_DBM_CYCLES", "1000"))
WARM = 100

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="there is no /proc")


def left_over(folder: Path) -> dict[str, Any]:
    """Return what the process holds, and what the folder does; all of it must stay the same."""
    gc.collect()
    maps = Path("/proc/self/maps").read_text().splitlines()
    links = [os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
    names = [os.readlink(link) for link in links if os.path.lexists(link)]
    return {
        "descriptors": len(names),
        "descriptors of the store": [name for name in names if name.startswith(str(folder))],
        "maps of the store": [line for line in maps if str(folder) in line],
        "threads": len(os.listdir("/proc/self/task")),
        "Python threads": threading.active_count(),
        "files": sorted(path.suffix or path.name for path in folder.rglob("*") if path.is_file()),
        "handles that forks are told to": len(filesystem._watchers),
        "locks that are held": len(lock._held._locks),
    }


def arenas() -> int:
    """Return how many maps there are, those of Python's memory included, which come and go."""
    return len(Path("/proc/self/maps").read_text().splitlines())


def damaged(folder: Path) -> list[Path]:
    """Make stores that do not open: one for each kind of file."""
    made = []
    for pattern in ("MANIFEST", "*.wal", "*.sst"):
        path = folder / ("damaged " + pattern.strip("*."))
        with Database(path, "n") as db:
            db[b"a"] = b"1" * 100
            db.flush()
            db[b"b"] = b"2" * 100
        for file in path.glob(pattern):
            data = file.read_bytes()
            place = len(data) - 20 if pattern == "*.sst" else 20
            file.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        made.append(path)
    return made


def write(path: Path, cycle: int, **options: Any) -> None:
    with Database(path, "c", **options) as db:
        db[b"%d" % (cycle % 100)] = b"x" * (cycle % 300)
        if cycle % 7 == 0:
            db.flush()
        if cycle % 20 == 0:
            db.clear()
        if cycle % 50 == 0:
            db.compact()
        with pytest.raises(error) as caught:
            Database(path, "w")
        assert caught.value.errno == errno.EAGAIN


def read_beside(path: Path, cycle: int) -> None:
    with Database(path, "r") as before, Database(path, "w") as db, Database(path, "r") as beside:
        for number in range(5):
            db[b"n"] = b"%d" % number
            assert before[b"n"] == beside[b"n"] == b"%d" % number
        assert len(before) == len(dict(beside)) == len(db)
        db.flush()
        assert len(before) == len(beside)


def forget(path: Path, cycle: int) -> None:
    """Leave closing to the collector, a walk that was begun included."""
    db = Database(path, "w")
    db[b"a"] = b"1"
    walk = iter(db)
    next(walk)
    reader = Database(path, "r")
    assert len(reader) == len(db)


def fail(folder: Path, stores: list[Path]) -> None:
    for flag in ("r", "w"):
        with pytest.raises(error) as caught:
            Database(folder / "missing", flag)
        assert caught.value.errno == errno.ENOENT
        for store in stores:
            with pytest.raises(CorruptionError):
                Database(store, flag)


def at_rest(path: Path) -> None:
    """Leave the same files, whatever was done last."""
    with Database(path, "w") as db:
        db.compact()
        db[b"last"] = b"1"


def test_cycles_of_opening_writing_and_closing_leave_nothing_behind(tmp_path: Path) -> None:
    stores = damaged(tmp_path)
    path = tmp_path / "store"
    ways: list[Callable[[int], None]] = [
        lambda cycle: write(path, cycle, sync="off"),
        lambda cycle: write(path, cycle, sync="off", log_back_end="pwrite"),
        lambda cycle: write(path, cycle, memtable_limit=2000),
        lambda cycle: write(path, cycle, sync="full"),
        lambda cycle: read_beside(path, cycle),
        lambda cycle: forget(path, cycle),
    ]
    before: dict[str, Any] = {}
    arenas_before = 0
    for cycle in range(CYCLES):
        ways[cycle % len(ways)](cycle)
        if cycle % 10 == 0:
            fail(tmp_path, stores)
        if cycle == WARM:
            at_rest(path)
            before, arenas_before = left_over(tmp_path), arenas()
    at_rest(path)
    now = left_over(tmp_path)
    assert now == before
    assert now["maps of the store"] == now["descriptors of the store"] == []
    assert arenas() <= arenas_before + 50
