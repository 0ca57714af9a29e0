"""A backup is the store as it was at one moment: whole, readable, cheap to bring up to date.

What happens beside writers is in test_backup_live.py, what failures and crashes leave
in test_backup_failures.py, and restoring in test_backup_restore.py.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oblivion_dbm
from oblivion_dbm import CorruptionError, Database, aio, error
from oblivion_dbm.engine.filesystem import File, FileSystem
from oblivion_dbm.engine.header_page import DATA_AT
from oblivion_dbm.engine.lineage import as_backup, backup_sequence, lineage
from oblivion_dbm.engine.lock import WriterLock
from oblivion_dbm.engine.manifest import Manifest, load
from oblivion_dbm.engine.options import Options
from oblivion_dbm.engine.record import SEAL
from oblivion_dbm.engine.segment import Segment
from oblivion_dbm.engine.sstable import SSTable
from oblivion_dbm.engine.storage_engine import Writer, open_store
from oblivion_dbm.engine.transfer import tables_of
from oblivion_dbm.engine.verify import verify
from oblivion_dbm.engine.version import Run, TableInfo

SYSTEM = FileSystem()
FORMATS = Path(__file__).resolve().parent / "formats"
SMALL: dict[str, Any] = {"memtable_limit": 20_000, "table_limit": 8_000, "fan_in": 3}

NO_MERGES: dict[str, Any] = {"fan_in": 1000, "space_ratio": 1e9}

Contents = dict[bytes, bytes]


class OtherBoot(FileSystem):
    """The machine has started anew since."""

    def boot(self) -> bytes:
        return b"another boot 16b"


def files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def inodes(path: Path, suffix: str) -> dict[str, int]:
    return {file.name: file.stat().st_ino for file in path.glob("*" + suffix)}


def fill(db: Database, start: int, count: int = 300) -> Contents:
    """Put numbered pairs; returns all there is then."""
    for number in range(start, start + count):
        db[b"%06d" % number] = b"value of %d" % number * 3
    return dict(db)


def contents(path: Path, filesystem: FileSystem = SYSTEM) -> Contents:
    """Return what a store that checks holds, as a reader in some boot finds it."""
    engine = open_store(str(path), "r", Options(), filesystem=filesystem)
    found = dict(engine.scan("pairs", None, None, False))
    assert engine.count() == len(found)
    assert engine.recall(b"absent")[1] is None
    engine.close()
    return found


def check(path: Path, expected: Contents) -> None:
    """Check a backup in this boot and in another one, and that there is nothing else in it."""
    with Database(path, "r") as db:
        assert db.verify() == []
    assert contents(path) == contents(path, OtherBoot()) == expected
    version = load(SYSTEM, str(path))
    named = {f"{number:06d}" for number in version.numbers()}
    assert {name.partition(".")[0] for name in os.listdir(path)} == named | {"LOCK", "MANIFEST"}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return a closed store with several runs, tombstones and a log."""
    path = tmp_path / "store"
    with Database(path, **SMALL) as db:
        fill(db, 0, 900)
        for number in range(0, 900, 7):
            del db[b"%06d" % number]
        fill(db, 2000, 20)
        assert len(db) > 700
    assert len(list(path.glob("*.sst"))) > 2
    assert list(path.glob("*.wal"))
    return path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "backup"


# What it is.


def test_a_backup_of_a_closed_store_is_that_store(store: Path, place: Path) -> None:
    before, expected = files(store), contents(store)
    report = oblivion_dbm.backup(store, place)
    check(place, expected)
    assert files(store) == before
    assert inodes(place, ".sst") == inodes(store, ".sst")
    assert report.linked == len(inodes(store, ".sst"))
    assert (report.copied, report.kept) == (0, 0)
    with Database(store, "r") as source, Database(place, "r") as copy:
        assert report.sequence == source.sequence == copy.sequence


def test_a_backup_of_an_open_store_has_all_that_has_returned(tmp_path: Path, place: Path) -> None:
    with Database(tmp_path / "store", **SMALL) as db:
        for start in range(0, 3000, 300):
            expected = fill(db, start)
            db.backup(place)
            check(place, expected)
            fill(db, 100_000 + start, 10)
            assert contents(place) == expected
            with Database(tmp_path / "store", "r") as reader:
                expected = dict(db)
                reader.backup(place)
                check(place, expected)


def test_a_backup_of_an_empty_store_is_empty(tmp_path: Path, place: Path) -> None:
    with Database(tmp_path / "store") as db:
        report = db.backup(place)
        assert (report.sequence, report.bytes, report.log_bytes) == (0, 0, 0)
        check(place, {})
        db["first"] = "one"
        db.backup(place)
        check(place, {b"first": b"one"})
        db.clear()
        db.backup(place)
        check(place, {})


@pytest.mark.parametrize("back_end", ["mapped", "pwrite"])
@pytest.mark.parametrize("sync", ["full", "normal", "off", 0.01])
def test_every_mode_and_back_end(
    tmp_path: Path, place: Path, sync: str | float, back_end: str
) -> None:
    with Database(tmp_path / "store", sync=sync, log_back_end=back_end, **SMALL) as db:
        for start in range(0, 1200, 300):
            expected = fill(db, start)
            db.backup(place)
            check(place, expected)


def test_a_log_is_copied_up_to_its_end_as_a_whole_segment(tmp_path: Path, place: Path) -> None:
    with Database(tmp_path / "store") as db:
        fill(db, 0)
        db.backup(place)
        (log,) = place.glob("*.wal")
        source = Segment(SYSTEM, db.path, int(log.stem), bytes.fromhex(load_id(place)))
        copy = Segment(SYSTEM, str(place), int(log.stem), bytes.fromhex(load_id(place)))
        end = source.appended
        assert log.stat().st_size == end < len(source.buffer)
        assert log.stat().st_nlink == 1
        assert copy.appended == end
        assert copy.synced() == (end, source.running_crc(end))
        assert copy.buffer[:192] == source.buffer[:192]
        assert copy.buffer[512:528] == copy.buffer[1024:1040]
        assert copy.buffer[DATA_AT:end] == source.buffer[DATA_AT:end]
        assert (copy.boot, copy.chain()) == (source.boot, source.chain())
        source.close()
        copy.close()


def load_id(path: Path) -> str:
    return load(SYSTEM, str(path)).store_id


def test_a_segment_that_is_only_prepared_is_left_out(tmp_path: Path, place: Path) -> None:
    path = tmp_path / "store"
    with Database(path, memtable_limit=60_000, background=False) as db:
        number = 0
        while len(load(SYSTEM, str(path)).logs) < 2:
            db[b"%d" % number] = b"x" * 100
            number += 1
        expected = dict(db)
        db.backup(place)
        assert load(SYSTEM, str(place)).logs == load(SYSTEM, str(path)).logs[:1]
        check(place, expected)


def several_logs(path: Path, **more: Any) -> tuple[Writer, Contents]:
    """Return a store whose log has three segments, none of which is a table yet."""
    engine = open_store(str(path), "c", Options(background=False, **more))
    assert isinstance(engine, Writer)
    for part in range(3):
        with engine.lock:  # else a write would flush first what is sealed
            for number in range(50):
                engine.put(b"%d" % number, b"part %d" % part)
            engine.delete(b"%d" % part)
        engine.commit()
        if part < 2:
            engine._path.maintenance.rotate()
    assert len(load(SYSTEM, str(path)).logs) == 3
    return engine, dict(engine.scan("pairs", None, None, False))


@pytest.mark.parametrize("back_end", ["mapped", "pwrite"])
@pytest.mark.parametrize("sync", ["full", "normal"])
def test_a_log_in_several_segments_stays_a_chain(
    tmp_path: Path, place: Path, sync: str, back_end: str
) -> None:
    engine, expected = several_logs(tmp_path / "store", sync=sync, log_back_end=back_end)
    oblivion_dbm.backup(engine.directory, place)
    check(place, expected)
    kept = inodes(place, ".wal")
    with engine.lock:
        engine.put(b"more", b"of the last")
    engine.commit()
    oblivion_dbm.backup(engine.directory, place)
    check(place, expected | {b"more": b"of the last"})
    changed = {name for name, inode in inodes(place, ".wal").items() if inode != kept[name]}
    assert changed == {max(kept)}
    engine.close()
    with Database(place, "w") as copy:
        copy["and"] = "on"
        assert dict(copy) == expected | {b"more": b"of the last", b"and": b"on"}


@pytest.mark.parametrize("sync", ["full", "normal"])
def test_a_log_that_is_sealed_and_not_yet_gone_on_from_ends_before_its_seal(
    tmp_path: Path, place: Path, sync: str
) -> None:
    engine, expected = several_logs(tmp_path / "store", sync=sync)
    path = engine._path
    path.maintenance._prepare()
    before = oblivion_dbm.backup(engine.directory, place)
    assert path.log.live is not None
    path.log.live.seal(path.appender.position)
    last = load(SYSTEM, str(place)).logs[-1]
    for folder in (place, tmp_path / "another"):
        report = oblivion_dbm.backup(engine.directory, folder)
        assert report.sequence == before.sequence
        check(folder, expected)
        data = (folder / f"{last:06d}.wal").read_bytes()
        assert data[-13] != SEAL
    path.maintenance.rotate()
    with engine.lock:
        engine.put(b"more", b"in the next one")
    engine.commit()
    oblivion_dbm.backup(engine.directory, place)
    assert load(SYSTEM, str(place)).logs[-2] == last
    check(place, expected | {b"more": b"in the next one"})
    engine.close()


def test_a_backup_has_the_permissions_of_the_store(tmp_path: Path, place: Path) -> None:
    with Database(tmp_path / "store", mode=0o600) as db:
        fill(db, 0)
        db.flush()
        db["logged"] = "value"
        for folder, copy in ((place, False), (tmp_path / "copy", True)):
            db.backup(folder, copy=copy)
            assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o600}
            assert folder.stat().st_mode & 0o777 == (tmp_path / "store").stat().st_mode & 0o777


def test_a_backup_goes_on_as_a_store_of_its_own(store: Path, place: Path) -> None:
    expected = contents(store)
    oblivion_dbm.backup(store, place)
    with Database(place, "w") as copy:
        copy["new"] = "value"
        copy.compact()
        assert dict(copy) == expected | {b"new": b"value"}
    assert contents(store) == expected
    version = load(SYSTEM, str(place))
    assert backup_sequence(version) is None
    assert lineage(version) not in ("", lineage(load(SYSTEM, str(store))))


def test_the_report_and_progress_say_what_was_done(store: Path, place: Path) -> None:
    told: list[tuple[int, int]] = []
    with Database(store, "r") as db:
        report = db.backup(place, copy=True, progress=lambda *both: told.append(both))
    sizes = [info.size for info in tables_of(load(SYSTEM, str(place)))]
    logs = [path.stat().st_size for path in place.glob("*.wal")]
    assert (report.bytes, report.log_bytes) == (sum(sizes), sum(logs))
    assert report.bytes_copied == sum(sizes) + sum(logs)
    assert (report.linked, report.copied, report.kept) == (0, len(sizes), 0)
    assert {total for _, total in told} == {report.bytes_copied}
    done = [done for done, _ in told]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, report.bytes_copied)
    assert repr(report) == (
        f"<Report bytes={report.bytes}, bytes_copied={report.bytes_copied}, "
        f"copied={report.copied}, kept=0, linked=0, log_bytes={report.log_bytes}, "
        f"sequence={report.sequence}>"
    )


@pytest.mark.parametrize("kind", [str, os.fsencode, Path])
def test_paths_of_every_kind(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Callable[[Any], Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    oblivion_dbm.backup(kind("store"), kind("backup"))
    oblivion_dbm.restore(kind("backup"), kind("restored"))
    assert contents(tmp_path / "restored") == contents(store)
    with pytest.raises(error, match="empty"):
        oblivion_dbm.backup(store, "")


def test_a_closed_handle_makes_no_backup(store: Path, place: Path) -> None:
    db = Database(store)
    db.close()
    with pytest.raises(error, match="already been closed"):
        db.backup(place)
    assert not place.exists()


def test_aio_makes_one_after_what_was_asked_for_before(tmp_path: Path, place: Path) -> None:
    import asyncio

    async def work() -> None:
        async with aio.open(tmp_path / "store", "c") as db:
            puts = [asyncio.ensure_future(db.put(b"%d" % number, "x")) for number in range(100)]
            await asyncio.sleep(0)
            report = await db.backup(place, copy=True)
            assert report.sequence == await db.sequence()
            await asyncio.gather(*puts)

    asyncio.run(work())
    check(place, {b"%d" % number: b"x" for number in range(100)})


# Incremental ones.


def test_the_next_one_takes_what_is_new_and_keeps_the_rest(tmp_path: Path, place: Path) -> None:
    path = tmp_path / "store"
    seen: dict[str, int] = {}
    with Database(path, **SMALL) as db:
        for step in range(12):
            expected = fill(db, step * 200, 200)
            if step == 8:
                db.compact()
            db.flush()
            report = db.backup(place)
            check(place, expected)
            now = inodes(place, ".sst")
            assert now == inodes(path, ".sst")
            assert report.kept == len(now.keys() & seen.keys())
            assert report.linked == len(now.keys() - seen.keys())
            assert {name: now[name] for name in now.keys() & seen.keys()}.items() <= seen.items()
            seen = now
    assert oblivion_dbm.backup(path, place).kept == len(seen)


def test_one_that_finds_nothing_new_copies_nothing(store: Path, place: Path) -> None:
    oblivion_dbm.backup(store, place)
    before = files(place)
    report = oblivion_dbm.backup(store, place)
    assert (report.linked, report.copied, report.bytes_copied) == (0, 0, 0)
    after = files(place)
    assert after.pop("LOCK") != before.pop("LOCK")  # the generation
    assert after == before


def test_copy_makes_copies_of_earlier_links(store: Path, place: Path) -> None:
    oblivion_dbm.backup(store, place)
    report = oblivion_dbm.backup(store, place, copy=True)
    assert report.copied == len(inodes(store, ".sst"))
    assert not inodes(place, ".sst").items() & inodes(store, ".sst").items()
    check(place, contents(store))
    assert oblivion_dbm.backup(store, place, copy=True).copied == 0
    assert oblivion_dbm.backup(store, place).kept == report.copied


def test_a_backup_of_a_backup_is_one_of_the_store(store: Path, tmp_path: Path) -> None:
    oblivion_dbm.backup(store, tmp_path / "first")
    expected = contents(store)
    oblivion_dbm.backup(tmp_path / "first", tmp_path / "second")
    check(tmp_path / "second", expected)
    with Database(store, "w", **NO_MERGES) as db:
        expected = fill(db, 5000)
        assert db.backup(tmp_path / "second").kept > 0
    check(tmp_path / "second", expected)


def test_what_is_damaged_or_gone_in_the_earlier_backup_is_made_anew(
    store: Path, place: Path
) -> None:
    oblivion_dbm.backup(store, place, copy=True)
    expected = contents(store)
    (first, second), (log,) = sorted(place.glob("*.sst"))[:2], place.glob("*.wal")
    first.unlink()
    second.write_bytes(second.read_bytes()[:-10])
    for offset in (20, 150, 192, 520, log.stat().st_size - 1):
        damage(log, offset)
        oblivion_dbm.backup(store, place)
        check(place, expected)
    log.write_bytes(log.read_bytes()[:-3])
    oblivion_dbm.backup(store, place)
    check(place, expected)
    log.unlink()
    oblivion_dbm.backup(store, place)
    check(place, expected)


def damage(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


def test_foreign_files_in_an_earlier_backup_stay(store: Path, place: Path) -> None:
    oblivion_dbm.backup(store, place)
    for name in ("notes.txt", "000001.lost"):
        (place / name).write_text("mine")
    with Database(store, "w") as db:
        expected = fill(db, 7000)
        db.backup(place)
    assert contents(place) == expected
    assert (place / "notes.txt").read_text() == (place / "000001.lost").read_text() == "mine"


def test_a_reader_of_the_backup_follows_it_from_one_to_the_next(
    tmp_path: Path, place: Path
) -> None:
    with Database(tmp_path / "store", **SMALL) as db:
        db["0"] = "0"
        db.backup(place)
        reader, elsewhere = Database(place, "r"), several_boots_later(place)
        for step in range(60):
            expected = fill(db, step * 20, 20)
            if step % 20 == 19:
                db.compact()
            elif step % 20 == 7:
                db.clear()
                expected = {}
            db.backup(place)
            assert dict(reader) == dict(elsewhere.scan("pairs", None, None, False)) == expected
            assert len(reader) == len(expected)
            assert reader.verify() == []
        reader.close()
        elsewhere.close()


def test_a_reader_that_looks_at_every_step_never_goes_back(tmp_path: Path, place: Path) -> None:
    from oblivion_dbm.engine.backup import backup

    engine, expected = several_logs(tmp_path / "store")
    backup(engine.directory, str(place))
    reader = Database(place, "r")
    seen, old = list[int](), list[int]()

    class Looking(FileSystem):
        """Lets the reader, and another one that has just come, look before each renaming."""

        def rename(self, source: str, destination: str) -> None:
            with Database(place, "r") as new:
                seen.append(len(new))
                old.append(len(reader))
                assert old[-1] <= seen[-1]
                assert new.verify() == []
            super().rename(source, destination)

    for part in range(3):
        for number in range(3):
            with engine.lock:
                engine.put(b"%d %d" % (part, number), b"new")
            engine.commit()
            engine._path.maintenance.rotate()
        if part == 1:
            engine.flush()
        with engine.lock:
            engine.put(b"last %d" % part, b"new")
        engine.commit()
        backup(engine.directory, str(place), filesystem=Looking())
        expected = dict(engine.scan("pairs", None, None, False))
        assert dict(reader) == expected
        check(place, expected)
    assert (seen, old) == (sorted(seen), sorted(old))
    assert len(set(seen)) > len(set(old)) > 2
    reader.close()
    engine.close()


class CutShort(FileSystem):
    """The backup ends where it would let the copy of a log take the place of the earlier one."""

    named = False

    def rename(self, source: str, destination: str) -> None:
        if self.named and destination.endswith(".wal"):
            raise error(errno.EIO, "cut short", destination)
        self.named = self.named or destination.endswith("MANIFEST")
        super().rename(source, destination)


@pytest.mark.parametrize("what", ["verify", "open", "follow", "restore", "backup"])
def test_logs_that_are_replaced_while_they_are_opened_are_no_damage(
    tmp_path: Path, place: Path, what: str
) -> None:
    """The MANIFEST is the same before and after; one log is the old copy, the next a new one."""
    from oblivion_dbm.engine.backup import backup, restore

    engine = open_store(str(tmp_path / "store"), "c", Options(background=False))
    assert isinstance(engine, Writer)
    engine.put(b"before", b"x")
    backup(engine.directory, str(place))
    follower = open_store(str(place), "r", Options(), filesystem=(late := Late()))
    for part in range(2):
        with engine.lock:
            engine.put(b"after %d" % part, b"x")
        engine.commit()
        engine._path.maintenance.rotate()
    with engine.lock:
        engine.put(b"last", b"x")
    expected = dict(engine.scan("pairs", None, None, False))
    with pytest.raises(error, match="cut short"):
        backup(engine.directory, str(place), filesystem=CutShort())
    late.act = lambda: backup(engine.directory, str(place))
    if what == "verify":
        assert verify(str(place), late) == []
    elif what == "open":
        open_store(str(place), "r", Options(), filesystem=late).close()
    elif what == "follow":
        assert dict(follower.scan("pairs", None, None, False)) == expected
    elif what == "restore":
        restore(str(place), str(tmp_path / "copy"), filesystem=late)
        check(tmp_path / "copy", expected)
    else:
        backup(str(place), str(tmp_path / "copy"), filesystem=late)
        check(tmp_path / "copy", expected)
    assert late.act is None
    check(place, expected)
    follower.close()
    engine.close()


class Late(FileSystem):
    """Something happens just when the second log is about to be opened."""

    act: Callable[[], object] | None = None
    opened = 0

    def open(self, path: str, writable: bool = False) -> File:
        self.opened += path.endswith(".wal") and self.act is not None
        if self.opened == 2 and self.act is not None:
            act, self.act = self.act, None
            act()
        return super().open(path, writable)


def several_boots_later(path: Path) -> Any:
    return open_store(str(path), "r", Options(), filesystem=OtherBoot())


# Stores and destinations of other kinds.


@pytest.mark.parametrize("kind", ["tables", "log", "ahead"])
def test_stores_that_know_no_lineage(tmp_path: Path, place: Path, kind: str) -> None:
    path = tmp_path / "store"
    shutil.copytree(FORMATS / "1" / kind, path)
    expected = contents(path)
    oblivion_dbm.backup(path, place)
    check(place, expected)
    with Database(path, "w") as db:
        expected = fill(db, 0)
        db.flush()
        db.backup(place)
    check(place, expected)
    assert lineage(load(SYSTEM, str(place))) == ""
    assert contents(FORMATS / "1" / kind).items() <= contents(place).items()


def test_a_store_left_by_a_kill(tmp_path: Path, place: Path) -> None:
    child = os.fork()
    if child == 0:
        db = Database(tmp_path / "store", **SMALL)
        fill(db, 0, 1000)
        os._exit(0)
    os.waitpid(child, 0)
    before = files(tmp_path / "store")
    oblivion_dbm.backup(tmp_path / "store", place)
    check(place, {b"%06d" % n: b"value of %d" % n * 3 for n in range(1000)})
    assert files(tmp_path / "store") == before


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Give a function that mounts a tmpfs; it is unmounted afterwards."""
    if os.getuid() != 0:
        pytest.skip("only root may mount")
    mounted: list[Path] = []

    def mount(name: str, size: str = "8m") -> Path:
        target = tmp_path / name
        target.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(target)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as problem:
            pytest.skip(f"the machine does not let us mount: {problem}")
        mounted.append(target)
        return target

    yield mount
    for target in mounted:
        subprocess.run(["umount", str(target)], check=True)


def test_a_backup_on_another_file_system_is_copied(store: Path, mount: Callable[..., Path]) -> None:
    place = mount("other") / "backup"
    expected = contents(store)
    report = oblivion_dbm.backup(store, place)
    assert (report.linked, report.copied) == (0, len(inodes(store, ".sst")))
    check(place, expected)
    with Database(store, "w", **NO_MERGES) as db:
        expected = fill(db, 5000, 100)
        db.flush()
        report = db.backup(place)
        assert report.linked == 0
        assert report.copied + report.kept == len(inodes(store, ".sst"))
        assert report.kept > 0
    check(place, expected)


def test_a_backup_into_the_root_of_a_file_system(store: Path, mount: Callable[..., Path]) -> None:
    place = mount("other")
    oblivion_dbm.backup(store, place)
    check(place, contents(store))


def test_a_disk_that_is_full_leaves_the_earlier_backup(
    store: Path, mount: Callable[..., Path]
) -> None:
    place = mount("other", "400k") / "backup"
    expected = contents(store)
    oblivion_dbm.backup(store, place)
    with Database(store, "w") as db:
        db["large"] = os.urandom(300_000)
        db.flush()
        for _ in range(2):
            with pytest.raises(error) as caught:
                db.backup(place)
            assert caught.value.errno == errno.ENOSPC
            check(place, expected)
        del db["large"]
        db.compact()
        db.backup(place)
        check(place, dict(db))


def test_a_store_on_read_only_media(store: Path, place: Path, mount: Callable[..., Path]) -> None:
    medium = mount("medium")
    shutil.copytree(store, medium / "store")
    (medium / "store" / "LOCK").unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(medium)], check=True)
    oblivion_dbm.backup(medium / "store", place)
    check(place, contents(store))
    with Database(medium / "store", "r") as db:
        db.backup(place)
    with pytest.raises(error) as caught:
        oblivion_dbm.backup(store, medium / "backup")
    assert caught.value.errno == errno.EROFS


def test_the_source_is_only_read(store: Path, place: Path) -> None:
    class Guarded(FileSystem):
        """Refuses whatever would change the source."""

        def _outside(self, path: str) -> None:
            assert not path.startswith(str(store)), f"a backup wants to change {path}"

        def create(self, path: str, mode: int = 0o666) -> File:
            self._outside(path)
            return super().create(path, mode)

        def open(self, path: str, writable: bool = False) -> File:
            if writable:
                self._outside(path)
            return super().open(path, writable)

        def write(self, file: File, offset: int, data: bytes | memoryview) -> None:
            self._outside(file.path)
            super().write(file, offset, data)

        def rename(self, source: str, destination: str) -> None:
            self._outside(source)
            self._outside(destination)
            super().rename(source, destination)

        def remove(self, path: str) -> None:
            self._outside(path)
            super().remove(path)

        def lock(self, file: File) -> bool:
            self._outside(file.path)
            return super().lock(file)

        def map(self, file: File, length: int, writable: bool = False) -> Any:
            assert not writable
            return super().map(file, length)

    from oblivion_dbm.engine.backup import backup

    for copy in (False, True):
        backup(str(store), str(place), copy=copy, filesystem=Guarded())
        check(place, contents(store))


class Unlinkable(FileSystem):
    """A file system that has no links, or cannot make this one."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.asked = 0

    def link(self, source: str, destination: str) -> None:
        self.asked += 1
        raise error(self.number, os.strerror(self.number), source)


@pytest.mark.parametrize(
    ("number", "asked_again"),
    [(errno.EXDEV, False), (errno.EPERM, False), (errno.ENOTSUP, False), (errno.EMLINK, True)],
)
def test_what_cannot_be_linked_is_copied(
    store: Path, place: Path, number: int, asked_again: bool
) -> None:
    from oblivion_dbm.engine.backup import backup

    system = Unlinkable(number)
    report = backup(str(store), str(place), filesystem=system)
    assert (report.linked, report.copied) == (0, len(inodes(store, ".sst")))
    assert system.asked == (report.copied if asked_again else 1)
    check(place, contents(store))


def test_a_store_that_takes_the_place_of_the_source_does_not_get_in(
    store: Path, place: Path
) -> None:
    expected = contents(store)

    class Replaced(FileSystem):
        """Lets the source be removed, and another store be made there, before the first link."""

        done = False

        def link(self, source: str, destination: str) -> None:
            if not self.done:
                self.done = True
                names = inodes(store, ".sst")
                oblivion_dbm.remove(store)
                store.mkdir()
                for name in names:
                    (store / name).write_text("something else")
            super().link(source, destination)

    from oblivion_dbm.engine.backup import backup

    assert backup(str(store), str(place), filesystem=Replaced()).linked == 0
    check(place, expected)


def test_a_failing_disk_is_no_reason_to_copy(store: Path, place: Path) -> None:
    from oblivion_dbm.engine.backup import backup

    with pytest.raises(error) as caught:
        backup(str(store), str(place), filesystem=Unlinkable(errno.EIO))
    assert caught.value.errno == errno.EIO


def test_tables_that_are_symbolic_links_are_followed(
    store: Path, place: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    for table in store.glob("*.sst"):
        table.rename(tmp_path / "elsewhere" / table.name)
        table.symlink_to(f"../elsewhere/{table.name}")
    report = oblivion_dbm.backup(store, place)
    assert report.linked == len(inodes(tmp_path / "elsewhere", ".sst"))
    assert inodes(place, ".sst") == inodes(tmp_path / "elsewhere", ".sst")
    check(place, contents(store))


# A damaged source.


@pytest.mark.parametrize("part", ["log", "footer", "missing", "manifest"])
def test_a_damaged_source_is_refused_and_the_earlier_backup_stays(
    store: Path, place: Path, part: str
) -> None:
    oblivion_dbm.backup(store, place, copy=True)
    with Database(store, "w") as db:
        fill(db, 9000, 10)
        db.flush()
        db["logged"] = "value"
    before = files(place)
    if part == "log":
        damage(max(store.glob("*.wal")), DATA_AT + 3)
    elif part == "footer":
        table = max(store.glob("*.sst"))
        damage(table, table.stat().st_size - 40)
    elif part == "missing":
        max(store.glob("*.sst")).unlink()
    else:
        damage(store / "MANIFEST", 30)
    with pytest.raises(CorruptionError) as caught:
        oblivion_dbm.backup(store, place)
    assert caught.value.filename.startswith(str(store))
    assert files(place) == before
    with pytest.raises(CorruptionError):
        oblivion_dbm.backup(store, place.with_name("another"))
    assert not place.with_name("another").exists()


def test_damage_in_a_copied_table_is_found_and_named_in_the_source(
    store: Path, place: Path
) -> None:
    table = max(store.glob("*.sst"))
    whole = table.read_bytes()
    parts = parts_of(store, int(table.stem))
    for offset in range(16, len(whole), 97):
        if not any(offset in part for part in parts):
            continue  # zeros, which nobody looks at
        table.write_bytes(whole)
        damage(table, offset)
        with pytest.raises(CorruptionError) as caught:
            oblivion_dbm.backup(store, place, copy=True)
        assert caught.value.filename == str(table)
        with pytest.raises(error):
            Database(place, "r")
    table.write_bytes(whole)
    oblivion_dbm.backup(store, place, copy=True)
    check(place, contents(store))


def parts_of(store: Path, number: int) -> list[range]:
    """Return where the parts of a table are."""
    version = load(SYSTEM, str(store))
    (info,) = [info for info in tables_of(version) if info.number == number]
    table = SSTable(SYSTEM, str(store), info, bytes.fromhex(version.store_id))
    parts = [range(begin, begin + size) for begin, size in zip(table._begins, table.sizes)]
    parts += [range(table.records_end), range(table._crcs_at, info.size)]
    table.close()
    return parts


class Flipping(FileSystem):
    """A disk that stores one byte of some kind of file wrong."""

    def __init__(self, suffix: str) -> None:
        self.suffix = suffix

    def write(self, file: File, offset: int, data: bytes | memoryview) -> None:
        if file.path.endswith(self.suffix):
            middle = len(data) // 2
            data = b"".join((data[:middle], bytes([data[middle] ^ 1]), data[middle + 1 :]))
        super().write(file, offset, data)


@pytest.mark.parametrize("suffix", [".sst.new", ".wal.new"])
def test_a_copy_that_was_written_wrong_is_found(store: Path, place: Path, suffix: str) -> None:
    from oblivion_dbm.engine.backup import backup

    with pytest.raises(CorruptionError) as caught:
        backup(str(store), str(place), copy=True, filesystem=Flipping(suffix))
    assert caught.value.filename.endswith(suffix)
    assert caught.value.filename.startswith(str(place))
    assert not list(place.glob("*.new"))


def test_a_source_that_is_cut_off_meanwhile_is_named(store: Path, place: Path) -> None:
    from oblivion_dbm.engine.backup import backup

    table = max(store.glob("*.sst"))

    class Cutting(FileSystem):
        def create(self, path: str, mode: int = 0o666) -> File:
            if Path(path).name == table.name + ".new":
                os.truncate(table, 500)
            return super().create(path, mode)

    with pytest.raises(CorruptionError) as caught:
        backup(str(store), str(place), copy=True, filesystem=Cutting())
    assert (caught.value.filename, "found 500" in str(caught.value)) == (str(table), True)
    assert not (place / "MANIFEST").exists()


def test_a_source_that_moves_on_each_time_is_given_up(tmp_path: Path, place: Path) -> None:
    from oblivion_dbm.engine.backup import backup

    with Database(tmp_path / "store") as db:
        fill(db, 0)
        db.flush()

        class Moving(FileSystem):
            def open(self, path: str, writable: bool = False) -> File:
                if path.endswith(".sst") and not writable:
                    db[b"more"] = b"1"
                    db.flush()
                    raise error(errno.ENOENT, "No such file or directory", path)
                return super().open(path, writable)

        with pytest.raises(error, match="the store has changed 1000 times") as caught:
            backup(str(tmp_path / "store"), str(place), filesystem=Moving())
        assert caught.value.errno == errno.EAGAIN
        assert not place.exists()
        db.backup(place)
        check(place, dict(db))


def test_of_two_backups_to_one_place_the_slower_is_refused(store: Path, place: Path) -> None:
    from oblivion_dbm.engine.backup import backup

    class Slow(FileSystem):
        def make_directory(self, path: str, mode: int) -> None:
            super().make_directory(path, mode)
            oblivion_dbm.backup(store, place)

    expected = contents(store)
    with pytest.raises(error, match="another backup was made here meanwhile") as caught:
        backup(str(store), str(place), filesystem=Slow())
    assert caught.value.errno == errno.EAGAIN
    check(place, expected)
    with Database(store, "w") as db:
        fill(db, 900, 10)
    oblivion_dbm.backup(store, place)
    check(place, contents(store))


# What is refused.


def refused(source: Path, destination: Path, number: int, *words: str) -> None:
    """Check that a backup is refused and that nothing has changed."""
    there = destination.exists()
    before = (
        files(destination) if destination.is_dir() else destination.read_bytes() if there else 0
    )
    with pytest.raises(error) as caught:
        oblivion_dbm.backup(source, destination)
    assert caught.value.errno == number
    for word in ("expected", *words):
        assert word in str(caught.value)
    after = files(destination) if destination.is_dir() else destination.read_bytes() if there else 0
    assert after == before
    assert destination.exists() == there


def test_a_store_that_is_no_backup_is_refused(store: Path, tmp_path: Path) -> None:
    with Database(tmp_path / "other") as db:
        db["a"] = "b"
    refused(store, tmp_path / "other", errno.EEXIST, "a backup", "a store that is none")


def test_a_backup_of_another_store_is_refused(store: Path, place: Path, tmp_path: Path) -> None:
    with Database(tmp_path / "other") as db:
        db["a"] = "b"
        db.backup(place)
    refused(store, place, errno.EEXIST, load_id(store), load_id(tmp_path / "other"))


def test_a_backup_of_what_the_store_was_before_n_is_refused(store: Path, place: Path) -> None:
    oblivion_dbm.backup(store, place)
    old = load_id(store)
    Database(store, "n").close()
    refused(store, place, errno.EEXIST, load_id(store), old)


def test_a_backup_of_another_lineage_is_refused(store: Path, place: Path, tmp_path: Path) -> None:
    oblivion_dbm.backup(store, place)
    oblivion_dbm.restore(place, tmp_path / "restored")
    lineages = [lineage(load(SYSTEM, str(path))) for path in (tmp_path / "restored", place)]
    assert len(set(lineages)) == 2
    refused(tmp_path / "restored", place, errno.ESTALE, *lineages)
    oblivion_dbm.backup(tmp_path / "restored", tmp_path / "its own")
    refused(store, tmp_path / "its own", errno.ESTALE, *lineages)
    with Database(tmp_path / "restored", "w", **NO_MERGES) as db:
        expected = fill(db, 4000)
        assert db.backup(tmp_path / "its own").kept > 0
    check(tmp_path / "its own", expected)


def test_a_backup_that_was_written_to_is_refused(store: Path, place: Path) -> None:
    oblivion_dbm.backup(store, place)
    with Database(place, "w") as copy:
        assert "absent" not in copy
    assert oblivion_dbm.backup(store, place).linked == 0  # to open it is not to write
    with Database(place, "w") as copy:
        copy["a"] = "b"
    refused(store, place, errno.EEXIST, "a backup", "none any more")


@pytest.mark.parametrize("change", ["log", "runs"])
def test_a_backup_that_an_old_program_has_written_to_is_refused(
    store: Path, place: Path, change: str
) -> None:
    """Such a program keeps the lines that it does not know."""
    oblivion_dbm.backup(store, place)
    manifest = Manifest(SYSTEM, str(place), load(SYSTEM, str(place)))
    manifest.install(manifest.version, lambda: None)
    oblivion_dbm.backup(store, place)  # nothing but the next file number is another one
    manifest = Manifest(SYSTEM, str(place), load(SYSTEM, str(place)))
    version = manifest.version
    changed = (
        version.with_log(manifest.new_number())
        if change == "log"
        else version.replace(runs=version.runs[1:])
    )
    manifest.install(changed, lambda: None)
    refused(store, place, errno.ESTALE, "as it was made", "written to since")


def test_a_mark_that_makes_no_sense_is_no_mark(store: Path, place: Path) -> None:
    for line in ("? backup ", "? backup x y", "? backup -1 00000000", "? backup 5", "? backup 5 x"):
        shutil.rmtree(place, ignore_errors=True)
        oblivion_dbm.backup(store, place)
        manifest = Manifest(SYSTEM, str(place), load(SYSTEM, str(place)))
        others = manifest.version.extra[:-1]
        manifest.install(manifest.version.replace(extra=(*others, line)), lambda: None)
        with pytest.raises(error, match="expected a backup") as caught:
            oblivion_dbm.backup(store, place)
        assert caught.value.errno in (errno.EEXIST, errno.ESTALE)


def earlier_state(store: Path, place: Path, change: Callable[[Database], object]) -> None:
    """Let the store lose what was written after now, and what ``change`` writes be in a backup."""
    saved = store.with_name("saved")
    shutil.copytree(store, saved)
    with Database(store, "w", **SMALL) as db:
        change(db)
        db.backup(place)
    shutil.rmtree(store)
    saved.rename(store)


def test_a_backup_that_is_newer_than_the_store_is_refused(store: Path, place: Path) -> None:
    earlier_state(store, place, lambda db: db.__setitem__("more", "x"))
    newer = backup_sequence(load(SYSTEM, str(place)))
    with Database(store, "r") as db:
        refused(store, place, errno.ESTALE, str(newer), str(db.sequence), "newer")


@pytest.mark.parametrize("kind", ["table", "log"])
def test_a_backup_of_what_the_store_has_lost_is_refused_also_once_the_store_is_longer(
    store: Path, place: Path, kind: str
) -> None:
    """After a crash of the machine, say: numbers of files that it has lost are used again."""

    def change(db: Database, text: bytes) -> None:
        db["first"] = text  # which begins a log
        if kind == "table":
            db.flush()
            db["second"] = text

    earlier_state(store, place, lambda db: change(db, b"lost"))
    with Database(store, "w") as db:
        change(db, b"is there")
        fill(db, 3000, 600)
        assert db.sequence > (backup_sequence(load(SYSTEM, str(place))) or 0)
    refused(store, place, errno.ESTALE, "the store has lost what this backup holds")


@pytest.mark.parametrize("later", [1, 10, 60, 600])
def test_a_backup_of_what_a_crash_of_the_machine_has_taken_is_refused(
    tmp_path: Path, place: Path, later: int
) -> None:
    """However much is written then, and however many handles write."""
    from oblivion_dbm.engine.backup import backup

    path, other = tmp_path / "store", OtherBoot()
    engine = open_store(str(path), "c", Options(background=False))
    with engine.lock:
        for number in range(20):
            engine.put(b"synced %d" % number, b"x")
    engine.sync()
    (log,) = path.glob("*.wal")
    segment = Segment(SYSTEM, str(path), int(log.stem), bytes.fromhex(load_id(path)))
    synced = segment.synced()[0]
    segment.close()
    for number in range(20):
        engine.put(b"precious %d" % number, b"x")
    backup(str(path), str(place))
    left = files(path)
    engine.close()
    data = left[log.name]
    for name in os.listdir(path):
        (path / name).unlink()
    for name, data in left.items():
        cut = synced if name == log.name else len(data)
        (path / name).write_bytes(data[:cut].ljust(len(data), b"\0"))
    for _ in range(2):
        engine = open_store(str(path), "w", Options(background=False), filesystem=other)
        for number in range(later):
            engine.put(b"later %d" % number, b"x")
        engine.close()
        with pytest.raises(error) as caught:
            backup(str(path), str(place), filesystem=other)
        assert caught.value.errno == errno.ESTALE
    assert b"precious 19" in contents(place)


@pytest.mark.parametrize("first", ["original", "copy"])
def test_a_plain_copy_that_went_its_own_way_is_another_store(
    store: Path, place: Path, tmp_path: Path, first: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(store, copy)
    pair = [store, copy] if first == "original" else [copy, store]
    for path in pair:
        oblivion_dbm.backup(path, place)  # as long as they are the same
    with Database(pair[0], "w") as db:
        db["mine"] = "1"
        db.backup(place)
    expected = contents(place)
    with Database(pair[1], "w", **SMALL) as db:
        fill(db, 0, 900)
        db.compact()
        with pytest.raises(error, match="went its own way") as caught:
            db.backup(place)
        assert caught.value.errno == errno.ESTALE
    with Database(pair[1], "w") as db:
        db["again"] = "1"
    with pytest.raises(error, match="went its own way"):
        oblivion_dbm.backup(pair[1], place)
    assert contents(place) == expected
    with Database(pair[0], "w") as db:
        db["more"] = "1"
        db.backup(place)
        check(place, expected | {b"more": b"1"})


def test_a_backup_may_be_many_sessions_old(store: Path, place: Path) -> None:
    oblivion_dbm.backup(store, place)
    for number in range(150):
        with Database(store, "w", background=False) as db:
            db[b"%d" % (number % 3)] = b"x"
            if number % 70 == 20:
                oblivion_dbm.backup(store, f"{place} {number}")
    expected = contents(store)
    for path in (place, Path(f"{place} 20"), Path(f"{place} 90")):
        oblivion_dbm.backup(store, path)
        check(path, expected)


@pytest.mark.parametrize("kind", ["log here, table there", "table here, log there", "two tables"])
def test_one_number_for_two_files_is_refused(store: Path, place: Path, kind: str) -> None:
    oblivion_dbm.backup(store, place)
    version = load(SYSTEM, str(place))
    log, info = version.logs[-1], version.runs[0].tables[0]
    if kind.startswith("table"):
        other = version.replace(runs=version.runs[1:], logs=(info.number,))
    else:
        number, logs = (log, ()) if kind.startswith("log") else (info.number, version.logs)
        another = TableInfo(number, info.size, info.footer_crc ^ 1, info.puts, info.tombstones)
        other = version.replace(runs=(Run(0, (another,)), *version.runs[1:]), logs=logs)
    manifest = Manifest(SYSTEM, str(place), version)
    manifest.install(as_backup(other, 1), lambda: None)
    refused(store, place, errno.ESTALE, "the store has lost what this backup holds")


def test_a_folder_of_others_is_refused(store: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for name in ("letter", "MANIFEST", "000001.sst", "UNFINISHED.txt"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / name).write_text("mine")
        if name == "MANIFEST":
            (folder / "setup.py").write_text("mine")
        refused(store, folder, errno.EEXIST, "an empty directory or nothing")
    (tmp_path / "file").write_text("mine")
    refused(store, tmp_path / "file", errno.EEXIST, "found a file")


def test_a_damaged_earlier_backup_is_refused(store: Path, place: Path) -> None:
    oblivion_dbm.backup(store, place)
    damage(place / "MANIFEST", 40)
    before = files(place)
    with pytest.raises(CorruptionError):
        oblivion_dbm.backup(store, place)
    assert files(place) == before
    (place / "MANIFEST").unlink()  # a store without one may be worth a repair
    refused(store, place, errno.EEXIST, "found a directory with")


def test_the_store_itself_and_what_is_in_it_are_refused(store: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(store)
    (store / "folder").mkdir()
    (tmp_path / "deep").symlink_to(store / "folder")
    before = sorted(os.listdir(store))
    for destination in (
        store, store / "backup", store / "folder", store / "folder" / "backup",
        tmp_path / "link", tmp_path / "link" / "backup", tmp_path / "deep", tmp_path / "deep" / "x",
    ):  # fmt: skip
        with pytest.raises(error, match="expected a place outside of") as caught:
            oblivion_dbm.backup(store, destination)
        assert caught.value.errno == errno.EINVAL
    assert sorted(os.listdir(store)) == before
    assert os.listdir(store / "folder") == []


def test_where_there_is_no_store_nothing_is_made(tmp_path: Path, place: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for source in (tmp_path / "missing", tmp_path / "folder", tmp_path / "file"):
        with pytest.raises(error) as caught:
            oblivion_dbm.backup(source, place)
        assert caught.value.errno == errno.ENOENT
        assert caught.value.filename == str(source)
    assert not place.exists()


def test_a_place_whose_parent_is_missing_is_refused(store: Path, tmp_path: Path) -> None:
    with pytest.raises(error) as caught:
        oblivion_dbm.backup(store, tmp_path / "missing" / "backup")
    assert caught.value.errno == errno.ENOENT


def test_two_backups_do_not_mix(store: Path, place: Path) -> None:
    oblivion_dbm.backup(store, place)
    before = files(place)
    lock = WriterLock(SYSTEM, str(place))
    with pytest.raises(error, match="or another backup is being made here, in process") as caught:
        oblivion_dbm.backup(store, place)
    assert caught.value.errno == errno.EAGAIN
    assert f"in process {os.getpid()}" in str(caught.value)
    lock.release()
    assert files(place) == before
    first = place.with_name("first")
    first.mkdir()
    lock = WriterLock(SYSTEM, str(first))
    with pytest.raises(error, match="\\] another backup is being made here in process"):
        oblivion_dbm.backup(store, first)
    lock.release()


def test_one_that_was_overtaken_by_another_gives_way(store: Path, place: Path) -> None:
    from oblivion_dbm.engine.backup import backup

    class Overtaken(FileSystem):
        """Lets another backup be made just before this one gets the lock."""

        done = False

        def lock(self, file: File) -> bool:
            if not self.done:
                self.done = True
                backup(str(store), str(place))
            return super().lock(file)

    with pytest.raises(error, match=r"another backup|open for writing") as caught:
        backup(str(store), str(place), filesystem=Overtaken())
    assert caught.value.errno == errno.EAGAIN


def test_what_progress_raises_ends_it_and_the_next_one_completes_it(
    store: Path, place: Path
) -> None:
    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    for copy in (False, True):
        shutil.rmtree(place, ignore_errors=True)
        with pytest.raises(KeyboardInterrupt):
            oblivion_dbm.backup(store, place, copy=copy, progress=stop)
        for flag in "rwcn":
            with pytest.raises(error):
                Database(place, flag)
        report = oblivion_dbm.backup(store, place, copy=copy)
        assert report.kept > 0
        check(place, contents(store))


def test_what_another_store_has_left_unfinished_is_cleared_away(
    store: Path, place: Path, tmp_path: Path
) -> None:
    with Database(tmp_path / "other", **SMALL) as db:
        fill(db, 0, 600)

    def stop(done: int, total: int) -> None:
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        oblivion_dbm.backup(tmp_path / "other", place, progress=stop)
    assert list(place.glob("*.sst"))
    (place / "123456.wal").touch()
    (place / "000009.sst.new").touch()
    report = oblivion_dbm.backup(store, place)
    assert report.kept == 0
    check(place, contents(store))


def test_a_backup_can_be_removed_finished_or_not(store: Path, place: Path) -> None:
    oblivion_dbm.backup(store, place)
    (place / "000009.sst.new").touch()
    (place / "UNFINISHED").touch()
    oblivion_dbm.remove(place)
    assert not place.exists()


def test_the_example_in_the_document_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (FORMATS.parent.parent / "docs" / "backup.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "backup.md", "exec"), {})
    expected = re.findall(r"^ *print\(.*\) +# (.*)$", block, re.MULTILINE)
    assert expected == capsys.readouterr().out.splitlines() != []


# Against a model.

STEPS = st.lists(
    st.tuples(st.sampled_from("pppdbcfCB12"), st.integers(0, 30)), min_size=5, max_size=60
)


@settings(max_examples=60)
@given(STEPS)
def test_whatever_was_done_before_each_backup_is_the_store(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    folder = tmp_path_factory.mktemp("model")
    model: Contents = {}
    made: dict[str, Contents] = {}
    db = Database(folder / "store", memtable_limit=2000, table_limit=1000, fan_in=2)
    for kind, number in steps:
        key, value = b"%d" % number, b"v" * number * 5
        if kind == "p":
            db[key] = model[key] = value
        elif kind == "d":
            db.pop(key, None)
            model.pop(key, None)
        elif kind == "b":
            pairs = {b"%d" % other: value for other in range(number)}
            db.put_many(pairs)
            model.update(pairs)
        elif kind == "c":
            db.clear()
            model.clear()
        elif kind == "f":
            db.flush()
        elif kind == "C":
            db.compact()
        elif kind == "B":
            db.close()
            db = Database(folder / "store", memtable_limit=2000, table_limit=1000, fan_in=2)
        else:
            db.backup(folder / kind, copy=number % 3 == 0)
            made[kind] = dict(model)
            check(folder / kind, model)
    for name, expected in made.items():
        check(folder / name, expected)
        oblivion_dbm.restore(folder / name, folder / f"{name} restored", link=True)
        check(folder / f"{name} restored", expected)
    db.close()
