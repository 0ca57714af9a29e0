"""The Compactor writes runs, and leaves nothing behind when it fails."""

from __future__ import annotations

import errno
import gc
import os
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oblivion_dbm import CorruptionError, error
from oblivion_dbm.engine.compactor import Compactor, whole_run
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


def descriptors() -> int:
    """Return how many descriptors are open, those of forgotten handles left out."""
    gc.collect()
    return len(os.listdir("/dev/fd"))


class House:
    """A Compactor and what it needs."""

    def __init__(
        self, folder: Path, table_limit: int = 1 << 20, system: FileSystem | None = None
    ) -> None:
        self.folder = folder
        self.system = system or FileSystem()
        self.manifest = Manifest(self.system, str(folder), Version(STORE.hex(), 7, next_file=1))
        options = Options(table_limit=table_limit)
        self.compactor = Compactor(self.system, str(folder), options, self.manifest, 0o666)
        self.tables: dict[int, SSTable] = {}

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
        for keys, records in whole_run(self.open(run)) if run else ():
            found.update(zip(keys, records))
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
