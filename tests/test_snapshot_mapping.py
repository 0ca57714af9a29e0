"""``Database.snapshot()``: a mapping of a moment, which holds its files until it is let go."""

from __future__ import annotations

import copy
import errno
import gc
import os
import pickle
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oblivion_dbm import Database, error
from oblivion_dbm.engine.tree import Tree
from oblivion_dbm.snapshot import Snapshot

MODEL = {b"%02d" % number: b"v%d" % number for number in range(0, 20, 2)}


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    with Database(tmp_path / "store") as db:
        db.update(dict(list(MODEL.items())[:5]))
        db.flush()
        db.update(dict(list(MODEL.items())[5:]))
        yield db


def test_a_snapshot_stays_as_it_was_whatever_comes(db: Database) -> None:
    with db.snapshot() as snapshot:
        steps: list[Callable[[], object]] = [
            lambda: db.update({"00": "changed", "01": "new"}),
            lambda: db.__delitem__("18"),
            db.flush,
            db.compact,
            db.clear,
            db.compact,
            lambda: db.update({"05": "late"}),
        ]
        for step in steps:
            step()
            assert dict(snapshot) == MODEL
            assert snapshot == MODEL
            assert len(snapshot) == len(MODEL)
            assert {key: snapshot[key] for key in MODEL} == MODEL
            assert list(snapshot.scan(reverse=True)) == sorted(MODEL.items(), reverse=True)
    assert dict(db) == {b"05": b"late"}


def test_it_reads_as_every_ordered_mapping_of_ours(db: Database) -> None:
    with db.snapshot() as snapshot:
        db.clear()
        assert (snapshot["00"], snapshot[bytearray(b"00")], snapshot.get("x", 5)) == (
            b"v0",
        ) * 2 + (5,)
        assert ("00" in snapshot, "01" in snapshot, bool(snapshot)) == (True, False, True)
        with pytest.raises(KeyError) as caught:
            snapshot["x"]
        assert caught.value.args == ("x",)
        for wrong in (5, None):
            with pytest.raises(TypeError):
                snapshot.get(wrong)
        assert snapshot.keys() == list(snapshot) == sorted(MODEL)
        assert list(snapshot.items()) == sorted(MODEL.items())
        assert list(snapshot.values()) == [MODEL[key] for key in sorted(MODEL)]
        assert list(reversed(snapshot)) == sorted(MODEL, reverse=True)
        assert [key for key, _ in snapshot["04":"08"]] == [b"04", b"06"]
        assert (snapshot.first(), snapshot.last()) == ((b"00", b"v0"), (b"18", b"v18"))
        assert (snapshot.firstkey(), snapshot.nextkey("04")) == (b"00", b"06")
        assert snapshot.get_many(["04", "05"]) == [b"v4", None]
        assert dict(snapshot.prefixed("1")) == {k[1:]: v for k, v in MODEL.items() if k >= b"1"}
        assert len(snapshot.prefixed("1")) == 5
        assert snapshot.setdefault("00", "other") == b"v0"


def test_an_empty_one_is_an_empty_mapping(tmp_path: Path) -> None:
    with Database(tmp_path / "store") as db, db.snapshot() as snapshot:
        db["a"] = "1"
        assert (len(snapshot), list(snapshot), bool(snapshot), snapshot.firstkey()) == (
            0,
            [],
            False,
            None,
        )
        with pytest.raises(KeyError):
            snapshot.first()


WRITES: dict[str, Callable[[Any], object]] = {
    "put": lambda m: m.__setitem__("00", "x"),
    "delete": lambda m: m.__delitem__("00"),
    "delete an absent key": lambda m: m.__delitem__("absent"),
    "delete a range": lambda m: m.__delitem__(slice(None)),
    "pop": lambda m: m.pop("00"),
    "pop an absent key": lambda m: m.pop("absent", None),
    "popitem": lambda m: m.popitem(),
    "setdefault": lambda m: m.setdefault("absent", "x"),
    "update": lambda m: m.update({"a": "1"}),
    "put_many": lambda m: m.put_many({}),
    "load": lambda m: m.load([]),
    "clear": lambda m: m.clear(),
    "batch": lambda m: m.batch(),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("prefixed", [False, True])
def test_every_write_is_refused(db: Database, write: str, prefixed: bool) -> None:
    with db.snapshot() as snapshot:
        mapping = snapshot.prefixed("") if prefixed else snapshot
        with pytest.raises(error, match="snapshot") as caught:
            WRITES[write](mapping)
        assert (caught.value.errno, caught.value.filename) == (errno.EROFS, db.path)
        assert dict(snapshot) == MODEL == dict(db)


READS: dict[str, Callable[[Any], object]] = {
    "get item": lambda m: m["00"],
    "get": lambda m: m.get("absent"),
    "in": lambda m: "00" in m,
    "len": len,
    "bool": bool,
    "iterate": list,
    "keys": lambda m: m.keys(),
    "scan": lambda m: list(m.scan()),
    "slice": lambda m: list(m["00":"10"]),
    "values": lambda m: list(m.values()),
    "first": lambda m: m.first(),
    "last": lambda m: m.last(),
    "nextkey": lambda m: m.nextkey("00"),
    "prefixed": lambda m: list(m.prefixed("0")),
}


@pytest.mark.parametrize("use", [*READS, *WRITES])
@pytest.mark.parametrize("end", ["snapshot", "database"])
def test_after_the_end_every_access_raises_error(db: Database, use: str, end: str) -> None:
    snapshot = db.snapshot()
    begun, fresh = snapshot.scan(), iter(snapshot)
    next(begun)
    assert not snapshot.closed
    (snapshot if end == "snapshot" else db).close()
    meaning = "snapshot has been closed" if end == "snapshot" else "DBM object has already been"
    for iterator in (begun, fresh):
        with pytest.raises(error, match=meaning):
            next(iterator)
    with pytest.raises(error, match=meaning):
        {**READS, **WRITES}[use](snapshot)
    assert snapshot.closed
    snapshot.close()
    assert not list(db.scan(start="x")) if end == "snapshot" else True


def test_it_says_what_it_is(db: Database) -> None:
    with db.snapshot() as snapshot:
        assert (snapshot.path, snapshot.readonly, snapshot.closed) == (db.path, True, False)
        assert snapshot.sequence == db.sequence
        assert repr(snapshot) == f"<Snapshot {db.sequence} of {db.path!r}>"
        db["a"] = "1"
        assert snapshot.sequence < db.sequence
    assert repr(snapshot).startswith("<closed Snapshot")
    for function in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="a Snapshot cannot be"):
            function(snapshot)
    for method in (snapshot.snapshot, snapshot.transaction):
        with pytest.raises(TypeError, match="Snapshot"):
            method()


def test_a_prefixed_view_has_snapshots_of_its_own(db: Database) -> None:
    with db.prefixed("1").snapshot() as snapshot:
        db.clear()
        assert snapshot["6"] == b"v16"
        assert len(snapshot) == 5
        with pytest.raises(error, match="snapshot"):
            snapshot["6"] = b"x"
    with pytest.raises(error, match="closed"):
        snapshot.get("6")


def test_a_reader_s_snapshot_stays_while_the_writer_goes_on(db: Database) -> None:
    with Database(db.path, "r") as reader, reader.snapshot() as before:
        db["00"] = "changed"
        db.compact()
        with reader.snapshot() as after:
            assert (before["00"], after["00"], reader["00"]) == (b"v0", b"changed", b"changed")
            db.clear()
            assert dict(before) == MODEL
            assert (len(before), len(after), len(reader)) == (10, 10, 0)


# Files and memory.


def forget(held: list[Any]) -> None:
    held.clear()
    gc.collect()


def open_tables(db: Database) -> set[str]:
    """Return the tables that this process has mapped, removed ones included."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split()[5] for line in lines if db.path in line and ".sst" in line}


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="shown by Linux alone")
@pytest.mark.parametrize("end", ["close", "forget"])
def test_tables_are_kept_as_long_as_a_snapshot_and_no_longer(db: Database, end: str) -> None:
    db.compact()
    old = open_tables(db)
    snapshot = db.snapshot()
    db["00"] = "changed"
    db.compact()
    assert old < open_tables(db)
    assert dict(snapshot) == MODEL
    if end == "close":
        snapshot.close()
        gc.collect()
    else:
        held = [snapshot]
        del snapshot
        with pytest.warns(ResourceWarning, match="never closed"):
            forget(held)
    assert not old & open_tables(db)


def test_a_forgotten_snapshot_says_so_and_a_closed_one_does_not(db: Database) -> None:
    held = [db.snapshot()]
    with pytest.warns(ResourceWarning, match="Snapshot .* was never closed"):
        forget(held)
    db.snapshot().close()
    snapshot = db.snapshot()
    db.close()
    del snapshot
    gc.collect()


def test_an_iterator_keeps_its_snapshot_and_this_its_database(tmp_path: Path) -> None:
    db = Database(tmp_path / "store")
    db.update(MODEL)
    snapshot = db.snapshot()
    items, handle = snapshot.scan(), weakref.ref(db)
    del db
    gc.collect()
    assert list(items) == sorted(MODEL.items())
    snapshot.close()
    del items
    gc.collect()
    assert handle() is None


def test_a_snapshot_is_collected_in_the_middle_of_a_write_of_its_own_thread(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cycle is found by a collection that the write itself sets off, inside every lock."""

    def forget_one() -> None:
        snapshot = db.snapshot()
        cycle: list[object] = [snapshot, snapshot.scan()]
        cycle.append(cycle)
        next(cycle[1])  # type: ignore[call-overload]  # it is the scan

    def collecting(tree: Tree) -> None:
        show(tree)
        collections.append(gc.collect())

    collections: list[int] = []
    show = Tree.show
    monkeypatch.setattr(Tree, "show", collecting)
    gc.disable()
    try:
        for number in range(8):
            forget_one()  # after which a write has to make room, with the lock held
            with pytest.warns(ResourceWarning, match="never closed"):
                db[b"%d" % number] = b"new"
            forget_one()
            with pytest.warns(ResourceWarning, match="never closed"):
                db.snapshot().close()
    finally:
        gc.enable()
    assert dict(db) == {**MODEL, **{b"%d" % number: b"new" for number in range(8)}}
    assert sum(found > 0 for found in collections) >= 16


# Threads.


def test_threads_share_one_snapshot_while_others_write(db: Database) -> None:
    keys = [b"%05d" % (number * 7919 % 3000) for number in range(3000)]
    db.put_many(dict.fromkeys(keys, b"old"))
    expected = dict(db)
    problems: list[BaseException] = []

    def read(snapshot: Snapshot) -> None:
        try:
            for _ in range(5):
                assert dict(snapshot) == expected
                assert len(snapshot) == len(expected)
                assert snapshot[keys[0]] == b"old"
        except BaseException as problem:  # noqa: BLE001 - it is raised below
            problems.append(problem)

    with db.snapshot() as snapshot:
        threads = [threading.Thread(target=read, args=(snapshot,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number, key in enumerate(keys):
            db[key] = b"new"
            if number % 500 == 0:
                db.flush()
                with db.snapshot() as other:
                    assert other[key] == b"new"
        for thread in threads:
            thread.join()
    assert problems == []


def test_closing_while_another_thread_walks_ends_the_walk(db: Database) -> None:
    db.put_many({b"%05d" % number: b"" for number in range(3000)})
    expected = len(db)
    for _ in range(20):
        snapshot = db.snapshot()
        found: list[int] = []

        def walk(snapshot: Snapshot = snapshot, found: list[int] = found) -> None:
            with suppress(error):
                while True:
                    found.append(sum(1 for _ in snapshot))

        thread = threading.Thread(target=walk)
        thread.start()
        while not found:
            pass
        snapshot.close()
        thread.join()
        assert set(found) == {expected}


# Any state at all.

STEPS = st.lists(
    st.one_of(
        st.tuples(st.binary(max_size=1), st.one_of(st.none(), st.binary(max_size=2))),
        st.sampled_from(["snapshot", "snapshot", "close", "flush", "compact", "clear", "len"]),
    ),
    max_size=20,
)


@given(STEPS)
def test_every_snapshot_is_the_state_of_its_moment(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Any]
) -> None:
    model: dict[bytes, bytes] = {}
    held: list[tuple[Snapshot, dict[bytes, bytes]]] = []
    with Database(tmp_path_factory.mktemp("store"), sync="off") as db:
        for step in steps:
            if isinstance(step, tuple):
                key, value = step
                if value is None:
                    db.pop(key, None)
                    model.pop(key, None)
                else:
                    db[key] = model[key] = value
            elif step == "snapshot":
                held.append((db.snapshot(), dict(model)))
            elif step == "close" and held:
                held.pop(0)[0].close()
            elif step == "clear":
                db.clear()
                model.clear()
            elif step == "len":
                assert len(db) == len(model)
            else:
                getattr(db, "compact" if step == "compact" else "flush")()
        for snapshot, expected in held:
            assert dict(snapshot) == expected
            assert len(snapshot) == len(expected)
            assert snapshot.firstkey() == min(expected, default=None)
            assert all(snapshot.get(key) == value for key, value in expected.items())
            snapshot.close()
        assert len(db) == len(model)


def test_a_snapshot_that_is_closed_while_it_is_read_shows_nothing_newer(tmp_path: Path) -> None:
    held, go = threading.Event(), threading.Event()
    found: list[object] = []

    class Slow(dict[bytes, bytes]):
        """A layer whose look-up is as slow as a thread that waits for its turn."""

        def get(self, key: bytes) -> Any:  # type: ignore[override]  # as a layer is asked
            held.set()
            go.wait(20)
            return super().get(key)

    with Database(tmp_path / "store") as db:
        db[b"k"] = b"1"
        top = db._engine.tree.memtables[0].top
        top.records = Slow(top.records)
        snapshot = db.snapshot()

        def read() -> None:
            try:
                found.append(snapshot[b"k"])
            except error:
                found.append("closed")

        reading = threading.Thread(target=read)
        reading.start()
        assert held.wait(20)
        snapshot.close()
        db[b"k"] = b"2"
        db.snapshot().close()
        go.set()
        reading.join(20)
    assert found in ([b"1"], ["closed"])
