"""Verify finds damage of every kind, and nothing where nothing is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oblivion_dbm import error
from oblivion_dbm.engine.filesystem import FileSystem
from oblivion_dbm.engine.manifest import load, render
from oblivion_dbm.engine.options import Options
from oblivion_dbm.engine.record import DELETE, PUT, crc32c, encode
from oblivion_dbm.engine.sstable import (
    FENCES,
    FILTER,
    FOOTER,
    INDEX,
    LENGTHS,
    SUMS,
    TAIL,
    TAIL_MAGIC,
    SSTable,
    block_seed,
)
from oblivion_dbm.engine.storage_engine import open_store
from oblivion_dbm.engine.table_writer import TableWriter
from oblivion_dbm.engine.verify import verify
from oblivion_dbm.engine.version import Run, Version

SYSTEM = FileSystem()
STORE = bytes(range(16))
SEED = 7


def open_it(path: str, **more: Any) -> Any:
    return open_store(path, "c", Options(**more), 0o666, SYSTEM)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return a store with two runs, tombstones and a log."""
    path = tmp_path / "store"
    engine = open_it(str(path))
    for number in range(300):
        engine.put(b"%03d" % number, b"value %d" % number)
    engine.flush()
    for number in range(0, 300, 3):
        engine.delete(b"%03d" % number)
    engine.flush()
    engine.put(b"logged", b"value")
    engine.count()
    engine.close()
    return path


def findings(store: Path) -> list[tuple[str, str]]:
    return [(Path(found.file).name, found.meaning) for found in verify(str(store), SYSTEM)]


# No false alarms.


@pytest.mark.parametrize("back_end", ["mapped", "pwrite"])
def test_a_sound_store_has_no_findings_at_any_time(tmp_path: Path, back_end: str) -> None:
    path = str(tmp_path / "store")
    engine = open_it(path, memtable_limit=10_000, table_limit=5000, fan_in=3, log_back_end=back_end)
    assert verify(path, SYSTEM) == []
    for step in range(10):
        for number in range(100):
            engine.put(b"%04d" % (number * 7 * step % 500), bytes(step))
        engine.write({b"%04d" % number: None for number in range(step * 3)}, False)
        engine.count()
        assert verify(path, SYSTEM) == []
    engine.clear()
    assert verify(path, SYSTEM) == []
    engine.close()
    assert verify(path, SYSTEM) == []


def test_verifying_changes_nothing(store: Path) -> None:
    before = {file.name: file.read_bytes() for file in store.iterdir()}
    assert findings(store) == []
    assert {file.name: file.read_bytes() for file in store.iterdir()} == before


def test_files_that_are_not_the_store_s_are_no_finding(store: Path) -> None:
    (store / "notes.txt").write_text("mine")
    (store / "000001.lost").write_text("kept aside")
    assert findings(store) == []


def test_where_there_is_no_store_it_raises(tmp_path: Path) -> None:
    with pytest.raises(error):
        verify(str(tmp_path), SYSTEM)
    with pytest.raises(error):
        verify(str(tmp_path / "missing"), SYSTEM)


# Damage to bytes.


def damage(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("suffix", [".sst", ".wal"])
def test_every_damaged_byte_of_records_is_found_with_its_file(store: Path, suffix: str) -> None:
    path = min(store.glob("*" + suffix))
    whole = path.read_bytes()
    begin = 16 if suffix == ".sst" else 4096
    end = len(whole) if suffix == ".sst" else begin + len(encode(PUT, b"logged", b"value"))
    for offset in [*range(begin, begin + 24), *range(begin + 24, end, 61)]:
        path.write_bytes(whole)
        damage(path, offset)
        found = findings(store)
        in_padding = suffix == ".sst" and not any(whole[offset - 7 : offset + 1])
        assert in_padding or [name for name, _ in found] == [path.name]


def test_the_finding_tells_the_offset(store: Path) -> None:
    path = min(store.glob("*.sst"))
    damage(path, 16 + 5)
    (found,) = verify(str(store), SYSTEM)
    assert (found.file, found.offset) == (str(path), 16)
    assert repr(found) == f"{path}: byte 16: {found.meaning}"


@pytest.mark.parametrize("section", [LENGTHS, FENCES, SUMS, INDEX, FILTER])
def test_damage_to_every_section_of_a_table_is_found(store: Path, section: int) -> None:
    version = load(SYSTEM, str(store))
    info = version.runs[-1].tables[0]
    table = SSTable(SYSTEM, str(store), info, bytes.fromhex(version.store_id))
    begin, size, path = table._begins[section], table.sizes[section], Path(table.path)
    table.close()
    damage(path, begin + size // 2)
    assert [name for name, _ in findings(store)] == [path.name]


@pytest.mark.parametrize("suffix", [".sst", ".wal"])
def test_a_missing_or_shortened_file_is_found(store: Path, suffix: str) -> None:
    path = min(store.glob("*" + suffix))
    path.write_bytes(path.read_bytes()[:100])
    assert [name for name, _ in findings(store)] == [path.name]
    path.unlink()
    assert [name for name, _ in findings(store)] == [path.name]


def test_a_damaged_manifest_is_a_finding(store: Path) -> None:
    damage(store / "MANIFEST", 40)
    assert [name for name, _ in findings(store)] == ["MANIFEST"]


def test_every_damaged_file_is_named_and_not_the_first_alone(store: Path) -> None:
    for path in [*store.glob("*.sst"), *store.glob("*.wal")]:
        damage(path, 16 if path.suffix == ".sst" else 4100)
    names = {path.name for path in [*store.glob("*.sst"), *store.glob("*.wal")]}
    assert {name for name, _ in findings(store)} == names


# Broken invariants behind sound crcs.


def plant(folder: Path, keys: list[bytes], records: list[bytes], **more: Any) -> Version:
    """Make a store of one table that holds exactly this."""
    writer = TableWriter(SYSTEM, str(folder), 1, more.pop("seed", SEED))
    tombstones = more.pop("tombstones", sum(record[0] == DELETE for record in records))
    writer.add(keys, records, tombstones)
    facts: dict[str, Any] = {"level": 0, "part": 0, "parts": 1, "sequences": (0, 0)} | more
    info = writer.finish(STORE, **facts)
    version = Version(STORE.hex(), SEED, next_file=2, runs=(Run(0, (info,)),), live=None)
    (folder / "MANIFEST").write_bytes(render(version))
    return version


KEYS = [b"a", b"b", b"c"]
RECORDS = [encode(PUT, key, b"1") for key in KEYS]


def test_a_planted_table_is_sound(tmp_path: Path) -> None:
    plant(tmp_path, KEYS, RECORDS)
    assert findings(tmp_path) == []


@pytest.mark.parametrize(
    ("order", "more", "meaning"),
    [
        ("bac", {}, "not in order"),
        ("aab", {}, "not in order"),
        ("abc", {"level": 3}, "expected level 0, found 3"),
        ("abc", {"part": 1}, "expected part 0, found 1"),
        ("abc", {"parts": 2}, "expected parts 1, found 2"),
        ("abc", {"seed": 8}, "expected hash seed 7, found 8"),
        ("abc", {"tombstones": 1}, "tombstones"),
    ],
)
def test_a_table_that_breaks_a_rule_is_found(
    tmp_path: Path, order: str, more: dict[str, Any], meaning: str
) -> None:
    keys = [key.encode() for key in order]
    plant(tmp_path, keys, [encode(PUT, key, b"1") for key in keys], **more)
    assert any(meaning in found for _, found in findings(tmp_path))


def test_an_operation_that_no_table_holds_is_found(tmp_path: Path) -> None:
    plant(tmp_path, KEYS, [RECORDS[0], encode(5, b"b", b"1"), RECORDS[2]])
    assert any("operation 5 in a table" in found for _, found in findings(tmp_path))


def test_keys_that_the_footer_and_the_index_have_from_elsewhere_are_found(tmp_path: Path) -> None:
    plant(tmp_path, [b"a", b"b", b"x"], RECORDS)
    found = " ".join(meaning for _, meaning in findings(tmp_path))
    assert "expected last key b'c', found b'x'" in found
    assert "the index does not lead to this record" in found


def test_a_wrong_count_in_the_manifest_is_found(store: Path) -> None:
    version = load(SYSTEM, str(store))
    for live in (0, 1000):
        (store / "MANIFEST").write_bytes(render(version.replace(live=live)))
        assert [name for name, _ in findings(store)] == ["MANIFEST"]


def test_a_manifest_that_says_else_of_a_table_is_found(store: Path) -> None:
    version = load(SYSTEM, str(store))
    info = version.runs[0].tables[0]
    changes: list[Callable[[], None]] = [
        lambda: setattr(info, "puts", info.puts + 1),
        lambda: setattr(info, "tombstones", info.tombstones + 1),
        lambda: setattr(info, "size", info.size + 1),
        lambda: setattr(info, "footer_crc", info.footer_crc ^ 1),
    ]
    for change in changes:
        change()
        (store / "MANIFEST").write_bytes(render(version))
        assert f"{info.number:06d}.sst" in [name for name, _ in findings(store)]


def test_parts_of_a_run_that_overlap_are_found(tmp_path: Path) -> None:
    infos = []
    for number, keys in ((1, [b"a", b"m"]), (2, [b"k", b"z"])):
        writer = TableWriter(SYSTEM, str(tmp_path), number, SEED)
        writer.add(keys, [encode(PUT, key, b"1") for key in keys], 0)
        part = number - 1
        infos.append(writer.finish(STORE, level=0, part=part, parts=2, sequences=(0, 0)))
    version = Version(STORE.hex(), SEED, next_file=3, runs=(Run(0, tuple(infos)),), live=None)
    (tmp_path / "MANIFEST").write_bytes(render(version))
    assert findings(tmp_path) == [("000002.sst", "its keys do not follow the table before")]


def mend_footer(data: bytearray, crcs_at: int, crcs_size: int) -> int:
    """Let the footer of one-byte keys cover changed block crcs; return its new crc."""
    at = len(data) - TAIL.size - FOOTER.size
    fields = list(FOOTER.unpack(data[at : at + FOOTER.size]))
    fields[11] = crc32c(bytes(data[crcs_at : crcs_at + crcs_size]))
    data[at : at + FOOTER.size] = FOOTER.pack(*fields)
    crc = crc32c(bytes(data[at - 2 : at + FOOTER.size]))
    data[-TAIL.size :] = TAIL.pack(crc, TAIL_MAGIC)
    return crc


@pytest.mark.parametrize("section", [SUMS, INDEX, FILTER])
def test_a_section_that_does_not_fit_the_records_is_found_though_every_crc_matches(
    tmp_path: Path, section: int
) -> None:
    version = plant(tmp_path, KEYS, RECORDS)
    path = tmp_path / "000001.sst"
    info = version.runs[0].tables[0]
    table = SSTable(SYSTEM, str(tmp_path), info, STORE)
    begin, size = table._begins[section], table.sizes[section]
    crc_at = table._crcs_at + 4 * table._first_blocks[section]
    table.close()
    data = bytearray(path.read_bytes())
    data[begin : begin + size] = bytes(size)
    crc = crc32c(bytes(data[begin : begin + size]), block_seed(1, section, 0))
    data[crc_at : crc_at + 4] = crc.to_bytes(4, "little")
    info.footer_crc = mend_footer(data, table._crcs_at, 4 * table._first_blocks[-1])
    path.write_bytes(data)
    (tmp_path / "MANIFEST").write_bytes(render(version))
    word = {SUMS: "sum", INDEX: "index", FILTER: "filter"}[section]
    assert any(word in meaning for _, meaning in findings(tmp_path))
