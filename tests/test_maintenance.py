"""Maintenance in the background: its order of steps, its failures, its pressure, its end."""

from __future__ import annotations

import errno
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from oblivion_dbm import CorruptionError, Database, error
from oblivion_dbm.engine import worker as worker_module
from oblivion_dbm.engine.filesystem import File, FileSystem
from oblivion_dbm.engine.maintenance import Maintenance
from oblivion_dbm.engine.manifest import load
from oblivion_dbm.engine.options import Options
from oblivion_dbm.engine.pressure import OVERFULL
from oblivion_dbm.engine.sstable import SSTable
from oblivion_dbm.engine.storage_engine import StorageEngine, Writer, open_store
from oblivion_dbm.engine.verify import verify

CODE = Path(__file__).resolve().parent.parent


class Watched(FileSystem):
    """Writes down what is done, fails what it is told to, and takes the time it is told to."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.failing: dict[str, int] = {}
        self.slow: dict[str, float] = {}
        self.watch: Callable[[str, str], None] = lambda call, path: None

    def _note(self, call: str, path: str) -> None:
        name = os.path.basename(path)
        key = f"{call} {name.rpartition('.')[2]}"
        self.watch(call, path)
        self.done.append(f"{call} {name}")
        if key in self.slow:
            time.sleep(self.slow[key])
        if key in self.failing:
            raise error(self.failing[key], "told to fail", path)

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

    def sync_directory(self, path: str) -> None:
        self._note("sync_directory", path)
        super().sync_directory(path)

    def allocate(self, file: File, length: int) -> None:
        self._note("allocate", file.path)
        super().allocate(file, length)

    def rename(self, source: str, destination: str) -> None:
        self._note("rename", source)
        super().rename(source, destination)

    def remove(self, path: str) -> None:
        self._note("remove", path)
        super().remove(path)


@pytest.fixture
def system() -> Watched:
    return Watched()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "store")


def open_it(path: str, system: FileSystem | None = None, flag: str = "c", **more: Any) -> Writer:
    engine = open_store(path, flag, Options(**more), 0o666, system or FileSystem())
    assert isinstance(engine, Writer)
    return engine


def maintenance_of(engine: StorageEngine) -> Maintenance:
    assert isinstance(engine, Writer)
    return engine._path.maintenance


def fill(engine: StorageEngine, start: int, stop: int, size: int = 100) -> None:
    for number in range(start, stop):
        engine.put(b"%05d" % number, b"%d" % number * (size // 5))


def fill_until_it_fails(engine: StorageEngine, start: int) -> tuple[int, error]:
    """Return the first record that could not be written, and why."""
    number = start

    def fill_on() -> None:
        nonlocal number
        while number < start + 10_000:
            fill(engine, number, number + 1)
            number += 1

    with pytest.raises(error, match="told to fail") as caught:
        fill_on()
    return number, caught.value


def assert_filled(engine: StorageEngine, stop: int, size: int = 100) -> None:
    found = list(engine.scan("pairs", None, None, False))
    assert found == [(b"%05d" % n, b"%d" % n * (size // 5)) for n in range(stop)]


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.001)


def at_rest(engine: StorageEngine) -> bool:
    maintenance = maintenance_of(engine)
    return not maintenance.worker._life.locked() and not maintenance.worker._coming


def names(path: str, suffix: str = "") -> list[str]:
    return sorted(name for name in os.listdir(path) if name.endswith(suffix))


SMALL: dict[str, Any] = {"memtable_limit": 20_000, "table_limit": 20_000, "fan_in": 3}


# The thread.


def test_reading_and_a_few_writes_start_no_thread(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*_: object) -> int:
        raise AssertionError("a thread was started")

    monkeypatch.setattr(worker_module, "start_new_thread", start)
    engine = open_it(path)
    fill(engine, 0, 1000)
    assert engine.count() == 1000
    engine.close()
    engine = open_it(path)
    assert_filled(engine, 1000)
    engine.close()


def test_the_thread_goes_when_there_is_nothing_to_do(path: str) -> None:
    engine = open_it(path, **SMALL)
    fill(engine, 0, 2000)
    until(lambda: at_rest(engine))
    assert engine.stats()["runs"]
    fill(engine, 0, 2000)
    engine.close()
    until(lambda: at_rest(engine))  # a thread that comes late ends at once


# The order of steps.


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("sync", ["off", "full"])
def test_no_file_goes_while_it_is_needed(
    path: str, system: Watched, background: bool, sync: str
) -> None:
    # At each removal: the MANIFEST is durable, does not name the file, and all
    # that it does name is there, synced and in a synced directory.
    engine = open_it(path, system, background=background, sync=sync, **SMALL)
    wrong: list[str] = []

    def watch(call: str, what: str) -> None:
        if call != "remove" or not what.endswith((".wal", ".sst")):
            return
        version = load(FileSystem(), path)
        named = {*version.logs, *(info.number for run in version.runs for info in run.tables)}
        if int(os.path.basename(what).partition(".")[0]) in named:
            wrong.append(f"{what} is named")
        done = list(system.done)
        renamed = len(done) - 1 - done[::-1].index("rename MANIFEST.new")
        if "sync_directory store" not in done[renamed:]:
            wrong.append(f"the MANIFEST is not durable when {what} goes")
        for name in names(path):
            if name.partition(".")[0] in {f"{number:06d}" for number in named}:
                if f"sync {name}" not in done[:renamed]:
                    wrong.append(f"{name} is not synced when {what} goes")
                created = done.index(f"create {name}")
                if "sync_directory store" not in done[created:renamed]:
                    wrong.append(f"{name} has no durable name when {what} goes")

    system.watch = watch
    fill(engine, 0, 1500)
    for number in range(0, 1500, 3):
        engine.delete(b"%05d" % number)
    engine.compact()
    until(lambda: at_rest(engine))
    engine.close()
    assert wrong == []
    assert sum(done.startswith("remove") and done.endswith("wal") for done in system.done) > 5
    assert sum(done.startswith("remove") and done.endswith("sst") for done in system.done) > 5
    assert verify(path, FileSystem()) == []


def test_the_next_segment_is_there_before_it_is_needed(path: str, system: Watched) -> None:
    engine = open_it(path, system, memtable_limit=1 << 20)
    fill(engine, 0, 2300)
    until(lambda: at_rest(engine))
    assert maintenance_of(engine)._log.prepared is not None
    assert len(names(path, ".wal")) == 2
    fill(engine, 2300, 3000)
    engine.close()
    engine = open_it(path)
    assert_filled(engine, 3000)
    engine.close()
    assert verify(path, FileSystem()) == []


# A full disk.


def writes_of(engine: StorageEngine) -> list[Callable[[], object]]:
    """Return one of each kind of write, each to a key of its own."""

    def pop() -> None:
        with engine_lock(engine):
            engine.put(b"pop", b"1")
        engine.commit()

    return [
        lambda: engine.put(b"put", b"1"),
        lambda: engine.delete(b"00001"),
        lambda: engine.write({b"batch": b"1", b"00002": None}, False),
        lambda: engine.submit({b"async": b"1"}).result(20),
        pop,
    ]


def engine_lock(engine: StorageEngine) -> Any:
    assert isinstance(engine, Writer)
    return engine.exclusive


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize(
    "call", ["write sst", "create sst", "sync sst", "create wal", "allocate wal", "write new"]
)
def test_a_full_disk_behind_the_scenes_stops_writes_keeps_reads_and_passes(
    path: str, system: Watched, call: str, background: bool
) -> None:
    engine = open_it(path, system, background=background, log_back_end="mapped", **SMALL)
    fill(engine, 0, 50)
    system.failing = {call: errno.ENOSPC}
    written, problem = fill_until_it_fails(engine, 50)
    assert problem.errno == errno.ENOSPC
    assert_filled(engine, written)
    before = list(engine.scan("pairs", None, None, False))
    for _ in range(2):
        for write in writes_of(engine):
            with pytest.raises(error, match="told to fail"):
                write()
            assert list(engine.scan("pairs", None, None, False)) == before
    assert engine.count() == written
    system.failing = {}
    fill(engine, written, written + 500)
    assert_filled(engine, written + 500)
    for write in writes_of(engine):
        write()
    expected = list(engine.scan("pairs", None, None, False))
    engine.close()
    engine = open_it(path)
    assert list(engine.scan("pairs", None, None, False)) == expected
    engine.close()
    assert verify(path, FileSystem()) == []
    assert not names(path, ".new")


def test_what_a_full_disk_left_is_there_after_opening_again(path: str, system: Watched) -> None:
    engine = open_it(path, system, **SMALL)
    system.failing = {"write sst": errno.ENOSPC}
    written, _ = fill_until_it_fails(engine, 0)
    with suppress(error):
        engine.close()
    engine = open_it(path)
    assert_filled(engine, written)
    engine.close()


def test_a_merge_that_fails_is_told_once_and_writes_go_on(path: str, system: Watched) -> None:
    engine = open_it(path, system, memtable_limit=1 << 20, fan_in=2)
    fill(engine, 0, 100)
    engine.flush()
    system.watch = fail_merges(engine)
    fill(engine, 100, 200)
    with pytest.raises(error, match="no room to merge"):
        engine.flush()
    told = 0
    for start in range(200, 1200, 100):
        try:
            fill(engine, start, start + 100)
        except error:
            told += 1
            fill(engine, start, start + 100)
        with suppress(error):
            engine.flush()
    assert_filled(engine, 1200)
    system.watch = lambda call, what: None
    engine.flush()
    assert len(engine.stats()["runs"]) < 4
    engine.close()
    assert verify(path, FileSystem()) == []


def fail_merges(engine: StorageEngine) -> Callable[[str, str], None]:
    def watch(call: str, what: str) -> None:
        if maintenance_of(engine)._inputs and call == "write" and what.endswith(".sst"):
            raise error(errno.ENOSPC, "no room to merge", what)

    return watch


needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may mount"
)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 4 MiB in memory."""
    target = tmp_path / "disk"
    target.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(target)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    yield target
    subprocess.run(["umount", "-l", str(target)], check=True)


@needs_root
@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("log_back_end", ["mapped", "pwrite"])
def test_a_disk_that_is_really_full(small_disk: Path, log_back_end: str, background: bool) -> None:
    options: dict[str, Any] = {
        "memtable_limit": 300_000, "background": background, "log_back_end": log_back_end
    }  # fmt: skip
    balloon = small_disk / "balloon"
    db = Database(small_disk / "store", **options)
    balloon.write_bytes(bytes(1 << 20))
    written = 0

    def put(key: bytes, size: int) -> None:
        nonlocal written
        while written < 100_000:
            db[key or b"%08d" % written] = os.urandom(size)
            written += not key

    def put_async() -> None:
        for _ in range(100_000):
            db.put_async(b"more", os.urandom(1000)).result(20)

    with pytest.raises(error) as caught:
        put(b"", 100)
    assert caught.value.errno == errno.ENOSPC
    assert written > 1000
    assert len(db) == written
    for _ in range(3):
        with pytest.raises(error, match="No space left"):
            put(b"more", 1000)
        with pytest.raises(error, match="No space left"):
            put_async()
        assert sum(1 for _ in db.scan(prefix=b"0")) == written
    balloon.unlink()
    with suppress(error):  # of a merge, which failed before
        db[b"more"] = b""
    for number in range(written, written + 1000):
        db[b"%08d" % number] = b"there is room"
    with suppress(error):
        db.close()
    with Database(small_disk / "store", "r") as reader:
        keys = [key for key in reader if key != b"more"]
        assert keys == [b"%08d" % number for number in range(written + 1000)]
        assert reader.verify() == []


# Failures that are final.


@pytest.mark.parametrize("call", ["rename new", "sync_directory store"])
def test_a_manifest_that_may_or_may_not_be_there_ends_all_writing(
    path: str, system: Watched, call: str
) -> None:
    engine = open_it(path, system, **SMALL)
    fill(engine, 0, 20)
    renamed = False

    def watch(kind: str, what: str) -> None:
        nonlocal renamed
        renamed = renamed or kind == "rename"
        if renamed and call.startswith(kind):
            raise error(errno.EIO, "told to fail", what)

    system.watch = watch
    written, _ = fill_until_it_fails(engine, 20)
    until(lambda: at_rest(engine))
    system.watch = lambda kind, what: None
    before = names(path)
    for write in [*writes_of(engine), engine.flush, engine.compact, engine.sync, engine.clear]:
        with pytest.raises(error, match=r"writing stopped: .*told to fail"):
            write()
    assert names(path) == before
    assert_filled(engine, written)
    engine.close()
    engine = open_it(path)
    assert_filled(engine, written)
    engine.close()
    assert verify(path, FileSystem()) == []


def test_a_final_failure_that_nobody_was_told_of_is_told_by_close(
    path: str, system: Watched
) -> None:
    engine = open_it(path, system, memtable_limit=100_000)
    fill(engine, 0, 20)
    system.failing = {"rename new": errno.EIO}
    fill(engine, 20, 350)
    until(lambda: maintenance_of(engine).problem is not None)
    with pytest.raises(error, match=r"writing stopped: .*told to fail"):
        engine.close()
    assert engine.ended is not None
    engine.close()
    engine = open_it(path)
    assert_filled(engine, 350)
    engine.close()


def test_no_descriptor_to_be_had_passes_when_there_are_some(path: str, system: Watched) -> None:
    engine = open_it(path, system, **SMALL)
    fill(engine, 0, 20)
    system.failing = {"create sst": errno.EMFILE, "create wal": errno.EMFILE}
    with pytest.raises(error) as caught:
        fill(engine, 0, 10_000)
    assert caught.value.errno == errno.EMFILE
    system.failing = {}
    fill(engine, 0, 1000)
    assert_filled(engine, 1000)
    engine.close()
    assert verify(path, FileSystem()) == []


def test_where_the_system_gives_no_thread_writers_do_the_work(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(worker_module, "start_new_thread", refuse)
    engine = open_it(path, sync=0.01, **SMALL)
    fill(engine, 0, 1000)
    assert engine.stats()["memtable_records"] < 200
    assert engine.stats()["runs"]
    engine.submit({b"a": b"1"}).result(0)
    assert engine.value(b"a") == b"1"
    engine.compact()
    assert len(engine.stats()["runs"]) == 1
    engine.close()
    assert verify(path, FileSystem()) == []


# Damage.


def test_a_merge_in_the_background_that_meets_damage_leaves_the_table_alone(path: str) -> None:
    engine = open_it(path, memtable_limit=20_000, fan_in=2, space_ratio=100.0)
    fill(engine, 0, 50)
    engine.flush()
    victim = min(Path(path).glob("*.sst"))
    data = bytearray(victim.read_bytes())
    data[16 + 40] ^= 1
    victim.write_bytes(data)
    fill(engine, 50, 2000)
    until(lambda: at_rest(engine))
    assert engine.stats()["quarantined_tables"] == [int(victim.stem)]
    assert victim.read_bytes() == data
    assert engine.value(b"01999") == b"1999" * 20
    with pytest.raises(CorruptionError):
        engine.compact()
    fill(engine, 2000, 2100)
    engine.close()


def test_a_clear_during_a_merge_ends_it(path: str, system: Watched) -> None:
    engine = open_it(path, system, memtable_limit=1 << 20, fan_in=2)
    fill(engine, 0, 2000)
    engine.flush()
    system.slow = {"write sst": 0.02}
    fill(engine, 0, 2000)
    thread = threading.Thread(target=engine.flush)
    thread.start()
    until(lambda: maintenance_of(engine)._inputs)
    engine.clear()
    fill(engine, 0, 10)
    thread.join()
    until(lambda: at_rest(engine))
    assert maintenance_of(engine).problem is None
    assert_filled(engine, 10)
    engine.flush()
    assert_filled(engine, 10)
    engine.close()
    assert verify(path, FileSystem()) == []
    assert len(names(path, ".sst")) == 1


# Pressure.


def peaks(
    engine: StorageEngine, ended: threading.Event
) -> tuple[list[float], list[int], list[int]]:
    """Look all the time; return how full MemTables and how many runs there were."""
    maintenance = maintenance_of(engine)
    fills, sealed, runs = [0.0], [0], [0]
    while not ended.is_set():
        with engine.lock:
            fills.append(maintenance.pressure.fill())
            sealed.append(len(engine.tree.memtables) - 1)
            runs.append(len(engine.tree.version.runs))
        time.sleep(0.0005)
    return fills, sealed, runs


def one_of_each(engine: StorageEngine, number: int, size: int) -> None:
    """Write under a key of its own: by a put, a delete, a batch or a queued write."""
    key, value = b"%06d" % number, bytes(size)
    kind = number % 4
    if kind == 0:
        engine.put(key, value)
    elif kind == 1:
        with engine_lock(engine):
            engine.put(key, value)
        engine.commit()
    elif kind == 2:
        engine.write({key: value, b"x" + key: None}, False)
    else:
        engine.submit({key: value})


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("size", [0, 100, 3000])
def test_memory_stays_within_its_bound_however_slow_the_disk_is(
    path: str, system: Watched, background: bool, size: int
) -> None:
    limit = 60_000
    engine = open_it(path, system, memtable_limit=limit, background=background, fan_in=4)
    system.slow = {"write sst": 0.01}
    ended = threading.Event()
    found: list[Any] = []
    looking = threading.Thread(target=lambda: found.append(peaks(engine, ended)))
    looking.start()
    for number in range(2000 if size < 3000 else 300):
        one_of_each(engine, number, size)
    ended.set()
    looking.join()
    fills, sealed, _ = found[0]
    one_operation = (2 * size + 500) / limit
    assert max(sealed) <= 1
    assert max(fills) <= OVERFULL + one_operation
    engine.close()
    assert verify(path, FileSystem()) == []


def test_deletes_and_pops_alone_are_held_back_too(path: str, system: Watched) -> None:
    limit = 60_000
    engine = open_it(path, system, memtable_limit=1 << 24, fan_in=100)
    fill(engine, 0, 3000)
    engine.close()
    engine = open_it(path, system, memtable_limit=limit, fan_in=100)
    engine.flush()
    system.slow = {"write sst": 0.01}
    most = 0.0
    for number in range(3000):
        assert engine.delete(b"%05d" % number)
        most = max(most, maintenance_of(engine).pressure.fill())
    assert 0.5 < most <= OVERFULL + 0.05
    assert engine.count() == 0
    engine.close()


def test_runs_stay_within_their_bound_while_a_merge_is_slow(path: str, system: Watched) -> None:
    engine = open_it(
        path, system, memtable_limit=5000, fan_in=4, slow_runs=6, stop_runs=9, space_ratio=1000.0
    )
    merging: list[int] = []

    def watch(call: str, what: str) -> None:
        maintenance = maintenance_of(engine)
        if call == "write" and what.endswith(".sst") and maintenance._inputs:
            if not maintenance.pressure.flushing:
                time.sleep(0.02)
            merging.append(len(engine.tree.version.runs))

    system.watch = watch
    fill(engine, 0, 3000)
    assert max(merging) <= 14
    system.watch = lambda call, what: None
    fill(engine, 3000, 3500)
    engine.close()
    engine = open_it(path)
    assert_filled(engine, 3500)
    engine.close()


# The end.


def test_close_gives_a_merge_up(path: str, system: Watched) -> None:
    engine = open_it(path, memtable_limit=1 << 26, fan_in=100)
    for start in range(0, 20_000, 5000):
        fill(engine, start, start + 5000)
        engine.flush()
    engine.close()
    engine = open_it(path, system, fan_in=100)
    before = names(path, ".sst")
    system.slow = {"write sst": 0.05}
    problems: list[BaseException] = []

    def compact() -> None:
        try:
            engine.compact()
        except error as problem:
            problems.append(problem)

    thread = threading.Thread(target=compact)
    thread.start()
    until(lambda: len(names(path, ".sst")) > len(before))
    began = time.monotonic()
    engine.close()
    assert time.monotonic() - began < 1.0
    thread.join()
    assert "closed while this was under way" in str(problems[0])
    assert names(path, ".sst") == before
    engine = open_it(path)
    assert_filled(engine, 20_000)
    engine.close()


def test_close_waits_for_a_flush(path: str, system: Watched) -> None:
    engine = open_it(path, system, memtable_limit=200_000)
    system.slow = {"write sst": 0.01}
    number = 0
    while not maintenance_of(engine).pressure.flushing:
        fill(engine, number, number + 1)
        number += 1
    engine.close()
    assert len(names(path, ".sst")) == 1
    engine = open_it(path)
    assert_filled(engine, number)
    engine.close()


def write_until_refused(engine: Writer, name: int, written: dict[int, int]) -> None:
    """Write record after record in all ways; raises what the store raises."""
    for number in range(100_000):
        key = b"%d-%06d" % (name, number)
        if number % 3 == 0:
            engine.put(key, bytes(50))
        elif number % 3 == 1:
            engine.write({key: bytes(50)}, False)
        else:
            with engine.exclusive:
                engine.put(key, bytes(50))
            engine.commit()
        written[name] = number + 1


def together(*calls: Callable[[], object]) -> list[BaseException]:
    """Run all calls at once, each in a thread; return what they raised."""
    problems: list[BaseException] = []

    def run(call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as problem:  # noqa: BLE001 - it is returned
            problems.append(problem)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return problems


@pytest.mark.parametrize("sync", ["normal", "full", 0.001])
@pytest.mark.parametrize("background", [True, False])
def test_whoever_writes_while_the_handle_is_closed_gets_an_error(
    path: str, sync: str | float, background: bool
) -> None:
    for round_ in range(4):
        engine = open_it(path, flag="n", sync=sync, background=background, **SMALL)
        written: dict[int, int] = {}

        def close(engine: Writer = engine, pause: float = 0.02 * round_) -> None:
            time.sleep(pause)
            engine.close()

        writers = [partial(write_until_refused, engine, name, written) for name in range(4)]
        problems = together(*writers, close, close)
        assert [type(problem) for problem in problems] == [error] * 4
        again = open_it(path)
        for name, count in written.items():
            keys = list(again.scan("keys", b"%d-" % name, b"%d." % name, False))
            assert keys[:count] == [b"%d-%06d" % (name, number) for number in range(count)]
            assert len(keys) <= count + 1
        again.close()
        assert verify(path, FileSystem()) == []


def test_a_forgotten_handle_with_a_busy_thread_is_closed(path: str) -> None:
    db = Database(path, **SMALL)
    for number in range(3000):
        db[b"%05d" % number] = bytes(100)
    del db
    gc.collect()
    with Database(path) as db:
        assert len(db) == 3000


def test_a_handle_that_is_collected_in_its_own_thread_is_closed(path: str) -> None:
    for where in ("maintenance", "queue"):
        db = Database(path, "n", **SMALL)
        engine = db._engine
        assert isinstance(engine, Writer)
        cycle: list[Any] = [db]
        cycle.append(cycle)
        for number in range(500):
            db[b"%05d" % number] = bytes(100)
        gc.disable()
        try:
            if where == "queue":
                # The frame's names are gone by then, so the cycle is the last to hold it.
                future = db.put_async(b"last", b"")
                del db, cycle
                future.add_done_callback(lambda _: gc.collect())
                future.result(10)
                del future
            else:
                worker = engine._path.maintenance.worker
                del db, cycle
                worker.call(gc.collect)
        finally:
            gc.enable()
        with Database(path, lock_timeout=20) as again:
            assert len(again) == 500 + (where == "queue")
            assert again.verify() == []


# The end of the process.

BUSY = """
import os, sys
from oblivion_dbm import Database
db = Database(sys.argv[1], memtable_limit=30_000, fan_in=2, sync={sync!r})
for number in range({records}):
    db[b"%06d" % number] = b"x" * 100
    if number % 3 == 0:
        future = db.put_async(b"async %06d" % number, b"")
{ending}
"""

ENDINGS = {
    "falls off the end": "future.result(30)",
    "sys.exit": "future.result(30); sys.exit(0)",
    "os._exit": "future.result(30); os._exit(0)",
    "in a cycle": "future.result(30); cycle = [db]; cycle.append(cycle); del db",
    "with its threads held": (
        "future.result(30)\nfor n in range(50): db.put_async(b'later %d' % n, b'')"
    ),
    "closed by a finaliser": (
        "class App:\n"
        "    def __init__(self): self.db = db\n"
        "    def __del__(self): self.db.close()\n"
        "app = App(); future.result(30)\n"
        "for n in range(50): db.put_async(b'later %d' % n, b'')"
    ),
    "closed at exit": "import atexit; atexit.register(db.close); future.result(30)",
}


@pytest.mark.parametrize("ending", sorted(ENDINGS))
def test_a_process_that_ends_while_its_threads_work_ends_well(path: str, ending: str) -> None:
    for sync, records in (("normal", 1500), ("full", 100), (0.001, 500)):
        program = BUSY.format(sync=sync, records=records, ending=ENDINGS[ending])
        done = subprocess.run(
            [sys.executable, "-X", "faulthandler", "-c", program, path],
            check=False, capture_output=True, timeout=60, text=True,
            env={**os.environ, "PYTHONPATH": str(CODE)},
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        with Database(path) as db:
            assert len(list(db.scan(prefix=b"0"))) == records
            assert b"async %06d" % ((records - 1) // 3 * 3) in db
            assert db.verify() == []
            db.clear()


def refused_in_a_child(db: Database) -> bool:
    """Tell whether every call raises error."""
    calls: list[Callable[[], object]] = [
        lambda: db.__setitem__(b"child", b""),
        lambda: db.put_async(b"child", b""),
        lambda: db.pop(b"00000"),
        lambda: db.__delitem__(b"00000"),
        db.flush,
        db.sync,
        db.compact,
        db.keys,
    ]
    refused = 0
    for call in calls:
        with suppress(error):
            call()
            continue
        refused += 1
    return refused == len(calls)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_fork_while_the_threads_work_harms_nobody(path: str) -> None:
    db = Database(path, **SMALL)
    for round_ in range(15):
        for number in range(300):
            db[b"%05d" % number] = b"%d" % round_ * 100
            db.put_async(b"async %05d" % number, b"%d" % round_)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads and forks
            child = os.fork()
        if child == 0:
            code = 1
            with suppress(BaseException):
                signal.alarm(20)
                code = 0 if refused_in_a_child(db) else 2
                db.close()
            os._exit(code)
        db[b"parent"] = b"%d" % round_
        _, status = os.waitpid(child, 0)
        assert status == 0
    db.close()
    with Database(path) as again:
        assert b"child" not in again
        assert again[b"parent"] == b"14"
        assert again[b"00299"] == b"14" * 100
        assert again[b"async 00299"] == b"14"
        assert again.verify() == []


# Who begins.


def test_the_first_write_and_maintenance_do_not_begin_at_once(path: str) -> None:
    # What was recovered is taken over once, whoever comes first.
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for round_ in range(25):
            engine = open_it(path, memtable_limit=1 << 24 if round_ % 2 else 20_000)
            problems = together(
                engine.flush,
                engine.compact,
                engine.sync,
                partial(fill, engine, 0, 300),
                partial(fill, engine, 300, 600),
            )
            assert problems == []
            assert_filled(engine, 600)
            engine.close()
            assert verify(path, FileSystem()) == []
    finally:
        sys.setswitchinterval(before)


def test_the_sequences_of_flushes_leave_no_gap_and_begin_anew_after_a_clear(tmp_path: Path) -> None:
    def spans() -> list[tuple[int, int]]:
        tree = db._engine.tree
        heads = [tree.tables[run.tables[0].number] for run in tree.version.runs]
        return [(head.first_sequence, head.last_sequence) for head in reversed(heads)]

    with Database(tmp_path / "store", fan_in=8) as db:
        for number in range(3):
            db[b"%d" % number] = b""
            db.flush()
        found = spans()
        assert [first for first, _ in found] == [0, *(last for _, last in found[:-1])]
        db.clear()
        db[b"after"] = b""
        db.flush()
        assert [first for first, _ in spans()] == [0]
        db[b"more"] = b""
        db.flush()
        (_, cleared_up_to), (first, _) = spans()
        assert first == cleared_up_to
        db.compact()
        assert spans() == [(0, db.sequence)]


CHANGES: list[Callable[[Database], object]] = [
    lambda db: db.pop(b"0"),
    lambda db: db.popitem(),
    lambda db: db.setdefault(b"new", b""),
    lambda db: db.__delitem__(b"0"),
    lambda db: db.__delitem__(slice(b"0", b"2")),
    lambda db: db.put_async(b"new", b"").result(20),
]


@pytest.mark.parametrize("change", CHANGES)
def test_more_than_a_full_memtable_may_be_recovered_whatever_the_first_write_is(
    path: str, change: Callable[[Database], object]
) -> None:
    with Database(path) as db:
        db.put_many({b"%d" % number: bytes(1000) for number in range(100)})
    done = threading.Event()

    def write() -> None:
        with Database(path, "w", memtable_limit=1000) as db:
            change(db)
        done.set()

    threading.Thread(target=write, daemon=True).start()
    assert done.wait(20), "it waits for maintenance, which waits for the first write"


def test_a_failed_sync_of_the_directory_before_a_manifest_is_installed_is_final_too(
    path: str, system: Watched
) -> None:
    engine = open_store(path, "c", Options(background=False), filesystem=system)
    engine.put(b"a", b"1")
    system.failing["sync_directory store"] = errno.EIO
    with pytest.raises(error, match="told to fail"):
        engine.flush()
    system.failing.clear()
    with pytest.raises(error, match="writing stopped"):
        engine.put(b"b", b"2")
    with pytest.raises(error, match="writing stopped"):
        engine.flush()
    assert engine.value(b"a") == b"1"
    with suppress(error):
        engine.close()
    with Database(path) as db:
        assert dict(db) == {b"a": b"1"}


def test_a_merge_that_has_failed_keeps_no_table_alive(path: str, system: Watched) -> None:
    def tables() -> int:
        return sum(isinstance(thing, SSTable) for thing in gc.get_objects())

    engine = open_store(path, "c", Options(), filesystem=system)
    before = tables()
    for number in range(3):
        engine.write({b"%d-%d" % (number, n): bytes(100) for n in range(50)}, False)
        engine.flush()
    system.watch = fail_merges(engine)
    with pytest.raises(error, match="no room"):
        engine.compact()
    system.watch = lambda call, what: None
    gc.disable()
    try:
        with suppress(error):
            engine.put(b"more", b"")
        engine.compact()
        assert tables() - before == 1
    finally:
        gc.enable()
    engine.close()
