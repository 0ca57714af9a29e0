"""Ranges of keys against a plain loop over all keys."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from oblivion_dbm.engine.ranges import divided, joined

Range = tuple[bytes, bytes | None]

KEYS = st.binary(max_size=2)
RANGES = st.lists(st.tuples(KEYS, st.none() | KEYS).filter(lambda r: r[1] is None or r[0] < r[1]))


def holds(ranges: list[Range], key: bytes) -> bool:
    return any(start <= key and (stop is None or key < stop) for start, stop in ranges)


@given(RANGES, st.sets(KEYS))
def test_keys_are_divided_by_the_ranges_that_hold_them(
    ranges: list[Range], keys: set[bytes]
) -> None:
    union, ordered = joined(ranges), sorted(keys)
    flags: list[bool] = []
    for low, high, within in divided(ordered, union):
        assert low == len(flags) < high
        flags += [within] * (high - low)
    assert flags == [holds(ranges, key) for key in ordered]


@given(RANGES)
def test_joined_ranges_do_not_touch(ranges: list[Range]) -> None:
    union = joined(ranges)
    assert all(one[1] is not None and one[1] < two[0] for one, two in pairwise(union))
