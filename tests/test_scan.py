"""What a scan yields is the same, made of records or cut straight out of a table's bytes."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oblivion_dbm import Database
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


def test_a_walk_over_a_temporary_handle_goes_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with Database(path) as db:
        db.put_many({b"%03d" % number: b"x" for number in range(200)})
    expected = [(b"%03d" % number, b"x") for number in range(200)]
    assert list(Database(path).scan()) == expected
    assert [pair for pair in Database(path, "r").items()] == expected  # noqa: C416 - a loop is meant
    assert [key for key in Database(path)] == [key for key, _ in expected]  # noqa: C416 - as above
    assert list(Database(path).prefixed(b"1").values()) == [b"x"] * 100
    Database(path, "w").close()


def test_large_values_are_walked_and_merged_a_few_at_a_time(tmp_path: Path) -> None:
    value = bytes(range(256)) * 1024
    keys = [b"%03d" % number for number in range(40)]
    with Database(tmp_path / "store", memtable_limit=3 << 20, fan_in=3) as db:
        for key in keys:
            db[key] = value
        db[b"small"] = b""
        db.flush()
        assert [key for key, found in db.scan() if found == value] == keys
        assert [key for key, _ in db.scan(reverse=True)] == [b"small", *keys[::-1]]
        db.compact()
        chunks = [
            len(found)
            for table in db._engine.tree.tables.values()
            for found, _ in table.chunks(None, None, False, iter([512] * 100))
        ]
        assert max(chunks) <= 5
        assert db.verify() == []
