"""The inner loops of the kernel that was chosen, held against plain restatements of them."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from _thread import RLock
from array import array
from collections.abc import Callable
from errno import EDEADLK
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh64_intdigest

from oblivion_dbm import error
from oblivion_dbm.engine import kernel
from oblivion_dbm.engine.kernel import (
    PROBE_LIMIT,
    SLOTS_PER_PAIR,
    Appender,
    IndexBuilder,
    Lookup,
    combine,
    filter_admits,
    hash_keys,
    index_holds,
    keys_of,
    replay,
    split,
)
from oblivion_dbm.engine.merge import cut
from oblivion_dbm.engine.record import (
    BATCH,
    CLEAR,
    DELETE,
    LONGEST,
    MARKER,
    PUT,
    SEAL,
    BadRecord,
    encode,
)

KEYS = st.binary(max_size=4)
CHANGES = st.lists(st.tuples(KEYS, st.one_of(st.none(), st.binary(max_size=5))), max_size=12)
TABLES = st.dictionaries(KEYS, st.one_of(st.none(), st.binary(max_size=5)), max_size=12)


def change(key: bytes, value: bytes | None) -> bytes:
    return encode(DELETE, key, b"") if value is None else encode(PUT, key, value)


def chunk(table: dict[bytes, bytes | None]) -> tuple[list[bytes], list[bytes]]:
    keys = sorted(table)
    return keys, [change(key, table[key]) for key in keys]


# Which kernel.


@pytest.mark.parametrize(
    ("asked", "answer"),
    [("", "pure"), ("pure", "pure"), ("native", "no compiled kernel"), ("fast", "not 'fast'")],
)
def test_the_kernel_is_chosen_by_name_and_never_falls_back_in_silence(
    asked: str, answer: str
) -> None:
    program = "from oblivion_dbm.engine import kernel; print(kernel.NAME)"
    environment = {**os.environ, "OBLIVION_DBM_KERNEL": asked}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", program]
    child = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert answer in (child.stdout if answer == "pure" else child.stderr)
    assert (child.returncode == 0) == (answer == "pure")


def test_the_kernel_offers_every_name_of_its_interface() -> None:
    assert all(hasattr(kernel, name) for name in kernel.__all__)


# Replay.


@given(CHANGES, st.binary(max_size=20), st.integers(0, 9))
def test_replay_applies_puts_and_deletes_and_stops_at_the_first_bad_byte(
    changes: list[tuple[bytes, bytes | None]], rest: bytes, offset: int
) -> None:
    log = b"".join(change(key, value) for key, value in changes)
    buffer = bytes(offset) + log + b"\0" + rest
    records: dict[bytes, bytes] = {}
    tombstones: set[bytes] = set()
    found = replay(buffer, offset, len(buffer), records, tombstones)
    model = dict(changes)
    assert found == (offset + len(log), 0)
    assert records == {key: change(key, value) for key, value in model.items()}
    assert tombstones == {key for key, value in model.items() if value is None}


@given(CHANGES, st.sampled_from([BATCH, SEAL, CLEAR, MARKER, 7, 255]))
def test_replay_stops_at_any_other_operation_and_names_it(
    changes: list[tuple[bytes, bytes | None]], op: int
) -> None:
    log = b"".join(change(key, value) for key, value in changes)
    buffer = log + encode(op, b"", b"") + encode(PUT, b"later", b"")
    records: dict[bytes, bytes] = {}
    assert replay(buffer, 0, len(buffer), records, set()) == (len(log), op)
    assert b"later" not in records


def test_replay_reads_nothing_at_or_past_the_end() -> None:
    first, second = encode(PUT, b"a", b"1"), encode(PUT, b"b", b"2")
    buffer = first + second
    for end in range(len(first), len(buffer)):
        records: dict[bytes, bytes] = {}
        assert replay(buffer, 0, end, records, set()) == (len(first), 0)
        assert list(records) == [b"a"]


def test_replay_of_a_damaged_record_applies_nothing_of_it() -> None:
    whole = encode(PUT, b"key", b"value")
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        records: dict[bytes, bytes] = {}
        assert replay(damaged, 0, len(damaged), records, set()) == (0, 0)
        assert records == {}


# Split and combine.


def ends_of(records: list[bytes], start: int) -> list[int]:
    return list(accumulate(map(len, records), initial=start))


@given(TABLES, st.integers(0, 9), st.booleans())
def test_split_undoes_join(table: dict[bytes, bytes | None], offset: int, checked: bool) -> None:
    keys, records = chunk(table)
    data, ends = bytes(offset) + b"".join(records), ends_of(records, offset)
    assert split(data, ends, -1, checked) == (keys, records)
    lengths = set(map(len, keys))
    if len(lengths) == 1:
        assert split(data, ends, lengths.pop(), checked) == (keys, records)
    assert keys_of(records) == keys


def test_split_names_the_first_record_that_does_not_check() -> None:
    records = [encode(PUT, b"%d" % number, b"value") for number in range(4)]
    ends = ends_of(records, 5)
    data = bytes(5) + b"".join(records)
    for place in range(5, len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1
        with pytest.raises(BadRecord) as caught:
            split(bytes(damaged), ends)
        assert caught.value.offset == max(start for start in ends if start <= place)


@pytest.mark.parametrize("ends", [[0, 0], [0, 3], [0, 20], [0, 21, 21], [5, 0]])
def test_split_refuses_ends_that_no_record_has(ends: list[int]) -> None:
    with pytest.raises(BadRecord):
        split(encode(PUT, b"key", b"value"), ends)


@given(st.lists(TABLES.filter(bool), min_size=1, max_size=4))
def test_combine_keeps_the_newest_of_each_key_in_order(
    tables: list[dict[bytes, bytes | None]],
) -> None:
    model: dict[bytes, bytes | None] = {}
    for table in reversed(tables):
        model.update(table)
    assert combine([chunk(table) for table in tables]) == chunk(model)


@given(TABLES, KEYS, st.booleans())
def test_cut_divides_at_the_bound_and_loses_nothing(
    table: dict[bytes, bytes | None], bound: bytes, reverse: bool
) -> None:
    keys, records = chunk(table)
    (first, first_records), (left, left_records) = cut(keys, records, bound, reverse)
    if reverse:
        assert (left + first, left_records + first_records) == (keys, records)
        assert all(key >= bound for key in first)
        assert all(key < bound for key in left)
    else:
        assert (first + left, first_records + left_records) == (keys, records)
        assert all(key <= bound for key in first)
        assert all(key > bound for key in left)


# Index and filter.


def test_keys_are_hashed_with_xxh64_under_the_seed() -> None:
    keys = [b"", b"a", bytes(100)]
    assert hash_keys(keys, 7) == [xxh64_intdigest(key, 7) for key in keys]
    assert hash_keys(keys, 7) != hash_keys(keys, 8)


def pairs_for(count: int) -> int:
    return -(-3 * count // 32)


def offsets_of(lengths: list[int]) -> list[int]:
    return list(accumulate(lengths, initial=16))[:-1]


def build_index(
    digests: list[int], lengths: list[int], start: int, filter_pairs: int, step: int = 7
) -> tuple[array[int], array[int]]:
    """Return (slots of the index, words of the filter), built ``step`` records at a time."""
    builder = IndexBuilder(start, filter_pairs)
    while builder.make_room():
        pass
    for at in range(0, len(digests), step):
        builder.add(digests[at : at + step], lengths[at : at + step])
    return array("Q", b"".join(builder.slots())), array("Q", b"".join(builder.words()))


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=200))
def test_the_index_leads_to_every_record_and_the_filter_admits_it(digests: list[int]) -> None:
    lengths = [13 + place % 7 for place in range(len(digests))]
    count = SLOTS_PER_PAIR * pairs_for(len(digests))
    slots, words = build_index(digests, lengths, 16, pairs_for(len(digests)))
    assert len(slots) == count + PROBE_LIMIT
    assert len(words) == 2 * count // SLOTS_PER_PAIR
    left_out = 0
    for digest, offset in zip(digests, offsets_of(lengths)):
        held = index_holds(slots, count, digest, offset)
        assert held is not False
        left_out += held is None
        assert filter_admits(words, count, digest)
    filled = sum(map(bool, slots))
    assert filled == len(digests) - left_out
    if filled < len(digests):
        assert not index_holds(slots, count, digests[0], 15)


def test_an_empty_index_holds_nothing_and_an_empty_filter_admits_nothing() -> None:
    slots, words = build_index([], [], 16, 1)
    assert not any(slots)
    assert not index_holds(slots, SLOTS_PER_PAIR, 1 << 63, 16)
    assert not filter_admits(words, SLOTS_PER_PAIR, 1 << 63)


def test_keys_of_one_home_fill_the_probe_limit_and_the_rest_is_left_out() -> None:
    crowd = PROBE_LIMIT + 20
    digests = [5 << 60 | number for number in range(crowd)]
    lengths = [20] * crowd
    slots, _ = build_index(digests, lengths, 16, pairs_for(crowd))
    assert sum(map(bool, slots)) == PROBE_LIMIT
    count = SLOTS_PER_PAIR * pairs_for(crowd)
    held = [
        index_holds(slots, count, digest, offset)
        for digest, offset in zip(digests, offsets_of(lengths))
    ]
    assert held == [True] * PROBE_LIMIT + [None] * 20


def test_the_last_home_slot_has_room_behind_it() -> None:
    digests = [2**64 - 1 - number for number in range(PROBE_LIMIT + 5)]
    slots, words = build_index(digests, [20] * len(digests), 16, pairs_for(len(digests)))
    count = SLOTS_PER_PAIR * pairs_for(len(digests))
    assert all(slots[count - 1 : -1])
    assert all(filter_admits(words, count, digest) for digest in digests)


def test_one_filter_answer_in_a_hundred_is_wrong_at_most() -> None:
    draw = random.Random(4)
    count = 10_000
    digests = [draw.getrandbits(64) for _ in range(count)]
    _, words = build_index(digests, [20] * count, 16, pairs_for(count))
    slots = SLOTS_PER_PAIR * pairs_for(count)
    wrong = sum(filter_admits(words, slots, draw.getrandbits(64)) for _ in range(100_000))
    assert wrong <= 1000
    assert 64 * len(words) <= 12.1 * count


# The Appender.


class TornError(Exception):
    """Stands for what a signal handler raises in the middle of a write."""


class Log:
    """A target of an Appender; ``fail`` is called before each store."""

    def __init__(self, size: int) -> None:
        self.data = bytearray(size)
        self.word = array("Q", [0])
        self.fail: Callable[[], None] = lambda: None

    def __setitem__(self, place: slice, data: bytes) -> None:
        if any(data):
            half = place.start + len(data) // 2
            self.data[place.start : half] = data[: half - place.start]
            self.fail()
        assert place.stop - place.start == len(data)
        self.data[place] = data

    def __getitem__(self, place: slice) -> bytes:
        return bytes(self.data[place])

    def __len__(self) -> int:
        return len(self.data)


class Word:
    """A word that fails before or after it is stored."""

    def __init__(self) -> None:
        self.value = 0
        self.before: Callable[[], None] = lambda: None
        self.after: Callable[[], None] = lambda: None

    def __setitem__(self, index: int, value: int) -> None:
        self.before()
        self.value = value
        self.after()

    def __getitem__(self, index: int) -> int:
        return self.value


def tear() -> None:
    raise TornError


def ready(size: int = 1000) -> tuple[Appender, Log, Word]:
    """Return an Appender with ``size`` bytes of room, its log and its word."""

    def no_room(length: int) -> None:
        raise error(f"no room for {length} bytes")

    appender, log, word = Appender(RLock(), no_room, lambda record: None), Log(size), Word()
    appender.target, appender.words, appender.limit = log, word, size
    return appender, log, word


def writes_of(appender: Appender) -> list[Callable[[], None]]:
    return [lambda: appender.put(b"x", b"long" * 9), lambda: appender.delete(b"a")]


@given(CHANGES)
def test_what_is_written_is_in_the_log_published_and_in_memory(
    changes: list[tuple[bytes, bytes | None]],
) -> None:
    appender, log, word = ready()
    for key, value in changes:
        if value is None:
            appender.delete(key)
        else:
            appender.put(key, value)
    written = b"".join(change(key, value) for key, value in changes)
    assert log.data == written.ljust(1000, b"\0")
    assert word.value == appender.position == len(written)
    model = dict(changes)
    assert appender.active == {key: change(key, value) for key, value in model.items()}
    assert appender.tombstones == {key for key, value in model.items() if value is None}


@pytest.mark.parametrize("key", [0, 255, 256])
@pytest.mark.parametrize("value", [0, 1023, 1024, 70_000])
def test_lengths_on_both_sides_of_the_prepared_ones_encode_alike(key: int, value: int) -> None:
    appender, log, _ = ready(100_000)
    appender.put(b"k" * key, b"v" * value)
    assert log.data.startswith(encode(PUT, b"k" * key, b"v" * value))


def test_room_is_made_once_a_record_does_not_fit() -> None:
    appender, log, _ = ready(100)
    asked: list[int] = []

    def more(length: int) -> None:
        asked.append(length)
        assert len(log.data) < 300
        log.data.extend(bytes(100))
        appender.limit += 100

    appender.make_room = more
    for number in range(12):
        appender.put(b"%02d" % number, b"five!")
    assert asked == [20, 20]
    assert [key for key, _ in zip(appender.active, range(12))] == list(appender.active)
    assert len(appender.active) == 12


def test_a_write_that_gets_no_room_changes_nothing() -> None:
    appender, log, word = ready(10)
    for write in writes_of(appender):
        with pytest.raises(error, match="no room"):
            write()
    assert not any(log.data)
    assert (word.value, appender.position, appender.active) == (0, 0, {})


def test_a_limit_below_zero_sends_every_write_to_make_room() -> None:
    appender, _, _ = ready()
    appender.limit = -1
    with pytest.raises(error, match="no room for 13 bytes"):
        appender.put(b"", b"")


def test_an_exception_while_bytes_are_stored_leaves_zeros_and_nothing_in_memory() -> None:
    appender, log, word = ready()
    appender.put(b"a", b"1")
    before = bytes(log.data)
    log.fail = tear
    for write in writes_of(appender):
        with pytest.raises(TornError):
            write()
    assert bytes(log.data) == before
    assert appender.position == word.value
    assert list(appender.active) == [b"a"]
    log.fail = lambda: None
    appender.put(b"c", b"3")
    assert log.data.startswith(change(b"a", b"1") + change(b"c", b"3"))


def test_an_exception_before_publishing_leaves_zeros() -> None:
    appender, log, word = ready()
    word.before = tear
    with pytest.raises(TornError):
        appender.put(b"b", b"2")
    assert not any(log.data)
    assert (appender.position, appender.active) == (0, {})


def test_what_was_published_before_an_exception_is_in_memory_after_it() -> None:
    appender, log, word = ready()
    word.after = tear
    with pytest.raises(TornError):
        appender.put(b"b", b"2")
    with pytest.raises(TornError):
        appender.delete(b"c")
    word.after = lambda: None
    assert appender.active == {b"b": change(b"b", b"2"), b"c": change(b"c", None)}
    assert appender.tombstones == {b"c"}
    assert appender.position == word.value
    appender.put(b"c", b"3")
    assert log.data.startswith(change(b"b", b"2") + change(b"c", None) + change(b"c", b"3"))


def test_an_apply_that_was_interrupted_runs_again() -> None:
    appender, _, _ = ready()
    applied: list[bytes] = []

    def apply(record: bytes) -> None:
        applied.append(record)
        if len(applied) == 1:
            raise TornError

    record = encode(CLEAR, b"", b"")
    appender.restore = apply
    with pytest.raises(TornError):
        appender.append(record)
    assert applied == [record, record]
    assert appender.position == len(record)


def test_a_signal_handler_that_writes_inside_a_write_is_refused_and_does_not_hang() -> None:
    appender, log, _ = ready()
    refused: list[int | None] = []

    def handler() -> None:
        for write in writes_of(appender):
            with pytest.raises(error) as caught:
                write()
            refused.append(caught.value.errno)

    log.fail = handler
    appender.put(b"a", b"1")
    assert refused == [EDEADLK, EDEADLK]
    assert list(appender.active) == [b"a"]
    assert log.data.startswith(change(b"a", b"1") + bytes(10))


def test_after_each_write_the_hook_is_called_with_the_write_done() -> None:
    appender, _, word = ready()
    seen: list[tuple[int, int]] = []
    appender.origin = 1000
    appender.after = lambda sequence: seen.append((sequence, word.value))
    appender.put(b"a", b"1")
    appender.delete(b"a")
    assert seen == [(1015, 15), (1029, 29)]


@pytest.mark.parametrize("length", [LONGEST + 1, LONGEST + 1000])
def test_a_key_or_value_beyond_the_format_is_refused_before_anything_is_read(length: int) -> None:
    class Long(bytes):
        def __len__(self) -> int:
            return length

    appender, log, _ = ready()
    for key, value in ((Long(), b""), (b"", Long())):
        with pytest.raises(ValueError, match=f"has {length} bytes; the limit is 4294967295"):
            appender.put(key, value)
    assert not any(log.data)


# The Lookup.


class Table:
    """What a Lookup asks of a table, over one list of records."""

    def __init__(self, records: list[bytes], seed: int) -> None:
        self.records = dict(zip(keys_of(records), records))
        self.data = bytes(16) + b"".join(records)
        self.pairs = pairs_for(len(records))
        self.slot_count = SLOTS_PER_PAIR * self.pairs
        digests = hash_keys(keys_of(records), seed)
        self.slots, self.words = build_index(digests, list(map(len, records)), 16, self.pairs)
        self.checked: list[tuple[str, int]] = []
        self.filter_checked, self.index_checked = bytearray(99), bytearray(99)

    def probe(self) -> Any:
        return (
            self.slot_count,
            self.words,
            self.filter_checked,
            self.slots,
            self.index_checked,
            self.data,
            self,
        )

    def check_filter(self, block: int) -> None:
        self.checked.append(("filter", block))
        self.filter_checked[block] = 1

    def check_index(self, block: int) -> None:
        self.checked.append(("index", block))
        self.index_checked[block] = 1

    def search(self, key: bytes) -> bytes | None:
        self.checked.append(("search", 0))
        return self.records.get(key)

    def damaged(self, offset: int, meaning: str) -> None:
        raise ArithmeticError(f"damaged at {offset}")

    def check_other_key(self, offset: int, key: bytes, fingerprint: int) -> None:
        self.checked.append(("other", offset))


def lookup_of(layers: list[dict[bytes, bytes | None]], tables: list[Table]) -> Lookup:
    active, *older = [{k: change(k, v) for k, v in layer.items()} for layer in layers]
    runs = tuple((None, [table.probe()]) for table in tables)
    return Lookup(7, (active, tuple(older), runs))


@given(st.lists(TABLES, min_size=1, max_size=3), st.lists(TABLES.filter(bool), max_size=3), KEYS)
def test_a_lookup_finds_the_newest_value_of_every_key(
    layers: list[dict[bytes, bytes | None]], tables: list[dict[bytes, bytes | None]], other: bytes
) -> None:
    lookup = lookup_of(layers, [Table(chunk(table)[1], 7) for table in tables])
    model: dict[bytes, bytes | None] = {}
    for table in [*reversed(tables), *reversed(layers)]:
        model.update(table)
    for key in [*model, other]:
        assert lookup.value(key) == model.get(key)


def test_the_fences_of_a_run_lead_to_the_table_that_may_hold_the_key() -> None:
    parts: list[dict[bytes, bytes | None]] = [
        {b"b": b"1", b"c": b"2"},
        {b"f": b"3"},
        {b"m": b"4", b"n": None},
    ]
    tables = [Table(chunk(part)[1], 7) for part in parts]
    run = ([b"b", b"f", b"m"], [table.probe() for table in tables])
    lookup = Lookup(7, ({}, (), (run,)))
    for key, value in {b"b": b"1", b"c": b"2", b"f": b"3", b"m": b"4"}.items():
        assert lookup.value(key) == value
    for key in (b"", b"a", b"d", b"g", b"n", b"z"):
        assert lookup.value(key) is None


def test_each_block_is_checked_before_it_is_believed_and_only_once() -> None:
    table = Table([change(b"a", b"1")], 7)
    lookup = lookup_of([{}], [table])
    for _ in range(2):
        assert lookup.value(b"a") == b"1"
    assert table.checked == [("filter", 0), ("index", 0)]


def test_absent_keys_and_wrong_answers_of_the_filter_are_counted() -> None:
    table = Table([change(b"a", b"1")], 7)
    lookup = lookup_of([{}], [table])
    assert lookup.value(b"b") is None
    assert (lookup.absent, lookup.false_positives) == (1, 0)
    table.words[:] = array("Q", [2**64 - 1] * len(table.words))
    assert lookup.value(b"c") is None
    assert (lookup.absent, lookup.false_positives) == (2, 1)


def test_a_record_that_does_not_check_is_damage_and_not_absence() -> None:
    table = Table([change(b"a", b"1")], 7)
    data = bytearray(table.data)
    data[-6] ^= 1
    table.data = bytes(data)
    with pytest.raises(ArithmeticError, match="damaged at 16"):
        lookup_of([{}], [table]).value(b"a")


def test_a_slot_that_leads_to_another_key_is_looked_into() -> None:
    table = Table([change(b"a", b"1"), change(b"b", b"2")], 7)
    home = hash_keys([b"a"], 7)[0]
    wanted = (home & 0xFF_FFFF) << 40
    place = next(i for i, slot in enumerate(table.slots) if slot >> 40 == wanted >> 40)
    table.slots[place] = wanted | 31
    assert lookup_of([{}], [table]).value(b"a") is None
    assert ("other", 31) in table.checked


def test_many_full_slots_without_the_key_end_in_a_search() -> None:
    records = [change(b"%03d" % number, b"") for number in range(PROBE_LIMIT + 20)]
    table = Table(records, 7)
    table.slots[:] = array("Q", [1 << 63 | 16] * len(table.slots))
    table.words[:] = array("Q", [2**64 - 1] * len(table.words))
    lookup = lookup_of([{}], [table])
    assert lookup.value(b"005") == b""
    assert lookup.value(b"absent") is None
    assert table.checked.count(("search", 0)) == 2
