"""A disk that is really full, again and again: nothing that returned is lost.

A trial works on a file system of a few MiB in memory, where it may mount one, else under a
limit on the size of files (``RLIMIT_FSIZE``).  A balloon takes the room away and gives it
back.  While there is none a write raises and is whole or absent, and reads go on; once there
is, writing goes on.
"""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gates.history import History, Model
from oblivion_dbm.engine.storage_engine import StorageEngine, open_store
from oblivion_dbm.engine.verify import verify
from oblivion_dbm.errors import error

SIZE = 4 << 20
OPERATIONS, TURNS = 40, 6
SYNCS: list[str | float] = ["normal", "full", "off", 0.01]
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Room:
    """Room for files, which can be taken away and given back."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def take(self, left: int) -> None:
        """Leave ``left`` bytes of room, more or less."""

    def give(self) -> None:
        """Give all of it back."""


class SmallDisk(Room):
    """A file system of SIZE bytes, and a balloon in it."""

    def take(self, left: int) -> None:
        self.give()
        status = os.statvfs(self.folder)
        free = status.f_bavail * status.f_frsize
        with suppress(OSError):
            Path(self.folder, "balloon").write_bytes(bytes(max(0, free - left)))

    def give(self) -> None:
        Path(self.folder, "balloon").unlink(missing_ok=True)


class SmallFiles(Room):
    """No file may become longer than what is left."""

    def take(self, left: int) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (left, resource.RLIM_INFINITY))

    def give(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)


@contextmanager
def room_in(folder: str) -> Iterator[Room]:
    """Give a place to work at whose room is limited."""
    disk = os.path.join(folder, "disk")
    os.mkdir(disk)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", disk]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        yield SmallFiles(disk)
        return
    try:
        yield SmallDisk(disk)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


class Starved:
    """A store that runs out of room, and the dict that it must equal."""

    def __init__(self, room: Room, dice: random.Random) -> None:
        self.room = room
        self.dice = dice
        self.path = os.path.join(room.folder, "store")
        self.history = History(dice, dice.choice(SYNCS))
        self.background = dice.random() < 0.5
        self.model: Model = {}
        self.raised = 0

    def open(self) -> StorageEngine:
        return open_store(self.path, "c", self.history.options(self.background))

    def contents(self, engine: StorageEngine) -> Model:
        return dict(engine.scan("pairs", None, None, False))

    def step(self, engine: StorageEngine) -> None:
        """Do one operation; one that finds no room is whole or absent."""
        self.history.states = [self.model]
        act, after = self.history.next(engine)
        try:
            act()
            self.model = self.model if after is None else after
        except error as problem:
            if problem.errno not in FULL:
                raise
            self.raised += 1
            found = self.contents(engine)
            assert found in (self.model, after), "neither whole nor absent"
            self.model = found

    def live(self) -> None:
        """Open, run out of room and get it back several times, and close."""
        engine = self.open()
        for _ in range(TURNS):
            self.room.take(self.dice.choice([0, 5000, 100_000, 1 << 20]))
            for _step in range(OPERATIONS):
                self.step(engine)
            assert self.contents(engine) == self.model
            self.room.give()
            self.goes_on(engine)
        if self.dice.random() < 0.5:
            self.room.take(0)
        with suppress(error):  # of a full disk, which may be what closing finds too
            engine.close()
        self.room.give()

    def goes_on(self, engine: StorageEngine) -> None:
        """Write, after at most one error that tells of what has failed behind the scenes."""
        value = self.dice.randbytes(2000)
        with suppress(error):
            engine.put(b"room", value)
        engine.put(b"room", value)
        self.model = {**self.model, b"room": value}


def trial(seed: int, folder: str, _: str) -> int:
    """Let one store run out of room some times; return how many writes found none."""
    dice = random.Random(seed)
    with room_in(folder) as room:
        starved = Starved(room, dice)
        for _life in range(2):
            starved.live()
            reader = open_store(starved.path, "r", starved.history.options(False))
            assert starved.contents(reader) == starved.model
            reader.close()
            assert all(finding.leftover for finding in verify(starved.path))
            writer = starved.open()
            starved.goes_on(writer)  # the first write sweeps what is left over
            writer.close()
            assert verify(starved.path) == []
    return starved.raised
