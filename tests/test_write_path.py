"""The write path: when it syncs, when it rotates, and what a failure leaves."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oblivion_dbm import CorruptionError, error
from oblivion_dbm.engine import table_writer
from oblivion_dbm.engine.filesystem import File, FileSystem
from oblivion_dbm.engine.options import Options
from oblivion_dbm.engine.storage_engine import StorageEngine, open_store
from oblivion_dbm.engine.verify import verify
from oblivion_dbm.engine.write_path import LARGEST_PRELUDE


class Recording(FileSystem):
    """Writes down what is done, and fails what it is told to."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.failing: dict[str, int] = {}

    def _note(self, call: str, path: str) -> None:
        """Note ``call name``; raise the errno that ``failing`` has for the call and suffix."""
        name = os.path.basename(path)
        self.done.append(f"{call} {name}")
        number = self.failing.get(f"{call} {name.rpartition('.')[2]}")
        if number is not None:
            raise error(number, "told to fail", path)

    def create(self, path: str, mode: int = 0o666) -> File:
        self._note("create", path)
        return super().create(path, mode)

    def open(self, path: str, writable: bool = False) -> File:
        self._note("open", path)
        return super().open(path, writable)

    def write(self, file: File, offset: int, data: bytes | memoryview) -> None:
        self._note("write", file.path)
        super().write(file, offset, data)

    def sync(self, file: File) -> None:
        self._note("sync", file.path)
        super().sync(file)

    def allocate(self, file: File, length: int) -> None:
        self._note("allocate", file.path)
        super().allocate(file, length)

    def map(self, file: File, length: int, writable: bool = False) -> mmap.mmap:
        self._note("map", file.path)
        return super().map(file, length, writable)

    def rename(self, source: str, destination: str) -> None:
        self._note("rename", source)
        super().rename(source, destination)

    def remove(self, path: str) -> None:
        self._note("remove", path)
        super().remove(path)


@pytest.fixture
def system() -> Recording:
    return Recording()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "store")


def open_it(path: str, system: FileSystem | None = None, flag: str = "c", **more: Any) -> Any:
    return open_store(path, flag, Options(**more), 0o666, system or FileSystem())


def fill(engine: StorageEngine, start: int, stop: int) -> None:
    for number in range(start, stop):
        engine.put(b"%05d" % number, b"value of %d" % number)


def assert_filled(engine: StorageEngine, start: int, stop: int) -> None:
    expected = [(b"%05d" % number, b"value of %d" % number) for number in range(start, stop)]
    assert list(engine.scan("pairs", None, None, False)) == expected
    assert [engine.value(key) for key, _ in expected] == [value for _, value in expected]


def names(path: str, suffix: str = "") -> list[str]:
    return sorted(name for name in os.listdir(path) if name.endswith(suffix))


# When it syncs.


def test_full_syncs_the_log_at_every_write(path: str, system: Recording) -> None:
    engine = open_it(path, system, sync="full")
    engine.put(b"a", b"1")
    (log,) = names(path, ".wal")
    writes: list[Callable[[], object]] = [
        lambda: engine.put(b"b", b"2"),
        lambda: engine.delete(b"a"),
        lambda: engine.write({b"c": b"3"}, False),
        engine.clear,
    ]
    for write in writes:
        system.done.clear()
        write()
        assert f"sync {log}" in system.done
    engine.close()


@pytest.mark.parametrize(("sync", "at_close"), [("normal", True), ("off", False)])
def test_the_other_modes_sync_when_asked_and_perhaps_at_close(
    path: str, system: Recording, sync: str, at_close: bool
) -> None:
    engine = open_it(path, system, sync=sync)
    engine.put(b"a", b"1")
    (log,) = names(path, ".wal")
    system.done.clear()
    fill(engine, 0, 100)
    engine.delete(b"00001")
    engine.write({b"c": b"3"}, False)
    assert system.done == []
    engine.sync()
    assert system.done == [f"sync {log}"]
    engine.put(b"b", b"2")
    system.done.clear()
    engine.close()
    assert (f"sync {log}" in system.done) == at_close


def test_a_handle_that_wrote_nothing_syncs_nothing(path: str, system: Recording) -> None:
    open_it(path).close()
    engine = open_it(path, system)
    system.done.clear()
    engine.sync()
    engine.flush()
    engine.compact()
    engine.close()
    assert [done for done in system.done if not done.endswith("LOCK")] == []


def test_recovered_records_are_synced_again_when_asked(path: str, system: Recording) -> None:
    engine = open_it(path)
    engine.put(b"a", b"1")
    (log,) = Path(path).glob("*.wal")
    unsynced = log.read_bytes()
    engine.close()
    log.write_bytes(unsynced)
    successor = open_it(path, system)
    system.done.clear()
    successor.sync()
    assert any(done.startswith("sync") and done.endswith(".wal") for done in system.done)
    assert successor.value(b"a") == b"1"
    successor.close()


def test_a_new_segment_is_durable_and_named_before_its_first_record(
    path: str, system: Recording
) -> None:
    engine = open_it(path, system)
    system.done.clear()
    engine.put(b"a", b"1")
    (log,) = names(path, ".wal")
    steps = [f"create {log}", f"sync {log}", "sync MANIFEST.new", "rename MANIFEST.new"]
    assert [done for done in system.done if done in steps] == steps
    engine.close()


def test_no_log_goes_before_its_table_is_durable_and_named(path: str, system: Recording) -> None:
    engine = open_it(path, system)
    fill(engine, 0, 100)
    (log,) = names(path, ".wal")
    system.done.clear()
    engine.flush()
    (table,) = names(path, ".sst")
    removed = system.done.index(f"remove {log}")
    synced = system.done.index(f"sync {table}")
    named = len(system.done) - 1 - system.done[::-1].index("rename MANIFEST.new")
    assert synced < named < removed
    engine.close()


# When it rotates.


def test_sequence_numbers_do_not_go_back_where_the_log_has_lost_its_beginning(path: str) -> None:
    """A flush makes a table durable, and not what the next segment says of its beginning."""
    engine: Any = open_store(path, "c", Options(background=False, log_back_end="pwrite"))
    engine.put(b"a", b"1")
    engine._path.maintenance._prepare()
    for number in range(100):
        engine.put(b"%d" % number, bytes(100))
    engine.flush()
    engine.put(b"a", b"2")
    before = engine.sequence
    files = {file.name: file.read_bytes() for file in Path(path).iterdir()}
    engine.close()
    copy = Path(path + "-after-the-crash")
    copy.mkdir()
    for name, data in files.items():
        lost = data[:128] + bytes(4096 - 128) if name.endswith(".wal") else data
        lost = lost[:512] + data[512:1052] + lost[1052:] if name.endswith(".wal") else lost
        (copy / name).write_bytes(lost)

    class Later(FileSystem):
        def boot(self) -> bytes:
            return bytes(16)

    reader = open_store(str(copy), "r", Options(), 0o666, Later())
    flushed = before - 15
    assert reader.sequence == flushed
    reader.close()
    for _ in range(3):
        engine = open_store(str(copy), "w", Options(background=False), 0o666, Later())
        assert engine.sequence >= flushed
        engine.put(b"b", b"3")
        engine.flush()
        runs = [engine.tree.tables[run.tables[0].number] for run in engine.tree.version.runs]
        spans = [(table.first_sequence, table.last_sequence) for table in reversed(runs)]
        assert all(first <= last for first, last in spans)
        assert [first for first, _ in spans[1:]] == [last for _, last in spans[:-1]]
        engine.close()


@pytest.mark.parametrize("back_end", ["mapped", "pwrite"])
def test_memory_stays_near_its_limit_and_everything_is_found(path: str, back_end: str) -> None:
    engine = open_it(path, memtable_limit=20_000, fan_in=3, log_back_end=back_end)
    for start in range(0, 3000, 100):
        fill(engine, start, start + 100)
        assert engine.stats()["memtable_records"] < 400
        assert engine.stats()["log_bytes"] < 60_000
    assert_filled(engine, 0, 3000)
    engine.flush()
    runs = engine.stats()["runs"]
    assert 1 <= len(runs) < 9
    assert max(run["level"] for run in runs) > 0
    assert engine.count() == 3000
    engine.close()
    assert verify(path, FileSystem()) == []


def test_one_record_larger_than_every_limit_is_taken(path: str) -> None:
    engine = open_it(path, memtable_limit=1, table_limit=1)
    big = bytes(300_000)
    for key in (b"a", b"b", b"c"):
        engine.put(key, big)
        assert engine.value(key) == big
    engine.close()
    engine = open_it(path)
    assert list(engine.scan("pairs", None, None, False)) == [(k, big) for k in (b"a", b"b", b"c")]
    engine.close()


def test_flush_makes_a_table_and_compact_makes_one_run_without_tombstones(path: str) -> None:
    engine = open_it(path)
    for start in range(0, 300, 100):
        fill(engine, start, start + 100)
        engine.flush()
    for number in range(0, 300, 2):
        engine.delete(b"%05d" % number)
    engine.flush()
    assert [run["tombstones"] for run in engine.stats()["runs"]] == [150, 0, 0, 0]
    engine.compact()
    (run,) = engine.stats()["runs"]
    assert (run["puts"], run["tombstones"]) == (150, 0)
    assert len(names(path, ".sst")) == run["tables"] == 1
    assert engine.count() == 150
    for number in range(1, 300, 2):
        engine.delete(b"%05d" % number)
    engine.compact()
    assert engine.stats()["runs"] == []
    assert names(path, ".sst") == []
    engine.close()


def test_a_clear_drops_every_table(path: str) -> None:
    engine = open_it(path, memtable_limit=10_000)
    fill(engine, 0, 500)
    assert len(names(path, ".sst")) > 1
    engine.clear()
    assert engine.count() == 0
    engine.flush()
    assert names(path, ".sst") == []
    engine.put(b"a", b"1")
    engine.write({b"b": b"2"}, True)
    assert list(engine.scan("keys", None, None, False)) == [b"b"]
    engine.close()


@pytest.mark.parametrize("records", [1, LARGEST_PRELUDE // 20])
def test_what_was_recovered_is_taken_over_by_the_first_write(path: str, records: int) -> None:
    engine = open_it(path)
    fill(engine, 0, records)
    engine.close()
    before = names(path, ".wal")
    engine = open_it(path)
    assert names(path, ".wal") == before
    engine.put(b"zzz", b"")
    assert len(names(path, ".wal")) == 1
    assert names(path, ".wal") != before
    assert len(names(path, ".sst")) == (records > 1)
    engine.delete(b"zzz")
    assert_filled(engine, 0, records)
    engine.close()


# When a sync fails.


@pytest.mark.parametrize("sync", ["full", "normal"])
def test_a_failed_sync_of_the_log_stops_all_writing_and_no_reading(
    path: str, system: Recording, sync: str
) -> None:
    engine = open_it(path, system, sync=sync)
    engine.put(b"a", b"1")
    system.failing = {"sync wal": errno.EIO}
    if sync == "normal":
        engine.put(b"b", b"2")
    with pytest.raises(error, match="told to fail"):
        engine.put(b"b", b"2") if sync == "full" else engine.sync()
    system.failing = {}
    system.done.clear()
    writes: list[Callable[[], object]] = [
        lambda: engine.put(b"c", b"3"),
        lambda: engine.delete(b"a"),
        lambda: engine.write({b"c": b"3"}, False),
        engine.clear,
        engine.sync,
        engine.flush,
        engine.compact,
    ]
    for write in writes:
        with pytest.raises(error, match=r"writing stopped: .*told to fail") as caught:
            write()
        assert caught.value.filename == path
    assert system.done == []
    assert engine.value(b"a") == b"1"
    assert engine.value(b"c") is None
    engine.close()
    engine = open_it(path)
    assert engine.value(b"a") == b"1"
    assert engine.value(b"c") is None
    engine.close()


@pytest.mark.parametrize("call", ["write LOCK", "open sst", "map sst", "rename new"])
def test_nothing_that_a_manifest_may_name_is_removed_whatever_fails_behind_it(
    path: str, system: Recording, call: str
) -> None:
    engine = open_it(path, system)
    fill(engine, 0, 100)
    engine.flush()
    fill(engine, 100, 200)
    system.failing = {call: errno.EMFILE}
    with pytest.raises(error, match="told to fail"):
        engine.flush()
    system.failing = {}
    assert_filled(engine, 0, 200)
    try:
        engine.put(b"more", b"")
        more = 1
    except error:
        more = 0
    engine.close()
    engine = open_it(path)
    assert engine.count() == 200 + more
    engine.close()
    assert verify(path, FileSystem()) == []


# When the disk is full.


@pytest.mark.parametrize("call", ["create sst", "write sst", "sync sst"])
def test_a_table_that_cannot_be_written_is_written_again_later(
    path: str, system: Recording, call: str
) -> None:
    engine = open_it(path, system)
    fill(engine, 0, 100)
    for _ in range(2):
        system.failing = {call: errno.ENOSPC}
        with pytest.raises(error, match="told to fail"):
            engine.flush()
        system.failing = {}
        assert names(path, ".sst") == []
        assert_filled(engine, 0, 100)
    before = names(path, ".wal")
    engine.flush()
    assert len(names(path, ".sst")) == 1
    assert set(before).isdisjoint(names(path, ".wal")) or len(names(path, ".wal")) < len(before)
    assert engine.stats()["memtable_records"] == 0
    fill(engine, 100, 200)
    assert_filled(engine, 0, 200)
    engine.close()


def test_a_flush_that_succeeds_has_solved_what_failed_behind_the_writers_backs(
    path: str, system: Recording
) -> None:
    engine = open_it(path, system)
    fill(engine, 0, 100)
    system.failing = {"write sst": errno.ENOSPC}
    for _ in range(2):
        with pytest.raises(error, match="told to fail"):
            engine.flush()
        engine._path.maintenance._step()  # what the thread does when it is woken next
    system.failing = {}
    engine.flush()
    fill(engine, 100, 200)
    assert_filled(engine, 0, 200)
    engine.close()


def test_writes_raise_while_tables_cannot_be_written_and_go_on_when_they_can(
    path: str, system: Recording
) -> None:
    engine = open_it(path, system, memtable_limit=10_000)
    system.failing = {"write sst": errno.ENOSPC}
    with pytest.raises(error, match="told to fail"):
        fill(engine, 0, 10_000)
    written = engine.count()
    assert written > 10
    assert_filled(engine, 0, written)
    before = names(path)
    for _ in range(5):
        with pytest.raises(error, match="told to fail"):
            fill(engine, written, written + 1)
    assert names(path) == before
    system.failing = {}
    fill(engine, written, 500)
    assert_filled(engine, 0, 500)
    engine.close()


def test_a_sealed_segment_whose_table_failed_is_synced_before_anything_younger(
    path: str, system: Recording
) -> None:
    engine = open_it(path, system, sync="off")
    fill(engine, 0, 10)
    (old,) = names(path, ".wal")
    system.failing = {"write sst": errno.ENOSPC}
    with pytest.raises(error, match="told to fail"):
        engine.flush()
    engine.put(b"younger", b"")
    system.done.clear()
    engine.sync()
    synced = [done for done in system.done if done.startswith("sync") and done.endswith(".wal")]
    assert synced[0] == f"sync {old}"
    assert len(synced) == 2
    system.failing = {}
    engine.close()


@pytest.mark.parametrize("call", ["allocate wal", "map wal"])
def test_a_log_that_cannot_grow_refuses_one_write_and_takes_the_next_that_fits(
    path: str, system: Recording, call: str
) -> None:
    engine = open_it(path, system, log_back_end="mapped")
    fill(engine, 0, 10)
    system.failing = {call: errno.ENOSPC}
    for _ in range(2):
        with pytest.raises(error, match="told to fail"):
            engine.put(b"big", bytes(200_000))
    fill(engine, 10, 20)
    system.failing = {}
    assert_filled(engine, 0, 20)
    engine.put(b"big", bytes(200_000))
    assert engine.value(b"big") == bytes(200_000)
    engine.close()


class SmallDisk(FileSystem):
    """Log files end at ``limit``; the write that reaches it is short."""

    limit = 1 << 40

    def write(self, file: File, offset: int, data: bytes | memoryview) -> None:
        room = max(0, self.limit - offset) if file.path.endswith(".wal") else len(data)
        super().write(file, offset, bytes(data)[:room])
        if len(data) > room:
            raise error(errno.ENOSPC, "no space left", file.path)


@pytest.mark.parametrize("room", [0, 1, 20, 90])
def test_a_write_that_was_cut_short_leaves_no_trace_over_pwrite(path: str, room: int) -> None:
    system = SmallDisk()
    engine = open_it(path, system, log_back_end="pwrite")
    fill(engine, 0, 10)
    system.limit = 4096 + engine.stats()["log_bytes"] + room
    for _ in range(2):
        with pytest.raises(error, match="no space left"):
            engine.put(b"big", b"x" * 100)
        with pytest.raises(error, match="no space left"):
            engine.write({b"big": b"x" * 100}, True)
    assert_filled(engine, 0, 10)
    system.limit = 1 << 40
    fill(engine, 10, 20)
    assert_filled(engine, 0, 20)
    engine.close()
    engine = open_it(path)
    assert_filled(engine, 0, 20)
    engine.close()


@pytest.mark.parametrize(
    "call", ["create wal", "allocate wal", "sync wal", "create new", "write new", "sync new"]
)
@pytest.mark.parametrize("records", [1, LARGEST_PRELUDE // 20])
def test_a_segment_that_cannot_be_begun_leaves_no_files_however_often_it_is_tried(
    path: str, system: Recording, call: str, records: int
) -> None:
    engine = open_it(path)
    fill(engine, 0, records)
    engine.close()
    engine = open_it(path, system)
    before = set(names(path))
    system.failing = {call: errno.ENOSPC}
    for _ in range(3):
        with pytest.raises(error, match="told to fail"):
            engine.put(b"zzz", b"")
    assert set(names(path)) - {"MANIFEST.new"} == before
    system.failing = {}
    engine.put(b"zzz", b"")
    engine.delete(b"zzz")
    assert_filled(engine, 0, records)
    engine.close()


def test_a_large_recovered_log_whose_table_fails_leaves_no_files(
    path: str, system: Recording
) -> None:
    engine = open_it(path)
    fill(engine, 0, LARGEST_PRELUDE // 20)
    engine.close()
    engine = open_it(path, system)
    before = names(path)
    system.failing = {"write sst": errno.ENOSPC}
    for _ in range(3):
        with pytest.raises(error, match="told to fail"):
            engine.put(b"zzz", b"")
        assert names(path) == before
    system.failing = {}
    engine.put(b"zzz", b"")
    engine.close()


# When a table is damaged.


def test_a_merge_that_meets_damage_leaves_the_table_alone_and_writes_go_on(path: str) -> None:
    engine = open_it(path, fan_in=3, space_ratio=100.0)
    for start in (0, 100):
        fill(engine, start, start + 100)
        engine.flush()
    victim = min(Path(path).glob("*.sst"))
    data = bytearray(victim.read_bytes())
    data[16 + 30] ^= 1  # in the second record
    victim.write_bytes(data)
    fill(engine, 200, 300)
    engine.flush()
    assert engine.stats()["quarantined_tables"] == [int(victim.stem)]
    assert len(engine.stats()["runs"]) == 3
    with pytest.raises(CorruptionError) as caught:
        engine.compact()
    assert caught.value.filename == str(victim)
    assert victim.read_bytes() == data
    for start in range(300, 700, 100):
        fill(engine, start, start + 100)
        engine.flush()
    assert engine.value(b"00699") == b"value of 699"
    assert engine.value(b"00050") == b"value of 50"
    with pytest.raises(CorruptionError):
        engine.value(b"00001")
    assert max(run["level"] for run in engine.stats()["runs"]) == 1
    engine.close()


def test_a_table_that_would_be_too_long_loses_nothing(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_it(path)
    fill(engine, 0, 100)
    with monkeypatch.context() as patch:
        patch.setattr(table_writer, "LONGEST_TABLE", 1000)
        with pytest.raises(error, match="the limit is 1000") as caught:
            engine.flush()
        assert caught.value.errno == errno.EFBIG
        assert names(path, ".sst") == []
    assert_filled(engine, 0, 100)
    engine.flush()
    assert_filled(engine, 0, 100)
    engine.close()


def test_a_sync_in_time_that_an_interrupt_kept_from_being_asked_for_is_asked_for_again(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_it(path, sync=3600.0)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine._path.queue, "sync_within", interrupted)
        with pytest.raises(KeyboardInterrupt):
            engine.put(b"a", b"1")
    assert engine._path.queue._deadline is None
    engine.put(b"b", b"2")
    assert engine._path.queue._deadline is not None
    engine.close()
