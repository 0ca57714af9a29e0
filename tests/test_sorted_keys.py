"""Sorted keys: a value that gives another one, whatever order the keys come in."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oblivion_dbm.engine.sorted_keys import LARGEST_PART, SLICE, SortedKeys

KEYS = st.lists(st.binary(max_size=3), unique=True, max_size=30)


@given(KEYS, st.lists(st.integers(0, 30)))
def test_keys_come_out_in_order_however_they_came(keys: list[bytes], cuts: list[int]) -> None:
    bounds = [0, *sorted(cuts), len(keys)]
    made = [SortedKeys()]
    for low, high in pairwise(bounds):
        made.append(made[-1].with_keys(keys[low:high]))
    for found, end in zip(made, bounds):
        assert list(found) == sorted(keys[:end])
        assert len(found) == len(keys[:end])


def groups(kind: str) -> list[list[bytes]]:
    """Return groups of keys of all sizes, so that each way to take keys in is gone."""
    random = Random(kind)
    sizes = [1, 1, 3, 1, 2 * LARGEST_PART, 1, 100, 1, 3 * SLICE, 1, 1, 20 * LARGEST_PART]
    sizes += [1, SLICE + 1, 10, *[1] * 100]
    numbers = list(range(sum(sizes)))
    if kind == "random":
        random.shuffle(numbers)
    if kind == "descending":
        numbers.reverse()
    keys = [b"%06d" % number for number in numbers]
    return [[keys.pop(0) for _ in range(size)] for size in sizes]


@pytest.mark.parametrize("kind", ["ascending", "descending", "random"])
def test_many_keys_lie_in_parts_that_are_not_too_large(kind: str) -> None:
    keys: list[bytes] = []
    found = SortedKeys()
    for group in groups(kind):
        keys += group
        before, expected = found, list(found)
        found = found.with_keys(group)
        assert list(before) == expected
        assert list(found) == sorted(keys)
        assert all(0 < len(part) <= LARGEST_PART for part in found.parts(None, None, False))


def test_one_key_after_the_other_makes_parts_too() -> None:
    found = SortedKeys()
    for number in range(3 * LARGEST_PART):
        found = found.with_keys([b"%06d" % number])
    assert len(list(found.parts(None, None, False))) > 2
    assert list(found) == [b"%06d" % number for number in range(3 * LARGEST_PART)]


@pytest.mark.parametrize("reverse", [False, True])
def test_a_range_is_cut_out_of_the_parts(reverse: bool) -> None:
    random = Random(reverse)
    keys = sorted(b"%06d" % random.randrange(10**6) for _ in range(5 * LARGEST_PART))
    keys = sorted(set(keys))
    found = SortedKeys().with_keys(random.sample(keys, len(keys)))
    edges = [part[end] for part in found.parts(None, None, False) for end in (0, -1)]
    bounds = [None, b"", b"9", *edges, *random.sample(keys, 10), b"5", *(e + b"\0" for e in edges)]
    for start in random.sample(bounds, 20):
        for stop in random.sample(bounds, 20):
            inside = [k for k in keys if (start or b"") <= k and (stop is None or k < stop)]
            parts = list(found.parts(start, stop, reverse))
            assert all(parts)
            if reverse:
                parts.reverse()
            assert [key for part in parts for key in part] == inside
