"""A file system that writes elsewhere than it has allocated: no log is mapped there.

Btrfs is one, mounted for real where the machine allows it.  A store into a map would end
the process there once the disk is full.
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from oblivion_dbm import Database, error
from oblivion_dbm.engine import filesystem
from oblivion_dbm.engine.filesystem import FileSystem

SYSTEM = FileSystem()


@pytest.fixture
def btrfs(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of 32 MiB."""
    if os.getuid() != 0:
        pytest.skip("only root may mount")
    image, disk = tmp_path / "image", tmp_path / "disk"
    disk.mkdir()
    with image.open("wb") as file:
        file.truncate(32 << 20)
    try:
        for command in (["mkfs.btrfs", "-q", "--mixed"], ["mount", "-o", "loop"]):
            where = [str(image)] if command[0] == "mkfs.btrfs" else [str(image), str(disk)]
            subprocess.run(command + where, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as problem:
        pytest.skip(f"the machine does not let us mount Btrfs: {problem}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill_up(disk: Path) -> None:
    """Leave no room on it."""
    with (disk / "balloon").open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            with suppress(OSError):
                while True:
                    file.write(os.urandom(size))
    os.sync()


def write_until_full(db: Database) -> int:
    """Write until there is no room for 1,000 bytes; return how many writes went well."""
    written = 0
    with suppress(error):
        for number in range(3000):
            db[b"%d" % number] = bytes(1000)
            written += 1
    with pytest.raises(error, match="No space left"):
        db[b"one more"] = bytes(1000)
    return written


def test_a_full_disk_raises_and_ends_no_process(btrfs: Path) -> None:
    with Database(btrfs / "store", memtable_limit=1 << 30) as db:
        db[b"before"] = b"1"
        assert db.stats()["log_back_end"] == "pwrite"
    child = os.fork()
    if child == 0:
        with Database(btrfs / "store", "w") as db:
            db[b"in the child"] = b"2"
            fill_up(btrfs)
            written = write_until_full(db)
            assert len(db) == written + 2
            (btrfs / "balloon").unlink()
            os.sync()
            db[b"after"] = b"3"
            (btrfs / "written").write_text(str(written))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    with Database(btrfs / "store", "r") as db:
        assert len(db) == int((btrfs / "written").read_text()) + 3
        assert (db[b"before"], db[b"in the child"], db[b"after"]) == (b"1", b"2", b"3")
        assert db.verify() == []


def test_a_map_that_is_asked_for_by_name_is_refused(btrfs: Path) -> None:
    with pytest.raises(error, match="expected a file system that keeps allocated room") as caught:
        Database(btrfs / "store", log_back_end="mapped")[b"a"] = b"1"
    assert caught.value.errno == errno.ENOTSUP


def mounts_of(file: filesystem.File, kind: str) -> str:
    """Return what Linux would say if the file system of a file was of another type."""
    device = os.fstat(file.descriptor).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    return (
        "22 27 0:0 / /proc rw,relatime - proc proc rw\n"
        f"27 1 {number} / / rw,relatime shared:1 master:2 - {kind} /dev/disk rw\n"
    )


@pytest.mark.parametrize("kind", ["zfs", "fuse.sshfs", "nfs4", "overlay", "9p"])
def test_a_type_that_promises_nothing_gets_no_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    file = SYSTEM.create(str(tmp_path / "file"))
    (tmp_path / "mounts").write_text(mounts_of(file, kind))
    monkeypatch.setattr(filesystem, "_MOUNTS", str(tmp_path / "mounts"))
    with pytest.raises(error, match=f"found {kind}") as caught:
        SYSTEM.allocate(file, 100_000)
    assert caught.value.errno == errno.ENOTSUP
    assert SYSTEM.size(file) == 0
    SYSTEM.close(file)
    with Database(tmp_path / "store") as db:
        db[b"a"] = b"1"
        assert db.stats()["log_back_end"] == "pwrite"


def test_where_nothing_says_what_is_mounted_the_system_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystem, "_MOUNTS", str(tmp_path / "missing"))
    file = SYSTEM.create(str(tmp_path / "file"))
    SYSTEM.allocate(file, 100_000)
    assert SYSTEM.size(file) == 100_000
    SYSTEM.close(file)
    (tmp_path / "mounts").write_text("")
    monkeypatch.setattr(filesystem, "_MOUNTS", str(tmp_path / "mounts"))
    with Database(tmp_path / "store") as db:
        db[b"a"] = b"1"
        assert db.stats()["log_back_end"] == "pwrite"
