"""A disk that loses power: real files, and a memory of what would be left of them.

``Disk`` is a file system that remembers what has been synced.  A crash state takes, for
each file, each page since its last sync as it was, as it is now or torn at a sector, and
each creation, renaming and removal since the last sync of the directory as done or not:
all combinations where they are few, random ones where they are not.  Every operation is a
place to crash at, and so is every store into a map.
"""

from __future__ import annotations

import mmap
import os
import random
import threading
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

from oblivion_dbm.engine.filesystem import File, FileSystem

PAGE, SECTOR, WORD = 4096, 512, 8
#: The share of the stores into a map, and of long writes, that are cut short.
CUT_SHORT = 0.3
#: Questions with two answers each of which all combinations are tried.
FEW = 3

State = dict[str, bytes]


class Inode:
    """A file: a descriptor of its own, and its contents at its last sync."""

    def __init__(self, path: str, durable: bytes) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)
        self.durable = durable

    def now(self) -> bytes:
        return os.pread(self.descriptor, os.fstat(self.descriptor).st_size, 0)

    def dirty_pages(self, now: bytes) -> list[int]:
        """Return where the pages begin of which the disk may have either contents."""
        pages = range(0, max(len(now), len(self.durable)), PAGE)
        return [at for at in pages if now[at : at + PAGE] != self.durable[at : at + PAGE]]


class WatchedMap(mmap.mmap):
    """A map of which every store is a place to crash at; one of many words is also cut short.

    A processor stores eight bytes at once, or more, from the front or from the back.
    """

    look: Callable[[], None] = staticmethod(lambda: None)
    dice = random.Random(0)

    def __setitem__(self, place: Any, value: Any) -> None:
        self.look()
        if isinstance(place, slice) and len(value) > WORD and self.dice.random() < CUT_SHORT:
            cut = self.dice.choice([8, 16, 32, len(value) // 2])
            before, cut = self[place], min(cut, len(value) - 1)
            parts = (value[:cut] + before[cut:], before[:-cut] + value[-cut:])
            super().__setitem__(place, self.dice.choice(parts))
            self.look()
        super().__setitem__(place, value)
        self.look()


class WatchedWords:
    """Words of a map, of which every store is a place to crash at."""

    def __init__(self, words: memoryview, look: Callable[[], None]) -> None:
        self._words = words
        self._look = look

    def __getitem__(self, place: int) -> int:
        return int(self._words[place])

    def __setitem__(self, place: int, value: int) -> None:
        self._words[place] = value
        self._look()

    def release(self) -> None:
        self._words.release()


class Disk(FileSystem):
    """Real files in one directory, and a memory of what the disk itself has.

    ``watch`` is called at random places to crash at, with probability ``rate``.  A share
    of ``lies`` of the syncs returns without having synced anything.
    """

    def __init__(
        self, directory: str, boot: int, dice: random.Random, rate: float, lies: float = 0.0
    ) -> None:
        self.directory = directory
        self.dice = dice
        self.rate = rate
        self.lies = lies
        self._boot = boot.to_bytes(16, "little")
        self.inodes: dict[str, Inode] = {}
        self.all_inodes: list[Inode] = []
        self.durable_names: dict[str, Inode] = {}
        self.pending: list[tuple[str, str, Inode | None]] = []
        self.watch: Callable[[], None] = lambda: None
        #: What several threads do comes one after the other, a crash included.
        self.one = threading.RLock()
        if os.path.isdir(directory):
            for name in os.listdir(directory):
                path = os.path.join(directory, name)
                self._found(path, Path(path).read_bytes())
            self.durable_names = dict(self.inodes)

    def _found(self, path: str, durable: bytes) -> None:
        self.inodes[path] = Inode(path, durable)
        self.all_inodes.append(self.inodes[path])

    def close_all(self) -> None:
        """Let go of the descriptors."""
        for inode in self.all_inodes:
            os.close(inode.descriptor)
        self.all_inodes = []

    def boot(self) -> bytes:
        return self._boot

    def look(self) -> None:
        if self.dice.random() < self.rate:
            self.watch()

    def _lies(self) -> bool:
        return self.lies > 0 and self.dice.random() < self.lies

    def create(self, path: str, mode: int = 0o666) -> File:
        self.look()
        with self.one:
            file = super().create(path, mode)
            self._found(path, b"")
            self.pending.append(("create", path, self.inodes[path]))
        return file

    def write(self, file: File, offset: int, data: bytes | memoryview) -> None:
        self.look()
        if len(data) > PAGE and self.dice.random() < CUT_SHORT:
            with self.one:
                super().write(file, offset, data[: PAGE - offset % PAGE])
            self.look()
        with self.one:
            super().write(file, offset, data)

    def map(self, file: File, length: int, writable: bool = False) -> mmap.mmap:
        if not writable:
            return super().map(file, length)
        mapped = WatchedMap(file.descriptor, length, access=mmap.ACCESS_WRITE)
        mapped.look, mapped.dice = self.look, self.dice
        return mapped

    def words(self, mapped: mmap.mmap, offset: int, count: int) -> Any:
        words = super().words(mapped, offset, count)
        return WatchedWords(words, self.look) if isinstance(mapped, WatchedMap) else words

    def rename(self, source: str, destination: str) -> None:
        self.look()
        with self.one:
            super().rename(source, destination)
            self.inodes[destination] = self.inodes.pop(source)
            self.pending.append(("remove", source, None))
            self.pending.append(("create", destination, self.inodes[destination]))
        self.look()

    def remove(self, path: str) -> None:
        self.look()
        with self.one:
            super().remove(path)
            self.inodes.pop(path)
            self.pending.append(("remove", path, None))

    def sync(self, file: File) -> None:
        self.look()
        with self.one:
            inode = self.inodes.get(file.path)
            # What another thread stores in the meantime is not what was synced.
            now = b"" if inode is None else inode.now()
            super().sync(file)
            if inode is not None and not self._lies():
                inode.durable = now
        self.look()

    def sync_directory(self, path: str) -> None:
        self.look()
        with self.one:
            super().sync_directory(path)
            if path == self.directory and not self._lies():
                for change in self.pending:
                    _apply(self.durable_names, *change)
                self.pending.clear()
        self.look()

    # What is left.

    def now(self) -> State:
        """Return what there is: what the death of the process leaves."""
        there = [path for path in self.inodes if os.path.exists(path)]
        return {os.path.basename(path): self.inodes[path].now() for path in there}

    def crashes(self) -> list[State]:
        """Return what may be left of the directory if the power goes now: some states."""
        now = {id(inode): inode.now() for inode in self.all_inodes}
        dirty = sum(len(inode.dirty_pages(now[id(inode)])) for inode in self.all_inodes)
        questions = len(self.pending) + dirty
        if questions <= FEW:
            every = product((False, True), repeat=questions)
            return [self._state(now, iter(answers)) for answers in every]
        return [self._state(now, None)]

    def _state(self, now: dict[int, bytes], answers: Iterator[bool] | None) -> State:
        """Return one state: that of ``answers``, or a random one."""
        names = dict(self.durable_names)
        for change in self.pending:
            if self.dice.random() < 0.6 if answers is None else next(answers):
                _apply(names, *change)
        left = {
            id(inode): self._torn(inode, now[id(inode)])
            if answers is None
            else _paged(inode, now[id(inode)], answers)
            for inode in self.all_inodes
        }
        return {os.path.basename(path): left[id(inode)] for path, inode in names.items()}

    def _torn(self, inode: Inode, new: bytes) -> bytes:
        """Return contents between the durable ones and ``new``, page by page, some pages torn."""
        old = inode.durable
        if old == new:
            return new
        length = self.dice.choice([len(old), len(new)])
        kept = bytearray()
        share = self.dice.random()
        for start in range(0, length, PAGE):
            before = old[start : start + PAGE].ljust(PAGE, b"\0")
            after = new[start : start + PAGE].ljust(PAGE, b"\0")
            if before != after and self.dice.random() < 0.1:
                sectors = range(0, PAGE, SECTOR)
                choices = [self.dice.choice((before, after)) for _ in sectors]
                kept += b"".join(
                    page[at : at + SECTOR] for page, at in zip(choices, sectors, strict=True)
                )
            else:
                kept += after if self.dice.random() < share else before
        return bytes(kept[:length])


def _apply(names: dict[str, Inode], kind: str, path: str, inode: Inode | None) -> None:
    if inode is None:
        names.pop(path, None)
    else:
        names[path] = inode


def _paged(inode: Inode, new: bytes, answers: Iterator[bool]) -> bytes:
    """Return ``new`` where ``answers`` say so, page by page, else what is durable."""
    kept = bytearray(inode.durable.ljust(len(new), b"\0"))
    length = len(inode.durable)
    for at in inode.dirty_pages(new):
        if next(answers):
            kept[at : at + PAGE] = new[at : at + PAGE]
            length = max(length, min(at + PAGE, len(new)))
    return bytes(kept[:length])


class Restarted(FileSystem):
    """The real file system, some number of restarts later."""

    def __init__(self, boot: int) -> None:
        self._boot = boot.to_bytes(16, "little")

    def boot(self) -> bytes:
        return self._boot


def lay(state: State, where: str) -> None:
    """Make a directory of a state."""
    os.mkdir(where)
    for name, data in state.items():
        Path(where, name).write_bytes(data)
