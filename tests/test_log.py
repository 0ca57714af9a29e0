"""The log's rounds of syncing: counted, so that no disk decides, and what they cover."""

from __future__ import annotations

import errno
import os
import signal
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from oblivion_dbm import error
from oblivion_dbm.engine.filesystem import File, FileSystem
from oblivion_dbm.engine.header_page import APPENDED_AT
from oblivion_dbm.engine.options import Options
from oblivion_dbm.engine.record import PUT, encode
from oblivion_dbm.engine.storage_engine import StorageEngine, open_store
from oblivion_dbm.engine.verify import verify

THREADS = 8
#: What a sync takes here.
SECONDS = 0.002


class Disk(FileSystem):
    """Counts syncs of files, which take their time, and the sleeps of whoever waits."""

    def __init__(self) -> None:
        self.syncs = self.sleeps = 0

    def sync(self, file: File) -> None:
        self.syncs += 1
        sleep(SECONDS)

    def sleep(self, seconds: float) -> None:
        self.sleeps += 1
        sleep(seconds)


def full_store(folder: Path, disk: Disk) -> StorageEngine:
    store = open_store(str(folder / "store"), "c", Options(sync="full"), filesystem=disk)
    store.put(b"first", b"")  # begins the log
    return store


def write_from_threads(store: StorageEngine, puts: int) -> None:
    """Put so many records from each of THREADS threads, all at the same time."""
    together = threading.Barrier(THREADS)

    def work(number: int) -> None:
        together.wait()
        for turn in range(puts):
            store.put(b"%d %d" % (number, turn), b"value")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_threads_share_syncs(tmp_path: Path) -> None:
    disk = Disk()
    store = full_store(tmp_path, disk)
    before = disk.syncs
    write_from_threads(store, 50)
    assert disk.syncs - before <= THREADS * 50 / 4
    store.close()
    with_all = open_store(str(tmp_path / "store"), "r", Options())
    assert with_all.count() == THREADS * 50 + 1
    with_all.close()


def test_one_thread_syncs_each_put_and_waits_for_nobody(tmp_path: Path) -> None:
    disk = Disk()
    store = full_store(tmp_path, disk)
    syncs, sleeps = disk.syncs, disk.sleeps
    for number in range(20):
        store.put(b"%d" % number, b"value")
    assert (disk.syncs - syncs, disk.sleeps - sleeps) == (20, 0)
    store.close()


def test_who_is_left_alone_waits_for_the_others_once(tmp_path: Path) -> None:
    disk = Disk()
    store = full_store(tmp_path, disk)
    write_from_threads(store, 5)
    store.put(b"alone", b"value")
    sleeps = disk.sleeps
    for number in range(5):
        store.put(b"%d" % number, b"value")
    assert disk.sleeps == sleeps
    store.close()


# What a sync covers.


class Durable(FileSystem):
    """Knows what of each file is on the disk for sure: what was there when a sync began."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        #: (when it began, the file, up to where the log had been appended to)
        self.syncs: list[tuple[float, str, int]] = []
        self.failing = False
        self.seconds = 0.0
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = threading.Event()

    def sync(self, file: File) -> None:
        began = monotonic()
        data = os.pread(file.descriptor, os.fstat(file.descriptor).st_size, 0)
        if file.path.endswith(".wal"):
            (appended,) = struct.unpack_from("<Q", data, APPENDED_AT)
            self.syncs.append((began, file.path, appended))
            self.waiting.set()
            self.gate.wait()
            sleep(self.seconds)
            if self.failing:
                raise error(errno.EIO, "told to fail", file.path)
        super().sync(file)
        self.contents[file.path] = data

    def holds(self, record: bytes) -> bool:
        """Tell whether a record is in some file, as far as that is on the disk for sure."""
        return any(record in data for data in list(self.contents.values()))


def work_together(call: Callable[[int], None], threads: int = THREADS) -> list[BaseException]:
    """Run ``call(number)`` in so many threads; return what they raised."""
    problems: list[BaseException] = []

    def run(number: int) -> None:
        try:
            call(number)
        except BaseException as problem:  # noqa: BLE001 - it is returned
            problems.append(problem)

    running = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(60)
        assert not thread.is_alive()
    return problems


@pytest.mark.parametrize("log_back_end", ["mapped", "pwrite"])
@pytest.mark.parametrize("background", [True, False])
def test_what_has_returned_in_mode_full_is_on_the_disk(
    tmp_path: Path, background: bool, log_back_end: str
) -> None:
    # With rotations and flushes in between; and synced-up-to says so to others.
    path, disk = str(tmp_path / "store"), Durable()
    options = Options(
        sync="full", memtable_limit=20_000, fan_in=3,
        background=background, log_back_end=log_back_end,
    )  # fmt: skip
    store = open_store(path, "c", options, 0o666, disk)
    reader = open_store(path, "r", Options())
    in_turn = threading.Lock()

    def work(name: int) -> None:
        for number in range(60):
            key, value = b"%d-%03d" % (name, number), os.urandom(40)
            kind = number % 3
            if kind == 0:
                store.put(key, value)
            elif kind == 1:
                store.submit({key: value}).result(60)
            else:
                with store.exclusive:
                    store.put(key, value)
                store.commit()
            assert disk.holds(encode(PUT, key, value))
            with in_turn:
                assert reader.value(key) == value

    assert work_together(work) == []
    assert store.stats()["runs"]
    reader.close()
    store.close()
    assert verify(path, FileSystem()) == []


def test_readers_see_what_is_synced_and_nothing_else(tmp_path: Path) -> None:
    path, disk = str(tmp_path / "store"), Durable()
    store = open_store(path, "c", Options(sync="full"), 0o666, disk)
    store.put(b"first", b"1")
    reader = open_store(path, "r", Options())
    disk.gate.clear()
    disk.waiting.clear()
    thread = threading.Thread(target=store.put, args=(b"second", b"2"))
    thread.start()
    assert disk.waiting.wait(10)
    assert reader.value(b"first") == b"1"
    assert reader.value(b"second") is None
    disk.gate.set()
    thread.join()
    assert reader.value(b"second") == b"2"
    reader.close()
    store.close()


def test_a_failed_sync_is_told_to_all_who_wait_and_nothing_is_tried_again(tmp_path: Path) -> None:
    path, disk = str(tmp_path / "store"), Durable()
    store = open_store(path, "c", Options(sync="full"), 0o666, disk)
    store.put(b"first", b"1")
    disk.seconds = 0.05
    disk.failing = True
    problems = work_together(lambda number: store.put(b"%d" % number, b""))
    assert [type(problem) for problem in problems] == [error] * THREADS
    assert all("told to fail" in str(problem) for problem in problems)
    future = store.submit({b"later": b""}) if store.ended is None else None
    syncs = len(disk.syncs)
    disk.failing = False
    assert future is not None
    assert "told to fail" in str(future.exception(10))
    for write in (lambda: store.put(b"x", b""), store.sync, store.flush, store.clear):
        with pytest.raises(error, match="writing stopped"):
            write()  # type: ignore[no-untyped-call]
    assert len(disk.syncs) == syncs
    assert store.value(b"first") == b"1"
    store.close()
    assert len(disk.syncs) == syncs
    with_it = open_store(path, "r", Options())
    assert with_it.value(b"first") == b"1"
    with_it.close()


# Syncs by seconds.

#: What a busy machine may be late by.
LATE = 3.0


def test_every_write_is_covered_by_a_sync_that_begins_in_time(tmp_path: Path) -> None:
    path, disk = str(tmp_path / "store"), Durable()
    store = open_store(path, "c", Options(sync=0.03), 0o666, disk)
    writes: list[tuple[float, bytes]] = []

    def write(key: bytes, kind: int) -> None:
        before = monotonic()
        if kind == 0:
            store.put(key, b"")
        elif kind == 1:
            store.write({key: b"", b"x": b""}, False)
        elif kind == 2:
            store.submit({key: b""}).result(10)
        else:
            with store.exclusive:
                store.put(key, b"")
            store.commit()
        writes.append((before, encode(PUT, key, b"")))

    for number in range(200):
        write(b"%d" % number, number % 4)
        sleep((number % 7) * 0.002)
    deadline = monotonic() + LATE
    while not all(disk.holds(record) for _, record in writes):
        assert monotonic() < deadline
        sleep(0.001)
    assert 10 < len(disk.syncs) < 150
    gaps = [disk.syncs[0][0] - writes[0][0]]
    gaps += [later[0] - sooner[0] for sooner, later in zip(disk.syncs[1:], disk.syncs[2:])]
    assert max(gaps) < 0.03 + LATE
    syncs = len(disk.syncs)
    sleep(0.1)
    assert len(disk.syncs) == syncs, "nothing was written, and it was synced"
    store.put(b"last", b"")
    store.close()
    assert disk.holds(encode(PUT, b"last", b""))


class Clock(Durable):
    """Time goes on when it is told to."""

    now = 1000.0

    def clock(self) -> float:
        return self.now


def test_the_sync_waits_for_its_time_and_close_for_nothing(tmp_path: Path) -> None:
    path, disk = str(tmp_path / "store"), Clock()
    store: Any = open_store(path, "c", Options(sync=60), 0o666, disk)
    store.put(b"first", b"")
    syncs = len(disk.syncs)
    for number in range(100):
        store.put(b"%d" % number, b"")
    disk.now += 59
    sleep(0.02)
    assert len(disk.syncs) == syncs
    disk.now += 2
    store._path.queue.worker.wake()
    deadline = monotonic() + 10
    while len(disk.syncs) == syncs:
        assert monotonic() < deadline
        sleep(0.001)
    assert len(disk.syncs) == syncs + 1
    store.put(b"again", b"")
    assert not disk.holds(encode(PUT, b"again", b""))
    store.close()
    assert disk.holds(encode(PUT, b"again", b""))


@pytest.mark.parametrize("told_by", ["put", "delete", "submit", "sync", "close"])
def test_a_sync_in_time_that_fails_stops_writing_and_the_next_call_says_so(
    tmp_path: Path, told_by: str
) -> None:
    path, disk = str(tmp_path / "store"), Durable()
    store: Any = open_store(path, "c", Options(sync=0.01), 0o666, disk)
    store.put(b"first", b"1")
    store.sync()
    disk.failing = True
    store.put(b"second", b"2")
    deadline = monotonic() + 10
    while store._path.failed is None:
        assert monotonic() < deadline
        sleep(0.001)
    calls: dict[str, Callable[[], object]] = {
        "put": lambda: store.put(b"third", b"3"),
        "delete": lambda: store.delete(b"first"),
        "submit": lambda: store.submit({b"third": b"3"}).result(10),
        "sync": store.sync,
        "close": store.close,
    }
    with pytest.raises(error, match=r"writing stopped: .*told to fail"):
        calls[told_by]()
    store.close()
    store = open_store(path, "r", Options())
    assert dict(store.scan("pairs", None, None, False)) == {b"first": b"1", b"second": b"2"}
    store.close()


# Syncs that are interrupted.


class Forgetful(FileSystem):
    """Keeps of each file what a sync has covered, and nothing of one that was interrupted.

    So a system may do that tells of a failure once, to somebody who was interrupted then.
    """

    def __init__(self) -> None:
        self.pending: dict[str, list[tuple[int, bytes]]] = {}
        self.kept: dict[str, bytearray] = {}
        self.interrupt: Callable[[], None] | None = None

    def write(self, file: File, offset: int, data: bytes | memoryview) -> None:
        super().write(file, offset, data)
        self.pending.setdefault(file.path, []).append((offset, bytes(data)))

    def sync(self, file: File) -> None:
        pending = self.pending.pop(file.path, [])
        interrupt, self.interrupt = self.interrupt, None
        if interrupt is not None:
            interrupt()
        kept = self.kept.setdefault(file.path, bytearray())
        for offset, data in pending:
            kept.extend(bytes(max(0, offset + len(data) - len(kept))))
            kept[offset : offset + len(data)] = data


def forgetful_store(folder: Path, system: Forgetful, back_end: str = "pwrite") -> StorageEngine:
    options = Options(sync="off", background=False, log_back_end=back_end)
    store = open_store(str(folder / "store"), "c", options, filesystem=system)
    store.put(b"first", b"")
    store.sync()
    return store


def stop_it() -> None:
    raise KeyboardInterrupt


def test_what_an_interrupted_sync_covered_is_stored_again_before_the_next(tmp_path: Path) -> None:
    system = Forgetful()
    store = forgetful_store(tmp_path, system)
    store.put(b"key", b"value")
    system.interrupt = stop_it
    with pytest.raises(KeyboardInterrupt):
        store.sync()
    (log,) = (name for name in system.kept if name.endswith(".wal"))
    assert encode(PUT, b"key", b"value") not in system.kept[log]
    store.sync()
    assert encode(PUT, b"key", b"value") in system.kept[log]
    store.close()


@pytest.mark.parametrize("back_end", ["mapped", "pwrite"])
def test_an_interrupted_sync_changes_nothing_and_the_next_one_does_all(
    tmp_path: Path, back_end: str
) -> None:
    system = Forgetful()
    store = forgetful_store(tmp_path, system, back_end)
    for number in range(3):
        store.put(b"%d" % number, bytes(number))
        system.interrupt = stop_it
        with pytest.raises(KeyboardInterrupt):
            store.sync()
    store.sync()
    store.close()
    assert verify(str(tmp_path / "store")) == []
    reader = open_store(str(tmp_path / "store"), "r", Options())
    assert [reader.value(b"%d" % number) for number in range(3)] == list(map(bytes, range(3)))
    reader.close()


def test_a_failure_that_an_interrupt_hides_stops_writing(tmp_path: Path) -> None:
    def fail() -> None:
        try:
            raise OSError(errno.EIO, "Input/output error")
        except OSError:
            try:
                raise ValueError("of a handler")
            except ValueError:
                raise KeyboardInterrupt from None

    system = Forgetful()
    store = forgetful_store(tmp_path, system)
    store.put(b"key", b"value")
    system.interrupt = fail
    with pytest.raises(KeyboardInterrupt):
        store.sync()
    with pytest.raises(error, match="Input/output error"):
        store.put(b"key", b"other")
    assert store.value(b"key") == b"value"
    store.close()


def test_what_the_caller_was_just_handling_is_no_failure_of_the_disk(tmp_path: Path) -> None:
    system = Forgetful()
    store = forgetful_store(tmp_path, system)
    store.put(b"key", b"value")
    system.interrupt = stop_it
    try:
        raise OSError(errno.EIO, "of something else")
    except OSError:
        with pytest.raises(KeyboardInterrupt):
            store.sync()
    store.put(b"key", b"other")
    store.sync()
    store.close()


@pytest.mark.parametrize("name", ["sync", "flush", "compact", "close"])
def test_a_signal_handler_inside_a_sync_is_refused_and_does_not_hang(
    tmp_path: Path, name: str
) -> None:
    system, refusals = Forgetful(), list[str]()
    store = forgetful_store(tmp_path, system)

    def handler(*_: object) -> None:
        try:
            getattr(store, name)()
        except error as problem:
            refusals.append(str(problem))

    store.put(b"key", b"value")
    before = signal.signal(signal.SIGINT, handler)
    system.interrupt = lambda: signal.raise_signal(signal.SIGINT)
    try:
        store.sync()
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(refusals) == 1
    assert "in the middle of a write of this very thread" in refusals[0]
    store.close()
    assert verify(str(tmp_path / "store")) == []
