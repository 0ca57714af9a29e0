"""Stores of every format version there was open for ever, for reading and for writing.

``tests/formats/<version>/`` holds them; ``tests/formats/make.py`` made them, once.
"""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path

import pytest

from oblivion_dbm import Database
from oblivion_dbm.engine import manifest

FORMATS = Path(__file__).resolve().parent / "formats"
STORES = sorted(path.parent for path in FORMATS.glob("*/*/MANIFEST"))


def by_version(path: Path) -> str:
    """Name a parametrized case by format version and store."""
    return path.relative_to(FORMATS).as_posix()


def expected_of(store: Path) -> dict[bytes, bytes]:
    """Return what the store holds, as it was written down when it was made."""
    pairs = json.loads(store.with_suffix(".json").read_text())
    return {bytes.fromhex(key): bytes.fromhex(value) for key, value in pairs.items()}


def digests(store: Path) -> dict[str, str]:
    """Return a digest of each file."""
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in store.iterdir()}


def check(database: Database, expected: dict[bytes, bytes]) -> None:
    """Check what a store holds in every way there is to ask for it."""
    assert list(database.scan()) == sorted(expected.items())
    assert list(database.scan(reverse=True)) == sorted(expected.items(), reverse=True)
    assert [database[key] for key in expected] == list(expected.values())
    assert len(database) == len(expected)
    assert all(key + b"\0" not in database for key in expected)
    assert database.verify() == []


@pytest.fixture(params=STORES, ids=by_version)
def original(request: pytest.FixtureRequest) -> Path:
    """Return a store as it was committed."""
    path: Path = request.param
    return path


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Path:
    """Return a copy of it, to be opened."""
    return Path(shutil.copytree(original, tmp_path / "store"))


def test_the_present_format_has_its_stores() -> None:
    names = {by_version(path) for path in STORES}
    assert {f"{manifest.FORMAT}/tables", f"{manifest.FORMAT}/log"} <= names


def test_reading_finds_everything_and_changes_nothing(original: Path, copy: Path) -> None:
    before = digests(original)
    assert digests(copy) == before
    with Database(copy, "r") as database:
        check(database, expected_of(original))
    assert digests(copy) == before


def test_writing_goes_on_from_everything(original: Path, copy: Path) -> None:
    expected = expected_of(original)
    with Database(copy, "w") as database:
        check(database, expected)
        gone = min(expected)
        del database[gone], expected[gone]
        for key, value in ((b"new", b"value"), (max(expected), b"overwritten")):
            database[key] = expected[key] = value
        check(database, expected)
    with Database(copy, "w") as database:
        check(database, expected)
        database.compact()
        check(database, expected)
    with Database(copy, "r") as database:
        check(database, expected)


def test_the_stores_hold_every_kind_of_state() -> None:
    version = manifest.parse((FORMATS / "1" / "tables" / "MANIFEST").read_bytes(), "MANIFEST")
    assert len(version.logs) == 2
    assert [len(run.tables) for run in version.runs] == [3, 3]
    assert [run.level for run in version.runs] == [0, 1]
    assert version.runs[0].tombstones > 0
    assert bytes.fromhex(version.store_id) != bytes(16)
    version = manifest.parse((FORMATS / "1" / "log" / "MANIFEST").read_bytes(), "MANIFEST")
    assert (len(version.logs), version.runs) == (1, ())
