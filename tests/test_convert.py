"""The log of the seeds goes in whole, and stops where it stops to make sense."""

from __future__ import annotations

import errno
import os
import struct
import tempfile
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oblivion_dbm import Database, error, import_wal
from oblivion_dbm.convert import Imported

PUT, DELETE = 1, 2

Entry = tuple[int, bytes, bytes]

SMALL: list[Entry] = [
    (PUT, b"colour", b"blue"),
    (PUT, b"", b"empty key"),
    (DELETE, b"colour", b""),
    (PUT, b"empty value", b""),
    (DELETE, b"never there", b""),
    (PUT, b"colour", b"green"),
]


def encode(entry: Entry) -> bytes:
    operation, key, value = entry
    body = struct.pack("<BI", operation, len(key)) + key + struct.pack("<I", len(value)) + value
    return body + struct.pack("<I", zlib.crc32(body))


def replay(entries: list[Entry]) -> dict[bytes, bytes]:
    state: dict[bytes, bytes] = {}
    for operation, key, value in entries:
        if operation == PUT:
            state[key] = value
        else:
            state.pop(key, None)
    return state


def counts(entries: list[Entry]) -> tuple[int, int, int]:
    puts = sum(operation == PUT for operation, _, _ in entries)
    return puts, len(entries) - puts, sum(len(encode(entry)) for entry in entries)


@contextmanager
def imported(log: bytes) -> Iterator[tuple[Imported, dict[bytes, bytes], str]]:
    """What an import of ``log`` returns, what is in the store then, and the log's path."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "seed.wal")
        Path(path).write_bytes(log)
        with Database(os.path.join(folder, "store"), sync="off") as database:
            result = import_wal(path, database)
            yield result, dict(database.items()), path


@given(
    st.lists(
        st.tuples(
            st.sampled_from([PUT, DELETE]),
            st.binary(max_size=3) | st.binary(max_size=300),
            st.binary(max_size=40) | st.binary(min_size=1000, max_size=1001),
        ),
        max_size=30,
    )
)
@settings(max_examples=60, deadline=None)
def test_what_was_logged_is_in_the_store(entries: list[Entry]) -> None:
    with imported(b"".join(map(encode, entries))) as (result, state, _):
        assert state == replay(entries)
        assert result == (*counts(entries), None)


def test_every_truncation_imports_the_entries_before_it() -> None:
    log = b"".join(map(encode, SMALL))
    ends = [sum(len(encode(entry)) for entry in SMALL[:n]) for n in range(len(SMALL) + 1)]
    for length in range(len(log) + 1):
        whole = sum(end <= length for end in ends) - 1
        with imported(log[:length]) as (result, state, path):
            assert state == replay(SMALL[:whole]), length
            assert result[:3] == counts(SMALL[:whole]), length
            if length == ends[whole]:
                assert result.damage is None
            else:
                assert result.damage is not None
                assert result.damage.startswith(f"{path}: damaged at byte {ends[whole]}: expected")
                assert f"found the end of the file at byte {length}" in result.damage


def test_every_flipped_byte_stops_the_import_at_its_entry() -> None:
    log = b"".join(map(encode, SMALL))
    start = 0
    for number, entry in enumerate(SMALL):
        for offset in range(start, start + len(encode(entry))):
            damaged = bytearray(log)
            damaged[offset] ^= 0xFF
            with imported(bytes(damaged)) as (result, state, path):
                assert state == replay(SMALL[:number]), offset
                assert result[:3] == counts(SMALL[:number]), offset
                assert result.damage is not None
                assert result.damage.startswith(f"{path}: damaged at byte {start}: expected ")
                assert ", found " in result.damage
        start += len(encode(entry))


@pytest.mark.parametrize(
    ("damaged", "said"),
    [
        (b"\0" * 64, "expected operation 1 (put) or 2 (delete), found 0"),
        (encode((3, b"key", b"value")), "expected operation 1 (put) or 2 (delete), found 3"),
        (encode((PUT, b"key", b"value"))[:-1] + b"\0", "expected crc "),
        (b"\1\xff\xff\xff\xff", "after a key of 4294967295 bytes"),
    ],
)
def test_the_report_says_what_was_expected_and_found(damaged: bytes, said: str) -> None:
    good = encode((PUT, b"kept", b"value"))
    with imported(good + damaged) as (result, state, path):
        assert result.damage is not None
        assert result.damage.startswith(f"{path}: damaged at byte {len(good)}: expected ")
        assert said in result.damage
        assert state == {b"kept": b"value"}
        assert result.bytes_read == len(good)


def test_a_damaged_length_costs_no_memory(tmp_path: Path) -> None:
    """A sparse file of 512 MiB: one whole entry, then a value that claims the rest of it."""
    path = tmp_path / "seed.wal"
    size, good = 512 << 20, encode((PUT, b"kept", b"value"))
    with open(path, "wb") as file:
        file.write(good + b"\1" + struct.pack("<I", 3) + b"key")
        file.write(struct.pack("<I", size - len(good) - 16))
        file.truncate(size)
    with Database(tmp_path / "store") as database:
        tracemalloc.start()
        try:
            result = import_wal(path, database)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert result.damage is not None
        assert "found 00000000" in result.damage
        assert dict(database.items()) == {b"kept": b"value"}
    assert peak < 32 << 20


def test_an_entry_larger_than_a_piece_goes_in() -> None:
    entries = [(PUT, b"large", os.urandom(3 << 20)), (PUT, b"small", b"1"), (DELETE, b"large", b"")]
    with imported(b"".join(map(encode, entries[:2]))) as (result, state, _):
        assert state == replay(entries[:2])
        assert result == (*counts(entries[:2]), None)
    with imported(b"".join(map(encode, entries))) as (result, state, _):
        assert state == replay(entries)
        assert result == (*counts(entries), None)


def test_more_entries_than_a_group_go_in_in_order() -> None:
    entries = [(PUT, b"%d" % (number % 6000), b"%d" % number) for number in range(10_000)]
    with imported(b"".join(map(encode, entries))) as (result, state, _):
        assert state == replay(entries)
        assert result == (*counts(entries), None)


def test_an_import_goes_on_top_of_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "seed.wal"
    path.write_bytes(encode((PUT, b"b", b"new")) + encode((DELETE, b"c", b"")))
    with Database(tmp_path / "store") as database:
        database.update({b"a": b"1", b"b": b"2", b"c": b"3"})
        assert import_wal(os.fsencode(path), database) == (1, 1, 31, None)
    with Database(tmp_path / "store", "r") as database:
        assert dict(database.items()) == {b"a": b"1", b"b": b"new"}


def test_a_log_goes_under_a_prefix(tmp_path: Path) -> None:
    path = tmp_path / "seed.wal"
    path.write_bytes(b"".join(map(encode, SMALL)))
    with Database(tmp_path / "store") as database:
        database["colour"] = "outside"
        assert import_wal(path, database.prefixed(b"old/")) == (*counts(SMALL), None)
        under = {b"old/" + key: value for key, value in replay(SMALL).items()}
        assert dict(database.items()) == {b"colour": b"outside", **under}


def test_a_path_that_is_no_log_is_an_error_with_errno_and_filename(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with Database(tmp_path / "store") as database:
        for name, number in (
            ("missing", errno.ENOENT),
            ("store", errno.EISDIR),
            ("pipe", errno.EINVAL),
        ):
            with pytest.raises(error) as caught:
                import_wal(tmp_path / name, database)
            assert caught.value.errno == number
            assert caught.value.filename == str(tmp_path / name)
        assert len(database) == 0


def test_a_database_that_refuses_is_not_reported_as_damage(tmp_path: Path) -> None:
    path = tmp_path / "seed.wal"
    path.write_bytes(encode((PUT, b"key", b"value")))
    Database(tmp_path / "store").close()
    with Database(tmp_path / "store", "r") as database:
        with pytest.raises(error):
            import_wal(path, database)
        assert len(database) == 0
