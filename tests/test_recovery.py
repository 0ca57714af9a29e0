"""Recovery: every byte that must be there is, or the damage is reported."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oblivion_dbm import CorruptionError, error
from oblivion_dbm.engine.filesystem import File, FileSystem
from oblivion_dbm.engine.header_page import DATA_AT
from oblivion_dbm.engine.memtable import MemTable
from oblivion_dbm.engine.options import Options
from oblivion_dbm.engine.record import (
    BATCH,
    CLEAR,
    DELETE,
    MARKER,
    PUT,
    SEAL,
    BadRecord,
    encode,
    read,
)
from oblivion_dbm.engine.recovery import Lost, Recovery, apply_batch, replay_into
from oblivion_dbm.engine.storage_engine import open_store
from oblivion_dbm.engine.version import Version
from oblivion_dbm.engine.wal import WAL


class OtherBoot(FileSystem):
    """The machine has started anew since."""

    def boot(self) -> bytes:
        return bytes(16)


SAME, OTHER = FileSystem(), OtherBoot()
LEAVES_OPEN = "segments are made by hand, and forgotten as after a kill"
BOOTS = pytest.mark.parametrize("system", [SAME, OTHER], ids=["same boot", "other boot"])
STORE = bytes(range(16))

Contents = dict[bytes, bytes]


def put(key: bytes, value: bytes = b"") -> bytes:
    return encode(PUT, key, value)


def delete(key: bytes) -> bytes:
    return encode(DELETE, key, b"")


class Log:
    """A log of segments without a store around it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.numbers: list[int] = []
        self.position = 0
        self.sequence = 0
        self.wal: WAL

    def begin(self, prelude: bytes = b"", synced_only: bool = False) -> None:
        number = len(self.numbers) + 1
        self.numbers.append(number)
        self.wal = WAL(
            SAME,
            str(self.folder),
            number,
            store_id=STORE,
            first_sequence=self.sequence,
            prelude=prelude,
            back_end="pwrite",
            synced_only=synced_only,
        )
        self.position = self.wal.prelude_end

    def append(self, *records: bytes) -> None:
        for record in records:
            end = self.position + len(record)
            self.wal.target[self.position : end] = record
            self.wal.words[0] = end
            self.position = end

    def sync(self) -> None:
        self.sync_to(self.position)

    def sync_to(self, position: int) -> None:
        mark = self.wal.cover(position)
        self.wal.sync()
        self.wal.note_synced(mark)

    def rotate(self, chain: bool = True, sync: bool = True) -> None:
        end = self.wal.seal(self.position)
        self.sequence = self.wal.sequence(end[1])
        if sync:
            self.sync_to(end[1])
        self.wal.close()
        self.begin()
        if chain:
            self.wal.follow(end, self.sequence)

    def path(self, number: int = 1) -> Path:
        return self.folder / f"{number:06d}.wal"

    def recover(self, system: FileSystem = SAME, readable_only: bool = False) -> Recovery:
        version = Version(STORE.hex(), 7, logs=tuple(self.numbers))
        recovery = Recovery(system, str(self.folder), version, readable_only)
        recovery.close()
        return recovery

    def contents(self, system: FileSystem = SAME, readable_only: bool = False) -> Contents:
        return contents_of(self.recover(system, readable_only))

    def found(self, system: FileSystem, readable_only: bool = False) -> Contents | str:
        """Return the contents, or the name of the file that was found damaged."""
        try:
            return self.contents(system, readable_only)
        except CorruptionError as problem:
            return str(problem.filename)


def data_of(lost: Lost) -> bytes:
    return b"".join(lost.pieces())


def contents_of(recovery: Recovery) -> Contents:
    records = recovery.merged().merged()
    return {
        key: read(record, 0, len(record))[2] for key, record in records.items() if record[0] == PUT
    }


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


# What is replayed.


@BOOTS
def test_everything_that_was_logged_is_there_again(log: Log, system: FileSystem) -> None:
    log.begin(prelude=put(b"old", b"1") + put(b"gone", b"1"))
    log.append(put(b"a", b"1"), delete(b"gone"), put(b"a", b"2"), delete(b"never"))
    log.append(encode(BATCH, b"", put(b"b", b"3") + delete(b"old") + put(b"c", b"4")))
    log.append(encode(MARKER, b"", b""))
    recovery = log.recover(system)
    assert [part.end for part in recovery.logs] == [log.position]
    assert recovery.sequence == log.wal.sequence(log.position)
    assert not recovery.logs[0].memtable.cleared
    assert contents_of(recovery) == {b"a": b"2", b"b": b"3", b"c": b"4"}
    assert recovery.lost == []


@BOOTS
def test_a_clear_hides_what_came_before_it_alone_and_in_a_batch(
    log: Log, system: FileSystem
) -> None:
    log.begin()
    log.append(put(b"a"), encode(CLEAR, b"", b""), put(b"b"))
    recovery = log.recover(system)
    assert recovery.logs[0].memtable.cleared
    assert list(contents_of(recovery)) == [b"b"]
    log.append(encode(BATCH, b"", encode(CLEAR, b"", b"") + put(b"c")))
    assert list(log.contents(system)) == [b"c"]


@BOOTS
def test_segments_are_replayed_in_order_and_counted_in_sequence(
    log: Log, system: FileSystem
) -> None:
    log.begin()
    log.append(put(b"a", b"1"), put(b"b", b"1"))
    log.rotate()
    log.append(put(b"a", b"2"))
    log.rotate()
    log.append(delete(b"b"))
    log.sync()
    recovery = log.recover(system)
    assert [part.sealed for part in recovery.logs] == [True, True, False]
    assert recovery.sequence == log.wal.sequence(log.position)
    assert [len(part.memtable) for part in recovery.logs] == [2, 1, 1]
    assert contents_of(recovery) == {b"a": b"2"}


@BOOTS
def test_a_clear_in_a_later_segment_hides_the_earlier_ones(log: Log, system: FileSystem) -> None:
    log.begin()
    log.append(put(b"a"))
    log.rotate()
    log.append(encode(CLEAR, b"", b""), put(b"b"))
    log.sync()
    merged = log.recover(system).merged()
    assert merged.cleared
    assert list(merged.merged()) == [b"b"]


def test_no_log_is_an_empty_store(log: Log) -> None:
    recovery = log.recover()
    assert (recovery.logs, recovery.sequence, recovery.unsynced) == ([], 0, False)
    assert contents_of(recovery) == {}


def test_it_is_known_whether_something_may_not_be_on_the_disk(log: Log) -> None:
    log.begin(prelude=put(b"a"))
    assert not log.recover().unsynced
    log.append(put(b"b"))
    assert log.recover().unsynced
    log.sync()
    assert not log.recover().unsynced


def test_readers_of_a_full_mode_log_see_what_is_synced(log: Log) -> None:
    log.begin(synced_only=True)
    log.append(put(b"a"))
    log.sync()
    log.append(put(b"b"))
    assert list(log.contents(readable_only=True)) == [b"a"]
    assert list(log.contents()) == [b"a", b"b"]


def test_readers_see_no_record_that_was_stored_but_not_published(log: Log) -> None:
    log.begin()
    log.append(put(b"a"))
    log.wal.target[log.position : log.position + 14] = put(b"b")
    assert list(log.contents(readable_only=True)) == [b"a"]


# Where the log ends.


@BOOTS
@pytest.mark.parametrize("readable_only", [False, True])
def test_a_manifest_that_names_no_segment_behind_a_sealed_one_is_stale(
    log: Log, system: FileSystem, readable_only: bool
) -> None:
    log.begin()
    log.append(put(b"a"))
    log.rotate()
    log.append(put(b"b"))
    log.sync()
    log.numbers.pop()
    log.path(2).unlink()
    assert log.found(system, readable_only) == str(log.path(1))


@BOOTS
def test_a_manifest_that_knows_nothing_of_a_newer_log_with_records_is_stale(
    log: Log, system: FileSystem
) -> None:
    log.begin()
    log.append(put(b"a"))
    log.sync()
    log.begin()  # as it is before the MANIFEST names it
    log.numbers.pop()
    assert list(log.contents(system)) == [b"a"]
    log.append(put(b"b"))
    log.sync()
    assert log.found(system) == str(log.folder / "MANIFEST")
    log.numbers = []
    assert log.found(system) == str(log.folder / "MANIFEST")


def test_a_newer_log_that_is_no_log_of_this_store_says_nothing(log: Log) -> None:
    log.begin()
    log.append(put(b"a"))
    log.sync()
    whole = log.path().read_bytes()
    for number, other in enumerate(
        [b"", bytes(5000), whole[:20] + whole[4:8] + whole[24:], whole[:512] + bytes(3000)], 2
    ):
        log.path(number).write_bytes(other)
    WAL(SAME, str(log.folder), 9, store_id=bytes(16), first_sequence=0, prelude=put(b"b")).close()
    assert list(log.contents()) == [b"a"]


@pytest.mark.parametrize("readable_only", [False, True])
def test_where_the_writer_says_it_ended_it_did(log: Log, readable_only: bool) -> None:
    log.begin()
    log.append(put(b"a"), put(b"b"))
    log.wal.note_end(log.position)
    log.wal.target[log.position : log.position + len(put(b"c"))] = put(b"c")
    assert list(log.contents(SAME, readable_only)) == [b"a", b"b"]
    assert list(log.contents(OTHER, readable_only)) == [b"a", b"b"]
    log.wal.words[0] -= len(put(b"b"))
    assert log.found(SAME, readable_only) == str(log.path())
    log.wal.words[0] = log.position + len(put(b"c"))
    assert log.found(SAME, readable_only) == str(log.path())


@pytest.mark.parametrize("length", [DATA_AT, DATA_AT + 5, DATA_AT + len(put(b"a"))])
def test_what_was_not_synced_may_be_cut_off_although_the_writer_has_closed(
    log: Log, length: int
) -> None:
    log.begin()
    log.append(put(b"a"), put(b"b"))
    log.wal.note_end(log.position)
    log.path().write_bytes(log.path().read_bytes()[:length])
    assert log.contents(OTHER) in ({}, {b"a": b""})
    assert log.found(SAME) == str(log.path())


@pytest.mark.parametrize("readable_only", [False, True])
def test_more_than_one_record_behind_what_was_published_is_damage(
    log: Log, readable_only: bool
) -> None:
    log.begin()
    log.append(*(put(key) for key in (b"a", b"b", b"c")))
    log.wal.words[0] -= len(put(b"c"))
    shown = [b"a", b"b"] if readable_only else [b"a", b"b", b"c"]
    assert list(log.contents(SAME, readable_only)) == shown
    log.wal.words[0] -= len(put(b"b"))
    assert log.found(SAME, readable_only) == str(log.path())


def test_records_that_a_live_writer_adds_meanwhile_are_no_damage(log: Log) -> None:
    log.begin()
    log.append(*(put(key) for key in (b"a", b"b", b"c")))
    end, published = log.position, log.position - 2 * len(put(b"c"))

    class Meanwhile(FileSystem):
        """The writer publishes what it had stored while the reader waits."""

        def sleep(self, seconds: float) -> None:
            log.wal.words[0] = end

    log.wal.words[0] = published
    assert list(log.contents(Meanwhile(), readable_only=True)) == [b"a"]


@BOOTS
@pytest.mark.parametrize("how", ["synced", "rotated", "closed"])
def test_sound_records_that_changed_places_are_damage(
    log: Log, system: FileSystem, how: str
) -> None:
    """Whole blocks may have, and then every crc of a record is right, and the running one."""
    log.begin()
    records = [put(b"key", b"%d" % number) for number in range(6)]
    log.append(*records)
    if how == "rotated":
        log.rotate(sync=False)
        log.append(put(b"other"))
    if how == "closed":
        log.wal.note_end(log.position)
    else:
        log.sync()
    whole, size = log.path().read_bytes(), len(records[0])
    for one, other in ((0, 5), (2, 3)):
        data = bytearray(whole)
        for at, record in ((one, records[other]), (other, records[one])):
            data[DATA_AT + at * size : DATA_AT + (at + 1) * size] = record
        log.path().write_bytes(data)
        assert log.found(system) == str(log.path())


# Damage to one segment.


KEYS = [b"%d" % number for number in range(6)]


def small_log(log: Log, unsynced: int) -> None:
    """Write six records and sync all but the last ``unsynced`` of them."""
    log.begin(prelude=put(KEYS[0], b"value"))
    log.append(*(put(key, b"value") for key in KEYS[1 : 6 - unsynced]))
    log.sync()
    log.append(*(put(key, b"value") for key in KEYS[6 - unsynced :]))


def flips(whole: bytes) -> list[tuple[int, bytes]]:
    """Return (offset, damaged bytes) for every byte of header and records."""
    places = [*range(200), *range(500, 540), *range(1020, 1050), *range(DATA_AT - 8, len(whole))]
    return [
        (place, whole[:place] + bytes([whole[place] ^ change]) + whole[place + 1 :])
        for place in places
        for change in (0x01, 0x10, 0xFF)
    ]


@pytest.mark.parametrize("unsynced", [0, 2, 5])
def test_in_the_same_boot_every_flip_is_reported_or_without_effect(log: Log, unsynced: int) -> None:
    small_log(log, unsynced)
    whole, truth = log.path().read_bytes(), log.contents()
    assert list(truth) == KEYS
    for place, damaged in flips(whole):
        log.path().write_bytes(damaged)
        found = log.found(SAME)
        assert found in (truth, str(log.path()))
        if place >= DATA_AT:
            assert found == str(log.path())


def test_a_reader_of_a_synced_log_sees_all_of_it_or_the_damage(log: Log) -> None:
    small_log(log, 0)
    whole, truth = log.path().read_bytes(), log.contents()
    for _, damaged in flips(whole):
        log.path().write_bytes(damaged)
        assert log.found(SAME, readable_only=True) in (truth, str(log.path()))


@pytest.mark.parametrize("unsynced", [0, 2, 5])
def test_after_a_crash_of_the_machine_what_was_synced_is_there_or_the_damage_is_reported(
    log: Log, unsynced: int
) -> None:
    small_log(log, unsynced)
    whole, size = log.path().read_bytes(), len(put(KEYS[0], b"value"))
    synced = log.position - unsynced * size
    for place, damaged in flips(whole):
        log.path().write_bytes(damaged)
        if place < synced:
            assert log.found(OTHER) in (dict.fromkeys(KEYS, b"value"), str(log.path()))
        else:
            recovery = log.recover(OTHER)
            kept = (place - DATA_AT) // size
            assert list(contents_of(recovery)) == KEYS[:kept]
            (lost,) = recovery.lost
            assert (lost.number, lost.offset) == (1, DATA_AT + kept * size)
            assert data_of(lost) == damaged[lost.offset :]
            assert recovery.unsynced


@BOOTS
@pytest.mark.parametrize("unsynced", [0, 2])
def test_every_truncation_is_reported_where_bytes_must_be(
    log: Log, unsynced: int, system: FileSystem
) -> None:
    small_log(log, unsynced)
    whole, size = log.path().read_bytes(), len(put(KEYS[0], b"value"))
    must = len(whole) if system is SAME else len(whole) - unsynced * size
    for length in [*range(0, DATA_AT, 97), *range(DATA_AT - 1, len(whole))]:
        log.path().write_bytes(whole[:length])
        if length < must:
            assert log.found(system) == str(log.path())
        else:
            assert list(log.contents(system)) == KEYS[: (length - DATA_AT) // size]


@BOOTS
def test_zeros_behind_the_end_are_no_loss(log: Log, system: FileSystem) -> None:
    small_log(log, 0)
    log.path().write_bytes(log.path().read_bytes() + bytes(100_000))
    recovery = log.recover(system)
    assert list(contents_of(recovery)) == KEYS
    assert recovery.lost == []


def test_a_torn_page_in_the_middle_ends_the_log_there_and_the_rest_is_kept_aside(log: Log) -> None:
    log.begin()
    log.append(put(b"a", b"x"))
    log.sync()
    log.append(put(b"b", bytes(5000)), put(b"c", b"after"))
    whole = log.path().read_bytes()
    log.path().write_bytes(whole[:5000] + bytes(500) + b"?" + whole[5501:])
    recovery = log.recover(OTHER)
    assert list(contents_of(recovery)) == [b"a"]
    assert put(b"c", b"after") in data_of(recovery.lost[0])


@BOOTS
def test_a_missing_segment_is_an_error_that_names_it(log: Log, system: FileSystem) -> None:
    log.begin()
    log.append(put(b"a"))
    log.rotate()
    log.path(1).unlink()
    with pytest.raises(error) as caught:
        log.recover(system)
    assert caught.value.filename == str(log.path(1))


# The chain between segments.


def test_records_behind_a_hole_are_never_replayed(log: Log) -> None:
    log.begin()
    log.append(put(b"a"), put(b"b"))
    log.rotate()
    log.append(put(b"c"))
    whole = log.path(1).read_bytes()
    log.path(1).write_bytes(whole[:DATA_AT] + bytes(len(whole) - DATA_AT))
    with pytest.raises(CorruptionError):
        log.recover(OTHER)
    with pytest.raises(CorruptionError):
        log.recover(SAME)


def test_a_segment_that_follows_lost_records_is_dropped_and_kept_aside(log: Log) -> None:
    log.begin()
    log.append(put(b"a"))
    log.sync()
    log.append(put(b"b"))
    log.sequence = log.wal.sequence(log.position)
    end = log.position
    log.begin()
    log.wal.follow((1, end, 12345, 0), 0)
    log.append(put(b"c"))
    recovery = log.recover(OTHER)
    assert list(contents_of(recovery)) == [b"a", b"b"]
    assert [(lost.number, data_of(lost)) for lost in recovery.lost] == [(2, put(b"c"))]
    with pytest.raises(CorruptionError):
        log.recover(SAME)
    log.sync()
    with pytest.raises(CorruptionError):
        log.recover(OTHER)


@pytest.mark.parametrize("wrong", [(2, 0, 0), (0, 1, 0), (0, 0, 1)])
@pytest.mark.parametrize("summed", [True, False])
def test_a_chain_that_does_not_fit_is_damage(
    log: Log, wrong: tuple[int, int, int], summed: bool
) -> None:
    log.begin()
    log.append(put(b"a"))
    end = log.wal.seal(log.position)
    log.begin()
    crc, total = end[2] ^ wrong[2], (end[3] ^ wrong[2]) * summed
    log.wal.follow((end[0] + wrong[0], end[1] + wrong[1], crc, total), 0)
    log.append(put(b"b"))
    log.sync()
    for system in (SAME, OTHER):
        with pytest.raises(CorruptionError):
            log.recover(system)


def test_records_without_the_end_of_the_log_before_are_damage_or_lost(log: Log) -> None:
    log.begin()
    log.append(put(b"a"))
    log.rotate(chain=False)
    for system in (SAME, OTHER):
        assert list(log.contents(system)) == [b"a"]
    log.append(put(b"b"))
    with pytest.raises(CorruptionError, match="no end of the log before"):
        log.recover(SAME)
    recovery = log.recover(OTHER)
    assert list(contents_of(recovery)) == [b"a"]
    assert [data_of(lost) for lost in recovery.lost] == [put(b"b")]


def test_what_follows_a_dropped_segment_is_dropped_too(log: Log) -> None:
    log.begin()
    log.append(put(b"a"))
    log.rotate(chain=False)
    log.append(put(b"b"))
    log.rotate(sync=False)
    log.append(put(b"c"))
    recovery = log.recover(OTHER)
    assert list(contents_of(recovery)) == [b"a"]
    assert [lost.number for lost in recovery.lost] == [2, 3]
    with pytest.raises(CorruptionError):
        log.recover(SAME)


def test_a_synced_segment_whose_chain_was_zeroed_is_damage_in_any_boot(log: Log) -> None:
    log.begin()
    log.append(put(b"a"))
    log.rotate(chain=False)
    log.append(put(b"b"))
    log.sync()
    for system in (SAME, OTHER):
        with pytest.raises(CorruptionError):
            log.recover(system)


def test_exchanged_segments_are_found_out(log: Log) -> None:
    log.begin()
    log.append(put(b"a", b"1"))
    log.rotate()
    log.append(put(b"a", b"2"))
    first, second = log.path(1).read_bytes(), log.path(2).read_bytes()
    log.path(1).write_bytes(second)
    log.path(2).write_bytes(first)
    for system in (SAME, OTHER):
        with pytest.raises(CorruptionError):
            log.recover(system)


def test_an_older_copy_of_a_segment_does_not_fit_the_chain(log: Log) -> None:
    log.begin()
    log.append(put(b"a", b"1"))
    log.sync()
    older = log.path(1).read_bytes()
    log.append(put(b"a", b"2"))
    log.rotate()
    log.append(put(b"b"))
    log.sync()
    log.path(1).write_bytes(older)
    for system in (SAME, OTHER):
        with pytest.raises(CorruptionError):
            log.recover(system)


# Batches.


@given(st.lists(st.tuples(st.sampled_from(KEYS), st.one_of(st.none(), st.binary(max_size=3)))))
def test_a_batch_is_its_changes_in_order(changes: list[tuple[bytes, bytes | None]]) -> None:
    memtable = MemTable()
    apply_batch(put(b"old"), memtable)
    apply_batch(b"".join(delete(k) if v is None else put(k, v) for k, v in changes), memtable)
    found = {key: record[0] == PUT for key, record in memtable.merged().items()}
    assert found == {b"old": True} | {key: value is not None for key, value in changes}
    assert memtable.check() == []


@pytest.mark.parametrize("op", [BATCH, SEAL, CLEAR, MARKER])
def test_a_batch_with_something_else_in_it_is_refused_whole(op: int) -> None:
    memtable = MemTable()
    for rest in (encode(op, b"", b""), put(b"b")[:-1], b"\0"):
        with pytest.raises(BadRecord):
            apply_batch(put(b"a") + rest, memtable)
    assert len(memtable) == 0


def test_a_malformed_batch_ends_the_log_without_a_trace() -> None:
    good, bad = put(b"a"), encode(BATCH, b"", put(b"b") + encode(SEAL, b"", b""))
    memtable = MemTable()
    log = good + bad + put(b"c")
    assert replay_into(memtable, log, 0, len(log)) == (len(good), False)
    assert list(memtable.merged()) == [b"a"]


def test_a_seal_ends_the_replay() -> None:
    memtable = MemTable()
    seal = encode(SEAL, b"", b"")
    log = put(b"a") + seal + put(b"b")
    assert replay_into(memtable, log, 0, len(log)) == (len(put(b"a") + seal), True)
    assert list(memtable.merged()) == [b"a"]


# Through the whole engine: what was dropped is kept aside.


def crashed_store(folder: Path) -> tuple[str, bytes]:
    """Make a store whose last record was torn by a crash of the machine; return the torn bytes."""
    path = str(folder / "store")
    engine = open_store(path, "c", Options(log_back_end="pwrite"), 0o666, SAME)
    engine.put(b"synced", b"1")
    engine.sync()
    engine.put(b"torn", b"2")
    (log,) = Path(path).glob("*.wal")
    data = log.read_bytes()
    engine.close()
    data = data[:-1] + b"?"
    log.write_bytes(data)
    return path, data[-len(put(b"torn", b"2")) :]


def test_lost_bytes_are_kept_aside_when_the_store_is_written_again(tmp_path: Path) -> None:
    path, torn = crashed_store(tmp_path)
    engine = open_store(path, "w", Options(), 0o666, OTHER)
    assert engine.value(b"synced") == b"1"
    assert engine.value(b"torn") is None
    assert engine.stats()["lost_bytes"] == len(torn)
    assert list(Path(path).glob("*.lost")) == []
    engine.put(b"new", b"3")
    (lost,) = Path(path).glob("*.lost")
    assert lost.read_bytes() == torn
    engine.flush()
    engine.compact()
    engine.close()
    assert lost.read_bytes() == torn
    again = open_store(path, "r", Options(), 0o666, OTHER)
    assert (again.value(b"synced"), again.value(b"new")) == (b"1", b"3")
    again.close()


class NoRoomForLost(OtherBoot):
    """Writes half of what was lost, until there is room."""

    room = False

    def write(self, file: File, offset: int, data: bytes | memoryview) -> None:
        if file.path.endswith(".lost") and not self.room:
            super().write(file, offset, bytes(data)[: len(data) // 2])
            raise error(errno.ENOSPC, "no space left", file.path)
        super().write(file, offset, data)


def test_the_old_log_stays_until_all_that_was_lost_is_kept_aside(tmp_path: Path) -> None:
    path, torn = crashed_store(tmp_path)
    (log,) = Path(path).glob("*.wal")
    before = log.read_bytes()
    system = NoRoomForLost()
    engine = open_store(path, "w", Options(), 0o666, system)
    for _ in range(2):
        with pytest.raises(error, match="no space left"):
            engine.put(b"new", b"3")
        assert log.read_bytes() == before
    system.room = True
    engine.put(b"new", b"3")
    (lost,) = Path(path).glob("*.lost")
    assert lost.read_bytes() == torn
    assert engine.value(b"synced") == b"1"
    engine.close()


def test_opening_for_reading_changes_nothing_whatever_was_lost(tmp_path: Path) -> None:
    path, _ = crashed_store(tmp_path)
    before = {file.name: file.read_bytes() for file in Path(path).iterdir()}
    engine = open_store(path, "r", Options(), 0o666, OTHER)
    assert engine.value(b"synced") == b"1"
    assert engine.value(b"torn") is None
    engine.close()
    assert {file.name: file.read_bytes() for file in Path(path).iterdir()} == before


def test_what_was_replayed_but_never_synced_is_synced_before_the_old_log_goes(
    tmp_path: Path,
) -> None:
    path = str(tmp_path / "store")
    engine = open_store(path, "c", Options(), 0o666, SAME)
    engine.put(b"a", b"1")
    (old,) = Path(path).glob("*.wal")
    done: list[str] = []

    class Watching(FileSystem):
        def sync(self, file: File) -> None:
            done.append("sync " + Path(file.path).suffix)
            super().sync(file)

        def remove(self, path: str) -> None:
            done.append("remove " + Path(path).name)
            super().remove(path)

    data = old.read_bytes()
    engine.close()
    old.write_bytes(data)  # as a kill leaves it: nothing synced
    successor = open_store(path, "w", Options(), 0o666, Watching())
    successor.put(b"b", b"2")
    assert done.index("sync .wal") < done.index("remove " + old.name)
    assert (successor.value(b"a"), successor.value(b"b")) == (b"1", b"2")
    successor.close()
