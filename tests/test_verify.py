"""Verify finds damage of every kind, and nothing where nothing is wrong."""

from __future__ import annotations

import errno
import itertools
import os
import random
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import oblivion_dbm
from gates import damage as damages
from gates.failure import descriptors
from gates.prepared import LATER, MAKERS, WRITTEN, prepared
from oblivion_dbm import Database, error
from oblivion_dbm.engine.backup import backup, restore
from oblivion_dbm.engine.filesystem import File, FileSystem
from oblivion_dbm.engine.manifest import RESERVE, load, render
from oblivion_dbm.engine.options import Options
from oblivion_dbm.engine.policy import Task
from oblivion_dbm.engine.record import DELETE, PUT, crc32c, encode
from oblivion_dbm.engine.sstable import (
    FENCES,
    FILTER,
    FOOTER,
    INDEX,
    LENGTHS,
    SUMS,
    TAIL,
    TAIL_MAGIC,
    SSTable,
    block_seed,
)
from oblivion_dbm.engine.storage_engine import open_store
from oblivion_dbm.engine.table_writer import TableWriter
from oblivion_dbm.engine.verify import verify
from oblivion_dbm.engine.version import Run, TableInfo, Version
from oblivion_dbm.engine.wal import WAL

SYSTEM = FileSystem()
STORE = bytes(range(16))
SEED = 7
LIVE_SECONDS = float(os.environ.get("OBLIVION_DBM_LIVE_SECONDS", "0.5"))


def open_it(path: str, **more: Any) -> Any:
    return open_store(path, "c", Options(**more), 0o666, SYSTEM)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return a store with two runs, tombstones and a log."""
    path = tmp_path / "store"
    engine = open_it(str(path))
    for number in range(300):
        engine.put(b"%03d" % number, b"value %d" % number)
    engine.flush()
    for number in range(0, 300, 3):
        engine.delete(b"%03d" % number)
    engine.flush()
    engine.put(b"logged", b"value")
    engine.count()
    engine.close()
    return path


def findings(store: Path) -> list[tuple[str, str]]:
    return [(Path(found.file).name, found.meaning) for found in verify(str(store), SYSTEM)]


# No false alarms.


@pytest.mark.parametrize("back_end", ["mapped", "pwrite"])
def test_a_sound_store_has_no_findings_at_any_time(tmp_path: Path, back_end: str) -> None:
    path = str(tmp_path / "store")
    engine = open_it(path, memtable_limit=10_000, table_limit=5000, fan_in=3, log_back_end=back_end)
    assert verify(path, SYSTEM) == []
    for step in range(10):
        for number in range(100):
            engine.put(b"%04d" % (number * 7 * step % 500), bytes(step))
        engine.write({b"%04d" % number: None for number in range(step * 3)}, False)
        engine.count()
        assert verify(path, SYSTEM) == []
    engine.clear()
    assert verify(path, SYSTEM) == []
    engine.close()
    assert verify(path, SYSTEM) == []


def test_verifying_changes_nothing(store: Path) -> None:
    before = {file.name: file.read_bytes() for file in store.iterdir()}
    assert findings(store) == []
    assert {file.name: file.read_bytes() for file in store.iterdir()} == before


def test_files_that_are_not_the_store_s_are_no_finding(store: Path) -> None:
    (store / "notes.txt").write_text("mine")
    (store / "000001.lost").write_text("kept aside")
    assert findings(store) == []


def test_where_there_is_no_store_it_raises(tmp_path: Path) -> None:
    with pytest.raises(error):
        verify(str(tmp_path), SYSTEM)
    with pytest.raises(error):
        verify(str(tmp_path / "missing"), SYSTEM)


# A store at work.


def keep_writing(path: str, sync: str | float, back_end: str, seed: int) -> None:
    """Open, write all kinds of records, close, again and again."""
    dice = random.Random(seed)
    limits: dict[str, Any] = {"table_limit": 20_000, "fan_in": 3, "log_back_end": back_end}
    while True:
        memory = dice.choice([5000, 60_000, 1 << 20])
        with Database(path, "c", sync=sync, memtable_limit=memory, **limits) as db:
            for number in range(dice.randrange(2000)):
                key = b"%04d" % dice.randrange(1000)
                if number % 10 == 3:
                    db.pop(key, None)
                elif number % 100 == 7:
                    db.put_many({b"%04d" % dice.randrange(1000): key for _ in range(8)})
                elif number % 1000 == 500:
                    db.clear()
                else:
                    db[key] = dice.randbytes(dice.choice([0, 10, 100, 2000]))


@pytest.mark.parametrize("back_end", ["mapped", "pwrite"])
@pytest.mark.parametrize("sync", ["normal", "full", 0.002, "off"])
def test_there_is_no_false_alarm_beside_a_writer_nor_after_its_death(
    tmp_path: Path, sync: str | float, back_end: str
) -> None:
    path = str(tmp_path / "store")
    child = os.fork()
    if child == 0:
        try:
            keep_writing(path, sync, back_end, 5)
        finally:
            os._exit(1)
    try:
        end, checks = time.monotonic() + LIVE_SECONDS, 0
        while time.monotonic() < end or not checks:
            if os.path.exists(path + "/MANIFEST"):
                assert verify(path, SYSTEM) == []
                checks += 1
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert [finding for finding in verify(path, SYSTEM) if not finding.leftover] == []
    with Database(path, "w") as db:
        db["key"] = "value"  # which removes what the kill has left
    assert verify(path, SYSTEM) == []


def test_files_that_go_while_the_store_is_checked_are_no_finding(tmp_path: Path) -> None:
    path = str(tmp_path / "store")
    engine = open_it(path, background=False, fan_in=2)
    engine.put(b"a", b"1")
    engine.flush()
    steps = iter(range(4))

    class Late(FileSystem):
        """The writer goes on whenever somebody is about to open a table."""

        def open(self, path: str, writable: bool = False) -> File:
            if path.endswith(".sst") and next(steps, None) is not None:
                engine.put(b"b", b"2")
                engine.flush()
            return super().open(path, writable)

    assert verify(path, Late()) == []
    assert next(steps, None) is None
    engine.close()


def test_damage_to_a_store_that_moves_on_is_found_all_the_same(tmp_path: Path) -> None:
    path = str(tmp_path / "store")
    engine = open_it(path, background=False, fan_in=100)
    engine.put(b"a", b"1")
    engine.flush()
    damaged = min((tmp_path / "store").glob("*.sst"))

    class Late(FileSystem):
        def boot(self) -> bytes:  # which the check of the log asks for
            engine.put(b"b", b"2")
            engine.flush()
            damage(min((tmp_path / "store").glob("*.wal")), 600)
            return super().boot()

    damage(damaged, 20)
    names = {Path(finding.file).name for finding in verify(path, Late())}
    assert damaged.name in names
    assert any(name.endswith(".wal") for name in names)
    engine.close()


def test_a_manifest_that_is_damaged_meanwhile_leaves_the_findings_as_they_are(store: Path) -> None:
    log = min(store.glob("*.wal"))
    damage(log, 600)

    class Late(FileSystem):
        def list(self, path: str) -> list[str]:
            damage(store / "MANIFEST", 40)
            return super().list(path)

    assert [Path(finding.file) for finding in verify(str(store), Late())] == [log]


def test_a_file_of_a_newer_format_is_told_of(tmp_path: Path) -> None:
    version = plant(tmp_path, KEYS, RECORDS)
    path, info = tmp_path / "000001.sst", version.runs[0].tables[0]
    data = bytearray(path.read_bytes())
    at = len(data) - TAIL.size - FOOTER.size
    data[at : at + 4] = (2).to_bytes(4, "little")
    info.footer_crc = crc32c(bytes(data[at - 2 : -TAIL.size]))
    data[-TAIL.size :] = TAIL.pack(info.footer_crc, TAIL_MAGIC)
    path.write_bytes(data)
    (tmp_path / "MANIFEST").write_bytes(render(version))
    ((name, meaning),) = findings(tmp_path)
    assert name == path.name
    assert "a newer one wrote it" in meaning


# The directory.


def leave(store: Path) -> list[str]:
    """Leave what a crash may leave; return the names."""
    whole = min(store.glob("*.sst"))
    names = ["000900.sst", "000901.wal", "MANIFEST.new"]
    for name in names:
        (store / name).write_bytes(whole.read_bytes())
    return sorted(names)


def test_what_a_crash_has_left_is_told_of_until_a_writer_removes_it(store: Path) -> None:
    names = leave(store)
    left = verify(str(store), SYSTEM)
    assert sorted(Path(finding.file).name for finding in left) == names
    assert all(finding.leftover for finding in left)
    (store / "LOCK").unlink()
    assert sorted(name for name, _ in findings(store)) == names
    engine = open_it(str(store))
    assert findings(store) == []  # they may be this writer's, as far as anybody knows
    engine.close()
    assert sorted(name for name, _ in findings(store)) == names
    engine = open_it(str(store))
    engine.put(b"a", b"1")
    engine.close()
    assert findings(store) == []
    assert not [name for name in names if name in os.listdir(store) and name[0] == "M"]


def test_a_file_with_the_number_of_another_is_found(store: Path) -> None:
    name = min(store.glob("*.sst")).with_suffix(".wal").name
    (store / name).write_bytes(b"")
    ((file, meaning),) = findings(store)
    assert (file, meaning.partition(":")[0]) == (name, "no writer has made it")


def test_a_writer_that_was_killed_is_not_at_work(store: Path) -> None:
    names = leave(store)
    child = os.fork()
    if child == 0:
        open_it(str(store))
        os._exit(0)
    os.waitpid(child, 0)
    assert int.from_bytes((store / "LOCK").read_bytes()[8:12], "little") == child
    assert sorted(name for name, _ in findings(store)) == names


def test_a_writer_in_another_container_may_be_at_work(store: Path) -> None:
    class Container(FileSystem):
        def process_space(self) -> int:
            return 1

        def is_running(self, process: int) -> bool:
            return False

    leave(store)
    engine = open_it(str(store))
    assert verify(str(store), Container()) == []
    engine.close()
    assert verify(str(store), Container())


@pytest.mark.parametrize("name", ["{:06d}.sst", "{:06d}.wal", "{:06d}.lost"])
def test_numbers_that_no_writer_can_have_given_tell_of_an_older_manifest(
    store: Path, name: str
) -> None:
    limit = load(SYSTEM, str(store)).next_file + RESERVE
    (store / name.format(limit)).write_bytes(b"")
    ((file, meaning),) = findings(store)
    assert file == name.format(limit)
    assert f"its numbers end at {limit}" in meaning
    with pytest.raises(error, match="older"):
        open_it(str(store))


def test_a_manifest_that_is_older_than_the_log_is_found(store: Path) -> None:
    old = (store / "MANIFEST").read_bytes()
    log = min(store.glob("*.wal"))
    data = log.read_bytes()
    engine = open_it(str(store))
    engine.put(b"a", b"1")
    engine.close()
    (store / "MANIFEST").write_bytes(old)
    log.write_bytes(data)  # as if the new writer had not come to remove it
    named = {name for name, meaning in findings(store) if "it is older than" in meaning}
    assert named == {"MANIFEST"}


@pytest.mark.parametrize(("size", "is_found"), [(0, False), (1, True), (15, True), (17, True)])
def test_a_lock_of_another_size_is_found(store: Path, size: int, is_found: bool) -> None:
    (store / "LOCK").write_bytes(bytes(size))
    assert [name for name, _ in findings(store)] == ["LOCK"] * is_found
    engine = open_it(str(store))
    engine.close()


def test_a_directory_in_the_place_of_a_file_is_found(store: Path) -> None:
    path = min(store.glob("*.sst"))
    path.unlink()
    path.mkdir()
    assert [name for name, _ in findings(store)] == [path.name]


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENOMEM, errno.EACCES, errno.EPERM])
@pytest.mark.parametrize("suffix", [".sst", ".wal", "MANIFEST"])
def test_what_tells_of_this_process_is_raised_and_is_no_finding(
    store: Path, tmp_path: Path, code: int, suffix: str
) -> None:
    class Exhausted(FileSystem):
        calls = 0

        def open(self, path: str, writable: bool = False) -> File:
            self.calls += path.endswith(suffix)
            if self.calls == 2 or (self.calls and suffix != ".sst"):
                raise error(code, os.strerror(code), path)
            return super().open(path, writable)

    before = descriptors()
    calls: list[Callable[[], object]] = [
        lambda: verify(str(store), Exhausted()),
        lambda: restore(str(store), str(tmp_path / "restored"), filesystem=Exhausted()),
    ]
    for call in calls:
        with pytest.raises(error, match=re.escape(os.strerror(code))) as caught:
            call()
        assert (caught.value.errno, type(caught.value)) == (code, error)
        assert str(caught.value.filename).endswith(suffix)
    assert descriptors() == before
    assert os.listdir(tmp_path) == ["store"]


def test_a_block_that_the_system_cannot_read_is_a_finding(store: Path) -> None:
    class Unreadable(FileSystem):
        def open(self, path: str, writable: bool = False) -> File:
            if path.endswith(".sst"):
                raise error(errno.EIO, os.strerror(errno.EIO), path)
            return super().open(path, writable)

    found = verify(str(store), Unreadable())
    assert {Path(finding.file) for finding in found} == set(store.glob("*.sst"))


def test_the_findings_of_a_store_that_is_wrong_all_over_come_to_an_end(store: Path) -> None:
    engine = open_it(str(store))
    for number in range(3000):
        engine.put(b"%06d" % number, bytes(50))
    engine.flush()
    engine.compact()
    engine.close()
    path = max(store.glob("*.sst"))
    data = bytearray(path.read_bytes())
    for at in range(16, 3000 * 69, 69):
        data[at + 15] ^= 1
    path.write_bytes(data)
    found = findings(store)
    assert 500 < len(found) < 2000
    assert found[-1][1].endswith("and maybe more")


# Every byte.


@pytest.mark.parametrize("system", [WRITTEN, LATER], ids=["same boot", "other boot"])
@pytest.mark.parametrize("number", range(len(MAKERS)))
def test_any_changed_byte_of_a_closed_store_is_found(
    tmp_path: Path, number: int, system: FileSystem
) -> None:
    """But for LOCK, which nothing depends on, and what was never synced before a crash.

    ``tests/long/test_damage.py`` changes all of them.
    """
    store = prepared(number)
    path = tmp_path / "store"
    damages.write_files(str(path), store.files)
    assert verify(str(path), system) == []
    dice = random.Random(number)
    synced = damages.synced_files(store, system)
    for name in sorted(synced):
        for at in dice.sample(range(len(store.files[name])), min(8, len(store.files[name]))):
            assert damages.missed_bytes(str(path), store.files[name], name, [at], system) == []


def test_a_missing_manifest_is_found(store: Path) -> None:
    (store / "MANIFEST").unlink()
    ((name, meaning),) = findings(store)
    assert name == "MANIFEST"
    assert meaning.startswith("it is missing")


def test_it_is_a_function_of_the_package_too(store: Path) -> None:
    assert oblivion_dbm.verify(store) == oblivion_dbm.verify(os.fsencode(store)) == []
    damage(min(store.glob("*.sst")), 20)
    (finding,) = oblivion_dbm.verify(store)
    assert (finding.file, finding.offset) == (str(min(store.glob("*.sst"))), 16)
    with pytest.raises(error):
        oblivion_dbm.verify(store / "nothing")


# Damage to bytes.


def damage(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("suffix", [".sst", ".wal"])
def test_every_damaged_byte_of_records_is_found_with_its_file(store: Path, suffix: str) -> None:
    path = min(store.glob("*" + suffix))
    whole = path.read_bytes()
    begin = 16 if suffix == ".sst" else 4096
    end = len(whole) if suffix == ".sst" else begin + len(encode(PUT, b"logged", b"value"))
    for offset in [*range(begin, begin + 24), *range(begin + 24, end, 61)]:
        path.write_bytes(whole)
        damage(path, offset)
        found = findings(store)
        in_padding = suffix == ".sst" and not any(whole[offset - 7 : offset + 1])
        assert in_padding or [name for name, _ in found] == [path.name]


def test_the_finding_tells_the_offset(store: Path) -> None:
    path = min(store.glob("*.sst"))
    damage(path, 16 + 5)
    (found,) = verify(str(store), SYSTEM)
    assert (found.file, found.offset) == (str(path), 16)
    assert repr(found) == f"{path}: byte 16: {found.meaning}"


@pytest.mark.parametrize("section", [LENGTHS, FENCES, SUMS, INDEX, FILTER])
def test_damage_to_every_section_of_a_table_is_found(store: Path, section: int) -> None:
    version = load(SYSTEM, str(store))
    info = version.runs[-1].tables[0]
    table = SSTable(SYSTEM, str(store), info, bytes.fromhex(version.store_id))
    begin, size, path = table._begins[section], table.sizes[section], Path(table.path)
    table.close()
    damage(path, begin + size // 2)
    assert [name for name, _ in findings(store)] == [path.name]


@pytest.mark.parametrize("suffix", [".sst", ".wal"])
def test_a_missing_or_shortened_file_is_found(store: Path, suffix: str) -> None:
    path = min(store.glob("*" + suffix))
    path.write_bytes(path.read_bytes()[:100])
    assert [name for name, _ in findings(store)] == [path.name]
    path.unlink()
    assert [name for name, _ in findings(store)] == [path.name]


def test_a_damaged_manifest_is_a_finding(store: Path) -> None:
    damage(store / "MANIFEST", 40)
    assert [name for name, _ in findings(store)] == ["MANIFEST"]


def test_every_damaged_file_is_named_and_not_the_first_alone(store: Path) -> None:
    for path in [*store.glob("*.sst"), *store.glob("*.wal")]:
        damage(path, 16 if path.suffix == ".sst" else 4100)
    names = {path.name for path in [*store.glob("*.sst"), *store.glob("*.wal")]}
    assert {name for name, _ in findings(store)} == names


# Broken invariants behind sound crcs.


def plant(folder: Path, keys: list[bytes], records: list[bytes], **more: Any) -> Version:
    """Make a store of one table that holds exactly this."""
    writer = TableWriter(SYSTEM, str(folder), 1, more.pop("seed", SEED))
    tombstones = more.pop("tombstones", sum(record[0] == DELETE for record in records))
    writer.add(keys, records, tombstones)
    facts: dict[str, Any] = {"level": 0, "part": 0, "parts": 1, "sequences": (0, 0)} | more
    info = writer.finish(STORE, **facts)
    return plant_manifest(folder, [info])


def plant_manifest(folder: Path, infos: list[TableInfo]) -> Version:
    """Let a MANIFEST name tables that are one run, and a log in which nothing is yet."""
    log = len(infos) + 1
    WAL(SYSTEM, str(folder), log, store_id=STORE, first_sequence=0).close()
    run = Run(0, tuple(infos))
    version = Version(STORE.hex(), SEED, next_file=log + 1, logs=(log,), runs=(run,), live=None)
    (folder / "MANIFEST").write_bytes(render(version))
    return version


KEYS = [b"a", b"b", b"c"]
RECORDS = [encode(PUT, key, b"1") for key in KEYS]


def test_a_planted_table_is_sound(tmp_path: Path) -> None:
    plant(tmp_path, KEYS, RECORDS)
    assert findings(tmp_path) == []


@pytest.mark.parametrize(
    ("order", "more", "meaning"),
    [
        ("bac", {}, "not in order"),
        ("aab", {}, "not in order"),
        ("abc", {"level": 3}, "expected level 0, found 3"),
        ("abc", {"part": 1}, "expected part 0, found 1"),
        ("abc", {"parts": 2}, "expected parts 1, found 2"),
        ("abc", {"seed": 8}, "expected hash seed 7, found 8"),
        ("abc", {"tombstones": 1}, "tombstones"),
    ],
)
def test_a_table_that_breaks_a_rule_is_found(
    tmp_path: Path, order: str, more: dict[str, Any], meaning: str
) -> None:
    keys = [key.encode() for key in order]
    plant(tmp_path, keys, [encode(PUT, key, b"1") for key in keys], **more)
    assert any(meaning in found for _, found in findings(tmp_path))


def test_an_operation_that_no_table_holds_is_found(tmp_path: Path) -> None:
    plant(tmp_path, KEYS, [RECORDS[0], encode(5, b"b", b"1"), RECORDS[2]])
    assert any("operation 5 in a table" in found for _, found in findings(tmp_path))


def test_keys_that_the_footer_and_the_index_have_from_elsewhere_are_found(tmp_path: Path) -> None:
    plant(tmp_path, [b"a", b"b", b"x"], RECORDS)
    found = " ".join(meaning for _, meaning in findings(tmp_path))
    assert "expected last key b'c', found b'x'" in found
    assert "the index does not lead to this record" in found


def three_runs(path: Path) -> Version:
    """Make a closed store of three runs and a log; return its Version."""
    engine = open_it(str(path), background=False, fan_in=100, space_ratio=1e9)
    for run in range(3):
        with engine.lock:
            for number in range(50):
                engine.put(b"%d %d" % (run, number), b"x")
        engine.flush()
    engine.put(b"logged", b"x")
    engine.close()
    version = load(SYSTEM, str(path))
    assert (len(version.runs), len(version.logs)) == (3, 1)
    return version


def three_logs(path: Path) -> Version:
    """Make a closed store of three logs and nothing else; return its Version."""
    engine = open_it(str(path), background=False)
    for part in range(3):
        with engine.lock:
            for number in range(50):
                engine.put(b"%d %d" % (part, number), b"x")
        if part < 2:
            engine._path.maintenance.rotate()
    engine.close()
    version = load(SYSTEM, str(path))
    assert (len(version.runs), len(version.logs)) == (0, 3)
    return version


LOST: dict[str, tuple[Callable[[Path], Version], Callable[[Version], Version], str]] = {
    "newest run": (three_runs, lambda v: v.replace(runs=v.runs[1:]), "no table and no log holds"),
    "middle run": (three_runs, lambda v: v.replace(runs=v.runs[::2]), "the older one ends at"),
    "oldest run": (three_runs, lambda v: v.replace(runs=v.runs[:-1]), "no table holds the writes"),
    "all runs": (three_runs, lambda v: v.replace(runs=()), "no table and no log holds"),
    "log behind runs": (three_runs, lambda v: v.replace(logs=()), "it names no log segment"),
    "oldest log": (three_logs, lambda v: v.replace(logs=v.logs[1:]), "no table and no log holds"),
    "all logs": (three_logs, lambda v: v.replace(logs=()), "it names no log segment"),
}


@pytest.mark.parametrize("what", LOST)
def test_what_a_manifest_has_lost_is_found_though_its_crc_matches(
    tmp_path: Path, what: str
) -> None:
    make, lose, expected = LOST[what]
    version = make(tmp_path / "store")
    assert findings(tmp_path / "store") == []
    lost = lose(version).replace(live=None)
    (tmp_path / "store" / "MANIFEST").write_bytes(render(lost))
    for number in version.numbers() - lost.numbers():
        for path in (tmp_path / "store").glob(f"{number:06d}.*"):
            path.unlink()
    ((_, meaning),) = findings(tmp_path / "store")
    assert expected in meaning


def test_a_repair_that_was_not_finished_is_found(store: Path) -> None:
    version = load(SYSTEM, str(store))
    version = version.replace(extra=(*version.extra, "? repairing 00"))
    (store / "MANIFEST").write_bytes(render(version))
    assert findings(store) == [("MANIFEST", "a repair was not finished here")]


def empty_by_merges(engine: Any) -> None:
    """Let the oldest runs, and then all, become nothing."""
    for kind in (engine.put, lambda key, _: engine.delete(key)):
        with engine.lock:
            for number in range(50):
                kind(b"%d" % number, b"x")
        engine.commit()
        engine.flush()


def delete_before_the_flush(engine: Any) -> None:
    engine.put(b"a", b"1")
    engine.delete(b"a")
    engine.flush()


def clear_all(engine: Any) -> None:
    engine.put(b"a", b"1")
    engine.clear()
    engine.flush()


def seal_nothing(engine: Any) -> None:
    for _ in range(3):
        engine.put(b"a", b"1")
        engine.flush()
        engine._path.maintenance.rotate()


EMPTYING = [empty_by_merges, delete_before_the_flush, clear_all, seal_nothing]


@pytest.mark.parametrize("format_1", [False, True], ids=["new", "from before"])
@pytest.mark.parametrize("steps", [*itertools.permutations(EMPTYING, 2)])
def test_what_was_emptied_is_not_missing(
    tmp_path: Path, steps: tuple[Callable[[Any], None], ...], format_1: bool
) -> None:
    path, options = tmp_path / "store", {"background": False, "fan_in": 2}
    engine = open_it(str(path), **options)
    if format_1:
        engine.close()
        version = load(SYSTEM, str(path)).replace(extra=())
        (path / "MANIFEST").write_bytes(render(version))
        engine = open_it(str(path), **options)
    for step in steps:
        for again in range(2):
            step(engine)
            assert findings(path) == []
            if again == 0:
                engine.put(b"in between", b"1")
                assert findings(path) == []
        with engine.lock:
            engine.put(b"left", b"1")
            engine.delete(b"left")
        engine.close()
        assert findings(path) == []
        backup(str(path), str(tmp_path / "backup"))
        assert findings(tmp_path / "backup") == []
        restore(str(tmp_path / "backup"), str(tmp_path / f"restored {step.__name__}"))
        engine = open_it(str(path), **options)
        assert findings(path) == []
        engine.put(b"again", b"1")
        engine.clear()
        assert findings(path) == []
    engine.close()


def test_an_oldest_run_that_is_emptied_is_not_missing(tmp_path: Path) -> None:
    path = tmp_path / "store"
    engine = open_it(str(path), background=False, fan_in=100, space_ratio=1e9)
    empty_by_merges(engine)
    engine.put(b"newer", b"1")
    engine.flush()
    version = load(SYSTEM, str(path))
    assert len(version.runs) == 3
    engine._path.maintenance._merge(Task(version.runs[1:], 1, drop_tombstones=True))
    assert len(load(SYSTEM, str(path)).runs) == 1
    assert findings(path) == []
    engine.close()
    assert findings(path) == []


def test_a_wrong_count_in_the_manifest_is_found(store: Path) -> None:
    version = load(SYSTEM, str(store))
    for live in (0, 1000):
        (store / "MANIFEST").write_bytes(render(version.replace(live=live)))
        assert [name for name, _ in findings(store)] == ["MANIFEST"]


def test_a_manifest_that_says_else_of_a_table_is_found(store: Path) -> None:
    version = load(SYSTEM, str(store))
    info = version.runs[0].tables[0]
    changes: list[Callable[[], None]] = [
        lambda: setattr(info, "puts", info.puts + 1),
        lambda: setattr(info, "tombstones", info.tombstones + 1),
        lambda: setattr(info, "size", info.size + 1),
        lambda: setattr(info, "footer_crc", info.footer_crc ^ 1),
    ]
    for change in changes:
        change()
        (store / "MANIFEST").write_bytes(render(version))
        assert f"{info.number:06d}.sst" in [name for name, _ in findings(store)]


def test_parts_of_a_run_that_overlap_are_found(tmp_path: Path) -> None:
    infos = []
    for number, keys in ((1, [b"a", b"m"]), (2, [b"k", b"z"])):
        writer = TableWriter(SYSTEM, str(tmp_path), number, SEED)
        writer.add(keys, [encode(PUT, key, b"1") for key in keys], 0)
        part = number - 1
        infos.append(writer.finish(STORE, level=0, part=part, parts=2, sequences=(0, 0)))
    plant_manifest(tmp_path, infos)
    assert findings(tmp_path) == [("000002.sst", "its keys do not follow the table before")]


def mend_footer(data: bytearray, crcs_at: int, crcs_size: int) -> int:
    """Let the footer of one-byte keys cover changed block crcs; return its new crc."""
    at = len(data) - TAIL.size - FOOTER.size
    fields = list(FOOTER.unpack(data[at : at + FOOTER.size]))
    fields[11] = crc32c(bytes(data[crcs_at : crcs_at + crcs_size]))
    data[at : at + FOOTER.size] = FOOTER.pack(*fields)
    crc = crc32c(bytes(data[at - 2 : at + FOOTER.size]))
    data[-TAIL.size :] = TAIL.pack(crc, TAIL_MAGIC)
    return crc


@pytest.mark.parametrize("section", [SUMS, INDEX, FILTER])
def test_a_section_that_does_not_fit_the_records_is_found_though_every_crc_matches(
    tmp_path: Path, section: int
) -> None:
    version = plant(tmp_path, KEYS, RECORDS)
    path = tmp_path / "000001.sst"
    info = version.runs[0].tables[0]
    table = SSTable(SYSTEM, str(tmp_path), info, STORE)
    begin, size = table._begins[section], table.sizes[section]
    crc_at = table._crcs_at + 4 * table._first_blocks[section]
    table.close()
    data = bytearray(path.read_bytes())
    data[begin : begin + size] = bytes(size)
    crc = crc32c(bytes(data[begin : begin + size]), block_seed(1, section, 0))
    data[crc_at : crc_at + 4] = crc.to_bytes(4, "little")
    info.footer_crc = mend_footer(data, table._crcs_at, 4 * table._first_blocks[-1])
    path.write_bytes(data)
    (tmp_path / "MANIFEST").write_bytes(render(version))
    word = {SUMS: "sum", INDEX: "index", FILTER: "filter"}[section]
    assert any(word in meaning for _, meaning in findings(tmp_path))
