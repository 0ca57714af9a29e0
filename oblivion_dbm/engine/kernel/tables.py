"""The inner loops of tables in plain Python: cut out, merge, hash, sum, index, filter.

They know the layout of a record (see :mod:`oblivion_dbm.engine.record`) and of
a table's index and filter (see :mod:`oblivion_dbm.engine.sstable`), and nothing
of files.
"""

from __future__ import annotations

import struct
from array import array
from itertools import accumulate, pairwise, repeat
from operator import itemgetter

from xxhash import xxh64, xxh64_intdigest

from oblivion_dbm.engine.record import RESIDUE, BadRecord, crc32c, unpack_length

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

#: Slots of an index that are looked at before binary search takes over.
PROBE_LIMIT = 128
#: Home slots of an index that share a pair of filter words; a power of two, so
#: that one multiplication finds both.  A checked block holds 512 slots or words.
SLOTS_PER_PAIR = 16

#: What an IndexBuilder makes at once: 256 and 32 KiB.
_SLOTS_AT_ONCE, _PAIRS_AT_ONCE = 1 << 15, 1 << 11

_BITS = [1 << bit for bit in range(64)]
#: Three bits of a filter word for each value of twelve bits of a hash.
MASKS = [
    _BITS[low] | _BITS[high] | _BITS[(5 * low + 27 * high + 13) & 63]
    for high in range(64)
    for low in range(64)
]
_HIGH_MASKS = [mask << 64 for mask in MASKS]


def keys_of(records: Iterable[bytes], key_length: int = -1) -> list[bytes]:
    """Return the keys of whole records; ``key_length`` is that of every key, if it is one."""
    if key_length >= 0:
        return list(map(itemgetter(slice(5, 5 + key_length)), records))
    return [record[5 : 5 + unpack_length(record, 1)[0]] for record in records]


def split(
    data: Any, ends: list[int], key_length: int = -1, checked: bool = False
) -> tuple[list[bytes], list[bytes]]:
    """Cut (keys, records) out of ``data``; ``ends`` has each offset, and the end.

    ``key_length`` is that of every key, -1 where they differ; each crc is
    checked unless ``checked`` says that it was.  Raises BadRecord with the
    offset of the first record that does not check.
    """
    records = [data[start:end] for start, end in pairwise(ends)]
    if not checked and records and set(map(crc32c, records)) != {RESIDUE}:
        for start, record in zip(ends, records):
            if crc32c(record) != RESIDUE:
                raise BadRecord(start, "a record's crc does not match")
    try:
        return keys_of(records, key_length), records
    except struct.error:
        raise BadRecord(ends[0], "a record is shorter than a record can be") from None


def combine(parts: Sequence[tuple[list[bytes], list[bytes]]]) -> tuple[list[bytes], list[bytes]]:
    """Merge sorted (keys, records), the newest part first, into one; newest wins."""
    newest: dict[bytes, bytes] = {}
    for keys, records in reversed(parts):
        newest.update(zip(keys, records))
    keys = sorted(newest)
    return keys, list(map(newest.__getitem__, keys))


def hash_keys(keys: Iterable[bytes], seed: int) -> list[int]:
    """Return the XXH64 of each key under the store's seed."""
    return list(map(xxh64_intdigest, keys, repeat(seed)))


def start_sum(number: int, group: int) -> Any:
    """Return the sum of group ``group`` of table ``number``, to be updated with its bytes."""
    return xxh64(seed=(number << 32 | group) & 0xFFFF_FFFF_FFFF_FFFF)


def sum_group(data: bytes, number: int, group: int) -> int:
    """Return the sum of the bytes ``data`` of group ``group`` of table ``number``."""
    return xxh64_intdigest(data, (number << 32 | group) & 0xFFFF_FFFF_FFFF_FFFF)


class IndexBuilder:
    """Makes the index and the filter of a table, some of its records at a time.

    Records lie one after the other from offset ``start`` on.  The top of a
    hash chooses the home slot, and every 16 slots share a pair of filter words;
    bits 0-11 choose three bits of the first word, bits 12-23 three of the
    second, and bits 0-23 are the fingerprint.  A record that finds no room
    within PROBE_LIMIT slots of its home is left out of the index: a reader
    that meets so many full slots searches the sorted records instead.

    First ``make_room`` until it is False, then ``add``, then the pieces of both.
    Memory: 8 bytes a slot, 48 a pair of words.
    """

    def __init__(self, start: int, filter_pairs: int) -> None:
        self.slot_count = SLOTS_PER_PAIR * filter_pairs
        self._end = start
        self._length = self.slot_count + PROBE_LIMIT
        self._slots = array("Q")
        self._words = [0] * filter_pairs  # of 128 bits

    def make_room(self) -> bool:
        """Make some more of the empty slots; False once all are there."""
        # One more than is written out stays empty, and ends every search for room.
        missing = self._length + 1 - len(self._slots)
        self._slots.frombytes(bytes(8 * min(missing, _SLOTS_AT_ONCE)))
        return missing > _SLOTS_AT_ONCE

    def add(self, digests: Iterable[int], lengths: Iterable[int]) -> None:
        """Enter the next records, by the hashes of their keys and their lengths."""
        slot_count, slots, words = self.slot_count, self._slots, self._words
        masks, high_masks = MASKS, _HIGH_MASKS
        ends = accumulate(lengths, initial=self._end)
        for digest, offset in zip(digests, ends):
            home = digest * slot_count >> 64
            fingerprint = digest & 0xFF_FFFF
            words[home >> 4] |= masks[fingerprint & 4095] | high_masks[fingerprint >> 12]
            if slots[home]:
                limit = home + PROBE_LIMIT
                while slots[home]:
                    home += 1
                if home >= limit:
                    continue
            slots[home] = fingerprint << 40 | offset
        self._end = next(ends)

    def slots(self) -> Iterator[memoryview]:
        """Yield the slots in pieces of so many bytes that whole blocks fit in."""
        whole = memoryview(self._slots)[: self._length]
        for at in range(0, self._length, _SLOTS_AT_ONCE):
            yield whole[at : at + _SLOTS_AT_ONCE].cast("B")

    def words(self) -> Iterator[bytes]:
        """Yield the words of the filter, in such pieces too, and forget each."""
        for at in range(0, len(self._words), _PAIRS_AT_ONCE):
            words = self._words[at : at + _PAIRS_AT_ONCE]
            yield b"".join([word.to_bytes(16, "little") for word in words])
            self._words[at : at + _PAIRS_AT_ONCE] = bytes(len(words))


def index_holds(slots: Any, slot_count: int, digest: int, offset: int) -> bool | None:
    """Tell whether a look-up of ``digest`` gets to the record at ``offset`` by its slot.

    None where it gets there because it is sent to the sorted records: the slots are full.
    """
    wanted = (digest & 0xFF_FFFF) << 40 | offset
    home = digest * slot_count >> 64
    for i in range(home, home + PROBE_LIMIT):
        if slots[i] == wanted:
            return True
        if not slots[i]:
            return False
    return None


def filter_admits(words: Any, slot_count: int, digest: int) -> bool:
    """Tell whether the filter lets a hash through."""
    i = (digest * slot_count >> 64) >> 4 << 1
    low, high = MASKS[digest & 4095], MASKS[digest >> 12 & 4095]
    return bool(words[i] & low == low and words[i + 1] & high == high)
