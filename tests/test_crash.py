"""The machine loses power at a random moment; what is left is a prefix.

``Disk`` is a file system that remembers what has been synced.  A crash state
takes, for each file, each page since its last sync as it was, as it is now or
torn at a sector, and each creation, renaming and removal since the last sync
of the directory as done or not.  The store is opened on it as after a restart
of the machine; what is found must be the state after some operation, none
older than the last one that was promised, and writing must go on from there.
"""

from __future__ import annotations

import os
import random
import shutil
import threading
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from oblivion_dbm.engine.filesystem import File, FileSystem
from oblivion_dbm.engine.options import Options
from oblivion_dbm.engine.storage_engine import StorageEngine, Writer, open_store
from oblivion_dbm.engine.verify import verify

STATES = int(os.environ.get("OBLIVION_DBM_CRASH_STATES", "400"))
PAGE, SECTOR = 4096, 512

Model = dict[bytes, bytes]
State = dict[str, bytes]


class Inode:
    """A file: a descriptor of its own, and its contents at its last sync."""

    def __init__(self, path: str, durable: bytes) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)
        self.durable = durable

    def now(self) -> bytes:
        return os.pread(self.descriptor, os.fstat(self.descriptor).st_size, 0)


class Disk(FileSystem):
    """Real files in one directory, and a memory of what the disk itself has."""

    def __init__(self, directory: str, boot: int, dice: random.Random, rate: float) -> None:
        self.directory = directory
        self.dice = dice
        self.rate = rate
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

    def boot(self) -> bytes:
        return self._boot

    def _look(self) -> None:
        if self.dice.random() < self.rate:
            self.watch()

    def create(self, path: str, mode: int = 0o666) -> File:
        self._look()
        with self.one:
            file = super().create(path, mode)
            self._found(path, b"")
            self.pending.append(("create", path, self.inodes[path]))
        return file

    def write(self, file: File, offset: int, data: bytes | memoryview) -> None:
        self._look()
        with self.one:
            super().write(file, offset, data)

    def rename(self, source: str, destination: str) -> None:
        self._look()
        with self.one:
            super().rename(source, destination)
            self.inodes[destination] = self.inodes.pop(source)
            self.pending.append(("remove", source, None))
            self.pending.append(("create", destination, self.inodes[destination]))
        self._look()

    def remove(self, path: str) -> None:
        self._look()
        with self.one:
            super().remove(path)
            self.inodes.pop(path)
            self.pending.append(("remove", path, None))

    def sync(self, file: File) -> None:
        self._look()
        with self.one:
            inode = self.inodes.get(file.path)
            # What another thread stores in the meantime is not what was synced.
            now = b"" if inode is None else inode.now()
            super().sync(file)
            if inode is not None:
                inode.durable = now
        self._look()

    def sync_directory(self, path: str) -> None:
        self._look()
        with self.one:
            super().sync_directory(path)
            if path == self.directory:
                for change in self.pending:
                    self._apply(self.durable_names, *change)
                self.pending.clear()
        self._look()

    @staticmethod
    def _apply(names: dict[str, Inode], kind: str, path: str, inode: Inode | None) -> None:
        if inode is None:
            names.pop(path, None)
        else:
            names[path] = inode

    def crash(self) -> State:
        """Return what may be left of the directory if the power goes now."""
        names = dict(self.durable_names)
        for change in self.pending:
            if self.dice.random() < 0.6:
                self._apply(names, *change)
        return {os.path.basename(path): self._left_of(inode) for path, inode in names.items()}

    def _left_of(self, inode: Inode) -> bytes:
        old, new = inode.durable, inode.now()
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


class Run:
    """A store on a ``Disk``, what it should hold, and the states its crashes may leave."""

    def __init__(self, directory: str, seed: int, sync: str | float, background: bool) -> None:
        self.background = background
        self.dice = random.Random(seed)
        self.directory = directory
        self.sync = sync
        self.history: list[Model] = [{}]
        self.promised = 0
        self.states: list[tuple[State, int, int]] = []
        self.boots = 0

    def options(self) -> Options:
        return Options(
            sync=self.sync,
            memtable_limit=self.dice.choice([1, 20_000, 100_000]),
            table_limit=self.dice.choice([2_000, 1 << 20]),
            fan_in=self.dice.choice([2, 4]),
            log_back_end=self.dice.choice(["mapped", "pwrite"]),
            background=self.background,
        )

    def open(self, rate: float) -> tuple[Disk, StorageEngine]:
        self.boots += 1
        disk = Disk(self.directory, self.boots, self.dice, rate)
        lock: Any = nullcontext()

        def watch() -> None:
            with lock, disk.one:  # a crash is one moment for all threads
                self.states.append((disk.crash(), self.promised, len(self.history) - 1))

        disk.watch = watch
        engine = open_store(self.directory, "c", self.options(), filesystem=disk)
        lock = engine.lock
        return disk, engine

    def operate(self, engine: StorageEngine, times: int) -> None:
        """Do random operations; the one in progress stands in the history already."""
        for _ in range(times):
            model = dict(self.history[-1])
            act: Callable[[], object]
            kind = self.dice.randrange(20)
            key = b"%d" % self.dice.randrange(40)
            value = self.dice.randbytes(self.dice.choice([0, 10, 500, 5000]))
            if kind < 11:
                model[key] = value
                act = partial(engine.put, key, value)
            elif kind < 14:
                model.pop(key, None)
                act = partial(engine.delete, key)
            elif kind < 17:
                pairs = {b"%d" % self.dice.randrange(40): value for _ in range(5)}
                model.update(pairs)
                act = partial(engine.write, dict(pairs), False)
                if self.dice.random() < 0.5:
                    act = partial(_submit, engine, dict(pairs))
            elif kind < 18 and self.dice.random() < 0.5:
                model.clear()
                act = engine.clear
            else:
                act = self.dice.choice([engine.sync, engine.flush, engine.compact])
            changes_nothing = act in (engine.sync, engine.flush, engine.compact)
            if not changes_nothing:
                self.history.append(model)
            act()
            if changes_nothing or self.sync == "full":
                self.promised = len(self.history) - 1

    def check(self, state: State, promised: int, done: int, where: str) -> Model:
        """Open a crash state as after a restart; return what it holds."""
        shutil.rmtree(where, ignore_errors=True)
        os.mkdir(where)
        for name, data in state.items():
            Path(where, name).write_bytes(data)
        if "MANIFEST" not in state:
            assert promised == 0, "the store is gone"
            return {}
        reader = open_store(where, "r", Options(), filesystem=Restarted(self.boots + 1))
        seen = dict(reader.scan("pairs", None, None, False))
        reader.close()
        engine = open_store(where, "w", self.options(), filesystem=Restarted(self.boots + 1))
        found = dict(engine.scan("pairs", None, None, False))
        assert found == seen
        assert found in self.history[promised : done + 1], (
            f"no prefix: {len(found)} keys; operations {promised} to {done} are allowed"
        )
        engine.put(b"after", b"the crash")
        engine.sync()
        engine.close()
        again = open_store(where, "r", Options(), filesystem=Restarted(self.boots + 2))
        assert dict(again.scan("pairs", None, None, False)) == found | {b"after": b"the crash"}
        assert again.count() == len(found | {b"after": b""})
        again.close()
        assert verify(where, Restarted(self.boots + 2)) == []
        return found


def _submit(engine: StorageEngine, changes: dict[bytes, bytes | None]) -> None:
    engine.submit(changes).result(60)


class Restarted(FileSystem):
    """The real file system, some number of restarts later."""

    def __init__(self, boot: int) -> None:
        self._boot = boot.to_bytes(16, "little")

    def boot(self) -> bytes:
        return self._boot


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("sync", ["normal", "full", "off", 0.01])
def test_after_a_crash_of_the_machine_a_prefix_is_there(
    tmp_path: Path, sync: str | float, background: bool
) -> None:
    seed = int(os.environ.get("OBLIVION_DBM_SEED", random.randrange(1 << 32)))
    print(f"OBLIVION_DBM_SEED={seed}")
    checked = 0
    while checked < STATES // 8:
        seed += 1
        run = Run(str(tmp_path / f"store{seed}"), seed, sync, background)
        for _ in range(3):
            disk, engine = run.open(rate=0.02)
            run.operate(engine, 25)
            disk.watch()
            for state, promised, done in run.states:
                run.check(state, promised, done, str(tmp_path / "crashed"))
                checked += 1
            # The power goes for good, and the next round begins with what is left.
            left, promised, done = run.states[-1]
            assert isinstance(engine, Writer)
            engine._path.queue.worker.close()
            engine._path.maintenance.worker.close()
            run.states.clear()  # what the threads have added until now, too
            engine.forked()
            for inode in disk.all_inodes:
                os.close(inode.descriptor)
            found = run.check(left, promised, done, str(tmp_path / "crashed"))
            shutil.rmtree(run.directory)
            os.mkdir(run.directory)
            for name, data in left.items():
                Path(run.directory, name).write_bytes(data)
            run.history, run.promised = [found], 0
        shutil.rmtree(run.directory)
