"""A store is read where nothing can be written: read-only media, folders of others.

The read-only media are mounted for real where the machine allows it.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from oblivion_dbm import Database, error
from oblivion_dbm.engine.filesystem import FileSystem
from oblivion_dbm.engine.options import Options
from oblivion_dbm.engine.storage_engine import open_store

NOBODY = 65534
LIMITS: dict[str, Any] = {"memtable_limit": 4000, "fan_in": 2}
KEYS = [b"%03d" % number for number in range(200)]


def in_child(work: Callable[[], object]) -> None:
    """Do something in a forked child; fail if it fails there."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def make_store(path: Path, killed: bool = False, lock: bool = True) -> None:
    """Make a store with tables and a log to replay; ``killed`` leaves it as a kill does."""

    def fill() -> None:
        db = Database(path, **LIMITS)
        for key in KEYS:
            db[key] = b"value of " + key
        del db[KEYS[0]]
        if not killed:
            db.close()

    in_child(fill)
    assert list(path.glob("*.wal"))
    assert list(path.glob("*.sst"))
    if not lock:
        (path / "LOCK").unlink()


def check_store(path: Path) -> None:
    """Read everything there is in every way there is."""
    names = sorted(os.listdir(path))
    for _ in range(2):
        with Database(path, "r") as db:
            assert len(db) == len(KEYS) - 1
            assert db.keys() == KEYS[1:]
            assert [db[key] for key in KEYS[1:]] == [b"value of " + key for key in KEYS[1:]]
            assert KEYS[0] not in db
            assert db.first() == (KEYS[1], b"value of " + KEYS[1])
            assert db.sequence > 0
            db.refresh()
            db.sync()
            assert db.verify() == []
            assert db.readonly
            with pytest.raises(error) as caught:
                db[b"x"] = b"1"
            assert caught.value.errno == errno.EROFS
    assert sorted(os.listdir(path)) == names


def check_that_nothing_can_be_written(path: Path) -> None:
    for flag in ("w", "c", "n"):
        with pytest.raises(error) as caught:
            Database(path, flag)
        assert caught.value.errno in (errno.EROFS, errno.EACCES, errno.EPERM)


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture(params=["tmpfs", "ext4", "image of ext4"])
def medium(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    """Give a function that puts a folder's contents on a medium and mounts that read-only."""
    if os.getuid() != 0:
        pytest.skip("only root may mount")
    target, image = tmp_path / "medium", tmp_path / "image"
    target.mkdir()
    mounted = False

    def put(folder: Path) -> Path:
        nonlocal mounted
        try:
            if request.param == "image of ext4":  # never mounted for writing, as a CD is
                run("mke2fs", "-q", "-t", "ext4", "-d", str(folder), str(image), "8M")
                run("mount", "-o", "loop,ro", str(image), str(target))
                mounted = True
                return target
            if request.param == "tmpfs":
                run("mount", "-t", "tmpfs", "tmpfs", str(target))
            else:
                run("mke2fs", "-q", "-t", "ext4", str(image), "8M")
                run("mount", "-o", "loop", str(image), str(target))
            mounted = True
            shutil.copytree(folder, target, dirs_exist_ok=True)
            run("mount", "-o", "remount,ro", str(target))
        except (OSError, subprocess.CalledProcessError) as problem:
            pytest.skip(f"the machine does not let us mount: {problem}")
        return target

    yield put
    if mounted:
        run("umount", str(target))


@pytest.mark.parametrize("lock", [True, False], ids=["LOCK", "no LOCK"])
@pytest.mark.parametrize("killed", [False, True], ids=["closed", "killed"])
def test_a_store_on_read_only_media_is_read(
    tmp_path: Path, medium: Callable[[Path], Path], killed: bool, lock: bool
) -> None:
    (tmp_path / "folder").mkdir()
    make_store(tmp_path / "folder" / "store", killed, lock)
    path = medium(tmp_path / "folder") / "store"
    with pytest.raises(OSError, match="Read-only"):
        (path / "new").touch()
    check_store(path)
    check_that_nothing_can_be_written(path)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Give a folder that everybody may enter, as pytest's own may not be."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    closed = [parent for parent in folder.parents if not parent.stat().st_mode & 0o001]
    assert not closed, f"TMPDIR has to be where everybody may enter, and not below {closed}"
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become somebody else")
@pytest.mark.parametrize("lock", [True, False], ids=["LOCK", "no LOCK"])
@pytest.mark.parametrize("killed", [False, True], ids=["closed", "killed"])
def test_a_store_of_somebody_else_is_read(open_folder: Path, killed: bool, lock: bool) -> None:
    path = open_folder / "store"
    make_store(path, killed, lock)
    check_store(path)  # what is imported late is imported here, by who may

    def as_nobody() -> None:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        with pytest.raises(PermissionError):
            (path / "new").touch()
        check_store(path)
        check_that_nothing_can_be_written(path)

    in_child(as_nobody)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become somebody else")
def test_a_reader_without_rights_follows_a_live_writer(open_folder: Path) -> None:
    path = open_folder / "store"
    with Database(path, **LIMITS) as writer:
        writer[b"n"] = b"0"
        assert dict(writer) == {b"n": b"0"}
        done, tell = os.pipe()
        wait, go = os.pipe()

        def as_nobody() -> None:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            reader = Database(path, "r")
            for number in range(300):
                os.write(tell, b"x")
                os.read(wait, 1)
                assert reader[b"n"] == b"%d" % number

        child = os.fork()
        if child == 0:
            status = 1
            try:
                as_nobody()
                status = 0
            finally:
                os._exit(status)
        os.close(tell)  # a child that has failed is noticed
        os.close(wait)
        for number in range(300):
            assert os.read(done, 1) == b"x"
            writer[b"n"] = b"%d" % number
            writer[b"%d" % number] = bytes(50)
            os.write(go, b"x")
        assert os.waitpid(child, 0)[1] == 0
        os.close(done)
        os.close(go)


def test_opening_for_reading_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "store"
    make_store(path, killed=True)

    class Refusing(FileSystem):
        """Refuses whatever changes a file or a folder, and a map that could."""

        def _refuse(self, *args: Any, **kwargs: Any) -> Any:
            raise AssertionError("a reader wants to change something")

        create = write = sync = sync_directory = allocate = rename = remove = _refuse
        make_directory = remove_directory = lock = unlock = _refuse

        def open(self, path: str, writable: bool = False) -> Any:
            assert not writable
            return super().open(path)

        def map(self, file: Any, length: int, writable: bool = False) -> Any:
            assert not writable
            return super().map(file, length)

    engine = open_store(str(path), "r", Options(), 0o666, Refusing())
    assert engine.count() == len(KEYS) - 1
    engine.refresh()
    engine.close()


# Without LOCK: then somebody makes it.


@pytest.mark.parametrize("read", ["value", "scan", "len", "refresh"])
def test_a_reader_of_a_copy_without_lock_notices_the_first_writer(
    tmp_path: Path, read: str
) -> None:
    path = tmp_path / "store"
    make_store(path, lock=False)
    reader = Database(path, "r")
    reads: dict[str, Callable[[], object]] = {
        "value": lambda: reader.get(b"new"),
        "scan": lambda: dict(reader).get(b"new"),
        "len": lambda: b"%d" % (len(reader) - len(KEYS) + 1),
        "refresh": reader.refresh,
    }
    assert reads[read]() in (None, b"0")
    assert not (path / "LOCK").exists()
    with Database(path, "w") as writer:
        assert reads[read]() in (None, b"0")
        writer[b"new"] = b"1"
        assert reads[read]() == (None if read == "refresh" else b"1")
        assert reader.sequence == writer.sequence
        assert reader[b"new"] == b"1"
        writer.flush()
        writer[b"new"] = b"2"
        assert reader[b"new"] == b"2"
    assert reader[b"new"] == b"2"
    reader.close()
