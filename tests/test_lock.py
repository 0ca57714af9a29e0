"""One writer at a time, by any path and in one process too; readers watch a word."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from gates.failure import descriptors
from oblivion_dbm import error
from oblivion_dbm.engine.filesystem import File, FileSystem
from oblivion_dbm.engine.lock import GenerationWord, WriterLock, may_have_a_writer

SYSTEM = FileSystem()


def assert_taken(path: str) -> None:
    with pytest.raises(error) as caught:
        WriterLock(SYSTEM, path)
    assert caught.value.errno == errno.EAGAIN
    assert caught.value.filename == path


def test_a_second_writer_is_refused_with_the_holder_s_name_and_changes_nothing(
    tmp_path: Path,
) -> None:
    lock = WriterLock(SYSTEM, str(tmp_path))
    lock.claim()
    before = (tmp_path / "LOCK").read_bytes()
    with pytest.raises(error, match=f"process {os.getpid()}") as caught:
        WriterLock(SYSTEM, str(tmp_path))
    assert caught.value.errno == errno.EAGAIN
    assert (tmp_path / "LOCK").read_bytes() == before
    lock.release()
    WriterLock(SYSTEM, str(tmp_path)).release()


def test_another_path_to_the_same_directory_is_the_same_lock(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "store")
    lock = WriterLock(SYSTEM, str(tmp_path / "store"))
    assert_taken(str(tmp_path / "link"))
    lock.release()


def test_a_lock_that_comes_free_in_time_is_taken(tmp_path: Path) -> None:
    holder = WriterLock(SYSTEM, str(tmp_path))

    class Patient(FileSystem):
        slept = 0

        def sleep(self, seconds: float) -> None:
            assert seconds > 0
            self.slept += 1
            if self.slept == 3:
                holder.release()

    system = Patient()
    WriterLock(system, str(tmp_path), timeout=60.0).release()
    assert system.slept == 3


def test_waiting_ends_after_the_timeout(tmp_path: Path) -> None:
    slept = []

    class Waiting(FileSystem):
        def sleep(self, seconds: float) -> None:
            slept.append(seconds)

    holder = WriterLock(SYSTEM, str(tmp_path))
    with pytest.raises(error) as caught:
        WriterLock(Waiting(), str(tmp_path), timeout=0.5)
    assert caught.value.errno == errno.EAGAIN
    assert 0.5 <= sum(slept) <= 0.6
    holder.release()


def test_a_refused_opener_leaves_no_descriptor(tmp_path: Path) -> None:
    lock = WriterLock(SYSTEM, str(tmp_path))
    before = descriptors()
    for _ in range(3):
        assert_taken(str(tmp_path))
    assert descriptors() == before
    lock.release()


def test_the_lock_of_a_dead_writer_is_free(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        WriterLock(SYSTEM, str(tmp_path)).claim()
        os._exit(0)
    os.waitpid(child, 0)
    lock = WriterLock(SYSTEM, str(tmp_path))
    lock.release()


def test_a_living_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    lock = WriterLock(SYSTEM, str(tmp_path))
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(reading, 1)
        os._exit(0)
    lock.release()
    WriterLock(SYSTEM, str(tmp_path)).release()
    os.write(writing, b"x")
    os.waitpid(child, 0)
    os.close(reading)
    os.close(writing)


def test_a_child_that_abandons_its_copy_leaves_the_parent_locked(tmp_path: Path) -> None:
    lock = WriterLock(SYSTEM, str(tmp_path))
    child = os.fork()
    if child == 0:
        lock.abandon()
        os._exit(0)
    os.waitpid(child, 0)
    assert_taken(str(tmp_path))
    lock.release()


def test_the_generation_begins_anew_after_the_largest_number(tmp_path: Path) -> None:
    (tmp_path / "LOCK").write_bytes(b"\xff" * 16)
    lock = WriterLock(SYSTEM, str(tmp_path))
    lock.bump()
    assert lock.generation == 0
    lock.release()


def test_readers_see_every_bump_and_it_goes_on_from_writer_to_writer(tmp_path: Path) -> None:
    lock = WriterLock(SYSTEM, str(tmp_path))
    word = GenerationWord(SYSTEM, str(tmp_path))
    assert word.words[0] == lock.generation == 0
    lock.bump()
    assert word.words[0] == lock.generation == 1
    lock.release()
    successor = WriterLock(SYSTEM, str(tmp_path))
    assert successor.generation == 1
    successor.claim()
    assert word.words[0] == 1
    successor.bump()
    assert word.words[0] == 2
    successor.release()
    word.close()
    word.close()


def test_a_store_without_a_lock_file_has_a_word_that_stands_still(tmp_path: Path) -> None:
    word = GenerationWord(SYSTEM, str(tmp_path))
    assert word.words[0] == 0
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "LOCK").write_bytes(b"cut short")
    cut = GenerationWord(SYSTEM, str(tmp_path))
    assert cut.words[0] == 0
    for each in (word, cut):
        each.close()


def test_a_lock_file_that_was_cut_short_is_made_whole(tmp_path: Path) -> None:
    (tmp_path / "LOCK").write_bytes(b"\x05")
    lock = WriterLock(SYSTEM, str(tmp_path))
    lock.bump()
    assert len((tmp_path / "LOCK").read_bytes()) == 16
    lock.release()
    assert os.path.exists(tmp_path / "LOCK")


# Who holds it.


def recorded(folder: Path) -> int:
    """Return the process id that the LOCK holds."""
    return int.from_bytes((folder / "LOCK").read_bytes()[8:12], "little")


def test_the_holder_is_written_down_at_once_and_struck_out_at_the_end(tmp_path: Path) -> None:
    lock = WriterLock(SYSTEM, str(tmp_path))
    lock.bump()
    assert recorded(tmp_path) == os.getpid()
    lock.release()
    assert recorded(tmp_path) == 0
    lock.release()
    again = WriterLock(SYSTEM, str(tmp_path))
    assert again.generation == 1
    again.release()


def held_by_a_child(path: str) -> tuple[int, int]:
    """Return (a child that holds the lock, a pipe whose end lets it release and go on living)."""
    ready, tell = os.pipe()
    wait, go = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go)
        lock = WriterLock(SYSTEM, path)
        os.write(tell, b"x")
        os.read(wait, 1)
        lock.release()
        time.sleep(60)
        os._exit(0)
    os.read(ready, 1)
    for end in (ready, tell, wait):
        os.close(end)
    return child, go


def end(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_a_holder_in_another_process_is_named(tmp_path: Path) -> None:
    child, go = held_by_a_child(str(tmp_path))
    with pytest.raises(error, match=f"process {child}:") as caught:
        WriterLock(SYSTEM, str(tmp_path))
    assert caught.value.errno == errno.EAGAIN
    os.close(go)
    lock = WriterLock(SYSTEM, str(tmp_path), timeout=30.0)
    assert recorded(tmp_path) == os.getpid()
    lock.release()
    end(child)


def test_a_dead_holder_is_never_named(tmp_path: Path) -> None:
    """Who has just taken the lock has not written down who it is yet."""
    child, go = held_by_a_child(str(tmp_path))
    end(child)
    os.close(go)
    assert recorded(tmp_path) == child
    with open(tmp_path / "LOCK", "r+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(error, match="open for writing in another process"):
            WriterLock(SYSTEM, str(tmp_path))
        assert recorded(tmp_path) == child
    lock = WriterLock(SYSTEM, str(tmp_path))
    assert recorded(tmp_path) == os.getpid()
    lock.release()


class Container(FileSystem):
    """Another container, where numbers of processes are others'."""

    def process_space(self) -> int:
        return 12345


def test_the_number_of_a_process_counts_where_it_was_given(tmp_path: Path) -> None:
    path = str(tmp_path)
    assert not may_have_a_writer(SYSTEM, path)
    lock = WriterLock(SYSTEM, path)
    assert may_have_a_writer(SYSTEM, path)
    assert may_have_a_writer(Container(), path)
    lock.release()
    assert not may_have_a_writer(SYSTEM, path)
    assert not may_have_a_writer(Container(), path)
    child, go = held_by_a_child(path)
    with pytest.raises(error, match="open for writing in another process"):
        WriterLock(Container(), path)
    end(child)
    os.close(go)
    assert not may_have_a_writer(SYSTEM, path)
    assert may_have_a_writer(Container(), path)  # as far as anybody knows there
    for holder in (child, os.getpid()):
        number = holder.to_bytes(8, "little")  # by a system that does not tell of spaces
        (tmp_path / "LOCK").write_bytes(bytes(8) + number)
        assert may_have_a_writer(Container(), path) == (holder == os.getpid())


@pytest.mark.parametrize("holder", [2**63, 2**31, 2**22 + 1])
def test_a_number_that_can_be_no_process_is_not_named(tmp_path: Path, holder: int) -> None:
    with open(tmp_path / "LOCK", "w+b") as other:
        other.write(bytes(8) + holder.to_bytes(8, "little"))
        other.flush()
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(error, match="another process"):
            WriterLock(SYSTEM, str(tmp_path))


# Within one process.


class Emulating(FileSystem):
    """Emulates flock by locks of the whole process, as some network file systems do."""

    def lock(self, file: File) -> bool:
        return True


@pytest.mark.parametrize("system", [SYSTEM, Emulating()], ids=["flock", "emulated"])
@pytest.mark.parametrize("way", ["same", "link", "relative", "dots", "alias"])
def test_a_second_writer_in_one_process_is_refused_by_any_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: FileSystem, way: str
) -> None:
    store, other = tmp_path / "store", tmp_path / "other"
    store.mkdir()
    lock = WriterLock(system, str(store))
    if way == "link":
        other.symlink_to(store)
    elif way == "alias":  # as a bind mount is: the file has two names
        other.mkdir()
        os.link(store / "LOCK", other / "LOCK")
    monkeypatch.chdir(tmp_path)
    ways = {"same": str(store), "relative": "store", "dots": f"{store}/../store"}
    path = ways.get(way, str(other))
    before, bytes_before = descriptors(), (store / "LOCK").read_bytes()
    for _ in range(2):
        with pytest.raises(error, match=f"process {os.getpid()}, this one") as caught:
            WriterLock(system, path)
        assert (caught.value.errno, caught.value.filename) == (errno.EAGAIN, path)
    assert descriptors() == before
    assert (store / "LOCK").read_bytes() == bytes_before
    lock.release()
    WriterLock(system, path).release()
    WriterLock(system, str(store)).release()


def test_two_stores_do_not_disturb_each_other(tmp_path: Path) -> None:
    locks = []
    for name in "ab":
        (tmp_path / name).mkdir()
        locks.append(WriterLock(Emulating(), str(tmp_path / name)))
    for lock in locks:
        lock.release()


def test_a_wait_for_a_holder_in_another_thread_ends_when_that_leaves(tmp_path: Path) -> None:
    holder = WriterLock(SYSTEM, str(tmp_path))
    leaving = threading.Timer(0.1, holder.release)
    leaving.start()
    begun = time.monotonic()
    WriterLock(SYSTEM, str(tmp_path), timeout=30.0).release()
    assert time.monotonic() - begun < 10
    leaving.join()


def test_threads_that_want_one_lock_get_it_one_after_the_other(tmp_path: Path) -> None:
    holders: list[int] = []
    most = 0

    def take() -> None:
        nonlocal most
        for _ in range(5):
            lock = WriterLock(Emulating(), str(tmp_path), timeout=60.0)
            holders.append(1)
            most = max(most, len(holders))
            time.sleep(0.001)
            holders.pop()
            lock.release()

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


class Failing(FileSystem):
    """Fails once the lock was taken, at one call or the other."""

    def __init__(self, name: str, problem: BaseException) -> None:
        self.name, self.problem = name, problem

    def _fail(self, name: str) -> None:
        if name == self.name:
            raise self.problem

    def size(self, file: File) -> int:
        self._fail("size")
        return super().size(file)

    def is_at(self, file: File, path: str) -> bool:
        self._fail("is_at")
        return super().is_at(file, path)

    def open(self, path: str, writable: bool = False) -> File:
        self._fail("open")
        return super().open(path, writable)

    def lock(self, file: File) -> bool:
        self._fail("lock")
        return super().lock(file)

    def write(self, file: File, offset: int, data: bytes | memoryview) -> None:
        self._fail("write")
        super().write(file, offset, data)


@pytest.mark.parametrize("name", ["open", "lock", "is_at", "size", "write"])
@pytest.mark.parametrize("problem", [error(errno.EIO, "no"), KeyboardInterrupt()])
def test_an_opening_that_fails_gives_everything_back(
    tmp_path: Path, name: str, problem: BaseException
) -> None:
    (tmp_path / "other").mkdir()
    before = descriptors()
    for _ in range(2):
        with pytest.raises(type(problem)):
            WriterLock(Failing(name, problem), str(tmp_path / "other"))
    assert descriptors() == before
    lock = WriterLock(SYSTEM, str(tmp_path / "other"))
    lock.release()


def test_an_opener_that_is_refused_and_interrupted_leaves_the_holder_s_file_alone(
    tmp_path: Path,
) -> None:
    child, go = held_by_a_child(str(tmp_path))
    before = (tmp_path / "LOCK").read_bytes()
    for name in ("open", "lock"):
        with pytest.raises(KeyboardInterrupt):
            WriterLock(Failing(name, KeyboardInterrupt()), str(tmp_path))
        assert (tmp_path / "LOCK").read_bytes() == before
    end(child)
    os.close(go)


def test_a_wait_can_be_interrupted(tmp_path: Path) -> None:
    holder = WriterLock(SYSTEM, str(tmp_path))
    before = descriptors()

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        WriterLock(SYSTEM, str(tmp_path), timeout=600.0)
    assert time.monotonic() - begun < 10
    signal.signal(signal.SIGALRM, old)
    assert descriptors() == before
    holder.release()
    WriterLock(SYSTEM, str(tmp_path)).release()


def test_a_child_forgets_what_its_parent_holds(tmp_path: Path) -> None:
    holder = WriterLock(Emulating(), str(tmp_path))
    child = os.fork()
    if child == 0:
        taken = 1
        with suppress(error):
            WriterLock(Emulating(), str(tmp_path)).release()
            taken = 0
        holder.abandon()
        holder.release()
        os._exit(taken)
    assert os.waitpid(child, 0)[1] == 0
    with pytest.raises(error, match="this one"):
        WriterLock(Emulating(), str(tmp_path))
    holder.release()


# The generation.


def test_a_lock_file_that_is_made_later_is_found_by_readers(tmp_path: Path) -> None:
    word = GenerationWord(SYSTEM, str(tmp_path))
    assert word.words[0] == 0
    (tmp_path / "LOCK").touch()
    assert word.words[0] == 0
    lock = WriterLock(SYSTEM, str(tmp_path))
    assert word.words[0] == 0
    lock.bump()
    assert word.words[0] == 1
    found = word.words
    lock.bump()
    assert word.words[0] == 2
    assert word.words is found
    word.close()
    lock.release()


def test_a_lock_that_was_unlinked_while_somebody_waited_is_not_taken(tmp_path: Path) -> None:
    """Else the waiter and whoever makes the store anew would both be writers."""

    class Removing(FileSystem):
        """Removes the LOCK, and makes another one, between opening and locking it."""

        turns = 1

        def lock(self, file: File) -> bool:
            if self.turns:
                self.turns -= 1
                os.unlink(file.path)
                Path(file.path).touch()
            return super().lock(file)

    lock = WriterLock(Removing(), str(tmp_path))
    with pytest.raises(error) as caught:
        WriterLock(FileSystem(), str(tmp_path))
    assert caught.value.errno == errno.EAGAIN
    lock.release()
