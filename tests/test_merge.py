"""Merged chunks are what a dict would hold, in order, forward and in reverse."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oblivion_dbm import error
from oblivion_dbm.engine.merge import (
    FIRST_CHUNK,
    LARGEST_CHUNK,
    growing_sizes,
    in_order,
    merge,
    without_tombstones,
)
from oblivion_dbm.engine.record import DELETE, PUT, encode

Chunk = tuple[list[bytes], list[bytes]]
Table = dict[bytes, bytes | None]

TABLES = st.dictionaries(
    st.one_of(st.integers(0, 40).map(lambda number: b"%02d" % number), st.binary(max_size=2)),
    st.one_of(st.none(), st.binary(max_size=3)),
    max_size=30,
)
SIZES = st.lists(st.integers(1, 7), min_size=1, max_size=5)


def record(key: bytes, value: bytes | None) -> bytes:
    return encode(DELETE, key, b"") if value is None else encode(PUT, key, value)


def source(table: Table, sizes: list[int], reverse: bool) -> Iterator[Chunk]:
    """Yield a table's chunks, of the sizes given in turn."""
    keys, turn = sorted(table), 0
    while keys:
        size = sizes[turn % len(sizes)]
        part = keys[-size:] if reverse else keys[:size]
        keys = keys[:-size] if reverse else keys[size:]
        turn += 1
        yield part, [record(key, table[key]) for key in part]


def joined(chunks: Iterator[Chunk], reverse: bool) -> Chunk:
    found = list(chunks)
    if reverse:
        found.reverse()
    assert all(keys for keys, _ in found)
    return [k for keys, _ in found for k in keys], [r for _, records in found for r in records]


@given(st.lists(st.tuples(TABLES, SIZES), max_size=5), st.booleans())
def test_a_merge_is_a_dict_updated_from_the_oldest_to_the_newest(
    tables: list[tuple[Table, list[int]]], reverse: bool
) -> None:
    model: Table = {}
    for table, _ in reversed(tables):
        model.update(table)
    sources = [source(table, sizes, reverse) for table, sizes in tables]
    keys, records = joined(merge(sources, reverse), reverse)
    assert keys == sorted(model)
    assert records == [record(key, model[key]) for key in keys]


@given(st.lists(st.tuples(TABLES, SIZES), max_size=4), st.booleans(), st.integers(1, 4))
def test_a_merge_takes_from_its_sources_no_more_than_it_needs(
    tables: list[tuple[Table, list[int]]], reverse: bool, wanted: int
) -> None:
    model: Table = {}
    for table, _ in reversed(tables):
        model.update(table)
    merged = merge([source(table, sizes, reverse) for table, sizes in tables], reverse)
    found = [key for keys, _ in islice(merged, wanted) for key in sorted(keys, reverse=reverse)]
    assert found == sorted(model, reverse=reverse)[: len(found)]


def test_one_source_is_passed_on_as_it_is() -> None:
    chunks = [([b"a"], [b"anything"]), ([b"b", b"c"], [b"at", b"all"])]
    assert list(merge([iter(chunks)])) == chunks
    assert list(merge([])) == []


@given(TABLES, SIZES)
def test_tombstones_are_left_out_and_no_chunk_is_empty(table: Table, sizes: list[int]) -> None:
    keys, records = joined(without_tombstones(source(table, sizes, False)), False)
    live = {key: value for key, value in table.items() if value is not None}
    assert keys == sorted(live)
    assert records == [record(key, live[key]) for key in keys]


def test_a_chunk_without_tombstones_is_not_copied() -> None:
    chunk = ([b"a", b"b"], [record(b"a", b"1"), record(b"b", b"2")])
    assert next(without_tombstones([chunk]))[0] is chunk[0]


def test_chunk_sizes_grow_from_small_to_large() -> None:
    sizes = list(islice(growing_sizes(), 10))
    assert sizes[0] == FIRST_CHUNK
    assert sizes == sorted(sizes)
    assert sizes[-1] == LARGEST_CHUNK
    assert next(growing_sizes(LARGEST_CHUNK)) == LARGEST_CHUNK


@pytest.mark.parametrize("count", [0, 1, 4095, 4096, 4097, 60_000])
@pytest.mark.parametrize("arrangement", ["ascending", "descending", "random", "in_steps"])
def test_keys_come_in_order_in_lists_of_a_few_thousand(count: int, arrangement: str) -> None:
    keys = [b"%07d" % number for number in range(count)]
    if arrangement == "descending":
        keys.reverse()
    elif arrangement == "random":
        Random(5).shuffle(keys)
    elif arrangement == "in_steps":
        keys = [*chain.from_iterable(keys[part::99] for part in range(99))]
    steps: list[int] = []
    lists = list(in_order(dict.fromkeys(keys), steps.append))
    assert [*chain.from_iterable(lists)] == sorted(keys)
    assert max(map(len, lists)) <= 8192
    assert set(steps) == {0}
    assert len(steps) >= count // 2048


@pytest.mark.parametrize("reverse", [False, True])
def test_a_source_that_is_not_in_order_is_an_error_and_no_endless_walk(reverse: bool) -> None:
    ordered: Table = {b"%02d" % number: b"" for number in range(20)}
    keys = [b"25", b"03", b"02", b"01"] if reverse else [b"15", b"16", b"17", b"03", b"02"]
    crafted = iter([(keys, [record(key, b"") for key in keys])])
    with pytest.raises(error, match="not in order"):
        list(merge([source(ordered, [3], reverse), crafted], reverse))
