"""The one door to the operating system: what it does, and how its errors look."""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import shutil
import stat
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from unittest.mock import Mock

import pytest

from oblivion_dbm import CorruptionError, Database, error
from oblivion_dbm.engine.filesystem import File, FileSystem, after_fork, environment, no_fork

SYSTEM = FileSystem()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[File]:
    made = SYSTEM.create(str(tmp_path / "file"))
    yield made
    with suppress(error):  # some tests have closed it
        SYSTEM.close(made)


def test_a_created_file_is_new(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    SYSTEM.close(SYSTEM.create(path, 0o640))
    assert os.stat(path).st_mode & 0o777 & ~0o640 == 0
    with pytest.raises(error) as caught:
        SYSTEM.create(path)
    assert (caught.value.errno, caught.value.filename) == (errno.EEXIST, path)


def test_written_bytes_read_back_and_the_end_of_the_file_ends_a_read(file: File) -> None:
    SYSTEM.write(file, 3, b"abc")
    SYSTEM.write(file, 6, memoryview(b"def"))
    assert SYSTEM.size(file) == 9
    assert SYSTEM.read(file, 0, 9) == b"\0\0\0abcdef"
    assert SYSTEM.read(file, 7, 100) == b"ef"
    assert SYSTEM.read(file, 9, 1) == SYSTEM.read(file, 0, 0) == b""
    SYSTEM.sync(file)


def test_maps_of_one_file_see_each_other_and_what_is_written(file: File) -> None:
    SYSTEM.allocate(file, 4096)
    writable = SYSTEM.map(file, 4096, writable=True)
    readable = SYSTEM.map(file, 4096)
    writable[10:13] = b"new"
    assert readable[10:13] == SYSTEM.read(file, 10, 3) == b"new"
    SYSTEM.write(file, 10, b"old")
    assert readable[10:13] == b"old"
    with pytest.raises(TypeError):
        readable[0:1] = b"x"


def test_a_link_is_the_same_file_and_takes_the_place_of_nothing(tmp_path: Path, file: File) -> None:
    link, symbolic = str(tmp_path / "link"), tmp_path / "symbolic"
    symbolic.symlink_to("file")
    SYSTEM.link(file.path, link)
    assert SYSTEM.is_at(file, link)
    with pytest.raises(error) as caught:
        SYSTEM.link(file.path, link)
    assert caught.value.errno == errno.EEXIST
    SYSTEM.link(str(symbolic), link + "2")
    assert SYSTEM.inode(link + "2") == SYSTEM.inode(file.path)
    assert not os.path.islink(link + "2")


def test_the_mode_is_that_of_the_file(tmp_path: Path, file: File) -> None:
    os.chmod(file.path, 0o640)
    assert SYSTEM.mode(file) == 0o640
    os.chmod(tmp_path, 0o710)
    assert SYSTEM.mode_of(file.path) == 0o640
    assert SYSTEM.mode_of(str(tmp_path)) == 0o710


@pytest.mark.parametrize("writable", [False, True])
def test_only_files_are_opened(tmp_path: Path, writable: bool) -> None:
    """To open a FIFO would wait for somebody at its other end."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("fifo")
    (tmp_path / "folder").mkdir()
    os.mknod(tmp_path / "socket", stat.S_IFSOCK | 0o600)
    for path, what in (
        (tmp_path / "fifo", "a FIFO"), (tmp_path / "link", "a FIFO"),
        (tmp_path / "folder", "a directory"), (tmp_path / "socket", "a socket"),
        (Path(os.devnull), "a device"),
    ):  # fmt: skip
        with pytest.raises(CorruptionError) as caught:
            SYSTEM.open(str(path), writable)
        assert caught.value.meaning == f"expected a file, found {what}"
        assert caught.value.filename == str(path)


def test_a_map_outlives_the_descriptor_and_the_name(file: File) -> None:
    SYSTEM.write(file, 0, b"still here")
    mapped = SYSTEM.map(file, 10)
    SYSTEM.close(file)
    SYSTEM.remove(file.path)
    assert mapped[:] == b"still here"


def test_words_of_a_map_are_stored_whole_and_little_endian_here(file: File) -> None:
    SYSTEM.allocate(file, 4096)
    mapped = SYSTEM.map(file, 4096, writable=True)
    words = SYSTEM.words(mapped, 192, 2)
    words[1] = 2**64 - 2
    assert mapped[192:208] == bytes(8) + (2**64 - 2).to_bytes(8, "little")
    assert len(words) == 2
    with pytest.raises(BufferError):
        mapped.close()
    words.release()
    mapped.close()


def test_mapping_more_than_there_is_is_an_error_and_no_crash(file: File) -> None:
    SYSTEM.write(file, 0, b"short")
    for length in (4097, 1 << 40):
        with pytest.raises(error) as caught:
            SYSTEM.map(file, length)
        assert caught.value.filename == file.path
    empty = SYSTEM.create(file.path + "2")
    with pytest.raises(error):
        SYSTEM.map(empty, 0)
    SYSTEM.close(empty)


def test_allocating_promises_room_and_keeps_what_is_there(file: File) -> None:
    SYSTEM.write(file, 0, b"kept")
    SYSTEM.allocate(file, 100_000)
    assert SYSTEM.size(file) == 100_000
    assert os.stat(file.path).st_blocks * 512 >= 100_000
    assert SYSTEM.read(file, 0, 5) == b"kept\0"
    SYSTEM.allocate(file, 10)
    assert SYSTEM.size(file) == 100_000
    with pytest.raises(error) as caught:
        SYSTEM.allocate(file, 1 << 62)
    assert caught.value.filename == file.path


@pytest.mark.parametrize(
    "call",
    [
        SYSTEM.open,
        SYSTEM.remove,
        SYSTEM.list,
        SYSTEM.sync_directory,
        lambda path: SYSTEM.rename(path, path + "2"),
        lambda path: SYSTEM.link(path, path + "2"),
        SYSTEM.remove_directory,
        lambda path: SYSTEM.make_directory(path + "/deeper", 0o777),
        lambda path: SYSTEM.create(path + "/deeper"),
    ],
)
def test_what_the_system_refuses_is_an_error_with_errno_and_name(
    tmp_path: Path, call: Callable[[str], object]
) -> None:
    path = str(tmp_path / "missing")
    with pytest.raises(error) as caught:
        call(path)
    assert caught.value.errno == errno.ENOENT
    assert str(caught.value.filename).startswith(path)
    assert type(caught.value.__cause__) is FileNotFoundError


def test_an_error_that_passes_through_is_not_wrapped_again() -> None:
    class Failing(FileSystem):
        def size(self, file: File) -> int:
            raise error(errno.EIO, "no", "there")

    with pytest.raises(error) as caught:
        Failing().size(File(-1, ""))
    assert caught.value.__cause__ is None


def test_a_closed_descriptor_is_an_error(file: File) -> None:
    SYSTEM.close(file)
    calls: list[Callable[[], object]] = [
        lambda: SYSTEM.close(file),
        lambda: SYSTEM.read(file, 0, 1),
        lambda: SYSTEM.write(file, 0, b"x"),
        lambda: SYSTEM.sync(file),
        lambda: SYSTEM.size(file),
    ]
    for call in calls:
        with pytest.raises(error) as caught:
            call()
        assert caught.value.errno == errno.EBADF


def test_renaming_replaces_and_directories_list_in_order(tmp_path: Path) -> None:
    folder = str(tmp_path / "folder")
    SYSTEM.make_directory(folder, 0o777)
    for name in ("b", "a", "c"):
        file = SYSTEM.create(SYSTEM.join(folder, name))
        SYSTEM.write(file, 0, name.encode())
        SYSTEM.close(file)
    assert SYSTEM.list(folder) == ["a", "b", "c"]
    SYSTEM.rename(SYSTEM.join(folder, "a"), SYSTEM.join(folder, "c"))
    SYSTEM.sync_directory(folder)
    assert SYSTEM.list(folder) == ["b", "c"]
    assert Path(folder, "c").read_bytes() == b"a"
    with pytest.raises(error):
        SYSTEM.remove_directory(folder)


def test_it_tells_directories_files_and_nothing_apart(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "link").symlink_to(tmp_path)
    assert SYSTEM.kind(str(tmp_path)) == SYSTEM.kind(str(tmp_path / "link")) == "directory"
    assert SYSTEM.kind(str(tmp_path / "file")) == "file"
    assert SYSTEM.kind(str(tmp_path / "missing")) == "missing"
    assert SYSTEM.kind(str(tmp_path / "dangling")) != "missing"
    assert SYSTEM.parent(str(tmp_path / "file")) == str(tmp_path)


def test_the_lock_is_by_inode_and_free_again_after_unlock_or_close(file: File) -> None:
    twin = SYSTEM.open(file.path, writable=True)
    assert SYSTEM.lock(file)
    assert SYSTEM.lock(file)
    assert not SYSTEM.lock(twin)
    SYSTEM.unlock(file)
    assert SYSTEM.lock(twin)
    assert not SYSTEM.lock(file)
    SYSTEM.close(twin)
    assert SYSTEM.lock(file)


def test_a_boot_has_one_id_of_sixteen_bytes() -> None:
    assert SYSTEM.boot() == SYSTEM.boot()
    assert len(SYSTEM.boot()) == 16
    assert SYSTEM.random(16) != SYSTEM.random(16)
    assert SYSTEM.process() == os.getpid()
    SYSTEM.sleep(0)


def test_descriptors_are_not_handed_to_programs_that_are_started(file: File) -> None:
    again = SYSTEM.open(file.path)
    assert not os.get_inheritable(file.descriptor)
    assert not os.get_inheritable(again.descriptor)
    SYSTEM.close(again)


class Handle:
    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def forked(self) -> None:
        os.write(self.pipe, b"forked %d" % os.getpid())


def test_a_handle_is_told_in_the_child_as_long_as_it_lives() -> None:
    reading, writing = os.pipe()
    kept, forgotten = Handle(writing), Handle(writing)
    after_fork(kept)
    after_fork(forgotten)
    del forgotten
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    assert os.read(reading, 100) == b"forked %d" % child
    os.close(reading)


def test_a_handle_that_cannot_be_told_does_not_keep_others_from_being_told() -> None:
    """Another thread may have been making it at the fork; then it lacks what it needs."""

    class HalfMade(Handle):
        def forked(self) -> None:
            raise AttributeError("pipe")

    reading, writing = os.pipe()
    handles = [HalfMade(writing), Handle(writing), HalfMade(writing)]
    for handle in handles:
        after_fork(handle)
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    assert os.read(reading, 100) == b"forked %d" % child
    os.close(reading)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # a fork of a process with threads
def test_handles_come_and_go_in_threads_while_others_fork() -> None:
    """Each fork tells the handle that lives through all of it, and none hangs."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    reading, writing = os.pipe()
    kept, over = Handle(writing), False
    after_fork(kept)

    class Silent:
        def forked(self) -> None:
            pass

    def come_and_go() -> None:
        while not over:
            handles = [Silent() for _ in range(20)]
            for handle in handles:
                after_fork(handle)
            with no_fork():
                del handle, handles

    threads = [threading.Thread(target=come_and_go) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        child = os.fork()
        if child == 0:
            with no_fork():
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert os.read(reading, 100) == b"forked %d" % child
    over = True
    for thread in threads:
        thread.join()
    sys.setswitchinterval(before)
    os.close(reading)
    os.close(writing)


def test_nobody_forks_under_the_lock_against_it() -> None:
    done: list[int] = []

    def fork() -> None:
        child = os.fork()
        if child == 0:
            os._exit(0)
        done.append(os.waitpid(child, 0)[1])

    thread = threading.Thread(target=fork)
    with no_fork(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        thread.start()
        thread.join(0.05)
        assert done == []
    thread.join()
    assert done == [0]


def test_another_container_has_another_space_of_processes() -> None:
    print_space = (
        "from oblivion_dbm.engine.filesystem import FileSystem; print(FileSystem().process_space())"
    )
    run = [sys.executable, "-c", print_space]
    here = subprocess.run(run, capture_output=True, text=True, check=True)
    assert int(here.stdout) == SYSTEM.process_space()
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare")
    inside = ["unshare", "--pid", "--fork", "--mount-proc", *run]
    there = subprocess.run(inside, capture_output=True, text=True, check=False)
    if there.returncode:
        pytest.skip("this user makes no containers: " + there.stderr)
    assert int(there.stdout) not in (0, SYSTEM.process_space())


def test_it_tells_which_processes_run() -> None:
    assert SYSTEM.is_running(os.getpid())
    assert SYSTEM.is_running(1)
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    assert not SYSTEM.is_running(child)
    assert not SYSTEM.is_running(2**70)


def test_two_paths_to_one_file_have_one_inode(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "other").touch()
    (tmp_path / "link").symlink_to("file")
    os.link(tmp_path / "file", tmp_path / "alias")
    inodes = [SYSTEM.inode(str(tmp_path / name)) for name in ("file", "link", "alias", "other")]
    assert len(set(inodes[:3])) == 1
    assert inodes[3] != inodes[0]
    assert SYSTEM.exists(str(tmp_path / "link"))
    assert not SYSTEM.exists(str(tmp_path / "missing"))


def test_an_empty_environment_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OBLIVION_TEST", raising=False)
    assert environment("OBLIVION_TEST", "default") == "default"
    monkeypatch.setenv("OBLIVION_TEST", "")
    assert environment("OBLIVION_TEST", "default") == "default"
    monkeypatch.setenv("OBLIVION_TEST", "set")
    assert environment("OBLIVION_TEST", "default") == "set"


def test_a_file_system_that_wraps_another_is_asked_for_everything(tmp_path: Path) -> None:
    asked: list[str] = []

    class Recording(FileSystem):
        def map(self, file: File, length: int, writable: bool = False) -> mmap.mmap:
            asked.append(os.path.basename(file.path))
            return super().map(file, length, writable)

    system = Recording()
    file = system.create(str(tmp_path / "file"))
    system.write(file, 0, b"x")
    assert system.map(file, 1)[:] == b"x"
    system.close(file)
    assert asked == ["file"]


# Systems that lack something.


def test_where_room_cannot_be_promised_the_log_is_not_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    with Database(tmp_path / "store") as database:
        database[b"key"] = b"value"
        assert database.stats()["log_back_end"] == "pwrite"
    with Database(tmp_path / "store", "r") as database:
        assert database[b"key"] == b"value"
    with (
        Database(tmp_path / "other", log_back_end="mapped") as database,
        pytest.raises(error) as caught,
    ):
        database[b"key"] = b"value"
    assert caught.value.errno == errno.ENOTSUP


def test_a_process_that_may_not_be_signalled_is_running(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(process: int, number: int) -> None:
        assert (process, number) == (1, 0)
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "kill", refuse)  # root, who runs this in some places, may do all
    assert SYSTEM.is_running(1)


@pytest.mark.parametrize("found", [b"", b"no number at all", None])
def test_where_nobody_tells_the_boot_each_call_is_another(
    monkeypatch: pytest.MonkeyPatch, found: bytes | None
) -> None:
    assert SYSTEM.boot() == SYSTEM.boot()
    if found is None:
        missing = FileNotFoundError(errno.ENOENT, "No such file or directory")
        monkeypatch.setattr(os, "open", Mock(side_effect=missing))
    else:
        monkeypatch.setattr(os, "read", Mock(side_effect=itertools.cycle([found, b""])))
    boots = {SYSTEM.boot() for _ in range(5)}
    assert [len(boots), *map(len, boots)] == [5] + [16] * 5
