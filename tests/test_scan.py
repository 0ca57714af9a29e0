"""What a scan yields is the same, made of records or cut straight out of a table's bytes."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oblivion_dbm.engine.kernel import SHAPES, live_keys, live_values, pairs
from oblivion_dbm.engine.record import DELETE, PUT, encode

Table = dict[bytes, bytes | None]
TABLES = st.dictionaries(st.binary(max_size=4), st.one_of(st.none(), st.binary(max_size=5)))


def chunk(table: Table) -> tuple[list[bytes], list[bytes]]:
    keys, records = sorted(table), []
    for key in keys:
        value = table[key]
        put = encode(DELETE, key, b"") if value is None else encode(PUT, key, value)
        records.append(put)
    return keys, records


@given(TABLES)
def test_the_shapes_of_a_scan_leave_tombstones_out(table: Table) -> None:
    keys, records = chunk(table)
    live = [(key, value) for key in keys if (value := table[key]) is not None]
    assert pairs(keys, records) == live
    assert live_keys(keys, records) == [key for key, _ in live]
    assert live_values(keys, records) == [value for _, value in live]


@pytest.mark.parametrize("name", ["pairs", "keys", "values"])
@given(length=st.integers(0, 4), start=st.integers(0, 9), draw=st.data())
def test_a_shape_is_cut_as_it_is_taken(
    name: str, length: int, start: int, draw: st.DataObject
) -> None:
    keys_of_one_length = st.binary(min_size=length, max_size=length)
    table: Table = dict(
        draw.draw(st.dictionaries(keys_of_one_length, st.binary(max_size=5), max_size=20))
    )
    keys, records = chunk(table)
    ends = list(accumulate(map(len, records), initial=start))
    data = bytes(start) + b"".join(records) + b"what follows"
    shape = SHAPES[name]
    assert shape.cut(data, ends, length) == shape.take(keys, records)


def test_every_shape_has_its_name() -> None:
    keys, records = chunk({b"a": b"1", b"b": None})
    found = {name: shape.take(keys, records) for name, shape in SHAPES.items()}
    assert found == {"pairs": [(b"a", b"1")], "keys": [b"a"], "values": [b"1"]}
