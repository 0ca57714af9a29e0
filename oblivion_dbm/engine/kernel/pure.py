"""The inner loops in plain Python: look up, replay.

This is the reference, with :mod:`oblivion_dbm.engine.kernel.append` and
:mod:`oblivion_dbm.engine.kernel.tables`.  It knows
the layout of a record (see :mod:`oblivion_dbm.engine.record`) and of a table's
index and filter (see :mod:`oblivion_dbm.engine.sstable`), and nothing of files.
"""

from __future__ import annotations

import struct
from bisect import bisect_right

from xxhash import xxh64_intdigest

from oblivion_dbm.engine.kernel.tables import MASKS, PROBE_LIMIT
from oblivion_dbm.engine.record import (
    BATCH,
    DELETE,
    HEAD,
    LONG,
    PUT,
    RESIDUE,
    crc32c,
    crc_of,
    pack_length,
    unpack_length,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Buffer = bytes | bytearray | memoryview
    Records = dict[bytes, bytes]
    #: slot count, filter words, their checked blocks, slots, their checked
    #: blocks, the table's bytes, the table
    Probe = tuple[int, Any, bytearray, Any, bytearray, Any, Any]
    #: first keys of a run's tables (None where there is one table), their probes
    RunProbe = tuple[list[bytes] | None, list[Probe]]
    View = tuple[Any, tuple[Any, ...], tuple[RunProbe, ...]]

_OFFSET_MASK = (1 << 40) - 1


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
                return self.search(key, runs) if runs else None
        if record[0] == PUT:
            return record[9 + len(key) : -4]  # type: ignore[no-any-return]  # a slice of bytes
        return None

    def search(self, key: bytes, runs: tuple[RunProbe, ...]) -> bytes | None:
        """Return the value of ``key`` in the first of ``runs`` that has a record of it."""
        key_length = len(key)
        head_of = _HEADS.get(key_length) or _head_of(key_length)
        digest = xxh64_intdigest(key, self.seed)
        low, high = MASKS[digest & 4095], MASKS[digest >> 12 & 4095]
        for fences, probes in runs:
            probe = probes[0] if fences is None else probes[bisect_right(fences, key) - 1]
            slot_count, words, words_checked, slots, slots_checked, data, table = probe
            home = digest * slot_count >> 64
            i = home >> 4 << 1
            if not words_checked[i >> 9]:
                table.check_filter(i >> 9)
            if words[i] & low == low and words[i + 1] & high == high:
                if not slots_checked[home >> 9]:
                    table.check_index(home >> 9)
                slot = slots[home]
                # Nearly always the home slot is the one, and the rest of the
                # probing need not be entered.
                if slot and slot >> 40 == digest & 0xFF_FFFF:
                    offset = slot & _OFFSET_MASK
                    try:
                        found_length, found, value_length = head_of(data, offset + 1)
                    except struct.error:  # a record of another key, near the end of the file
                        found_length, found, value_length = -1, b"", 0
                    if found == key and found_length == key_length:
                        end = offset + 13 + key_length + value_length
                        if value_length > LONG and crc_of(data, offset, end) != RESIDUE:
                            table.damaged(offset, "a record's crc does not match")
                        record = data[offset:end]
                        if crc32c(record) != RESIDUE:
                            table.damaged(offset, "a record's crc does not match")
                        return record[9 + key_length : -4] if record[0] == PUT else None
                record = _probe_on(key, digest, home, probe)
                if record is not None:
                    return record[9 + key_length : -4] if record[0] == PUT else None
                self.false_positives += 1
        self.absent += 1
        return None


def _head_of(key_length: int) -> Callable[[Any, int], tuple[int, bytes, int]]:
    """Return what reads (key length, key, value length) behind a record's op."""
    read = struct.Struct(f"<I{key_length}sI").unpack_from
    if key_length < 256:
        _HEADS[key_length] = read
    return read


_HEADS: dict[int, Callable[[Any, int], tuple[int, bytes, int]]] = {}


def _probe_on(key: bytes, digest: int, home: int, probe: Probe) -> bytes | None:
    """Return the record of ``key`` in one table by its index, None if there is none."""
    _, _, _, slots, checked, data, table = probe
    fingerprint = digest & 0xFF_FFFF
    for i in range(home, home + PROBE_LIMIT):
        if not checked[i >> 9]:
            table.check_index(i >> 9)
        slot = slots[i]
        if slot >> 40 == fingerprint:
            if not slot:
                return None
            offset = slot & _OFFSET_MASK
            value_at = offset + 5 + len(key)
            try:
                record = data[offset : value_at + 8 + unpack_length(data, value_at)[0]]
            except struct.error:
                record = b""
            if record.startswith(pack_length(len(key)) + key, 1):
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
        if op < PUT:
            return offset, 0
        value_at = offset + 5 + key_length
        if value_at + 8 > end:
            return offset, 0
        after = value_at + 8 + unpack_length(buffer, value_at)[0]
        if after > end:
            return offset, 0
        if after - offset > LONG and crc_of(buffer, offset, after) != RESIDUE:
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
