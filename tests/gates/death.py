"""The process dies between any two stores, or in the middle of one: nothing is lost.

Everything that had returned is there at the next opening, the operation in progress is whole
or absent, nobody calls anything damaged, and what is written then is there, too.

A trial is a number, which chooses the history of one store.  ``kill`` kills real processes,
which die where the system stops them; here each store is a place to die at.
"""

from __future__ import annotations

import os
import random
import shutil
from contextlib import nullcontext
from typing import Any

from gates.disk import Disk, Restarted, State, lay
from gates.history import History, Model
from oblivion_dbm.engine.options import Options
from oblivion_dbm.engine.storage_engine import open_store
from oblivion_dbm.engine.verify import verify

SYNCS: list[str | float] = ["normal", "full", "off", 0.001]
#: Handles of one store, operations of each, and the share of the places that are tried.
ROUNDS, OPERATIONS, RATE = 3, 30, 0.05
#: The boot in which it all happens.
BOOT = 1


class Deaths:
    """A store in ``folder``, worked on by a process that might die at any place."""

    def __init__(self, folder: str, dice: random.Random) -> None:
        self.folder = folder
        self.dice = dice
        self.history = History(dice, dice.choice(SYNCS))
        #: What a death would leave, and the numbers of the states that this may be.
        self.left: list[tuple[State, int, int]] = []
        self.checked = 0

    def work(self, background: bool) -> None:
        """Open, work and close, and check what each death would have left."""
        directory = os.path.join(self.folder, "store")
        disk = Disk(directory, BOOT, self.dice, RATE)
        lock: Any = nullcontext()

        def watch() -> None:
            with lock, disk.one:  # a death is one moment for all threads
                self.left.append((disk.now(), self.history.returned, self.history.done))

        disk.watch = watch
        engine = open_store(directory, "c", self.history.options(background), filesystem=disk)
        lock = engine.lock
        self.history.operate(engine, OPERATIONS)
        engine.close()
        disk.close_all()
        left, self.left = self.left, []
        for state, returned, done in left:
            self.check(state, self.history.states[returned : done + 1])

    def check(self, state: State, allowed: list[Model]) -> None:
        """Open what a death has left, for reading and for writing."""
        where = os.path.join(self.folder, "left")
        shutil.rmtree(where, ignore_errors=True)
        lay(state, where)
        self.checked += 1
        if "MANIFEST" not in state:
            assert {} in allowed
            return
        system = Restarted(BOOT)
        findings = [finding for finding in verify(where, system) if not finding.leftover]
        assert findings == []
        reader = open_store(where, "r", Options(), filesystem=system)
        seen = dict(reader.scan("pairs", None, None, False))
        reader.close()
        assert seen in allowed, f"neither what had returned nor what was to be: {len(seen)} keys"
        writer = open_store(where, "w", Options(), filesystem=system)
        found = dict(writer.scan("pairs", None, None, False))
        assert found in allowed
        writer.put(b"after", b"the death")
        writer.close()
        again = open_store(where, "r", Options(), filesystem=system)
        assert dict(again.scan("pairs", None, None, False)) == found | {b"after": b"the death"}
        again.close()
        assert verify(where, system) == []


def trial(seed: int, folder: str, _: str) -> int:
    """Let the process die at some hundreds of places; return how many."""
    dice = random.Random(seed)
    deaths = Deaths(folder, dice)
    for _round in range(ROUNDS):
        deaths.work(background=dice.random() < 0.5)
    return deaths.checked
