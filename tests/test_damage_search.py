"""Searching damaged bytes finds all records in them, in a time that grows with their number."""

from __future__ import annotations

import time
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oblivion_dbm.engine.damage import search
from oblivion_dbm.engine.filesystem import FileSystem
from oblivion_dbm.engine.hand_over import HandOver, line
from oblivion_dbm.engine.record import BATCH, CLEAR, DELETE, PUT, encode

KINDS = bytes([PUT, DELETE])
#: Bytes that begin no record.
JUNK = st.lists(st.integers(7, 255), max_size=40).map(bytes)
RECORDS = st.builds(encode, st.sampled_from([PUT, DELETE]), st.binary(max_size=20), st.binary())


def found(data: bytes, kinds: bytes = KINDS) -> list[tuple[int, bytes]]:
    def piece(offset: int, length: int) -> bytes:
        return data[offset : offset + length]

    return list(search(piece, 0, len(data), kinds))


@given(st.lists(st.tuples(JUNK, RECORDS), max_size=6), JUNK)
def test_every_record_between_other_bytes_is_found(
    parts: list[tuple[bytes, bytes]], rest: bytes
) -> None:
    data = b"".join(junk + record for junk, record in parts) + rest
    ends = list(accumulate(len(junk) + len(record) for junk, record in parts))
    expected = [(end - len(record), record) for end, (_, record) in zip(ends, parts)]
    assert found(data) == expected


@given(st.binary(max_size=300))
def test_nothing_is_found_in_any_bytes(data: bytes) -> None:
    assert found(data) == []


@pytest.mark.parametrize("size", [1 << 20, (1 << 20) + 3, 3 << 20])
def test_long_records_and_those_at_the_border_of_a_piece_are_found(size: int) -> None:
    long, short = encode(PUT, b"long", b"v" * size), encode(PUT, b"short", b"v")
    for before in (0, 1, (1 << 20) - 7, (1 << 20) - 3, 1 << 20):
        data = b"\xff" * before + long + b"\xff" + short
        assert [record for _, record in found(data)] == [long, short]


@pytest.mark.parametrize(
    "unit",
    [b"\1\0\0\0\0", b"\1", b"\0\1\1\0\0\0", b"\1\0\0\0\0\xff\xff\0\0", b"\2\0\0\1\0\0\0\1\0"],
)
def test_bytes_that_pretend_to_be_records_take_no_time_without_bound(unit: bytes) -> None:
    took = []
    for size in (1 << 18, 1 << 20):
        began = time.process_time()
        found(unit * (size // len(unit)))
        took.append(time.process_time() - began)
    assert took[1] < 12 * took[0] + 1


def test_the_records_of_a_batch_are_handed_over_all_or_none(tmp_path: object) -> None:
    clear, put = encode(CLEAR, b"", b""), encode(PUT, b"k", b"v")
    whole, wrong = encode(BATCH, b"", clear + put), encode(BATCH, b"", put + put[:-1])
    nested = encode(BATCH, b"", encode(BATCH, b"", put))
    data = whole + wrong + nested
    hand_over = HandOver(FileSystem(), f"{tmp_path}/found.jsonl", 0o666)
    hand_over.add_of_log("000001.wal", lambda at, size: data[at : at + size], 0, len(data))
    assert hand_over.finish()
    with open(hand_over.path, encoding="utf-8") as file:
        assert file.read().splitlines() == [
            '{"file": "000001.wal", "offset": 9, "op": "clear", "why": "found"}',
            line("000001.wal", 22, put, "found"),
        ]
