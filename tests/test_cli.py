"""The program's words, its exit codes, and where it says what."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import oblivion_dbm
from oblivion_dbm import Database
from oblivion_dbm.cli import main

COMMANDS = ["tour", "run", "import-wal", "verify", "repair", "backup", "restore", "stats"]

PROGRAM = [sys.executable, "-m", "oblivion_dbm"]


def oblivion(*words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the program and wait for it."""
    return subprocess.run(
        [*PROGRAM, *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=300,
        check=False,
    )


def entry(operation: int, key: bytes, value: bytes) -> bytes:
    body = struct.pack("<BI", operation, len(key)) + key + struct.pack("<I", len(value)) + value
    return body + struct.pack("<I", zlib.crc32(body))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    with Database(path, "c") as database:
        database.update({b"%03d" % number: b"value" for number in range(100)})
        database.flush()
    return path


def assert_one_line(text: str, *parts: str | Path) -> None:
    """A complaint is one line, from the program, that names every part."""
    assert text.startswith("oblivion-dbm: ")
    assert text.count("\n") == 1
    assert text.endswith("\n")
    for part in parts:
        assert str(part) in text


def test_version() -> None:
    done = oblivion("--version")
    assert (done.returncode, done.stdout) == (0, f"oblivion-dbm {oblivion_dbm.__version__}\n")


def test_help_names_every_command_and_the_exit_codes() -> None:
    done = oblivion("--help")
    assert done.returncode == 0
    listed = re.findall(r"^  ([a-z-]+) {2,}[a-z]", done.stdout, re.MULTILINE)
    assert [word for word in listed if not word.startswith("-")] == COMMANDS
    assert "exit codes" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_shows_an_example(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"example:\n  oblivion-dbm {command} " in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["no-such-command"],
        ["verify"],
        ["repair"],
        ["run"],
        ["run", "--bogus"],
        ["import-wal", "only-one"],
        ["backup", "only-one"],
        ["restore", "only-one"],
        ["restore", "a", "b", "--copy"],
        ["stats", "a", "b"],
        ["tour", "--records", "1"],
        ["tour", "--records", "many"],
    ],
)
def test_a_command_line_that_makes_no_sense_is_usage(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("usage: oblivion-dbm")


@pytest.mark.parametrize("command", ["verify", "repair", "stats"])
def test_a_store_that_is_not_there_is_one_line(command: str, tmp_path: Path) -> None:
    done = oblivion(command, tmp_path / "missing")
    assert (done.returncode, done.stdout) == (1, "")
    assert_one_line(done.stderr, tmp_path / "missing")
    assert os.listdir(tmp_path) == []


def test_verify_finds_nothing_in_a_sound_store(store: Path) -> None:
    done = oblivion("verify", store)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{store}: 100 records" in done.stdout


def test_verify_of_a_damaged_store_fails_and_says_where(store: Path) -> None:
    (table,) = store.glob("*.sst")
    content = bytearray(table.read_bytes())
    content[content.index(b"value")] ^= 1
    table.write_bytes(content)
    done = oblivion("verify", store)
    assert done.returncode == 1
    assert table.name in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_backup_and_restore_say_what_they_have_done(store: Path, tmp_path: Path) -> None:
    copy, again = tmp_path / "copy", tmp_path / "again"
    done = oblivion("backup", store, copy)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{copy}: 1 table of 0.0 MB (1 linked, 0 copied, 0 kept), " in done.stdout
    assert "(0 linked, 0 copied, 1 kept)" in oblivion("backup", store, copy).stdout
    assert "(0 linked, 1 copied, 0 kept)" in oblivion("backup", store, copy, "--copy").stdout
    done = oblivion("restore", copy, again, "--link")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{again}: 1 table of 0.0 MB (1 linked, 0 copied, 0 kept), " in done.stdout
    assert "sequence number " in done.stdout
    assert "nothing wrong" in done.stdout
    with Database(again, "r") as database:
        assert len(database) == 100


def test_what_backup_and_restore_refuse_is_one_line(store: Path, tmp_path: Path) -> None:
    copy, again = tmp_path / "copy", tmp_path / "again"
    oblivion("backup", store, copy, "--copy")
    done = oblivion("backup", store, store)
    assert (done.returncode, done.stdout) == (1, "")
    assert_one_line(done.stderr, store, "expected a place outside")
    (table,) = copy.glob("*.sst")
    content = bytearray(table.read_bytes())
    content[content.index(b"value")] ^= 1
    table.write_bytes(content)
    done = oblivion("restore", copy, again)
    assert (done.returncode, done.stdout) == (1, "")
    assert_one_line(done.stderr, table, "damaged at byte")
    assert not again.exists()
    done = oblivion("backup", tmp_path / "missing", tmp_path / "new")
    assert_one_line(done.stderr, tmp_path / "missing")


def test_repair_says_what_it_has_saved_and_what_was_lost(store: Path) -> None:
    done = oblivion("repair", store)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == f"repaired store: {store}, records: 100"
    assert done.stdout.splitlines()[-1] == "nothing was lost"
    table = next(store.glob("*.sst"))
    data = bytearray(table.read_bytes())
    data[20] ^= 1
    data[21] ^= 1  # of one bit it is certain what it was
    table.write_bytes(data)
    done = oblivion("repair", store, "--to", store.parent / "new", "--take-doubtful")
    assert (done.returncode, done.stderr) == (1, "")
    assert f"lost: {table}: " in done.stdout
    assert len(Database(store.parent / "new", "r")) == 99


def test_stats_are_rows_or_json(store: Path) -> None:
    rows = oblivion("stats", store)
    assert rows.returncode == 0
    figures = json.loads(oblivion("stats", store, "--json").stdout)
    assert isinstance(figures, dict)
    named = {line.split()[0].split(".")[0] for line in rows.stdout.splitlines()}
    assert named == set(figures)


def test_import_wal_reports_what_it_did(tmp_path: Path) -> None:
    log, store = tmp_path / "seed.wal", tmp_path / "store"
    log.write_bytes(entry(1, b"a", b"1") + entry(1, b"b", b"2") + entry(2, b"a", b""))
    done = oblivion("import-wal", log, store)
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 puts and 1 delete from 44 bytes; 1 record now" in done.stdout
    with Database(store, "r") as database:
        assert dict(database.items()) == {b"b": b"2"}


def test_import_wal_of_a_damaged_log_fails_and_keeps_what_precedes(tmp_path: Path) -> None:
    log, store = tmp_path / "seed.wal", tmp_path / "store"
    log.write_bytes(entry(1, b"a", b"1") + b"\x09")
    done = oblivion("import-wal", log, store)
    assert done.returncode == 1
    assert "1 put and 0 deletes from 15 bytes" in done.stdout
    assert_one_line(done.stderr, f"{log}: damaged at byte 15", "found 9")
    with Database(store, "r") as database:
        assert dict(database.items()) == {b"a": b"1"}


def test_import_wal_of_a_missing_log_makes_no_store(tmp_path: Path) -> None:
    done = oblivion("import-wal", tmp_path / "missing", tmp_path / "store")
    assert done.returncode == 1
    assert_one_line(done.stderr, f"{tmp_path / 'missing'}: No such file")
    assert os.listdir(tmp_path) == []


def test_run_hands_the_script_its_words_as_they_are(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import sys\nprint(sys.argv[1:])\nsys.exit(7)\n")
    words = ["--help", "--", "-x", "--", "tour"]
    done = oblivion("run", script, *words)
    assert (done.returncode, done.stdout, done.stderr) == (7, f"{words}\n", "")


def test_run_puts_our_stores_behind_shelve(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import shelve\nwith shelve.open('kept') as shelf:\n    shelf['answer'] = 42\n"
    )
    assert oblivion("run", script, cwd=tmp_path).returncode == 0
    with Database(tmp_path / "kept", "r") as database:
        assert list(database) == [b"answer"]


def test_run_leaves_the_script_its_traceback(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("open('/no/such/file')\n")
    done = oblivion("run", script)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "FileNotFoundError" in done.stderr


def test_a_reader_that_leaves_is_no_traceback(store: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [*PROGRAM, "stats", str(store)],
            stdout=write,
            stderr=subprocess.PIPE,
            timeout=300,
            check=False,
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.fixture
def heeds_ctrl_c() -> Iterator[None]:
    """A shell lets what it starts in the background ignore SIGINT, and children inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_ctrl_c_is_one_line(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*PROGRAM, "tour", str(tmp_path / "store")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("oblivion-dbm ")
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        try:
            _, complaint = process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            # Python drops an exception that comes in a finaliser, and says so.
            process.send_signal(signal.SIGINT)
            _, complaint = process.communicate(timeout=300)
    assert process.returncode == 130
    assert complaint.endswith("oblivion-dbm: interrupted\n")
