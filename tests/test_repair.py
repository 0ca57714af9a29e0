"""Repair makes a new store, and never leaves less than there was."""

from __future__ import annotations

import doctest
import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import oblivion_dbm
from gates.disk import Restarted
from gates.failure import descriptors
from gates.ruin import contents, pairs
from oblivion_dbm import Database, error, repair
from oblivion_dbm.engine.backup import backup, restore
from oblivion_dbm.engine.damage import PatientFiles
from oblivion_dbm.engine.filesystem import File, FileSystem
from oblivion_dbm.engine.manifest import load, render
from oblivion_dbm.engine.options import Options
from oblivion_dbm.engine.record import DELETE, PUT, crc32c, encode
from oblivion_dbm.engine.repair import repair as engine_repair
from oblivion_dbm.engine.storage_engine import open_store
from oblivion_dbm.engine.verify import verify

LEAVES_OPEN = "what is stopped in the middle, as by a kill, closes nothing"
SYSTEM = FileSystem()
VALUES = {b"%03d" % number: b"value %d" % number for number in range(200)}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return a store of two runs and a log, which holds VALUES and what NOW adds."""
    path = tmp_path / "store"
    engine = open_store(str(path), "c", Options(background=False))
    for key in VALUES:
        engine.put(key, b"old")
    engine.put(b"gone", b"1")
    engine.flush()
    for key, value in VALUES.items():
        engine.put(key, value)
    engine.delete(b"gone")
    engine.flush()
    engine.put(b"log", b"1")
    engine.close()
    return path


NOW = VALUES | {b"log": b"1"}


#: The keys of the records that share a group with b"100", in whichever run; and what else is left.
GROUP = [b"%03d" % number for number in range(64, 128)]
LEFT = {key: value for key, value in NOW.items() if key not in GROUP}


def flip(path: Path, at: int) -> None:
    """Change two bits: a record with one that is wrong is set right."""
    data = bytearray(path.read_bytes())
    data[at] ^= 0x11
    path.write_bytes(data)


def newest(store: Path) -> Path:
    """Return the table of the newest run."""
    return store / f"{load(SYSTEM, str(store)).runs[0].tables[0].number:06d}.sst"


def record_at(path: Path, key: bytes) -> int:
    """Return where the record of a key begins."""
    return path.read_bytes().index(bytes([PUT]) + len(key).to_bytes(4, "little") + key)


def state(folder: Path) -> dict[str, bytes]:
    """Return everything in a folder, file by file, but for what LOCK says."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != "LOCK")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


# What a repair does.


def test_a_sound_store_loses_nothing(store: Path) -> None:
    before, id_before = contents(store), load(SYSTEM, str(store)).store_id
    report = repair(store)
    assert (report.path, report.old) == (str(store), str(store) + ".damaged")
    assert contents(Path(report.old)) == before
    assert pairs(store) == NOW
    assert verify(str(store), SYSTEM) == []
    assert (report.saved, report.losses, report.dropped, report.notes) == (len(NOW), [], [], [])
    assert sorted(os.listdir(store.parent)) == ["store", "store.damaged"]
    version = load(SYSTEM, str(store))
    assert version.store_id != id_before
    assert (len(version.runs), version.runs[0].tombstones, version.live) == (1, 0, len(NOW))
    assert [line for line in version.extra if "repair" in line] == [f"? repaired {id_before}"]
    assert repr(report).splitlines()[-1] == "nothing was lost"


def test_a_repaired_store_goes_on(store: Path) -> None:
    sequence = Database(store, "r").sequence
    repair(store)
    with Database(store, "w") as database:
        assert database.sequence >= sequence
        for _ in range(3):
            database.update({b"%d" % n: b"more" for n in range(50)})
            database.flush()
        database.compact()
        expected = dict(database)
    (store / "MANIFEST").unlink()
    again = repair(store)
    assert (dict(Database(store, "r")), again.losses) == (expected, [])
    assert again.old.endswith(".damaged-2")


def test_merges_of_what_was_written_later_do_not_seem_to_hold_what_was_saved(store: Path) -> None:
    repair(store)
    engine = open_store(str(store), "w", Options(background=False, fan_in=2))
    for number in range(4):
        engine.put(b"%d" % number, b"later")
        engine.flush()
    expected = dict(engine.scan("pairs", None, None, False))
    assert len(load(SYSTEM, str(store)).runs) > 1
    engine.close()
    (store / "MANIFEST").unlink()
    report = repair(store)
    assert (pairs(store), report.dropped) == (expected, [])


@pytest.mark.parametrize("name", ["store", "store/", "./store"])
def test_any_way_to_write_the_path_will_do(
    store: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(store.parent)
    report = repair(os.fsencode(name))
    assert report.path == str(store)
    assert pairs(store) == NOW


def test_an_empty_store_is_repaired_to_one(tmp_path: Path) -> None:
    Database(tmp_path / "store").close()
    report = repair(tmp_path / "store")
    assert (report.saved, report.losses) == (0, [])
    assert pairs(tmp_path / "store") == {}


def test_who_may_read_the_old_store_may_read_the_new_one_and_nobody_else(store: Path) -> None:
    engine = open_store(str(store), "w", Options())
    engine.close()
    store.chmod(0o700)
    for path in store.iterdir():
        path.chmod(0o600)
    flip(newest(store), record_at(newest(store), b"100"))
    report = repair(store)
    assert report.handed_over is not None
    assert stat.S_IMODE(store.stat().st_mode) == 0o700
    files = [*store.iterdir(), Path(report.handed_over)]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


# Damage to a record.


def test_one_bit_of_a_record_is_set_right(store: Path) -> None:
    path = newest(store)
    data = bytearray(path.read_bytes())
    at = record_at(path, b"100")
    data[at + 10] ^= 0x10
    path.write_bytes(data)
    report = repair(store)
    assert (pairs(store), report.losses, report.handed_over) == (NOW, [], None)
    (note,) = report.notes
    assert (note.file, note.offset) == (f"{store}.damaged/{path.name}", at)
    assert "one bit of this record was wrong" in note.meaning


def test_an_old_value_does_not_come_back_but_is_handed_over(store: Path) -> None:
    """Nor do values that may be old because they share the sum of a group with it."""
    path = newest(store)
    begin, end = (record_at(path, key) for key in (b"064", b"128"))
    flip(path, record_at(path, b"100") + 10)
    report = repair(store)
    assert pairs(store) == LEFT
    (loss,) = report.losses
    assert (loss.file, loss.offset) == (f"{store}.damaged/{path.name}", begin)
    assert loss.length == end - begin
    assert (report.found, report.doubtful, report.merged) == (0, len(GROUP), 0)
    assert report.handed_over == f"{store}.found.jsonl"
    lines = list(map(json.loads, Path(report.handed_over).read_text().splitlines()))
    assert [line["key"].encode() for line in lines] == GROUP
    assert {line["why"] for line in lines} == {"doubtful"}
    now = {line["key"].encode(): line["value"].encode() for line in lines}
    assert now == {key: NOW[key] for key in GROUP} | {b"100": b"old"}
    oldest = min(Path(report.old).glob("*.sst"))
    assert lines[36] == {
        "file": oldest.name, "offset": record_at(oldest, b"100"), "op": "put",
        "key": "100", "value": "old", "why": "doubtful",
    }  # fmt: skip


def test_doubtful_records_are_merged_on_demand(store: Path) -> None:
    path = newest(store)
    flip(path, record_at(path, b"100") + 10)
    report = repair(store, doubtful=True)
    assert pairs(store) == NOW | {b"100": b"old"}
    assert (report.doubtful, report.merged, report.handed_over) == (len(GROUP), len(GROUP), None)
    assert "may be old or deleted" in repr(report)


def test_what_was_deleted_does_not_come_back(store: Path) -> None:
    path = newest(store)
    at = path.read_bytes().index(encode(DELETE, b"gone", b""))
    flip(path, at + 3)
    report = repair(store)
    kept = {key: value for key, value in NOW.items() if key < b"192" or key == b"log"}
    assert pairs(store) == kept
    assert (report.doubtful, len(report.losses)) == (9, 1)  # 192 to 199, and the one that is gone


@pytest.mark.parametrize("how", ["whole", "cut short", "first block", "a bit of its footer"])
def test_a_copy_of_an_older_table_is_not_the_newer_one(store: Path, how: str) -> None:
    """It has the name of the newer one, and its records check."""
    path, oldest = newest(store), min(store.glob("*.sst"))
    data, whole = bytearray(oldest.read_bytes()), path.read_bytes()
    if how == "cut short":
        del data[-100:]
    elif how == "first block":
        data = data[:3000] + whole[3000:]
        data[-20] ^= 1
    elif how == "a bit of its footer":
        data[-20] ^= 1
    path.write_bytes(data)
    report = repair(store)
    assert pairs(store).items() <= NOW.items()
    assert report.losses
    again = repair(report.old, destination=store.parent / "again", doubtful=True)
    assert again.merged >= 200
    assert {value for key, value in pairs(Path(again.path)).items() if key in VALUES} == {b"old"}


def test_a_damaged_record_of_an_older_run_hides_nothing(store: Path) -> None:
    oldest = min(store.glob("*.sst"))
    flip(oldest, record_at(oldest, b"100") + 10)
    report = repair(store)
    assert pairs(store) == NOW
    assert (report.doubtful, len(report.losses)) == (0, 1)


def test_what_the_index_does_not_lead_to_is_not_doubtful(store: Path) -> None:
    """A table of a few keys is damaged, and what is between them is not hidden."""
    engine = open_store(str(store), "w", Options(background=False))
    for number in range(0, 200, 20):
        engine.put(b"%03d" % number, b"newer")
    engine.flush()
    engine.close()
    path = newest(store)
    for number in (60, 80, 100):
        flip(path, record_at(path, b"%03d" % number) + 4)
    report = repair(store)
    keys = [*(b"%03d" % number for number in range(0, 200, 20)), b"log"]
    assert report.doubtful == len(keys)
    assert pairs(store) == {key: value for key, value in NOW.items() if key not in keys}


def test_records_found_by_searching_are_handed_over_and_never_merged(tmp_path: Path) -> None:
    inner = encode(PUT, b"planted", b"1") + encode(PUT, b"\xff\x00", b"\xfe")
    path = tmp_path / "store"
    with Database(path) as database:
        database.update({b"a": b"1", b"k": inner, b"\xff\xff": b"2"})
    (log,) = path.glob("*.wal")
    at = log.read_bytes().index(inner)
    flip(log, at - 2)
    report = repair(path)
    assert pairs(path) == {}  # it was one batch
    assert report.handed_over is not None
    lines = list(map(json.loads, Path(report.handed_over).read_text().splitlines()))
    # The records of the batch, but for the damaged one, in whose value two more are found.
    assert [line.get("key") or line["key64"] for line in lines] == ["a", "planted", "/wA=", "//8="]
    assert lines[2] == {
        "file": log.name, "offset": at + len(encode(PUT, b"planted", b"1")), "op": "put",
        "key64": "/wA=", "value64": "/g==", "why": "found",
    }  # fmt: skip
    assert report.found == 4


def test_a_log_with_a_damaged_middle_goes_on_with_the_next_segment(tmp_path: Path) -> None:
    path = tmp_path / "store"
    engine: Any = open_store(str(path), "c", Options(background=False))
    for number in range(4):
        engine.put(b"%d" % number, b"first")
    engine._path.maintenance.rotate()
    engine._path.appender.limit = 1 << 15
    engine.put(b"1", b"second")
    engine.close()
    first = min(path.glob("*.wal"))
    at = record_at(first, b"2")
    flip(first, at)
    report = repair(path)
    assert pairs(path) == {b"0": b"first", b"1": b"second"}
    (loss,) = report.losses
    assert (Path(loss.file).name, loss.offset) == (first.name, at)
    assert report.handed_over is not None
    (line,) = map(json.loads, Path(report.handed_over).read_text().splitlines())
    assert (line["key"], line["why"]) == ("3", "found")


def test_blocks_that_cannot_be_read_cost_what_is_in_them(tmp_path: Path) -> None:
    path = tmp_path / "store"
    values = {b"%04d" % number: bytes(100) for number in range(1000)}
    with Database(path) as database:
        database.update(values)
        database.flush()
    (table,) = path.glob("*.sst")
    bad = range(20_480, 24_576)

    class BadBlock(FileSystem):
        def read(self, file: File, offset: int, length: int) -> bytes:
            if file.path.endswith(table.name) and offset < bad.stop and offset + length > bad.start:
                raise error(errno.EIO, "Input/output error", file.path)
            return super().read(file, offset, length)

        def map(self, file: File, length: int, writable: bool = False) -> Any:
            assert not file.path.endswith(table.name), "to touch it would kill the process"
            return super().map(file, length, writable)

    report = engine_repair(str(path), filesystem=BadBlock())
    found = pairs(path)
    assert found.items() <= values.items()
    assert 0 < len(values) - len(found) <= 2 * 64
    assert len(found) + report.doubtful >= len(values) - len(bad) // 117 - 2
    assert [(note.offset, note.meaning) for note in report.notes] == [
        (bad.start, "the system cannot read this block")
    ]


def test_a_torn_end_that_was_never_synced_is_kept_aside(tmp_path: Path) -> None:
    path, live = tmp_path / "store", tmp_path / "live"
    engine = open_store(str(live), "c", Options(background=False))
    engine.put(b"synced", b"1")
    engine.sync()
    for number in range(3):
        engine.put(b"%d" % number, b"value")
    shutil.copytree(live, path)
    engine.close()
    (log,) = path.glob("*.wal")
    at = record_at(log, b"1")
    flip(log, at + 12)
    report = engine_repair(str(path), filesystem=Restarted(7))
    assert (pairs(path), report.losses) == ({b"synced": b"1", b"0": b"value"}, [])
    (tail,) = report.tails
    assert (Path(tail.file).name, tail.offset) == (log.name, at)
    assert any(line.startswith("never synced, kept aside") for line in report.lines())
    (lost,) = path.glob("*.lost")
    assert lost.read_bytes() == Path(tail.file).read_bytes()[at : at + tail.length]
    again = repair(path)
    assert (again.losses, pairs(path)) == ([], {b"synced": b"1", b"0": b"value"})
    assert Path(again.old, lost.name).exists()


def test_records_that_are_found_in_a_damaged_table_are_handed_over(tmp_path: Path) -> None:
    path, values = tmp_path / "store", {b"%03d" % number: b"1" for number in range(200)}
    with Database(path) as database:
        database.update(values)
        database.flush()
    (table,) = path.glob("*.sst")
    at = record_at(table, b"005")
    flip(table, at)
    lengths = table.read_bytes().index(len(encode(PUT, b"000", b"1")).to_bytes(2, "little") * 9)
    flip(table, lengths)
    report = repair(path)
    assert pairs(path) == {key: value for key, value in values.items() if key >= b"064"}
    assert report.handed_over is not None
    lines = list(map(json.loads, Path(report.handed_over).read_text().splitlines()))
    found = [line["key"] for line in lines if line["why"] == "found"]
    assert found == [f"{number:03}" for number in range(6, 64)]
    doubtful = [line["key"] for line in lines if line["why"] == "doubtful"]
    assert doubtful == [f"{number:03}" for number in range(5)]
    assert (report.found, report.doubtful) == (58, 5)


# What it refuses.


def test_a_store_in_use_is_refused(store: Path) -> None:
    with Database(store, "w"):
        before = state(store.parent)
        with pytest.raises(error) as caught:
            repair(store)
        assert caught.value.errno == errno.EAGAIN
        assert state(store.parent) == before
    assert pairs(store) == NOW


def test_what_never_was_a_store_is_refused_and_not_touched(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "000001.sst").write_text("select 1;")
    (tmp_path / "text" / "000002.wal").write_bytes(bytes(8192))
    (tmp_path / "text" / "MANIFEST").write_text("include README\n")
    (tmp_path / "file").write_text("no directory")
    before = sorted(map(str, tmp_path.rglob("*")))
    for name, number in (
        ("empty", errno.ENOTDIR), ("text", errno.ENOTDIR), ("file", errno.ENOTDIR),
        ("missing", errno.ENOENT),
    ):  # fmt: skip
        with pytest.raises(error) as caught:
            repair(tmp_path / name)
        assert caught.value.errno == number
        assert caught.value.filename == str(tmp_path / name)
    with pytest.raises(error):
        repair("")
    assert sorted(map(str, tmp_path.rglob("*"))) == before


def test_a_newer_format_is_refused(store: Path) -> None:
    data = (store / "MANIFEST").read_bytes()
    body = data[: data.rindex(b"crc ")].replace(b"manifest 1", b"manifest 2")
    (store / "MANIFEST").write_bytes(body + b"crc %08x\n" % crc32c(body))
    before = state(store.parent)
    with pytest.raises(error, match="expected store format 1, found 2"):
        repair(store)
    assert state(store.parent) == before


def test_a_newer_format_of_one_file_is_refused_and_nothing_stays_open(store: Path) -> None:
    log = min(store.glob("*.wal"))
    data = log.read_bytes()
    header = data[:8] + (2).to_bytes(4, "little") + data[12:76]
    crc = (crc32c(header) ^ 0xFFFF_FFFF).to_bytes(4, "little")
    (store / "999999.wal").write_bytes(header + crc + data[80:])
    before, opened = state(store.parent), descriptors()
    with pytest.raises(error, match="expected log format 1"):
        repair(store)
    assert (state(store.parent), descriptors()) == (before, opened)


def test_a_manifest_that_says_what_cannot_be_is_a_damaged_one(store: Path) -> None:
    version = load(SYSTEM, str(store))
    for next_file in (-1, 0, (1 << 62) + 5, 1 << 63):
        (store / "MANIFEST").write_bytes(render(version.replace(next_file=next_file)))
        destination = store.parent / f"new{next_file}"
        report = repair(store, destination=destination)
        assert pairs(destination) == NOW
        assert "cannot be" in report.notes[0].meaning


def test_numbers_that_no_file_has_are_left_alone(store: Path) -> None:
    for name in ("9" * 30 + ".sst", "9" * 30 + ".wal", "notes.txt"):
        (store / name).write_text("mine")
    (store / "000090.sst").mkdir()
    report = repair(store)
    assert (pairs(store), report.losses) == (NOW, [])
    assert load(SYSTEM, str(store)).next_file < 1000


@pytest.mark.parametrize("name", ["MANIFEST", "000900.wal", "table"])
def test_a_fifo_where_a_file_should_be_stops_nobody(store: Path, name: str) -> None:
    path = min(store.glob("*.sst")) if name == "table" else store / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    assert any(finding.file == str(path) for finding in verify(str(store), SYSTEM))
    report = repair(store)
    assert pairs(store) == NOW
    assert bool(report.losses) == (name == "table")


def test_a_lock_that_is_no_file_is_an_error_that_says_so(store: Path) -> None:
    (store / "LOCK").unlink()
    os.mkfifo(store / "LOCK")
    with pytest.raises(error, match="expected a file, found a FIFO"):
        repair(store)
    assert sorted(os.listdir(store.parent)) == ["store"]


# Elsewhere.


@pytest.mark.parametrize("there", [False, True])
def test_with_a_destination_the_old_store_stays(store: Path, there: bool) -> None:
    before = contents(store)
    destination = store.parent / "new"
    if there:
        destination.mkdir()
    flip(newest(store), record_at(newest(store), b"100") + 8)
    flipped = contents(store)
    report = repair(store, destination=destination)
    assert before != flipped == contents(store)
    assert (report.path, report.old) == (str(destination), str(store))
    assert report.handed_over == f"{destination}.found.jsonl"
    assert pairs(destination) == LEFT
    names = ["new", "new.found.jsonl", "store"]
    assert sorted(os.listdir(store.parent)) == names


class ReadOnly(FileSystem):
    """Lets nobody write in one directory, as a system does once its disk has failed."""

    def __init__(self, path: Path, number: int) -> None:
        self.path = str(path)
        self.number = number

    def _refuse(self, path: str) -> None:
        if path.startswith(self.path + "/"):
            raise error(self.number, os.strerror(self.number), path)

    def create(self, path: str, mode: int = 0o666) -> File:
        self._refuse(path)
        return super().create(path, mode)

    def open(self, path: str, writable: bool = False) -> File:
        if writable:
            self._refuse(path)
        return super().open(path, writable)

    def write(self, file: File, offset: int, data: bytes | memoryview) -> None:
        self._refuse(file.path)
        super().write(file, offset, data)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM])
@pytest.mark.parametrize("lock", ["there", "empty", "missing"])
def test_a_store_that_can_only_be_read_is_repaired_elsewhere(
    store: Path, lock: str, number: int
) -> None:
    if lock == "empty":
        (store / "LOCK").write_bytes(b"")
    elif lock == "missing":
        (store / "LOCK").unlink()
    for path in store.iterdir():
        path.chmod(0o444)
    store.chmod(0o555)
    before, system = state(store), ReadOnly(store, number)
    with pytest.raises(error) as caught:
        engine_repair(str(store), filesystem=system)
    assert caught.value.errno == number
    new = store.parent / "new"
    report = engine_repair(str(store), str(new), filesystem=system)
    assert (pairs(new), report.losses) == (NOW, [])
    assert stat.S_IMODE(new.stat().st_mode) == 0o755
    assert {stat.S_IMODE(path.stat().st_mode) & 0o200 for path in new.iterdir()} == {0o200}
    assert state(store) == before
    assert (store / "LOCK").exists() == (lock != "missing")
    with Database(new, "w") as database:
        database["more"] = "1"
    store.chmod(0o755)


def test_a_store_in_use_is_refused_to_whoever_may_only_read_it(store: Path) -> None:
    with Database(store, "w"), pytest.raises(error) as caught:
        engine_repair(str(store), f"{store}.new", filesystem=ReadOnly(store, errno.EROFS))
    assert caught.value.errno == errno.EAGAIN


def test_a_destination_that_will_not_do_is_refused(store: Path) -> None:
    (store.parent / "full").mkdir()
    (store.parent / "full" / "file").write_text("mine")
    (store.parent / "link").symlink_to(store)
    before = state(store.parent)
    for place in ("full", "full/file", "missing/new", "store", "store/new", "link/new"):
        with pytest.raises(error):
            repair(store, destination=store.parent / place)
        assert state(store.parent) == before
    assert "LOCK" in os.listdir(store)


# Names, and what earlier tries have left.


def test_there_is_nothing_to_repair_elsewhere_where_there_is_no_store(store: Path) -> None:
    before = state(store.parent)
    for name in ("nothing", "store/MANIFEST"):
        with pytest.raises(error) as caught:
            repair(store.parent / name, destination=store.parent / "new")
        assert caught.value.errno in (errno.ENOENT, errno.ENOTDIR)
        assert caught.value.filename == str(store.parent / name)
    assert state(store.parent) == before


def test_names_that_are_taken_are_passed_over(store: Path) -> None:
    for name in ("store.damaged", "store.found.jsonl", "store.damaged-2"):
        (store.parent / name).write_text("mine")
    flip(newest(store), record_at(newest(store), b"100") + 8)
    report = repair(store)
    assert report.old == f"{store}.damaged-3"
    assert report.handed_over == f"{store}.found-3.jsonl"
    for name in ("store.damaged", "store.found.jsonl", "store.damaged-2"):
        assert (store.parent / name).read_text() == "mine"


def test_what_is_at_the_place_of_the_new_store_is_not_removed_unless_a_repair_left_it(
    store: Path,
) -> None:
    building = store.parent / "store.repairing"
    building.mkdir()
    (building / "notes.txt").write_text("mine")
    with pytest.raises(error, match=r"notes\.txt"):
        repair(store)
    shutil.rmtree(building)
    with Database(building) as database:
        database[b"key"] = b"mine"
    with pytest.raises(error, match="move it away"):
        repair(store)
    assert pairs(building) == {b"key": b"mine"}
    shutil.rmtree(building)
    building.write_text("mine")
    with pytest.raises(error):
        repair(store)
    building.unlink()
    assert pairs(store) == NOW
    building.mkdir()
    (building / "000007.sst").write_text("left by a repair")
    (store.parent / "store.repairing.jsonl").write_text("{}")
    repair(store)
    assert pairs(store) == NOW
    assert sorted(os.listdir(store.parent)) == ["store", "store.damaged"]


# Cut short.


class Stopped(Exception):  # noqa: N818 - it is no error
    """The process was killed here."""


CHANGES = (
    "create write sync sync_directory allocate map rename remove make_directory remove_directory"
).split()


class Stopping(FileSystem):
    """Stops for good before the operation ``number`` of those that change the disk."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.count = 0

    def stop(self) -> None:
        self.count += 1
        if self.count > self.number:
            raise Stopped


def _stopping(name: str) -> Callable[..., Any]:
    def call(self: Stopping, *arguments: Any, **more: Any) -> Any:
        self.stop()
        return getattr(FileSystem, name)(self, *arguments, **more)

    return call


for _name in CHANGES:
    setattr(Stopping, _name, _stopping(_name))


def fresh(store: Path, folder: Path) -> Path:
    """Return a copy of a store in a folder of its own, with damage."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(store, folder / "store")
    flip(newest(folder / "store"), record_at(newest(folder / "store"), b"100") + 8)
    return folder / "store"


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_repair_that_stops_anywhere_is_done_by_the_next(store: Path, elsewhere: bool) -> None:
    for number in range(1000):
        path = fresh(store, store.parent / "work")
        before = contents(path)
        new = path.parent / "new" if elsewhere else path
        destination = str(new) if elsewhere else None
        try:
            engine_repair(str(path), destination, filesystem=Stopping(number))
            break
        except Stopped:
            pass
        damaged = path.with_name("store.damaged")
        assert contents(damaged if damaged.exists() else path) == before
        is_done = new.exists() and (elsewhere or damaged.exists())
        report = None if is_done else engine_repair(str(path), destination)
        assert report is None or report.losses
        assert pairs(new) == LEFT
        assert verify(str(new)) == []
        assert contents(path if elsewhere else damaged) == before
        left = {"store", "new"} if elsewhere else {"store", "store.damaged"}
        others = set(os.listdir(path.parent)) - left
        if not elsewhere:
            assert others == {"store.found.jsonl"}
            assert report is None or report.handed_over == f"{path}.found.jsonl"
            assert report is None or (report.found, report.doubtful) == (0, len(GROUP))
        assert all(name.startswith(f"{new.name}.found") for name in others)
    else:
        pytest.fail("it never comes to an end")
    assert number > 20


class Watching(FileSystem):
    """Knows what is on the disk for certain, and what was renamed while something was not."""

    def __init__(self) -> None:
        self.dirty: set[str] = set()
        self.renamed: list[tuple[str, str, set[str]]] = []

    def create(self, path: str, mode: int = 0o666) -> File:
        self.dirty |= {path, self.parent(path)}
        return super().create(path, mode)

    def write(self, file: File, offset: int, data: bytes | memoryview) -> None:
        self.dirty.add(file.path)
        super().write(file, offset, data)

    def sync(self, file: File) -> None:
        super().sync(file)
        self.dirty.discard(file.path)

    def make_directory(self, path: str, mode: int) -> None:
        super().make_directory(path, mode)
        self.dirty |= {path, self.parent(path)}

    def sync_directory(self, path: str) -> None:
        super().sync_directory(path)
        self.dirty.discard(path)

    def remove(self, path: str) -> None:
        super().remove(path)
        self.dirty.discard(path)

    def rename(self, source: str, destination: str) -> None:
        left = {path for path in self.dirty if not path.endswith("LOCK")}
        self.renamed.append((source, destination, left))
        super().rename(source, destination)
        self.dirty.add(self.parent(destination))


def test_everything_is_on_the_disk_before_the_next_renaming(store: Path) -> None:
    flip(newest(store), record_at(newest(store), b"100") + 8)
    system, folder = Watching(), str(store.parent)
    engine_repair(str(store), filesystem=system)
    steps = [
        (Path(source).name, Path(destination).name, dirty)
        for source, destination, dirty in system.renamed
    ]
    assert steps == [
        ("MANIFEST.new", "MANIFEST", {folder, f"{store}.repairing"}),
        ("store", "store.damaged", set()),
        ("store.repairing.jsonl", "store.found.jsonl", set()),
        ("store.repairing", "store", set()),
    ]
    assert not any(Path(path).name != "LOCK" for path in system.dirty)


@pytest.mark.parametrize("problem", [error(errno.EIO, "Input/output error"), KeyboardInterrupt()])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_what_is_handed_over_stays_once_the_new_store_has_its_name(
    store: Path, elsewhere: bool, problem: BaseException
) -> None:
    """The last sync of the directory is all that fails."""
    flip(newest(store), record_at(newest(store), b"100") + 8)
    new = store.parent / "new" if elsewhere else store

    class Late(FileSystem):
        late = False

        def rename(self, source: str, destination: str) -> None:
            super().rename(source, destination)
            self.late = destination == str(new)

        def sync_directory(self, path: str) -> None:
            if self.late:
                raise problem
            super().sync_directory(path)

    with pytest.raises(type(problem)):
        engine_repair(str(store), str(new) if elsewhere else None, filesystem=Late())
    assert pairs(new) == LEFT
    assert len(Path(f"{new}.found.jsonl").read_text().splitlines()) == len(GROUP)


class Refusing(Stopping):
    """Fails one operation, and no other."""

    def stop(self) -> None:
        self.count += 1
        if self.count == self.number + 1:
            raise error(errno.ENOSPC, "No space left on device", "somewhere")


def test_a_repair_that_fails_leaves_nothing_and_can_be_tried_again(store: Path) -> None:
    for number in range(1000):
        path = fresh(store, store.parent / "work")
        before, system = contents(path), Refusing(number)
        with suppress(error):
            engine_repair(str(path), filesystem=system)
            if system.count <= number:
                break
        damaged = path.with_name("store.damaged")
        if not damaged.exists():
            assert os.listdir(path.parent) == ["store"]
            assert contents(path) == before
        if not (path.exists() and damaged.exists()):
            engine_repair(str(path))
        assert contents(Path(f"{path}.damaged")) == before
        assert pairs(path) == LEFT
    assert number > 20


def test_the_end_of_a_repair_is_not_believed_blindly(store: Path) -> None:
    report = repair(store)
    building = store.parent / "store.repairing"
    store.rename(building)
    manifest = building / "MANIFEST"
    whole = manifest.read_bytes()
    manifest.write_bytes(render(load(SYSTEM, str(building)).replace(extra=())))
    with pytest.raises(error, match="not complete"):
        repair(store)
    manifest.write_bytes(whole)
    (table,) = building.glob("*.sst")
    flip(table, 20)
    with pytest.raises(error, match="damaged at byte 16"):
        repair(store)
    flip(table, 20)
    again = repair(store)
    assert (again.path, again.old, again.saved) == (report.path, report.old, report.saved)
    assert "a repair was cut short" in again.losses[0].meaning
    assert pairs(store) == NOW


# From outside.


def test_the_example_in_the_document_is_right() -> None:
    document = Path(__file__).resolve().parent.parent / "docs" / "repair.md"
    result = doctest.testfile(str(document), module_relative=False)
    assert (result.failed, result.attempted > 8) == (0, True)


def test_a_report_is_read_line_by_line(store: Path) -> None:
    flip(newest(store), record_at(newest(store), b"100") + 8)
    names = [Path(path).name for path in (newest(store), *store.glob("*.wal"))]
    lines = repr(repair(store)).splitlines()
    assert lines[0] == f"repaired store: {store}, records: {len(LEFT)}"
    assert lines[1] == f"damaged store, as it was: {store}.damaged"
    assert lines[2].startswith(f"made of: {names[0]}, ")
    assert lines[3].startswith(f"lost: {store}.damaged/{names[0]}: ")
    assert " bytes from byte " in lines[3]
    assert lines[4] == (
        f"handed over in {store}.found.jsonl: 0 records that were found by searching, "
        "64 that may be old or deleted"
    )
    assert len(lines) == 5


def test_it_is_loaded_when_it_is_needed() -> None:
    program = "import oblivion_dbm, sys; assert 'oblivion_dbm.engine.repair' not in sys.modules"
    subprocess.run([sys.executable, "-c", program + "; oblivion_dbm.repair"], check=True)


def test_an_unfinished_backup_is_no_store(store: Path) -> None:
    (store / "MANIFEST").unlink()
    (store / "UNFINISHED").write_text("begin again")
    (store / "LOCK").write_bytes(bytes(16))
    with pytest.raises(error, match="not finished here"):
        repair(store)
    (store / "UNFINISHED").unlink()
    assert repair(store).losses == []


class NoRemoval(FileSystem):
    """Ends just before the last thing that a backup or a restore does."""

    def remove(self, path: str) -> None:
        if path.endswith("UNFINISHED"):
            raise error(errno.EIO, "Input/output error", path)
        super().remove(path)


@pytest.mark.parametrize("way", [backup, restore])
@pytest.mark.parametrize("written", [False, True])
def test_what_was_finished_and_could_not_say_so_is_a_store(
    store: Path, way: Callable[..., Any], written: bool
) -> None:
    copy = store.parent / "copy"
    oblivion_dbm.backup(store, store.parent / "backup")
    way(str(store.parent / "backup"), str(copy), filesystem=NoRemoval())
    assert (copy / "UNFINISHED").exists()
    expected = dict(NOW)
    if written:
        with Database(copy, "w") as database:
            database[b"new"] = b"1"
        expected[b"new"] = b"1"
        assert not (copy / "UNFINISHED").exists()
    (copy / "MANIFEST").unlink()
    report = repair(copy)
    assert pairs(copy) == expected
    # The log of the next writer begins with what it has taken over.
    assert ["cannot be told" in loss.meaning for loss in report.losses] == [True] * written


def test_a_backup_is_repaired_to_a_store_of_its_own(store: Path) -> None:
    copy = store.parent / "copy"
    oblivion_dbm.backup(store, copy)
    repair(copy)
    assert pairs(copy) == NOW
    with Database(copy, "w") as database:
        database["new"] = "1"
    oblivion_dbm.backup(copy, store.parent / "again")
    assert pairs(store.parent / "again") == NOW | {b"new": b"1"}
    with pytest.raises(error):
        oblivion_dbm.backup(store, copy)
    assert pairs(store) == NOW


def test_a_map_is_refused_to_whoever_reads_what_may_be_damaged(store: Path) -> None:
    files = PatientFiles(SYSTEM)
    file = files.open(str(newest(store)))
    with pytest.raises(error, match="not mapped"):
        files.map(file, 16)
    files.close(file)
