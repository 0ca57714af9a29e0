"""The inner loops in plain Python: append, look up, replay, scan, merge, index.

This is the reference.  It knows the layout of a record (see
:mod:`oblivion_dbm.engine.record`) and of a table's index and filter (see
:mod:`oblivion_dbm.engine.sstable`), and nothing of files.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from errno import EDEADLK
from itertools import accumulate, repeat
from struct import error as StructError

from xxhash import xxh64_intdigest

from oblivion_dbm.engine.record import (
    BATCH,
    DELETE,
    HEAD,
    PUT,
    RESIDUE,
    BadRecord,
    check_lengths,
    crc32c,
    encode,
    pack_head,
    pack_length,
    unpack_length,
)
from oblivion_dbm.errors import error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import RLock
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    Buffer = bytes | bytearray | memoryview
    Records = dict[bytes, bytes]
    #: filter words, filter pairs, filter blocks checked, slots, slot count,
    #: slot blocks checked, the table's bytes, the table
    Probe = tuple[Any, int, bytearray, Any, int, bytearray, Any, Any]
    #: first keys of a run's tables (None where there is one table), their probes
    RunProbe = tuple[list[bytes] | None, list[Probe]]
    View = tuple[Any, tuple[Any, ...], tuple[RunProbe, ...]]

#: Slots of an index that are looked at before binary search takes over.
PROBE_LIMIT = 128
#: A key's bits lie in two neighbouring words of the filter.
FILTER_WORDS_PER_PROBE = 2

_BLOCK_SHIFT = 9  # a checked block holds 512 words
_OFFSET_BITS = 40
_OFFSET_MASK = (1 << _OFFSET_BITS) - 1
_FINGERPRINT_MASK = (1 << 24) - 1

_PUT_HEADS = [pack_head(PUT, length) for length in range(256)]
_LENGTHS = [pack_length(length) for length in range(1024)]


def _three_bits(index: int) -> int:
    first, second = index & 63, index >> 6
    return 1 << first | 1 << second | 1 << ((first * 5 + second * 27 + 13) & 63)


#: Three bits of a filter word for each value of twelve bits of a hash.
_MASKS = [_three_bits(index) for index in range(4096)]


class Appender:
    """The write path: encode, append to the log's map, publish, insert.

    ``make_room(length)`` is called, with the lock held, when a record does not
    fit below ``limit``; it provides room or raises.  A limit of -1 thus sends
    every write there: closed, failed and not yet started handles need no check
    of their own.  ``after`` is called with the lock held after each write.

    ``lock`` guards every field.  ``busy`` is True while a write is in
    progress: whoever finds it so while owning the lock is a signal handler
    inside that write, and is refused.
    """

    __slots__ = (
        "active",
        "after",
        "busy",
        "limit",
        "lock",
        "make_room",
        "position",
        "target",
        "tombstones",
        "words",
    )

    def __init__(self, lock: RLock, make_room: Callable[[int], None]) -> None:
        self.lock = lock
        self.make_room = make_room
        self.after: Callable[[], None] | None = None
        self.busy = False
        self.target: Any = None
        self.words: Any = None
        self.position = 0
        self.limit = -1
        self.active: Records = {}
        self.tombstones: set[bytes] = set()

    def put(self, key: bytes, value: bytes) -> None:
        """Write one record; when it returns, readers everywhere see it.  O(length)."""
        try:
            body = b"".join((_PUT_HEADS[len(key)], key, _LENGTHS[len(value)], value))
        except IndexError:
            check_lengths(len(key), len(value))
            body = b"".join((pack_head(PUT, len(key)), key, pack_length(len(value)), value))
        record = body + pack_length(crc32c(body))
        with self.lock:
            if self.busy:
                refuse()
            start = self.position
            end = start + len(record)
            if end > self.limit:
                start, end = self.reserve(len(record))
            try:
                self.busy = True
                self.target[start:end] = record
                self.words[0] = end
                self.active[key] = record
                if self.tombstones:
                    self.tombstones.discard(key)
                self.position = end
                self.busy = False
                if self.after is not None:
                    self.after()
            except BaseException:
                self.settle(start, end)
                raise

    def append(self, record: bytes, apply: Callable[[bytes], None]) -> None:
        """Write one record of any kind; ``apply(record)`` brings it into memory.

        ``apply`` may run twice if it is interrupted, so it must bear that.
        """
        with self.lock:
            if self.busy:
                refuse()
            start, end = self.reserve(len(record))
            try:
                self.busy = True
                self.target[start:end] = record
                self.words[0] = end
                apply(record)
                self.position = end
                self.busy = False
                if self.after is not None:
                    self.after()
            except BaseException:
                self.settle(start, end, record, apply)
                raise

    def delete(self, key: bytes) -> None:
        """Write a tombstone for ``key``."""
        self.append(encode(DELETE, key, b""), self.bury)

    def bury(self, record: bytes) -> None:
        """Insert a tombstone."""
        key = record[5:-8]
        self.active[key] = record
        self.tombstones.add(key)

    def reserve(self, length: int) -> tuple[int, int]:
        """Return (start, end) of room for ``length`` bytes, made where there is none."""
        if self.position + length > self.limit:
            self.busy = True
            try:
                self.make_room(length)
            finally:
                self.busy = False
        return self.position, self.position + length

    def settle(
        self,
        start: int,
        end: int,
        record: bytes | None = None,
        apply: Callable[[bytes], None] | None = None,
    ) -> None:
        """After an exception: what was published is applied, the rest is wiped.

        Bytes that were stored but not published must not stay: a shorter
        record written over them would uncover their end.
        """
        if not self.busy or self.position != start:
            return
        if self.words[0] == end:
            if apply is not None and record is not None:
                apply(record)
            else:
                replay(self.target, start, end, self.active, self.tombstones)
            self.position = end
        else:
            self.target[start:end] = bytes(end - start)
        self.busy = False


def refuse() -> None:
    """Raise for a signal handler that uses the store inside a write of its own thread."""
    raise error(EDEADLK, "the store is in the middle of a write of this very thread")


class Lookup:
    """The read path: MemTable layers, then runs; filter, index, record, crc.

    ``view`` is (newest layer, older layers, runs newest first), replaced as
    one, so a read without a lock sees one moment's state.
    """

    __slots__ = ("absent", "false_positives", "seed", "view")

    def __init__(self, seed: int, view: View) -> None:
        self.seed = seed
        self.view = view
        self.absent = 0
        self.false_positives = 0

    def value(self, key: bytes) -> bytes | None:
        """Return the value of ``key``, None where it has none.

        Raises CorruptionError for bytes that do not check.  One hash, and for
        each run a word or two of its filter; one crc.
        """
        active, older, runs = self.view
        record = active.get(key)
        if record is None:
            for layer in older:
                record = layer.get(key)
                if record is not None:
                    break
            else:
                if not runs:
                    return None
                digest = xxh64_intdigest(key, self.seed)
                low, high = _MASKS[digest & 4095], _MASKS[digest >> 12 & 4095]
                for fences, probes in runs:
                    probe = probes[0] if fences is None else probes[bisect_right(fences, key) - 1]
                    i = digest * probe[1] >> 64 << 1
                    if not probe[2][i >> _BLOCK_SHIFT]:
                        probe[7].check_filter(i >> _BLOCK_SHIFT)
                    words = probe[0]
                    if words[i] & low == low and words[i + 1] & high == high:
                        record = _find(probe, key, digest)
                        if record is not None:
                            break
                        self.false_positives += 1
                else:
                    self.absent += 1
                    return None
        if record[0] == PUT:
            return record[9 + len(key) : -4]  # type: ignore[no-any-return]  # a slice of bytes
        return None


def _find(probe: Probe, key: bytes, digest: int) -> bytes | None:
    """Return the record of ``key`` in one table by its index, None if there is none."""
    _, _, _, slots, count, checked, data, table = probe
    fingerprint = digest & _FINGERPRINT_MASK
    i = digest * count >> 64
    for i in range(i, i + PROBE_LIMIT):
        if not checked[i >> _BLOCK_SHIFT]:
            table.check_index(i >> _BLOCK_SHIFT)
        slot = slots[i]
        if slot >> _OFFSET_BITS == fingerprint:
            if not slot:
                return None
            offset = slot & _OFFSET_MASK
            value_at = offset + 5 + len(key)
            try:
                record = data[offset : value_at + 8 + unpack_length(data, value_at)[0]]
            except StructError:
                record = b""
            if record.startswith(key, 5) and unpack_length(record, 1)[0] == len(key):
                if crc32c(record) == RESIDUE:
                    return record  # type: ignore[no-any-return]  # a slice of bytes
                table.damaged(offset, "a record's crc does not match")
            table.check_other_key(offset, key, fingerprint)
        elif not slot:
            return None
    return table.search(key)  # type: ignore[no-any-return]  # bytes or None


def replay(
    buffer: Buffer, offset: int, end: int, records: Records, tombstones: set[bytes]
) -> tuple[int, int]:
    """Apply PUT and DELETE records from ``offset`` on, up to ``end``.

    Returns (offset, op) of the first thing that is neither: op 0 means that
    no whole and sound record stands there, or that ``end`` is reached.
    """
    while offset + 13 <= end:
        op, key_length = HEAD.unpack_from(buffer, offset)
        if not PUT <= op:
            return offset, 0
        value_at = offset + 5 + key_length
        if value_at + 8 > end:
            return offset, 0
        after = value_at + 8 + unpack_length(buffer, value_at)[0]
        if after > end:
            return offset, 0
        record = bytes(buffer[offset:after])
        if crc32c(record) != RESIDUE:
            return offset, 0
        if op >= BATCH:
            return offset, op
        key = record[5 : 5 + key_length]
        records[key] = record
        if op == DELETE:
            tombstones.add(key)
        elif tombstones:
            tombstones.discard(key)
        offset = after
    return offset, 0


def keys_of(records: Iterable[bytes]) -> list[bytes]:
    """Return the keys of whole records."""
    return [record[5 : 5 + unpack_length(record, 1)[0]] for record in records]


def split(data: Any, offset: int, lengths: Iterable[int]) -> tuple[list[bytes], list[bytes]]:
    """Cut (keys, records) out of ``data`` from ``offset`` on, every crc checked.

    Raises BadRecord with the offset of the first record that does not check.
    """
    ends = list(accumulate(lengths, initial=offset))
    records = [data[start:end] for start, end in zip(ends, ends[1:])]
    if records and set(map(crc32c, records)) != {RESIDUE}:
        for start, record in zip(ends, records):
            if crc32c(record) != RESIDUE:
                raise BadRecord(start, "a record's crc does not match")
    try:
        return keys_of(records), records
    except StructError:
        raise BadRecord(offset, "a record is shorter than a record can be") from None


def combine(parts: Sequence[tuple[list[bytes], list[bytes]]]) -> tuple[list[bytes], list[bytes]]:
    """Merge sorted (keys, records), the newest part first, into one; newest wins."""
    newest: Records = {}
    for keys, records in reversed(parts):
        newest.update(zip(keys, records))
    keys = sorted(newest)
    return keys, [newest[key] for key in keys]


def pairs(keys: Iterable[bytes], records: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
    """Return (key, value) of the records that are not tombstones."""
    return [
        (key, record[9 + len(key) : -4]) for key, record in zip(keys, records) if record[0] == PUT
    ]


def live_keys(keys: Iterable[bytes], records: Iterable[bytes]) -> list[bytes]:
    """Return the keys whose records are not tombstones."""
    return [key for key, record in zip(keys, records) if record[0] == PUT]


def live_values(keys: Iterable[bytes], records: Iterable[bytes]) -> list[bytes]:
    """Return the values of the records that are not tombstones."""
    return [record[9 + len(key) : -4] for key, record in zip(keys, records) if record[0] == PUT]


def hash_keys(keys: Iterable[bytes], seed: int) -> list[int]:
    """Return the XXH64 of each key under the store's seed."""
    return list(map(xxh64_intdigest, keys, repeat(seed)))


def build_index(digests: array[int], lengths: array[int], start: int, count: int) -> array[int]:
    """Return the slots of an index of ``count`` home slots.

    Records lie one after the other from offset ``start`` on.  One that finds
    no room within PROBE_LIMIT slots of its home is left out: a reader that
    meets so many full slots searches the sorted records instead.
    """
    slots = array("Q", bytes(8 * (count + PROBE_LIMIT)))
    for digest, offset in zip(digests, accumulate(lengths, initial=start)):
        i = digest * count >> 64
        if slots[i]:
            limit = i + PROBE_LIMIT
            while i < limit and slots[i]:
                i += 1
            if i == limit:
                continue
        slots[i] = (digest & _FINGERPRINT_MASK) << _OFFSET_BITS | offset
    return slots


def index_holds(slots: Any, count: int, digest: int, offset: int) -> bool:
    """Tell whether a look-up of ``digest`` meets the slot that points to ``offset``,
    or is sent to the sorted records.
    """
    wanted = (digest & _FINGERPRINT_MASK) << _OFFSET_BITS | offset
    home = digest * count >> 64
    for i in range(home, home + PROBE_LIMIT):
        if slots[i] == wanted:
            return True
        if not slots[i]:
            return False
    return True


def build_filter(digests: array[int], count: int) -> array[int]:
    """Return the words of a Bloom filter of ``count`` pairs of words.

    The top of the hash chooses the pair; bits 0-11 choose three bits of its
    first word and bits 12-23 three of its second.
    """
    words = array("Q", bytes(16 * count))
    for digest in digests:
        i = digest * count >> 64 << 1
        words[i] |= _MASKS[digest & 4095]
        words[i + 1] |= _MASKS[digest >> 12 & 4095]
    return words


def filter_admits(words: Any, count: int, digest: int) -> bool:
    """Tell whether the filter lets a hash through."""
    i = digest * count >> 64 << 1
    low, high = _MASKS[digest & 4095], _MASKS[digest >> 12 & 4095]
    return bool(words[i] & low == low and words[i + 1] & high == high)


def cut(
    keys: list[bytes], records: list[bytes], bound: bytes, reverse: bool
) -> tuple[tuple[list[bytes], list[bytes]], tuple[list[bytes], list[bytes]]]:
    """Cut a chunk at ``bound`` into (what comes first, what is left).

    Forward, what comes first has keys <= bound; in reverse, keys >= bound.
    Both parts stay in ascending order.
    """
    at = bisect_left(keys, bound) if reverse else bisect_right(keys, bound)
    below, above = (keys[:at], records[:at]), (keys[at:], records[at:])
    return (above, below) if reverse else (below, above)


