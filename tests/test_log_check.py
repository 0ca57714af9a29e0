"""What is wrong with a log is found, behind sound crcs too, and nothing where nothing is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oblivion_dbm.engine.filesystem import FileSystem
from oblivion_dbm.engine.header_page import (
    APPENDED_AT,
    CHAIN,
    CHAIN_AT,
    CHAIN_SUM_AT,
    DATA_AT,
    ENDED_AT,
    ENDED_SUM_AT,
    NUMBER,
    SEQUENCE_AT,
    pack_header,
    pack_slot,
    sealed,
)
from oblivion_dbm.engine.log_check import check_logs
from oblivion_dbm.engine.record import (
    BATCH,
    CLEAR,
    DELETE,
    MARKER,
    PUT,
    SEAL,
    crc32c,
    encode,
)
from oblivion_dbm.engine.segment import Segment
from oblivion_dbm.engine.wal import WAL

STORE = bytes(range(16))


class Quiet(FileSystem):
    """Nobody is at work, so there is nothing to wait for."""

    def sleep(self, seconds: float) -> None:
        """Go on at once."""


class OtherBoot(Quiet):
    """The machine has started anew since."""

    def boot(self) -> bytes:
        return bytes(16)


SAME, OTHER = Quiet(), OtherBoot()
BOOTS = pytest.mark.parametrize("system", [SAME, OTHER], ids=["same boot", "other boot"])


def put(key: bytes, value: bytes = b"") -> bytes:
    return encode(PUT, key, value)


class Log:
    """Log segments without a store around them, every step of whose life is made by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wals: list[WAL] = []
        self.ends: list[int] = []

    def make(self, prelude: bytes = b"", first_sequence: int = 0) -> None:
        """Make a segment, to be begun later, or at once if it is the first."""
        self.wals.append(
            WAL(
                SAME,
                str(self.folder),
                len(self.wals) + 1,
                store_id=STORE,
                first_sequence=first_sequence,
                prelude=prelude,
                back_end="pwrite",
            )
        )
        self.ends.append(self.wals[-1].prelude_end)

    def append(self, *records: bytes, number: int = -1) -> None:
        wal = self.wals[number]
        for record in records:
            start = self.ends[number]
            self.ends[number] = end = start + len(record)
            wal.target[start:end] = record
            wal.words[0] = end

    def sync(self) -> None:
        for wal, end in zip(self.wals, self.ends):
            mark = wal.cover(end)
            wal.sync()
            wal.note_synced(mark)

    def rotate(self) -> None:
        """Go on in the last segment, which was made before."""
        old = self.wals[-2]
        end = old.seal(self.ends[-2])
        self.ends[-2] = end[1]
        self.wals[-1].follow(end, old.sequence(end[1]))

    def close(self) -> None:
        """End as a writer does."""
        self.sync()
        for wal, end in zip(self.wals, self.ends):
            wal.note_end(end)

    def path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.wal"

    def patch(self, number: int, offset: int, data: bytes) -> None:
        """Change bytes of a segment."""
        whole = bytearray(self.path(number).read_bytes())
        whole[offset : offset + len(data)] = data
        self.path(number).write_bytes(whole)

    def findings(self, system: FileSystem = SAME) -> list[tuple[int, int, str]]:
        """Return (segment, offset, meaning) of what is found."""
        segments = [
            Segment(system, str(self.folder), number, STORE)
            for number in range(1, len(self.wals) + 1)
        ]
        found = list(check_logs(system, segments))
        for segment in segments:
            segment.close()
        return [(int(Path(one.file).stem), one.offset, one.meaning) for one in found]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    made = Log(tmp_path)
    yield made
    for wal in made.wals:
        wal.close()


def small(log: Log, close: bool = True) -> None:
    """Make a log of a sealed segment, a live one and a prepared one."""
    log.make(prelude=put(b"old", b"1") + encode(DELETE, b"gone", b""))
    log.append(put(b"a", b"1"), encode(DELETE, b"b", b""), encode(CLEAR, b"", b""))
    log.make()
    log.rotate()
    log.append(put(b"c", b"2"), encode(BATCH, b"", put(b"d") + encode(DELETE, b"e", b"")))
    log.append(encode(MARKER, b"", b""))
    log.make()
    log.sync()
    if close:
        log.close()


# Sound logs, at each step of their life.


@BOOTS
def test_a_sound_log_has_no_findings_at_any_step(log: Log, system: FileSystem) -> None:
    log.make(prelude=put(b"old"))
    assert log.findings(system) == []
    log.append(put(b"a", b"1"))
    assert log.findings(system) == []
    log.sync()
    log.append(encode(BATCH, b"", encode(CLEAR, b"", b"") + put(b"b")))
    assert log.findings(system) == []
    log.make()
    assert log.findings(system) == []
    log.rotate()
    assert log.findings(system) == []
    log.append(put(b"c", b"2"))
    log.sync()
    log.make(first_sequence=7)
    assert log.findings(system) == []
    log.close()
    assert log.findings(system) == []


def test_no_log_has_no_findings(log: Log) -> None:
    assert log.findings() == []


@pytest.mark.parametrize("stored", range(13))
def test_what_a_kill_leaves_of_a_record_is_no_finding(log: Log, stored: int) -> None:
    small(log, close=False)
    log.patch(2, log.ends[1], put(b"")[:stored])
    assert log.findings() == []
    log.patch(2, log.ends[1], bytes(13 - stored) + put(b"")[13 - stored :])
    assert log.findings() == []


def test_what_a_kill_leaves_of_a_rotation_is_no_finding(log: Log) -> None:
    log.make()
    log.append(put(b"a"))
    log.make()
    log.sync()
    before = log.path(2).read_bytes()
    log.rotate()
    after = log.path(2).read_bytes()
    fields = [
        *((SEQUENCE_AT, count) for count in range(NUMBER.size + 1)),
        *((CHAIN_SUM_AT, count) for count in range(NUMBER.size + 1)),
        *((CHAIN_AT, count) for count in range(CHAIN.size + 1)),
    ]
    now = bytearray(before)
    for at, count in fields:
        now[at : at + count] = after[at : at + count]
        log.path(2).write_bytes(now)
        assert log.findings() == []


@BOOTS
def test_what_a_kill_leaves_of_a_close_is_no_finding(log: Log, system: FileSystem) -> None:
    small(log, close=False)
    log.close()
    whole = log.path(2).read_bytes()
    # The position is stored last, in one step; before it its crc, and before that the sum.
    for at, length in ((ENDED_AT + 8, 4), (ENDED_SUM_AT, NUMBER.size)):
        log.patch(2, ENDED_AT, bytes(8))
        for count in range(length, -1, -1):
            log.patch(2, at + count, bytes(length - count))
            assert log.findings(system) == []
    log.path(2).write_bytes(whole)
    log.patch(2, ENDED_SUM_AT, bytes(NUMBER.size))  # as programs left it that did not know of it
    assert log.findings(system) == []
    for at in (ENDED_AT, ENDED_SUM_AT):
        log.path(2).write_bytes(whole)
        log.patch(2, at, sealed(NUMBER, 4242))
        assert (2, at) in [(number, place) for number, place, _ in log.findings()]
    log.path(2).write_bytes(whole)
    log.patch(2, ENDED_AT, sealed(NUMBER, log.ends[1]))  # without bit 63
    assert log.findings(system) == []
    for at in range(ENDED_AT, ENDED_SUM_AT + NUMBER.size):
        if whole[at]:
            log.path(2).write_bytes(whole)
            log.patch(2, at, b"\0")
            assert [number for number, _, _ in log.findings(system)] == [2]


@BOOTS
def test_a_closed_segment_that_was_begun_and_holds_nothing_names_the_one_before(
    log: Log, system: FileSystem
) -> None:
    log.make()
    log.append(put(b"a"))
    log.make()
    log.rotate()
    log.close()
    whole = log.path(2).read_bytes()
    for at in range(CHAIN_AT, CHAIN_SUM_AT + NUMBER.size):
        if whole[at]:
            log.path(2).write_bytes(whole)
            log.patch(2, at, b"\0")
            assert [number for number, _, _ in log.findings(system)] == [2]


def test_a_crash_of_the_machine_may_take_what_was_not_synced(log: Log) -> None:
    log.make()
    log.append(put(b"a", b"1"))
    log.sync()
    log.append(put(b"b", b"2"), put(b"c", b"3"))
    log.wals[0].note_end(log.ends[0])
    whole = log.path(1).read_bytes()
    for length in range(log.wals[0].synced, len(whole)):
        log.path(1).write_bytes(whole[:length])
        assert log.findings(OTHER) == []
        log.path(1).write_bytes(whole[:length].ljust(len(whole), b"\0"))
        assert log.findings(OTHER) == []
        assert log.findings(SAME) != []


def test_a_slot_that_is_being_stored_is_looked_at_again(log: Log) -> None:
    small(log)
    whole = log.path(2).read_bytes()
    log.patch(2, 512, bytes(6))
    sleeps: list[float] = []

    class Storing(FileSystem):
        def sleep(self, seconds: float) -> None:
            sleeps.append(seconds)
            log.patch(2, 512, whole[512:540])

    assert log.findings(Storing()) == []
    assert len(sleeps) == 1


# Changed bytes.


@BOOTS
@pytest.mark.parametrize("change", [0x01, 0x80, 0xFF])
def test_every_changed_byte_of_a_closed_log_is_found_where_it_is(
    log: Log, system: FileSystem, change: int
) -> None:
    small(log)
    for number in (1, 2, 3):
        whole = log.path(number).read_bytes() + bytes(5)
        places = [*range(80, 245), *range(500, 545), *range(1020, 1060), *range(4000, len(whole))]
        for offset in places:
            log.path(number).write_bytes(whole)
            log.patch(number, offset, bytes([whole[offset] ^ change]))
            found = log.findings(system)
            assert [segment for segment, _, _ in found].count(number), (number, offset)
        log.path(number).write_bytes(whole)
    assert log.findings(system) == []


def test_findings_name_the_place(log: Log) -> None:
    small(log)
    places = {
        210: ENDED_AT, 165: SEQUENCE_AT, 140: CHAIN_AT, 180: CHAIN_SUM_AT, 518: 512, 1030: 1024,
        DATA_AT + 6: DATA_AT, APPENDED_AT: APPENDED_AT, 300: 300, 511: 511,
    }  # fmt: skip
    for offset, at in places.items():
        whole = log.path(2).read_bytes()
        data = (whole + bytes(3))[offset : offset + 1]
        log.patch(2, offset, bytes([data[0] ^ 0x10]))
        assert (2, at) in [(number, place) for number, place, _ in log.findings()]
        log.path(2).write_bytes(whole)


# Behind sound crcs.


def test_appended_up_to_must_not_be_below_what_is_synced_nor_below_several_records(
    log: Log,
) -> None:
    log.make()
    log.append(put(b"a"), put(b"b"), put(b"c"))
    size = len(put(b"a"))
    log.wals[0].words[0] = log.ends[0] - size
    assert log.findings() == []
    log.wals[0].words[0] = log.ends[0] - 2 * size
    ((_, at, meaning),) = log.findings()
    assert (at, meaning.partition(",")[2]) == (APPENDED_AT, " and several records follow")
    log.wals[0].words[0] = log.ends[0]
    log.sync()
    log.wals[0].words[0] = log.ends[0] - size
    assert any("below what is synced" in meaning for _, _, meaning in log.findings())


def test_records_that_a_writer_publishes_meanwhile_are_no_finding(log: Log) -> None:
    log.make()
    log.append(put(b"a"), put(b"b"), put(b"c"))
    log.wals[0].words[0] = DATA_AT

    class Publishing(FileSystem):
        def sleep(self, seconds: float) -> None:
            log.wals[0].words[0] = log.ends[0]

    assert log.findings(Publishing()) == []


@pytest.mark.parametrize(
    ("record", "meaning"),
    [
        (encode(DELETE, b"a", b"1"), "a tombstone with a value"),
        (encode(CLEAR, b"a", b""), "operation 5 with a key or a value"),
        (encode(MARKER, b"", b"1"), "operation 6 with a key or a value"),
        (encode(BATCH, b"a", put(b"b")), "operation 3 with a key or a value"),
        (encode(BATCH, b"", put(b"b") + b"x"), "within a batch"),
        (encode(BATCH, b"", encode(SEAL, b"", b"")), "within a batch"),
        (encode(BATCH, b"", put(b"b") + encode(CLEAR, b"", b"")), "within a batch"),
    ],
)
@BOOTS
def test_a_record_that_cannot_be_there_is_found(
    log: Log, system: FileSystem, record: bytes, meaning: str
) -> None:
    log.make()
    log.append(put(b"a"))
    place = log.ends[0]
    log.append(record, put(b"c"))
    log.close()
    found = log.findings(system)
    assert [(number, at) for number, at, _ in found][:1] == [(1, place)]
    assert meaning in found[0][2]


def test_a_prelude_holds_puts_and_deletes_and_ends_with_one(log: Log) -> None:
    log.make(prelude=encode(CLEAR, b"", b"") + put(b"a"))
    log.close()
    assert log.findings() == [(1, DATA_AT, "operation 5 in the prelude")]
    page = pack_header(STORE, 1, (0, log.ends[0] - 1), SAME.boot(), 0)
    log.patch(1, 0, page)
    assert any("expected a record to end at" in meaning for _, _, meaning in log.findings())


def test_a_header_that_says_what_cannot_be_is_found(log: Log) -> None:
    log.make()
    log.patch(1, 0, pack_header(STORE, 1, (0, DATA_AT), SAME.boot(), 2))
    assert (1, 72, "expected visibility 0 or 1, found 2") in log.findings()


def slot(path: Path, position: int, **wrong: int) -> bytes:
    """Return a slot whose crcs are right, and whose fields may not be."""
    segment = Segment(SAME, str(path.parent), int(path.stem), STORE)
    running, total = segment.running_crc(position), segment.total(position)
    segment.close()
    return pack_slot(position, running ^ wrong.get("crc", 0), total ^ wrong.get("total", 0))


@BOOTS
@pytest.mark.parametrize("at", [512, 1024])
def test_slots_that_are_not_true_are_found_both_of_them(
    log: Log, system: FileSystem, at: int
) -> None:
    small(log)
    end = log.ends[1]
    whole = log.path(2).read_bytes()
    middle = DATA_AT + len(put(b"c", b"2"))
    path = log.path(2)
    for wrong, position, meaning in [
        ({"crc": 1}, middle, "the running crc up to"),
        ({"total": 1}, middle, "the sum of the bytes up to"),
        ({}, DATA_AT - 1, "before the end of the prelude"),
        ({}, middle + 1, "expected a record to end at"),
        ({}, end + 64, ""),
    ]:
        log.patch(2, at, slot(path, position, **wrong))
        assert any(number == 2 and meaning in text for number, _, text in log.findings(system))
        path.write_bytes(whole)
    log.patch(2, at, slot(path, middle))
    if at == 512:
        assert log.findings(system) == []


@BOOTS
def test_a_segment_that_does_not_go_on_from_the_one_before_is_found(
    log: Log, system: FileSystem
) -> None:
    small(log)
    whole = log.path(2).read_bytes()
    number, length, crc, check = CHAIN.unpack(whole[CHAIN_AT : CHAIN_AT + CHAIN.size])
    (sequence, _), (total, _) = (
        NUMBER.unpack(whole[at : at + NUMBER.size]) for at in (SEQUENCE_AT, CHAIN_SUM_AT)
    )
    assert check
    for at, data in [
        (CHAIN_AT, sealed(CHAIN, number + 1, length, crc)),
        (CHAIN_AT, sealed(CHAIN, number, length + 1, crc)),
        (CHAIN_AT, sealed(CHAIN, number, length, crc ^ 1)),
        (CHAIN_AT, bytes(CHAIN.size)),
        (CHAIN_SUM_AT, sealed(NUMBER, total ^ 1)),
        (SEQUENCE_AT, sealed(NUMBER, sequence + 1)),
    ]:
        log.patch(2, at, data)
        assert (2, at) in [(number, place) for number, place, _ in log.findings(system)]
        log.path(2).write_bytes(whole)
    # As programs left them that did not know of these fields.
    log.patch(2, CHAIN_SUM_AT, bytes(NUMBER.size))
    log.patch(2, SEQUENCE_AT, bytes(NUMBER.size))
    assert log.findings(system) == []


def test_a_segment_that_was_begun_too_early_is_found(log: Log) -> None:
    log.make()
    log.append(put(b"a"))
    log.make()
    log.close()
    log.patch(2, SEQUENCE_AT, sealed(NUMBER, 14))
    assert [(number, at) for number, at, _ in log.findings()] == [(2, SEQUENCE_AT)]
    log.patch(2, SEQUENCE_AT, bytes(NUMBER.size))
    assert log.findings() == []
    log.append(put(b"b"))
    meanings = [meaning for _, _, meaning in log.findings()]
    assert "records, but the log before it is not sealed" in meanings


def test_a_seal_at_the_end_of_the_last_segment_is_found(log: Log) -> None:
    log.make()
    log.append(put(b"a"))
    end = log.wals[0].seal(log.ends[0])[1]
    ((number, at, meaning),) = log.findings()
    assert (number, at) == (1, end)
    assert "the MANIFEST names no segment that follows" in meaning


def test_what_is_published_behind_a_seal_is_found(log: Log) -> None:
    small(log, close=False)
    end = log.ends[0]
    log.append(put(b"late"), number=0)
    assert (1, end) in [(number, at) for number, at, _ in log.findings()]


def test_the_first_segment_may_follow_one_that_is_no_more(log: Log) -> None:
    small(log)
    segments = [Segment(SAME, str(log.folder), number, STORE) for number in (2, 3)]
    assert list(check_logs(SAME, segments)) == []
    for segment in segments:
        segment.close()
    for at, data in [
        (CHAIN_AT, sealed(CHAIN, 2, 5000, 0)),
        (CHAIN_AT, b"x" * CHAIN.size),
        (CHAIN_SUM_AT, b"x" * NUMBER.size),
        (SEQUENCE_AT, b"x" * NUMBER.size),
    ]:
        whole = log.path(2).read_bytes()
        log.patch(2, at, data)
        segment = Segment(SAME, str(log.folder), 2, STORE)
        found = [finding.offset for finding in check_logs(SAME, [segment])]
        segment.close()
        assert found == [at]
        log.path(2).write_bytes(whole)


def test_a_segment_that_did_not_open_leaves_the_others_to_be_checked(log: Log) -> None:
    small(log)
    log.patch(2, DATA_AT + 2, b"\xff")
    segments: list[Any] = [None, Segment(SAME, str(log.folder), 2, STORE), None]
    found = list(check_logs(SAME, segments))
    segments[1].close()
    assert [finding.offset for finding in found] == [DATA_AT]


def test_a_log_that_is_cut_off_is_found(log: Log) -> None:
    small(log)
    whole = log.path(2).read_bytes()
    for length in range(DATA_AT, log.ends[1]):
        log.path(2).write_bytes(whole[:length])
        for system in (SAME, OTHER):
            assert [number for number, _, _ in log.findings(system)] == [2]


def test_the_crc_of_a_record_cannot_stand_in_for_its_place(log: Log) -> None:
    """Records of one length that changed places have the same running crc."""
    log.make()
    records = [put(b"key", b"%d" % number) for number in range(4)]
    log.append(*records)
    log.close()
    log.patch(1, DATA_AT, records[1] + records[0])
    segment = Segment(SAME, str(log.folder), 1, STORE)
    data = log.path(1).read_bytes()[DATA_AT : log.ends[0]]
    assert segment.running_crc(log.ends[0]) == crc32c(data, segment.seed) == log.wals[0].cover(0)[1]
    segment.close()
    for system in (SAME, OTHER):
        assert any("the sum of the bytes" in meaning for _, _, meaning in log.findings(system))
