"""Which files make up a store whose MANIFEST is lost, or names what is not there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from gates.ruin import contents, pairs
from oblivion_dbm import repair
from oblivion_dbm.engine.damage import PatientFiles
from oblivion_dbm.engine.damaged_table import DamagedTable
from oblivion_dbm.engine.filesystem import FileSystem
from oblivion_dbm.engine.header_page import SEQUENCE_AT
from oblivion_dbm.engine.manifest import load
from oblivion_dbm.engine.options import Options
from oblivion_dbm.engine.report import Report
from oblivion_dbm.engine.storage_engine import Writer, open_store
from oblivion_dbm.engine.verify import verify

SYSTEM = FileSystem()
#: Enough for several tables in a run: a table ends with a chunk of 512 records.
COUNT = 2400
OLD = {b"%04d" % n: b"old" for n in range(COUNT)}
NEW = {b"%04d" % n: b"new" for n in range(0, COUNT, 3)}
GONE = [b"%04d" % n for n in range(1, COUNT, 3)]
NOW = {key: value for key, value in {**OLD, **NEW}.items() if key not in GONE}


def opened(path: Path, **more: object) -> Writer:
    engine = open_store(str(path), "c", Options(background=False, **more))
    assert isinstance(engine, Writer)
    return engine


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return a store of two runs, and of one run that they were merged into, beside it."""
    path = tmp_path / "store"
    engine = opened(path, table_limit=600)
    for key, value in OLD.items():
        engine.put(key, value)
    engine.flush()
    for key, value in NEW.items():
        engine.put(key, value)
    for key in GONE:
        engine.delete(key)
    engine.flush()
    shutil.copytree(path, tmp_path / "merged")
    engine.put(b"log", b"1")
    engine.close()
    engine = opened(tmp_path / "merged", table_limit=600)
    engine.compact()
    engine.put(b"log", b"1")
    engine.close()
    return path


def tables(path: Path, run: int) -> list[Path]:
    """Return the files of a run, the newest being 0, as the MANIFEST has them."""
    return [path / f"{info.number:06d}.sst" for info in load(SYSTEM, str(path)).runs[run].tables]


def mended(path: Path) -> Report:
    before = contents(path)
    report = repair(path)
    assert contents(Path(report.old)) == before
    assert verify(str(path)) == []
    return report


def flip(path: Path, at: int) -> None:
    """Change two bits: a record with one that is wrong is set right."""
    data = bytearray(path.read_bytes())
    data[at] ^= 0x11
    path.write_bytes(data)


def copy_tables(source: Path, target: Path) -> None:
    for path in source.glob("*.sst"):
        shutil.copy(path, target)


def dropped(report: Report) -> set[str]:
    return {name for name, _ in report.dropped}


# Without a MANIFEST.


@pytest.mark.parametrize("way", ["missing", "flipped", "empty", "cut", "another's"])
def test_without_a_manifest_everything_is_there(store: Path, way: str) -> None:
    manifest = store / "MANIFEST"
    data = manifest.read_bytes()
    manifest.unlink()
    if way == "flipped":
        manifest.write_bytes(data.replace(b"level", b"lever").replace(b"run 0", b"run 1"))
    elif way != "missing":
        manifest.write_bytes({"empty": b"", "cut": data[:50], "another's": b"PK\3\4"}[way])
    report = mended(store)
    assert (pairs(store), report.losses) == (NOW | {b"log": b"1"}, [])
    assert [Path(note.file).name for note in report.notes] == ["MANIFEST"]


@pytest.mark.parametrize("name", ["tables", "log", "ahead"])
def test_stores_of_early_days_are_found_without_a_manifest(tmp_path: Path, name: str) -> None:
    original = Path(__file__).parent / "formats" / "1" / name
    expected = json.loads(original.with_suffix(".json").read_text())
    path = Path(shutil.copytree(original, tmp_path / "store"))
    (path / "MANIFEST").unlink()
    report = mended(path)
    assert pairs(path) == {bytes.fromhex(k): bytes.fromhex(v) for k, v in expected.items()}
    # Each flush of such a store says to hold everything, so nothing can be proved.
    assert bool(report.losses) == (name == "tables")


def test_what_a_complete_merge_holds_is_dropped_so_nothing_deleted_comes_back(store: Path) -> None:
    merged = store.parent / "merged"
    copy_tables(store, merged)
    (merged / "MANIFEST").unlink()
    report = mended(merged)
    assert (pairs(merged), report.losses) == (NOW | {b"log": b"1"}, [])
    assert {path.name for path in (store.parent / "store").glob("*.sst")} <= dropped(report)


@pytest.mark.parametrize("with_manifest", [True, False])
@pytest.mark.parametrize("damage", ["part missing", "footer", "record"])
def test_a_merge_that_is_not_complete_gives_way_to_what_it_was_made_of(
    store: Path, damage: str, with_manifest: bool
) -> None:
    merged = store.parent / "merged"
    output = tables(merged, 0)[1]
    copy_tables(store, merged)
    if damage == "part missing":
        output.unlink()
    else:
        flip(output, -20 if damage == "footer" else 20)
    if not with_manifest:
        (merged / "MANIFEST").unlink()
    report = mended(merged)
    assert pairs(merged) == NOW | {b"log": b"1"} or (with_manifest and damage == "record")
    if not with_manifest or damage == "part missing":
        assert report.losses == []
        assert {path.name for path in tables(merged.with_name("store"), 0)} <= set(report.taken)


def test_where_neither_is_complete_nothing_deleted_comes_back(store: Path) -> None:
    merged = store.parent / "merged"
    output = tables(merged, 0)
    copy_tables(store, merged)
    flip(output[0], 20)
    flip(tables(store, 0)[0], 20)
    shutil.copy(tables(store, 0)[0], merged)
    (merged / "MANIFEST").unlink()
    report = mended(merged)
    found = pairs(merged)
    assert found.items() <= (NOW | {b"log": b"1"}).items()
    assert len(NOW) - len(found) < 2 * 64
    assert len(found) + report.doubtful > len(NOW) - 3
    assert report.losses
    assert report.handed_over is not None


def test_a_run_of_which_nothing_is_left_makes_older_ones_doubtful(store: Path) -> None:
    for path in tables(store, 0):
        path.unlink()
    (store / "MANIFEST").unlink()
    report = mended(store)
    assert pairs(store) == {b"log": b"1"}
    assert any("no table and no log holds the writes" in loss.meaning for loss in report.losses)
    assert report.doubtful == len(OLD)
    again = repair(report.old, destination=store.parent / "again", doubtful=True)
    assert pairs(Path(again.path)) == OLD | {b"log": b"1"}
    assert (again.merged, again.handed_over) == (len(OLD), None)


def test_the_oldest_run_is_missed_too(store: Path) -> None:
    for path in tables(store, 1):
        path.unlink()
    (store / "MANIFEST").unlink()
    report = mended(store)
    assert pairs(store) == NEW | {b"log": b"1"}
    assert any("no table holds the writes up to" in loss.meaning for loss in report.losses)


def test_a_part_that_is_missing_makes_its_keys_doubtful_and_no_others(store: Path) -> None:
    before, missing, after = tables(store, 0)[:3]
    files = PatientFiles(SYSTEM)
    footers = [DamagedTable(files, str(store), path.name).footer for path in (before, after)]
    assert footers[0] is not None
    assert footers[1] is not None
    first, last = footers[0].last_key, footers[1].first_key
    missing.unlink()
    (store / "MANIFEST").unlink()
    report = mended(store)
    within = {key for key in NOW if first < key < last}
    assert pairs(store) == {k: v for k, v in NOW.items() if k not in within} | {b"log": b"1"}
    assert [loss.meaning[:11] for loss in report.losses] == ["part 2 of t"]
    assert report.doubtful == sum(first < key < last for key in OLD)


def test_most_files_decide_whose_store_it_is(store: Path) -> None:
    other = opened(store.parent / "other")
    other.put(b"foreign", b"1")
    other.flush()
    other.close()
    (foreign,) = (store.parent / "other").glob("*.sst")
    shutil.copy(foreign, store / "000099.sst")
    (store / "MANIFEST").unlink()
    report = mended(store)
    assert pairs(store) == NOW | {b"log": b"1"}
    ((name, why),) = report.dropped
    assert name == "000099.sst"
    assert "of another store" in why
    (loss,) = report.losses
    assert loss.meaning == ("whose store this is cannot be told; of another one are 000099.sst")
    assert load(SYSTEM, str(store)).next_file > 99


def test_a_log_that_a_table_holds_does_not_count_again(tmp_path: Path) -> None:
    path = tmp_path / "store"
    engine = opened(path)
    engine.put(b"key", b"old")
    (log,) = path.glob("*.wal")
    data = log.read_bytes()
    engine.flush()
    engine.put(b"key", b"new")
    engine.flush()
    engine.close()
    log.write_bytes(data)
    (path / "MANIFEST").unlink()
    report = mended(path)
    assert (pairs(path), report.losses) == ({b"key": b"new"}, [])
    assert (log.name, "a table holds what is in it") in report.dropped


def test_a_log_of_a_table_that_is_damaged_is_handed_over(tmp_path: Path) -> None:
    path = tmp_path / "store"
    engine = opened(path)
    engine.put(b"key", b"first")
    (log,) = path.glob("*.wal")
    data = log.read_bytes()
    engine.flush()
    engine.put(b"other", b"1")
    engine.flush()
    engine.close()
    (table, *_) = sorted(path.glob("*.sst"))
    flip(table, 20)
    log.write_bytes(data)
    (path / "MANIFEST").unlink()
    report = mended(path)
    assert pairs(path) == {b"other": b"1"}
    assert report.handed_over is not None
    (line,) = map(json.loads, Path(report.handed_over).read_text().splitlines())
    assert (line["file"], line["key"], line["value"]) == (log.name, "key", "first")


def test_a_table_of_which_nobody_knows_how_old_it_is_is_handed_over(store: Path) -> None:
    newest = tables(store, 0)
    for path in newest:
        flip(path, -20)
    (store / "MANIFEST").unlink()
    report = mended(store)
    assert pairs(store) == {b"log": b"1"}
    assert report.handed_over is not None
    lines = [json.loads(line) for line in Path(report.handed_over).read_text().splitlines()]
    found = {line["key"].encode(): line["op"] for line in lines if line["why"] == "found"}
    assert found == dict.fromkeys(NEW, "put") | dict.fromkeys(GONE, "delete")
    assert {line["why"] for line in lines} == {"found", "doubtful"}


def test_a_table_without_a_footer_is_not_needed_where_nothing_is_missing(store: Path) -> None:
    (store / "000098.sst").write_bytes(tables(store, 0)[0].read_bytes()[:700])
    (store / "MANIFEST").unlink()
    report = mended(store)
    assert (pairs(store), report.losses) == (NOW | {b"log": b"1"}, [])
    assert report.dropped == [("000098.sst", "it has no footer, and nothing is missing")]


@pytest.mark.parametrize("suffix", [".wal", ".sst"])
def test_files_that_changed_names_are_known_by_what_is_in_them(store: Path, suffix: str) -> None:
    engine = opened(store)
    engine._path.maintenance.rotate()
    engine._path.appender.limit = 1 << 15
    engine.put(b"second log", b"1")
    engine.close()
    first, *_, last = sorted(store.glob("*" + suffix))
    assert first != last
    one, two = first.read_bytes(), last.read_bytes()
    first.write_bytes(two)
    last.write_bytes(one)
    report = mended(store)
    assert pairs(store) == NOW | {b"log": b"1", b"second log": b"1"}
    assert report.losses == []


def test_two_tables_of_one_number_count_once(store: Path) -> None:
    newest = tables(store, 0)[0]
    shutil.copy(newest, store / "000001.sst")
    shutil.copy(newest, store / "000099.sst")
    (store / "MANIFEST").unlink()
    report = mended(store)
    assert (pairs(store), report.losses) == (NOW | {b"log": b"1"}, [])
    assert newest.name in report.taken


def test_a_log_of_another_store_does_not_count(store: Path) -> None:
    other = opened(store.parent / "other")
    other.put(b"foreign", b"1")
    other.close()
    (foreign,) = (store.parent / "other").glob("*.wal")
    shutil.copy(foreign, store / "000099.wal")
    (store / "MANIFEST").unlink()
    report = mended(store)
    assert pairs(store) == NOW | {b"log": b"1"}
    assert dropped(report) == {"000099.wal"}
    named, whose = report.losses
    assert named.meaning.startswith("it holds segment 1; a newer one may have had its name")
    assert whose.meaning.startswith("whose store this is cannot be told")


@pytest.mark.parametrize("with_manifest", [True, False])
def test_an_older_log_under_the_name_of_the_newest_is_not_taken_for_that(
    tmp_path: Path, with_manifest: bool
) -> None:
    path = tmp_path / "store"
    engine = opened(path)
    engine.put(b"key", b"old")
    (old,) = path.glob("*.wal")
    data, older = old.read_bytes(), (path / "MANIFEST").read_bytes()
    engine.flush()
    engine.put(b"key", b"new")
    engine.close()
    max(path.glob("*.wal")).write_bytes(data)
    for table in path.glob("*.sst"):
        table.unlink()
    (path / "MANIFEST").unlink()
    if with_manifest:
        (path / "MANIFEST").write_bytes(older)
    report = mended(path)
    assert pairs(path) == {b"key": b"old"}
    assert any("a newer one may have had its name" in loss.meaning for loss in report.losses)
    assert any("may be back" in loss.meaning for loss in report.losses)


@pytest.mark.parametrize("with_manifest", [True, False])
def test_a_segment_that_two_files_hold_counts_once(tmp_path: Path, with_manifest: bool) -> None:
    """The one with its name does, not an older copy of it."""
    path = tmp_path / "store"
    engine = opened(path)
    engine.put(b"first", b"1")
    engine.flush()
    engine.put(b"key", b"old")
    log = max(path.glob("*.wal"))
    (path / "000001.wal").write_bytes(log.read_bytes())
    engine.put(b"key", b"new")
    engine.close()
    if not with_manifest:
        (path / "MANIFEST").unlink()
    report = mended(path)
    assert (pairs(path), report.losses) == ({b"first": b"1", b"key": b"new"}, [])
    assert dropped(report) == {"000001.wal"}


def test_where_no_file_says_whose_it_is_everything_is_handed_over(tmp_path: Path) -> None:
    path = tmp_path / "store"
    engine = opened(path)
    engine.put(b"log", b"1")
    engine.close()
    (log,) = path.glob("*.wal")
    flip(log, 20)
    (path / "MANIFEST").unlink()
    report = mended(path)
    assert (pairs(path), report.taken) == ({}, [])
    assert not any(line.startswith("made of") for line in report.lines())
    assert report.handed_over is not None
    (line,) = map(json.loads, Path(report.handed_over).read_text().splitlines())
    assert (line["file"], line["key"], line["value"]) == (log.name, "log", "1")


def test_an_old_log_whose_sequence_number_is_damaged_may_bring_something_back(
    tmp_path: Path,
) -> None:
    """Nobody can tell that a table holds what is in it, so the report has to say so."""
    path = tmp_path / "store"
    engine = opened(path)
    engine.put(b"first", b"1")
    engine.flush()
    engine.put(b"key", b"old")
    log = max(path.glob("*.wal"))
    data = bytearray(log.read_bytes())
    engine.flush()
    engine.delete(b"key")
    engine.flush()
    engine.close()
    data[SEQUENCE_AT] ^= 0x10
    log.write_bytes(data)
    (path / "MANIFEST").unlink()
    report = mended(path)
    assert any("may be back" in loss.meaning for loss in report.losses)
    assert log.name in report.taken
    assert pairs(path)[b"first"] == b"1"


@pytest.mark.parametrize("foreign", [False, True])
def test_a_manifest_that_names_what_is_gone_is_an_older_one(tmp_path: Path, foreign: bool) -> None:
    path = tmp_path / "store"
    engine = opened(path)
    engine.put(b"key", b"1")
    engine._path.maintenance.rotate()
    older = (path / "MANIFEST").read_bytes()
    engine.flush()
    engine.put(b"log", b"1")
    engine.close()
    if foreign:
        other = opened(tmp_path / "other")
        for number in range(5):
            other.put(b"foreign%d" % number, b"1")
            other.flush()
        other.close()
        for number, table in enumerate((tmp_path / "other").glob("*.sst")):
            shutil.copy(table, path / f"{number + 90:06d}.sst")
    (path / "MANIFEST").write_bytes(older)
    report = mended(path)
    assert (pairs(path), report.losses) == ({b"key": b"1", b"log": b"1"}, [])
    (note,) = report.notes
    assert note.meaning == "it names 000001.wal, which is gone, and is older than 000003.sst"


@pytest.mark.parametrize("damaged", [False, True])
def test_older_manifests_of_any_age_lose_nothing(tmp_path: Path, damaged: bool) -> None:
    """They name nearly nothing of what is there; a record of that may be damaged, too."""
    path = tmp_path / "store"
    engine, expected, manifests = opened(path, fan_in=3), {}, []
    for number in range(12):
        keys = {b"%d" % (number * each % 17): b"%d" % number for each in range(9)}
        engine.write(dict(keys), False)
        expected.update(keys)
        engine.flush()
        manifests.append((path / "MANIFEST").read_bytes())
    engine.close()
    table = max(path.glob("*.sst"))
    if damaged:
        flip(table, 20)
    for older in manifests:
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        copy = Path(shutil.copytree(path, tmp_path / "copy"))
        (copy / "MANIFEST").write_bytes(older)
        report = repair(copy, destination=tmp_path / "new")
        found = pairs(tmp_path / "new")
        assert found.items() <= expected.items()
        if not damaged:
            assert (found, report.losses) == (expected, [])
        shutil.rmtree(tmp_path / "new")
        if report.handed_over:
            Path(report.handed_over).unlink()


# With a MANIFEST.


def test_a_header_that_is_damaged_costs_nothing_and_is_told_of(store: Path) -> None:
    path = tables(store, 0)[0]
    flip(path, 0)
    report = mended(store)
    assert (pairs(store), report.losses) == (NOW | {b"log": b"1"}, [])
    assert [(Path(note.file).name, note.meaning) for note in report.notes] == [
        (path.name, "its header does not check")
    ]


@pytest.mark.parametrize("length", [None, 100])
def test_a_log_that_is_missing_or_shorter_than_its_header_is_lost(
    store: Path, length: int | None
) -> None:
    (log,) = store.glob("*.wal")
    data = log.read_bytes()
    log.unlink()
    if length is not None:
        log.write_bytes(data[:length])
    report = mended(store)
    assert pairs(store) == NOW
    (loss,) = report.losses
    assert Path(loss.file).name == log.name


def test_a_table_of_the_same_number_from_another_life_is_not_taken(store: Path) -> None:
    twin = shutil.copytree(store, store.parent / "twin")
    for path, value in ((store, b"mine"), (twin, b"its")):
        engine = opened(path)
        engine.put(b"twin", value)
        engine.flush()
        engine.close()
    (mine,), (its,) = tables(store, 0), tables(twin, 0)
    assert mine.name == its.name
    shutil.copy(its, mine)
    report = mended(store)
    assert b"twin" not in pairs(store)
    assert report.losses[0].meaning.startswith("it is not the table that is named so")


def merged_in_one_life(path: Path) -> tuple[Path, list[Path]]:
    """Return the table that a run is, whose footer is gone, and those that it was made of."""
    engine = opened(path)
    engine.put(b"gone", b"1")
    engine.put(b"key", b"old")
    engine.flush()
    engine.delete(b"gone")
    engine.put(b"key", b"new")
    engine.flush()
    inputs = {file: file.read_bytes() for file in path.glob("*.sst")}
    engine.compact()
    engine.put(b"log", b"1")
    engine.close()
    (output,) = tables(path, 0)
    output.write_bytes(output.read_bytes()[:10])
    for file, data in inputs.items():
        file.write_bytes(data)
    return output, sorted(inputs)


def test_what_a_run_without_a_footer_held_is_known_by_its_neighbours(tmp_path: Path) -> None:
    path = tmp_path / "store"
    output, inputs = merged_in_one_life(path)
    report = mended(path)
    assert (pairs(path), report.losses) == ({b"key": b"new", b"log": b"1"}, [])
    assert {file.name for file in inputs} <= set(report.taken)
    assert output.name in dropped(report)


def test_of_a_run_without_a_footer_a_part_of_what_it_was_made_of_is_doubtful(
    tmp_path: Path,
) -> None:
    path = tmp_path / "store"
    _, inputs = merged_in_one_life(path)
    inputs[1].unlink()
    report = mended(path)
    assert (pairs(path), report.doubtful) == ({b"log": b"1"}, 2)
    assert report.losses
    again = repair(report.old, destination=tmp_path / "again", doubtful=True)
    assert pairs(Path(again.path)) == {b"gone": b"1", b"key": b"old", b"log": b"1"}


def test_what_the_manifest_does_not_name_is_not_used(store: Path) -> None:
    for path in (store.parent / "merged").glob("*.sst"):
        shutil.copy(path, store)
    orphans = {path.name for path in store.glob("*.sst")} - {
        path.name for run in (0, 1) for path in tables(store, run)
    }
    assert orphans
    report = mended(store)
    assert (pairs(store), report.losses) == (NOW | {b"log": b"1"}, [])
    assert dropped(report) == orphans


def test_a_merge_takes_the_place_of_a_run_whose_table_is_missing(store: Path) -> None:
    copy_tables(store.parent / "merged", store)
    tables(store, 1)[0].unlink()
    report = mended(store)
    assert (pairs(store), report.losses) == (NOW | {b"log": b"1"}, [])


def test_another_table_under_a_name_is_not_taken(store: Path) -> None:
    other = opened(store.parent / "other")
    other.put(b"foreign", b"1")
    other.flush()
    other.close()
    (foreign,) = (store.parent / "other").glob("*.sst")
    path = tables(store, 0)[0]
    shutil.copy(foreign, path)
    report = mended(store)
    assert pairs(store).items() <= (NOW | {b"log": b"1"}).items()
    assert "another table has its name" in report.losses[0].meaning


def test_another_log_under_a_name_is_not_taken(store: Path) -> None:
    other = opened(store.parent / "other")
    other.put(b"foreign", b"1")
    other.close()
    (foreign,) = (store.parent / "other").glob("*.wal")
    (log,) = store.glob("*.wal")
    shutil.copy(foreign, log)
    report = mended(store)
    assert pairs(store) == NOW
    assert report.losses[0].meaning == "another segment has its name"


def test_a_clear_hides_what_is_older_even_if_it_is_damaged(store: Path) -> None:
    engine = opened(store)
    engine.clear()
    engine.put(b"after", b"1")
    shutil.copytree(store, store.parent / "cleared")
    engine.close()
    cleared = store.parent / "cleared"
    for path in cleared.glob("*.sst"):
        flip(path, 20)
    report = mended(cleared)
    assert (pairs(cleared), report.losses) == ({b"after": b"1"}, [])


def test_a_run_that_is_missing_between_two_others_makes_older_ones_doubtful(
    tmp_path: Path,
) -> None:
    path = tmp_path / "store"
    engine = opened(path)
    for value in (b"1", b"2", b"3"):
        engine.put(b"key" + value, value)
        engine.put(b"key", value)
        engine.flush()
    engine.close()
    tables(path, 1)[0].unlink()
    (path / "MANIFEST").unlink()
    report = mended(path)
    assert pairs(path) == {b"key": b"3", b"key3": b"3"}
    assert "the table that held the writes from number" in report.losses[0].meaning
    assert report.doubtful == 1


def test_a_segment_that_was_sealed_before_its_first_write_leaves_no_hole(tmp_path: Path) -> None:
    path = tmp_path / "store"
    engine = opened(path)
    engine.put(b"a", b"1")
    engine.flush()
    engine._path.maintenance.rotate()
    engine.flush()
    engine.put(b"b", b"2")
    engine.flush()
    engine.close()
    (path / "MANIFEST").unlink()
    report = mended(path)
    assert (pairs(path), report.losses) == ({b"a": b"1", b"b": b"2"}, [])


def test_flushes_after_a_clear_cannot_be_told_from_those_of_early_days(tmp_path: Path) -> None:
    path = tmp_path / "store"
    engine = opened(path)
    engine.put(b"gone", b"1")
    engine.flush()
    left = {file.name: file.read_bytes() for file in path.glob("*.sst")}
    engine.clear()
    engine.put(b"key", b"1")
    engine.flush()
    engine.close()
    for name, data in left.items():
        (path / name).write_bytes(data)
    assert mended(path).losses == []
    assert pairs(path) == {b"key": b"1"}
    shutil.rmtree(path)
    shutil.copytree(tmp_path / "store.damaged", path)
    (path / "MANIFEST").unlink()
    report = mended(path)
    assert pairs(path) == {b"key": b"1", b"gone": b"1"}
    assert any("may be back" in loss.meaning for loss in report.losses)


def test_a_log_of_which_nobody_knows_where_it_belongs_is_handed_over(store: Path) -> None:
    (log,) = store.glob("*.wal")
    flip(log, 20)
    (store / "MANIFEST").unlink()
    report = mended(store)
    assert pairs(store) == NOW
    assert any("not known where it belongs" in loss.meaning for loss in report.losses)
    assert report.handed_over is not None
    (line,) = map(json.loads, Path(report.handed_over).read_text().splitlines())
    assert (line["file"], line["key"], line["value"]) == (log.name, "log", "1")


def test_logs_that_the_next_process_has_taken_over_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "store"
    engine = opened(path)
    engine.put(b"key", b"old")
    engine.put(b"gone", b"1")
    engine.close()
    (log,) = path.glob("*.wal")
    data = log.read_bytes()
    engine = opened(path)
    engine.delete(b"gone")
    engine.put(b"key", b"new")
    engine.close()
    log.write_bytes(data)
    (path / "MANIFEST").unlink()
    report = mended(path)
    assert (pairs(path), report.losses) == ({b"key": b"new"}, [])
    assert log.name in report.taken
