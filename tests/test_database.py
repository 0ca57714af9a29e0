"""``Database`` and ``open``: what the dbm contract asks for, point by point."""

from __future__ import annotations

import copy
import errno
import gc
import inspect
import os
import pickle
import threading
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

import pytest

import oblivion_dbm
from oblivion_dbm import Database, error
from oblivion_dbm.engine.sstable import SSTable

CLOSED = "DBM object has already been closed"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


def make(path: Path, **pairs: str) -> None:
    with Database(path) as db:
        db.update(pairs)


# Opening.


def test_open_has_the_signature_of_dbm_open_and_options_by_keyword(path: Path) -> None:
    parameters = inspect.signature(oblivion_dbm.open).parameters
    assert list(parameters)[:3] == ["file", "flag", "mode"]
    assert (parameters["flag"].default, parameters["mode"].default) == ("r", 0o666)
    assert inspect.signature(Database).parameters["flag"].default == "c"
    with oblivion_dbm.open(file=path, flag="n", mode=0o600, memtable_limit=1 << 20) as db:
        assert type(db) is Database
    assert path.stat().st_mode & 0o777 == 0o700


def test_open_reads_by_default_and_database_creates(path: Path) -> None:
    with pytest.raises(error):
        oblivion_dbm.open(path)
    Database(path).close()
    with oblivion_dbm.open(path) as db:
        assert db.readonly


class Named:
    """A path-like of str or bytes."""

    def __init__(self, name: str | bytes) -> None:
        self.name = name

    def __fspath__(self) -> Any:
        return self.name


@pytest.mark.parametrize("kind", [str, os.fsencode, Path, Named, lambda p: Named(os.fsencode(p))])
def test_a_path_is_str_bytes_or_path_like(path: Path, kind: Callable[[str], Any]) -> None:
    given = kind(str(path))
    with oblivion_dbm.open(given, "c") as db:
        db["a"] = "1"
        assert db.path == str(path)
    with Database(given, "r") as db:
        assert db["a"] == b"1"
    oblivion_dbm.remove(given)
    assert not path.exists()


def test_a_relative_path_is_made_absolute_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    db = Database("store")
    monkeypatch.chdir("/")
    db["a"] = "1"
    assert db.path == str(tmp_path / "store")
    assert db.verify() == []
    db.close()


@pytest.mark.parametrize(
    "flag", ["c", "cs", "cf", "cu", "cfu", "cus", "n", "nfu", "ns", "w", "wf", "wsu", "r", "ru"]
)
def test_a_flag_is_a_first_letter_and_any_of_s_f_and_u(path: Path, flag: str) -> None:
    make(path, a="1")
    with oblivion_dbm.open(path, flag) as db:
        assert db.readonly == (flag[0] == "r")
        assert len(db) == (0 if flag[0] == "n" else 1)
        if not db.readonly:
            db["b"] = "2"


@pytest.mark.parametrize(
    ("flag", "sync", "mode"),
    [
        ("c", None, "normal"),
        ("c", "off", "off"),
        ("c", "full", "full"),
        ("cs", None, "full"),
        ("cf", None, "off"),
        ("cs", "full", "full"),
        ("cf", "off", "off"),
    ],
)
def test_flag_and_sync_choose_the_mode_together(
    path: Path, flag: str, sync: str | None, mode: str
) -> None:
    with Database(path, flag, sync=sync) as db:
        assert db._engine.options.sync == mode


@pytest.mark.parametrize(("flag", "sync"), [("cs", "off"), ("cf", "full"), ("csf", None)])
def test_a_flag_and_a_sync_that_contradict_each_other_are_refused(
    path: Path, flag: str, sync: str | None
) -> None:
    with pytest.raises(ValueError, match="contradict"):
        Database(path, flag, sync=sync)
    assert not path.exists()


def test_error_is_a_class_under_os_error() -> None:
    assert isinstance(oblivion_dbm.error, type)
    assert issubclass(oblivion_dbm.error, OSError)
    assert issubclass(oblivion_dbm.CorruptionError, oblivion_dbm.error)


@pytest.mark.parametrize("flag", ["r", "w"])
def test_a_missing_store_is_enoent(path: Path, flag: str) -> None:
    with pytest.raises(error, match="'c'") as caught:
        oblivion_dbm.open(path, flag)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, str(path))


def test_n_replaces_an_ordinary_file_and_empties_a_store(path: Path) -> None:
    path.write_text("junk")
    with oblivion_dbm.open(path, "n") as db:
        db["a"] = "1"
    with oblivion_dbm.open(path, "n") as db:
        assert len(db) == 0
    with oblivion_dbm.open(path, "c") as db:
        assert len(db) == 0


def test_it_is_a_mutable_mapping_with_the_extras_of_gdbm(path: Path) -> None:
    with Database(path) as db:
        assert isinstance(db, MutableMapping)
        db.update(a="1", b="2")
        assert db.firstkey() == b"a"
        assert db.nextkey("a") == b"b"
        assert db.nextkey("b") is db.nextkey("absent") is None
        db.reorganize()
        assert len(db.stats()["runs"]) == 1
        db.sync()
        db.clear()
        assert db.firstkey() is None
        with pytest.raises(TypeError):
            hash(db)


# Reading only.


def test_a_read_only_handle_refuses_every_write_and_reads_on(path: Path) -> None:
    make(path, a="1")
    db = oblivion_dbm.open(path, "r")
    for write in writes_of(db):
        with pytest.raises(error, match="reading only") as caught:
            write()
        assert caught.value.errno == errno.EROFS
    assert db.setdefault("a", "2") == b"1"
    db.sync()
    db.refresh()
    assert dict(db) == {b"a": b"1"}
    db.close()


def test_an_empty_read_only_store_refuses_popitem_too(path: Path) -> None:
    make(path)
    with oblivion_dbm.open(path, "r") as db, pytest.raises(error, match="reading only"):
        db.popitem()


def test_opening_for_reading_changes_nothing_on_disk(path: Path) -> None:
    make(path, a="1")
    before = {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in path.iterdir()}
    with oblivion_dbm.open(path, "r") as db:
        assert len(db) == 1
        assert db.verify() == []
        assert db.stats()["memtable_records"] == 1
    after = {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in path.iterdir()}
    assert after == before


def test_a_reader_beside_a_live_writer_sees_its_writes(path: Path) -> None:
    with Database(path) as writer, Database(path, "r") as reader:
        assert not reader
        writer["a"] = "1"
        assert reader["a"] == b"1"
        writer.flush()
        writer["b"] = "2"
        assert reader.keys() == [b"a", b"b"]
        del writer["a"]
        assert "a" not in reader
        assert reader.first() == reader.last() == (b"b", b"2")
        writer.clear()
        assert len(reader) == 0
        assert not reader


# Two writers.


def test_a_second_writer_is_eagain_at_once(path: Path) -> None:
    with Database(path) as db:
        db["a"] = "1"
        for flag in "wcn":
            with pytest.raises(error) as caught:
                oblivion_dbm.open(path, flag)
            assert caught.value.errno == errno.EAGAIN
            assert str(path) in str(caught.value)
        assert db["a"] == b"1"
    with Database(path) as db:
        assert db["a"] == b"1"


def test_a_second_writer_waits_as_long_as_it_is_told(path: Path) -> None:
    first = Database(path)
    with pytest.raises(error) as caught:
        Database(path, lock_timeout=0.05)
    assert caught.value.errno == errno.EAGAIN
    opened = threading.Event()

    def second() -> None:
        with Database(path, lock_timeout=30) as db:
            db["second"] = "was here"
            opened.set()

    thread = threading.Thread(target=second)
    thread.start()
    first["first"] = "was here"
    assert not opened.is_set()
    first.close()
    thread.join()
    with Database(path, "r") as db:
        assert db.keys() == [b"first", b"second"]


def test_a_forgotten_handle_gives_its_lock_back(path: Path) -> None:
    db = Database(path)
    db["a"] = "1"
    del db
    gc.collect()
    with Database(path) as db:
        assert db["a"] == b"1"


# Closing.


def reads_of(db: Database) -> list[Callable[[], object]]:
    return [
        lambda: db["a"],
        lambda: db["absent"],
        lambda: db["a":],
        lambda: "a" in db,
        lambda: len(db),
        lambda: bool(db),
        lambda: iter(db),
        lambda: reversed(db),
        lambda: db == {},
        lambda: db.get("a"),
        lambda: db.get_many(["a"]),
        lambda: db.nextkey("a"),
        lambda: list(db.items()),
        lambda: list(db.values()),
        lambda: db.prefixed("a")["a"],
        lambda: list(db.prefixed("a")),
        *(db.scan, db.keys, db.first, db.last, db.firstkey, db.sync, db.refresh, db.verify),
        db.stats,
    ]


def writes_of(db: Database) -> list[Callable[[], object]]:
    return [
        lambda: db.__setitem__("a", "2"),
        lambda: db.__delitem__("a"),
        lambda: db.__delitem__("absent"),
        lambda: db.__delitem__(slice("a", "b")),
        lambda: db.__delitem__(slice("x", "y")),
        lambda: db.pop("a"),
        lambda: db.pop("absent"),
        lambda: db.pop("absent", None),
        lambda: db.setdefault("absent", "1"),
        lambda: db.update(a="2"),
        lambda: db.put_many({"a": "2"}),
        lambda: db.put_many([]),
        lambda: db.load([("a", "2")]),
        lambda: db.load([]),
        lambda: db.prefixed("a").__setitem__("a", "2"),
        lambda: db.prefixed("a").clear(),
        lambda: db.prefixed("x").clear(),
        *(db.popitem, db.clear, db.batch, db.flush, db.compact, db.reorganize),
    ]


def test_after_close_everything_is_an_error_with_the_known_text(path: Path) -> None:
    db = Database(path)
    db.update(a="1", b="2")
    iterators = [iter(db), db.scan(), iter(db.items()), iter(db.values()), db["a":], reversed(db)]
    assert next(iterators[0]) == b"a"
    batch = db.batch()
    batch["late"] = "1"
    db.close()
    db.close()
    for call in [*reads_of(db), *writes_of(db)]:
        with pytest.raises(error, match=CLOSED):
            call()
    for iterator in iterators:
        with pytest.raises(error, match=CLOSED):
            next(iterator)
    with pytest.raises(error, match=CLOSED):
        batch.__exit__(None, None, None)
    with Database(path, "r") as again:
        assert dict(again) == {b"a": b"1", b"b": b"2"}


def test_a_with_block_closes_whatever_happens(path: Path) -> None:
    with Database(path) as db:
        assert not db.closed
    assert db.closed
    with pytest.raises(KeyError), Database(path) as other:
        other["absent"]
    assert other.closed


def test_attributes_and_repr_tell_the_state(path: Path) -> None:
    db = Database(path)
    assert (db.path, db.readonly, db.closed) == (str(path), False, False)
    assert repr(db) == f"<Database {str(path)!r}>"
    db.close()
    assert (db.path, db.readonly, db.closed) == (str(path), False, True)
    assert repr(db) == f"<closed Database {str(path)!r}>"
    with Database(path, "r") as reader:
        assert repr(reader) == f"<read-only Database {str(path)!r}>"
    assert reader.readonly
    for name in ("path", "readonly", "closed"):
        with pytest.raises(AttributeError):
            setattr(db, name, "other")


@pytest.mark.parametrize("call", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_handle_is_neither_copied_nor_pickled(
    path: Path, call: Callable[[Database], object]
) -> None:
    with Database(path) as db, pytest.raises(TypeError, match="Database cannot be"):
        call(db)


def test_a_database_that_did_not_open_is_forgotten_without_a_sound(path: Path) -> None:
    for flag in ("r", "x"):
        with pytest.raises((error, ValueError)):
            Database(path, flag)
    gc.collect()  # an exception in __del__ would be a warning, and warnings are errors


# What things cost.


def test_len_is_exact_whatever_the_layers(path: Path) -> None:
    model: dict[bytes, bytes] = {}
    with Database(path, memtable_limit=5000, fan_in=2) as db:
        for number in range(800):
            key = b"%03d" % (number * 37 % 300)
            if number % 3 == 2:
                db.pop(key, None)
                model.pop(key, None)
            else:
                db[key] = model[key] = b"%d" % number
            if number % 50 == 0:
                assert len(db) == len(model)
        assert len(db) == len(model)
    for flag in "wr":
        with Database(path, flag) as db:
            assert len(db) == len(model)


def test_truth_first_and_popitem_need_no_walk(path: Path) -> None:
    with Database(path) as db:
        db.load((b"%05d" % number, b"") for number in range(3000))
        db.flush()
        read: list[int] = []

        class Counting(SSTable):
            """Counts the records that are read."""

            def records(self, start: int, stop: int) -> tuple[list[bytes], list[bytes]]:
                read.append(stop - start)
                return super().records(start, stop)

        for table in db._engine.tree.tables.values():
            table.__class__ = Counting
        assert db
        assert db.first() == (b"00000", b"")
        for number in range(100):
            assert db.popitem() == (b"%05d" % number, b"")
        assert 0 < sum(read) < 100 * 200


def test_clear_writes_as_little_for_many_keys_as_for_one(tmp_path: Path) -> None:
    written = []
    for count in (1, 5000):
        with Database(tmp_path / str(count)) as db:
            db.update({b"%d" % number: b"" for number in range(count)})
            before = db.stats()["log_bytes"]
            db.clear()
            written.append(db.stats()["log_bytes"] - before)
            assert len(db) == 0
    assert written[0] == written[1] == 13


def test_a_batch_is_one_record_in_the_log(path: Path) -> None:
    with Database(path) as db:
        db["a"] = "1"
        before = db.stats()["log_bytes"]
        with db.batch() as batch:
            batch["b"] = "2"
            del batch["a"]
        assert db.stats()["log_bytes"] - before == 13 + 15 + 14


# The store.


def test_flush_compact_and_stats_tell_one_story(path: Path) -> None:
    with Database(path) as db:
        db.update(a="1", b="2")
        assert db.stats()["memtable_records"] == 2
        assert db.stats()["runs"] == []
        db.flush()
        del db["a"]
        db.flush()
        assert [(run["puts"], run["tombstones"]) for run in db.stats()["runs"]] == [(0, 1), (2, 0)]
        db.compact()
        (run,) = db.stats()["runs"]
        assert (run["puts"], run["tombstones"], run["tables"]) == (1, 0, 1)
        assert run["bytes"] == sum(file.stat().st_size for file in path.glob("*.sst"))
        assert db.stats()["memtable_records"] == 0
        assert dict(db) == {b"b": b"2"}


def test_stats_count_look_ups_of_absent_keys(path: Path) -> None:
    with Database(path) as db:
        db.load((b"%05d" % number, b"") for number in range(2000))
        db.flush()
        for number in range(1000):
            assert b"absent %d" % number not in db
        stats = db.stats()
        assert stats["absent_lookups"] == 1000
        assert stats["filter_false_positives"] <= 20


def test_what_was_written_is_there_after_every_way_of_reopening(path: Path) -> None:
    model: dict[bytes, bytes] = {}
    for number in range(6):
        with Database(path, memtable_limit=3000) as db:
            assert dict(db) == model
            more = {b"%d-%d" % (number, n): bytes(n) for n in range(60)}
            db.update(more)
            model.update(more)
            if number % 3 == 1:
                db.flush()
            elif number % 3 == 2:
                db.compact()
        with Database(path, "r") as db:
            assert dict(db) == model
            assert db.verify() == []


def test_remove_deletes_a_store_and_only_a_store(path: Path) -> None:
    make(path, a="1")
    with Database(path):
        with pytest.raises(error) as caught:
            oblivion_dbm.remove(path)
        assert caught.value.errno == errno.EAGAIN
    oblivion_dbm.remove(path)
    assert not path.exists()
    with pytest.raises(error):
        oblivion_dbm.remove(path)


def test_a_store_can_be_moved_and_copied_when_it_is_closed(path: Path, tmp_path: Path) -> None:
    make(path, a="1")
    path.rename(tmp_path / "moved")
    with Database(tmp_path / "moved") as db:
        assert db["a"] == b"1"
        assert db.verify() == []
    assert not path.exists()


def test_an_absent_key_touches_few_indexes(tmp_path: Path) -> None:
    with Database(tmp_path / "store", memtable_limit=1 << 30, fan_in=8) as db:
        for run in range(3):
            db.put_many({b"%d-%d" % (run, number): b"" for number in range(20_000)})
            db.flush()
        assert len(db.stats()["runs"]) == 3
        absent = 20_000
        assert not any(b"absent-%d" % number in db for number in range(absent))
        stats = db.stats()
        assert stats["absent_lookups"] == absent
        # At most 12 bits a key, at most 1 % of false positives in each of the three.
        assert stats["filter_false_positives"] / (3 * absent) <= 0.01
