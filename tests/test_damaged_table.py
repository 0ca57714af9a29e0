"""Of a damaged table every record that is certain is found, and no other; and what is likely."""

from __future__ import annotations

import tracemalloc
from errno import EACCES, EIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oblivion_dbm import error
from oblivion_dbm.engine import table_walk
from oblivion_dbm.engine.bit_rot import corrected
from oblivion_dbm.engine.damage import Damage, PatientFiles, search
from oblivion_dbm.engine.damaged_table import DamagedTable
from oblivion_dbm.engine.filesystem import File, FileSystem
from oblivion_dbm.engine.kernel import PROBE_LIMIT, hash_keys
from oblivion_dbm.engine.record import BATCH, DELETE, PUT, crc32c, encode, read
from oblivion_dbm.engine.sstable import (
    BLOCK,
    FENCES,
    FILTER,
    FOOTER,
    GROUP,
    INDEX,
    LENGTHS,
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
COUNT = 5 * GROUP + 7


class Planted:
    """A table of known records, and its bytes."""

    def __init__(self, folder: Path, records: list[bytes], **more: Any) -> None:
        self.folder, self.records = folder, records
        self.keys = [read(record, 0, len(record))[1] for record in records]
        number = more.pop("table", 9)
        writer = TableWriter(SYSTEM, str(folder), number, SEED)
        writer.add(self.keys, records, sum(record[0] == DELETE for record in records))
        facts: dict[str, Any] = {"level": 0, "part": 0, "parts": 1, "sequences": (0, 100)} | more
        self.info = writer.finish(STORE, **facts)
        self.path = folder / f"{number:06d}.sst"
        self.whole = self.path.read_bytes()
        self.offsets = [RECORDS_AT]
        for record in records:
            self.offsets.append(self.offsets[-1] + len(record))

    def write(self, *changes: tuple[int, bytes]) -> None:
        """Write the table with other bytes at some offsets."""
        data = bytearray(self.whole)
        for at, other in changes:
            data[at : at + len(other)] = other
        self.path.write_bytes(data)

    def flipped(self, at: int) -> tuple[int, bytes]:
        return at, bytes([self.whole[at] ^ 0x10])

    def broken(self, at: int) -> tuple[int, bytes]:
        """Return the change of two bits of a byte: of one, a record can be set right."""
        return at, bytes([self.whole[at] ^ 0x11])

    def group(self, number: int) -> tuple[int, int]:
        """Return the first record of the group that a record is in, and that of the next."""
        first = number - number % GROUP
        return first, min(len(self.records), first + GROUP)

    def section(self, section: int) -> tuple[int, int]:
        """Return where a section begins and how long it is."""
        table = SSTable(SYSTEM, str(self.folder), self.info, STORE)
        place = table._begins[section], table.sizes[section]
        table.close()
        return place

    def without(self, section: int) -> tuple[int, bytes]:
        """Return the change that leaves no block of a section sound."""
        begin, size = self.section(section)
        return begin, bytes(byte ^ 0x10 for byte in self.whole[begin : begin + size])

    def table(self) -> DamagedTable:
        return DamagedTable(PatientFiles(SYSTEM), str(self.folder), "000009.sst")

    def likely(self, table: DamagedTable | None = None) -> list[bytes]:
        """Return the records that may be those that were written."""
        table = table or self.table()
        list(table.walk(b"", None))
        return [record for part in table.walk(b"", None, likely=True) for record in part[2]]

    def walked(self, table: DamagedTable | None = None) -> tuple[list[bytes], list[Damage]]:
        """Return the records that are certain, and all damage."""
        table = table or self.table()
        found: list[bytes] = []
        for name, keys, records, offsets in table.walk(b"", None):
            assert name == "000009.sst"
            assert [read(record, 0, len(record))[1] for record in records] == keys
            data = self.path.read_bytes()
            there = [data[at : at + len(record)] for at, record in zip(offsets, records)]
            assert [
                each == record or corrected(each) == record for each, record in zip(there, records)
            ] == [True] * len(records)
            found += records
        return found, table.damages


def numbered(number: int) -> bytes:
    key = b"key-%05d" % (2 * number)
    return encode(DELETE, key, b"") if number % 5 == 0 else encode(PUT, key, b"v" * (number % 40))


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    return Planted(tmp_path, [numbered(number) for number in range(COUNT)])


def test_of_a_sound_table_everything_is_certain(planted: Planted) -> None:
    assert planted.walked() == (planted.records, [])


@pytest.mark.parametrize("section", [LENGTHS, FENCES, INDEX, FILTER])
def test_a_section_that_does_not_check_costs_nothing(planted: Planted, section: int) -> None:
    planted.write(planted.without(section))
    assert planted.walked() == (planted.records, [])


def test_no_section_but_the_sums_costs_nothing(planted: Planted) -> None:
    planted.write(*(planted.without(section) for section in (LENGTHS, FENCES, INDEX, FILTER)))
    assert planted.walked() == (planted.records, [])


def test_without_sums_all_records_are_likely(planted: Planted) -> None:
    begin, size = planted.section(SUMS)
    planted.write((begin, bytes(byte ^ 0x11 for byte in planted.whole[begin : begin + size])))
    table = planted.table()
    records, (damage,) = planted.walked(table)
    assert (records, planted.likely(table)) == ([], planted.records)
    assert (damage.offset, damage.search) == (RECORDS_AT, False)
    assert all(table.hidden(planted.keys))


def test_a_bit_of_the_sums_may_be_wrong(planted: Planted) -> None:
    begin, size = planted.section(SUMS)
    for at in range(begin, begin + size):
        planted.write(planted.flipped(at))
        assert planted.walked() == (planted.records, [])
        planted.write(planted.broken(at))
        first, end = planted.group((at - begin) // 8 * GROUP)
        table = planted.table()
        records, (damage,) = planted.walked(table)
        assert records == planted.records[:first] + planted.records[end:]
        assert planted.likely(table) == planted.records[first:end]
        assert "whether these records are those that were written" in damage.meaning


@pytest.mark.parametrize("number", [0, 1, GROUP - 1, GROUP, COUNT - 1])
def test_one_bit_of_a_record_costs_nothing(planted: Planted, number: int) -> None:
    begin, end = planted.offsets[number], planted.offsets[number + 1]
    other = planted.offsets[(number + 5) % GROUP]
    for at in range(begin, end):
        for bit in range(8):
            changed = bytes([planted.whole[at] ^ 1 << bit])
            planted.write((at, changed), planted.flipped(other))
            table = planted.table()
            (*parts,) = table.walk(b"", None)
            assert [record for part in parts for record in part[2]] == planted.records
            assert (table.damages, sorted(table.mended)) == ([], sorted([begin, other]))


@pytest.mark.parametrize("number", [0, 1, GROUP - 1, GROUP, COUNT - 1])
def test_a_damaged_record_makes_those_of_its_group_likely(planted: Planted, number: int) -> None:
    first, last = planted.group(number)
    begin, end = planted.offsets[first], planted.offsets[last]
    for at in range(planted.offsets[number], planted.offsets[number + 1]):
        planted.write(planted.broken(at))
        table = planted.table()
        records, (damage,) = planted.walked(table)
        assert records == planted.records[:first] + planted.records[last:]
        likely = planted.records[first:number] + planted.records[number + 1 : last]
        assert planted.likely(table) == likely
        assert (damage.offset, damage.length, damage.search) == (begin, end - begin, False)
        assert damage.start <= planted.keys[first]
        assert damage.stop is None or planted.keys[last - 1] < damage.stop
        assert table.hidden(planted.keys) == [first <= n < last for n in range(COUNT)]


@pytest.mark.parametrize("number", [0, GROUP // 2, GROUP, COUNT - 1])
def test_without_lengths_a_damaged_record_costs_the_rest_of_its_group(
    planted: Planted, number: int
) -> None:
    planted.write(planted.without(LENGTHS), planted.broken(planted.offsets[number] + 1))
    table = planted.table()
    records, damages = planted.walked(table)
    first, end = planted.group(number)
    assert records == planted.records[:first] + planted.records[end:]
    assert planted.likely(table) == planted.records[first:number]
    damage = damages[-1]
    assert [each.search for each in damages] == [False] * (number > first) + [True]
    assert damages[0].offset == planted.offsets[first]
    assert damage.offset == planted.offsets[number]
    assert damage.offset + damage.length == planted.offsets[end]
    with table.reading() as file:
        found = search(file.piece, damage.offset, planted.offsets[end], bytes([PUT, DELETE]))
        assert [record for _, record in found] == planted.records[number + 1 : end]


def test_without_lengths_and_fences_a_damaged_record_costs_all_that_follows(
    planted: Planted,
) -> None:
    planted.write(
        planted.without(LENGTHS), planted.without(FENCES), planted.broken(planted.offsets[70])
    )
    table = planted.table()
    records, damages = planted.walked(table)
    assert records == planted.records[:GROUP]
    assert planted.likely(table) == planted.records[GROUP:70]
    assert damages[-1].offset + damages[-1].length == planted.offsets[-1]


def test_without_fences_lengths_lead_over_a_damaged_record(planted: Planted) -> None:
    planted.write(planted.without(FENCES), planted.broken(planted.offsets[70]))
    table = planted.table()
    records, (damage,) = planted.walked(table)
    assert records == planted.records[:GROUP] + planted.records[2 * GROUP :]
    assert planted.likely(table) == planted.records[GROUP:70] + planted.records[71 : 2 * GROUP]
    assert damage.length == planted.offsets[2 * GROUP] - planted.offsets[GROUP]


def test_lengths_lead_back_from_the_end_of_the_records(tmp_path: Path) -> None:
    """Two blocks of lengths, of which one checks; of its two groups the end of one is known."""
    count = BLOCK // 2 + 2 * GROUP
    planted = Planted(tmp_path, [numbered(number) for number in range(count)])
    planted.write(
        planted.without(FENCES),
        planted.flipped(planted.section(LENGTHS)[0]),
        planted.broken(planted.offsets[5]),
    )
    table = planted.table()
    records, (likely, damage) = planted.walked(table)
    assert (planted.likely(table), records) == (planted.records[:5], planted.records[-GROUP:])
    assert (likely.offset, likely.search) == (RECORDS_AT, False)
    assert (damage.offset, damage.search) == (planted.offsets[5], True)
    assert damage.offset + damage.length == planted.offsets[count - GROUP]


def test_each_byte_of_the_footer_may_be_damaged(planted: Planted) -> None:
    for at in range(len(planted.whole) - TAIL.size - FOOTER.size - 18, len(planted.whole)):
        planted.write(planted.flipped(at))
        table = planted.table()
        if table.footer is None:
            table.expect(planted.info)
        assert planted.walked(table) == (planted.records, [])


@pytest.mark.parametrize("at", range(RECORDS_AT))
def test_each_byte_of_the_header_may_be_damaged(planted: Planted, at: int) -> None:
    planted.write(planted.flipped(at))
    table = planted.table()
    assert not table.sound_header
    assert planted.walked(table) == (planted.records, [])


@pytest.mark.parametrize("length", [-200, -188, -1])
def test_a_table_whose_footer_is_cut_off_is_certain_by_its_sums(
    planted: Planted, length: int
) -> None:
    planted.path.write_bytes(planted.whole[:length])
    table = planted.table()
    assert table.footer is None
    table.expect(planted.info)
    assert planted.walked(table) == (planted.records, [])
    assert table.footer is None or length > -TAIL.size


@pytest.mark.parametrize("length", [0, 10, RECORDS_AT, RECORDS_AT + 5, 3000])
def test_of_a_table_that_is_cut_off_the_records_before_the_cut_are_likely(
    planted: Planted, length: int
) -> None:
    planted.path.write_bytes(planted.whole[:length])
    table = planted.table()
    table.expect(planted.info)
    records, damages = planted.walked(table)
    whole = [r for r, end in zip(planted.records, planted.offsets[1:]) if end <= length]
    assert (records, planted.likely(table)) == ([], whole)
    assert damages
    assert all(damage.stop is None for damage in damages)
    assert table.hidden([b"any"]) == [True]


def other_table(folder: Path, number: int, value: bytes) -> Planted:
    """Return a table of the keys of ``numbered``, and of records as long as those."""
    records = [numbered(n) for n in range(COUNT)]
    records = [r if r[0] == DELETE else encode(PUT, *_changed(r, value)) for r in records]
    folder.mkdir()
    return Planted(folder, records, table=number)


def _changed(record: bytes, value: bytes) -> tuple[bytes, bytes]:
    _, key, old, _ = read(record, 0, len(record))
    return key, value * len(old)


@pytest.mark.parametrize("cut", [0, -1, -8, -200, 3000])
def test_another_table_with_this_name_is_not_believed(planted: Planted, cut: int) -> None:
    """It has the same keys and lengths, and so the same size, and no footer of its own."""
    other = other_table(planted.folder / "other", 5, b"o")
    assert len(other.whole) == len(planted.whole)
    data = bytearray(other.whole[: cut or None])
    if not cut:
        data[-20] ^= 1
    planted.path.write_bytes(data)
    table = planted.table()
    assert table.footer is None
    table.expect(planted.info)
    records, damages = planted.walked(table)
    assert records == []
    assert damages
    assert set(planted.likely(table)) <= set(other.records)


@pytest.mark.parametrize("size", [512, 4096])
def test_blocks_of_another_table_are_not_believed(planted: Planted, size: int) -> None:
    other = other_table(planted.folder / "other", 5, b"o")
    sums_at, _ = planted.section(SUMS)
    for at in range(0, planted.offsets[-1], size):
        for without in ([], [FENCES], [LENGTHS], [FENCES, LENGTHS]):
            block = other.whole[at : at + size]
            planted.write((at, block), *map(planted.without, without))
            records, damages = planted.walked()
            assert set(records) <= set(planted.records)
            is_whole = len(without) < 2 and at + size <= sums_at
            assert len(planted.records) - len(records) <= 3 * GROUP or not is_whole
            assert damages


def test_a_table_that_something_was_appended_to_is_the_one_that_is_expected(
    planted: Planted,
) -> None:
    planted.path.write_bytes(planted.whole + b"more")
    table = planted.table()
    assert table.footer is None
    table.expect(planted.info)
    assert table.footer is not None
    assert planted.walked(table) == (planted.records, [])


def alike(planted: Planted) -> tuple[int, int]:
    """Return two records of the first group that have the same length."""
    lengths = [len(record) for record in planted.records[:GROUP]]
    second = next(n for n in range(GROUP) if lengths[n] in lengths[:n])
    return lengths.index(lengths[second]), second


def test_records_that_changed_places_are_not_believed(planted: Planted) -> None:
    """Their crcs match, and so do their lengths; the sum of the group does not."""
    first, second = alike(planted)
    planted.write(
        (planted.offsets[first], planted.records[second]),
        (planted.offsets[second], planted.records[first]),
    )
    table = planted.table()
    records, (damage,) = planted.walked(table)
    assert records == planted.records[GROUP:]
    assert (damage.offset, damage.search) == (RECORDS_AT, False)
    assert set(planted.likely(table)) <= set(planted.records[:GROUP])


def test_a_sound_record_that_is_not_the_one_that_was_written_is_not_believed(
    planted: Planted,
) -> None:
    """It has the key and the length of the one whose place it takes."""
    number = next(n for n in range(GROUP) if len(planted.records[n]) > 40)
    record = planted.records[number]
    _, key, value, _ = read(record, 0, len(record))
    planted.write((planted.offsets[number], encode(PUT, key, b"x" * len(value))))
    records, (damage,) = planted.walked()
    assert records == planted.records[GROUP:]
    assert (damage.offset, damage.search) == (RECORDS_AT, False)
    assert damage.meaning.startswith("whether these records are those that were written here")


def test_the_index_tells_of_keys_whose_slots_lie_in_two_blocks(tmp_path: Path) -> None:
    planted = Planted(tmp_path, [numbered(number) for number in range(2000)])
    at, size = planted.section(INDEX)
    slots = [
        int.from_bytes(planted.whole[at + place : at + place + 8], "little")
        for place in range(0, size, 8)
    ]
    last = next(place for place in range(BLOCK // 8 - 1, len(slots), BLOCK // 8) if slots[place])
    count = len(slots) - PROBE_LIMIT
    absent = next(
        key
        for key, digest in (
            (key, hash_keys((key,), SEED)[0]) for key in map(b"%d".__mod__, range(99_999))
        )
        if digest * count >> 64 == last and slots[last] >> 40 != digest & 0xFF_FFFF
    )
    planted.write(planted.broken(planted.offsets[3]))
    table = planted.table()
    planted.walked(table)
    assert table.hidden([absent, planted.keys[3]]) == [False, True]
    planted.write(planted.broken(planted.offsets[3]), planted.flipped(at + 8 * (last + 1)))
    assert table.hidden([absent]) == [True]


def test_where_the_index_had_no_room_any_key_may_be_hidden(tmp_path: Path) -> None:
    count = PROBE_LIMIT + 12
    slots = Planted(tmp_path, [numbered(number) for number in range(count)]).section(INDEX)[1] // 8
    crowd = [
        key
        for key in (b"%06d" % number for number in range(300 * slots))
        if hash_keys((key,), SEED)[0] * (slots - PROBE_LIMIT) >> 64 == 0
    ]
    (tmp_path / "000009.sst").unlink()
    planted = Planted(tmp_path, [encode(PUT, key, b"1") for key in crowd[:count]])
    planted.write(planted.broken(planted.offsets[3]))
    table = planted.table()
    records, _ = planted.walked(table)
    assert records == planted.records[GROUP:]
    assert all(table.hidden([*planted.keys, crowd[count]]))


@pytest.mark.parametrize("problems", [(EACCES,), (EIO, EACCES)])
def test_what_cannot_be_read_for_another_reason_than_the_disk_is_no_damage(
    planted: Planted, problems: tuple[int, ...]
) -> None:
    left = list(problems)

    class Failing(FileSystem):
        def read(self, file: File, offset: int, length: int) -> bytes:
            if left:
                raise error(left.pop(0), "no", file.path)
            return super().read(file, offset, length)

    with pytest.raises(error) as caught:
        DamagedTable(PatientFiles(Failing()), str(planted.folder), "000009.sst")
    assert (caught.value.errno, left) == (EACCES, [])


# Bytes inside a value.


@pytest.mark.parametrize("value_length", [0, 2, 4, 1 << 31])
def test_a_sound_crc_does_not_make_a_record(value_length: int) -> None:
    data = encode(PUT, b"key", b"abc")[: 5 + 3] + value_length.to_bytes(4, "little") + b"abc"
    assert table_walk.sound_key(data + crc32c(data).to_bytes(4, "little")) is None
    assert table_walk.sound_key(encode(BATCH, b"", encode(PUT, b"key", b"abc"))) is None
    assert table_walk.sound_key(encode(PUT, b"key", b"abc")) == b"key"


def test_records_inside_a_value_are_never_certain(tmp_path: Path) -> None:
    inner = encode(PUT, b"key-00003", b"planted")
    records = [numbered(0), encode(PUT, b"key-00001", inner * 3), numbered(4)]
    planted = Planted(tmp_path, records)
    broken = planted.broken(planted.offsets[1] + 1)
    planted.write(broken)
    table = planted.table()
    found, (damage,) = planted.walked(table)
    assert (found, damage.search) == ([], False)
    assert planted.likely(table) == [records[0], records[2]]
    planted.write(broken, planted.without(LENGTHS))
    table = planted.table()
    found, (_, damage) = planted.walked(table)
    assert (found, damage.search) == ([], True)
    assert planted.likely(table) == records[:1]
    with planted.table().reading() as file:
        end = planted.offsets[-1]
        candidates = list(search(file.piece, damage.offset, end, bytes([PUT, DELETE])))
    assert [record for _, record in candidates] == [inner] * 3 + [records[2]]


def test_a_value_that_ends_as_a_record_does_is_no_proof(tmp_path: Path) -> None:
    """A value can be made so that the record around it ends with a sound record."""
    inner = encode(PUT, b"key-00003", b"planted")
    head = encode(PUT, b"key-00001", bytes(4) + inner[:-4])[: 9 + 9]
    # Four bytes after which the crc is what it was at the beginning.
    filling = next(
        filling for filling in (crc_filling(head),) if crc32c(head + filling) == crc32c(b"")
    )
    outer = head + filling + inner
    assert crc32c(outer) == crc32c(inner) == 0x48674BC7
    planted = Planted(tmp_path, [numbered(0), outer, numbered(4)])
    planted.write(planted.broken(planted.offsets[1]), planted.without(LENGTHS))
    table = planted.table()
    assert (planted.walked(table)[0], planted.likely(table)) == ([], [numbered(0)])


def crc_filling(head: bytes) -> bytes:
    """Return the four bytes behind ``head`` that bring CRC-32C back to that of nothing."""
    # Each bit of the four bytes changes the crc by a fixed pattern: solve for the target.
    base = crc32c(head + bytes(4))
    rows = [(crc32c(head + (1 << bit).to_bytes(4, "little")) ^ base, 1 << bit) for bit in range(32)]
    wanted, chosen = base ^ crc32c(b""), 0
    for bit in range(32):
        place = next(n for n in range(len(rows)) if rows[n][0] >> bit & 1)
        pivot = rows.pop(place)
        rows = [
            (value ^ pivot[0], mask ^ pivot[1]) if value >> bit & 1 else (value, mask)
            for value, mask in rows
        ]
        if wanted >> bit & 1:
            wanted, chosen = wanted ^ pivot[0], chosen ^ pivot[1]
    return chosen.to_bytes(4, "little")


# Anything at all.


@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=40), st.integers(1, 3)),
        min_size=1,
        max_size=3,
    )
)
def test_whatever_the_bytes_are_only_records_that_were_written_are_certain(
    changes: list[tuple[float, bytes, int]],
) -> None:
    planted = WHOLE[0]
    size = len(planted.whole)
    planted.write(*((int(at * size), (data * times)[:size]) for at, data, times in changes))
    table = planted.table()
    if table.footer is None:
        table.expect(planted.info)
    records, damages = planted.walked(table)
    assert set(records) <= set(planted.records)
    missing = [key for key, record in zip(planted.keys, planted.records) if record not in records]
    for key in missing:
        assert any(d.start <= key and (d.stop is None or key < d.stop) for d in damages)
    assert all(table.hidden(missing)) if missing else not damages


WHOLE: list[Planted] = []


@pytest.fixture(scope="module", autouse=True)
def _whole(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Plant the table that examples change: one folder for all of them."""
    folder = tmp_path_factory.mktemp("planted")
    WHOLE[:] = [Planted(folder, [numbered(number) for number in range(COUNT)])]


def test_many_damaged_places_are_told_apart_up_to_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_walk, "MOST_PLACES", 20)
    groups = 51
    planted = Planted(tmp_path, [numbered(number) for number in range(groups * GROUP)])
    begins = range(GROUP, groups * GROUP, 2 * GROUP)
    planted.write(*(planted.broken(planted.offsets[begin]) for begin in begins))
    records, damages = planted.walked()
    whole = [planted.records[at : at + GROUP] for at in range(0, groups * GROUP, 2 * GROUP)]
    assert records == [record for group in whole for record in group]
    assert len(damages) == 20
    assert damages[-1].offset + damages[-1].length == planted.offsets[(groups - 1) * GROUP]


def test_a_table_that_says_other_things_each_time_is_an_error(planted: Planted) -> None:
    table = planted.table()
    planted.walked(table)
    planted.write(planted.broken(planted.offsets[3]))
    with pytest.raises(error, match="other bytes each time"):
        list(table.walk(b"", None))


def test_large_values_are_read_one_at_a_time(tmp_path: Path) -> None:
    size = 4 << 20
    planted = Planted(tmp_path, [encode(PUT, b"%02d" % n, bytes([n]) * size) for n in range(16)])
    del planted.records, planted.whole
    table = planted.table()
    tracemalloc.start()
    assert [keys for _, keys, _, _ in table.walk(b"", None)] == [[key] for key in planted.keys]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * size


def test_a_newer_format_is_refused(planted: Planted) -> None:
    header = planted.whole[:8] + (2).to_bytes(4, "little")
    planted.write((0, header + crc32c(header).to_bytes(4, "little")))
    with pytest.raises(error, match="expected table format 1, found 2"):
        planted.table()
    keys_at = len(planted.whole) - TAIL.size - FOOTER.size - len(planted.keys[0] + planted.keys[-1])
    footer = bytearray(planted.whole[keys_at : -TAIL.size])
    footer[-FOOTER.size] = 2
    planted.write((keys_at, bytes(footer) + crc32c(bytes(footer)).to_bytes(4, "little")))
    with pytest.raises(error, match="expected table format 1, found 2"):
        planted.table()


@pytest.mark.parametrize("field", range(3, 21))
def test_a_footer_that_says_what_cannot_be_is_none(planted: Planted, field: int) -> None:
    """Its crc matches all the same, so somebody has made it so."""
    at = len(planted.whole) - TAIL.size - FOOTER.size
    keys_at = at - len(planted.keys[0] + planted.keys[-1])
    fields = list(FOOTER.unpack(planted.whole[at : at + FOOTER.size]))
    for value in (0, 1, fields[field] + 1, 1 << 31):
        fields[field] = value
        footer = planted.whole[keys_at:at] + FOOTER.pack(*fields)
        planted.write((keys_at, footer + crc32c(footer).to_bytes(4, "little")))
        table = planted.table()
        if table.footer is None:
            table.expect(planted.info)
        records, _ = planted.walked(table)
        assert set(records) <= set(planted.records)
        table.hidden(planted.keys[:3])


def test_what_is_expected_may_be_nonsense(planted: Planted) -> None:
    planted.path.write_bytes(planted.whole[:200])
    for count, size in ((0, 0), (1 << 60, 1 << 60), (-1, -1)):
        table = planted.table()
        table.expect(TableInfo(9, size, 0, count, 0))
        assert len(planted.walked(table)[0]) <= 10
