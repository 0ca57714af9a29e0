"""The Compactor writes runs, and leaves nothing behind when it fails."""

from __future__ import annotations

import errno
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from random import Random
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gates.failure import descriptors
from oblivion_dbm import CorruptionError, error
from oblivion_dbm.engine.compactor import Compactor
from oblivion_dbm.engine.filesystem import File, FileSystem
from oblivion_dbm.engine.manifest import Manifest
from oblivion_dbm.engine.options import Options
from oblivion_dbm.engine.policy import Task
from oblivion_dbm.engine.record import DELETE, PUT, encode
from oblivion_dbm.engine.sstable import SSTable
from oblivion_dbm.engine.version import Run, Version

Table = dict[bytes, bytes | None]
TABLES = st.dictionaries(st.binary(max_size=2), st.one_of(st.none(), st.binary(max_size=3)))
STORE = bytes(range(16))
SEQUENCES = (0, 100)


def records_of(table: Table) -> dict[bytes, bytes]:
    return {
        key: encode(DELETE, key, b"") if value is None else encode(PUT, key, value)
        for key, value in table.items()
    }


class House:
    """A Compactor and what it needs."""

    def __init__(
        self, folder: Path, table_limit: int = 1 << 20, system: FileSystem | None = None
    ) -> None:
        self.folder = folder
        self.pace: Callable[[int], None] = lambda records: None
        self.system = system or FileSystem()
        self.manifest = Manifest(self.system, str(folder), Version(STORE.hex(), 7, next_file=1))
        options = Options(table_limit=table_limit)
        self.compactor = Compactor(
            self.system, str(folder), options, self.manifest, 0o666, self._pace
        )
        self.tables: dict[int, SSTable] = {}

    def _pace(self, records: int) -> None:
        self.pace(records)

    def open(self, run: Run) -> list[SSTable]:
        for info in run.tables:
            if info.number not in self.tables:
                table = SSTable(FileSystem(), str(self.folder), info, STORE)
                self.tables[info.number] = table
        return [self.tables[info.number] for info in run.tables]

    def flush(self, table: Table, drop: bool = False) -> Run | None:
        tombstones = None in table.values()
        return self.compactor.flush(
            records_of(table), SEQUENCES, tombstones=tombstones, drop_tombstones=drop
        )

    def merge(self, runs: list[Run], drop: bool = False, level: int = 1) -> Run | None:
        for run in runs:
            self.open(run)
        return self.compactor.merge(Task(tuple(runs), level, drop), self.tables.__getitem__)

    def contents(self, run: Run | None) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        for table in self.open(run) if run else ():
            found.update(zip(*table.records(0, len(table))))
        return found

    def files(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}


@given(TABLES, st.booleans())
def test_a_flush_is_the_memtable_in_order(
    tmp_path_factory: pytest.TempPathFactory, table: Table, drop: bool
) -> None:
    house = House(tmp_path_factory.mktemp("store"))
    run = house.flush(table, drop)
    kept = {key: value for key, value in table.items() if value is not None or not drop}
    found = house.contents(run)
    assert found == records_of(kept)
    assert list(found) == sorted(kept)
    assert (run is None) == (not kept)
    if run is not None:
        assert run.level == 0
        assert run.puts + run.tombstones == len(kept)
        assert run.tombstones == list(kept.values()).count(None)


@given(st.lists(TABLES.filter(bool), min_size=1, max_size=4), st.booleans(), st.booleans())
def test_a_merge_is_what_reads_would_have_found(
    tmp_path_factory: pytest.TempPathFactory, tables: list[Table], drop: bool, small: bool
) -> None:
    house = House(tmp_path_factory.mktemp("store"), 1 if small else 1 << 20)
    runs = [run for table in tables if (run := house.flush(table))]
    merged = house.merge(runs, drop)
    model: Table = {}
    for table in reversed(tables):
        model.update(table)
    kept = {key: value for key, value in model.items() if value is not None or not drop}
    assert house.contents(merged) == records_of(kept)
    if merged is not None:
        assert merged.level == 1
        assert merged.tombstones == list(kept.values()).count(None)


def big(count: int, value: bytes = b"") -> Table:
    return {b"%06d" % number: value for number in range(count)}


def test_a_run_gets_a_new_part_at_the_table_limit(tmp_path: Path) -> None:
    house = House(tmp_path, table_limit=20_000)
    run = house.flush(big(3000, b"x" * 50))
    assert run is not None
    assert len(run.tables) > 3
    tables = house.open(run)
    assert [(table.part, table.parts) for table in tables] == [
        (part, len(tables)) for part in range(len(tables))
    ]
    assert all(first.last_key < second.first_key for first, second in pairwise(tables))
    assert len(house.contents(run)) == 3000
    merged = house.merge([run])
    assert house.contents(merged) == house.contents(run)


def test_a_merge_covers_the_sequences_of_its_inputs(tmp_path: Path) -> None:
    house = House(tmp_path)
    runs = []
    for last in (300, 200, 100):
        run = house.compactor.flush(
            records_of({b"a": b"1"}), (last - 100, last), tombstones=False, drop_tombstones=False
        )
        assert run is not None
        runs.append(run)
    merged = house.merge(runs, level=4)
    assert merged is not None
    (table,) = house.open(merged)
    assert (table.first_sequence, table.last_sequence, table.level) == (0, 300, 4)


def test_a_damaged_input_stops_the_merge_and_stays(tmp_path: Path) -> None:
    house = House(tmp_path, table_limit=5000)
    runs = [house.flush(big(600, value)) for value in (b"new", b"old")]
    assert None not in runs
    before = house.files()
    victim = tmp_path / "000002.sst"
    data = bytearray(victim.read_bytes())
    data[2000] ^= 1
    victim.write_bytes(data)
    with pytest.raises(CorruptionError) as caught:
        house.merge([run for run in runs if run is not None])
    assert caught.value.filename == str(victim)
    assert house.files() == before
    assert victim.read_bytes() == data


class FailingTables(FileSystem):
    """Fails at the n-th call of one kind on a table."""

    def __init__(self, call: str, number: int) -> None:
        self.call, self.left = call, number

    def _fail(self, call: str, path: str) -> None:
        if call == self.call and path.endswith(".sst"):
            self.left -= 1
            if self.left == 0:
                raise error(errno.ENOSPC, "no space left", path)

    def create(self, path: str, mode: int = 0o666) -> File:
        self._fail("create", path)
        return super().create(path, mode)

    def write(self, file: File, offset: int, data: bytes | memoryview) -> None:
        self._fail("write", file.path)
        super().write(file, offset, data)

    def sync(self, file: File) -> None:
        self._fail("sync", file.path)
        super().sync(file)


@pytest.mark.parametrize("call", ["create", "write", "sync"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_what_fails_leaves_no_file_no_descriptor_and_says_why(
    tmp_path: Path, call: str, number: int
) -> None:
    house = House(tmp_path, 5000, FailingTables(call, number))
    before = descriptors()
    with pytest.raises(error) as caught:
        house.flush(big(2000))
    assert caught.value.errno == errno.ENOSPC
    assert house.files() == set()
    assert descriptors() == before
    run = house.flush(big(2000))
    assert len(house.contents(run)) == 2000


def test_a_descriptor_is_closed_once_since_its_number_may_be_another_file_s(
    tmp_path: Path,
) -> None:
    closed: list[int] = []

    class Counting(FailingTables):
        def close(self, file: File) -> None:
            closed.append(id(file))
            files.append(file)
            super().close(file)

    files: list[File] = []
    house = House(tmp_path, 5000, Counting("sync", 3))
    with pytest.raises(error, match="no space left"):
        house.flush(big(2000))
    assert len(closed) == len(set(closed))


def test_a_run_that_is_discarded_is_gone_and_its_numbers_are_not_used_again(
    tmp_path: Path,
) -> None:
    house = House(tmp_path, table_limit=5000)
    run = house.flush(big(2000))
    assert run is not None
    house.compactor.discard(run)
    assert house.files() == set()
    again = house.flush(big(10))
    assert again is not None
    assert again.tables[0].number > run.tables[-1].number


def test_files_being_written_are_safe_from_the_sweep(tmp_path: Path) -> None:
    house = House(tmp_path)
    run = house.flush(big(10))
    assert run is not None
    house.manifest.install(house.manifest.version, lambda: None)
    assert house.contents(run) == records_of(big(10))


# Piece by piece.


def plain(seed: int, count: int) -> dict[bytes, bytes]:
    """Return puts with keys of one length."""
    draw = Random(seed)
    keys = [b"%08x" % draw.getrandbits(32) for _ in range(count)]
    return {key: encode(PUT, key, 3 * key) for key in keys}


def varied(seed: int, count: int) -> dict[bytes, bytes]:
    """Return puts, some of them long, and tombstones, with keys of several lengths."""
    draw = Random(seed)
    found = {}
    for number in range(count):
        key = b"%x" % draw.getrandbits(20)
        if number % 500 == 499:
            found[key] = encode(PUT, key, bytes([number % 256]) * (1 << 16))
        elif number % 7 == 6:
            found[key] = encode(DELETE, key, b"")
        else:
            found[key] = encode(PUT, key, b"%d" % draw.getrandbits(number % 200))
    return found


def flushed(house: House, records: dict[bytes, bytes]) -> Run:
    tombstones = any(record[0] == DELETE for record in records.values())
    run = house.compactor.flush(records, SEQUENCES, tombstones=tombstones, drop_tombstones=False)
    assert run is not None
    return run


def crcs(house: House, run: Run | None) -> list[int]:
    assert run is not None
    return [crc32((house.folder / f"{info.number:06d}.sst").read_bytes()) for info in run.tables]


def test_tables_are_those_that_were_once_built_in_one_piece(tmp_path: Path) -> None:
    house = House(tmp_path, table_limit=1 << 28)
    inputs = [plain(1, 10_000), varied(2, 3000), varied(3, 3000)]
    runs = [flushed(house, records) for records in inputs]
    assert [crcs(house, run) for run in runs] == [[0x74C93506], [0xD0230199], [0xB4CF7545]]
    assert crcs(house, house.merge(runs)) == [0x1A39C36C]
    assert crcs(house, house.merge(runs, drop=True)) == [0xA94A1BFB]


class CancelledError(Exception):
    """What a pace may raise."""


def cancelled_at(house: House, call: int, job: Callable[[], Run | None]) -> Run | None:
    """Return what ``job`` gives if it ends before pace was called ``call`` times, else None."""
    left = [call]

    def pace(records: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise CancelledError

    house.pace = pace
    try:
        return job()
    except CancelledError:
        return None
    finally:
        house.pace = lambda records: None


def swept(house: House) -> set[str]:
    """Return the tables that a Version names or that a job is about to write.

    Each number that was ever given gets a file, and the others are removed.
    """
    last = house.manifest.new_number()
    house.manifest.forget(last)
    for number in range(1, last + 1):
        (house.folder / f"{number:06d}.sst").touch()
    house.manifest.install(house.manifest.version, lambda: None)
    return {name for name in house.files() if name.endswith(".sst")}


@pytest.mark.parametrize("job", ["flush", "merge"])
def test_a_job_that_is_cancelled_anywhere_leaves_nothing_and_succeeds_afterwards(
    tmp_path: Path, job: str
) -> None:
    house = House(tmp_path, table_limit=40_000)
    records = plain(1, 1500)
    runs = [flushed(house, dict(list(records.items())[part::2])) for part in (0, 1)]
    for run in runs:
        house.open(run)
    house.manifest.install(house.manifest.version.replace(runs=tuple(runs)), lambda: None)
    named = swept(house)
    jobs = {"flush": lambda: flushed(house, records), "merge": lambda: house.merge(runs)}
    before = descriptors()
    call, result = 0, None
    while result is None:
        call += 1
        result = cancelled_at(house, call, jobs[job])
        if result is None:
            assert {name for name in house.files() if name.endswith(".sst")} == named
            assert descriptors() == before
    assert call > 20
    assert len(result.tables) > 1
    assert house.contents(result) == records
    house.compactor.discard(result)
    assert swept(house) == named


@pytest.mark.parametrize("records", [plain(1, 9000), varied(2, 9000), {}], ids=len)
def test_pace_is_told_of_each_record_that_was_written(
    tmp_path: Path, records: dict[bytes, bytes]
) -> None:
    house = House(tmp_path, table_limit=1 << 19)
    told: list[int] = []
    house.pace = told.append
    runs = [flushed(house, records)] if records else []
    assert sum(told) == len(records)
    assert max(told, default=0) <= 1024
    told.clear()
    if runs:
        house.merge(runs)
        assert sum(told) == len(records)


def test_a_flush_may_run_inside_a_merge(tmp_path: Path) -> None:
    house = House(tmp_path, table_limit=40_000)
    records = plain(1, 3000)
    runs = [flushed(house, dict(list(records.items())[part::2])) for part in (0, 1)]
    between: list[Run] = []

    def pace(number: int) -> None:
        house.pace = lambda records: None
        between.append(flushed(house, varied(2, 100)))
        house.pace = pace

    house.pace = pace
    merged = house.merge(runs)
    house.pace = lambda records: None
    assert house.contents(merged) == records
    assert len(between) > 20
    assert all(house.contents(run) == varied(2, 100) for run in between)


def test_a_merge_reads_from_the_file_what_it_then_takes_out_of_the_map(tmp_path: Path) -> None:
    reads: list[tuple[int, int]] = []

    class Reads(FileSystem):
        def read(self, file: File, offset: int, length: int) -> bytes:
            reads.append((offset, offset + length))
            return super().read(file, offset, length)

    house = House(tmp_path, 1 << 28, Reads())
    records = varied(4, 40_000) | {b"large": encode(PUT, b"large", bytes(5 << 20))}
    run = flushed(house, records)
    (table,) = house.open(run)
    ends: list[int] = []

    def cut(low: int, high: int) -> tuple[list[bytes], list[bytes]]:
        end = table.offset(high) if high < len(table) else table.records_end
        ends.append(end)
        covered = 16
        for begin, stop in sorted(reads):
            assert stop - begin <= 1 << 20
            if begin <= covered:
                covered = max(covered, stop)
        assert covered >= end
        return SSTable.records(table, low, high)

    table.records = cut  # type: ignore[method-assign,assignment]  # to watch it
    house.merge([run])
    assert ends[-1] == table.records_end
    assert (table.records_end, table.index_at) in reads


def test_a_tombstone_that_was_not_announced_is_noticed(tmp_path: Path) -> None:
    house = House(tmp_path)
    records = {b"a": encode(DELETE, b"a", b""), b"b": encode(PUT, b"b", b"")}
    with pytest.raises(AssertionError, match="not announced"):
        house.compactor.flush(records, SEQUENCES, tombstones=False, drop_tombstones=False)
    assert house.files() == set()


def test_large_values_are_written_a_megabyte_at_a_time(tmp_path: Path) -> None:
    sizes: list[int] = []

    class Sizes(FileSystem):
        def write(self, file: File, offset: int, data: bytes | memoryview) -> None:
            sizes.append(len(data))
            super().write(file, offset, data)

    house = House(tmp_path, 1 << 28, Sizes())
    lengths = [*(300_000 for _ in range(100)), 4 << 20, 5]
    records = {
        b"%03d" % number: encode(PUT, b"%03d" % number, bytes(length))
        for number, length in enumerate(lengths)
    }
    run = flushed(house, records)
    assert house.contents(run) == records
    *others, largest = sorted(sizes)
    assert largest == len(records[b"100"])
    assert max(others) <= (1 << 20) + (1 << 19)
