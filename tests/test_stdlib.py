"""Standing in for the standard library: whichdb, install, uninstall, run."""

from __future__ import annotations

import contextlib
import dbm as stdlib_dbm
import dbm.dumb as stdlib_dumb
import errno
import os
import shelve as stdlib_shelve
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import oblivion_dbm
from oblivion_dbm import stdlib

STANDARD_OPEN = stdlib_dbm.open
STANDARD_WHICHDB = stdlib_dbm.whichdb


@pytest.fixture
def installed() -> Iterator[None]:
    oblivion_dbm.install()
    yield
    oblivion_dbm.uninstall()


def python(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder that is not the checkout, where the installed package is found."""
    command = [sys.executable, *(str(argument) for argument in arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def run(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    code = "import sys; from oblivion_dbm.stdlib import run_script; run_script(sys.argv[1:])"
    return python("-c", code, *arguments, cwd=cwd)


def backends() -> list[ModuleType]:
    """The standard modules that this interpreter has."""
    found = []
    for name in ("dumb", "gnu", "ndbm", "sqlite3"):
        with contextlib.suppress(ImportError):
            found.append(import_module(f"dbm.{name}"))
    return found


def path_kinds(path: Path) -> list[Any]:  # typeshed's dbm.open takes a str on 3.10
    return [str(path), os.fsencode(path), path]


def test_whichdb_knows_a_store(tmp_path: Path) -> None:
    oblivion_dbm.open(tmp_path / "store", "c").close()
    for path in path_kinds(tmp_path / "store"):
        assert oblivion_dbm.whichdb(path) == "oblivion_dbm"


def test_whichdb_hands_the_rest_to_the_standard_module(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "MANIFEST").write_bytes(b"include README.md\n")
    (tmp_path / "junk").write_bytes(b"neither this nor that")
    for module in backends():
        module.open(str(tmp_path / module.__name__), "c").close()
        for path in path_kinds(tmp_path / module.__name__):
            assert oblivion_dbm.whichdb(path) == module.__name__
    for path in path_kinds(tmp_path / "junk"):
        assert oblivion_dbm.whichdb(path) == ""
    for name in ("directory", "other", "missing"):
        for path in path_kinds(tmp_path / name):
            assert oblivion_dbm.whichdb(path) is None


def test_whichdb_wants_a_path() -> None:
    with pytest.raises(TypeError):
        oblivion_dbm.whichdb(5)  # type: ignore[arg-type]


@pytest.mark.usefixtures("installed")
def test_installed_the_standard_modules_create_and_find_our_stores(tmp_path: Path) -> None:
    for number, path in enumerate(path_kinds(tmp_path / "store")):
        with stdlib_dbm.open(path, "c") as db:
            db["key"] = f"value {number}"
        assert stdlib_dbm.whichdb(path) == "oblivion_dbm"
        with stdlib_dbm.open(path) as db:
            assert type(db).__module__.startswith("oblivion_dbm")
            assert db["key"] == f"value {number}".encode()


@pytest.mark.usefixtures("installed")
def test_installed_the_standard_shelve_keeps_its_objects_in_our_store(tmp_path: Path) -> None:
    with stdlib_shelve.open(str(tmp_path / "shelf")) as shelf:
        shelf["key"] = {"a": [1, 2]}
    assert stdlib_dbm.whichdb(str(tmp_path / "shelf")) == "oblivion_dbm"
    with stdlib_shelve.open(str(tmp_path / "shelf"), "r") as shelf:
        assert shelf["key"] == {"a": [1, 2]}


@pytest.mark.usefixtures("installed")
def test_installed_files_of_other_kinds_open_with_their_own_module(tmp_path: Path) -> None:
    for module in backends():
        path = tmp_path / module.__name__
        with module.open(str(path), "c") as db:
            db[b"key"] = b"value"
        for kind in path_kinds(path):
            with stdlib_dbm.open(kind, "w") as db:
                assert db[b"key"] == b"value"
                assert "oblivion" not in type(db).__module__
        assert oblivion_dbm.whichdb(path) == module.__name__


@pytest.mark.usefixtures("installed")
def test_installed_the_standard_error_catches_ours(tmp_path: Path) -> None:
    for flag in ("r", "w"):
        with pytest.raises(stdlib_dbm.error) as caught:
            stdlib_dbm.open(str(tmp_path / "missing"), flag)  # noqa: SIM115 - it is not opened
        assert isinstance(caught.value, oblivion_dbm.error)
        assert isinstance(caught.value, stdlib_dbm.error[0])
        assert caught.value.errno == errno.ENOENT
        assert caught.value.filename == str(tmp_path / "missing")
        assert "'c'" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("installed")
def test_installed_junk_gives_the_standard_message(tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(b"neither this nor that")
    with pytest.raises(stdlib_dbm.error[0]) as caught:
        stdlib_dbm.open(str(tmp_path / "junk"), "c")  # noqa: SIM115 - it is not opened
    assert str(caught.value) == "db type could not be determined"
    assert isinstance(caught.value, oblivion_dbm.error)
    assert caught.value.filename == str(tmp_path / "junk")
    assert (tmp_path / "junk").read_bytes() == b"neither this nor that"


@pytest.mark.usefixtures("installed")
def test_installed_a_new_database_replaces_junk(tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(b"neither this nor that")
    with stdlib_dbm.open(str(tmp_path / "junk"), "n") as db:
        assert len(db) == 0
    assert oblivion_dbm.whichdb(tmp_path / "junk") == "oblivion_dbm"


def test_uninstall_gives_back_the_functions_from_before(tmp_path: Path) -> None:
    oblivion_dbm.uninstall()
    assert (stdlib_dbm.open, stdlib_dbm.whichdb) == (STANDARD_OPEN, STANDARD_WHICHDB)
    oblivion_dbm.install()
    oblivion_dbm.install()
    assert stdlib_dbm.open is stdlib.open
    oblivion_dbm.uninstall()
    oblivion_dbm.uninstall()
    assert (stdlib_dbm.open, stdlib_dbm.whichdb) == (STANDARD_OPEN, STANDARD_WHICHDB)
    with stdlib_dbm.open(str(tmp_path / "file"), "c") as db:
        assert "oblivion" not in type(db).__module__
    assert oblivion_dbm.whichdb(tmp_path / "file") != "oblivion_dbm"


def test_install_reaches_a_standard_module_that_was_imported_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    oblivion_dbm.install()
    try:
        monkeypatch.delitem(sys.modules, "dbm")
        import dbm as fresh

        assert fresh is not stdlib_dbm
        oblivion_dbm.install()
        fresh.open(str(tmp_path / "store"), "c").close()
        assert fresh.whichdb(str(tmp_path / "store")) == "oblivion_dbm"
    finally:
        oblivion_dbm.uninstall()
    assert stdlib_dbm.open is STANDARD_OPEN
    assert fresh.open is not stdlib.open


def test_a_standard_open_that_was_taken_before_finds_our_stores(tmp_path: Path) -> None:
    stdlib_dumb.open(str(tmp_path / "dumb"), "c").close()
    STANDARD_OPEN(str(tmp_path / "dumb")).close()  # fills in the modules it knows
    oblivion_dbm.install()
    try:
        stdlib_dbm.open(str(tmp_path / "store"), "c").close()
        with STANDARD_OPEN(str(tmp_path / "store"), "w") as db:
            assert type(db).__module__.startswith("oblivion_dbm")
    finally:
        oblivion_dbm.uninstall()


SCRIPT = """\
import dbm, os, shelve, sys
with dbm.open("notes", "c") as db:
    db["argv"] = repr(sys.argv)
    db["path"] = sys.path[0]
    db["main"] = repr((__name__, sys.modules["__main__"].__dict__ is globals(), __package__))
    db["file"] = __file__
    print(type(db).__module__.partition(".")[0], dbm.whichdb("notes"))
    for key in ("argv", "path", "main", "file"):
        print(db[key].decode())
"""


def test_run_gives_a_script_what_python_gives_it(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    script = tmp_path / "sub" / "script.py"
    script.write_text(SCRIPT)
    ran = run("sub/script.py", "-x", "two words", cwd=tmp_path)
    assert ran.stderr == ""
    assert ran.stdout.splitlines() == [
        "oblivion_dbm oblivion_dbm",
        repr(["sub/script.py", "-x", "two words"]),
        os.path.realpath(script.parent),
        repr(("__main__", True, None)),
        os.path.abspath(script),
    ]


@pytest.mark.parametrize("packed", [False, True])
def test_run_takes_a_folder_and_a_zip_file(tmp_path: Path, packed: bool) -> None:
    source = "import sys, beside; print(sys.argv, __name__, beside.here)"
    files = {"__main__.py": source, "beside.py": "here = 'found'"}
    (tmp_path / "program").mkdir()
    for name, text in files.items():
        (tmp_path / "program" / name).write_text(text)
    target = tmp_path / "program"
    if packed:
        target = tmp_path / "program.zip"
        with zipfile.ZipFile(target, "w") as archive:
            for name, text in files.items():
                archive.writestr(name, text)
    ran = run(target, "x", cwd=tmp_path)
    assert (ran.stdout, ran.stderr) == (f"{[str(target), 'x']} __main__ found\n", "")


def test_run_takes_a_module_and_a_package(tmp_path: Path) -> None:
    (tmp_path / "single.py").write_text("import sys; print(__name__, sys.argv[1:], __package__)")
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("where = 'here'")
    (tmp_path / "pack" / "__main__.py").write_text("from . import where; print(where, __package__)")
    assert run("-m", "single", "a", "-b", cwd=tmp_path).stdout == "__main__ ['a', '-b'] \n"
    assert run("-m", "pack", cwd=tmp_path).stdout == "here pack\n"


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("raise SystemExit(7)", 7),
        ("import sys; sys.exit()", 0),
        ("import sys; sys.exit('a reason')", 1),
        ("raise RuntimeError('it broke')", 1),
        ("pass", 0),
        ("not python", 1),
    ],
)
def test_run_keeps_the_exit_code(tmp_path: Path, source: str, code: int) -> None:
    (tmp_path / "script.py").write_text(source)
    assert run("script.py", cwd=tmp_path).returncode == code
    assert python("script.py", cwd=tmp_path).returncode == code


@pytest.mark.parametrize(
    "arguments", [[], ["-m"], ["missing.py"], ["."], ["-m", "no_such_module"], ["-m", "no.such"]]
)
def test_run_says_what_it_cannot_find(tmp_path: Path, arguments: list[str]) -> None:
    ran = run(*arguments, cwd=tmp_path)
    assert ran.returncode == 2
    assert "Traceback" not in ran.stderr
    assert ran.stderr.startswith(("cannot run", "usage: run"))


def test_run_pickles_what_a_shelf_left_for_the_end(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import atexit, shelve\n"
        "class Point:\n"
        "    def __init__(self, x): self.x = x\n"
        "shelf = shelve.open('shelf', writeback=True)\n"
        "shelf['p'] = Point(1)\n"
        "shelf['p'].x = 2\n"
        "atexit.register(shelf.close)\n"
    )
    (tmp_path / "again.py").write_text(
        "import shelve\n"
        "class Point: pass\n"
        "with shelve.open('shelf', 'r') as shelf: print(shelf['p'].x)\n"
    )
    assert run("script.py", cwd=tmp_path).stderr == ""
    assert run("again.py", cwd=tmp_path).stdout == "2\n"


def test_run_is_a_command(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    ran = python("-m", "oblivion_dbm", "run", "script.py", "--flag", cwd=tmp_path)
    assert ran.stdout.splitlines()[:2] == [
        "oblivion_dbm oblivion_dbm",
        repr(["script.py", "--flag"]),
    ]
    (tmp_path / "script.py").write_text("raise SystemExit(9)")
    assert python("-m", "oblivion_dbm", "run", "script.py", cwd=tmp_path).returncode == 9
    assert python("-m", "oblivion_dbm", "run", "missing.py", cwd=tmp_path).returncode == 2
