"""The MemTable: layers over layers, ordered and counted only when somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oblivion_dbm.engine.kernel import replay
from oblivion_dbm.engine.memtable import Border, Layer, MemTable
from oblivion_dbm.engine.record import DELETE, PUT, encode

KEYS = st.integers(0, 12).map(lambda number: b"%02d" % number)
CHANGES = st.lists(st.tuples(KEYS, st.one_of(st.none(), st.binary(max_size=3))), max_size=20)


def write(layer: Layer, key: bytes, value: bytes | None) -> None:
    record = encode(DELETE, key, b"") if value is None else encode(PUT, key, value)
    replay(record, 0, len(record), layer.records, layer.tombstones)


def layer_of(changes: dict[bytes, bytes | None]) -> Layer:
    layer = Layer()
    for key, value in changes.items():
        write(layer, key, value)
    return layer


def values_of(records: dict[bytes, bytes]) -> dict[bytes, bytes | None]:
    return {
        key: record[9 + len(key) : -4] if record[0] == PUT else None
        for key, record in records.items()
    }


# Layers.


@given(CHANGES, CHANGES, st.sampled_from([1, 3, 100]), st.booleans())
def test_order_takes_in_what_is_new_each_time_it_is_asked_for(
    first: list[tuple[bytes, bytes | None]],
    second: list[tuple[bytes, bytes | None]],
    size: int,
    reverse: bool,
) -> None:
    layer = Layer()
    for changes in (first, second):
        for key, value in changes:
            write(layer, key, value)
        assert list(layer.order()) == sorted(layer.records)
    chunks = list(layer.chunks(None, None, reverse, repeat(size)))
    if reverse:
        chunks.reverse()
    assert [key for keys, _ in chunks for key in keys] == sorted(layer.records)
    assert all(0 < len(keys) <= size for keys, _ in chunks)
    assert all(records == [layer.records[key] for key in keys] for keys, records in chunks)


@given(CHANGES, st.one_of(st.none(), KEYS), st.one_of(st.none(), KEYS), st.booleans())
def test_chunks_keep_to_their_bounds(
    changes: list[tuple[bytes, bytes | None]],
    start: bytes | None,
    stop: bytes | None,
    reverse: bool,
) -> None:
    layer = layer_of(dict(changes))
    layer.order()
    found = [key for keys, _ in layer.chunks(start, stop, reverse, repeat(4)) for key in keys]
    inside = [k for k in layer.records if (start or b"") <= k and (stop is None or k < stop)]
    assert sorted(found) == sorted(inside)


def test_a_layer_that_was_never_put_in_order_yields_nothing() -> None:
    assert list(layer_of({b"a": b"1"}).chunks(None, None, False, repeat(4))) == []


@given(CHANGES, CHANGES)
def test_pouring_a_younger_layer_is_as_if_it_had_been_written_here(
    older: list[tuple[bytes, bytes | None]], younger: list[tuple[bytes, bytes | None]]
) -> None:
    layer = layer_of(dict(older))
    layer.order()
    layer.pour(layer_of(dict(younger)))
    assert values_of(layer.records) == {**dict(older), **dict(younger)}
    assert list(layer.order()) == sorted(layer.records)
    assert layer.tombstones == {k for k, v in values_of(layer.records).items() if v is None}


@given(CHANGES, CHANGES, CHANGES)
def test_a_layer_tells_how_many_keys_it_adds_and_asks_about_each_key_once(
    below: list[tuple[bytes, bytes | None]],
    first: list[tuple[bytes, bytes | None]],
    second: list[tuple[bytes, bytes | None]],
) -> None:
    base = {key: value for key, value in dict(below).items() if value is not None}
    asked: list[bytes] = []

    def value(key: bytes) -> bytes | None:
        asked.append(key)
        return base.get(key)

    layer = Layer()
    for changes in (first, second):
        for key, content in changes:
            write(layer, key, content)
        union = {**base, **values_of(layer.records)}
        live = sum(content is not None for content in union.values())
        assert layer.live_change(value) == live - len(base)
    assert sorted(asked) == sorted(layer.records)


# The stack.


@pytest.fixture
def memtable() -> MemTable:
    return MemTable()


def test_a_new_memtable_is_empty(memtable: MemTable) -> None:
    assert len(memtable) == 0
    assert memtable.merged() == {}
    assert memtable.get(b"a") is None
    assert not memtable.cleared
    assert memtable.check() == []


def test_what_lies_under_a_held_border_does_not_change(memtable: MemTable) -> None:
    write(memtable.top, b"a", b"1")
    border = memtable.freeze()
    write(memtable.top, b"a", b"2")
    write(memtable.top, b"b", None)
    (frozen,) = border.layers
    assert values_of(frozen.records) == {b"a": b"1"}
    assert values_of(memtable.merged()) == {b"a": b"2", b"b": None}
    assert memtable.get(b"a") == encode(PUT, b"a", b"2")
    assert len(memtable.layers) == 2


def test_a_border_that_nobody_holds_is_poured_over_at_the_next_freeze(memtable: MemTable) -> None:
    write(memtable.top, b"a", b"1")
    memtable.freeze()
    write(memtable.top, b"b", b"2")
    border = memtable.freeze()
    (frozen,) = border.layers
    assert values_of(frozen.records) == {b"a": b"1", b"b": b"2"}
    assert len(memtable.layers) == 2


def test_freezing_twice_with_nothing_between_gives_the_same_border(memtable: MemTable) -> None:
    write(memtable.top, b"a", b"1")
    border = memtable.freeze()
    assert memtable.freeze() is border
    write(memtable.top, b"b", b"2")
    assert memtable.freeze() is not border


def test_settling_never_pours_over_a_border_that_is_held(memtable: MemTable) -> None:
    held = []
    for number in range(4):
        write(memtable.top, b"%d" % number, b"")
        held.append(memtable.freeze())
    assert len(memtable.layers) == 5
    del held[1]
    memtable.settle()
    assert [len(border.layers) for border in held] == [1, 3, 4]
    assert [sorted(values_of(layer.records)) for layer in memtable.layers] == [
        [],
        [b"3"],
        [b"1", b"2"],
        [b"0"],
    ]


STEPS = st.lists(
    st.one_of(
        st.tuples(KEYS, st.one_of(st.none(), st.binary(max_size=3))),
        st.sampled_from(["freeze", "freeze and forget", "forget", "settle"]),
    ),
    max_size=40,
)


@given(STEPS)
def test_borders_show_for_ever_what_was_there_and_the_stack_shows_everything(
    steps: list[tuple[bytes, bytes | None] | str],
) -> None:
    memtable = MemTable()
    model: dict[bytes, bytes | None] = {}
    held: list[tuple[Border, dict[bytes, bytes | None]]] = []
    for step in steps:
        if isinstance(step, tuple):
            write(memtable.top, *step)
            model[step[0]] = step[1]
        elif step == "forget" and held:
            held.pop(0)
        elif step == "freeze":
            held.append((memtable.freeze(), dict(model)))
        elif step == "freeze and forget":
            memtable.freeze()
        else:
            memtable.settle()
        assert memtable.check() == []
        assert values_of(memtable.merged()) == model
        assert all(memtable.get(key) == memtable.merged()[key] for key in model)
        for border, expected in held:
            found: dict[bytes, bytes | None] = {}
            for layer in reversed(border.layers):
                found.update(values_of(layer.records))
            assert found == expected


def test_a_reset_forgets_everything_and_may_hide_what_is_older(memtable: MemTable) -> None:
    write(memtable.top, b"a", b"1")
    border = memtable.freeze()
    memtable.floor = b"a"
    memtable.reset(cleared=True)
    assert memtable.cleared
    assert memtable.floor is None
    assert len(memtable) == 0
    assert values_of(border.layers[0].records) == {b"a": b"1"}
    memtable.reset(cleared=False)
    assert not memtable.cleared


def test_the_floor_sinks_to_a_smaller_put_and_not_to_a_tombstone() -> None:
    memtable = MemTable(b"m")
    write(memtable.top, b"p", b"1")
    write(memtable.top, b"a", None)
    memtable.lower_floor()
    assert memtable.floor == b"m"
    write(memtable.top, b"c", b"1")
    memtable.freeze()
    assert memtable.floor == b"c"


def test_an_unknown_floor_stays_unknown(memtable: MemTable) -> None:
    write(memtable.top, b"c", b"1")
    memtable.lower_floor()
    assert memtable.floor is None


def spoil_tombstones(memtable: MemTable) -> None:
    memtable.top.tombstones.add(b"never deleted")


def spoil_order(memtable: MemTable) -> None:
    order = memtable.top.order()
    order.add(b"zz")
    order.discard(b"a")


@pytest.mark.parametrize("spoil", [spoil_tombstones, spoil_order])
def test_a_broken_invariant_is_found(memtable: MemTable, spoil: Callable[[MemTable], None]) -> None:
    write(memtable.top, b"a", b"1")
    memtable.top.order()
    assert memtable.check() == []
    spoil(memtable)
    assert memtable.check() != []


def test_sizes_of_chunks_are_asked_for_one_by_one() -> None:
    layer = layer_of({b"%02d" % number: b"" for number in range(10)})
    layer.order()
    given: list[int] = []

    def sizes() -> Iterator[int]:
        for size in (1, 2, 4, 8):
            given.append(size)
            yield size

    chunks = layer.chunks(None, None, False, sizes())
    assert given == []
    assert [len(keys) for keys, _ in chunks] == [1, 2, 4, 3]
    assert given == [1, 2, 4, 8]
