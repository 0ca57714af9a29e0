"""Opening, closing and removing a store; what one handle may do, and what no handle does."""

from __future__ import annotations

import errno
import os
import signal
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gates.failure import descriptors
from oblivion_dbm import CorruptionError, error
from oblivion_dbm.engine import storage_engine
from oblivion_dbm.engine.filesystem import File, FileSystem
from oblivion_dbm.engine.options import Options
from oblivion_dbm.engine.storage_engine import open_store, remove_store

SYSTEM = FileSystem()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "store")


def open_it(path: str, flag: str = "c", system: FileSystem = SYSTEM, **more: Any) -> Any:
    return open_store(path, flag, Options(**more), 0o666, system)


def disk(folder: str | Path) -> dict[str, tuple[int, bytes]]:
    """Return mode and bytes of every file under a directory."""
    return {
        str(file.relative_to(folder)): (file.stat().st_mode, file.read_bytes())
        for file in Path(folder).rglob("*")
        if file.is_file()
    }


def make(path: str, **pairs: str) -> None:
    engine = open_it(path)
    for key, value in pairs.items():
        engine.put(key.encode(), value.encode())
    engine.close()


# Opening.


@pytest.mark.parametrize("flag", ["c", "n"])
def test_a_new_store_is_a_directory_with_a_manifest_and_a_lock(path: str, flag: str) -> None:
    engine = open_it(path, flag)
    assert sorted(os.listdir(path)) == ["LOCK", "MANIFEST"]
    assert (engine.readonly, engine.count()) == (False, 0)
    engine.close()
    assert sorted(os.listdir(path)) == ["LOCK", "MANIFEST"]


@pytest.mark.parametrize("flag", ["r", "w"])
def test_where_there_is_no_store_reading_is_enoent_and_makes_nothing(path: str, flag: str) -> None:
    for place in (path, os.path.join(path, "deeper")):
        with pytest.raises(error, match="use flag 'c'") as caught:
            open_it(place, flag)
        assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, place)
    assert not os.path.exists(path)


@pytest.mark.parametrize("flag", ["c", "n"])
def test_an_empty_directory_becomes_a_store(path: str, flag: str) -> None:
    os.mkdir(path)
    open_it(path, flag).close()
    assert sorted(os.listdir(path)) == ["LOCK", "MANIFEST"]


@pytest.mark.parametrize("flag", ["c", "n"])
def test_a_directory_that_cannot_be_made_is_an_error(path: str, flag: str) -> None:
    with pytest.raises(error) as caught:
        open_it(os.path.join(path, "deeper"), flag)
    assert caught.value.errno == errno.ENOENT


class FailingAt(FileSystem):
    """Every operation that changes the disk fails from the n-th on."""

    def __init__(self, number: int) -> None:
        self.left = number

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise error(errno.EIO, "told to fail")

    def create(self, path: str, mode: int = 0o666) -> File:
        self._count()
        return super().create(path, mode)

    def write(self, file: File, offset: int, data: bytes | memoryview) -> None:
        self._count()
        super().write(file, offset, data)

    def sync(self, file: File) -> None:
        self._count()
        super().sync(file)

    def sync_directory(self, path: str) -> None:
        self._count()
        super().sync_directory(path)

    def rename(self, source: str, destination: str) -> None:
        self._count()
        super().rename(source, destination)

    def make_directory(self, path: str, mode: int) -> None:
        self._count()
        super().make_directory(path, mode)

    def remove(self, path: str) -> None:
        self._count()
        super().remove(path)


def test_a_creation_that_was_cut_short_anywhere_can_be_done_again(tmp_path: Path) -> None:
    for number in range(100):
        path = str(tmp_path / str(number))
        system = FailingAt(number)
        try:
            open_it(path, "c", system).close()
        except error:
            assert system.left < 0
        else:
            break
        for flag in "rw" if not os.path.exists(os.path.join(path, "MANIFEST")) else "":
            with pytest.raises(error) as caught:
                open_it(path, flag)
            assert caught.value.errno == errno.ENOENT
        make(path, a="1")
        engine = open_it(path, "r")
        assert engine.value(b"a") == b"1"
        engine.close()
    assert 8 < number < 99


def test_n_gives_a_new_empty_store_whose_files_have_new_numbers(path: str) -> None:
    make(path, a="1")
    old = set(os.listdir(path))
    engine = open_it(path, "n")
    assert engine.count() == 0
    assert engine.value(b"a") is None
    assert sorted(os.listdir(path)) == ["LOCK", "MANIFEST"]
    engine.put(b"b", b"2")
    assert {name for name in os.listdir(path) if name.endswith(".wal")}.isdisjoint(old)
    engine.close()
    engine = open_it(path, "r")
    assert list(engine.scan("pairs", None, None, False)) == [(b"b", b"2")]
    engine.close()


def test_n_cut_short_anywhere_leaves_the_old_store_or_the_new_one(tmp_path: Path) -> None:
    for number in range(100):
        path = str(tmp_path / str(number))
        make(path, a="1")
        try:
            open_it(path, "n", FailingAt(number)).close()
        except error:
            pass
        else:
            break
        engine = open_it(path, "w")
        assert list(engine.scan("pairs", None, None, False)) in ([(b"a", b"1")], [])
        engine.put(b"b", b"2")
        engine.close()
    assert 4 < number < 99


def test_n_over_a_file_replaces_it(path: str) -> None:
    Path(path).write_text("junk")
    open_it(path, "n").close()
    assert os.path.isdir(path)


def test_n_over_a_damaged_manifest_starts_anew_with_numbers_above_all_files(path: str) -> None:
    make(path, a="1")
    Path(path, "MANIFEST").write_text("junk")
    Path(path, "000077.sst").touch()
    engine = open_it(path, "n")
    engine.put(b"b", b"2")
    (log,) = [name for name in os.listdir(path) if name.endswith(".wal")]
    assert log > "000077.wal"
    engine.close()


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_files_and_directory_have_the_mode_less_the_umask(path: str, umask: int) -> None:
    before = os.umask(umask)
    try:
        engine = open_store(path, "c", Options(), 0o640, SYSTEM)
        engine.put(b"a", b"1")
        engine.flush()
        engine.close()
    finally:
        os.umask(before)
    assert os.stat(path).st_mode & 0o777 == 0o750 & ~umask
    modes = {os.stat(os.path.join(path, name)).st_mode & 0o777 for name in os.listdir(path)}
    assert modes == {0o640 & ~umask}


# One writer.


def test_a_second_writer_is_refused_and_changes_nothing(path: str) -> None:
    engine = open_it(path)
    engine.put(b"a", b"1")
    before = disk(path)
    for flag in "wcn":
        with pytest.raises(error) as caught:
            open_it(path, flag)
        assert caught.value.errno == errno.EAGAIN
    with pytest.raises(error):
        remove_store(path, SYSTEM)
    assert disk(path) == before
    engine.put(b"b", b"2")
    engine.close()
    open_it(path, "w").close()


def test_the_lock_is_free_after_an_opening_that_failed(path: str) -> None:
    make(path, a="1")
    (log,) = Path(path).glob("*.wal")
    whole = log.read_bytes()
    log.write_bytes(whole[:4100])
    for _ in range(2):
        with pytest.raises(CorruptionError):
            open_it(path, "w")
    log.write_bytes(whole)
    open_it(path, "w").close()


def test_a_manifest_that_is_damaged_before_the_lock_is_taken_is_told_of(path: str) -> None:
    make(path, a="1")
    whole = Path(path, "MANIFEST").read_bytes()

    class Late(FileSystem):
        def lock(self, file: File) -> bool:
            Path(path, "MANIFEST").write_bytes(whole[:-3])
            return super().lock(file)

    with pytest.raises(CorruptionError):
        open_it(path, "w", Late())
    Path(path, "MANIFEST").write_bytes(whole)
    open_it(path, "w").close()


def test_of_two_that_make_the_directory_both_go_on_and_the_lock_decides(path: str) -> None:
    class Slow(FileSystem):
        def make_directory(self, path: str, mode: int) -> None:
            super().make_directory(path, mode)  # the other
            super().make_directory(path, mode)

        def create(self, path: str, mode: int = 0o666) -> File:
            if path.endswith("LOCK"):
                self.close(super().create(path, mode))  # the other
            return super().create(path, mode)

    engine = open_it(path, "c", Slow())
    engine.put(b"a", b"1")
    with pytest.raises(error, match="open for writing"):
        open_it(path, "c")
    engine.close()


def test_many_readers_beside_a_writer_change_nothing(path: str) -> None:
    engine = open_it(path)
    engine.put(b"a", b"1")
    before = disk(path)
    readers = [open_it(path, "r") for _ in range(3)]
    assert [reader.value(b"a") for reader in readers] == [b"1"] * 3
    for reader in readers:
        reader.close()
    assert disk(path) == before
    engine.close()


@pytest.mark.parametrize("name", ["sync", "flush", "compact", "close", "submit"])
def test_a_signal_handler_under_the_handle_s_lock_is_refused(path: str, name: str) -> None:
    engine, refusals = open_it(path), list[error]()
    engine.put(b"a", b"1")

    def handler(*_: object) -> None:
        try:
            getattr(engine, name)(*([{b"b": b"2"}] if name == "submit" else []))
        except error as problem:
            refusals.append(problem)

    before = signal.signal(signal.SIGINT, handler)
    try:
        with engine.lock:
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert [problem.errno for problem in refusals] == [errno.EDEADLK]
    assert engine.value(b"a") == b"1"
    engine.close()


def test_a_batch_that_is_too_long_is_refused_and_changes_nothing(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_it(path)
    engine.put(b"a", b"1")
    monkeypatch.setattr(storage_engine, "LONGEST", 200)
    for cleared in (False, True):
        with pytest.raises(ValueError, match="the limit is 200"):
            engine.write({b"a": bytes(150), b"b": bytes(50)}, cleared)
        with pytest.raises(ValueError, match="the limit is 200"):
            engine.submit({b"a": bytes(150), b"b": bytes(50)})
    assert dict(engine.scan("pairs", None, None, False)) == {b"a": b"1"}
    engine.close()


def test_where_there_is_no_thread_to_close_in_a_callback_cannot_close(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise RuntimeError("can't start new thread")

    engine, answers = open_it(path), list[BaseException | None]()
    monkeypatch.setattr(storage_engine, "start_new_thread", refuse)

    def close(_: object) -> None:
        try:
            answers.append(engine.close())
        except error as problem:
            answers.append(problem)

    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with engine.lock:
            held.set()
            go_on.wait(30)

    holder = threading.Thread(target=hold)  # so that the callback is there in time
    holder.start()
    held.wait(30)
    future = engine.submit({b"a": b"1"})
    future.add_done_callback(close)
    go_on.set()
    holder.join()
    future.result(30)
    engine.put(b"b", b"2")
    engine.close()
    assert [type(answer) for answer in answers] == [error]
    reader = open_it(path, "r")
    assert reader.count() == 2
    reader.close()


# A handle for reading.


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_a_store_on_read_only_media_can_be_read(path: str) -> None:
    make(path, a="1")
    os.chmod(path, 0o555)
    engine = open_it(path, "r")
    assert engine.value(b"a") == b"1"
    engine.close()
    os.chmod(path, 0o755)


def test_reading_works_where_every_change_would_fail(path: str) -> None:
    make(path, a="1")
    before = disk(path)
    engine = open_it(path, "r", FailingAt(0))
    assert engine.value(b"a") == b"1"
    assert list(engine.scan("keys", None, None, False)) == [b"a"]
    assert (engine.count(), engine.first()) == (1, b"a")
    engine.sync()
    engine.close()
    assert disk(path) == before


def writes_of(engine: Any) -> list[Callable[[], object]]:
    return [
        lambda: engine.put(b"a", b"1"),
        lambda: engine.delete(b"a"),
        lambda: engine.delete(b"absent"),
        lambda: engine.write({b"a": b"1"}, False),
        lambda: engine.write({}, False),
        lambda: engine.write({}, True),
        engine.clear,
        engine.flush,
        engine.compact,
        engine.check_writable,
    ]


def reads_of(engine: Any) -> list[Callable[[], object]]:
    return [
        lambda: engine.value(b"a"),
        lambda: engine.scan("pairs", None, None, False),
        engine.first,
        engine.count,
        engine.stats,
        engine.sync,
        engine.refresh,
        engine.check,
    ]


def test_a_handle_for_reading_refuses_every_write(path: str) -> None:
    make(path, a="1")
    engine = open_it(path, "r")
    assert engine.readonly
    for write in writes_of(engine):
        with pytest.raises(error, match="reading only") as caught:
            write()
        assert (caught.value.errno, caught.value.filename) == (errno.EROFS, path)
    engine.close()


# Closing.


@pytest.mark.parametrize("flag", ["r", "w"])
def test_a_closed_handle_refuses_everything_and_closing_again_is_fine(path: str, flag: str) -> None:
    make(path, a="1")
    engine = open_it(path, flag)
    scan = engine.scan("pairs", None, None, False)
    engine.close()
    engine.close()
    calls: list[Callable[[], object]] = [lambda: next(scan), *reads_of(engine), *writes_of(engine)]
    for call in calls:
        with pytest.raises(error, match="DBM object has already been closed"):
            call()


@pytest.mark.parametrize("flag", ["r", "w"])
def test_asking_a_closed_handle_for_ever_costs_no_memory(path: str, flag: str) -> None:
    make(path, a="1")
    engine = open_it(path, flag)
    engine.close()
    for call in reads_of(engine):
        depths = set()
        for _ in range(20):
            with pytest.raises(error) as caught:
                call()
            depths.add(len(traceback.extract_tb(caught.value.__traceback__)))
        assert len(depths) == 1


@pytest.mark.parametrize("flag", ["r", "w"])
def test_opening_and_closing_leaves_no_descriptor(path: str, flag: str) -> None:
    make(path, a="1")
    before = descriptors()
    for _ in range(3):
        engine = open_it(path, flag)
        if flag == "w":
            engine.put(b"b", b"2")
            engine.flush()
            engine.put(b"c", b"3")
        engine.close()
    assert descriptors() == before


def test_a_close_that_fails_closes_and_unlocks_all_the_same(path: str) -> None:
    system = FailingAt(1000)
    engine = open_it(path, "c", system)
    engine.put(b"a", b"1")
    system.left = 0
    with pytest.raises(error, match="told to fail"):
        engine.close()
    engine.close()
    with pytest.raises(error, match="already been closed"):
        engine.value(b"a")
    engine = open_it(path, "w")
    assert engine.value(b"a") == b"1"
    engine.close()


def test_a_large_log_becomes_a_table_at_close_and_a_small_one_stays(path: str) -> None:
    engine = open_it(path)
    engine.put(b"small", bytes(1000))
    engine.close()
    assert not list(Path(path).glob("*.sst"))
    engine = open_it(path)
    engine.put(b"large", bytes(2 << 20))
    engine.close()
    assert list(Path(path).glob("*.sst"))
    engine = open_it(path, "r")
    assert engine.value(b"small") == bytes(1000)
    assert engine.value(b"large") == bytes(2 << 20)
    engine.close()


def test_forgetting_to_close_loses_nothing(path: str) -> None:
    child = os.fork()
    if child == 0:
        engine = open_it(path)
        for number in range(100):
            engine.put(b"%d" % number, b"value")
        os._exit(0)
    os.waitpid(child, 0)
    engine = open_it(path, "w")
    assert engine.count() == 100
    engine.close()


# Forks and threads.


def in_a_child(call: Callable[[], bool]) -> bool:
    """Tell whether ``call`` is true in a forked child, which is given half a minute."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        import signal

        signal.alarm(30)
        try:
            os.write(writing, b"1" if call() else b"0")
        finally:
            os._exit(0)
    os.close(writing)
    answer = os.read(reading, 1)
    os.close(reading)
    os.waitpid(child, 0)
    return answer == b"1"


def refused(call: Callable[[], object]) -> bool:
    try:
        call()
    except error as problem:
        return "before a fork" in str(problem)
    return False


def all_refused(engine: Any, scan: Any) -> bool:
    calls: list[Callable[[], object]] = [lambda: next(scan), *reads_of(engine)]
    calls += [] if engine.readonly else writes_of(engine)
    answers = [refused(call) for call in calls]
    engine.close()
    engine.close()
    return all(answers)


@pytest.mark.parametrize("flag", ["r", "w"])
def test_a_forked_handle_raises_and_the_parent_is_unharmed(path: str, flag: str) -> None:
    make(path, a="1")
    engine = open_it(path, flag)
    if flag == "w":
        engine.put(b"b", b"2")
    scan = engine.scan("pairs", None, None, False)
    before = disk(path)
    assert in_a_child(lambda: all_refused(engine, scan))
    assert disk(path) == before
    assert next(scan) == (b"a", b"1")
    assert engine.value(b"a") == b"1"
    if flag == "w":
        with pytest.raises(error) as caught:
            open_it(path, "w")
        assert caught.value.errno == errno.EAGAIN
        engine.put(b"c", b"3")
    engine.close()
    open_it(path, "w").close()


@pytest.mark.parametrize("flag", ["r", "w"])
def test_a_child_forked_while_a_thread_holds_the_lock_raises_and_does_not_hang(
    path: str, flag: str
) -> None:
    make(path, a="1")
    engine = open_it(path, flag)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with engine.lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    scan = (engine.value(key) for key in [b"a"])
    try:
        assert in_a_child(lambda: all_refused(engine, scan))
    finally:
        done.set()
        thread.join()
    engine.close()


def test_threads_that_write_and_read_one_handle_lose_nothing(path: str) -> None:
    engine = open_it(path, memtable_limit=20_000, fan_in=3)
    problems: list[BaseException] = []

    def work(name: int) -> None:
        try:
            for number in range(300):
                key = b"%d-%d" % (name, number)
                engine.put(key, key)
                assert engine.value(key) == key
                if number % 50 == 0:
                    list(engine.scan("keys", None, None, False))
                    engine.count()
        except BaseException as problem:
            problems.append(problem)
            raise

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert engine.count() == 1200
    assert len(list(engine.scan("keys", None, None, False))) == 1200
    engine.close()


# Removing.


def test_a_store_is_removed_whole(path: str) -> None:
    engine = open_it(path)
    engine.put(b"a", b"1")
    engine.flush()
    engine.put(b"b", b"2")
    engine.close()
    Path(path, "000099.lost").touch()
    remove_store(path, SYSTEM)
    assert not os.path.exists(path)
    make(path, c="3")


def test_only_a_store_that_is_nobody_s_and_holds_nothing_else_is_removed(
    path: str, tmp_path: Path
) -> None:
    with pytest.raises(error) as caught:
        remove_store(path, SYSTEM)
    assert caught.value.errno == errno.ENOENT
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("kept")
    make(path, a="1")
    Path(path, "notes.txt").write_text("kept")
    before = disk(tmp_path)
    for place in (tmp_path / "folder", tmp_path / "folder" / "file", path):
        with pytest.raises(error):
            remove_store(str(place), SYSTEM)
    assert disk(tmp_path) == before


def test_a_removal_that_was_cut_short_leaves_a_store_or_none(tmp_path: Path) -> None:
    for number in range(100):
        path = str(tmp_path / str(number))
        make(path, a="1")
        try:
            remove_store(path, FailingAt(number))
        except error:
            pass
        else:
            break
        if os.path.exists(os.path.join(path, "MANIFEST")):
            make(path, b="2")
            remove_store(path, SYSTEM)
        else:
            with pytest.raises(error):
                open_it(path, "r")
    assert 3 < number < 99
