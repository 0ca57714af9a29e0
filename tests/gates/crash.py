"""The machine loses power, also while it recovers from having lost it: a prefix is left.

A trial is a history of a store on a ``Disk``.  Each state that a crash may leave is opened
as after a restart: what is found must be the state after some operation, none older than
the last one that was promised, the same for readers and writers, and what is written
afterwards must survive.  Opening itself is crashed too, twice over.
"""

from __future__ import annotations

import os
import random
import shutil
from contextlib import ExitStack, closing, nullcontext
from pathlib import Path
from typing import Any

from gates.disk import Disk, Restarted, State, lay
from gates.history import History, Model
from oblivion_dbm.engine.options import Options
from oblivion_dbm.engine.storage_engine import StorageEngine, Writer, open_store
from oblivion_dbm.engine.verify import verify
from oblivion_dbm.errors import error

SYNCS: list[str | float] = ["normal", "full", "off", 0.01]
ROUNDS, OPERATIONS, RATE = 3, 25, 0.01
#: How often recovery itself is crashed, and with which probability at each place.
NESTED, NESTED_RATE = 2, 0.03


class Crashes:
    """A store on a ``Disk``, and the states that its crashes may leave.

    With ``lies`` some syncs do nothing.  Then only order counts: an older prefix, or damage
    that is called so.
    """

    def __init__(
        self,
        folder: str,
        seed: int,
        *,
        sync: str | float,
        background: bool,
        lies: float = 0.0,
        disk: type[Disk] = Disk,
    ) -> None:
        self.dice = random.Random(seed)
        self.history = History(self.dice, sync)
        self.directory = os.path.join(folder, "store")
        self.folder = folder
        self.background = background
        self.lies = lies
        self.disk = disk
        self.states: list[tuple[State, int, int]] = []
        self.boots = 0
        self.checked = 0

    def open(self) -> tuple[Disk, StorageEngine]:
        self.boots += 1
        disk = self.disk(self.directory, self.boots, self.dice, RATE, self.lies)
        lock: Any = nullcontext()

        def watch() -> None:
            with lock, disk.one:  # a crash is one moment for all threads
                moment = self.history.promised, self.history.done
                self.states += [(state, *moment) for state in disk.crashes()]

        disk.watch = watch
        options = self.history.options(self.background)
        engine = open_store(self.directory, "c", options, filesystem=disk)
        lock = engine.lock
        return disk, engine

    def go_on(self) -> None:
        """Open, work, and crash for good; check what may be left at each moment."""
        disk, engine = self.open()
        self.history.operate(engine, OPERATIONS)
        disk.watch()
        for state, promised, done in self.states:
            self.check(state, promised, done, NESTED)
        left, promised, done = self.states[-1]
        assert isinstance(engine, Writer)
        engine._path.queue.worker.close()
        engine._path.maintenance.worker.close()
        self.states.clear()  # what the threads have added until now, too
        engine._path.log.close()
        engine.forked()
        disk.close_all()
        # The next round begins with what is left.
        found = self.check(left, promised, done, 0)
        shutil.rmtree(self.directory)
        if found is None or (self.lies and "MANIFEST" not in left):
            found, left = {}, {}  # nothing to go on with
        lay(left, self.directory)
        self.history.begin_with(found)

    def check(self, state: State, promised: int, done: int, nested: int) -> Model | None:
        """Open a crash state as after a restart; return what it holds.

        None where a sync has lied and the store says that it is damaged.
        """
        self.checked += 1
        where = os.path.join(self.folder, f"crashed{nested}")
        shutil.rmtree(where, ignore_errors=True)
        lay(state, where)
        if "MANIFEST" not in state:
            assert promised == 0 or self.lies, "the store is gone"
            return {}
        try:
            return self._check(where, promised, done, nested)
        except error:  # damage, or, where nothing of a MANIFEST is there, no store at all
            if not self.lies:
                raise
            return None

    def _check(self, where: str, promised: int, done: int, nested: int) -> Model:
        seen = self._read(where, self.boots + 1)
        first = 0 if self.lies else promised
        assert seen in self.history.states[first : done + 1], (
            f"no prefix: {len(seen)} keys; operations {first} to {done} are allowed"
        )
        crashed_again = self._write(where, seen, NESTED_RATE if nested else 0.0)
        assert self._read(where, self.boots + 2) == seen | {b"after": b"the crash"}
        assert verify(where, Restarted(self.boots + 2)) == []
        self._check_again(crashed_again, seen, (promised, done), nested)
        return seen

    def _read(self, where: str, boot: int) -> Model:
        with closing(open_store(where, "r", Options(), filesystem=Restarted(boot))) as reader:
            seen: Model = dict(reader.scan("pairs", None, None, False))
            assert reader.count() == len(seen)
        return seen

    def _write(self, where: str, seen: Model, rate: float) -> list[State]:
        """Recover what was seen, and write; return what crashes meanwhile may leave."""
        disk = Disk(where, self.boots + 1, self.dice, rate)
        states: list[State] = []
        disk.watch = lambda: states.extend(disk.crashes())
        options = self.history.options(background=False)
        with ExitStack() as opened:
            opened.callback(disk.close_all)
            engine = open_store(where, "w", options, filesystem=disk)
            opened.enter_context(closing(engine))
            assert dict(engine.scan("pairs", None, None, False)) == seen
            engine.sync()  # what was recovered, from now on it stays
            crashed_again = list(states)
            engine.put(b"after", b"the crash")
            engine.sync()
        return crashed_again

    def _check_again(
        self, states: list[State], seen: Model, allowed: tuple[int, int], nested: int
    ) -> None:
        """Check what crashes of the recovery leave: what it has found, or an older prefix.

        What had been found may be lost again, unless it was synced before: it is the page
        cache's.  Recovery in a new boot finds only what the disk has, and never less later.
        """
        self.boots += 1
        try:
            for state in states:
                assert self.check(state, *allowed, nested - 1) == seen or self.lies
        finally:
            self.boots -= 1


def trial(seed: int, folder: str, _: str) -> int:
    """Crash one store some dozens of times; return the number of states that were checked."""
    dice = random.Random(seed)
    lies = 0.3 if dice.random() < 0.1 else 0.0
    sync, background = dice.choice(SYNCS), dice.random() < 0.5
    crashes = Crashes(folder, seed, sync=sync, background=background, lies=lies)
    for _round in range(ROUNDS):
        crashes.go_on()
    assert Path(crashes.directory).exists()
    return crashes.checked
