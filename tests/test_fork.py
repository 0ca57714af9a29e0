"""A handle that a child process inherits raises, and the parent never notices the child."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from operator import methodcaller
from pathlib import Path
from typing import Any

import pytest

from oblivion_dbm import Database, error
from oblivion_dbm.engine.filesystem import FileSystem
from oblivion_dbm.engine.kernel.append import BUSY
from oblivion_dbm.engine.lock import WriterLock
from oblivion_dbm.engine.record import PUT, encode

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")

LIMITS: dict[str, Any] = {"memtable_limit": 20_000, "fan_in": 2}
REFUSED = "opened before a fork"


def in_child(work: Callable[[], str]) -> str:
    """Return what ``work`` returns in a forked child, or the exception it raises there."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        found = "a child without an answer"
        try:
            signal.alarm(60)
            found = work()
        except BaseException as problem:  # noqa: BLE001 - it is the answer
            found = f"{type(problem).__name__}: {problem}"
        finally:
            os.write(writing, found.encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        found = answer.read().decode()
    os.waitpid(child, 0)
    return found


def batch(db: Database) -> None:
    with db.batch() as changes:
        changes[b"x"] = b"1"


def assign(db: Database) -> None:
    db[b"x"] = b"1"


def delete(db: Database) -> None:
    del db[b"a"]


def delete_range(db: Database) -> None:
    del db[b"a":b"b"]


#: How to call each name of a Database; those that start with an underscore are operators.
CALLS: dict[str, Callable[[Database], object]] = {
    "__getitem__": lambda db: db[b"a"],
    "__getitem__ of a slice": lambda db: list(db[b"a":b"b"]),
    "__setitem__": assign,
    "__delitem__": delete,
    "__delitem__ of a slice": delete_range,
    "__contains__": lambda db: b"a" in db,
    "__iter__": list,
    "__reversed__": lambda db: list(reversed(db)),
    "__len__": len,
    "__bool__": bool,
    "__eq__": lambda db: db == {b"a": b"1"},
    "backup": lambda db: db.backup(db.path + ".backup"),
    "batch": batch,
    "get": lambda db: db.get(b"a"),
    "get_many": lambda db: db.get_many([b"a"]),
    "has_room": lambda db: db.has_room(1),
    "pop": lambda db: db.pop(b"a", None),
    "setdefault": lambda db: db.setdefault(b"a", b"1"),
    "nextkey": lambda db: db.nextkey(b"a"),
    "items": lambda db: list(db.items()),
    "values": lambda db: list(db.values()),
    "scan": lambda db: list(db.scan()),
    "load": lambda db: db.load([(b"x", b"1")]),
    "put_many": lambda db: db.put_many({b"x": b"1"}),
    "update": lambda db: db.update({b"x": b"1"}),
    "prefixed": lambda db: list(db.prefixed(b"a")),
    "recall": lambda db: db.recall(b"a"),
    "put_async": lambda db: db.put_async(b"x", b"1").result(10),
    "delete_async": lambda db: db.delete_async(b"x").result(10),
    "batch_async": lambda db: db.batch_async({b"x": b"1"}).result(10),
    "sequence": lambda db: db.sequence,
}
#: What says something about the handle itself, and goes on saying it.
HARMLESS = {"close", "closed", "path", "readonly"}


def calls() -> Iterator[tuple[str, Callable[[Database], object]]]:
    """Yield every public name of a Database with a call of it."""
    for name in dir(Database):
        if not name.startswith("_") and name not in HARMLESS | set(CALLS):
            yield name, methodcaller(name)
    yield from ((name, call) for name, call in CALLS.items() if hasattr(Database, name.split()[0]))


def answer(call: Callable[[Database], object], db: Database) -> str:
    """Return "" where a call is refused as it must be, else what it did."""
    try:
        return f"returned {call(db)!r}"
    except error as problem:
        return "" if REFUSED in str(problem) or problem.errno == errno.EROFS else f"{problem!r}"
    except Exception as problem:  # noqa: BLE001 - it is what the test is after
        return f"{problem!r}"


@pytest.mark.parametrize("flag", ["w", "r"])
def test_every_call_on_an_inherited_handle_raises(tmp_path: Path, flag: str) -> None:
    writer = Database(tmp_path / "store", **LIMITS)
    writer[b"a"] = b"1"
    db = writer if flag == "w" else Database(tmp_path / "store", "r")

    def work() -> str:
        wrong = {name: found for name, call in calls() if (found := answer(call, db))}
        db.close()
        wrong |= {name: found for name, call in calls() if (found := answer(call, db))}
        return repr(wrong or "")

    assert in_child(work) == "''"
    writer[b"b"] = b"2"
    assert list(db.scan()) == [(b"a", b"1"), (b"b", b"2")]
    assert db.verify() == []
    db.close()
    writer.close()


@pytest.mark.parametrize("flag", ["w", "r"])
def test_what_was_made_of_a_handle_before_a_fork_raises_too(tmp_path: Path, flag: str) -> None:
    writer = Database(tmp_path / "store", **LIMITS)
    for number in range(2000):
        writer[b"%04d" % number] = b"x" * 20
    db = writer if flag == "w" else Database(tmp_path / "store", "r")
    scan, keys, view = db.scan(), iter(db), db.prefixed(b"1")
    assert next(scan)[0] == next(keys) == b"0000"
    changes = writer.batch()
    entered = changes.__enter__()
    entered[b"new"] = b"1"
    inherited: list[Callable[[Database], object]] = [
        lambda db: next(scan),
        lambda db: next(keys),
        lambda db: view[b"000"],
        lambda db: list(view),
        lambda db: view.__setitem__(b"000", b""),
        lambda db: changes.__exit__(None, None, None),
    ]

    def work() -> str:
        return repr([found for call in inherited if (found := answer(call, db))] or "")

    assert in_child(work) == "''"
    changes.__exit__(None, None, None)
    assert db[b"new"] == b"1"
    assert len([*scan, *keys]) == 2 * 1999
    db.close()
    writer.close()


def test_close_in_a_child_touches_nothing(tmp_path: Path) -> None:
    db = Database(tmp_path / "store", sync="off")
    reader = Database(tmp_path / "store", "r")
    for number in range(100):
        db[b"%d" % number] = b"x" * 100
    before = {file.name: file.read_bytes() for file in (tmp_path / "store").iterdir()}

    def work() -> str:
        nonlocal db, reader
        for handle in (db, reader):
            handle.close()
            handle.close()
        del db, reader, handle
        return "closed"

    assert in_child(work) == "closed"
    assert {file.name: file.read_bytes() for file in (tmp_path / "store").iterdir()} == before
    with pytest.raises(error) as caught:
        Database(tmp_path / "store", "w")
    assert caught.value.errno == errno.EAGAIN
    db[b"more"] = b"1"
    assert len(reader) == len(db) == 101
    reader.close()
    db.close()


def test_a_child_opens_the_store_itself_once_the_parent_has_closed(tmp_path: Path) -> None:
    path = tmp_path / "store"
    db = Database(path, **LIMITS)
    db[b"parent"] = b"1"

    def refused() -> str:
        try:
            Database(path, "w").close()
        except error as problem:
            return f"{problem.errno} {problem.strerror}"
        return "opened"

    meaning = f"the store is open for writing in process {os.getpid()}"
    assert in_child(refused) == f"{errno.EAGAIN} {meaning}"

    def reads() -> str:
        with Database(path, "r") as reader:
            return repr(reader[b"parent"])

    assert in_child(reads) == "b'1'"

    def writes() -> str:
        with Database(path, "w", lock_timeout=30) as own:
            own[b"child"] = b"2"
        return "written"

    closing = threading.Timer(0.2, db.close)
    closing.start()
    assert in_child(writes) == "written"
    closing.join()
    with Database(path, "w") as again:
        assert dict(again) == {b"parent": b"1", b"child": b"2"}


# A parent that dies while a child lives.


def sleep_in_a_fork() -> int:
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    return child


def sleep_in_a_program() -> int:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid


def sleep_by_multiprocessing(method: str) -> int:
    context: Any = multiprocessing.get_context(method)
    process = context.Process(target=time.sleep, args=(60,))
    process.start()
    return int(process.pid)


WAYS: dict[str, Callable[[], int]] = {
    "fork": sleep_in_a_fork,
    "exec": sleep_in_a_program,
    "multiprocessing fork": lambda: sleep_by_multiprocessing("fork"),
    "multiprocessing spawn": lambda: sleep_by_multiprocessing("spawn"),
    "multiprocessing forkserver": lambda: sleep_by_multiprocessing("forkserver"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # a fork of a process with threads
@pytest.mark.parametrize("way", WAYS)
def test_a_living_child_does_not_keep_a_dead_parent_s_store_locked(
    tmp_path: Path, way: str
) -> None:
    path = tmp_path / "store"
    reading, writing = os.pipe()
    parent = os.fork()
    if parent == 0:
        try:
            db = Database(path, sync="off")
            db[b"a"] = b"1"
            os.write(writing, b"%d" % WAYS[way]())
            time.sleep(60)
        finally:
            os._exit(1)
    child = int(os.read(reading, 20))
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    try:
        # A child that was forked lets go in its first instant, one that was started at exec.
        with Database(path, "w", lock_timeout=20) as db:
            assert db[b"a"] == b"1"
        os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)
    os.close(reading)
    os.close(writing)


# Forks while other threads are in the middle of something.


@pytest.fixture
def busy() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Give a function that lets a thread do something over and over until the test ends."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    over = threading.Event()
    threads: list[threading.Thread] = []

    def start(work: Callable[[], object]) -> None:
        def run() -> None:
            while not over.is_set():
                work()

        threads.append(threading.Thread(target=run))
        threads[-1].start()

    yield start
    over.set()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(before)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # a fork of a process with threads
@pytest.mark.parametrize("sync", ["normal", "full"])
def test_a_fork_in_the_middle_of_a_write_harms_neither(
    tmp_path: Path, sync: str, busy: Callable[[Callable[[], object]], None]
) -> None:
    db = Database(tmp_path / "store", sync=sync, **LIMITS)
    reader = Database(tmp_path / "store", "r")
    written: list[bytes] = []

    def write() -> None:
        key = b"%06d" % len(written)
        db[key] = b"x" * 50
        written.append(key)

    busy(write)

    def work() -> str:
        wrong = [found for name, call in calls() if (found := answer(call, db))]
        wrong += [found for name, call in calls() if (found := answer(call, reader))]
        db.close()
        reader.close()
        return repr(wrong or "")

    for _ in range(30):
        here = len(written)
        while len(written) == here:
            time.sleep(0)
        assert in_child(work) == "''"
        assert len(reader) >= here
    found = list(db)
    assert found[: len(written)] == written[: len(found)]
    assert db.verify() == []
    reader.close()


@pytest.mark.parametrize("back_end", ["mapped", "pwrite"])
def test_a_child_leaves_a_record_alone_that_its_parent_was_storing(
    tmp_path: Path, back_end: str
) -> None:
    db = Database(tmp_path / "store", log_back_end=back_end)
    db[b"a"] = b"1"
    appender = db._engine._path.appender  # type: ignore[attr-defined]  # it is a Writer
    record, start = encode(PUT, b"b", b"2"), appender.position
    end = start + len(record)
    appender.position = start + BUSY
    appender.target[start:end] = record

    def work() -> str:
        wrong = [found for name, call in calls() if (found := answer(call, db))]
        db.close()
        return repr(wrong)

    assert in_child(work) == "[]"
    assert appender.target[start:end] == record
    appender.position = start
    db[b"c"] = b"3"
    assert dict(db) == {b"a": b"1", b"c": b"3"}
    assert db.verify() == []
    db.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # a fork of a process with threads
def test_a_child_does_not_wait_for_what_its_parent_has_queued(tmp_path: Path) -> None:
    db = Database(tmp_path / "store", sync="full")

    def work() -> str:
        return repr([found for name, call in calls() if (found := answer(call, db))])

    for turn in range(10):
        futures = [db.put_async(b"%d %d" % (turn, number), b"x") for number in range(50)]
        assert in_child(work) == "[]"
        for future in futures:
            future.result(30)
    assert len(db) == 500
    db.close()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="the system has no /proc")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # a fork of a process with threads
def test_a_fork_while_another_thread_opens_a_store_keeps_no_lock(
    tmp_path: Path, busy: Callable[[Callable[[], object]], None]
) -> None:
    WriterLock(FileSystem(), str(tmp_path)).release()
    busy(lambda: WriterLock(FileSystem(), str(tmp_path)).release())

    def work() -> str:
        links = [os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
        names = [os.readlink(link) for link in links if os.path.lexists(link)]
        return repr([name for name in names if name.startswith(str(tmp_path))])

    for _ in range(200):
        assert in_child(work) == "[]"
