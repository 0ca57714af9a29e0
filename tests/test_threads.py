"""One handle, several threads: each call is one step, and none is refused."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from oblivion_dbm import Database
from oblivion_dbm.engine.storage_engine import Writer

LIMITS: dict[str, Any] = {"memtable_limit": 20_000, "table_limit": 5_000, "fan_in": 2}


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    with Database(tmp_path / "store", **LIMITS) as db:
        yield db
    sys.setswitchinterval(before)


def together(*calls: Callable[[], object]) -> None:
    """Run all calls at once, each in a thread; raise what one of them raised."""
    problems: list[BaseException] = []

    def run(call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as problem:  # noqa: BLE001 - it is raised below
            problems.append(problem)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]


def test_no_call_is_refused_because_another_thread_writes(db: Database) -> None:
    def write() -> None:
        for number in range(1500):
            db[b"%d" % (number % 100)] = b"x" * 100
            if number % 200 == 0:
                db.flush()
                db.compact()

    def change() -> None:
        for _ in range(300):
            with db.batch():
                pass
            assert db.pop(b"nope", None) is None
            db.put_many({})
            del db[b"x":b"y"]

    together(write, change, change)
    assert db.keys() == sorted(b"%d" % number for number in range(100))


def test_each_item_is_popped_once(db: Database) -> None:
    db.put_many({b"%d" % number: b"" for number in range(600)})
    popped: list[bytes] = []

    def pop() -> None:
        for _ in range(150):
            popped.append(db.popitem()[0])  # noqa: PERF401 - one by one, so that threads mix

    together(*[pop] * 4)
    assert sorted(popped) == sorted(b"%d" % number for number in range(600))
    assert not db


def test_setdefault_gives_what_is_stored(db: Database) -> None:
    given: dict[bytes, set[bytes]] = {b"%d" % number: set() for number in range(300)}

    def set_default(name: bytes) -> None:
        for key, values in given.items():
            values.add(db.setdefault(key, name))

    together(*[partial(set_default, name) for name in (b"a", b"b", b"c")])
    assert given == {key: {value} for key, value in db.items()}


def test_pop_with_a_default_never_raises(db: Database) -> None:
    def fill() -> None:
        for number in range(1000):
            db[b"key"] = b"%d" % number

    def pop() -> None:
        for _ in range(1000):
            db.pop(b"key", None)

    together(fill, pop, pop)
    db.pop(b"key", None)
    assert len(db) == 0


def test_what_one_thread_wrote_it_reads_whatever_the_others_do(db: Database) -> None:
    def work(name: bytes) -> None:
        for number in range(300):
            key = b"%s-%d" % (name, number % 20)
            db[key] = b"%d" % number
            assert db[key] == b"%d" % number
            if number % 7 == 0:
                del db[key]
                assert key not in db
            if number % 50 == 0:
                mine = list(db.scan(prefix=name))
                assert mine == sorted(mine)

    together(*[partial(work, name) for name in (b"a", b"b", b"c", b"d")])
    assert len(db) == len(db.keys())
    assert db.verify() == []


def test_a_clear_ends_the_merge_whose_tables_it_removes(tmp_path: Path) -> None:
    with Database(tmp_path / "store", background=False) as db:
        for part in (b"a", b"b"):
            db.put_many({b"%s-%d" % (part, number): b"x" * 50 for number in range(3000)})
            db.flush()
        engine = db._engine
        assert isinstance(engine, Writer)
        maintenance = engine._path.maintenance
        pace = maintenance._pace

        def clear_first(records: int) -> None:
            if b"a-1" in db and maintenance._inputs:
                with db.batch() as batch:
                    batch.clear()
                    batch[b"new"] = b""
            pace(records)

        maintenance.compactor._pace = clear_first
        db.compact()
        assert list(db.scan()) == [(b"new", b"")]
        assert sum(run["puts"] for run in db.stats()["runs"]) <= 1
        assert db.verify() == []
