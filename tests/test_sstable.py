"""Tables: what was written is found, and what was damaged is never believed."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oblivion_dbm import CorruptionError, error
from oblivion_dbm.engine.filesystem import File, FileSystem
from oblivion_dbm.engine.kernel import PROBE_LIMIT, SHAPES, Lookup, hash_keys
from oblivion_dbm.engine.kernel.pure import _probe_on
from oblivion_dbm.engine.record import DELETE, OVERHEAD, PUT, crc32c, encode
from oblivion_dbm.engine.sstable import (
    BLOCK,
    FENCES,
    FILTER,
    FOOTER,
    GROUP,
    INDEX,
    LENGTHS,
    LONGEST_DETOUR,
    RECORDS_AT,
    SUMS,
    TAIL,
    SSTable,
)
from oblivion_dbm.engine.table_writer import TableWriter
from oblivion_dbm.engine.version import TableInfo

SYSTEM = FileSystem()
STORE = bytes(range(16))
SEED = 7

Table = dict[bytes, bytes | None]
TABLES = st.dictionaries(
    st.binary(max_size=5), st.one_of(st.none(), st.binary(max_size=30)), min_size=1, max_size=200
)


def record(key: bytes, value: bytes | None) -> bytes:
    return encode(DELETE, key, b"") if value is None else encode(PUT, key, value)


def write(folder: Path, table: Table, *, number: int = 9, chunk: int = 100) -> TableInfo:
    """Write a table in chunks; return what the MANIFEST would say of it."""
    writer = TableWriter(SYSTEM, str(folder), number, SEED)
    keys = sorted(table)
    for start in range(0, len(keys), chunk):
        part = keys[start : start + chunk]
        records = [record(key, table[key]) for key in part]
        writer.add(part, records, sum(table[key] is None for key in part))
    assert len(writer) == len(table)
    return writer.finish(STORE, level=2, part=1, parts=3, sequences=(5, 500))


def open_table(folder: Path, info: TableInfo) -> SSTable:
    return SSTable(SYSTEM, str(folder), info, STORE)


def lookup_of(table: SSTable) -> Lookup:
    return Lookup(SEED, ({}, (), ((None, [table.probe()]),)))


def everything(table: SSTable) -> Table:
    """Read all records in order."""
    found: Table = {}
    for keys, records in table.chunks(None, None, False, repeat(100)):
        for key, whole in zip(keys, records):
            assert key not in found
            found[key] = whole[9 + len(key) : -4] if whole[0] == PUT else None
    return found


def some(count: int) -> Table:
    return {b"%05d" % n: None if n % 5 == 3 else b"v%d" % n for n in range(count)}


# Round trips.


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(TABLES, st.sampled_from([1, 7, 1000]), st.lists(st.binary(max_size=5), max_size=5))
def test_what_was_written_is_found_in_every_way(
    tmp_path_factory: pytest.TempPathFactory, table: Table, chunk: int, others: list[bytes]
) -> None:
    folder = tmp_path_factory.mktemp("table")
    found = open_table(folder, write(folder, table, chunk=chunk))
    assert everything(found) == table
    assert (found.first_key, found.last_key) == (min(table), max(table))
    assert len(found) == len(table)
    lookup, keys = lookup_of(found), sorted(table)
    for key in [*keys, *others]:
        assert lookup.value(key) == table.get(key)
        whole = found.search(key)
        assert whole == (record(key, table[key]) if key in table else None)
        assert found.position(key) == sum(other < key for other in keys)
    found.close()


@given(
    TABLES,
    st.tuples(*[st.one_of(st.none(), st.binary(max_size=3))] * 2),
    st.booleans(),
    st.integers(1, 70),
)
def test_chunks_keep_to_bounds_and_sizes_in_both_directions(
    tmp_path_factory: pytest.TempPathFactory,
    table: Table,
    bounds: tuple[bytes | None, bytes | None],
    reverse: bool,
    size: int,
) -> None:
    start, stop = bounds
    folder = tmp_path_factory.mktemp("table")
    found = open_table(folder, write(folder, table))
    chunks = list(found.chunks(start, stop, reverse, repeat(size)))
    if reverse:
        chunks.reverse()
    inside = [k for k in sorted(table) if (start or b"") <= k and (stop is None or k < stop)]
    assert [key for keys, _ in chunks for key in keys] == inside
    assert all(0 < len(keys) <= size for keys, _ in chunks)
    found.close()


@pytest.mark.parametrize("count", [1, 63, 64, 65, 128, 500])
def test_every_record_has_its_offset_and_every_position_its_key(tmp_path: Path, count: int) -> None:
    found = open_table(tmp_path, write(tmp_path, some(count)))
    expected = RECORDS_AT
    for number, (key, value) in enumerate(some(count).items()):
        assert found.offset(number) == expected
        assert found.position(key) == number
        assert found.position(key + b"x") == number + 1
        expected += len(record(key, value))
    assert found.records_end == expected
    found.close()


@pytest.mark.parametrize(
    ("longest", "width"), [((1 << 16) - 1, 2), (1 << 16, 4), ((1 << 16) + 5, 4)]
)
def test_lengths_are_as_wide_as_the_longest_record_needs(
    tmp_path: Path, longest: int, width: int
) -> None:
    table: Table = {b"a": b"", b"b": b"x" * (longest - OVERHEAD - 1), b"c": b""}
    found = open_table(tmp_path, write(tmp_path, table))
    assert found._width == width
    assert everything(found) == table
    found.close()


def test_the_footer_tells_what_is_in_the_table(tmp_path: Path) -> None:
    info = write(tmp_path, some(100))
    assert (info.number, info.puts, info.tombstones) == (9, 80, 20)
    assert info.size == (tmp_path / "000009.sst").stat().st_size
    found = open_table(tmp_path, info)
    assert (found.puts, found.tombstones, found.level) == (80, 20, 2)
    assert (found.part, found.parts, found.seed) == (1, 3, SEED)
    assert (found.first_sequence, found.last_sequence) == (5, 500)
    found.close()


def test_the_price_of_a_record_is_what_the_format_says(tmp_path: Path) -> None:
    table: Table = {b"%016d" % number: bytes(100) for number in range(10_000)}
    info = write(tmp_path, table, chunk=512)
    assert info.size / len(table) < 116 + 13 + 12 + 2 + 1.5 + 0.5


def test_one_key_may_be_empty_and_one_value_too(tmp_path: Path) -> None:
    table: Table = {b"": b"", b"\0": None, b"\xff": b"end"}
    found = open_table(tmp_path, write(tmp_path, table))
    assert everything(found) == table
    assert lookup_of(found).value(b"") == b""
    found.close()


def test_tables_are_alike_to_the_byte_however_the_chunks_fell(tmp_path: Path) -> None:
    first = write(tmp_path, some(300), chunk=300)
    whole = (tmp_path / "000009.sst").read_bytes()
    (tmp_path / "000009.sst").unlink()
    assert write(tmp_path, some(300), chunk=1) == first
    assert (tmp_path / "000009.sst").read_bytes() == whole


PLAIN = st.dictionaries(st.integers(0, 300), st.binary(max_size=30), min_size=1, max_size=200)


@given(PLAIN, st.booleans(), st.integers(0, 300), st.sampled_from([1, 50, 64, 100, 500]))
def test_lists_cut_straight_out_of_a_table_are_what_its_records_say(
    tmp_path_factory: pytest.TempPathFactory,
    numbers: dict[int, bytes],
    reverse: bool,
    start: int,
    size: int,
) -> None:
    folder = tmp_path_factory.mktemp("table")
    table: Table = {b"%03d" % number: value for number, value in numbers.items()}
    found = open_table(folder, write(folder, table, chunk=30))
    expected = sorted((k, v) for k, v in table.items() if k >= b"%03d" % start)
    lists = list(found.lists(SHAPES["pairs"], b"%03d" % start, None, reverse, repeat(size)))
    if reverse:
        lists.reverse()
    assert [pair for part in lists for pair in part] == expected
    found.close()


def test_the_sum_of_a_group_stands_for_its_records(tmp_path: Path) -> None:
    found = open_table(tmp_path, write(tmp_path, some(200), chunk=7))
    groups = [(0, 64), (64, 128), (0, 128), (128, 200), (0, 200), (192, 200)]
    parts = [(1, 64), (0, 63), (60, 70), (199, 200), (7, 8), (0, 1)]
    for low, high in groups + parts:
        assert found.sums_match(low, high, found.ends(low, high)) is True
    found.close()


def test_no_sum_is_made_over_much_more_than_is_wanted(tmp_path: Path) -> None:
    table: Table = {b"%05d" % number: bytes(LONGEST_DETOUR // 32) for number in range(130)}
    found = open_table(tmp_path, write(tmp_path, table))
    assert found.sums_match(3, 5, found.ends(3, 5)) is None
    assert found.sums_match(128, 129, found.ends(128, 129)) is True
    assert found.sums_match(0, 64, found.ends(0, 64)) is True
    assert found.records(3, 5)[0] == [b"00003", b"00004"]
    found.close()


# Crowded indexes.


def crowded(count: int) -> list[bytes]:
    """Return keys whose home slots all lie in the first sixteenth of an index."""
    keys: list[bytes] = []
    number = 0
    while len(keys) < count:
        key = b"%06d" % number
        if hash_keys([key], SEED)[0] >> 60 == 0:
            keys.append(key)
        number += 1
    return keys


def test_keys_beyond_the_probe_limit_are_found_by_search(tmp_path: Path) -> None:
    keys = crowded(6 * PROBE_LIMIT)
    table: Table = {key: b"value of " + key for key in keys}
    found = open_table(tmp_path, write(tmp_path, table))
    indexed = sum(1 for slot in found.slots if slot)
    assert indexed < len(keys)
    lookup = lookup_of(found)
    assert {key: lookup.value(key) for key in keys} == table
    absent = crowded(7 * PROBE_LIMIT)[6 * PROBE_LIMIT :]
    assert [lookup.value(key) for key in absent] == [None] * len(absent)
    found.close()


def test_a_length_that_claims_the_rest_of_the_table_costs_no_memory(tmp_path: Path) -> None:
    table: Table = {b"%d" % number: bytes(1 << 20) for number in range(9)}
    info = write(tmp_path, table)
    path = tmp_path / "000009.sst"
    data = bytearray(path.read_bytes())
    data[RECORDS_AT + 6 : RECORDS_AT + 10] = (8 << 20).to_bytes(4, "little")
    path.write_bytes(data)
    found = open_table(tmp_path, info)
    lookup = lookup_of(found)
    tracemalloc.start()
    try:
        with pytest.raises(CorruptionError):
            lookup.value(b"0")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert lookup.value(b"1") == bytes(1 << 20)
    found.close()


def test_a_long_key_may_have_the_fingerprint_of_the_last_record(tmp_path: Path) -> None:
    found = open_table(tmp_path, write(tmp_path, {b"only": b"value"}))
    long = bytes(10_000)
    (digest,) = hash_keys([long], SEED)
    home = digest * found.slot_count >> 64
    slots = [0] * len(found.slots)
    slots[home] = (digest & 0xFF_FFFF) << 40 | RECORDS_AT
    masks = [2**64 - 1] * len(found.words)
    probe = (found.slot_count, masks, bytearray(b"\1"), slots, bytearray(b"\1"), found.data, found)
    lookup = Lookup(SEED, ({}, (), ((None, [probe]),)))
    with pytest.raises(CorruptionError):  # as the record there has another fingerprint
        lookup.value(long)
    found.close()


# Damage.


def outcome(call: Callable[[], Any], path: Path) -> Any:
    """Return what a call gives, or CorruptionError if it finds the file damaged."""
    try:
        return call()
    except CorruptionError as problem:
        return CorruptionError if problem.filename == str(path) else problem


def outcomes(folder: Path, info: TableInfo, keys: list[bytes]) -> list[Any]:
    """Return what each way of reading gives."""
    path = folder / "000009.sst"
    table = outcome(lambda: open_table(folder, info), path)
    if table is CorruptionError:
        return [CorruptionError] * (2 * len(keys) + 1)
    ways = [lookup_of(table).value, table.search]
    found = [outcome(lambda: way(key), path) for key in keys for way in ways]  # noqa: B023 - called here
    found.append(outcome(lambda: everything(table), path))
    table.close()
    return found


@pytest.mark.parametrize("change", [0x01, 0x80, 0xFF])
def test_damage_to_any_byte_is_reported_or_without_effect(tmp_path: Path, change: int) -> None:
    table = some(40)
    keys = [b"", b"00000", b"00003", b"00019", b"00039", b"00099"]
    info = write(tmp_path, table)
    path = tmp_path / "000009.sst"
    whole = path.read_bytes()
    truth = outcomes(tmp_path, info, keys)
    unnoticed = 0
    for offset in range(len(whole)):
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ change]) + whole[offset + 1 :])
        found = outcomes(tmp_path, info, keys)
        for right, seen in zip(truth, found):
            assert seen in (right, CorruptionError)
        if offset < info.size - 200 and CorruptionError not in found:
            unnoticed += 1
        if RECORDS_AT <= offset < RECORDS_AT + len(b"".join(map(record, table, table.values()))):
            assert found[-1] is CorruptionError
    assert unnoticed < 8 * PROBE_LIMIT + 100  # index slots that nobody came by, and padding


@pytest.mark.parametrize("length", [1, LONGEST_DETOUR // 32], ids=["short", "long"])
@pytest.mark.parametrize("places", [(0, 1), (10, 11), (64, 128), (127, 5), (3, 129)])
@pytest.mark.parametrize("copied", [False, True], ids=["exchanged", "copied"])
def test_sound_records_of_other_places_are_damage(
    tmp_path: Path, length: int, places: tuple[int, int], copied: bool
) -> None:
    """Whole blocks may change places, and then every crc of a record is right."""
    table: Table = {b"%05d" % number: bytes([number]) * length for number in range(130)}
    info = write(tmp_path, table)
    path = tmp_path / "000009.sst"
    data = bytearray(path.read_bytes())
    size = OVERHEAD + 5 + length
    one, other = (slice(RECORDS_AT + size * at, RECORDS_AT + size * (at + 1)) for at in places)
    first, second = data[one], data[other]
    data[other] = first
    data[one] = first if copied else second
    path.write_bytes(data)
    found = open_table(tmp_path, info)
    keys = sorted(table)
    for key in keys:
        assert outcome(lambda key=key: lookup_of(found).value(key), path) in (  # type: ignore[misc]
            table[key],
            CorruptionError,
        )
        assert outcome(lambda key=key: found.position(key), path) in (  # type: ignore[misc]
            int(key),
            CorruptionError,
        )
    for place in places[copied:]:
        for low, high in ((place, place + 1), (place // GROUP * GROUP, place + 1), (0, 130)):
            assert outcome(lambda low=low, high=high: found.records(low, high), path) is (  # type: ignore[misc]
                CorruptionError
            )
    for size in (1, 16, 64):
        for bounds in ((None, None), (keys[2], keys[-1])):
            chunks = found.chunks(bounds[0], bounds[1], False, repeat(size))
            assert outcome(lambda chunks=chunks: list(chunks), path) is CorruptionError  # type: ignore[misc]
    found.close()


@pytest.mark.parametrize("name", ["pairs", "keys", "values"])
def test_damage_to_any_byte_is_seen_by_a_scan_that_reads_it(tmp_path: Path, name: str) -> None:
    table: Table = {b"%05d" % number: b"%d" % number for number in range(150)}
    info = write(tmp_path, table)
    path = tmp_path / "000009.sst"
    whole = path.read_bytes()
    shape = SHAPES[name]
    truth = shape.take(sorted(table), [record(key, table[key]) for key in sorted(table)])
    end = RECORDS_AT + sum(len(record(key, value)) for key, value in table.items())

    def scan() -> list[Any]:
        found = open_table(tmp_path, info)
        lists = list(found.lists(shape, None, None, False, repeat(64)))
        found.close()
        return [item for part in lists for item in part]

    for offset in range(0, len(whole), 3):
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 0x10]) + whole[offset + 1 :])
        found = outcome(scan, path)
        assert found in (truth, CorruptionError)
        assert found is CorruptionError or not RECORDS_AT <= offset < end


def test_a_table_of_any_other_length_is_refused(tmp_path: Path) -> None:
    info = write(tmp_path, some(10))
    path = tmp_path / "000009.sst"
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(CorruptionError):
            open_table(tmp_path, info)
        shorter = TableInfo(9, length, info.footer_crc, info.puts, info.tombstones)
        with pytest.raises(error):
            open_table(tmp_path, shorter)
    path.write_bytes(whole + b"\0")
    with pytest.raises(CorruptionError):
        open_table(tmp_path, info)


def test_a_missing_table_is_an_error_that_names_it(tmp_path: Path) -> None:
    info = write(tmp_path, some(10))
    (tmp_path / "000009.sst").unlink()
    with pytest.raises(error) as caught:
        open_table(tmp_path, info)
    assert caught.value.filename == str(tmp_path / "000009.sst")


def test_a_table_that_took_the_name_of_another_is_refused(tmp_path: Path) -> None:
    nine = write(tmp_path, some(10), number=9)
    ten = write(tmp_path, some(10), number=10)
    assert nine.size == ten.size
    (tmp_path / "000010.sst").rename(tmp_path / "000009.sst")
    with pytest.raises(CorruptionError):
        open_table(tmp_path, nine)
    with pytest.raises(CorruptionError):
        SSTable(SYSTEM, str(tmp_path), TableInfo(9, ten.size, ten.footer_crc, 8, 2), STORE)
    write(tmp_path, some(10), number=11)
    with pytest.raises(CorruptionError):
        SSTable(SYSTEM, str(tmp_path), TableInfo(11, ten.size, ten.footer_crc, 8, 2), STORE)


def test_a_table_of_another_store_is_refused(tmp_path: Path) -> None:
    info = write(tmp_path, some(10))
    with pytest.raises(CorruptionError):
        SSTable(SYSTEM, str(tmp_path), info, bytes(16))


@pytest.mark.parametrize("section", [LENGTHS, FENCES, SUMS, INDEX, FILTER])
def test_blocks_that_changed_places_do_not_check(tmp_path: Path, section: int) -> None:
    count = GROUP * BLOCK // (4 if section == SUMS else 8) + GROUP
    table: Table = {b"%06d" % number: bytes(number * 7 % 50) for number in range(count)}
    info = write(tmp_path, table, chunk=10_000)
    path = tmp_path / "000009.sst"
    found = open_table(tmp_path, info)
    begin, size = found._begins[section], found.sizes[section]
    blocks = len(found.checked[section])
    assert blocks > 1
    for block in range(blocks):
        found.check_block(section, block)
    found.close()
    data = bytearray(path.read_bytes())
    width = min(BLOCK, size - BLOCK)
    first, second = data[begin : begin + width], data[begin + BLOCK : begin + BLOCK + width]
    data[begin : begin + width], data[begin + BLOCK : begin + BLOCK + width] = second, first
    path.write_bytes(data)
    damaged = open_table(tmp_path, info)
    for block in (0, 1):
        with pytest.raises(CorruptionError, match=f"block {block} of the"):
            damaged.check_block(section, block)
    damaged.close()


def test_records_that_changed_places_are_never_taken_for_another_key_s(tmp_path: Path) -> None:
    info = write(tmp_path, {b"a": b"1", b"b": b"2"})
    path = tmp_path / "000009.sst"
    data = path.read_bytes()
    first, second = record(b"a", b"1"), record(b"b", b"2")
    path.write_bytes(data.replace(first + second, second + first))
    table = open_table(tmp_path, info)
    for key in (b"a", b"b"):
        with pytest.raises(CorruptionError):
            lookup_of(table).value(key)
    table.close()


# Footers that were forged, with every crc in order.


def forge(folder: Path, info: TableInfo, field: int, value: int) -> TableInfo:
    """Change one field of the footer, and mend the crcs above it."""
    path = folder / "000009.sst"
    data = path.read_bytes()
    at = len(data) - TAIL.size - FOOTER.size
    fields = list(FOOTER.unpack(data[at : at + FOOTER.size]))
    keys_at = at - fields[-2] - fields[-1]
    fields[field] = value
    covered = data[keys_at:at] + FOOTER.pack(*fields)
    crc = crc32c(covered)
    path.write_bytes(data[:keys_at] + covered + TAIL.pack(crc, data[-8:]))
    return TableInfo(9, info.size, crc, info.puts, info.tombstones)


def read_all(folder: Path, info: TableInfo) -> None:
    """Read a table in every way; ``error`` is a good answer, any other exception is not."""
    with suppress(error):
        table = open_table(folder, info)
        for key in (b"", b"00003", b"00020", b"99999"):
            for way in (lookup_of(table).value, table.search, table.position):
                with suppress(error):
                    way(key)
        with suppress(error):
            everything(table)
        table.close()


NUMBERS = [0, 1, 3, 41, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 63]
FORMS = FOOTER.format.removeprefix("<").replace("16s", "s")
FIELDS = [place for place, form in enumerate(FORMS) if form in "IQ" and place > 0]


@pytest.mark.parametrize("field", FIELDS)
def test_a_forged_footer_is_refused_or_read_and_does_no_harm(tmp_path: Path, field: int) -> None:
    info = write(tmp_path, some(40))
    path = tmp_path / "000009.sst"
    whole = path.read_bytes()
    limit = 1 << (32 if FORMS[field] == "I" else 64)
    for value in {*NUMBERS, limit - 1, info.size, info.size - 1}:
        if value < limit:
            path.write_bytes(whole)
            read_all(tmp_path, forge(tmp_path, info, field, value))


def test_a_newer_format_is_refused_by_an_error_that_says_so(tmp_path: Path) -> None:
    forged = forge(tmp_path, write(tmp_path, some(10)), 0, 2)
    with pytest.raises(error, match=r"expected table format 1, found 2.*newer") as caught:
        open_table(tmp_path, forged)
    assert not isinstance(caught.value, CorruptionError)
    assert "000009.sst" in str(caught.value)


def test_garbage_with_a_sound_tail_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "000009.sst"
    whole = bytes(16) + bytes(FOOTER.size)
    data = whole + TAIL.pack(crc32c(whole), b"sstoblia")
    path.write_bytes(data)
    with pytest.raises(CorruptionError):
        open_table(tmp_path, TableInfo(9, len(data), crc32c(whole), 1, 0))


# Writing and closing.


def test_a_writer_that_is_abandoned_leaves_no_file_whether_finished_or_not(tmp_path: Path) -> None:
    for finished in (False, True):
        writer = TableWriter(SYSTEM, str(tmp_path), 9, SEED)
        writer.add([b"a"], [record(b"a", b"1")], 0)
        if finished:
            writer.finish(STORE, level=0, part=0, parts=1, sequences=(0, 0))
        writer.abandon()
        assert list(tmp_path.iterdir()) == []


def test_a_table_is_synced_after_its_last_byte(tmp_path: Path) -> None:
    done: list[str] = []

    class Recording(FileSystem):
        def write(self, file: File, offset: int, data: bytes | memoryview) -> None:
            done.append("write")
            super().write(file, offset, data)

        def sync(self, file: File) -> None:
            done.append("sync")
            super().sync(file)

        def close(self, file: File) -> None:
            done.append("close")
            super().close(file)

    writer = TableWriter(Recording(), str(tmp_path), 9, SEED)
    for number in range(30):
        key = b"%02d" % number
        writer.add([key], [record(key, bytes(100_000))], 0)
    writer.finish(STORE, level=0, part=0, parts=1, sequences=(0, 0))
    assert done.count("write") > 2
    assert done[-3:] == ["write", "sync", "close"]


def test_a_closed_table_can_be_closed_again_and_its_file_removed(tmp_path: Path) -> None:
    table = open_table(tmp_path, write(tmp_path, some(10)))
    table.close()
    table.close()
    with pytest.raises(ValueError, match=r"closed|released"):
        table.search(b"a")


def test_an_open_table_outlives_its_file_name(tmp_path: Path) -> None:
    table = open_table(tmp_path, write(tmp_path, some(10)))
    (tmp_path / "000009.sst").unlink()
    assert everything(table) == some(10)
    table.close()


def test_the_header_is_the_documented_one(tmp_path: Path) -> None:
    write(tmp_path, some(1))
    data = (tmp_path / "000009.sst").read_bytes()
    assert data[:12] == b"oblivsst" + struct.pack("<I", 1)
    assert crc32c(data[:12]) == int.from_bytes(data[12:16], "little")
    assert data[-8:] == b"sstoblia"


def test_a_key_whose_fingerprint_is_zero_is_told_from_an_empty_slot(tmp_path: Path) -> None:
    key = b"14984572"  # one in sixteen millions
    assert hash_keys((key,), SEED)[0] & 0xFF_FFFF == 0
    others: Table = dict.fromkeys((b"%d" % number for number in range(50)), b"1")
    only: Table = {key: b"2"}
    for table in (others, only, others | only):
        opened = open_table(tmp_path, write(tmp_path, table))
        assert lookup_of(opened).value(key) == table.get(key)
        # Where the filter admits a key that is not there, too.
        (digest,) = hash_keys((key,), SEED)
        whole = _probe_on(key, digest, digest * opened.slot_count >> 64, opened.probe())
        assert whole == (record(key, b"2") if key in table else None)
        opened.close()
        (tmp_path / "000009.sst").unlink()
