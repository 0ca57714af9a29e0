"""A damaged slot of synced-up-to hides nothing from readers in mode "full"."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from oblivion_dbm import CorruptionError, Database
from oblivion_dbm.engine.header_page import SLOT_SIZE, SLOTS_AT, read_slot


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Give the log of a store whose writer was killed, with one write more than two syncs."""
    with Database(tmp_path / "work", sync="full") as database:
        for value in (b"1", b"2", b"3"):
            database[b"key"] = value
        shutil.copytree(tmp_path / "work", tmp_path / "store")
    (log,) = (tmp_path / "store").glob("*.wal")
    return log


@pytest.mark.parametrize("place", range(SLOT_SIZE))
@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_a_changed_byte_of_the_newest_slot_is_reported(log: Path, place: int, mask: int) -> None:
    data = bytearray(log.read_bytes())
    newest = max(SLOTS_AT, key=lambda at: read_slot(data, at) or (0, 0, 0))
    data[newest + place] ^= mask
    log.write_bytes(data)
    with pytest.raises(CorruptionError, match="slot of synced-up-to") as caught:
        Database(log.parent, "r")
    assert caught.value.offset == newest
    with Database(log.parent, "w") as database:  # for whom it means nothing in this boot
        assert database[b"key"] == b"3"
    with Database(log.parent, "r") as database:
        assert database[b"key"] == b"3"


@pytest.mark.parametrize("place", range(SLOT_SIZE))
def test_a_kill_while_a_slot_is_stored_is_no_damage(log: Path, place: int) -> None:
    data = bytearray(log.read_bytes())
    newest = max(SLOTS_AT, key=lambda at: read_slot(data, at) or (0, 0, 0))
    data[newest : newest + 8] = bytes(8)
    data[newest + max(8, place) : newest + SLOT_SIZE] = bytes(SLOT_SIZE - max(8, place))
    log.write_bytes(data)
    with Database(log.parent, "r") as database:
        assert database[b"key"] == b"2"  # what the sync before has told of
    with Database(log.parent, "w") as database:
        assert database[b"key"] == b"3"
