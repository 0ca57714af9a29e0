"""Of damaged logs everything before the damage counts, and everything in the next segment."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from gates.disk import Restarted
from oblivion_dbm.engine.damage import PatientFiles
from oblivion_dbm.engine.damaged_log import DamagedLog, Replay
from oblivion_dbm.engine.filesystem import FileSystem
from oblivion_dbm.engine.header_page import APPENDED_AT, CHAIN_AT, DATA_AT
from oblivion_dbm.engine.manifest import load
from oblivion_dbm.engine.options import Options
from oblivion_dbm.engine.record import BATCH, PUT, crc32c, encode
from oblivion_dbm.engine.storage_engine import Writer, open_store
from oblivion_dbm.errors import CorruptionError, error

SYSTEM = FileSystem()
RECORD = len(encode(PUT, b"0", b"value 0"))
#: How many of the ten keys stand in the first of three segments, and in the second.
FIRST, SECOND = 4, 4


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Return a store of three segments, of which the last is live."""
    path = tmp_path / "store"
    options = Options(background=False)
    engine = open_store(str(path), "c", options)
    assert isinstance(engine, Writer)
    for number in range(10):
        engine.put(b"%d" % number, b"value %d" % number)
        if number in (FIRST - 1, FIRST + SECOND - 1):
            engine._path.maintenance.rotate()
            engine._path.appender.limit = 1 << 15
    engine.close()
    assert len(load(SYSTEM, str(path)).logs) == 3
    return path


def keys(first: int, last: int) -> dict[bytes, bytes]:
    return {b"%d" % n: b"value %d" % n for n in range(first, last)}


def segments(path: Path) -> list[Path]:
    return sorted(path.glob("*.wal"))


def change(path: Path, at: int, data: bytes) -> None:
    whole = bytearray(path.read_bytes())
    whole[at : at + len(data)] = data
    path.write_bytes(whole)


def flip(path: Path, at: int) -> None:
    change(path, at, bytes([path.read_bytes()[at] ^ 0x10]))


def replayed(path: Path, system: FileSystem = SYSTEM) -> Replay:
    files = PatientFiles(system)
    logs = [DamagedLog(files, str(path), int(file.stem)) for file in segments(path)]
    replay = Replay(logs, system.boot())
    for log in logs:
        log.close()
    return replay


def values(replay: Replay) -> dict[bytes, bytes]:
    records = replay.memtable.merged()
    return {key: record[9 + len(key) : -4] for key, record in records.items() if record[0] == PUT}


def test_sound_logs_hold_everything(logs: Path) -> None:
    for system in (SYSTEM, Restarted(7)):
        replay = replayed(logs, system)
        assert values(replay) == keys(0, 10)
        assert (replay.losses, replay.notes, replay.tails, replay.gaps) == ([], [], [], [])


@pytest.mark.parametrize("system", [SYSTEM, Restarted(7)], ids=["same boot", "restarted"])
@pytest.mark.parametrize("place", [0, 1, FIRST - 1])
def test_damage_costs_what_follows_it_in_its_segment(
    logs: Path, place: int, system: FileSystem
) -> None:
    first = segments(logs)[0]
    at = DATA_AT + place * RECORD
    for byte in range(at, at + RECORD):
        flip(first, byte)
        replay = replayed(logs, system)
        assert values(replay) == keys(0, place) | keys(FIRST, 10)
        (loss,) = replay.losses
        assert (loss.file, loss.offset) == (first.name, at)
        assert loss.offset + loss.length == DATA_AT + FIRST * RECORD + 13  # up to the SEAL's end
        ((log, start, end),) = replay.gaps
        assert (log.name, start, end) == (first.name, at, DATA_AT + FIRST * RECORD + 13)
        flip(first, byte)


def test_a_segment_in_the_middle_that_is_missing_is_noticed(logs: Path) -> None:
    second = segments(logs)[1]
    second.unlink()
    replay = replayed(logs)
    assert values(replay) == keys(0, FIRST) | keys(FIRST + SECOND, 10)
    assert [(loss.file, loss.meaning) for loss in replay.losses] == [
        (second.name, "this segment is missing")
    ]


def test_a_last_segment_that_is_missing_is_noticed(logs: Path) -> None:
    segments(logs)[-1].unlink()
    replay = replayed(logs)
    assert values(replay) == keys(0, FIRST + SECOND)
    (loss,) = replay.losses
    assert "the segment after it is missing" in loss.meaning


@pytest.mark.parametrize("at", [*range(0, 80, 3), *range(128, 152), *range(160, 172)])
def test_damage_to_a_header_costs_nothing_where_the_rest_is_sound(logs: Path, at: int) -> None:
    for path in segments(logs):
        flip(path, at)
        replay = replayed(logs)
        assert values(replay) == keys(0, 10)
        assert replay.losses == []
        assert {note.file for note in replay.notes} == {path.name}
        flip(path, at)


def test_records_under_a_header_that_is_gone_are_bound_by_the_next_segment_or_not_at_all(
    logs: Path,
) -> None:
    """They may be those of any segment that has got this name."""
    first, *_, last = segments(logs)
    change(first, 0, bytes(76))
    assert (values(replayed(logs)), replayed(logs).losses) == (keys(0, 10), [])
    change(first, 76, bytes(4))  # with that the sum cannot be told any more
    assert [loss.file for loss in replayed(logs).losses] == [first.name]
    change(last, 0, bytes(76))
    losses = replayed(logs).losses
    assert [loss.file for loss in losses] == [first.name, last.name]
    assert all("another segment's records" in loss.meaning for loss in losses)
    assert all("may be back" in loss.meaning for loss in losses)


@pytest.mark.parametrize("at", range(APPENDED_AT, APPENDED_AT + 8))
def test_damage_to_appended_up_to_costs_nothing_and_may_be_a_loss(logs: Path, at: int) -> None:
    """Nobody can tell that nothing is missing, since it is what tells."""
    last = segments(logs)[-1]
    flip(last, at)
    replay = replayed(logs)
    assert values(replay) == keys(0, 10)
    assert {loss.file for loss in replay.losses} <= {last.name}
    assert replayed(logs, Restarted(7)).losses == []  # then it does not count


def test_slots_that_do_not_check_cost_nothing_where_the_writer_has_closed(logs: Path) -> None:
    last = segments(logs)[-1]
    for slot in (512, 1024):
        change(last, slot, bytes(range(1, 17)))
    for system in (SYSTEM, Restarted(7)):
        replay = replayed(logs, system)
        assert (values(replay), replay.losses) == (keys(0, 10), [])
        assert [note.meaning for note in replay.notes] == ["no slot of synced-up-to checks"]


def test_records_that_are_others_than_were_written_are_a_loss(logs: Path) -> None:
    """They are sound, and have the same length."""
    first, *_, last = segments(logs)
    for path in (first, last):
        whole = path.read_bytes()
        at = DATA_AT + RECORD
        change(path, DATA_AT, whole[at : at + RECORD] + whole[DATA_AT:at])
        (loss,) = replayed(logs).losses
        assert (loss.file, loss.meaning) == (
            path.name, "these records are not those that were written"
        )  # fmt: skip
        path.write_bytes(whole)


@pytest.mark.parametrize("length", [0, 1, DATA_AT - 1])
def test_a_file_without_a_header_page_is_refused(logs: Path, length: int) -> None:
    first = segments(logs)[0]
    first.write_bytes(first.read_bytes()[:length])
    with pytest.raises(CorruptionError):
        replayed(logs)


def test_a_segment_that_is_cut_off_loses_its_end(logs: Path) -> None:
    first = segments(logs)[0]
    first.write_bytes(first.read_bytes()[: DATA_AT + RECORD + 5])
    replay = replayed(logs)
    assert values(replay) == keys(0, 1) | keys(FIRST, 10)
    assert replay.losses[0].offset == DATA_AT + RECORD


def test_a_newer_format_is_refused(logs: Path) -> None:
    first = segments(logs)[0]
    header = first.read_bytes()[:8] + struct.pack("<I", 2) + first.read_bytes()[12:76]
    change(first, 0, header + struct.pack("<I", crc32c(header) ^ 0xFFFF_FFFF))
    with pytest.raises(error, match="expected log format 1"):
        replayed(logs)


def test_a_header_that_says_what_cannot_be_is_damaged(logs: Path) -> None:
    first = segments(logs)[0]
    header = first.read_bytes()[:48] + struct.pack("<Q", 1 << 40) + first.read_bytes()[56:76]
    change(first, 0, header + struct.pack("<I", crc32c(header) ^ 0xFFFF_FFFF))
    replay = replayed(logs)
    assert values(replay) == keys(0, 10)
    assert [note.meaning for note in replay.notes] == ["the header says what cannot be"]


def older(tmp_path: Path) -> Path:
    """Return a store of two segments, the first as it was before its last records came."""
    path = tmp_path / "store"
    engine = open_store(str(path), "c", Options(background=False))
    assert isinstance(engine, Writer)
    engine.put(b"0", b"value 0")
    (first,) = segments(path)
    left = first.read_bytes()
    engine.put(b"1", b"value 1")
    engine._path.maintenance.rotate()
    engine._path.appender.limit = 1 << 15
    engine.put(b"2", b"value 2")
    engine.close()
    first.write_bytes(left)
    return path


def test_an_older_state_of_a_segment_is_noticed_by_the_next_one(tmp_path: Path) -> None:
    path = older(tmp_path)
    replay = replayed(path)
    assert values(replay) == keys(0, 1) | keys(2, 3)
    (loss,) = replay.losses
    assert (loss.offset, loss.length) == (DATA_AT + RECORD, RECORD + 13)
    assert loss.meaning == "the end of this segment is missing"


def test_without_a_chain_nobody_knows_how_far_an_older_state_went_on(tmp_path: Path) -> None:
    path = older(tmp_path)
    flip(segments(path)[1], CHAIN_AT)
    replay = replayed(path)
    assert values(replay) == keys(0, 1) | keys(2, 3)
    assert [(loss.offset, loss.meaning) for loss in replay.losses] == [
        (DATA_AT + RECORD, "the log went on from here; how far is not known")
    ]


def test_an_older_state_of_a_log_that_another_process_took_over_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "store"
    engine = open_store(str(path), "c", Options(background=False))
    engine.put(b"0", b"value 0")
    (first,) = segments(path)
    left = first.read_bytes()
    engine.put(b"1", b"value 1")
    engine.close()
    engine = open_store(str(path), "w", Options(background=False))
    engine.put(b"2", b"value 2")
    engine.close()
    first.write_bytes(left)
    replay = replayed(path)
    assert values(replay) == keys(0, 3)
    assert [loss.meaning for loss in replay.losses] == [
        "writes are missing that were made after these"
    ]


def test_a_segment_that_was_made_ahead_is_no_loss(tmp_path: Path) -> None:
    path = live(tmp_path, lambda engine: engine._path.maintenance._prepare())
    assert len(segments(path)) == 2
    for system in (SYSTEM, Restarted(7)):
        replay = replayed(path, system)
        assert (values(replay), replay.losses, replay.tails) == ({b"synced": b"1"}, [], [])


# What a killed writer has left, and what recovery drops, too.


def live(tmp_path: Path, write: Callable[[Writer], None]) -> Path:
    """Return a copy of a store whose writer has not synced what ``write`` did."""
    path, copy = tmp_path / "live", tmp_path / "copy"
    engine = open_store(str(path), "c", Options(background=False))
    assert isinstance(engine, Writer)
    engine.put(b"synced", b"1")
    engine.sync()
    write(engine)
    copy.mkdir()
    for file in path.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    engine.close()
    return copy


def test_a_torn_end_that_was_never_synced_is_no_loss(tmp_path: Path) -> None:
    def write(engine: Writer) -> None:
        for number in range(3):
            engine.put(b"%d" % number, b"value %d" % number)

    (path,) = segments(live(tmp_path, write))
    begin = DATA_AT + len(encode(PUT, b"synced", b"1"))
    flip(path, begin + RECORD + 3)
    replay = replayed(path.parent, Restarted(7))
    assert values(replay) == {b"synced": b"1"} | keys(0, 1)
    assert replay.losses == []
    ((number, offset, length),) = [(t.number, t.offset, len(t)) for t in replay.tails]
    assert (number, offset) == (int(path.stem), begin + RECORD)
    assert length == 2 * RECORD
    # In the same boot each of these writes has returned, and was in the page cache.
    assert [loss.length for loss in replayed(path.parent).losses] == [2 * RECORD]


def test_a_segment_that_was_never_synced_behind_a_torn_one_does_not_count(tmp_path: Path) -> None:
    def write(engine: Writer) -> None:
        engine.put(b"lost", b"1")
        engine._path.maintenance.rotate()
        engine._path.appender.limit = 1 << 15
        engine.put(b"behind", b"1")

    first, _ = segments(live(tmp_path, write))
    flip(first, DATA_AT + len(encode(PUT, b"synced", b"1")) + 3)
    replay = replayed(first.parent, Restarted(7))
    assert (values(replay), replay.losses) == ({b"synced": b"1"}, [])
    assert [tail.number for tail in replay.tails] == [int(p.stem) for p in segments(first.parent)]


def test_a_batch_is_whole_or_absent(tmp_path: Path) -> None:
    def write(engine: Writer) -> None:
        engine.write({b"a": b"1", b"b": b"2"}, True)
        engine.put(b"after", b"1")

    (path,) = segments(live(tmp_path, write))
    at = path.read_bytes().index(bytes([BATCH]), DATA_AT)
    flip(path, at + 30)
    replay = replayed(path.parent)
    assert values(replay) == {b"synced": b"1"}
    assert not replay.memtable.cleared


def test_without_slots_nobody_knows_how_far_a_killed_writer_came(tmp_path: Path) -> None:
    (path,) = segments(live(tmp_path, lambda engine: engine.put(b"0", b"value 0")))
    for slot in (512, 1024):
        change(path, slot, bytes(range(1, 17)))
    replay = replayed(path.parent)
    assert values(replay) == {b"synced": b"1"} | keys(0, 1)
    assert [loss.meaning for loss in replay.losses] == [
        "whether there were more writes is not known"
    ]
    end = DATA_AT + len(encode(PUT, b"synced", b"1")) + RECORD
    change(path, end + 10, b"\1\2\3")
    (loss,) = replayed(path.parent).losses
    assert (loss.offset, loss.length) == (end, 13)


def test_more_records_than_appended_up_to_says_are_taken_and_not_believed_to_be_all(
    tmp_path: Path,
) -> None:
    def write(engine: Writer) -> None:
        for number in range(3):
            engine.put(b"%d" % number, b"value %d" % number)

    (path,) = segments(live(tmp_path, write))
    change(path, APPENDED_AT, (DATA_AT + len(encode(PUT, b"synced", b"1"))).to_bytes(8, "little"))
    replay = replayed(path.parent)
    assert values(replay) == {b"synced": b"1"} | keys(0, 3)
    assert [loss.meaning for loss in replay.losses] == [
        "whether there were more writes is not known"
    ]
