"""The tour goes well on a sound store, and says so when a store lies."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from oblivion_dbm import Database
from oblivion_dbm.cli import main, tour, tour_checks, tour_records, tour_writer
from oblivion_dbm.cli.tour_checks import Difference, Expected
from oblivion_dbm.cli.tour_records import Change, apply

SMALL = 20_000

STEPS = [
    *("read", "store", "check", "kill", "recover", "check"),
    *("go on", "scan", "compact", "check", "reopen"),
]

RECORDS = {b"word/%s a.py" % word: b"1" for word in (b"async", b"asyncio", b"await", b"zip")}
RECORDS[b"file/a.py"] = b"async asyncio await zip"


@pytest.fixture
def database(tmp_path: Path) -> Any:
    with Database(tmp_path / "store") as database:
        yield database


@pytest.fixture
def expected(database: Database) -> Expected:
    """A store of a few records, one deleted and one deleted and back, and what is expected."""
    expected = Expected()
    gone, back = b"word/gone a.py", b"word/zip a.py"
    fill: Change = (*RECORDS.items(), (gone, b"1"))
    changes: list[Change] = [fill, ((gone, None), (back, None)), ((back, RECORDS[back]),)]
    for change in changes:
        apply(database, change)
        expected.apply(change)
    return expected


def check_all(database: Database, expected: Expected) -> None:
    tour_checks.check_records(database, expected)
    tour_checks.check_lookups(database, expected)
    tour_checks.check_prefix(database, expected, b"word/", b"async")
    tour_checks.check_verify(database)


# --- the whole tour -----------------------------------------------------------------


def test_the_tour_of_an_installed_package_ends_well(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "oblivion_dbm", "tour", "--records", str(SMALL)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert done.stderr == ""
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    steps = [line for line in lines if re.match(r"[ \d]\d  ", line)]
    assert [line[4:13].strip() for line in steps] == STEPS
    assert all(re.search(r" +\d+\.\d\d s$", line) and len(line) == 80 for line in steps)
    assert "\x1b" not in done.stdout
    assert done.stdout.isascii()
    assert max(len(line) for line in lines[1:-1]) <= 80
    assert os.listdir(tmp_path) == []


def test_a_directory_that_is_given_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "kept"
    path.mkdir()
    assert main(["tour", str(path), "--records", str(SMALL)]) == 0
    assert str(path) in capsys.readouterr().out.splitlines()[-1]
    library = tour_records.read_library(SMALL)
    assert library.beyond > 0
    expected = Expected()
    for change in tour_records.filling(library):
        expected.apply(change)
    assert len(expected.records) >= SMALL
    for changes in tour_records.changing(library):
        for change in changes:
            expected.apply(change)
    with Database(path, "r") as database:
        assert dict(database.items()) == expected.records


@pytest.mark.parametrize("kind", ["directory", "file", "store"])
def test_a_place_that_holds_something_is_refused_and_left_alone(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "taken"
    if kind == "directory":
        path.mkdir()
        (path / "letter.txt").write_text("keep me")
    elif kind == "file":
        path.write_text("keep me")
    else:
        with Database(path) as store:
            store["keep"] = "me"
    before = {each: each.read_bytes() for each in tmp_path.rglob("*") if each.is_file()}
    assert main(["tour", str(path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"oblivion-dbm: {path}: expected a new or an empty directory")
    assert before == {each: each.read_bytes() for each in tmp_path.rglob("*") if each.is_file()}


def run_with(liar: type[Database], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> int:
    """Run the small tour on another kind of store, in a temporary directory of its own."""
    monkeypatch.setattr(tour, "Database", liar)
    monkeypatch.setattr(tour.tempfile, "mkdtemp", lambda **_: str(tmp_path))  # type: ignore[attr-defined]
    return main(["tour", "--records", str(SMALL)])


def test_a_store_that_loses_a_record_in_recovery_fails_the_tour(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Forgetful(Database):
        def __init__(self, path: str, flag: str = "c") -> None:
            super().__init__(path, flag)
            if flag == "w":
                self.pop(self.last()[0])

    assert run_with(Forgetful, monkeypatch, tmp_path) == 1
    captured = capsys.readouterr()
    assert "is missing" in captured.err
    assert f"it is left in {tmp_path}" in captured.err
    assert " 6  check    FAILED" in captured.out
    assert "All as it should be" not in captured.out
    with Database(tmp_path / "store", "r") as database:
        assert len(database) > 0


def test_a_store_that_keeps_what_was_deleted_fails_the_tour(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Hoarder(Database):
        def __delitem__(self, key: Any) -> None:
            pass

    assert run_with(Hoarder, monkeypatch, tmp_path) == 1
    captured = capsys.readouterr()
    assert "is there and should not be" in captured.err
    assert "10  check    FAILED" in captured.out


def test_a_writer_that_ends_by_itself_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tour.sys, "path", [])  # type: ignore[attr-defined]
    assert main(["tour", str(tmp_path / "store"), "--records", str(SMALL)]) == 1
    assert "the writing process ended by itself, with exit code 1" in capfd.readouterr().err


# --- each check, on a store that lies -----------------------------------------------


def test_the_checks_pass_on_a_sound_store(database: Database, expected: Expected) -> None:
    check_all(database, expected)


def test_a_missing_record_is_found(database: Database, expected: Expected) -> None:
    del database[b"word/asyncio a.py"]
    with pytest.raises(Difference, match=r"(?s)1 records differ.*asyncio a.py' is missing"):
        tour_checks.check_records(database, expected)
    with pytest.raises(Difference, match=r"(?s)1 look-ups differ.*asyncio a.py' is not found"):
        tour_checks.check_lookups(database, expected)
    with pytest.raises(Difference, match=r"gives 1 records, expected 2; .*asyncio a.py"):
        tour_checks.check_prefix(database, expected, b"word/", b"async")


def test_a_changed_value_is_found(database: Database, expected: Expected) -> None:
    database[b"word/async a.py"] = b"2"
    with pytest.raises(Difference, match=r"async a.py' holds '2', expected '1'"):
        tour_checks.check_records(database, expected)
    with pytest.raises(Difference, match=r"async a.py' gives '2', expected '1'"):
        tour_checks.check_lookups(database, expected)
    with pytest.raises(Difference, match=r"they first differ at 'async a.py'"):
        tour_checks.check_prefix(database, expected, b"word/", b"async")


def test_a_record_that_came_back_is_found(database: Database, expected: Expected) -> None:
    database[b"word/gone a.py"] = b"1"
    with pytest.raises(Difference, match=r"gone a.py' is there and should not be"):
        tour_checks.check_records(database, expected)
    with pytest.raises(Difference, match=r"gone a.py' finds it, expected it to be deleted"):
        tour_checks.check_lookups(database, expected)


def test_only_the_first_differences_are_shown(database: Database, expected: Expected) -> None:
    for number in range(20):
        database[b"odd/%02d" % number] = b""
    with pytest.raises(Difference) as caught:
        tour_checks.check_records(database, expected)
    lines = str(caught.value).splitlines()
    assert lines[0] == "20 records differ:"
    assert len(lines) == 6


class Lying:
    """A store that tells the truth except where a method is replaced."""

    def __init__(self, database: Database, **lies: Any) -> None:
        self._database = database
        self._lies = lies

    def __getattr__(self, name: str) -> Any:
        return self._lies[name] if name in self._lies else getattr(self._database, name)

    def __len__(self) -> int:
        return self._lies["len"] if "len" in self._lies else len(self._database)

    def __contains__(self, key: bytes) -> bool:
        return key in self._database


def test_a_wrong_order_is_found(database: Database, expected: Expected) -> None:
    lying: Any = Lying(database, scan=lambda: sorted(RECORDS.items(), reverse=True))
    with pytest.raises(Difference, match=r"'word/await a.py' comes after 'word/zip a.py'"):
        tour_checks.check_records(lying, expected)


def test_a_record_given_twice_is_found(database: Database, expected: Expected) -> None:
    records = sorted(RECORDS.items())
    lying: Any = Lying(database, scan=lambda: [*records, records[-1]])
    with pytest.raises(Difference, match="comes after"):
        tour_checks.check_records(lying, expected)


def test_a_wrong_len_first_or_last_is_found(database: Database, expected: Expected) -> None:
    pair = (b"word/await a.py", b"1")
    lies: list[tuple[dict[str, Any], str]] = [
        ({"len": 7}, "len is 7, expected 5"),
        ({"first": lambda: pair}, r"first\(\) gives 'word/await a.py', expected 'file/a.py'"),
        ({"last": lambda: pair}, r"last\(\) gives 'word/await a.py', expected 'word/zip a.py'"),
    ]
    for lie, said in lies:
        lying: Any = Lying(database, **lie)
        with pytest.raises(Difference, match=said):
            tour_checks.check_records(lying, expected)


def test_what_verify_finds_is_told(database: Database) -> None:
    lying: Any = Lying(database, verify=lambda: ["000009.sst: damaged at byte 12"])
    with pytest.raises(Difference, match=r"verify\(\) reports: 000009.sst: damaged at byte 12"):
        tour_checks.check_verify(lying)


def test_the_change_in_progress_is_whole_or_absent(database: Database, expected: Expected) -> None:
    change: Change = ((b"new", b"1"), (b"word/zip a.py", None), (b"file/a.py", b"other"))
    assert tour_checks.settle(database, expected, change) is False
    assert b"new" not in expected.records
    database[b"new"] = b"1"
    with pytest.raises(Difference, match="neither absent nor whole"):
        tour_checks.settle(database, expected, change)
    apply(database, change)
    assert tour_checks.settle(database, expected, change) is True
    check_all(database, expected)
    assert tour_checks.settle(database, expected, ()) is False


def test_what_was_acknowledged_is_there_and_at_most_one_change_more(tmp_path: Path) -> None:
    """Kill after 2 acknowledgements; the store has seen 1, 2, 3 or 4 of 5 changes."""
    plan: list[Change] = [((b"%d" % number, b"value"),) for number in range(5)]
    for seen in (1, 2, 3, 4):
        said: list[str] = []
        changes = iter(plan)
        with Database(tmp_path / str(seen)) as database:
            for change in plan[:seen]:
                apply(database, change)
            if seen in (2, 3):
                rest = tour._check_the_kill(said.append, database, Expected(), changes, 2)
                assert list(rest) == plan[seen:]
                assert ("is there as a whole" in said[1]) == (seen == 3)
                continue
            with pytest.raises(Difference, match=r"'1' is missing|'3' is there and should not be"):
                tour._check_the_kill(said.append, database, Expected(), changes, 2)
            assert said == []


# --- the records ----------------------------------------------------------------------


def test_the_changes_overwrite_delete_and_add(tmp_path: Path) -> None:
    library = tour_records.read_library(SMALL)
    there = {key for change in tour_records.filling(library) for key, _ in change}
    for changes in tour_records.changing(library):
        for change in changes:
            assert len({key for key, _ in change}) == len(change)
            assert all(key in there for key, value in change if value is None)
            there.update(key for key, value in change if value is not None)
            there.difference_update(key for key, value in change if value is None)
    kinds = {
        (len(change) > 1, value is None)
        for changes in tour_records.changing(library)
        for change in changes
        for _, value in change
    }
    assert kinds == {(True, True), (True, False), (False, True), (False, False)}


def test_there_are_enough_changes_to_be_killed_in_the_middle() -> None:
    """The writer runs up to a pipe's worth ahead of what is read from it."""
    library = tour_records.read_library(SMALL)
    total = sum(map(len, tour_records.changing(library)))
    ahead = (1 << 16) // tour_writer.ACKNOWLEDGEMENT
    assert total * tour.BEFORE_THE_KILL + ahead + 1 < total


def test_a_library_that_is_compiled_only_is_counted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    library = tmp_path / "library"
    (library / "package").mkdir(parents=True)
    (library / "site-packages").mkdir()
    (library / "site-packages" / "foreign.py").write_text("foreign = 1\n")
    (library / "bare.pyc").write_bytes(b"")
    monkeypatch.setattr(tour_records.sysconfig, "get_path", lambda _: str(library))  # type: ignore[attr-defined]
    assert main(["tour", str(tmp_path / "none")]) == 1
    assert "has no sources" in capsys.readouterr().err

    (library / "both.py").write_text("import asyncio  # twice: asyncio\n")
    (library / "both.pyc").write_bytes(b"")
    (library / "package" / "inner.py").write_text("async def inner(): pass\n")
    (library / "dangling.py").symlink_to("nowhere")
    read = tour_records.read_library(1000)
    assert list(read.files) == ["both.py", "package/inner.py"]
    assert (read.beyond, read.compiled_only, read.unreadable) == (0, 1, 1)
    assert main(["tour", str(tmp_path / "store")]) == 0
    out = capsys.readouterr().out
    assert "(without 1 file more, which came compiled, without source)" in out
    assert "(without 1 file more, which could not be read)" in out
