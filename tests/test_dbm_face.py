"""The look-alike of the standard module dbm."""

from __future__ import annotations

import dbm as stdlib_dbm
import dbm.dumb as stdlib_dumb
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

import oblivion_dbm
from oblivion_dbm import dbm


def test_it_is_not_the_standard_module() -> None:
    assert dbm is not stdlib_dbm
    assert dbm.open is not stdlib_dbm.open
    assert set(stdlib_dbm.__all__) == set(dbm.__all__)


@pytest.mark.parametrize(
    "source",
    [
        "import oblivion_dbm; oblivion_dbm.dbm.open(path, 'c').close()",
        "import oblivion_dbm.dbm; oblivion_dbm.dbm.open(path, 'c').close()",
        "import dbm, oblivion_dbm; oblivion_dbm.dbm.open(path, 'c').close()",
        "import oblivion_dbm, dbm; oblivion_dbm.dbm.open(path, 'c').close()",
        "from oblivion_dbm import dbm; dbm.open(path, 'c').close()",
        "from oblivion_dbm.dbm import open; open(path, 'c').close()",
        "import oblivion_dbm; oblivion_dbm.install(); oblivion_dbm.dbm.open(path, 'c').close()",
        "from oblivion_dbm import *; dbm.open(path, 'c').close()",
    ],
)
def test_any_order_of_imports_works(tmp_path: Path, source: str) -> None:
    code = f"path = {str(tmp_path / 'store')!r}\n{source}"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=tmp_path)
    assert oblivion_dbm.whichdb(tmp_path / "store") == "oblivion_dbm"


def test_paths_of_every_type_open(tmp_path: Path) -> None:
    path = tmp_path / "store"
    for kind in (str(path), os.fsencode(path), path):
        with dbm.open(kind, "c") as db:
            db["key"] = "value"
        with dbm.open(file=kind, flag="r", mode=0o600) as db:
            assert db["key"] == b"value"


def test_error_is_a_tuple_that_catches_every_kind(tmp_path: Path) -> None:
    assert dbm.error[0] is oblivion_dbm.error
    assert set(stdlib_dbm.error) <= set(dbm.error)
    with pytest.raises((KeyError, *dbm.error)):
        dbm.open(tmp_path / "missing")
    with pytest.raises(dbm.error):
        raise stdlib_dbm.error[0]("what the standard module raises")
    stdlib_dumb.open(str(tmp_path / "dumb"), "c").close()
    db = dbm.open(tmp_path / "dumb", "r")
    with pytest.raises(dbm.error):
        db["key"] = "value"
    db.close()


@pytest.mark.parametrize("flag", ["r", "w"])
def test_a_missing_database_is_named(tmp_path: Path, flag: str) -> None:
    with pytest.raises(dbm.error[0], match="'c'") as caught:
        dbm.open(tmp_path / "missing", flag)
    assert isinstance(caught.value, OSError)
    assert caught.value.errno == errno.ENOENT
    assert caught.value.filename == str(tmp_path / "missing")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(b"neither this nor that")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "letter").write_text("Dear reader")
    for name in ("junk", "folder"):
        for flag in ("r", "w", "c"):
            with pytest.raises(dbm.error[0]):
                dbm.open(tmp_path / name, flag)
    assert (tmp_path / "junk").read_bytes() == b"neither this nor that"
    assert os.listdir(tmp_path / "folder") == ["letter"]


def test_an_existing_file_opens_with_its_own_module(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with stdlib_dumb.open(str(path), "c") as db:
        db["key"] = "value"
    for flag in ("r", "w", "c"):
        with dbm.open(path, flag) as db:
            assert type(db).__module__ == "dbm.dumb"
            assert db["key"] == b"value"


def test_a_new_database_beside_an_old_file_is_ours(tmp_path: Path) -> None:
    stdlib_dumb.open(str(tmp_path / "file"), "c").close()
    dbm.open(tmp_path / "file", "n").close()
    assert dbm.whichdb(tmp_path / "file") == "oblivion_dbm"


def test_options_go_to_our_stores_and_no_others(tmp_path: Path) -> None:
    with dbm.open(tmp_path / "store", "c", sync="off", lock_timeout=0.1) as db:
        db["key"] = "value"
    stdlib_dumb.open(str(tmp_path / "file"), "c").close()
    with pytest.raises(ValueError, match=r"dbm\.dumb.*sync"):
        dbm.open(tmp_path / "file", "c", sync="off")


def test_a_kind_whose_module_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes((0x13579ACE).to_bytes(4, sys.byteorder) + bytes(60))
    monkeypatch.setitem(sys.modules, "dbm.gnu", None)
    with pytest.raises(dbm.error[0], match=r"db type is dbm\.gnu, but .* not available"):
        dbm.open(tmp_path / "file")


def test_the_other_modules_are_the_standard_ones() -> None:
    assert dbm.dumb is stdlib_dumb
    assert dbm._modules is stdlib_dbm._modules  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = dbm.no_such_name
