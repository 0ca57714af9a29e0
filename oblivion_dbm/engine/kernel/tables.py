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
    from collections.abc import Iterable, Sequence
    from typing import Any

#: Slots of an index that are looked at before binary search takes over.
PROBE_LIMIT = 128
#: Home slots of an index that share a pair of filter words; a power of two, so
#: that one multiplication finds both.  A checked block holds 512 slots or words.
SLOTS_PER_PAIR = 16

_LARGEST_JOIN = 1 << 20

_BITS = [1 << bit for bit in range(64)]
#: Three bits of a filter word for each value of twelve bits of a hash.
MASKS = [
    _BITS[low] | _BITS[high] | _BITS[(5 * low + 27 * high + 13) & 63]
    for high in range(64)
    for low in range(64)
]


def keys_of(records: Iterable[bytes]) -> list[bytes]:
    """Return the keys of whole records."""
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
    if key_length >= 0:
        return list(map(itemgetter(slice(5, 5 + key_length)), records)), records
    try:
        return keys_of(records), records
    except struct.error:
        raise BadRecord(ends[0], "a record is shorter than a record can be") from None


def combine(parts: Sequence[tuple[list[bytes], list[bytes]]]) -> tuple[list[bytes], list[bytes]]:
    """Merge sorted (keys, records), the newest part first, into one; newest wins."""
    newest: dict[bytes, bytes] = {}
    for keys, records in reversed(parts):
        newest.update(zip(keys, records))
    keys = sorted(newest)
    return keys, [newest[key] for key in keys]


def hash_keys(keys: Iterable[bytes], seed: int) -> list[int]:
    """Return the XXH64 of each key under the store's seed."""
    return list(map(xxh64_intdigest, keys, repeat(seed)))


def sum_group(records: list[bytes], number: int, group: int) -> int:
    """Return the sum of the bytes of group ``group`` of table ``number``."""
    digest = xxh64(seed=(number << 32 | group) & 0xFFFF_FFFF_FFFF_FFFF)
    # Joining is faster for small records, and takes memory for large ones.
    for part in [b"".join(records)] if sum(map(len, records)) <= _LARGEST_JOIN else records:
        digest.update(part)
    return digest.intdigest()


def build_index(
    digests: Iterable[int], lengths: Iterable[int], start: int, filter_pairs: int
) -> tuple[array[int], array[int]]:
    """Return (slots of the index, words of the filter) of a table.

    dict[bytes, bytes] lie one after the other from offset ``start`` on.  The top of a
    hash chooses the home slot, and every 16 slots share a pair of filter words;
    bits 0-11 choose three bits of the first word, bits 12-23 three of the
    second, and bits 0-23 are the fingerprint.  A record that finds no room
    within PROBE_LIMIT slots of its home is left out of the index: a reader
    that meets so many full slots searches the sorted records instead.
    """
    slot_count = SLOTS_PER_PAIR * filter_pairs
    slots = array("Q", bytes(8 * (slot_count + PROBE_LIMIT)))
    filter_words = [0] * filter_pairs  # of 128 bits
    masks, high_masks = MASKS, [mask << 64 for mask in MASKS]
    for digest, offset in zip(digests, accumulate(lengths, initial=start)):
        home = digest * slot_count >> 64
        filter_words[home >> 4] |= masks[digest & 4095] | high_masks[digest >> 12 & 4095]
        if slots[home]:
            limit = home + PROBE_LIMIT
            while home < limit and slots[home]:
                home += 1
            if home == limit:
                continue
        slots[home] = (digest & 0xFF_FFFF) << 40 | offset
    return slots, array("Q", b"".join([word.to_bytes(16, "little") for word in filter_words]))


def index_holds(slots: Any, slot_count: int, digest: int, offset: int) -> bool:
    """Tell whether a look-up of ``digest`` gets to the record at ``offset``.

    It does by its slot, or because it is sent to the sorted records.
    """
    wanted = (digest & 0xFF_FFFF) << 40 | offset
    home = digest * slot_count >> 64
    for i in range(home, home + PROBE_LIMIT):
        if slots[i] == wanted:
            return True
        if not slots[i]:
            return False
    return True


def filter_admits(words: Any, slot_count: int, digest: int) -> bool:
    """Tell whether the filter lets a hash through."""
    i = (digest * slot_count >> 64) >> 4 << 1
    low, high = MASKS[digest & 4095], MASKS[digest >> 12 & 4095]
    return bool(words[i] & low == low and words[i + 1] & high == high)
