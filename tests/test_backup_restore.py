"""A store is restored whole and checked, or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import oblivion_dbm
from oblivion_dbm import CorruptionError, Database, error
from oblivion_dbm.engine.backup import restore
from oblivion_dbm.engine.filesystem import File, FileSystem
from oblivion_dbm.engine.lineage import backup_sequence, lineage
from oblivion_dbm.engine.lock import WriterLock
from oblivion_dbm.engine.manifest import load
from oblivion_dbm.engine.transfer import tables_of

SYSTEM = FileSystem()
SMALL: dict[str, Any] = {"memtable_limit": 20_000, "table_limit": 8_000, "fan_in": 3}
Contents = dict[bytes, bytes]


def files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def contents(path: Path) -> Contents:
    with Database(path, "r") as db:
        assert db.verify() == []
        assert len(db) == len(dict(db))
        return dict(db)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Return a backup with several runs, tombstones and a log."""
    path = tmp_path / "backup"
    with Database(tmp_path / "store", **SMALL) as db:
        for number in range(1200):
            db[b"%06d" % number] = b"value of %d" % number * 3
        for number in range(0, 1200, 7):
            del db[b"%06d" % number]
        db["logged"] = "value"
        db.backup(path)
    assert len(list(path.glob("*.sst"))) > 2
    assert list(path.glob("*.wal"))
    return path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "restored"


@pytest.mark.parametrize("there", ["nothing", "an empty directory"])
@pytest.mark.parametrize("link", [False, True], ids=["copy", "link"])
def test_a_restored_store_is_what_was_backed_up_and_goes_on(
    made: Path, place: Path, link: bool, there: str
) -> None:
    if there != "nothing":
        place.mkdir()
    before, expected = files(made), contents(made)
    report = oblivion_dbm.restore(made, place, link=link)
    assert contents(place) == expected
    assert files(made) == before
    tables = list(place.glob("*.sst"))
    shared = [table.stat().st_ino == (made / table.name).stat().st_ino for table in tables]
    assert set(shared) == {link}
    assert (report.linked, report.copied) == ((len(tables), 0) if link else (0, len(tables)))
    assert report.kept == 0
    with Database(place, "w", **SMALL) as db:
        assert db.sequence == report.sequence
        db["new"] = "value"
        db.compact()
        assert dict(db) == expected | {b"new": b"value"}
    assert contents(place) == expected | {b"new": b"value"}
    assert contents(made) == expected
    assert not place.with_name("restored.restoring").exists()
    assert "UNFINISHED" not in os.listdir(place)


def test_it_has_a_lineage_of_its_own_and_is_no_backup(made: Path, place: Path) -> None:
    oblivion_dbm.restore(made, place)
    old, new = load(SYSTEM, str(made)), load(SYSTEM, str(place))
    assert backup_sequence(old) is not None
    assert backup_sequence(new) is None
    assert lineage(new) not in ("", lineage(old))
    assert new.store_id == old.store_id
    assert new.runs == old.runs
    assert not any(line.startswith("? backup") for line in new.extra)


def test_progress_is_told_of_bytes(made: Path, place: Path) -> None:
    told: list[tuple[int, int]] = []
    report = oblivion_dbm.restore(made, place, progress=lambda *both: told.append(both))
    assert told[0] == (0, report.bytes_copied)
    assert told[-1] == (report.bytes_copied, report.bytes_copied)
    assert report.bytes_copied == report.bytes + report.log_bytes


def test_a_store_that_is_no_backup_can_be_restored_too(tmp_path: Path, place: Path) -> None:
    with Database(tmp_path / "store") as db:
        db["a"] = "b"
        oblivion_dbm.restore(tmp_path / "store", place)
        db["c"] = "d"
    assert contents(place) == {b"a": b"b"}


def test_permissions_come_along_and_the_owner_may_write(made: Path, place: Path) -> None:
    for file in made.iterdir():
        file.chmod(0o440)
    made.chmod(0o550)
    oblivion_dbm.restore(made, place)
    assert {file.stat().st_mode & 0o777 for file in place.iterdir()} == {0o640}
    assert place.stat().st_mode & 0o777 == 0o750


# What is not believed.


def spots(path: Path) -> list[int]:
    """Return some bytes of a file of a backup that are looked at."""
    size = path.stat().st_size
    if path.suffix == ".sst":
        return [0, 20, size // 2, size - 100, size - 1]
    return [5, 4100, size - 1] if path.suffix == ".wal" else [3, size // 2, size - 2]


def test_a_damaged_backup_is_refused_whatever_is_damaged(made: Path, place: Path) -> None:
    tried = 0
    for path in sorted(made.iterdir()):
        if path.name == "LOCK":  # nothing depends on it
            continue
        whole = path.read_bytes()
        for offset in spots(path):
            data = bytearray(whole)
            data[offset] ^= 0x10
            path.write_bytes(data)
            with pytest.raises(CorruptionError) as caught:
                oblivion_dbm.restore(made, place)
            assert caught.value.filename == str(path)
            tried += 1
        path.write_bytes(whole[:-1])
        with pytest.raises(CorruptionError):
            oblivion_dbm.restore(made, place)
        path.unlink()
        with pytest.raises(error):
            oblivion_dbm.restore(made, place)
        path.write_bytes(whole)
    assert tried > 15
    assert sorted(os.listdir(place.parent)) == ["backup", "store"]
    (made / "LOCK").write_bytes(bytes(15) + b"x")
    oblivion_dbm.restore(made, place)


def test_the_error_names_the_first_finding_and_how_many_there_are(made: Path, place: Path) -> None:
    tables = sorted(made.glob("*.sst"))[:2]
    for table in tables:
        data = bytearray(table.read_bytes())
        data[20] ^= 1
        table.write_bytes(data)
    with pytest.raises(CorruptionError, match="2 findings") as caught:
        oblivion_dbm.restore(made, place)
    assert caught.value.filename in map(str, tables)
    assert caught.value.offset == 16


class Flipping(FileSystem):
    """A disk that stores a byte of some file wrong, after it was read back."""

    def __init__(self, name: str) -> None:
        self.name = name

    def rename(self, source: str, destination: str) -> None:
        super().rename(source, destination)
        if destination.endswith(self.name):
            path = Path(destination)
            data = bytearray(path.read_bytes())
            data[-30 if path.suffix == ".wal" else len(data) // 2] ^= 1
            path.unlink()  # it may be a link
            path.write_bytes(data)


@pytest.mark.parametrize("name", [".sst", ".wal", "MANIFEST"])
@pytest.mark.parametrize("link", [False, True], ids=["copy", "link"])
def test_the_copy_is_not_believed_either(made: Path, place: Path, name: str, link: bool) -> None:
    expected = contents(made)
    with pytest.raises(CorruptionError) as caught:
        restore(str(made), str(place), link=link, filesystem=Flipping(name))
    assert caught.value.filename.startswith(str(place) + ".restoring")
    assert not place.exists()
    oblivion_dbm.restore(made, place)
    assert contents(place) == expected


# What is in the way.


def refused(source: Path, path: Path, *words: str) -> None:
    with pytest.raises(error) as caught:
        oblivion_dbm.restore(source, path)
    assert caught.value.errno == errno.EEXIST
    for word in ("expected", *words):
        assert word in str(caught.value)


def test_what_is_there_already_stays(made: Path, place: Path) -> None:
    place.write_text("mine")
    refused(made, place, "found a file")
    assert place.read_text() == "mine"
    place.unlink()
    with Database(place) as db:
        db["a"] = "b"
    refused(made, place, "an empty directory", "something in it")
    assert contents(place) == {b"a": b"b"}
    refused(made, made.parent / "store", "an empty directory")


def test_a_folder_of_others_at_the_place_of_work_stays(made: Path, place: Path) -> None:
    work = place.with_name("restored.restoring")
    work.mkdir()
    (work / "letter").write_text("mine")
    refused(made, place, "an unfinished restore", "'letter'")
    (work / "letter").unlink()
    work.rmdir()
    with Database(work) as db:  # a store that happens to have that name
        db["a"] = "b"
    refused(made, place, "an unfinished restore")
    assert contents(work) == {b"a": b"b"}
    shutil.rmtree(work)
    work.write_text("mine")
    refused(made, place, "an unfinished restore", "found a file")
    assert not place.exists()


def test_an_unfinished_one_is_cleared_away(made: Path, place: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    work = place.with_name("restored.restoring")
    with pytest.raises(KeyboardInterrupt):
        oblivion_dbm.restore(made, place, progress=stop)
    assert "UNFINISHED" in os.listdir(work)
    with pytest.raises(error):
        Database(work, "c")
    (work / "123456.sst").touch()
    oblivion_dbm.restore(made, place)
    assert contents(place) == contents(made)
    assert not work.exists()
    named = {f"{info.number:06d}.sst" for info in tables_of(load(SYSTEM, str(place)))}
    assert {path.name for path in place.glob("*.sst")} == named


def test_two_restores_do_not_mix(made: Path, place: Path) -> None:
    work = place.with_name("restored.restoring")
    work.mkdir()
    lock = WriterLock(SYSTEM, str(work))
    with pytest.raises(error, match="another restore is under way here in process") as caught:
        oblivion_dbm.restore(made, place)
    assert caught.value.errno == errno.EAGAIN
    lock.release()
    oblivion_dbm.restore(made, place)
    assert contents(place) == contents(made)


def test_a_link_to_an_empty_directory_stays_one(made: Path, place: Path) -> None:
    disk = place.with_name("disk")
    (disk / "folder").mkdir(parents=True)
    place.symlink_to(disk / "folder")
    oblivion_dbm.restore(made, place)
    assert place.is_symlink()
    assert contents(disk / "folder") == contents(place) == contents(made)
    assert os.listdir(disk) == ["folder"]


@pytest.mark.parametrize("kind", ["a file system", "a directory of this one"])
@pytest.mark.parametrize("by", ["its name", "a link"])
def test_a_mount_point_is_refused_before_anything_is_copied(
    made: Path, place: Path, kind: str, by: str
) -> None:
    folder, point = place.with_name("folder"), place.with_name("a \\ point")
    folder.mkdir()
    point.mkdir()
    how = ["-t", "tmpfs", "none"] if kind == "a file system" else ["--bind", str(folder)]
    done = subprocess.run(["mount", *how, str(point)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"this machine does not allow to mount: {done.stderr.decode()}")
    if by == "a link":
        place.symlink_to(point)
    before = sorted(os.listdir(place.parent))
    try:
        with pytest.raises(error, match="found a mount point") as caught:
            oblivion_dbm.restore(made, place if by == "a link" else point)
        assert caught.value.errno == errno.EBUSY
        assert sorted(os.listdir(place.parent)) == before
        oblivion_dbm.restore(made, point / "within")
        assert contents(point / "within") == contents(made)
    finally:
        subprocess.run(["umount", str(point)], check=True)


def test_a_place_that_is_taken_meanwhile_stays(made: Path, place: Path) -> None:
    def take(done: int, total: int) -> None:
        if done == total:
            place.mkdir()
            (place / "letter").write_text("mine")

    with pytest.raises(error) as caught:
        oblivion_dbm.restore(made, place, progress=take)
    assert caught.value.errno in (errno.ENOTEMPTY, errno.EEXIST)
    assert os.listdir(place) == ["letter"]
    shutil.rmtree(place)
    oblivion_dbm.restore(made, place)
    assert contents(place) == contents(made)


def test_a_place_in_the_backup_is_refused(made: Path) -> None:
    for path in (made, made / "restored"):
        with pytest.raises(error, match="expected a place outside of") as caught:
            oblivion_dbm.restore(made, path)
        assert caught.value.errno == errno.EINVAL


def test_where_there_is_no_backup_nothing_is_made(tmp_path: Path, place: Path) -> None:
    (tmp_path / "folder").mkdir()
    for source in (tmp_path / "missing", tmp_path / "folder"):
        with pytest.raises(error) as caught:
            oblivion_dbm.restore(source, place)
        assert caught.value.errno == errno.ENOENT
    assert os.listdir(tmp_path) == ["folder"]


def test_the_backup_is_only_read(made: Path, place: Path) -> None:
    class Guarded(FileSystem):
        """Refuses whatever would change the backup."""

        def open(self, path: str, writable: bool = False) -> File:
            assert not (writable and path.startswith(str(made)))
            return super().open(path, writable)

        def create(self, path: str, mode: int = 0o666) -> File:
            assert not path.startswith(str(made))
            return super().create(path, mode)

        def remove(self, path: str) -> None:
            assert not path.startswith(str(made))
            super().remove(path)

    before = files(made)
    restore(str(made), str(place), filesystem=Guarded())
    assert files(made) == before
