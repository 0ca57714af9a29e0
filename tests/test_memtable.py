"""The MemTable: layers over layers, ordered and counted only when somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sortedcontainers import SortedList

from oblivion_dbm.engine.kernel import replay
from oblivion_dbm.engine.memtable import FEW, MANY, SLICE, Border, Layer, MemTable
from oblivion_dbm.engine.record import DELETE, PUT, encode
from oblivion_dbm.errors import error

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
    found = [key for keys, _ in layer.chunks(start, stop, reverse, repeat(4)) for key in keys]
    inside = [k for k in layer.records if (start or b"") <= k and (stop is None or k < stop)]
    assert sorted(found) == sorted(inside)


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
def test_joining_makes_a_new_layer_as_pouring_would_and_changes_neither(
    below: list[tuple[bytes, bytes | None]],
    older: list[tuple[bytes, bytes | None]],
    younger: list[tuple[bytes, bytes | None]],
) -> None:
    base = {key: value for key, value in dict(below).items() if value is not None}
    layer, above = layer_of(dict(older)), layer_of(dict(younger))
    layer.live_change(base.get)
    layer.order()
    records, tombstones = dict(layer.records), set(layer.tombstones)
    joined = layer.joined(above)
    assert (layer.records, layer.tombstones) == (records, tombstones)
    assert values_of(above.records) == dict(younger)
    layer.pour(above)
    assert joined.records == layer.records
    assert joined.tombstones == layer.tombstones
    assert list(joined.order()) == sorted(joined.records)
    live = sum(value is not None for value in {**base, **values_of(joined.records)}.values())
    assert joined.live_change(base.get) == live - len(base)


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


@pytest.mark.parametrize("wrong_at", [1, SLICE, SLICE + 1, 2 * SLICE + 5])
def test_a_look_up_that_raises_leaves_the_count_right(wrong_at: int) -> None:
    layer = layer_of({b"%06d" % number: b"" for number in range(2 * SLICE + 10)})
    asked = 0

    def value(key: bytes) -> bytes | None:
        nonlocal asked
        asked += 1
        if asked == wrong_at:
            raise error("damaged")
        return b"" if key < b"000100" else None

    with pytest.raises(error, match="damaged"):
        layer.live_change(value)
    assert layer.live_change(value) == 2 * SLICE + 10 - 100
    assert asked < len(layer.records) + SLICE + 1


def test_a_key_that_comes_while_keys_are_counted_is_counted_too() -> None:
    layer = layer_of({b"%02d" % number: b"" for number in range(10)})
    asked: list[bytes] = []

    def value(key: bytes) -> bytes | None:
        if not asked:
            write(layer, b"new", b"1")  # what a signal handler may do
        asked.append(key)
        return None

    assert layer.live_change(value) == 11
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


def test_settling_never_joins_what_a_held_border_parts(memtable: MemTable) -> None:
    held = []
    for number in range(4):
        write(memtable.top, b"%d" % number, b"")
        held.append(memtable.freeze())
    assert len(memtable.layers) == 5
    before = [[values_of(layer.records) for layer in border.layers] for border in held]
    del held[1], before[1]
    memtable.settle()
    assert [[values_of(layer.records) for layer in border.layers] for border in held] == before
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


def flat(border: Border) -> dict[bytes, bytes | None]:
    found: dict[bytes, bytes | None] = {}
    for layer in reversed(border.layers):
        found.update(values_of(layer.records))
    return found


def test_a_walk_over_a_held_border_is_not_disturbed_when_one_below_it_goes(
    memtable: MemTable,
) -> None:
    for number in range(0, 200, 2):
        write(memtable.top, b"%03d" % number, b"")
    older = memtable.freeze()
    for number in range(1, 100, 2):
        write(memtable.top, b"%03d" % number, b"")
    border = memtable.freeze()
    bottom = border.layers[-1]
    walk = bottom.chunks(None, None, False, repeat(10))
    found = next(walk)[0]
    del older
    for number in range(3):  # what is below the held border is joined now
        write(memtable.top, b"%03d" % number, None)
        memtable.freeze()
    assert len(memtable.layers) == 3
    found += [key for keys, _ in walk for key in keys]
    assert found == [b"%03d" % number for number in range(0, 200, 2)]
    assert flat(border) == {b"%03d" % n: b"" for n in range(200) if n < 100 or n % 2 == 0}


def test_freezing_a_full_layer_moves_nothing(memtable: MemTable) -> None:
    write(memtable.top, b"first", b"")
    memtable.freeze()
    for number in range(FEW + 1):
        write(memtable.top, b"%d" % number, b"")
    full = memtable.top
    border = memtable.freeze()
    assert border.layers[0] is full
    assert len(border.layers) == 2
    assert full.ordered is None


def test_a_loop_of_popitem_keeps_to_two_layers(memtable: MemTable) -> None:
    for number in range(2 * FEW):
        write(memtable.top, b"%04d" % number, b"")
    bottom = memtable.top
    for number in range(2 * FEW):
        memtable.freeze()
        write(memtable.top, b"%04d" % number, None)
        assert len(memtable.layers) == 2
        assert memtable.layers[-1] is bottom


@pytest.mark.parametrize("window", [0, 1, 3, 20])
@pytest.mark.parametrize("step", [1, FEW // 2, 2 * FEW])
def test_sliding_windows_of_borders_leave_few_layers(window: int, step: int) -> None:
    memtable = MemTable()
    held: list[tuple[Border, int]] = []
    total = 0
    for _ in range(400):
        for _ in range(step):
            write(memtable.top, b"%d" % total, b"")
            total += 1
        held.append((memtable.freeze(), total))
        del held[: max(0, len(held) - window)]
        assert len(memtable.layers) <= window + 2 * MANY + 4
    for border, count in held:
        assert sum(len(layer.records) for layer in border.layers) == count
    assert len(memtable.merged()) == total
    assert memtable.check() == []


def test_an_old_border_that_stays_is_not_in_the_way(memtable: MemTable) -> None:
    write(memtable.top, b"old", b"")
    old = memtable.freeze()
    for number in range(1000):
        write(memtable.top, b"%d" % number, b"")
        memtable.freeze()
        assert len(memtable.layers) == 3
    assert flat(old) == {b"old": b""}


def test_a_sealed_memtable_stays_as_it_is(memtable: MemTable) -> None:
    write(memtable.top, b"a", b"1")
    memtable.freeze()
    write(memtable.top, b"b", b"2")
    memtable.seal()
    layers = memtable.layers
    border = memtable.freeze()
    memtable.mend()
    assert border.layers is memtable.layers is layers
    assert flat(border) == {b"a": b"1", b"b": b"2"}


def test_merging_one_filled_layer_copies_nothing(memtable: MemTable) -> None:
    write(memtable.top, b"a", b"1")
    records = memtable.top.records
    border = memtable.freeze()
    assert memtable.merged() is records
    write(memtable.top, b"b", b"1")
    assert memtable.merged() is not records
    assert values_of(memtable.merged()) == {b"a": b"1", b"b": b"1"}
    assert flat(border) == {b"a": b"1"}


class Interrupt(BaseException):
    """What a signal handler raises."""


def test_pouring_that_was_interrupted_comes_to_its_end(
    memtable: MemTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3 * FEW):
        write(memtable.top, b"%d" % number, b"1")
        if number % (FEW + 1) == FEW:
            memtable.freeze()
    assert len(memtable.layers) == 3
    memtable.top.records.pop(b"%d" % (3 * FEW - 1))  # so that the top layer is poured
    write(memtable.top, b"0", None)
    expected = values_of(memtable.merged())

    def interrupted(older: Layer, younger: Layer) -> None:
        older.records.update(younger.records)
        raise Interrupt

    with monkeypatch.context() as patch:
        patch.setattr(Layer, "pour", interrupted)
        with pytest.raises(Interrupt):
            memtable.freeze()
    assert values_of(memtable.merged()) == expected
    memtable.mend()
    assert memtable.check() == []
    live = sum(value is not None for value in expected.values())
    assert live_keys_of(memtable) == live
    assert flat(memtable.freeze()) == expected
    assert live_keys_of(memtable) == live


def live_keys_of(memtable: MemTable) -> int:
    """Count as the tree does, over nothing."""
    changes = []
    for place, layer in enumerate(memtable.layers, 1):
        below = memtable.layers[place:]

        def value(key: bytes, below: tuple[Layer, ...] = below) -> bytes | None:
            found = next((layer.records[key] for layer in below if key in layer.records), b"\2")
            return found if found[0] == PUT else None

        changes.append(layer.live_change(value))
    return sum(changes)


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


@pytest.mark.parametrize("earlier", [0, 1, 3000, 20_000])
@pytest.mark.parametrize("later", [0, 1, 3000])
def test_a_walk_changes_nothing_in_the_order(earlier: int, later: int) -> None:
    layer = layer_of({b"%05d" % (2 * number): b"" for number in range(earlier)})
    layer.order()
    for number in range(later):
        write(layer, b"%05d" % (2 * number + 1), b"")
    ordered: Any = layer.order()
    index, offset = list(ordered._index), ordered._offset
    for reverse in (False, True):
        walked = [
            key for keys, _ in layer.chunks(b"00001", b"4", reverse, repeat(100)) for key in keys
        ]
        assert sorted(walked) == [key for key in sorted(layer.records) if b"00001" <= key < b"4"]
        assert (list(ordered._index), ordered._offset) == (index, offset)


def spoil_tombstones(memtable: MemTable) -> None:
    memtable.top.tombstones.add(b"never deleted")


def spoil_order(memtable: MemTable) -> None:
    memtable.top.ordered = SortedList([b"zz"])


@pytest.mark.parametrize("spoil", [spoil_tombstones, spoil_order])
def test_a_broken_invariant_is_found(memtable: MemTable, spoil: Callable[[MemTable], None]) -> None:
    write(memtable.top, b"a", b"1")
    memtable.top.order()
    assert memtable.check() == []
    spoil(memtable)
    assert memtable.check() != []


def test_sizes_of_chunks_are_asked_for_one_by_one() -> None:
    layer = layer_of({b"%02d" % number: b"" for number in range(10)})
    given: list[int] = []

    def sizes() -> Iterator[int]:
        for size in (1, 2, 4, 8):
            given.append(size)
            yield size

    chunks = layer.chunks(None, None, False, sizes())
    assert given == []
    assert [len(keys) for keys, _ in chunks] == [1, 2, 4, 3]
    assert given == [1, 2, 4, 8]
