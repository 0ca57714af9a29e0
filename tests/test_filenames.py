"""File names are made and parsed in one place, and nothing else is taken for ours."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from oblivion_dbm.engine import filenames


@given(st.integers(0, 10**12))
def test_a_name_that_was_made_parses_back(number: int) -> None:
    assert filenames.parse(filenames.log(number)) == ("wal", number)
    assert filenames.parse(filenames.table(number)) == ("sst", number)
    assert filenames.parse(filenames.lost(number)) == ("lost", number)


@given(st.text(max_size=12))
@example("000001.wal")
def test_what_parses_is_exactly_what_would_be_made(name: str) -> None:
    parsed = filenames.parse(name)
    if parsed is not None:
        kind, number = parsed
        make = {"wal": filenames.log, "sst": filenames.table, "lost": filenames.lost}[kind]
        assert make(number) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", "MANIFEST", "LOCK", "1.wal", "00001.wal", "0000001.wal", "+00001.wal", "-00001.wal"),
        *("00_001.wal", " 00001.wal", "000001.WAL", "000001.wal.bak", "000001", ".wal"),
        "00001a.sst",
        *("\u0660\u0660\u0660\u0660\u0660\u0661.wal", "000001.wal\n", "000001..wal", "000001.sst~"),
    ],
)
def test_other_names_are_left_alone(name: str) -> None:
    assert filenames.parse(name) is None


def test_only_names_of_a_store_are_ours() -> None:
    ours = ["MANIFEST", "MANIFEST.new", "LOCK", "000001.wal", "000002.sst", "1000000.lost"]
    ours += ["UNFINISHED", "000001.wal.new", "000002.sst.new"]
    assert all(filenames.is_ours(name) for name in ours)
    others = ["manifest", "MANIFEST.old", "lock", "1.sst", "notes", "1.sst.new", ".new", "a.new"]
    assert not any(map(filenames.is_ours, others))


def test_a_file_that_is_being_made_has_a_name_of_its_own() -> None:
    for name in (filenames.table(9), filenames.log(12)):
        assert filenames.is_fresh(filenames.fresh(name))
        assert not filenames.is_fresh(name)
        assert filenames.parse(filenames.fresh(name)) is None
    assert filenames.fresh(filenames.MANIFEST) == filenames.MANIFEST_NEW
    assert not filenames.is_fresh(filenames.MANIFEST_NEW)
