"""What is wrong with tables is found behind sound crcs too: in their parts, and in their runs."""

from __future__ import annotations

import tracemalloc
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oblivion_dbm.engine.filesystem import FileSystem
from oblivion_dbm.engine.kernel import PROBE_LIMIT, hash_keys
from oblivion_dbm.engine.record import DELETE, PUT, crc32c, encode
from oblivion_dbm.engine.sstable import (
    BLOCK,
    FENCES,
    FILTER,
    FOOTER,
    INDEX,
    LENGTHS,
    RECORDS_AT,
    SUMS,
    TAIL,
    TAIL_MAGIC,
    SSTable,
    block_seed,
)
from oblivion_dbm.engine.table_check import check_runs
from oblivion_dbm.engine.table_writer import TableWriter
from oblivion_dbm.engine.version import Run, TableInfo, Version

SYSTEM = FileSystem()
STORE, SEED = bytes(range(16)), 7


def write(folder: Path, records: dict[bytes, bytes | None], number: int = 1, **more: Any) -> Any:
    """Write a table; return what the MANIFEST says of it."""
    writer = TableWriter(SYSTEM, str(folder), number, SEED)
    for key, value in records.items():
        record = encode(DELETE, key, b"") if value is None else encode(PUT, key, value)
        writer.add([key], [record], value is None)
    facts: dict[str, Any] = {"level": 0, "part": 0, "parts": 1, "sequences": (0, 10)}
    return writer.finish(STORE, **(facts | more))


def findings(folder: Path, *runs: list[TableInfo]) -> list[tuple[int, int, str]]:
    """Return (table, offset, meaning) of what is wrong with runs, the newest first."""
    version = Version(STORE.hex(), SEED, runs=tuple(Run(0, tuple(tables)) for tables in runs))
    opened = [[SSTable(SYSTEM, str(folder), info, STORE) for info in tables] for tables in runs]
    found = list(check_runs(version, opened))
    for table in [table for tables in opened for table in tables]:
        table.close()
    return [(int(Path(one.file).stem), one.offset, one.meaning) for one in found]


def some(count: int) -> dict[bytes, bytes | None]:
    return {b"%05d" % n: None if n % 5 == 3 else b"v%d" % n for n in range(count)}


class Crafted:
    """The bytes of a table, to be changed; crcs are made anew."""

    def __init__(self, folder: Path, info: TableInfo) -> None:
        self.path = folder / f"{info.number:06d}.sst"
        self.info = info
        self.data = bytearray(self.path.read_bytes())
        table = SSTable(SYSTEM, str(folder), info, STORE)
        self.begins, self.sizes = list(table._begins), list(table.sizes)
        self.crcs_at, self.records_end = table._crcs_at, table.records_end
        table.close()

    def footer(self) -> list[Any]:
        return list(FOOTER.unpack(self.data[-FOOTER.size - TAIL.size : -TAIL.size]))

    def words(self, section: int) -> array[int]:
        """Return the u64 of a section."""
        begin = self.begins[section]
        return array("Q", bytes(self.data[begin : begin + self.sizes[section]]))

    def put(self, section: int, words: array[int]) -> None:
        data = words.tobytes()
        self.data[self.begins[section] : self.begins[section] + len(data)] = data

    def save(self, **changes: int) -> TableInfo:
        """Make all crcs right and write the file; ``changes`` are fields of the footer."""
        crcs = array("I")
        for section, (begin, size) in enumerate(zip(self.begins, self.sizes)):
            for block, at in enumerate(range(0, size, BLOCK)):
                part = self.data[begin + at : begin + min(size, at + BLOCK)]
                crcs.append(crc32c(bytes(part), block_seed(self.info.number, section, block)))
        self.data[self.crcs_at : self.crcs_at + 4 * len(crcs)] = crcs.tobytes()
        fields = self.footer()
        fields[11] = crc32c(crcs.tobytes())
        for place, value in changes.items():
            fields[int(place.removeprefix("field"))] = value
        self.data[-FOOTER.size - TAIL.size : -TAIL.size] = FOOTER.pack(*fields)
        keys = fields[-1] + fields[-2]
        crc = crc32c(bytes(self.data[-FOOTER.size - TAIL.size - keys : -TAIL.size]))
        self.data[-TAIL.size :] = TAIL.pack(crc, TAIL_MAGIC)
        self.path.write_bytes(self.data)
        info = self.info
        return TableInfo(info.number, len(self.data), crc, info.puts, info.tombstones)


# Sound tables.


@pytest.mark.parametrize("count", [1, 63, 64, 65, 600, 3000])
def test_a_sound_table_has_no_findings(tmp_path: Path, count: int) -> None:
    assert findings(tmp_path, [write(tmp_path, some(count))]) == []


def test_tables_of_long_records_have_no_findings(tmp_path: Path) -> None:
    lengths = [0, 70_000, 3 << 20, 1, (1 << 20) - 100, 200, 1 << 20]
    records: dict[bytes, bytes | None] = {
        b"%03d" % number: bytes(length) for number, length in enumerate(lengths * 12)
    }
    assert findings(tmp_path, [write(tmp_path, records)]) == []


def test_a_crowded_index_has_no_findings(tmp_path: Path) -> None:
    keys = [b"%06d" % number for number in range(20_000)]
    crowd = [key for key, digest in zip(keys, hash_keys(keys, SEED)) if digest >> 60 == 0]
    assert len(crowd) > 4 * PROBE_LIMIT
    assert findings(tmp_path, [write(tmp_path, dict.fromkeys(crowd, b"v"))]) == []


def test_the_memory_it_takes_does_not_grow_with_the_table(tmp_path: Path) -> None:
    records = {b"%05d" % number: bytes(10_000) for number in range(3000)}
    info = write(tmp_path, dict(records))
    tracemalloc.start()
    try:
        assert findings(tmp_path, [info]) == []
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert info.size > 28 << 20


# Runs.


def test_runs_that_follow_each_other_have_no_findings(tmp_path: Path) -> None:
    runs = [
        [write(tmp_path, some(9), number, sequences=span)]
        for number, span in enumerate([(20, 30), (10, 20), (0, 10)], 1)
    ]
    assert findings(tmp_path, *runs) == []
    # As programs wrote it that did not tell where a run begins.
    runs[0] = [write(tmp_path, some(9), 4, sequences=(0, 30))]
    assert findings(tmp_path, *runs) == []


@pytest.mark.parametrize(
    ("spans", "meaning"),
    [
        ([(20, 30), (0, 10)], "begins behind sequence number 20, the older one ends at 10"),
        ([(5, 30), (0, 10)], "begins behind sequence number 5"),
        ([(0, 5), (0, 10)], "its run ends before the older one does"),
        ([(30, 20), (0, 30)], "its last sequence number comes before the first"),
    ],
)
def test_runs_that_do_not_follow_each_other_are_found(
    tmp_path: Path, spans: list[tuple[int, int]], meaning: str
) -> None:
    runs = [
        [write(tmp_path, some(9), number, sequences=span)] for number, span in enumerate(spans, 1)
    ]
    found = findings(tmp_path, *runs)
    assert any(number == 1 and meaning in text for number, _, text in found)


def test_parts_of_a_run_that_do_not_agree_are_found(tmp_path: Path) -> None:
    one = write(tmp_path, {b"a": b"1"}, 1, part=0, parts=2, sequences=(5, 9))
    for number, (key, sequences, expected) in enumerate(
        [
            (b"b", (5, 9), []),
            (b"b", (4, 9), ["expected first sequence number 5, found 4"]),
            (b"b", (5, 8), ["expected last sequence number 9, found 8"]),
            (b"a", (5, 9), ["its keys do not follow the table before"]),
        ],
        2,
    ):
        other = write(tmp_path, {key: b"1"}, number, part=1, parts=2, sequences=sequences)
        assert [text for _, _, text in findings(tmp_path, [one, other])] == expected


def test_a_table_that_did_not_open_leaves_the_others_to_be_checked(tmp_path: Path) -> None:
    info = write(tmp_path, some(100))
    damage(tmp_path / "000001.sst", RECORDS_AT + 6)
    table = SSTable(SYSTEM, str(tmp_path), info, STORE)
    runs = Run(0, (info, info, info)), Run(0, (info,))
    found = list(check_runs(Version(STORE.hex(), SEED, runs=runs), [[None, table, None], [None]]))
    assert "a record's crc does not match" in [finding.meaning for finding in found]
    table.close()


# Bytes.


def damage(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


def test_each_damaged_record_is_told_of_and_each_damaged_block(tmp_path: Path) -> None:
    info = write(tmp_path, {b"%05d" % number: bytes(20) for number in range(1000)})
    path, size = tmp_path / "000001.sst", 13 + 5 + 20
    for number in (3, 5, 700):
        damage(path, RECORDS_AT + size * number + 9)
    crafted = Crafted(tmp_path, info)
    index_at = crafted.begins[INDEX]
    damage(path, index_at + BLOCK + 8)
    damage(path, index_at + 2 * BLOCK + 8)
    assert [(at, text) for _, at, text in findings(tmp_path, [info])] == [
        (index_at + BLOCK, "block 1 of the index does not check"),
        (index_at + 2 * BLOCK, "block 2 of the index does not check"),
        *((RECORDS_AT + size * number, "a record's crc does not match") for number in (3, 5, 700)),
    ]


def test_bytes_between_the_parts_are_zero(tmp_path: Path) -> None:
    info = write(tmp_path, some(7))
    crafted = Crafted(tmp_path, info)
    ends = [begin + size for begin, size in zip(crafted.begins, crafted.sizes)]
    gaps = list(zip([crafted.records_end, *ends], [*crafted.begins, crafted.crcs_at]))
    places = [place for end, begin in gaps for place in range(end, begin)]
    assert len(places) > 5
    for place in places:
        damage(crafted.path, place)
        ((_, at, meaning),) = findings(tmp_path, [info])
        assert at <= place < at + 8
        assert "that are not zero" in meaning
        damage(crafted.path, place)


# Behind sound crcs.


def set_word(section: int, place: int, change: Callable[[int], int]) -> Callable[[Crafted], None]:
    """Return what changes one u64 of a section."""

    def does(crafted: Crafted) -> None:
        words = crafted.words(section)
        words[place] = change(words[place])
        crafted.put(section, words)

    return does


def forget_a_slot(crafted: Crafted) -> None:
    words = crafted.words(INDEX)
    words[next(place for place, slot in enumerate(words) if slot)] = 0
    crafted.put(INDEX, words)


def invent_a_slot(crafted: Crafted) -> None:
    words = crafted.words(INDEX)
    words[max(place for place, slot in enumerate(words) if not slot)] = 1 << 40 | RECORDS_AT
    crafted.put(INDEX, words)


def double_a_length(crafted: Crafted) -> None:
    at = crafted.begins[LENGTHS] + 2 * 70
    crafted.data[at] += 1
    crafted.data[at + 2] -= 1


@pytest.mark.parametrize(
    ("craft", "changes", "meaning"),
    [
        (set_word(SUMS, 1, lambda word: word ^ 1), {}, "the sum of a group does not match"),
        (set_word(FENCES, 1, lambda word: word + 1), {}, "lengths and fences do not agree"),
        (set_word(FILTER, 0, lambda _: 0), {}, "the filter does not admit this key"),
        (forget_a_slot, {}, "the index does not lead to this record"),
        (invent_a_slot, {}, "expected slots in use 130, found"),
        (double_a_length, {}, "a record's crc does not match"),
        (None, {"field22": 4}, "expected lengths of keys [5, 5], found [4, 5]"),
        (None, {"field23": 6}, "expected lengths of keys [5, 5], found [5, 6]"),
        (None, {"field12": RECORDS_AT + 40}, "records beyond the end of the records"),
        (None, {"field12": RECORDS_AT + 40}, "expected lengths behind byte"),
        (None, {"field3": 105, "field4": 25}, "expected tombstones 26, found 25"),
        (None, {"field5": 11}, "its last sequence number comes before the first"),
    ],
)
def test_a_part_that_is_not_true_is_found_though_every_crc_matches(
    tmp_path: Path, craft: Callable[[Crafted], None] | None, changes: dict[str, int], meaning: str
) -> None:
    crafted = Crafted(tmp_path, write(tmp_path, some(130)))
    if craft is not None:
        craft(crafted)
    info = crafted.save(**changes)
    if "slots" in meaning:
        meaning = meaning.replace("130, found", "131")
    found = [text for _, _, text in findings(tmp_path, [info])]
    assert any(meaning in text for text in found), found


@pytest.mark.parametrize(
    ("records", "meaning"),
    [
        ([encode(PUT, b"a", b"1"), encode(DELETE, b"b", b"1")], "lengths in a record that do not"),
        ([encode(PUT, b"a", b"1"), encode(5, b"b", b"")], "operation 5 in a table"),
        ([encode(PUT, b"b", b"1"), encode(PUT, b"a", b"1")], "the keys are not in order"),
        ([encode(PUT, b"a", b"1"), encode(PUT, b"a", b"1")], "the keys are not in order"),
    ],
)
def test_records_that_cannot_be_there_are_found(
    tmp_path: Path, records: list[bytes], meaning: str
) -> None:
    writer = TableWriter(SYSTEM, str(tmp_path), 1, SEED)
    keys = [record[5:6] for record in records]
    writer.add(keys, records, sum(record[0] == DELETE for record in records))
    info = writer.finish(STORE, level=0, part=0, parts=1, sequences=(0, 10))
    assert any(meaning in text for _, _, text in findings(tmp_path, [info]))


def test_a_record_whose_lengths_do_not_fill_it_is_found(tmp_path: Path) -> None:
    info = write(tmp_path, {b"a": b"123456789", b"b": b"1"})
    crafted = Crafted(tmp_path, info)
    record = bytearray(crafted.data[RECORDS_AT : RECORDS_AT + 23])
    for key_length, value_length in ((1, 8), (2, 9), (200, 9)):
        record[1:5], record[6:10] = (n.to_bytes(4, "little") for n in (key_length, value_length))
        crafted.data[RECORDS_AT : RECORDS_AT + 19] = record[:19]
        crafted.data[RECORDS_AT + 19 : RECORDS_AT + 23] = crc32c(bytes(record[:19])).to_bytes(
            4, "little"
        )
        found = [text for _, _, text in findings(tmp_path, [crafted.save()])]
        assert any("lengths in a record that do not fill it" in text for text in found)
