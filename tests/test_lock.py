"""One writer at a time, by any path and in one process too; readers watch a word."""

from __future__ import annotations

import errno
import gc
import os
from pathlib import Path

import pytest

from oblivion_dbm import error
from oblivion_dbm.engine.filesystem import File, FileSystem
from oblivion_dbm.engine.lock import GenerationWord, WriterLock

SYSTEM = FileSystem()


def descriptors() -> int:
    """Return how many descriptors are open, those of forgotten handles left out."""
    gc.collect()
    return len(os.listdir("/dev/fd"))


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
