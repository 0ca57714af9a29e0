"""A reader keeps up with whoever writes: through rotation, flush, merge, clear, close and 'n'."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import oblivion_dbm.engine.recovery as recovery_module
from gates.failure import descriptors
from oblivion_dbm import CorruptionError, Database, error
from oblivion_dbm.engine.compactor import Compactor
from oblivion_dbm.engine.filesystem import File, FileSystem
from oblivion_dbm.engine.lock import WriterLock
from oblivion_dbm.engine.manifest import Manifest, load
from oblivion_dbm.engine.options import Options
from oblivion_dbm.engine.record import PUT, encode
from oblivion_dbm.engine.recovery import Recovery, replay_into
from oblivion_dbm.engine.storage_engine import open_store
from oblivion_dbm.engine.verify import verify
from oblivion_dbm.engine.wal import SEAL_RECORD, WAL

SYSTEM = FileSystem()
SEAL = len(SEAL_RECORD)
HOW = pytest.mark.parametrize(
    ("back_end", "sync"), [("mapped", "normal"), ("mapped", "full"), ("pwrite", "off")]
)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "store")


def open_it(path: str, flag: str = "c", system: FileSystem = SYSTEM, **more: Any) -> Any:
    return open_store(path, flag, Options(**more), 0o666, system)


def contents(engine: Any) -> dict[bytes, bytes]:
    return dict(engine.scan("pairs", None, None, False))


class Pair:
    """A writer, a reader beside it, and what both must show."""

    def __init__(self, path: str, **options: Any) -> None:
        self.path, self.options = path, options
        self.writer = open_it(path, "c", **options)
        self.reader = open_it(path, "r")
        self.model: dict[bytes, bytes] = {}
        self.sequence = 0

    def put(self, start: int, stop: int) -> None:
        for number in range(start, stop):
            key, value = b"%04d" % number, b"%d" % len(self.model)
            self.writer.put(key, value)
            self.model[key] = value
            assert self.reader.value(key) == value
            self.check_sequence()

    def delete(self, start: int, stop: int) -> None:
        for number in range(start, stop):
            key = b"%04d" % number
            assert self.writer.delete(key)
            del self.model[key]
            assert self.reader.value(key) is None

    def check(self) -> None:
        for engine in (self.reader, self.writer):
            assert contents(engine) == self.model
            assert engine.count() == len(self.model)
            assert engine.first() == min(self.model, default=None)
            assert {key: engine.value(key) for key in self.model} == self.model
            assert engine.value(b"absent") is None
        self.check_sequence()

    def check_sequence(self) -> None:
        """Compare; a SEAL in mode "full" shows when it is synced, or its segment has gone."""
        writers, end = self.writer.sequence, time.monotonic() + 20
        self.reader.refresh()
        while self.options.get("sync") == "full" and self.reader.sequence + SEAL == writers:
            assert time.monotonic() < end
            self.reader.refresh()
        assert self.sequence <= writers <= self.reader.sequence <= self.writer.sequence
        self.sequence = self.reader.sequence

    def successor(self, flag: str = "w") -> None:
        self.writer.close()
        self.writer = open_it(self.path, flag, **self.options)
        if flag == "n":
            self.model, self.sequence = {}, 0
        self.check_sequence()


@pytest.fixture
def pair(path: str, back_end: str, sync: str) -> Iterator[Pair]:
    pair = Pair(path, log_back_end=back_end, sync=sync, memtable_limit=20_000, fan_in=3)
    yield pair
    pair.writer.close()
    pair.reader.close()


@HOW
def test_a_reader_sees_each_write_as_it_returns(pair: Pair) -> None:
    pair.check()
    pair.put(0, 300)
    pair.delete(100, 200)
    pair.check()
    pair.writer.write({b"0000": None, b"batch": b"1"}, False)
    del pair.model[b"0000"]
    pair.model[b"batch"] = b"1"
    pair.check()


@HOW
@pytest.mark.parametrize("step", ["flush", "compact", "sync", "clear", "w", "n"])
def test_a_reader_follows_through_every_step_of_the_writer(pair: Pair, step: str) -> None:
    for _ in range(3):
        pair.put(0, 150)
        pair.check()
        if step in "wn":
            pair.successor(step)
        else:
            getattr(pair.writer, step)()
            if step == "clear":
                pair.model = {}
        pair.check()
        pair.check()
        pair.put(500, 520)
        pair.delete(500, 510)
        pair.check()


@HOW
def test_a_reader_that_slept_through_everything_catches_up_at_once(pair: Pair) -> None:
    pair.put(0, 10)
    for number in range(3000):
        key = b"%04d" % (number % 700)
        pair.writer.put(key, b"later")
        pair.model[key] = b"later"
        if number % 500 == 499:
            pair.writer.compact()
        if number == 2000:
            pair.writer.close()
            pair.writer = open_it(pair.path, "w", **pair.options)
    pair.check()


@HOW
def test_a_reader_follows_one_segment_as_it_grows(pair: Pair) -> None:
    pair.writer.close()
    pair.options["memtable_limit"] = 1 << 24
    pair.writer = open_it(pair.path, "w", **pair.options)
    for number in range(30):
        value = bytes([number]) * (10_000 * number)
        pair.writer.put(b"%02d" % number, value)
        assert pair.reader.value(b"%02d" % number) == value


def test_a_scan_that_was_begun_shows_its_moment_whatever_the_writer_does(path: str) -> None:
    pair = Pair(path, memtable_limit=20_000, fan_in=3)
    pair.put(0, 300)
    before = dict(pair.model)
    scan = pair.reader.scan("pairs", None, None, False)
    found = [next(scan)]
    pair.delete(0, 100)
    pair.writer.compact()
    assert pair.reader.count() == 200
    pair.writer.clear()
    assert pair.reader.count() == 0
    pair.successor("n")
    assert pair.reader.first() is None
    found += scan
    assert dict(found) == before
    pair.writer.close()
    pair.reader.close()


def test_a_reader_outlives_its_writer(path: str) -> None:
    pair = Pair(path)
    pair.put(0, 10)
    pair.writer.close()
    assert contents(pair.reader) == pair.model
    pair.reader.close()


def test_a_reader_of_a_dead_writer_s_store_follows_the_successor(path: str) -> None:
    child = os.fork()
    if child == 0:
        writer = open_it(path)
        writer.put(b"a", b"1")
        os._exit(0)
    os.waitpid(child, 0)
    reader = open_it(path, "r")
    assert reader.value(b"a") == b"1"
    writer = open_it(path, "w")
    assert reader.value(b"a") == b"1"
    writer.put(b"b", b"2")
    assert (reader.value(b"a"), reader.value(b"b")) == (b"1", b"2")
    writer.close()
    reader.close()


def test_a_reader_opened_before_the_first_write_sees_it(path: str) -> None:
    open_it(path).close()
    reader = open_it(path, "r")
    assert contents(reader) == {}
    writer = open_it(path, "w")
    assert contents(reader) == {}
    writer.put(b"a", b"1")
    assert reader.value(b"a") == b"1"
    reader.close()
    writer.close()


def test_full_mode_shows_readers_nothing_that_is_not_synced(path: str) -> None:
    seen: list[bytes | None] = []

    class Looking(FileSystem):
        """Lets a reader look just before each sync of the log."""

        def sync(self, file: File) -> None:
            if file.path.endswith(".wal") and reader is not None:
                seen.append(reader.value(b"b"))
            super().sync(file)

    reader: Any = None
    writer = open_it(path, "c", Looking(), sync="full")
    writer.put(b"a", b"1")
    reader = open_it(path, "r")
    writer.put(b"b", b"2")
    assert seen == [None]
    assert reader.value(b"b") == b"2"
    reader.close()
    reader = None
    writer.close()


class Moving(FileSystem):
    """Lets the writer take a step whenever the reader opens a file of the given kind."""

    def __init__(self, suffix: str, steps: list[Callable[[], object]]) -> None:
        self.suffix, self.steps = suffix, steps

    def open(self, path: str, writable: bool = False) -> File:
        if path.endswith(self.suffix) and self.steps:
            self.steps.pop(0)()
        return super().open(path, writable)


@pytest.mark.parametrize("suffix", ["MANIFEST", ".wal", ".sst"])
def test_a_file_that_goes_while_a_reader_opens_it_means_look_again(path: str, suffix: str) -> None:
    pair = Pair(path)
    pair.put(0, 50)
    pair.writer.flush()
    pair.put(50, 100)

    def step() -> None:
        pair.writer.put(b"more", b"1")
        pair.writer.compact()

    pair.model[b"more"] = b"1"
    late = open_it(path, "r", Moving(suffix, [step, step, step]))
    assert contents(late) == pair.model
    late.close()
    pair.check()
    pair.writer.close()
    pair.reader.close()


class Pausing(FileSystem):
    """Stops after a rotation's MANIFEST has named the new segment, until it is told to go on."""

    def __init__(self) -> None:
        self.rotating = False
        self.here, self.tell = os.pipe()
        self.go_on, self.let_go = os.pipe()

    def write(self, file: File, offset: int, data: bytes | memoryview) -> None:
        super().write(file, offset, data)
        if self.rotating and file.path.endswith("LOCK"):
            self.rotating = False
            os.write(self.tell, b"x")
            os.read(self.go_on, 1)

    def work(self, path: str) -> None:
        """Be the writer, in a child."""
        signal.alarm(30)
        writer = open_it(path, "c", self)
        writer.put(b"a", b"1")
        self.rotating = True
        writer.flush()
        writer.put(b"b", b"2")
        os.write(self.tell, b"x")
        os.read(self.go_on, 1)
        os._exit(0)

    def pass_by(self) -> None:
        """Let the writer finish what it does, and wait for that."""
        os.write(self.let_go, b"x")
        os.read(self.here, 1)

    def close_pipes(self) -> None:
        for end in (self.here, self.tell, self.go_on, self.let_go):
            os.close(end)


@pytest.mark.parametrize("opens", [1, 2, 3])
def test_a_reader_that_comes_in_the_middle_of_a_rotation_finds_no_damage(
    path: str, opens: int
) -> None:
    """The writer goes on at the ``opens``-th log segment that the reader opens, or after."""
    pausing = Pausing()
    child = os.fork()
    if child == 0:
        pausing.work(path)
    os.read(pausing.here, 1)
    left = [opens]

    class Slow(FileSystem):
        def open(self, path: str, writable: bool = False) -> File:
            left[0] -= path.endswith(".wal")
            if left[0] == 0:
                left[0] = -1
                pausing.pass_by()
            return super().open(path, writable)

    reader = open_it(path, "r", Slow())
    assert contents(reader) in ({b"a": b"1"}, {b"a": b"1", b"b": b"2"})
    if left[0] > 0:
        left[0] = -1
        pausing.pass_by()
    assert contents(reader) == {b"a": b"1", b"b": b"2"}
    reader.close()
    os.write(pausing.let_go, b"x")
    os.waitpid(child, 0)
    pausing.close_pipes()


def test_a_rotation_between_two_segments_being_read_is_no_damage(path: str) -> None:
    """The chain may be written after the older segment was read and before the younger is."""

    class Late(FileSystem):
        """Opens the second segment only after the writer has sealed the first."""

        opened = 0

        def open(self, path: str, writable: bool = False) -> File:
            if path.endswith(".wal"):
                self.opened += 1
                if self.opened == 2:
                    end = old.seal(old_end)
                    new.follow(end, 0)
            return super().open(path, writable)

    open_it(path).close()
    version = load(SYSTEM, path)
    store = bytes.fromhex(version.store_id)
    old, new = (WAL(SYSTEM, path, n, store_id=store, first_sequence=0) for n in (1, 2))
    record = encode(PUT, b"a", b"1")
    old_end = old.prelude_end + len(record)
    old.target[old.prelude_end : old_end] = record
    old.words[0] = old_end
    recovery = Recovery(Late(), path, version.replace(logs=(1, 2)), readable_only=True)
    assert list(recovery.merged().merged()) == [b"a"]
    recovery.close()
    old.close()
    new.close()


# A segment that was prepared ahead of time.


class ByHand:
    """A writer whose steps are taken one at a time, to look at the disk between any two.

    It names the next segment before it is wanted, and in a rotation writes no MANIFEST.
    """

    def __init__(self, path: str, back_end: str = "mapped", sync: str = "normal") -> None:
        open_it(path).close()
        self.path, self.back_end, self.full = path, back_end, sync == "full"
        self.lock = WriterLock(SYSTEM, path)
        self.manifest = Manifest(SYSTEM, path, load(SYSTEM, path))
        self.wals: list[WAL] = []
        self.ends: list[int] = []
        #: For each segment the records that it holds.
        self.records: list[dict[bytes, bytes]] = []
        self.live = 0
        self.sealed = (0, 0, 0, 0)
        self.sequence = 0
        self.prepare()

    def prepare(self) -> None:
        number = self.manifest.new_number()
        wal = WAL(
            SYSTEM,
            self.path,
            number,
            store_id=bytes.fromhex(self.manifest.version.store_id),
            first_sequence=0,
            back_end=self.back_end,
            synced_only=self.full,
        )
        self.wals.append(wal)
        self.ends.append(wal.prelude_end)
        self.records.append({})
        self.manifest.install(self.manifest.version.with_log(number), self.lock.bump)

    def put(self, key: bytes, value: bytes = b"") -> None:
        record = encode(PUT, key, value)
        wal, start = self.wals[self.live], self.ends[self.live]
        end = start + len(record)
        wal.target[start:end] = record
        wal.words[0] = end
        self.ends[self.live] = end
        self.records[self.live][key] = record
        self.sequence += len(record)

    def seal(self) -> None:
        self.sealed = self.wals[self.live].seal(self.ends[self.live])
        self.sequence += self.sealed[1] - self.ends[self.live]
        self.ends[self.live] = self.sealed[1]

    def switch(self) -> None:
        if not self.wals[self.live].sealed:
            self.seal()
        self.live += 1
        self.wals[self.live].follow(self.sealed, self.sequence)

    def sync(self) -> None:
        for wal, end in zip(self.wals, self.ends):
            mark = wal.cover(end)
            wal.sync()
            wal.note_synced(mark)

    def flush(self) -> None:
        """Make a table of the oldest segment."""
        compactor = Compactor(SYSTEM, self.path, Options(), self.manifest, 0o666)
        records = self.records.pop(0)
        run = compactor.flush(records, (0, 0), tombstones=False, drop_tombstones=True)
        version = self.manifest.version
        self.manifest.install(version.with_flush(run, version.logs[:1], None), self.lock.bump)
        self.wals.pop(0).close()
        self.ends.pop(0)
        self.live -= 1

    def close(self) -> None:
        for wal in self.wals:
            wal.close()
        self.lock.release()


Look = Callable[[list[bytes], int], None]


def rotate_by_hand(hand: ByHand, look: Look) -> None:
    """Go through two rotations, three flushes and more; ``look`` at the state after each step.

    ``look(keys, durable)`` is told all keys that were written so far, and how
    many of them are on the disk for sure.
    """
    keys: list[bytes] = []
    durable = 0

    def put() -> None:
        keys.append(b"%03d" % len(keys))
        hand.put(keys[-1])
        look(keys, durable)

    def step(take: Callable[[], None], syncs: bool = False) -> None:
        nonlocal durable
        take()
        durable = len(keys) if syncs else durable
        look(keys, durable)

    put()
    step(hand.sync, syncs=True)
    put()
    step(hand.prepare)
    for flushes in (1, 2):
        put()
        step(hand.seal)
        step(hand.switch)
        put()
        put()
        step(hand.prepare)
        step(hand.sync, syncs=True)
        put()
        step(hand.seal)
        step(hand.switch)
        step(hand.sync, syncs=True)
        for _ in range(flushes):
            step(hand.flush)
        step(hand.prepare)


ROTATIONS = pytest.mark.parametrize("back_end", ["mapped", "pwrite"])
MODES = pytest.mark.parametrize("sync", ["normal", "full"])


@ROTATIONS
@MODES
def test_readers_of_every_age_follow_into_segments_that_were_prepared(
    path: str, back_end: str, sync: str
) -> None:
    hand = ByHand(path, back_end, sync)
    readers: list[tuple[Any, bool]] = []
    sequences: list[int] = []

    def look(keys: list[bytes], durable: int) -> None:
        shown = keys[:durable] if sync == "full" else keys
        # One of each pair looks at every state, the other at every third.
        readers.extend((open_it(path, "r"), lazy) for lazy in (False, True))
        for place, (reader, lazy) in enumerate(readers):
            if lazy and (place // 2 + len(keys)) % 3:
                continue
            assert [key for key in keys if reader.value(key) is not None] == shown
            assert list(contents(reader)) == shown
            assert reader.count() == len(shown)
        sequences.append(readers[0][0].sequence)
        if durable == len(keys) or sync != "full":
            assert sequences[-1] == hand.sequence

    rotate_by_hand(hand, look)
    assert sequences == sorted(sequences)
    for reader, _ in readers:
        reader.close()
    hand.close()


@ROTATIONS
@MODES
@pytest.mark.parametrize("boot", ["same", "other"])
def test_a_writer_recovers_from_every_state_of_a_rotation(
    path: str, back_end: str, sync: str, boot: str
) -> None:
    """Killed in it, everything is there; after a power cut, here one that lost nothing, too."""

    class OtherBoot(FileSystem):
        def boot(self) -> bytes:
            return bytes(16)

    hand = ByHand(path, back_end, sync)
    system = SYSTEM if boot == "same" else OtherBoot()

    def look(keys: list[bytes], durable: int) -> None:
        copy = f"{path}-{len(os.listdir(os.path.dirname(path)))}"
        shutil.copytree(path, copy)
        late = open_it(copy, "r", system)
        before = list(contents(late))
        assert before == (keys[:durable] if sync == "full" and boot == "same" else keys)
        writer = open_it(copy, "w", system, sync=sync)
        assert list(contents(writer)) == keys
        assert boot == "other" or writer.sequence == hand.sequence
        writer.put(b"more", b"")
        assert list(contents(late)) == list(contents(writer)) == [*keys, b"more"]
        assert verify(copy) == []
        writer.close()
        late.close()

    rotate_by_hand(hand, look)
    hand.close()


def test_a_power_cut_that_takes_the_end_of_a_segment_takes_what_follows(path: str) -> None:
    hand = ByHand(path)
    hand.put(b"a")
    hand.sync()
    hand.put(b"b")
    hand.prepare()
    hand.switch()
    hand.put(b"c")
    copy = path + "-copy"
    shutil.copytree(path, copy)
    first = Path(copy, os.path.basename(hand.wals[0].path))
    whole = first.read_bytes()
    first.write_bytes(whole[: 4096 + 14] + bytes(len(whole) - 4096 - 14))

    class OtherBoot(FileSystem):
        def boot(self) -> bytes:
            return bytes(16)

    writer = open_it(copy, "w", OtherBoot())
    assert list(contents(writer)) == [b"a"]
    writer.put(b"d", b"")
    writer.close()
    assert len(list(Path(copy).glob("*.lost"))) == 1
    assert verify(copy) == []
    hand.close()


@pytest.mark.parametrize("length", range(1, 24))
def test_a_chain_that_a_kill_cut_short_is_no_damage_as_long_as_nothing_follows(
    path: str, length: int
) -> None:
    hand = ByHand(path)
    hand.put(b"a")
    hand.prepare()
    reader = open_it(path, "r")
    hand.switch()
    target = hand.wals[1].target
    chain = target[128:152]
    target[128:152] = chain[:length] + bytes(24 - length)
    second = open_it(path, "r")
    for engine in (reader, second):
        assert list(contents(engine)) == [b"a"]
    second.close()
    copy = path + "-copy"
    shutil.copytree(path, copy)
    writer = open_it(copy, "w")
    assert list(contents(writer)) == [b"a"]
    writer.close()
    target[128:152] = chain
    hand.put(b"b")
    assert list(contents(reader)) == [b"a", b"b"]
    reader.close()
    hand.close()


@pytest.mark.parametrize("damage", ["none", "length", "number", "crc"])
def test_a_segment_that_does_not_go_on_where_the_last_one_ended_is_damage(
    path: str, damage: str
) -> None:
    hand = ByHand(path)
    hand.put(b"a")
    hand.prepare()
    reader = open_it(path, "r")
    number, length, crc, total = hand.wals[0].seal(hand.ends[0])
    hand.live = 1
    if damage != "none":
        end = number + (damage == "number"), length + (damage == "length"), crc, total
        hand.wals[1].follow(end, hand.sequence)
    if damage == "crc":
        hand.wals[1].target[148:152] = b"\0\0\0\0"
    hand.put(b"b")
    for _ in range(2):
        with pytest.raises(CorruptionError):
            reader.value(b"b")
    with pytest.raises(CorruptionError):
        open_it(path, "r")
    reader.close()
    hand.close()


def test_a_reader_applies_each_record_once_through_flushes_and_merges(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied = 0

    def counting(memtable: Any, buffer: Any, offset: int, end: int) -> tuple[int, bool]:
        nonlocal applied
        applied += end - offset
        return replay_into(memtable, buffer, offset, end)

    monkeypatch.setattr(recovery_module, "replay_into", counting)
    hand = ByHand(path)
    reader = open_it(path, "r")
    for turn in range(4):
        hand.prepare()
        for number in range(100):
            hand.put(b"%d %d" % (turn, number), bytes(100))
        assert reader.count() == turn * 200 + 100
        hand.switch()
        for number in range(100, 200):
            hand.put(b"%d %d" % (turn, number), bytes(100))
        assert reader.count() == turn * 200 + 200
        hand.flush()
        assert reader.count() == turn * 200 + 200
        hand.lock.bump()  # as for a merge
        assert reader.count() == turn * 200 + 200
    assert applied == hand.sequence
    reader.close()
    hand.close()


@pytest.mark.parametrize("problem", [KeyboardInterrupt, CorruptionError])
def test_a_look_that_was_left_half_done_takes_nothing_back(
    path: str, monkeypatch: pytest.MonkeyPatch, problem: type[BaseException]
) -> None:
    """Other threads have seen some of what it applied, and must not see older values."""
    hand = ByHand(path)
    hand.put(b"a", b"0")
    reader = open_it(path, "r")
    assert reader.value(b"a") == b"0"
    for number in (1, 2, 3):
        hand.put(b"a", b"%d" % number)
    length = len(encode(PUT, b"a", b"0"))
    seen: list[bytes] = []

    def slowly(memtable: Any, buffer: Any, offset: int, end: int) -> tuple[int, bool]:
        for stop in range(offset + length, end + 1, length):
            replay_into(memtable, buffer, stop - length, stop)
            seen.append(reader.tree.lookup.value(b"a"))
            if len(seen) == 2:
                raise problem(*(("file", 0, "") if problem is CorruptionError else ()))
        return end, False

    monkeypatch.setattr(recovery_module, "replay_into", slowly)
    with pytest.raises(problem):
        reader.value(b"a")
    assert reader.value(b"a") == b"3"
    assert seen == sorted(seen)
    assert contents(reader) == {b"a": b"3"}
    reader.close()
    hand.close()


@MODES
def test_threads_that_share_a_reader_miss_no_write_that_has_returned(path: str, sync: str) -> None:
    """A thread that looks while another is taking over what is new waits for that."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    writer = open_it(path, "c", sync=sync, memtable_limit=5000)
    writer.put(b"n", b"0")
    reader = open_it(path, "r")
    written, over, wrong = 0, False, list[str]()

    def read() -> None:
        while not over:
            at_least = written
            found = int(reader.value(b"n"))
            if found < at_least:
                wrong.append(f"{found} after {at_least}")

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(1, 1500 if sync == "normal" else 400):
        writer.put(b"n", b"%d" % number)
        written = number
        if number % 100 == 0:
            writer.write({b"n": b"%d" % number}, True)
        if number % 150 == 0:
            writer.flush()
    over = True
    for thread in threads:
        thread.join()
    sys.setswitchinterval(before)
    assert wrong == []
    reader.close()
    writer.close()


# Damage.


def test_damage_to_what_was_appended_is_reported_and_not_skipped(path: str) -> None:
    pair = Pair(path)
    pair.put(0, 10)
    (log,) = Path(path).glob("*.wal")
    with open(log, "r+b") as file:
        file.seek(4096 + pair.writer.stats()["log_bytes"])
        pair.writer.put(b"damaged", b"1")
        file.seek(3, os.SEEK_CUR)
        file.write(b"\xff")
    for _ in range(2):
        with pytest.raises(CorruptionError) as caught:
            pair.reader.value(b"damaged")
        assert caught.value.filename == str(log)
    pair.writer.close()
    pair.reader.close()


@pytest.mark.parametrize("suffix", [".wal", ".sst"])
def test_a_file_that_is_missing_though_the_manifest_names_it_is_damage(
    path: str, suffix: str
) -> None:
    pair = Pair(path)
    pair.put(0, 10)
    pair.writer.flush()
    pair.put(10, 20)
    pair.writer.close()
    pair.reader.close()
    for file in Path(path).glob("*" + suffix):
        file.unlink()
    with pytest.raises(CorruptionError, match="missing") as caught:
        open_it(path, "r")
    assert caught.value.filename.endswith(suffix)
    with pytest.raises(error) as caught_too:
        open_it(path, "w")
    assert str(caught_too.value.filename).endswith(suffix)


def test_a_reader_holds_no_descriptor_after_close(path: str) -> None:
    open_it(path).close()
    before = descriptors()
    pair = Pair(path, memtable_limit=5000)
    pair.put(0, 300)
    pair.check()
    pair.writer.close()
    pair.reader.close()
    assert descriptors() == before


# Another process.


def told(pipe: int) -> bool:
    """Tell whether something came through a pipe that does not block."""
    try:
        return bool(os.read(pipe, 1))
    except BlockingIOError:
        return False


def watch(path: str, stop: int) -> str:
    """Read over and over until told to stop; return what was wrong, or "fine".

    The writer numbers its keys and, when it clears, the epoch, so every look
    must show a prefix, and never an older one than the look before.
    """
    reader = open_it(path, "r")
    last, looks = (0, 0), 0
    while not told(stop):
        epoch, *keys = contents(reader).items()
        if keys != [(b"k%05d" % number, b"%d" % number) for number in range(len(keys))]:
            return f"a hole after {looks} looks: {keys!r}"
        now = int(epoch[1]), len(keys)
        if now < last:
            return f"{now} after {last}"
        for key, value in keys[:: 1 + len(keys) // 10]:
            if reader.value(key) != value and int(reader.value(b"epoch")) == now[0]:
                return f"{key!r} is gone"
        last, looks = now, looks + 1
    reader.close()
    return "fine" if looks else "never looked"


@pytest.mark.parametrize("sync", ["normal", "full"])
def test_a_reader_process_sees_prefixes_and_never_goes_back(path: str, sync: str) -> None:
    options: dict[str, Any] = {"memtable_limit": 8000, "fan_in": 2, "sync": sync}
    writer = open_it(path, "c", **options)
    writer.write({b"epoch": b"0"}, True)
    stopping, stop = os.pipe()
    answering, answer = os.pipe()
    os.set_blocking(stopping, False)

    child = os.fork()
    if child == 0:
        signal.alarm(60)
        found = "an exception"
        try:
            found = watch(path, stopping)
        finally:
            os.write(answer, found.encode())
            os._exit(0)
    for epoch in range(1, 4):
        for number in range(400 if sync == "normal" else 150):
            writer.put(b"k%05d" % number, b"%d" % number)
            if number % 97 == 96:
                writer.compact()
            if number == 130:
                writer.close()
                writer = open_it(path, "w", **options)
        writer.write({b"epoch": b"%d" % epoch}, True)
    writer.close()
    os.write(stop, b"x")
    assert os.read(answering, 10_000).decode() == "fine"
    os.waitpid(child, 0)
    for end in (stopping, stop, answering, answer):
        os.close(end)


def test_closing_from_two_threads_closes_nobody_else_s_descriptor(tmp_path: Path) -> None:
    problems: list[OSError] = []
    stop = threading.Event()

    def bystander() -> None:
        while not stop.is_set():
            try:
                descriptor = os.open(os.devnull, os.O_RDONLY)
                os.fstat(descriptor)
                os.close(descriptor)
            except OSError as problem:  # noqa: PERF203 - one by one, as often as can be
                problems.append(problem)

    with Database(tmp_path / "store") as db:
        db[b"a"] = b"1"
    other = threading.Thread(target=bystander)
    other.start()
    for _ in range(300):
        reader = Database(tmp_path / "store", "r")
        start = threading.Barrier(2)

        def close(reader: Database = reader, start: threading.Barrier = start) -> None:
            start.wait()
            reader.close()

        closers = [threading.Thread(target=close) for _ in range(2)]
        for closer in closers:
            closer.start()
        for closer in closers:
            closer.join()
        assert reader.closed
    stop.set()
    other.join()
    assert problems == []
