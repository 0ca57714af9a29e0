"""A record is encoded once and checked wherever it is read."""

from __future__ import annotations

import mmap
import tracemalloc

import crc32c as published
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oblivion_dbm.engine import record
from oblivion_dbm.engine.kernel import replay
from oblivion_dbm.engine.record import (
    BATCH,
    CLEAR,
    DELETE,
    LONG,
    LONGEST,
    MARKER,
    OVERHEAD,
    PUT,
    RESIDUE,
    SEAL,
    BadRecord,
    crc32c,
    encode,
    read,
)

OPS = st.sampled_from([PUT, DELETE, BATCH, SEAL, CLEAR, MARKER])


def test_the_crc_is_the_published_one() -> None:
    assert crc32c(b"123456789") == 0xE3069283 == published.crc32c(b"123456789")
    assert crc32c(b"6789", crc32c(b"12345")) == crc32c(b"123456789")


@given(OPS, st.binary(max_size=300), st.binary(max_size=1100), st.binary(max_size=9))
def test_a_record_reads_back_at_any_offset(op: int, key: bytes, value: bytes, pad: bytes) -> None:
    whole = encode(op, key, value)
    assert len(whole) == OVERHEAD + len(key) + len(value)
    buffer = pad + whole + pad
    end = len(pad) + len(whole)
    for kind in (bytes, bytearray, memoryview):
        assert read(kind(buffer), len(pad), end) == (op, key, value, end)
    assert crc32c(whole) == RESIDUE


def test_every_single_bit_flip_is_found() -> None:
    whole = encode(PUT, b"key", b"value")
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadRecord) as caught:
            read(damaged, 0, len(damaged))
        assert caught.value.offset == 0


def test_every_truncation_is_found_though_more_bytes_lie_behind() -> None:
    whole = encode(PUT, b"key", b"value")
    for end in range(len(whole)):
        with pytest.raises(BadRecord):
            read(whole, 0, end)
        with pytest.raises(BadRecord):
            read(whole[:end], 0, end)


def test_zeros_are_no_record_whatever_their_number() -> None:
    for length in range(64):
        with pytest.raises(BadRecord):
            read(bytes(length), 0, length)


@pytest.mark.parametrize("op", [0, 7, 255])
def test_an_unknown_operation_is_refused_though_its_crc_matches(op: int) -> None:
    whole = encode(op, b"k", b"v")
    assert crc32c(whole) == RESIDUE
    with pytest.raises(BadRecord, match=f"unknown operation {op}"):
        read(whole, 0, len(whole))


@given(st.binary(max_size=64), st.integers(0, 64))
def test_reading_garbage_raises_nothing_but_bad_record(garbage: bytes, offset: int) -> None:
    try:
        op, key, value, after = read(garbage, offset, len(garbage))
    except BadRecord:
        return
    assert garbage[offset:after] == encode(op, key, value)


def test_lengths_that_lie_allocate_nothing() -> None:
    with mmap.mmap(-1, 1 << 20) as space, memoryview(space) as buffer:
        buffer[:5] = b"\x01\xff\xff\xff\xff"
        with pytest.raises(BadRecord, match="key of 4294967295 bytes"):
            read(buffer, 0, len(buffer))
        buffer[:9] = b"\x01\0\0\0\0\xff\xff\xff\xff"
        with pytest.raises(BadRecord, match="value of 4294967295 bytes"):
            read(buffer, 0, len(buffer))


def test_lengths_that_the_format_cannot_hold_are_refused_by_name() -> None:
    record.check_lengths(LONGEST, LONGEST)
    with pytest.raises(ValueError, match="the key has 4294967296 bytes; the limit is 4294967295"):
        record.check_lengths(LONGEST + 1, 0)
    with pytest.raises(ValueError, match="the value has 4294967296 bytes"):
        record.check_lengths(0, LONGEST + 1)


def test_a_length_that_claims_the_whole_file_costs_no_memory() -> None:
    size = 32 << 20
    damaged = encode(PUT, b"key", b"")[:8] + (size - 20).to_bytes(4, "little")
    buffer = memoryview(bytearray(size))
    buffer[: len(damaged)] = damaged
    tracemalloc.start()
    try:
        with pytest.raises(BadRecord, match="expected crc"):
            read(buffer, 0, size)
        assert replay(buffer, 0, size, {}, set()) == (0, 0)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("length", [0, LONG - 20, LONG, LONG + 1, 3 * LONG])
def test_long_records_are_read_as_short_ones(length: int) -> None:
    whole = encode(PUT, b"key", b"v" * length)
    assert read(b"xx" + whole, 2, len(whole) + 2) == (PUT, b"key", b"v" * length, len(whole) + 2)
    records: dict[bytes, bytes] = {}
    assert replay(whole, 0, len(whole), records, set()) == (len(whole), 0)
    assert records == {b"key": whole}
    for at in (0, 6, len(whole) // 2, len(whole) - 1):
        damaged = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        with pytest.raises(BadRecord):
            read(damaged, 0, len(damaged))
        assert replay(damaged, 0, len(damaged), {}, set()) == (0, 0)
