"""Stores to be damaged: all kinds of levels, logs and records, and what each may be found to hold.

A ``Life`` is a store that is being written, with what it held at each moment, and what
its files were at some.  ``prepared(number)`` is one of them at rest, made once.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from oblivion_dbm.engine.filesystem import File, FileSystem
from oblivion_dbm.engine.options import Options
from oblivion_dbm.engine.storage_engine import Writer, open_store

State = dict[bytes, bytes]
Files = dict[str, bytes]


class Boot(FileSystem):
    """The real file system, in a boot of its own; nothing is left to chance."""

    def __init__(self, number: int) -> None:
        self._boot = number.to_bytes(16, "little")

    def boot(self) -> bytes:
        return self._boot

    def random(self, length: int) -> bytes:
        return random.Random(length).randbytes(length)

    def sync(self, file: File) -> None:
        """Take no time: the machine does not crash."""

    def sync_directory(self, path: str) -> None:
        """Take no time."""

    def process(self) -> int:
        """Return a number that no process has."""
        return 1 << 31


#: The boot that wrote the stores, and the next one.
WRITTEN, LATER = Boot(1), Boot(2)


class Life:
    """A store that is being written, and what it held at each moment."""

    def __init__(self, path: str, **options: Any) -> None:
        self.path = path
        self.options: dict[str, Any] = {
            "background": False, "fan_in": 2, "space_ratio": 50.0, "table_limit": 3000,
            "log_back_end": "pwrite", **options,
        }  # fmt: skip
        self.states: list[State] = [{}]
        #: All files, and which state they held.
        self.captures: list[tuple[Files, int]] = []
        self.synced = 0
        self.begin("n")

    def begin(self, flag: str = "w") -> None:
        engine = open_store(self.path, flag, Options(**self.options), 0o666, WRITTEN)
        assert isinstance(engine, Writer)
        self.engine = engine
        self.capture()

    @property
    def now(self) -> State:
        return self.states[-1]

    def put(self, key: bytes, value: bytes) -> None:
        self.engine.put(key, value)
        self.states.append({**self.now, key: value})

    def delete(self, key: bytes) -> None:
        self.engine.delete(key)
        self.states.append({k: v for k, v in self.now.items() if k != key})

    def write(self, changes: dict[bytes, bytes | None], cleared: bool = False) -> None:
        self.engine.write(changes, cleared)
        state = {} if cleared else dict(self.now)
        state.update({key: value for key, value in changes.items() if value is not None})
        self.states.append({k: v for k, v in state.items() if changes.get(k, b"") is not None})

    def rotate(self) -> None:
        """Go on in another segment, without a table of the first."""
        self.engine._path.maintenance.rotate()
        self.engine._path.appender.limit = 1 << 15
        self.capture()

    def flush(self) -> None:
        self.engine.flush()
        self.capture()

    def sync(self) -> None:
        self.engine.sync()
        self.synced = len(self.states) - 1

    def capture(self) -> Files:
        files = {path.name: path.read_bytes() for path in Path(self.path).iterdir()}
        self.captures.append((files, len(self.states) - 1))
        return files

    def end(self) -> Files:
        self.engine.close()
        if self.options.get("sync") != "off":
            self.synced = len(self.states) - 1
        return self.capture()


class Prepared:
    """A store to be damaged: its files, and what it may be found to hold."""

    def __init__(self, name: str, life: Life, files: Files) -> None:
        self.name = name
        self.files = files
        self.states = life.states
        self.synced = life.synced
        self.captures = life.captures
        self.keys = sorted({key for state in life.states for key in state})
        live = life.engine._path.log.live
        assert live is not None
        self.live_log = Path(live.path).name
        #: The files that hold records which were never synced.
        self.unsynced = self.synced < len(self.states) - 1


def key(number: int) -> bytes:
    return b"key-%03d" % number


def make_levels(path: str) -> Prepared:
    """Make a store of three levels, sealed and live logs, a prelude; all kinds of records."""
    life = Life(path)
    dice = random.Random(5)
    for number in range(700):
        life.put(key(number), b"first %d" % number)
    for flush in range(10):
        life.flush()
        for number in dice.sample(range(700), 25):
            life.put(key(number), b"%d of flush %d" % (number, flush) + b"." * (number % 50))
        for number in dice.sample(range(700), 6):
            life.delete(key(number))
    life.put(b"long" * 40, b"0123456789" * 1000)
    life.flush()
    life.put(b"left in the log", b"when the first process ended")
    life.delete(key(1))
    life.end()
    life.begin()
    life.put(b"", b"of the empty key")
    life.write({key(2): None, key(0): b"of a batch", b"never there": None, b"new": b"too"})
    life.rotate()
    life.put(b"empty value", b"")
    life.delete(key(4))
    return Prepared("levels", life, life.end())


def make_aligned(path: str, sync: str) -> Prepared:
    """Make a store whose records fill blocks exactly: blocks may change places unseen."""
    life = Life(path, sync=sync, log_back_end="auto")
    for number in range(600):
        life.put(number.to_bytes(2, "big"), b"%d" % (number % 10))
    life.flush()
    for turn in range(4):
        for number in range(64):
            life.put(b"aligned key %04d" % number, b"turn %d of " % turn + b"%025d" % number)
    return Prepared(f"aligned, {sync}", life, life.end())


def make_logs(path: str) -> Prepared:
    """Make a store without tables: sealed, live and waiting segments, clears among the records."""
    life = Life(path, log_back_end="auto")
    for number in range(20):
        life.put(key(number), b"gone with the first clear")
    life.write({}, cleared=True)
    for number in range(20):
        life.put(key(number), b"value %d" % number)
    life.capture()
    life.rotate()
    life.write({b"colour": b"blue", b"size": b"12"}, cleared=True)
    life.put(b"size", b"13")
    life.sync()
    life.capture()
    life.rotate()
    for number in range(5):
        life.put(key(number), b"last %d" % number)
    life.engine._path.maintenance._prepare()
    life.engine._path.appender.limit = 1 << 15
    life.put(b"shape", b"round")
    return Prepared("logs", life, life.end())


def make_young(path: str) -> Prepared:
    """Make a store that still has all the logs it ever had: an older MANIFEST finds its files."""
    life = Life(path)
    for turn in range(3):
        for number in range(5):
            life.put(key(number), b"turn %d" % turn)
        life.capture()
        if turn < 2:
            life.rotate()
    life.delete(key(0))
    return Prepared("young", life, life.end())


def make_killed(path: str) -> Prepared:
    """Make a store whose writer was killed; the end of its log was never synced."""
    life = Life(path)
    for number in range(60):
        life.put(key(number), b"first %d" % number)
    life.flush()
    for number in range(0, 60, 3):
        life.delete(key(number))
    life.sync()
    for number in range(0, 60, 2):
        life.put(key(number), b"second %d" % number)
    killed = Prepared("killed", life, life.capture())
    life.engine.close()
    return killed


def make_small(path: str) -> Prepared:
    """Make a store of three levels as small as that can be; all of its bytes are changed."""
    life = Life(path)
    for flush in range(9):
        for number in range(flush, 24, 3 if flush else 1):
            life.put(key(number), b"%d of flush %d" % (number, flush))
        life.delete(key(flush))
        life.flush()
    life.put(b"left in the log", b"1")
    life.end()
    life.begin()
    life.write({key(1): b"of a batch", key(9): None})
    life.rotate()
    life.put(b"", b"of the empty key")
    life.delete(key(8))
    return Prepared("small", life, life.end())


MAKERS: list[Callable[[str], Prepared]] = [
    make_levels,
    lambda path: make_aligned(path, "normal"),
    lambda path: make_aligned(path, "full"),
    lambda path: make_aligned(path, "off"),
    make_logs,
    make_young,
    make_killed,
    make_small,
]
SMALL = len(MAKERS) - 1


@cache
def prepared(number: int) -> Prepared:
    """Return one of the stores, made once in a process."""
    with tempfile.TemporaryDirectory() as folder:
        return MAKERS[number](folder + "/store")
