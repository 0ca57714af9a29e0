"""A store and a dict, driven by the same random steps, always agree.

Limits are tiny, so that rotation, flush and compaction happen all the time;
reopening, a reader beside the writer, held snapshots and transactions are steps too.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from oblivion_dbm import ConflictError, Database
from oblivion_dbm.engine.storage_engine import Writer
from oblivion_dbm.engine.verify import verify
from oblivion_dbm.snapshot import Snapshot
from oblivion_dbm.transaction import Transaction

LEAVES_OPEN = "a crash, as a step, leaves its handles as they are"
KEYS = st.one_of(
    st.integers(0, 30).map(lambda number: b"%02d" % number),
    st.binary(max_size=3),
)
VALUES = st.one_of(st.binary(max_size=12), st.integers(0, 400).map(bytes))
CHANGES = st.dictionaries(KEYS, st.one_of(VALUES, st.none()), max_size=8)


class Begun:
    """A transaction that reads single keys and changes them, and what it must show."""

    def __init__(self, transaction: Transaction, model: dict[bytes, bytes]) -> None:
        self.transaction = transaction
        self.base = dict(model)
        self.changes: dict[bytes, bytes | None] = {}
        self.touched: set[bytes] = set()

    def change(self, key: bytes, value: bytes | None) -> None:
        """Put a value, or delete the key where ``value`` is None."""
        self.touched.add(key)
        expected = {**self.base, **self.changes}.get(key)
        assert self.transaction.get(key) == expected
        if value is not None:
            self.transaction[key] = value
        else:
            assert self.transaction.pop(key, None) == expected
        if value is not None or expected is not None:
            self.changes[key] = value

    def conflicts_with(self, model: dict[bytes, bytes]) -> bool:
        """Tell whether a key that was touched has changed, and something is to be written."""
        changed = any(model.get(key) != self.base.get(key) for key in self.touched)
        return bool(self.changes) and changed

    def apply(self, model: dict[bytes, bytes]) -> None:
        """Do what a commit does."""
        for key, value in self.changes.items():
            model.pop(key, None)
            if value is not None:
                model[key] = value


class StoreMachine(RuleBasedStateMachine):
    """The store ``db``, a reader beside it, and the dict ``model`` they must equal."""

    #: Taken by all machines of this process, for the long run.
    steps = 0

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp()
        self.model: dict[bytes, bytes] = {}
        self.held: list[tuple[Iterator[Any], list[Any]]] = []
        self.snapshots: list[tuple[Snapshot, dict[bytes, bytes]]] = []
        self.begun: Begun | None = None

    @initialize(
        memtable_limit=st.sampled_from([1, 3000, 20_000]),
        table_limit=st.sampled_from([100, 1000, 1 << 20]),
        fan_in=st.integers(2, 4),
        log_back_end=st.sampled_from(["mapped", "pwrite"]),
        sync=st.sampled_from(["off", "normal", "full"]),
    )
    def start(self, **options: Any) -> None:
        self.options = options
        self.path = self.folder + "/store"
        self.db = Database(self.path, "c", **options)
        self.reader = Database(self.path, "r")

    def teardown(self) -> None:
        if hasattr(self, "db"):
            assert self.db.verify() == []
            self.let_go()
            self.db.close()
            self.reader.close()
            assert verify(self.path) == []
        shutil.rmtree(self.folder)

    def let_go(self) -> None:
        """Forget all that ends with a handle."""
        self.held.clear()
        for snapshot, _ in self.snapshots:
            snapshot.close()
        self.snapshots.clear()
        if self.begun is not None:
            self.begun.transaction.rollback()
            self.begun = None

    @rule(key=KEYS, value=VALUES)
    def put(self, key: bytes, value: bytes) -> None:
        self.db[key] = value
        self.model[key] = value

    @rule(key=KEYS)
    def delete(self, key: bytes) -> None:
        try:
            del self.db[key]
            found = True
        except KeyError:
            found = False
        assert found == (self.model.pop(key, None) is not None)

    @rule(changes=CHANGES, cleared=st.booleans())
    def batch(self, changes: dict[bytes, bytes | None], cleared: bool) -> None:
        with self.db.batch() as batch:
            batch[b"forgotten"] = b"when cleared"
            del batch[b"forgotten"]
            if cleared:
                batch.clear()
                self.model.clear()
            for key, value in changes.items():
                if value is None:
                    del batch[key]
                    self.model.pop(key, None)
                else:
                    batch[key] = value
                    self.model[key] = value
        self.model.pop(b"forgotten", None)

    @rule(pairs=st.lists(st.tuples(KEYS, VALUES), max_size=20))
    def load(self, pairs: list[tuple[bytes, bytes]]) -> None:
        assert self.db.load(pairs) == len(pairs)
        self.model.update(pairs)

    @rule(start=KEYS, stop=KEYS)
    def delete_range(self, start: bytes, stop: bytes) -> None:
        del self.db[start:stop]
        for key in [key for key in self.model if start <= key < stop]:
            del self.model[key]

    @rule()
    def clear(self) -> None:
        self.db.clear()
        self.model.clear()

    @rule()
    def flush(self) -> None:
        self.db.flush()

    @rule()
    def compact(self) -> None:
        self.db.compact()
        assert len(self.db.stats()["runs"]) <= 1

    @rule(times=st.integers(1, 5))
    def popitem(self, times: int) -> None:
        for _ in range(min(times, len(self.model))):
            key, value = self.db.popitem()
            assert key == min(self.model)
            assert value == self.model.pop(key)

    @rule(reader_too=st.booleans())
    def reopen(self, reader_too: bool) -> None:
        self.let_go()
        self.db.close()
        if reader_too:
            self.reader.close()
            self.reader = Database(self.path, "r")
        self.db = Database(self.path, "w", **self.options)

    @rule()
    def leave_without_closing(self) -> None:
        """What a kill leaves behind: the lock given back, and nothing else done."""
        self.let_go()
        engine = self.db._engine
        assert isinstance(engine, Writer)
        engine._path.queue.worker.close()
        engine._path.maintenance.worker.close()
        engine._store_lock.release()
        engine._released = True
        engine.forked = lambda: None  # type: ignore[method-assign]  # it has no lock to give back
        engine.tree.end(RuntimeError("left"))
        self.db = Database(self.path, "w", **self.options)

    @precondition(lambda self: len(self.held) < 3)
    @rule(reverse=st.booleans(), start=st.one_of(st.none(), KEYS), from_reader=st.booleans())
    def begin_a_scan(self, reverse: bool, start: bytes | None, from_reader: bool) -> None:
        source = self.reader if from_reader else self.db
        expected = [
            pair for pair in sorted(self.model.items()) if start is None or pair[0] >= start
        ]
        if reverse:
            expected.reverse()
        if not from_reader or self.options["sync"] != "full":
            self.held.append((source.scan(start=start, reverse=reverse), expected))

    @precondition(lambda self: self.held)
    @rule()
    def end_a_scan(self) -> None:
        scan, expected = self.held.pop(0)
        assert list(scan) == expected

    @precondition(lambda self: len(self.snapshots) < 3)
    @rule(from_reader=st.booleans())
    def take_a_snapshot(self, from_reader: bool) -> None:
        handle = self.reader if from_reader else self.db
        self.snapshots.append((handle.snapshot(), dict(self.model)))

    @precondition(lambda self: self.snapshots)
    @rule(key=KEYS, close=st.booleans())
    def read_a_snapshot(self, key: bytes, close: bool) -> None:
        snapshot, expected = self.snapshots[0]
        assert snapshot.get(key) == expected.get(key)
        assert len(snapshot) == len(expected)
        assert list(snapshot.scan(start=key)) == [
            pair for pair in sorted(expected.items()) if pair[0] >= key
        ]
        if close:
            self.snapshots.pop(0)
            snapshot.close()

    @rule(key=KEYS, value=st.one_of(VALUES, st.none()), end=st.booleans())
    def go_on_with_a_transaction(self, key: bytes, value: bytes | None, end: bool) -> None:
        if self.begun is None:
            self.begun = Begun(self.db.transaction(), self.model)
        begun = self.begun
        begun.change(key, value)
        if end:
            self.begun = None
            if begun.conflicts_with(self.model):
                with pytest.raises(ConflictError):
                    begun.transaction.commit()
            else:
                begun.transaction.commit()
                begun.apply(self.model)

    @rule(key=KEYS)
    def look_up(self, key: bytes) -> None:
        for handle in (self.db, self.reader):
            assert handle.get(key) == self.model.get(key)
            assert (key in handle) == (key in self.model)
            after = min((k for k in self.model if k > key), default=None)
            assert handle.nextkey(key) == (after if key in self.model else None)

    @rule()
    def count(self) -> None:
        assert len(self.db) == len(self.reader) == len(self.model)

    @rule()
    def ends(self) -> None:
        for handle in (self.db, self.reader):
            assert bool(handle) == bool(self.model)
            assert handle.firstkey() == min(self.model, default=None)
            if self.model:
                assert handle.last() == (max(self.model), self.model[max(self.model)])

    @rule()
    def whole(self) -> None:
        for handle in (self.db, self.reader):
            assert list(handle.scan()) == sorted(self.model.items())
            assert list(handle.scan(reverse=True)) == sorted(self.model.items(), reverse=True)
            assert handle.keys() == sorted(self.model)

    @rule()
    def verify(self) -> None:
        assert self.db.verify() == []

    @invariant()
    def memory_is_in_order(self) -> None:
        StoreMachine.steps += 1
        if hasattr(self, "db"):
            for memtable in self.db._engine.tree.memtables:
                assert memtable.check() == []


StoreMachine.TestCase.settings = settings(
    max_examples=int(os.environ.get("OBLIVION_DBM_EXAMPLES", "60")),
    stateful_step_count=40,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
TestStore = StoreMachine.TestCase
