"""The WriteQueue, handed functions; then a Database, whose writes nobody waits for."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from oblivion_dbm import Database, error
from oblivion_dbm.engine import worker as worker_module
from oblivion_dbm.engine.filesystem import File, FileSystem
from oblivion_dbm.engine.options import Options
from oblivion_dbm.engine.storage_engine import Writer, open_store
from oblivion_dbm.engine.write_queue import GROUP, WriteQueue

NO = error("closed")


class Log:
    """What a queue is handed: a list for a log, and gates to hold it up."""

    def __init__(self, limit: int = 1 << 20) -> None:
        self.records: list[bytes] = []
        self.syncs: list[int] = []
        self.attended = 0
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()
        self.failing: dict[bytes, BaseException] = {}
        self.sync_failure: BaseException | None = None
        self.queue = WriteQueue(FileSystem(), self.append, self.sync, self.attend, limit)

    def append(self, record: bytes) -> int:
        self.entered.set()
        self.open.wait()
        if record in self.failing:
            raise self.failing[record]
        self.records.append(record)
        return len(self.records)

    def sync(self, sequence: int) -> None:
        if self.sync_failure is not None:
            raise self.sync_failure
        self.syncs.append(sequence)

    def attend(self) -> None:
        self.attended += 1

    def hold(self) -> Future[None]:
        """Let the thread enter an append and stay there; return that write's Future."""
        self.open.clear()
        self.entered.clear()
        future = self.queue.submit(b"held")
        assert self.entered.wait(10)
        return future


@pytest.fixture
def log() -> Iterator[Log]:
    log = Log()
    yield log
    log.open.set()
    log.queue.close(NO)


@pytest.fixture
def switching() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.001)


# The queue alone.


def test_records_are_appended_in_the_order_in_which_they_came(log: Log) -> None:
    futures = [log.queue.submit(b"%d" % number) for number in range(1000)]
    for future in futures:
        assert future.result(10) is None
    assert log.records == [b"%d" % number for number in range(1000)]
    assert log.attended == 1000


def test_the_order_of_each_thread_is_kept_among_many(log: Log, switching: None) -> None:
    def submit(name: int) -> None:
        for number in range(500):
            log.queue.submit(b"%d %d" % (name, number))

    threads = [threading.Thread(target=submit, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.queue.close(NO)
    for name in range(6):
        mine = [record for record in log.records if record.startswith(b"%d " % name)]
        assert mine == [b"%d %d" % (name, number) for number in range(500)]


def test_what_is_queued_together_shares_a_sync(log: Log) -> None:
    first = log.hold()
    futures = [log.queue.submit(b"x") for _ in range(100)]
    log.open.set()
    wait([first, *futures], 10)
    assert len(log.syncs) <= 2
    assert log.syncs[-1] == 101


def test_a_future_is_done_only_after_the_sync_of_its_group() -> None:
    log = Log(limit=1 << 30)
    first = log.hold()
    big = [log.queue.submit(bytes(GROUP // 2)) for _ in range(6)]
    synced: list[int] = []
    for future in big:
        future.add_done_callback(lambda _: synced.append(log.syncs[-1]))
    log.open.set()
    wait([first, *big], 10)
    until(lambda: len(synced) == 6)
    assert len(log.syncs) >= 3
    for place, covered in enumerate(synced):
        assert covered >= place + 2
    log.queue.close(NO)


def test_a_full_queue_makes_the_next_wait_and_then_takes_it(switching: None) -> None:
    log = Log(limit=1000)
    log.hold()
    for _ in range(9):
        log.queue.submit(bytes(100))
    taken = threading.Event()

    def submit() -> None:
        log.queue.submit(bytes(200))
        taken.set()

    thread = threading.Thread(target=submit)
    thread.start()
    assert not taken.wait(0.05)
    assert not log.queue.has_room(200)
    log.open.set()
    assert taken.wait(10)
    thread.join()
    log.queue.close(NO)
    assert len(log.records) == 11


def test_a_record_larger_than_the_limit_is_taken_alone() -> None:
    log = Log(limit=10)
    for number in range(5):
        log.queue.submit(bytes(100 + number))
        assert len(log.queue._queue) <= 1
    log.queue.close(NO)
    assert [len(record) for record in log.records] == [100, 101, 102, 103, 104]


def test_never_more_is_queued_than_the_limit(switching: None) -> None:
    log = Log(limit=500)
    most = 0
    append = log.append

    def look(record: bytes) -> int:
        nonlocal most
        with log.queue._lock:
            most = max(most, sum(len(record) for _, record, _ in log.queue._queue))
        return append(record)

    log.queue._append = look

    def submit() -> None:
        for number in range(300):
            log.queue.submit(bytes(number % 90))

    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.queue.close(NO)
    assert 400 < most <= 500
    assert len(log.records) == 1200


def test_a_write_that_fails_gives_its_error_to_its_own_future_only(log: Log) -> None:
    problem = log.failing[b"bad"] = error(28, "no space left")
    first = log.hold()
    before, bad, after = (log.queue.submit(record) for record in (b"1", b"bad", b"2"))
    log.open.set()
    assert first.result(10) is before.result(10) is after.result(10) is None
    assert bad.exception(10) is problem
    assert log.records == [b"held", b"1", b"2"]


def test_a_failed_sync_fails_the_futures_of_its_group(log: Log) -> None:
    log.queue.submit(b"0").result(10)
    first = log.hold()
    bad = log.failing[b"bad"] = error(28, "its own")
    futures = [first, *(log.queue.submit(b"x") for _ in range(3))]
    its_own = log.queue.submit(b"bad")
    log.sync_failure = error(5, "the disk")
    log.open.set()
    for future in futures:
        with pytest.raises(error, match="the disk"):
            future.result(10)
    assert its_own.exception(10) is bad
    log.sync_failure = None
    assert log.queue.submit(b"later").result(10) is None


def test_a_cancelled_write_is_not_made(log: Log) -> None:
    first = log.hold()
    assert not first.cancel()
    futures = [log.queue.submit(b"%d" % number) for number in range(10)]
    for future in futures[::2]:
        assert future.cancel()
    log.open.set()
    assert futures[-1].result(10) is None
    with pytest.raises(CancelledError):
        futures[0].result(10)
    assert log.records == [b"held", b"1", b"3", b"5", b"7", b"9"]
    assert not first.cancel()


def test_a_future_that_its_owner_has_completed_harms_nobody_else(log: Log) -> None:
    first = log.hold()
    mine, other = log.queue.submit(b"mine"), log.queue.submit(b"other")
    mine.set_result(None)
    log.open.set()
    assert first.result(10) is other.result(10) is None
    assert log.queue.submit(b"later").result(10) is None


# Callbacks.


@pytest.mark.parametrize("raised", [ValueError, SystemExit, KeyboardInterrupt])
def test_what_a_callback_raises_harms_nobody_else(
    log: Log, raised: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    def callback(_: object) -> None:
        raised_now = raised("a callback's")
        raise raised_now

    first = log.hold()
    futures = [log.queue.submit(b"x") for _ in range(5)]
    for future in futures:
        future.add_done_callback(callback)
    log.open.set()
    assert [future.result(10) for future in [first, *futures]] == [None] * 6
    assert log.queue.submit(b"later").result(10) is None


def test_a_callback_may_queue_more_even_where_the_queue_is_full() -> None:
    log = Log(limit=100)
    done = threading.Event()
    left = 50

    def more(_: object) -> None:
        nonlocal left
        for _ in range(3):
            log.queue.submit(bytes(60))
        left -= 1
        if left:
            log.queue.submit(bytes(60)).add_done_callback(more)
        else:
            done.set()

    log.hold().add_done_callback(more)
    log.queue.submit(bytes(60))
    log.open.set()
    assert done.wait(10)
    log.queue.close(NO)
    assert len(log.records) == 2 + 50 * 3 + 49


def test_a_thread_owes_what_it_has_queued_until_that_is_appended(log: Log) -> None:
    assert not log.queue.owes
    log.hold()
    assert log.queue.owes
    elsewhere: list[bool] = []
    thread = threading.Thread(target=lambda: elsewhere.append(log.queue.owes))
    thread.start()
    thread.join()
    assert elsewhere == [False]
    assert log.queue.pending
    threading.Timer(0.03, log.open.set).start()
    log.queue.settle()
    assert log.records == [b"held"]
    assert not log.queue.owes
    until(lambda: not log.queue.pending)


def test_in_a_callback_a_thread_settles_what_it_has_queued_by_itself(log: Log) -> None:
    seen: list[Any] = []
    done = threading.Event()

    def callback(_: object) -> None:
        futures = [log.queue.submit(b"from a callback") for _ in range(3)]
        seen.append(log.queue.owes)
        log.queue.settle()
        seen.extend([log.queue.owes, len(log.records), futures])
        done.set()

    log.hold().add_done_callback(callback)
    log.queue.submit(b"other")
    log.open.set()
    assert done.wait(10)
    assert seen[:3] == [True, False, 5]
    assert [future.result(10) for future in seen[3]] == [None] * 3
    assert log.records == [b"held", b"other", *[b"from a callback"] * 3]


# The end.


def test_close_does_all_that_was_queued_and_takes_no_more(log: Log) -> None:
    log.hold()
    futures = [log.queue.submit(b"%d" % number) for number in range(100)]
    threading.Timer(0.03, log.open.set).start()
    log.queue.close(error("this is the end"))
    assert all(future.done() for future in futures)
    assert len(log.records) == 101
    with pytest.raises(error, match="this is the end"):
        log.queue.submit(b"late")
    log.queue.close(error("this is the end"))
    assert not log.queue.worker._life.locked()


def test_whoever_waits_for_room_hears_of_the_end(switching: None) -> None:
    log = Log(limit=14)
    log.hold()
    log.queue.submit(bytes(10))
    problems: list[BaseException] = []

    def submit() -> None:
        try:
            log.queue.submit(b"no room")
        except error as problem:
            problems.append(problem)

    thread = threading.Thread(target=submit)
    thread.start()
    threading.Timer(0.05, log.open.set).start()
    log.queue._closing = NO
    thread.join()
    log.queue.close(NO)
    assert len(problems) == 1
    assert len(log.records) == 2


# Without a thread.


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(worker_module, "start_new_thread", refuse)


def test_where_the_system_gives_no_thread_the_caller_writes(no_threads: None) -> None:
    log = Log(limit=100)
    seen: list[int] = []

    def more(_: object) -> None:
        seen.append(len(log.records))
        if len(seen) < 5:
            for _ in range(3):
                log.queue.submit(bytes(80))
            log.queue.settle()
            log.queue.submit(b"last").add_done_callback(more)

    future = log.queue.submit(b"1")
    assert future.done()
    future.add_done_callback(more)
    until(lambda: len(seen) == 5, 1)
    log.queue.sync_within(1000.0, lambda: seen.append(-1))
    assert seen[-1] == -1
    log.queue.close(NO)
    assert len(log.records) == 1 + 4 * 4


# Syncs in time.


class Clock(FileSystem):
    """Time goes on when it is told to, and while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0

    def clock(self) -> float:
        return self.now


def test_the_sync_comes_when_it_is_due_and_not_before() -> None:
    clock, log = Clock(), Log()
    queue = WriteQueue(clock, log.append, log.sync, log.attend, 100)
    syncs: list[float] = []
    queue.sync_within(5.0, lambda: syncs.append(clock.now))
    clock.now += 4.9
    queue.sync_within(5.0, lambda: syncs.append(-1))  # one is on its way
    time.sleep(0.03)
    assert syncs == []
    clock.now += 0.1
    queue.worker.wake()
    until(lambda: syncs)
    assert syncs == [105.0]
    until(lambda: not queue.worker._life.locked())
    clock.now += 50
    queue.submit(b"x").result(10)
    assert syncs == [105.0]
    queue.sync_within(5.0, lambda: syncs.append(clock.now))
    queue.close(NO)
    assert syncs == [105.0, 155.0]


def test_the_sync_is_in_time_while_writes_are_queued() -> None:
    log = Log()
    began = time.monotonic()
    synced: list[float] = []
    log.queue.sync_within(0.05, lambda: synced.append(time.monotonic() - began))
    while not synced:
        log.queue.submit(b"x")
        assert time.monotonic() - began < 10
    assert 0.05 <= synced[0] < 1
    log.queue.close(NO)


# Signal handlers, and the end of the interpreter.


@pytest.mark.parametrize("name", ["submit", "settle", "close"])
def test_a_signal_handler_under_the_queue_s_lock_is_refused(log: Log, name: str) -> None:
    refusals: list[str] = []
    calls: dict[str, Callable[[], object]] = {
        "submit": lambda: log.queue.submit(b"b"),
        "settle": log.queue.settle,
        "close": lambda: log.queue.close(NO),
    }

    def handler(*_: object) -> None:
        try:
            calls[name]()
        except error as problem:
            refusals.append(str(problem))

    held = log.hold()
    before = signal.signal(signal.SIGINT, handler)
    try:
        with log.queue._lock:
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(refusals) == 1
    log.open.set()
    held.result(10)
    log.queue.submit(b"after").result(10)
    assert log.records == [b"held", b"after"]


def test_a_future_whose_lock_a_waiter_holds_is_answered_later(log: Log) -> None:
    held = log.hold()
    future = log.queue.submit(b"late")
    with future._condition:
        log.open.set()
        held.result(10)
        log.queue.submit(b"next").result(10)
    future.result(10)
    assert log.records == [b"held", b"late", b"next"]


def test_a_worker_that_is_stopped_does_all_that_is_queued() -> None:
    log = Log(8 * GROUP)
    futures = [log.hold(), *(log.queue.submit(bytes(GROUP)) for _ in range(4))]
    stopping = threading.Thread(target=log.queue.worker.stop)
    stopping.start()
    until(lambda: log.queue.worker.stopping)
    log.open.set()
    stopping.join(10)
    assert all(future.done() for future in futures)
    assert len(log.records) == 5
    log.queue.submit(b"here").result(10)
    assert log.queue.worker.here
    log.queue.close(NO)


# On a Database.

LIMITS: dict[str, Any] = {"memtable_limit": 20_000, "table_limit": 5_000, "fan_in": 2}
MODES = ["normal", "full", "off", 0.01]


@pytest.fixture(params=MODES)
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    with Database(tmp_path / "store", sync=request.param, **LIMITS) as db:
        yield db


def test_async_writes_are_there_once_their_futures_are_done(db: Database) -> None:
    assert db.put_async("a", "1").result(10) is None
    assert db[b"a"] == b"1"
    db.put_async(b"b", bytearray(b"2")).result(10)
    db.batch_async({b"c": b"3", b"a": None, "d": b"4"}).result(10)
    db.batch_async([(b"e", b"5"), (b"b", None)]).result(10)
    db.batch_async({}).result(10)
    assert dict(db.scan()) == {b"c": b"3", b"d": b"4", b"e": b"5"}
    db.delete_async(b"c").result(10)
    db.delete_async(b"was never there").result(10)
    assert db.keys() == [b"d", b"e"]
    assert len(db) == 2
    path = db.path
    db.close()
    with Database(path, "r") as reader:
        assert reader.keys() == [b"d", b"e"]
        assert reader.verify() == []


def test_what_cannot_be_written_is_refused_at_once(db: Database) -> None:
    bad: list[Callable[[], object]] = [
        lambda: db.put_async(1, b""),  # type: ignore[arg-type]
        lambda: db.put_async(b"", None),  # type: ignore[arg-type]
        lambda: db.delete_async(None),  # type: ignore[arg-type]
        lambda: db.batch_async({b"a": 1}),  # type: ignore[arg-type]
        lambda: db.batch_async([b"abc"]),  # type: ignore[list-item]
        lambda: db.batch_async(5),  # type: ignore[arg-type]
    ]
    for call in bad:
        with pytest.raises((TypeError, ValueError)):
            call()
    assert db.keys() == []


def test_readers_and_closed_handles_refuse_at_once(tmp_path: Path) -> None:
    db = Database(tmp_path / "store")
    with Database(tmp_path / "store", "r") as reader:
        for call in async_writes(reader):
            with pytest.raises(error, match="reading only"):
                call()
    db.close()
    for call in async_writes(db):
        with pytest.raises(error, match="already been closed"):
            call()


def async_writes(db: Database) -> list[Callable[[], object]]:
    return [
        lambda: db.put_async(b"a", b"1"),
        lambda: db.delete_async(b"a"),
        lambda: db.batch_async({b"a": b"1"}),
        lambda: db.batch_async({}),
    ]


def test_direct_writes_come_after_what_the_same_thread_has_queued(db: Database) -> None:
    def batch() -> None:
        with db.batch() as changes:
            changes[b"k"] = b"new"

    writes: list[Callable[[], object]] = [
        lambda: db.__setitem__(b"k", b"new"),
        lambda: db.put_many({b"k": b"new"}),
        lambda: db.update({b"k": b"new"}),
        lambda: db.load([(b"k", b"new")]),
        batch,
    ]
    removals: list[Callable[[], object]] = [
        lambda: db.pop(b"k"),
        lambda: db.__delitem__(b"k"),
        lambda: db.__delitem__(slice(b"a", b"z")),
        db.popitem,
        db.clear,
        lambda: db.prefixed(b"k").clear(),
    ]
    for _ in range(30):
        for write in writes:
            for number in range(5):
                db.put_async(b"k", b"%d" % number)
            write()
            assert db[b"k"] == b"new"
        for remove in removals:
            db.put_async(b"k", b"old")
            remove()
            assert b"k" not in db
        db.put_async(b"k", b"queued")
        assert db.setdefault(b"k", b"new") == b"queued"
        db.delete_async(b"k")
        assert db.setdefault(b"k", b"new") == b"new"
    db.put_async(b"k", b"queued")
    db.sync()
    assert db[b"k"] == b"queued"
    db.delete_async(b"k")
    db.flush()
    assert b"k" not in db


def test_the_order_holds_while_other_threads_write_directly(db: Database, switching: None) -> None:
    # Another thread's write must not let this one's overtake what it has queued.
    ended = threading.Event()

    def write() -> None:
        while not ended.is_set():
            db[b"other"] = b"x" * 50

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for number in range(300):
            futures = [db.put_async(b"k", b"queued") for _ in range(3)]
            db[b"k"] = b"%d" % number
            wait(futures)
            assert db[b"k"] == b"%d" % number
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def test_many_threads_queue_and_write_and_each_sees_its_own_order(
    db: Database, switching: None
) -> None:
    problems: list[BaseException] = []

    def work(name: int) -> None:
        try:
            for number in range(150):
                key = b"%d-%d" % (name, number % 7)
                db.put_async(key, b"queued")
                if number % 3 == 0:
                    db[key] = b"%d" % number
                    assert db[key] == b"%d" % number
                elif number % 3 == 1:
                    db.delete_async(key).result(20)
                    assert key not in db
                else:
                    db.batch_async({key: b"last", b"x": None}).result(20)
                    assert db[key] == b"last"
        except BaseException as problem:  # noqa: BLE001 - it is raised below
            problems.append(problem)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]
    assert db.verify() == []


def test_callbacks_may_use_the_store(db: Database) -> None:
    seen: list[Any] = []
    done = threading.Event()

    def callback(future: Future[None]) -> None:
        try:
            seen.append(db[b"a"])
            db.put_async(b"b", b"queued")
            db[b"b"] = b"direct"
            seen.append(db[b"b"])
            db.delete_async(b"c")
            db.put_async(b"c", b"2")
            del db[b"c"]
            db.sync()
            db.flush()
            with db.batch() as changes:
                changes[b"d"] = b"4"
            seen.append(dict(db.scan()))
        except BaseException as problem:  # noqa: BLE001 - it is looked at below
            seen.append(problem)
        done.set()

    db.put_async(b"a", b"1").add_done_callback(callback)
    assert done.wait(20)
    assert seen == [b"1", b"direct", {b"a": b"1", b"b": b"direct", b"d": b"4"}]


def test_close_loses_nothing_that_was_queued(db: Database, switching: None) -> None:
    path = db.path
    futures = [db.put_async(b"%05d" % number, b"x" * 100) for number in range(2000)]
    db.close()
    assert all(future.done() and future.exception() is None for future in futures)
    with Database(path, "r") as reader:
        assert len(reader) == 2000
        assert reader.verify() == []


def test_close_in_a_callback_does_what_is_queued_and_then_closes(tmp_path: Path) -> None:
    path = tmp_path / "store"
    for _ in range(10):
        db = Database(path)
        first = db.put_async(b"first", b"")
        futures = [db.put_async(b"%d" % number, b"") for number in range(200)]
        first.add_done_callback(lambda _, db=db: db.close())  # type: ignore[misc]
        until(lambda db=db: db.closed)  # type: ignore[misc]
        assert all(future.done() and future.exception() is None for future in futures)
        db.close()
        with Database(path) as again:
            assert len(again) == 201


def test_close_here_and_in_callbacks_at_once(tmp_path: Path) -> None:
    for round_ in range(30):
        db = Database(tmp_path / f"store{round_ % 3}")
        futures = [db.put_async(b"%d" % number, b"") for number in range(50)]
        for future in futures:
            future.add_done_callback(lambda _, db=db: db.close())  # type: ignore[misc]
        db.close()
        assert db.closed
        assert all(future.exception(10) is None for future in futures)


def test_the_limit_is_an_option(tmp_path: Path) -> None:
    with Database(tmp_path / "store", queue_limit=1000) as db:
        engine = db._engine
        assert isinstance(engine, Writer)
        queue = engine._path.queue
        most = 0
        for number in range(500):
            db.put_async(b"%d" % number, bytes(100))
            most = max(most, queue._size)
        assert most <= 1000


def test_full_mode_shares_syncs(tmp_path: Path) -> None:
    class Counting(FileSystem):
        syncs = 0

        def sync(self, file: Any) -> None:
            self.syncs += 1
            super().sync(file)

    system = Counting()
    engine = open_store(str(tmp_path / "store"), "c", Options(sync="full"), 0o666, system)
    engine.put(b"first", b"")
    before = system.syncs
    futures = [engine.submit({b"%d" % number: b""}) for number in range(1000)]
    wait(futures)
    assert system.syncs - before <= 100
    engine.close()


def test_an_async_write_that_the_disk_refuses_fails_alone(tmp_path: Path) -> None:
    class Full(FileSystem):
        full = False

        def allocate(self, file: Any, length: int) -> None:
            if self.full and length > 200_000:
                raise error(28, "no space left", file.path)
            super().allocate(file, length)

    system = Full()
    options = Options(log_back_end="mapped", memtable_limit=1 << 30)
    engine = open_store(str(tmp_path / "store"), "c", options, 0o666, system)
    engine.put(b"first", b"")
    system.full = True
    before = engine.submit({b"before": b""})
    bad = engine.submit({b"big": bytes(300_000)})
    after = engine.submit({b"after": b""})
    assert before.result(10) is after.result(10) is None
    with pytest.raises(error, match="no space left"):
        bad.result(10)
    system.full = False
    engine.submit({b"big": bytes(300_000)}).result(10)
    assert engine.count() == 4
    engine.close()


def test_what_a_callback_appends_while_the_handle_closes_is_answered_too(tmp_path: Path) -> None:
    """A callback's direct write appends what its thread has queued, after close has begun."""
    queued: list[Future[None]] = []
    inside = threading.Event()

    def callback(_: Future[None]) -> None:
        queued.append(store.put_async("second", "2"))
        inside.set()
        time.sleep(0.1)
        with suppress(error):
            store["third"] = "3"

    store = Database(tmp_path / "store")
    store.put_async("zero", "0")
    store.put_async("first", "1").add_done_callback(callback)
    assert inside.wait(20)
    store.close()
    assert queued[0].result(20) is None


def test_what_was_queued_is_on_the_disk_within_the_seconds(tmp_path: Path) -> None:
    synced: list[str] = []

    class Watching(FileSystem):
        def sync(self, file: File) -> None:
            super().sync(file)
            synced.append(file.path)

    engine: Any = open_store(str(tmp_path / "s"), "c", Options(sync=0.05), filesystem=Watching())
    for number in range(3):
        engine.submit({b"key": b"%d" % number}).result(10)
        until(lambda: engine._path.log.synced >= engine.sequence)
        assert synced[-1].endswith(".wal")
        synced.append("")
    engine.close()
