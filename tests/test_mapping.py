"""What every ordered mapping of ours can do: the whole store, and a prefixed view of it."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, MutableMapping
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from oblivion_dbm import Database
from oblivion_dbm.batch import Batch
from oblivion_dbm.bytes_like import after_prefix, to_bytes
from oblivion_dbm.mapping import LOAD_GROUP, OrderedMapping

KEYS = st.one_of(st.integers(0, 20).map(lambda n: b"%02d" % n), st.binary(max_size=3))
MODELS = st.dictionaries(KEYS, st.binary(max_size=5), max_size=20)
BOUNDS = st.one_of(st.none(), KEYS)


@pytest.fixture(params=["whole", "prefixed", "prefixed twice"])
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OrderedMapping]:
    """Return a store, or a view of one that holds other keys all around it."""
    with Database(tmp_path / "store", memtable_limit=20_000, fan_in=3) as whole:
        if request.param == "whole":
            yield whole
            return
        around = {b"\0": b"1", b"ab": b"2", b"ab\xff": b"3", b"b": b"4", b"abd": b"5"}
        whole.update(around)
        if request.param == "prefixed":
            yield whole.prefixed("abc")
        else:
            yield whole.prefixed("ab").prefixed(b"c")
        assert {key: whole[key] for key in around} == around
        assert all(key in around or key.startswith(b"abc") for key in whole)


def fill(db: OrderedMapping, count: int) -> dict[bytes, bytes]:
    model = {b"%03d" % number: b"v%d" % number for number in range(count)}
    db.update(model)
    return model


# Bytes in and out.


@pytest.mark.parametrize(
    "given",
    [
        "ä",
        "ä".encode(),
        bytearray("ä", "utf-8"),
        memoryview("ä".encode()),
        memoryview("äx".encode())[:2],
    ],
)
def test_str_and_bytes_likes_go_in_and_bytes_come_out(db: OrderedMapping, given: Any) -> None:
    db[given] = given
    assert list(db.scan()) == [("ä".encode(), "ä".encode())]
    assert all(type(part) is bytes for pair in db.scan() for part in pair)
    assert type(db[given]) is type(db.get(given)) is bytes
    assert given in db
    assert db.pop(given) == "ä".encode()


def test_what_goes_in_is_copied(db: OrderedMapping) -> None:
    key, value = bytearray(b"key"), bytearray(b"value")
    db[key] = value
    with db.batch() as batch:
        batch[b"batch"] = value
        value[:] = b"other"
    key[:] = b"yek"
    assert dict(db) == {b"key": b"value", b"batch": b"value"}


def test_a_bytes_subclass_becomes_exact_bytes(db: OrderedMapping) -> None:
    class Name(bytes):
        pass

    db[Name(b"a")] = Name(b"1")
    assert [type(part) for pair in db.scan() for part in pair] == [bytes, bytes]
    assert db[Name(b"a")] == b"1"


def test_a_memoryview_of_wide_items_goes_in_as_its_bytes(db: OrderedMapping) -> None:
    wide = memoryview(bytes(range(16))).cast("Q")
    db["a"] = wide
    db["b"] = memoryview(bytes(range(8)))[::2]
    assert (db["a"], db["b"]) == (bytes(range(16)), b"\0\2\4\6")


def test_empty_keys_and_values_and_nul_bytes_are_fine(db: OrderedMapping) -> None:
    db[b""] = b"empty key"
    db["\0"] = b"\0\0"
    db["empty value"] = ""
    assert dict(db) == {b"": b"empty key", b"\0": b"\0\0", b"empty value": b""}
    assert b"" in db
    assert db.first() == (b"", b"empty key")
    del db[b""]
    assert b"" not in db


# As a dict.


def test_it_is_a_mutable_mapping(db: OrderedMapping) -> None:
    assert isinstance(db, MutableMapping)
    model = fill(db, 20)
    assert dict(db) == model
    assert db == model
    assert db != {**model, b"more": b""}
    assert len(db) == 20
    assert db.pop("003") == model.pop(b"003")
    assert db.pop("003", None) is None
    assert db.pop("003", "default") == "default"
    assert db.popitem() == (b"000", model.pop(b"000"))
    assert db.setdefault("001", "other") == model[b"001"]
    assert db.setdefault("new", "default") == b"default"
    assert db.setdefault("empty") == b""
    model.update({b"new": b"default", b"empty": b""})
    assert db == model
    db.clear()
    assert len(db) == 0
    assert not db
    assert db == {}


def test_items_and_values_behave_as_a_mapping_s_and_keys_are_a_list(db: OrderedMapping) -> None:
    model = fill(db, 50)
    assert db.keys() == sorted(model)
    assert type(db.keys()) is list
    items: Any = db.items()
    values: Any = db.values()
    assert list(items) == sorted(model.items())
    assert list(values) == [model[key] for key in sorted(model)]
    assert list(reversed(items)) == sorted(model.items(), reverse=True)
    assert list(reversed(values)) == [model[key] for key in sorted(model, reverse=True)]
    assert list(reversed(db)) == sorted(model, reverse=True)
    assert (len(items), len(values)) == (50, 50)
    assert (b"001", b"v1") in items
    assert (b"001", b"v2") not in items
    assert b"v1" in values
    db["more"] = "1"
    assert len(items) == 51


@pytest.mark.parametrize("key", ["absent", b"absent", bytearray(b"absent")])
def test_a_key_error_holds_the_key_as_it_was_given(db: OrderedMapping, key: Any) -> None:
    for call in (db.__getitem__, db.__delitem__, db.pop):
        with pytest.raises(KeyError) as caught:
            call(key)
        assert caught.value.args == (key,)
        assert caught.value.args[0] is key


def test_an_empty_mapping_has_no_ends(db: OrderedMapping) -> None:
    for call in (db.first, db.last, db.popitem):
        with pytest.raises(KeyError):
            call()
    assert db.firstkey() is None
    assert db.nextkey("a") is None
    assert not db
    assert list(db) == db.keys() == []
    assert list(db.scan()) == []


@pytest.mark.parametrize(
    ("other", "more"),
    [
        ({b"a": b"1", "b": "2"}, {}),
        ([(b"a", b"1"), ("b", "2")], {}),
        ({b"a": b"1"}, {"b": "2"}),
        ((), {"a": "1", "b": b"2"}),
    ],
)
def test_update_takes_mappings_pairs_and_keywords(
    db: OrderedMapping, other: Any, more: dict[str, Any]
) -> None:
    db.update(other, **more)
    assert dict(db) == {b"a": b"1", b"b": b"2"}


def test_update_takes_what_can_be_walked_once(db: OrderedMapping) -> None:
    db.update(iter([(b"a", b"1"), ("b", "2")]))
    assert dict(db) == {b"a": b"1", b"b": b"2"}


def test_update_takes_whatever_has_keys(db: OrderedMapping) -> None:
    class Keyed:
        def keys(self) -> list[str]:
            return ["a", "b"]

        def __getitem__(self, key: str) -> str:
            return key * 2

    db.update(Keyed())
    assert dict(db) == {b"a": b"aa", b"b": b"bb"}


def test_changing_while_iterating_shows_the_state_at_the_start(db: OrderedMapping) -> None:
    model = fill(db, 600)
    seen = []
    for key in db:
        seen.append(key)
        del db[key]
        db[b"x" + key] = b"new"
    assert seen == sorted(model)
    assert db.keys() == [b"x" + key for key in sorted(model)]


# In order.


@example({b"p": b""}, (None, None, None), False)
@given(MODELS, st.tuples(BOUNDS, BOUNDS, BOUNDS), st.booleans())
def test_a_scan_is_what_its_bounds_say(
    tmp_path_factory: pytest.TempPathFactory,
    model: dict[bytes, bytes],
    bounds: tuple[bytes | None, bytes | None, bytes | None],
    reverse: bool,
) -> None:
    start, stop, prefix = bounds
    expected = sorted(
        (
            (key, value)
            for key, value in model.items()
            if (start is None or start <= key)
            and (stop is None or key < stop)
            and key.startswith(prefix or b"")
        ),
        reverse=reverse,
    )
    with Database(tmp_path_factory.mktemp("store")) as whole:
        whole.update({key: value for key, value in model.items() if not key.startswith(b"p")})
        inside = whole.prefixed(b"p")
        whole.flush()
        inside.update(model)
        whole[b"p\xff\xff\xff\xff"] = b"last"
        del whole[b"p\xff\xff\xff\xff"]
        found = list(inside.scan(start=start, stop=stop, prefix=prefix, reverse=reverse))
        assert found == expected
        if prefix is None:
            assert reverse or list(inside[start:stop]) == expected
        outside = {k: v for k, v in whole.items() if not k.startswith(b"p")}
        assert outside == {k: v for k, v in model.items() if not k.startswith(b"p")}


def test_slices_are_iterators_and_begin_at_once(db: OrderedMapping) -> None:
    fill(db, 30)
    part = db["005":"008"]
    db.clear()
    assert next(part) == (b"005", b"v5")
    assert [key for key, _ in part] == [b"006", b"007"]
    fill(db, 30)
    assert len(list(db[:])) == 30
    assert [key for key, _ in db[b"028":]] == [b"028", b"029"]
    assert [key for key, _ in db[:"002"]] == [b"000", b"001"]
    assert list(db["9":"1"]) == []


def test_a_step_or_an_assignment_to_a_slice_is_refused(db: OrderedMapping) -> None:
    fill(db, 3)
    with pytest.raises(ValueError, match="step"):
        db["a":"b":2]
    with pytest.raises(ValueError, match="step"):
        del db["a":"b":"c"]
    with pytest.raises(TypeError):
        db["a":"b"] = b"x"
    for wrong in (slice(1, None), slice(None, 2)):
        with pytest.raises(TypeError):
            db[wrong]
        with pytest.raises(TypeError):
            del db[wrong]
    assert len(db) == 3


def test_a_slice_is_deleted_as_one(db: OrderedMapping) -> None:
    fill(db, 30)
    del db["010":"020"]
    assert len(db) == 20
    del db["9":"1"]
    del db["010":"020"]
    assert len(db) == 20
    del db[b"020":]
    assert db.keys() == [b"%03d" % number for number in range(10)]
    del db[:]
    assert len(db) == 0


def test_first_and_last_follow_every_change(db: OrderedMapping) -> None:
    db["m"] = "1"
    assert db.first() == db.last() == (b"m", b"1")
    db["a"] = "2"
    db["z"] = "3"
    assert (db.first(), db.last()) == ((b"a", b"2"), (b"z", b"3"))
    del db["a"], db["z"]
    assert db.first() == db.last() == (b"m", b"1")
    assert db.firstkey() == b"m"


def test_nextkey_walks_all_keys_and_is_none_for_an_absent_one(db: OrderedMapping) -> None:
    model = fill(db, 20)
    key, seen = db.firstkey(), []
    while key is not None:
        seen.append(key)
        key = db.nextkey(key)
    assert seen == sorted(model)
    assert db.nextkey("absent") is None
    assert db.nextkey("000x") is None


# Many at once.


def test_get_many_keeps_the_order_of_the_keys(db: OrderedMapping) -> None:
    fill(db, 3)
    assert db.get_many(["002", b"absent", "000"]) == [b"v2", None, b"v0"]
    assert db.get_many(iter(["absent"]), default=7) == [7]
    assert db.get_many([]) == []


def test_put_many_takes_pairs_or_a_mapping_and_the_last_wins(db: OrderedMapping) -> None:
    db.put_many({"a": "1"})
    db.put_many([("b", "2"), ("b", "3"), ("a", b"4")])
    db.put_many(iter([("c", "5")]))
    db.put_many([])
    assert dict(db) == {b"a": b"4", b"b": b"3", b"c": b"5"}


def broken() -> Iterator[tuple[Any, Any]]:
    yield "good", "pair"
    yield "bad", 5


@pytest.mark.parametrize("method", ["put_many", "update"])
def test_nothing_is_put_when_one_pair_cannot_be(db: OrderedMapping, method: str) -> None:
    with pytest.raises(TypeError):
        getattr(db, method)(broken())
    with pytest.raises((TypeError, ValueError)):
        getattr(db, method)([("a", "1"), ("b",)])
    assert len(db) == 0


def test_load_streams_any_number_and_tells_how_far_it_came(db: OrderedMapping) -> None:
    steps: list[int] = []
    count, size = 300, LOAD_GROUP // 100
    pairs = ((b"%03d" % number, bytes(size)) for number in range(count))
    assert db.load(pairs, progress=steps.append) == count
    assert len(db) == count
    assert len(steps) > 1
    assert steps == sorted(steps)
    assert db.load({"a": "1"}) == 1
    assert db.load([]) == 0


def test_a_load_that_fails_keeps_whole_groups_and_says_how_many(db: OrderedMapping) -> None:
    def pairs() -> Iterator[tuple[bytes, Any]]:
        for number in range(250):
            yield b"%03d" % number, bytes(LOAD_GROUP // 100)
        yield b"bad", None

    with pytest.raises(TypeError) as caught:
        db.load(pairs())
    loaded = caught.value.loaded  # type: ignore[attr-defined]  # says how far it came
    assert 0 < loaded < 250
    assert db.keys() == [b"%03d" % number for number in range(loaded)]


def test_a_batch_shows_nothing_before_its_end_and_all_of_it_after(db: OrderedMapping) -> None:
    fill(db, 3)
    with db.batch() as batch:
        batch["new"] = "1"
        batch[b"001"] = bytearray(b"changed")
        del batch["002"]
        del batch["absent"]
        assert dict(db) == {b"000": b"v0", b"001": b"v1", b"002": b"v2"}
    assert dict(db) == {b"000": b"v0", b"001": b"changed", b"new": b"1"}


def change_and_raise(batch: Batch) -> None:
    batch["new"] = "1"
    batch.clear()
    raise InterruptedError


def test_a_batch_that_ends_by_an_exception_does_nothing(db: OrderedMapping) -> None:
    model = fill(db, 3)
    batch = db.batch()
    with pytest.raises(InterruptedError), batch:
        change_and_raise(batch)
    assert dict(db) == model
    with batch:
        batch["later"] = "1"
    assert dict(db) == {**model, b"later": b"1"}


def test_a_batch_that_clears_drops_what_it_held_and_what_was_there(db: OrderedMapping) -> None:
    fill(db, 3)
    with db.batch() as batch:
        batch["dropped"] = "1"
        batch.clear()
        batch["kept"] = "2"
    assert dict(db) == {b"kept": b"2"}
    with db.batch() as batch:
        batch.clear()
    assert dict(db) == {}
    with db.batch():
        pass
    assert dict(db) == {}


def test_a_batch_checks_types_as_they_come(db: OrderedMapping) -> None:
    with db.batch() as batch:
        batch["a"] = "1"
        wrong: list[tuple[Any, Any]] = [(5, "1"), ("b", 5), (None, None), ("a", None)]
        for key, value in wrong:
            with pytest.raises(TypeError):
                batch[key] = value
        with pytest.raises(TypeError):
            del batch[5]  # type: ignore[arg-type]  # that is the point
    assert dict(db) == {b"a": b"1"}


STEPS = st.lists(
    st.one_of(st.tuples(KEYS, st.one_of(st.none(), st.binary(max_size=3))), st.just("clear")),
    max_size=12,
)


@given(MODELS, STEPS)
def test_a_batch_is_its_steps_in_order(
    tmp_path_factory: pytest.TempPathFactory, model: dict[bytes, bytes], steps: list[Any]
) -> None:
    with Database(tmp_path_factory.mktemp("store")) as db:
        db.update(model)
        with db.batch() as batch:
            for step in steps:
                if step == "clear":
                    batch.clear()
                    model.clear()
                elif step[1] is None:
                    del batch[step[0]]
                    model.pop(step[0], None)
                else:
                    batch[step[0]] = step[1]
                    model[step[0]] = step[1]
        assert dict(db) == model
        assert len(db) == len(model)


# Views of a prefix.


@given(st.binary(max_size=4), st.lists(st.binary(max_size=5)))
def test_what_follows_a_prefix_is_the_first_key_without_it(
    prefix: bytes, keys: list[bytes]
) -> None:
    after = after_prefix(prefix)
    for key in [*keys, *(prefix + key for key in keys)]:
        inside = key >= prefix and (after is None or key < after)
        assert inside == key.startswith(prefix)


def test_a_view_says_what_it_is_of(tmp_path: Path) -> None:
    with Database(tmp_path / "store") as whole:
        view = whole.prefixed("names/")
        assert "names/" in repr(view)
        assert repr(whole) in repr(view)
        view["a"] = "1"
        assert whole["names/a"] == b"1"
        view.clear()
        assert len(whole) == 0


def test_views_of_different_prefixes_do_not_meet(tmp_path: Path) -> None:
    with Database(tmp_path / "store") as whole:
        views = [whole.prefixed(prefix) for prefix in (b"a", b"ab", b"b", b"\xff", b"\xff\xff")]
        for number, view in enumerate(views):
            view[b"\xff"] = b"%d" % number
            view[b""] = b"%d" % number
        assert list(views[2]) == [b"", b"\xff"]
        assert list(views[4]) == [b"", b"\xff"]
        views[2].clear()
        assert len(whole) == 7
        del views[3][:]
        assert sorted(whole) == [b"a", b"ab", b"ab\xff", b"a\xff"]


def test_walks_are_lazy(db: OrderedMapping) -> None:
    fill(db, 500)
    assert [key for key, _ in islice(db.scan(), 3)] == [b"000", b"001", b"002"]
    assert [key for key, _ in islice(db.scan(reverse=True), 2)] == [b"499", b"498"]


@pytest.mark.parametrize("wrong", [5, 1.5, None, ["a"], object(), True, array("B", b"a")])
def test_to_bytes_takes_str_and_bytes_likes_and_nothing_else(wrong: Any) -> None:
    with pytest.raises(TypeError, match="keys are str or bytes-like, not"):
        to_bytes(wrong, "key")


def test_a_batch_that_has_ended_takes_nothing_more(db: OrderedMapping) -> None:
    with db.batch() as batch:
        batch["in time"] = "1"
    with pytest.raises(ValueError, match="ended"):
        batch["late"] = "2"
    with pytest.raises(ValueError, match="ended"):
        del batch["in time"]
    with pytest.raises(ValueError, match="ended"):
        batch.clear()
    assert dict(db) == {b"in time": b"1"}
