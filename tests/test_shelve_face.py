"""The look-alike of the standard module shelve, and the cursor for BsdDbShelf."""

from __future__ import annotations

import json
import pickle
import shelve as stdlib_shelve
import subprocess
import sys
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest

import oblivion_dbm
from oblivion_dbm import Database, shelve
from oblivion_dbm.shelve import BsdDbShelf, Ordered, Shelf, ShelveError


def to_json(value: object, protocol: int) -> bytes:
    return json.dumps([protocol, value]).encode()


def from_json(data: bytes) -> object:
    return json.loads(data)[1]


class CountingStore(dict[bytes, bytes]):
    """A backend that counts its calls of keys, and says what it was told."""

    def __init__(self) -> None:
        self.listed = 0
        self.told: list[str] = []

    def keys(self) -> Any:
        self.listed += 1
        return list(super().keys())

    def sync(self) -> None:
        self.told.append("sync")

    def reorganize(self) -> None:
        self.told.append("reorganize")

    def close(self) -> None:
        self.told.append("close")


class BareStore:
    """As little as shelve asks for: no clear, no sync, no close; like an old gdbm."""

    def __init__(self) -> None:
        self.data: dict[bytes, bytes] = {}
        self.listed = 0

    def __getitem__(self, key: bytes) -> bytes:
        return self.data[key]

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self.data[key] = value

    def __delitem__(self, key: bytes) -> None:
        del self.data[key]

    def __len__(self) -> int:
        return len(self.data)

    def __contains__(self, key: bytes) -> bool:
        return key in self.data

    def keys(self) -> list[bytes]:
        self.listed += 1
        return list(self.data)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    with Database(tmp_path / "store") as opened:
        yield opened


@pytest.mark.parametrize(
    "source",
    [
        "import oblivion_dbm; oblivion_dbm.shelve.open(path)['k'] = 1",
        "import oblivion_dbm.shelve; oblivion_dbm.shelve.open(path)['k'] = 1",
        "import shelve, oblivion_dbm; oblivion_dbm.shelve.open(path)['k'] = 1",
        "import oblivion_dbm, shelve; oblivion_dbm.shelve.open(path)['k'] = 1",
        "from oblivion_dbm import shelve; shelve.open(path)['k'] = 1",
        "import oblivion_dbm; oblivion_dbm.dbm; oblivion_dbm.shelve.open(path)['k'] = 1",
        "import oblivion_dbm; oblivion_dbm.shelve; oblivion_dbm.dbm.open(path, 'c').close()",
        "import oblivion_dbm; oblivion_dbm.install(); oblivion_dbm.shelve.open(path)['k'] = 1",
    ],
)
def test_any_order_of_imports_works(tmp_path: Path, source: str) -> None:
    code = f"path = {str(tmp_path / 'store')!r}\n{source}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    assert oblivion_dbm.whichdb(tmp_path / "store") == "oblivion_dbm"


def test_it_is_not_the_standard_module_but_derives_from_it(tmp_path: Path) -> None:
    assert shelve is not stdlib_shelve
    assert set(stdlib_shelve.__all__) <= set(shelve.__all__)
    with shelve.open(tmp_path / "shelf") as shelf:
        assert isinstance(shelf, stdlib_shelve.DbfilenameShelf)
        assert isinstance(shelf, Shelf)


def test_objects_are_kept(tmp_path: Path) -> None:
    for path in (str(tmp_path / "shelf"), bytes(tmp_path / "shelf"), tmp_path / "shelf"):
        with shelve.open(path) as shelf:
            shelf["key"] = {"a": (1, 2)}
        with shelve.open(path, flag="r") as shelf:
            assert dict(shelf) == {"key": {"a": (1, 2)}}
            with pytest.raises(oblivion_dbm.error):
                shelf["key"] = 1


def test_options_reach_the_store(tmp_path: Path) -> None:
    with shelve.open(tmp_path / "shelf", "c", sync="off", mode=0o600) as shelf:
        shelf["key"] = 1
    with pytest.raises(TypeError):
        shelve.open(tmp_path / "shelf", "c", no_such_option=1)


def test_a_shelf_of_another_kind_still_opens(tmp_path: Path) -> None:
    import dbm.dumb

    with dbm.dumb.open(str(tmp_path / "old"), "c") as old:
        old["key"] = pickle.dumps([1, 2])
    with shelve.open(tmp_path / "old", "w") as shelf:
        assert shelf["key"] == [1, 2]
        shelf["more"] = 3
    assert oblivion_dbm.whichdb(tmp_path / "old") == "dbm.dumb"


def test_serializer_and_deserializer_take_the_place_of_pickle(tmp_path: Path) -> None:
    path = tmp_path / "shelf"
    with shelve.open(path, protocol=3, serializer=to_json, deserializer=from_json) as shelf:
        shelf["key"] = {"a": 1}
        assert shelf["key"] == {"a": 1}
    with oblivion_dbm.open(path) as db:
        assert db["key"] == b'[3, {"a": 1}]'


def test_a_serializer_may_give_a_bytearray(db: Database) -> None:
    def serializer(value: object, protocol: int) -> bytearray:
        return bytearray(pickle.dumps(value, protocol))

    with Shelf(db, serializer=serializer, deserializer=pickle.loads) as shelf:
        shelf["key"] = [1, 2]
        assert shelf["key"] == [1, 2]


@pytest.mark.parametrize("given", [{"serializer": to_json}, {"deserializer": from_json}])
def test_one_without_the_other_is_refused_before_anything_is_made(
    tmp_path: Path, given: dict[str, Any]
) -> None:
    with pytest.raises(ShelveError):
        shelve.open(tmp_path / "shelf", **given)
    assert list(tmp_path.iterdir()) == []
    for kind in (Shelf, BsdDbShelf):
        with pytest.raises(ShelveError):
            kind({}, **given)


def test_writeback_keeps_what_was_changed_in_place(tmp_path: Path) -> None:
    with shelve.open(tmp_path / "shelf", writeback=True) as shelf:
        shelf["key"] = []
        shelf["key"].append(1)
        assert shelf.dict["key"] == pickle.dumps([])
        shelf.sync()
        assert shelf.dict["key"] == pickle.dumps([1])
        shelf["key"].append(2)
    with shelve.open(tmp_path / "shelf", "r") as shelf:
        assert shelf["key"] == [1, 2]


def test_writeback_uses_the_serializer(tmp_path: Path) -> None:
    options: dict[str, Any] = {"serializer": to_json, "deserializer": from_json}
    with shelve.open(tmp_path / "shelf", writeback=True, **options) as shelf:
        shelf["key"] = []
        shelf["key"].append("x")
    with shelve.open(tmp_path / "shelf", "r", **options) as shelf:
        assert shelf["key"] == ["x"]


@pytest.mark.parametrize("make", [CountingStore, BareStore])
def test_clear_does_not_list_the_keys_for_every_key(make: Any) -> None:
    backend = make()
    shelf = Shelf(backend, writeback=True)
    for number in range(50):
        shelf[str(number)] = number
    backend.listed = 0
    shelf.clear()
    assert len(backend) == 0
    assert backend.listed <= 1
    shelf.sync()
    assert len(backend) == 0, "the cache wrote back what was cleared"


def test_close_syncs_and_closes_once() -> None:
    backend = CountingStore()
    shelf = Shelf(backend)
    shelf["key"] = 1
    shelf.close()
    shelf.close()
    shelf.sync()
    assert backend.told == ["sync", "close"]
    for use in (lambda: shelf["key"], lambda: len(shelf), lambda: list(shelf), shelf.clear):
        with pytest.raises(ValueError, match="closed shelf"):
            use()


def test_close_closes_the_backend_also_when_the_cache_cannot_be_pickled() -> None:
    backend = CountingStore()
    shelf = Shelf(backend, writeback=True)
    shelf["key"] = []
    shelf["key"].append(lambda: None)
    with pytest.raises((pickle.PicklingError, AttributeError)):
        shelf.close()
    assert backend.told == ["close"]
    with pytest.raises(ValueError, match="closed shelf"):
        len(shelf)
    shelf.close()


def test_an_attribute_error_of_the_backends_close_is_seen() -> None:
    class Broken(CountingStore):
        def close(self) -> None:
            raise AttributeError("a mistake in close")

    shelf = Shelf(Broken())
    with pytest.raises(AttributeError, match="a mistake in close"):
        shelf.close()
    shelf.close()


def test_reorganize_writes_back_first() -> None:
    backend = CountingStore()
    shelf = Shelf(backend, writeback=True)
    shelf["key"] = []
    shelf["key"].append(1)
    shelf.reorganize()
    assert pickle.loads(backend[b"key"]) == [1]
    assert backend.told == ["sync", "reorganize"]
    bare = Shelf(BareStore())
    bare.reorganize()
    bare.close()


def test_keyencoding_is_kept(db: Database) -> None:
    with Shelf(db, keyencoding="latin-1") as shelf:
        shelf["Zoë"] = 1
        assert db.keys() == ["Zoë".encode("latin-1")]
        assert list(shelf) == ["Zoë"]
        with pytest.raises(KeyError) as caught:
            shelf["nope"]
        assert caught.value.args == (b"nope",)
        with pytest.raises(AttributeError):
            shelf[5]  # type: ignore[index]


def test_the_cursor_goes_both_ways_and_stops_at_the_ends(db: Database) -> None:
    db.update({"b": "2", "d": "4", "f": "6"})
    cursor = Ordered(db)
    assert cursor.first() == (b"b", b"2")
    with pytest.raises(KeyError):
        cursor.previous()
    assert cursor.next() == (b"d", b"4")
    assert next(cursor) == (b"f", b"6")
    with pytest.raises(KeyError):
        next(cursor)
    assert cursor.previous() == (b"d", b"4")
    assert cursor.last() == (b"f", b"6")
    assert cursor.set_location("c") == (b"d", b"4")
    assert cursor.set_location(b"d") == (b"d", b"4")
    with pytest.raises(KeyError):
        cursor.set_location("g")
    assert cursor.next() == (b"f", b"6")


def test_a_cursor_that_stands_nowhere_starts_at_an_end(db: Database) -> None:
    for step in (Ordered(db).first, Ordered(db).last, Ordered(db).next, Ordered(db).previous):
        with pytest.raises(KeyError):
            step()
    db.update({"b": "2", "d": "4"})
    assert Ordered(db).next() == (b"b", b"2")
    assert Ordered(db).previous() == (b"d", b"4")


def test_the_cursor_survives_writes(db: Database) -> None:
    db.update({"b": "2", "d": "4", "f": "6"})
    cursor = Ordered(db)
    cursor.set_location("d")
    del db["d"]
    db["e"] = "5"
    db["d\0"] = "just after"
    assert cursor.next() == (b"d\0", b"just after")
    assert cursor.previous() == (b"b", b"2")
    cursor.clear()
    with pytest.raises(KeyError):
        cursor.next()


def test_the_cursor_is_the_mapping_that_it_wraps(db: Database) -> None:
    cursor = Ordered(db)
    assert isinstance(cursor, MutableMapping)
    cursor["a"] = "1"
    cursor.update({"b": b"2"})
    del cursor["a"]
    assert (dict(cursor), len(cursor), "b" in cursor) == ({b"b": b"2"}, 1, True)
    assert cursor.keys() == db.keys() == [b"b"]
    cursor.sync()
    cursor.reorganize()
    cursor.close()
    with pytest.raises(oblivion_dbm.error):
        cursor["b"]
    assert not hasattr(db, "__next__")


def test_a_shelf_with_a_cursor(db: Database) -> None:
    shelf = BsdDbShelf(Ordered(db), serializer=to_json, deserializer=from_json)
    assert isinstance(shelf, stdlib_shelve.BsdDbShelf)
    shelf.update({"b": [2], "d": [4], "f": [6]})
    assert shelf.first() == ("b", [2])
    assert shelf.next() == ("d", [4])
    assert shelf.last() == ("f", [6])
    assert shelf.previous() == ("d", [4])
    assert shelf.set_location("e") == ("f", [6])
    with pytest.raises(KeyError):
        shelf.next()
    shelf.close()
    assert db.closed


def test_the_standard_shelf_classes_work_over_our_handle(db: Database) -> None:
    standard: Any = stdlib_shelve.BsdDbShelf(Ordered(db))
    standard.update({"b": 2, "d": 4})
    assert standard.first() == ("b", 2)
    assert standard.next() == ("d", 4)
    assert standard.set_location("c") == ("d", 4)
    standard.close()
    assert db.closed
