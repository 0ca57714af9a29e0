"""Log segments: two back ends that write the same bytes, and what a reader makes of them."""

from __future__ import annotations

import errno
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gates.failure import descriptors
from oblivion_dbm import CorruptionError, error
from oblivion_dbm.engine.filesystem import File, FileSystem
from oblivion_dbm.engine.header_page import DATA_AT, pack_header
from oblivion_dbm.engine.record import PUT, crc32c, encode
from oblivion_dbm.engine.segment import Segment
from oblivion_dbm.engine.wal import SEAL_RECORD, WAL

SYSTEM = FileSystem()
STORE = bytes(range(16))
BACK_ENDS = pytest.mark.parametrize("back_end", ["mapped", "pwrite"])


def make(folder: Path, back_end: str = "mapped", system: FileSystem = SYSTEM, **more: Any) -> WAL:
    return WAL(
        system,
        str(folder),
        more.pop("number", 7),
        store_id=STORE,
        first_sequence=more.pop("first_sequence", 0),
        back_end=back_end,
        **more,
    )


def append(wal: WAL, position: int, record: bytes) -> int:
    """Do what an Appender does."""
    end = position + len(record)
    wal.grow(end)
    wal.target[position:end] = record
    wal.words[0] = end
    return end


def sync(wal: WAL, position: int) -> None:
    """Do what a Log does."""
    mark = wal.cover(position)
    wal.sync()
    wal.note_synced(mark)


def contents(folder: Path) -> bytes:
    (path,) = folder.glob("*.wal")
    return path.read_bytes()


@BACK_ENDS
def test_a_new_segment_is_empty_and_knows_its_store(tmp_path: Path, back_end: str) -> None:
    wal = make(tmp_path, back_end, first_sequence=1000, synced_only=True)
    assert wal.back_end == back_end
    segment = Segment(SYSTEM, str(tmp_path), 7, STORE)
    assert segment.boot == SYSTEM.boot()
    assert (segment.first_sequence, segment.prelude_end) == (1000, DATA_AT)
    assert segment.synced_only
    assert segment.appended == DATA_AT
    assert segment.synced() == (DATA_AT, segment.seed)
    assert segment.chain() is None
    assert segment.used_up_to(DATA_AT) == DATA_AT
    segment.close()
    wal.close()


def test_auto_takes_the_map_where_it_works(tmp_path: Path) -> None:
    wal = make(tmp_path, "auto")
    assert wal.back_end == "mapped"
    wal.close()


class Refusing(FileSystem):
    """Refuses one call with one errno, from the n-th time on."""

    def __init__(self, call: str, number: int, first: int = 1) -> None:
        self.call, self.number, self.left = call, number, first

    def _refuse(self, call: str, file: File) -> None:
        if call == self.call:
            self.left -= 1
            if self.left <= 0:
                raise error(self.number, "refused", file.path)

    def allocate(self, file: File, length: int) -> None:
        self._refuse("allocate", file)
        super().allocate(file, length)

    def map(self, file: File, length: int, writable: bool = False) -> mmap.mmap:
        self._refuse("map", file)
        return super().map(file, length, writable)

    def sync(self, file: File) -> None:
        self._refuse("sync", file)
        super().sync(file)

    def write(self, file: File, offset: int, data: bytes | memoryview) -> None:
        self._refuse("write", file)
        super().write(file, offset, data)


@pytest.mark.parametrize("call", ["allocate", "map"])
def test_auto_falls_back_on_pwrite_where_a_file_cannot_be_mapped(tmp_path: Path, call: str) -> None:
    wal = make(tmp_path, "auto", Refusing(call, errno.EOPNOTSUPP))
    assert wal.back_end == "pwrite"
    wal.close()
    with pytest.raises(error, match="refused"):
        make(tmp_path, "mapped", Refusing(call, errno.EOPNOTSUPP), number=8)
    assert [path.name for path in tmp_path.iterdir()] == ["000007.wal"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_no_reason_to_fall_back(tmp_path: Path, number: int) -> None:
    with pytest.raises(error) as caught:
        make(tmp_path, "auto", Refusing("allocate", number))
    assert caught.value.errno == number
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("back_end", "call", "first"),
    [
        ("mapped", "allocate", 1),
        ("mapped", "map", 1),
        ("mapped", "sync", 1),
        ("pwrite", "sync", 1),
        *(("pwrite", "write", first) for first in range(1, 6)),
    ],
)
def test_a_segment_that_cannot_be_made_leaves_no_file_and_no_descriptor(
    tmp_path: Path, back_end: str, call: str, first: int
) -> None:
    before = descriptors()
    with pytest.raises(error, match="refused"):
        make(tmp_path, back_end, Refusing(call, errno.EIO, first), prelude=b"prelude")
    assert list(tmp_path.iterdir()) == []
    assert descriptors() == before


def write_all(folder: Path, back_end: str, steps: list[bytes | None]) -> bytes:
    """Append records, sync where a step is None, seal; return the file's bytes."""
    folder.mkdir()
    wal = make(folder, back_end, prelude=encode(PUT, b"prelude", b""))
    position = wal.prelude_end
    for step in steps:
        if step is None:
            sync(wal, position)
        else:
            position = append(wal, position, step)
    wal.follow((6, 5000, 77, 88), 0)
    wal.seal(position)
    wal.close()
    return contents(folder)


@given(st.lists(st.one_of(st.none(), st.binary(min_size=1, max_size=90_000)), max_size=6))
def test_both_back_ends_write_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, steps: list[bytes | None]
) -> None:
    folder = tmp_path_factory.mktemp("log")
    mapped = write_all(folder / "mapped", "mapped", steps)
    written = write_all(folder / "written", "pwrite", steps)
    assert mapped.rstrip(b"\0") == written.rstrip(b"\0")
    assert len(mapped) >= len(written)


@BACK_ENDS
def test_a_prelude_is_durable_and_its_bytes_have_no_sequence_numbers(
    tmp_path: Path, back_end: str
) -> None:
    prelude = encode(PUT, b"key", b"x" * 100_000)
    wal = make(tmp_path, back_end, prelude=prelude, first_sequence=500)
    end = DATA_AT + len(prelude)
    assert wal.prelude_end == wal.synced == end
    assert [wal.sequence(position) for position in (DATA_AT, end, end + 10)] == [500, 500, 510]
    segment = Segment(SYSTEM, str(tmp_path), 7, STORE)
    assert segment.buffer[DATA_AT:end] == prelude
    assert segment.appended == segment.synced()[0] == end
    segment.close()
    wal.close()


def test_a_mapped_segment_grows_by_doubling_and_keeps_what_is_there(tmp_path: Path) -> None:
    wal = make(tmp_path)
    position = append(wal, wal.prelude_end, b"first")
    assert wal.capacity == 1 << 16
    wal.grow(1 << 16)
    assert wal.capacity == 1 << 16
    wal.grow((1 << 18) + 1)
    assert wal.capacity == 1 << 19 == len(contents(tmp_path)) == len(wal.target)
    assert wal.target[DATA_AT:position] == b"first"
    assert wal.words[0] == position
    append(wal, position, b"second")
    assert contents(tmp_path)[DATA_AT : DATA_AT + 11] == b"firstsecond"
    wal.close()


@pytest.mark.parametrize("call", ["allocate", "map"])
def test_a_segment_that_cannot_grow_still_takes_what_fits(tmp_path: Path, call: str) -> None:
    system = Refusing(call, errno.ENOSPC, 2)
    wal = make(tmp_path, "mapped", system)
    with pytest.raises(error, match="refused"):
        wal.grow(1 << 20)
    assert wal.capacity == 1 << 16
    append(wal, wal.prelude_end, b"fits")
    sync(wal, wal.prelude_end + 4)
    system.left = 1 << 30
    append(wal, wal.prelude_end + 4, b"x" * 100_000)
    wal.close()
    assert contents(tmp_path)[DATA_AT:].rstrip(b"\0") == b"fits" + b"x" * 100_000


@BACK_ENDS
def test_syncs_are_noted_in_two_slots_in_turn_with_the_running_crc(
    tmp_path: Path, back_end: str
) -> None:
    wal = make(tmp_path, back_end)
    position, places = wal.prelude_end, []
    for number in range(4):
        position = append(wal, position, b"record %d" % number)
        before = contents(tmp_path)
        sync(wal, position)
        after = contents(tmp_path)
        places.append([place for place in (512, 1024) if before[place:][:28] != after[place:][:28]])
        segment = Segment(SYSTEM, str(tmp_path), 7, STORE)
        crc = crc32c(after[DATA_AT:position], segment.seed)
        assert segment.synced() == (position, crc) == (wal.synced, segment.running_crc(position))
        segment.close()
    assert places == [[1024], [512], [1024], [512]]
    wal.close()


def test_a_sync_covers_what_was_stored_when_it_began_and_no_more(tmp_path: Path) -> None:
    wal = make(tmp_path)
    position = append(wal, wal.prelude_end, b"first")
    append(wal, position, b"second")
    sync(wal, position)
    segment = Segment(SYSTEM, str(tmp_path), 7, STORE)
    assert segment.synced()[0] == position
    segment.close()
    wal.close()


@BACK_ENDS
def test_a_sync_that_fails_is_not_noted(tmp_path: Path, back_end: str) -> None:
    wal = make(tmp_path, back_end, Refusing("sync", errno.EIO, 2))
    append(wal, wal.prelude_end, b"record")
    with pytest.raises(error, match="refused"):
        sync(wal, wal.prelude_end + 6)
    segment = Segment(SYSTEM, str(tmp_path), 7, STORE)
    assert segment.synced()[0] == wal.synced == DATA_AT
    segment.close()
    wal.close()


def test_the_running_crc_does_not_depend_on_where_syncs_and_strides_fall(tmp_path: Path) -> None:
    wal = make(tmp_path)
    data = bytes(range(256)) * 10_000
    position = append(wal, wal.prelude_end, data)
    for stop in (5000, 1 << 20, (1 << 20) + DATA_AT, (2 << 20) + 1, position):
        sync(wal, stop)
        segment = Segment(SYSTEM, str(tmp_path), 7, STORE)
        crc = crc32c(data[: stop - DATA_AT], segment.seed)
        assert segment.synced() == (stop, crc) == (stop, segment.running_crc(stop))
        segment.check_sums(segment.synced()[0])
        segment.close()
    wal.close()


@BACK_ENDS
def test_a_sealed_segment_ends_with_a_seal(tmp_path: Path, back_end: str) -> None:
    wal = make(tmp_path, back_end)
    position = append(wal, wal.prelude_end, encode(PUT, b"a", b"1"))
    number, end, crc, total = wal.seal(position)
    assert (number, end) == (7, position + len(SEAL_RECORD))
    assert wal.seal(position) == (number, end, crc, total)
    segment = Segment(SYSTEM, str(tmp_path), 7, STORE)
    assert segment.used_up_to(DATA_AT) == end
    assert segment.buffer[DATA_AT:end] == encode(PUT, b"a", b"1") + SEAL_RECORD
    assert segment.appended == end
    assert segment.running_crc(end) == crc
    assert segment.matches(end, crc, total)
    assert segment.matches(end, crc, 0)
    assert not segment.matches(end, crc, total ^ 1)
    assert not segment.matches(end, crc ^ 1, 0)
    assert not segment.matches(2**64 - 1, crc, total)  # at once
    assert not segment.matches(2**64 - 1, crc, 0)
    sync(wal, end)
    assert segment.synced() == (end, crc)
    segment.close()
    wal.close()


def test_a_seal_finds_room_in_a_segment_that_is_full_to_the_byte(tmp_path: Path) -> None:
    wal = make(tmp_path)
    position = append(wal, wal.prelude_end, b"x" * ((1 << 16) - DATA_AT))
    assert position == wal.capacity
    wal.seal(position)
    assert contents(tmp_path)[position:].startswith(SEAL_RECORD)
    wal.close()


@BACK_ENDS
def test_a_segment_holds_the_end_of_the_one_before_it(tmp_path: Path, back_end: str) -> None:
    wal = make(tmp_path, back_end)
    wal.follow((6, 12345, 0, 99), 0)
    segment = Segment(SYSTEM, str(tmp_path), 7, STORE)
    assert segment.chain() == (6, 12345, 0)
    assert segment.chain_sum == 99
    segment.close()
    wal.close()


@BACK_ENDS
def test_a_writer_that_closes_says_where_it_ended_and_a_seal_takes_that_back(
    tmp_path: Path, back_end: str
) -> None:
    wal = make(tmp_path, back_end)
    position = append(wal, wal.prelude_end, encode(PUT, b"a", b"1"))

    def ended() -> int | None:
        segment = Segment(SYSTEM, str(tmp_path), 7, STORE)
        found = segment.ended
        segment.close()
        return found

    assert ended() is None
    wal.note_end(position)
    wal.note_end(position)
    assert ended() == position
    before = contents(tmp_path)
    assert int.from_bytes(before[224:232], "little") == wal.cover(position)[2]
    for size in range(12):  # killed in the middle of it
        (tmp_path / "000007.wal").write_bytes(
            before[: 208 + size] + bytes(12 - size) + before[220:]
        )
        assert ended() is None
    (tmp_path / "000007.wal").write_bytes(before)
    wal.seal(position)
    wal.note_end(position)
    if back_end == "pwrite":
        assert ended() is None
        assert not any(contents(tmp_path)[208:240])
    wal.close()


def test_a_slot_without_a_sum_is_one_of_an_older_program(
    tmp_path: Path, damaged: Callable[[int, bytes], Path]
) -> None:
    whole = damaged(0, b"").read_bytes()
    segment = Segment(SYSTEM, str(tmp_path), 7, STORE)
    synced = segment.synced()
    segment.close()
    damaged(1040, bytes(12))
    segment = Segment(SYSTEM, str(tmp_path), 7, STORE)
    assert segment.synced() == synced
    segment.check_sums(segment.synced()[0])
    segment.close()
    for offset in range(1040, 1052):  # which it is not if there is one that does not check
        damaged(offset, bytes([whole[offset] ^ 1]))
        segment = Segment(SYSTEM, str(tmp_path), 7, STORE)
        assert segment.synced()[0] == DATA_AT
        segment.close()


# Appends that fail, over pwrite.


class Full(FileSystem):
    """A disk on which files end at ``limit``; a write up to it is short."""

    limit = 1 << 40

    def write(self, file: File, offset: int, data: bytes | memoryview) -> None:
        room = max(0, self.limit - offset)
        super().write(file, offset, bytes(data)[:room])
        if len(data) > room:
            raise error(errno.ENOSPC, "no space left", file.path)


@pytest.mark.parametrize("room", [0, 1, 5, 9])
def test_an_append_that_was_cut_short_leaves_zeros(tmp_path: Path, room: int) -> None:
    system = Full()
    wal = make(tmp_path, "pwrite", system)
    position = append(wal, wal.prelude_end, b"kept")
    system.limit = position + room
    with pytest.raises(error, match="no space left"):
        append(wal, position, b"ten bytes!")
    assert contents(tmp_path)[DATA_AT:] == b"kept" + bytes(room)
    assert wal.words[0] == position
    system.limit = 1 << 40
    append(wal, position, b"now")
    assert contents(tmp_path)[DATA_AT:].rstrip(b"\0") == b"keptnow"
    wal.close()


class Dying(FileSystem):
    """Writes the first half of what it is told to, and nothing at all from then on."""

    dead = False
    dying = False

    def write(self, file: File, offset: int, data: bytes | memoryview) -> None:
        if self.dead:
            raise error(errno.EIO, "dead", file.path)
        if self.dying:
            super().write(file, offset, bytes(data)[: len(data) // 2])
            self.dead = True
            raise error(errno.EIO, "dying", file.path)
        super().write(file, offset, data)


def test_a_segment_that_cannot_be_wiped_takes_nothing_more(tmp_path: Path) -> None:
    system = Dying()
    wal = make(tmp_path, "pwrite", system)
    position = append(wal, wal.prelude_end, b"kept")
    system.dying = True
    with pytest.raises(error, match="dead"):
        append(wal, position, b"half of it")
    system.dead = system.dying = False
    with pytest.raises(error, match="an earlier write failed half way"):
        append(wal, position, b"x")
    assert wal.words[0] == position
    wal.close()


def test_a_failed_store_into_the_header_leaves_what_was_there(tmp_path: Path) -> None:
    system = Dying()
    wal = make(tmp_path, "pwrite", system)
    before = contents(tmp_path)

    class Once(Dying):
        def write(self, file: File, offset: int, data: bytes | memoryview) -> None:
            if self.dying:
                self.dying = False
                FileSystem.write(self, file, offset, bytes(data)[: len(data) // 2])
                raise error(errno.EIO, "once", file.path)
            FileSystem.write(self, file, offset, data)

    once = Once()
    wal.target._filesystem = once
    stores: list[Callable[[], None]] = [
        lambda: wal.words.__setitem__(0, 2**64 - 1),
        lambda: wal.follow((2**64 - 1, 2**64 - 1, 2**32 - 1, 2**64 - 1), 0),
    ]
    for store in stores:
        once.dying = True
        with pytest.raises(error, match="once"):
            store()
        assert contents(tmp_path) == before
    wal.close()


# What a reader makes of a file.


@pytest.fixture
def damaged(tmp_path: Path) -> Callable[[int, bytes], Path]:
    wal = make(tmp_path, "pwrite")
    wal.follow((6, 5000, 77, 88), 0)
    position = append(wal, wal.prelude_end, encode(PUT, b"key", b"value"))
    sync(wal, position)
    wal.close()
    whole = contents(tmp_path)

    def damage(offset: int, data: bytes) -> Path:
        path = tmp_path / "000007.wal"
        path.write_bytes(whole[:offset] + data + whole[offset + len(data) :])
        return path

    return damage


def header_of(folder: Path) -> tuple[object, ...] | int:
    """Return what a segment's header says, or the offset of the damage that was found."""
    try:
        segment = Segment(SYSTEM, str(folder), 7, STORE)
    except CorruptionError as problem:
        return problem.offset
    try:
        return segment.first_sequence, segment.boot, segment.chain(), segment.synced()[0]
    except CorruptionError as problem:
        return problem.offset
    finally:
        segment.close()


def test_every_byte_flip_of_the_header_is_reported_or_without_effect(
    tmp_path: Path, damaged: Callable[[int, bytes], Path]
) -> None:
    whole = damaged(0, b"").read_bytes()
    truth = header_of(tmp_path)
    older = (*truth[:3], DATA_AT) if isinstance(truth, tuple) else ()
    for offset in range(1100):
        damaged(offset, bytes([whole[offset] ^ 0x40]))
        found = header_of(tmp_path)
        if offset < 80:
            assert found == 0
        elif 128 <= offset < 152:
            assert found == 128
        elif 160 <= offset < 172:
            assert found == 160
        elif 1024 <= offset < 1052:
            assert found == older
        else:
            assert found == truth


def test_the_older_slot_stands_in_for_a_damaged_one_and_two_damaged_ones_are_reported(
    tmp_path: Path, damaged: Callable[[int, bytes], Path]
) -> None:
    damaged(1024, b"\xff")
    segment = Segment(SYSTEM, str(tmp_path), 7, STORE)
    assert segment.synced() == (DATA_AT, segment.seed)
    segment.close()
    damaged(512, b"\xff" * 528)
    segment = Segment(SYSTEM, str(tmp_path), 7, STORE)
    with pytest.raises(CorruptionError, match="no slot"):
        segment.synced()
    segment.close()
    damaged(512, bytes(528))
    segment = Segment(SYSTEM, str(tmp_path), 7, STORE)
    with pytest.raises(CorruptionError, match="no slot"):
        segment.synced()
    segment.close()


@pytest.mark.parametrize("length", [0, 1, 96, DATA_AT - 1])
def test_a_file_shorter_than_a_header_is_damage(
    tmp_path: Path, length: int, damaged: Callable[[int, bytes], Path]
) -> None:
    path = damaged(0, b"")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CorruptionError, match=f"found {length} bytes"):
        Segment(SYSTEM, str(tmp_path), 7, STORE)


def test_a_segment_of_another_store_or_number_is_not_taken_for_ours(
    tmp_path: Path, damaged: Callable[[int, bytes], Path]
) -> None:
    path = damaged(0, b"")
    with pytest.raises(CorruptionError, match=r"expected segment 7 of store 0000.*, found"):
        Segment(SYSTEM, str(tmp_path), 7, bytes(16))
    path.rename(tmp_path / "000008.wal")
    with pytest.raises(CorruptionError, match=r"expected segment 8 .*, found segment 7"):
        Segment(SYSTEM, str(tmp_path), 8, STORE)


@pytest.mark.parametrize(("offset", "found"), [(8, "2 and 1"), (12, "1 and 2")])
def test_a_newer_format_is_an_error_that_says_so_and_no_damage(
    tmp_path: Path, offset: int, found: str, damaged: Callable[[int, bytes], Path]
) -> None:
    header = bytearray(pack_header(STORE, 7, (0, DATA_AT), SYSTEM.boot(), 0))
    header[offset] = 2
    header[-4:] = (crc32c(bytes(header[:-4])) ^ 0xFFFF_FFFF).to_bytes(4, "little")
    path = damaged(0, bytes(header))
    with pytest.raises(error, match=f"expected .*format 1.*found {found}.*newer") as caught:
        Segment(SYSTEM, str(tmp_path), 7, STORE)
    assert not isinstance(caught.value, CorruptionError)
    assert str(path) in str(caught.value)


def test_a_reader_maps_anew_when_the_segment_has_grown(tmp_path: Path) -> None:
    wal = make(tmp_path)
    segment = Segment(SYSTEM, str(tmp_path), 7, STORE)
    end = append(wal, wal.prelude_end, b"x" * 200_000)
    assert segment.appended == segment.words[0] == end > len(segment.buffer)
    segment.remap()
    assert segment.buffer[DATA_AT:end] == b"x" * 200_000
    assert segment.words[0] == end
    segment.close()
    wal.close()


def test_a_file_that_cannot_be_mapped_is_read(tmp_path: Path) -> None:
    wal = make(tmp_path, "pwrite")
    end = append(wal, wal.prelude_end, b"bytes")
    sync(wal, end)
    segment = Segment(Refusing("map", errno.ENODEV), str(tmp_path), 7, STORE)
    assert segment.appended == segment.synced()[0] == end
    assert segment.used_up_to(DATA_AT) == DATA_AT + 5
    assert segment.buffer[DATA_AT : DATA_AT + 5] == b"bytes"
    segment.close()
    wal.close()


def test_what_is_wrong_at_an_offset_is_explained(
    tmp_path: Path, damaged: Callable[[int, bytes], Path]
) -> None:
    path = damaged(DATA_AT + 6, b"X")
    segment = Segment(SYSTEM, str(tmp_path), 7, STORE)
    problem = segment.explain(DATA_AT, DATA_AT + 100)
    assert (problem.filename, problem.offset) == (str(path), DATA_AT)
    assert "expected crc" in problem.meaning
    segment.close()
