"""Random operations on a store, and the states that may be left of it.

``History`` writes down the state after each operation before it begins, so that the one
in progress stands there already, and which of them must outlive the machine.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

from oblivion_dbm.engine.options import Options
from oblivion_dbm.engine.storage_engine import StorageEngine

Model = dict[bytes, bytes]
Act = Callable[[], object]

KEYS = 40


class History:
    """The states that operations have gone through, the empty one first.

    ``returned`` is the number of the last one that an operation has returned from, and
    ``promised`` that of the last one that a crash of the machine must keep.
    """

    def __init__(self, dice: random.Random, sync: str | float) -> None:
        self.dice = dice
        self.sync = sync
        self.states: list[Model] = [{}]
        self.returned = self.promised = 0

    def begin_with(self, found: Model) -> None:
        """Forget what was; ``found`` is on the disk."""
        self.states, self.returned, self.promised = [found], 0, 0

    @property
    def done(self) -> int:
        """The number of the newest state."""
        return len(self.states) - 1

    def options(self, background: bool) -> Options:
        """Return settings under which everything happens all the time."""
        return Options(
            sync=self.sync,
            memtable_limit=self.dice.choice([1, 20_000, 100_000]),
            table_limit=self.dice.choice([2_000, 1 << 20]),
            fan_in=self.dice.choice([2, 4]),
            log_back_end=self.dice.choice(["mapped", "pwrite"]),
            background=background,
        )

    def next(self, engine: StorageEngine) -> tuple[Act, Model | None]:
        """Return what to do next, and the state after it; None where it changes nothing."""
        model = dict(self.states[-1])
        kind = self.dice.randrange(20)
        key = self._key()
        value = self.dice.randbytes(self.dice.choice([0, 10, 500, 5000]))
        if kind < 11:
            model[key] = value
            return partial(engine.put, key, value), model
        if kind < 14:
            model.pop(key, None)
            return partial(engine.delete, key), model
        if kind < 17:
            pairs = dict.fromkeys((self._key() for _ in range(5)), value)
            model.update(pairs)
            if self.dice.random() < 0.5:
                return partial(_submit, engine, dict(pairs)), model
            return partial(engine.write, dict(pairs), False), model
        if kind < 18 and self.dice.random() < 0.5:
            model.clear()
            return engine.clear, model
        return self.dice.choice([engine.sync, engine.flush, engine.compact]), None

    def operate(self, engine: StorageEngine, times: int) -> None:
        """Do random operations."""
        for _ in range(times):
            act, model = self.next(engine)
            if model is not None:
                self.states.append(model)
            act()
            self.returned = self.done
            if model is None or self.sync == "full":
                self.promised = self.done

    def _key(self) -> bytes:
        return b"%d" % self.dice.randrange(KEYS)


def _submit(engine: StorageEngine, changes: dict[bytes, bytes | None]) -> None:
    engine.submit(changes).result(60)
