"""The TableWriter: makes one SSTable out of chunks of records in key order.

The layout is that of :mod:`oblivion_dbm.engine.sstable`.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from contextlib import suppress
from errno import EFBIG
from itertools import accumulate

from oblivion_dbm.engine.filenames import table as table_name
from oblivion_dbm.engine.kernel import IndexBuilder, hash_keys, start_sum
from oblivion_dbm.engine.record import crc32c
from oblivion_dbm.engine.sstable import (
    BLOCK,
    FENCES,
    FILTER,
    FOOTER,
    FORMAT,
    GROUP,
    INDEX,
    LARGEST_STRETCH,
    LENGTHS,
    LONGEST_TABLE,
    RECORDS_AT,
    SUMS,
    TAIL,
    TAIL_MAGIC,
    WIDTHS,
    block_seed,
    pack_header,
)
from oblivion_dbm.engine.version import TableInfo
from oblivion_dbm.errors import error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from oblivion_dbm.engine.filesystem import File, FileSystem

    Buffer = bytes | memoryview | array[int]

#: Bytes that are gathered before they are written: each write lets go of the
#: interpreter's lock, and waiting for it again can take some milliseconds.
_WRITE_SIZE = 1 << 19
#: Records that are made ready at once, if they do not exceed LARGEST_STRETCH bytes.
_BATCH = 512


def at_once(records: int) -> None:
    """Go on: nobody waits between two pieces of work."""


class TableWriter:
    """Writes one table: chunks of records in ascending order, then the rest.

    ``pace`` is called between pieces of work of about a millisecond, with the
    number of records that were written since; what it raises ends the work.
    Memory: 10 bytes a record, and two megabytes; 12 more while the index is made.
    """

    def __init__(
        self,
        filesystem: FileSystem,
        directory: str,
        number: int,
        seed: int,
        mode: int = 0o666,
        *,
        pace: Callable[[int], None] = at_once,
    ) -> None:
        self.number = number
        self.path = filesystem.join(directory, table_name(number))
        self._filesystem = filesystem
        self._seed = seed
        self._pace = pace
        self._count = 0
        self.tombstones = 0
        self.end = RECORDS_AT
        self._first = self._last = b""
        self._key_lengths: tuple[int, ...] = ()
        # Chunks not yet written.
        self._keys: list[bytes] = []
        self._records: list[bytes] = []
        self._lengths: list[int] = []
        self._waiting = 0  # bytes
        # What the sections are made of: lengths and hashes by batch, of so many records.
        self._batches: list[tuple[array[int], array[int]]] = []
        self._ready = 0
        self._fences = array("Q")
        self._sums = array("Q")
        self._sum: Any = None
        self._sections: tuple[int, ...] = ()
        self._file: File | None = filesystem.create(self.path, mode)
        self._pending: list[bytes] = [pack_header()]
        self._pending_size = RECORDS_AT
        self._written = 0

    def __len__(self) -> int:
        return self._count

    def add(self, keys: list[bytes], records: list[bytes], tombstones: int) -> None:
        """Append a chunk, which is not empty, of whose records ``tombstones`` are such."""
        if not self._count:
            self._first = keys[0]
        self._last = keys[-1]
        lengths = list(map(len, records))
        size = sum(lengths)
        self._keys += keys
        self._records += records
        self._lengths += lengths
        self._count += len(keys)
        self.tombstones += tombstones
        self.end += size
        self._waiting += size
        if len(self._keys) >= _BATCH or self._waiting >= LARGEST_STRETCH:
            self._put_records(_BATCH)

    def _put_records(self, least: int) -> None:
        """Append batches of what waits while ``least`` records or many bytes do."""
        done, left = 0, len(self._keys)
        while left >= least or (left and self._waiting >= LARGEST_STRETCH):
            lengths = self._lengths[done : done + _BATCH]
            size = sum(lengths)
            if size > LARGEST_STRETCH:
                fitting = max(1, bisect_right(list(accumulate(lengths)), LARGEST_STRETCH))
                del lengths[fitting:]
                size = sum(lengths)
            part = slice(done, done + len(lengths))
            self._put_batch(self._keys[part], b"".join(self._records[part]), lengths)
            done += len(lengths)
            left -= len(lengths)
            self._waiting -= size
            self._pace(len(lengths))
        del self._keys[:done], self._records[:done], self._lengths[:done]

    def _put_batch(self, keys: list[bytes], data: bytes, lengths: list[int]) -> None:
        """Append records of these keys and lengths."""
        self._add_sums(data, lengths)
        self._ready += len(keys)
        longest = max(lengths)
        width = 2 if longest < 1 << 16 else 4 if longest < 1 << 32 else 8
        batch = array(WIDTHS[width], lengths), array("Q", hash_keys(keys, self._seed))
        self._batches.append(batch)
        found = set(map(len, keys)).union(self._key_lengths)
        self._key_lengths = min(found), max(found)
        self._put(data)

    def _add_sums(self, data: bytes, lengths: list[int]) -> None:
        """Go on with the sums of groups."""
        view, begin, start = memoryview(data), 0, 0
        for first in range(-self._ready % GROUP, len(lengths), GROUP):
            end = begin + sum(lengths[start:first])
            self._end_group(view[begin:end])
            self._sum = start_sum(self.number, len(self._fences))
            self._fences.append(self._written + self._pending_size + end)
            begin, start = end, first
        self._sum.update(view[begin:])

    def _end_group(self, data: memoryview) -> None:
        """Finish the sum of the group in progress, if there is one, with ``data``."""
        if self._sum is not None:
            self._sum.update(data)
            self._sums.append(self._sum.intdigest())

    def _put(self, data: bytes) -> None:
        """Write ``data`` behind what is there; small pieces are gathered first."""
        if len(data) >= _WRITE_SIZE:
            self._drain()
        self._pending.append(data)
        self._pending_size += len(data)
        if self._pending_size >= _WRITE_SIZE:
            self._drain()

    def _drain(self) -> None:
        assert self._file is not None
        self._filesystem.write(self._file, self._written, b"".join(self._pending))
        self._written += self._pending_size
        self._pending, self._pending_size = [], 0

    def seal(self) -> None:
        """Write what waits, and the sections; no record can be added afterwards."""
        if self.end > LONGEST_TABLE:
            meaning = f"a table of {self.end} bytes; the limit is {LONGEST_TABLE}"
            raise error(EFBIG, meaning, self.path)
        self._put_records(1)
        self._end_group(memoryview(b""))
        width = max(lengths.itemsize for lengths, _ in self._batches)
        pairs = -(-3 * self._count // 32)  # 1.5 slots and 12 bits of filter a record
        crcs = array("I")
        begins = [
            self._put_section(LENGTHS, _of_width(width, self._batches), crcs),
            self._put_section(FENCES, [self._fences.tobytes()], crcs),
            self._put_section(SUMS, [self._sums.tobytes()], crcs),
        ]
        index = self._index(pairs)
        begins += [
            self._put_section(INDEX, index.slots(), crcs),
            self._put_section(FILTER, index.words(), crcs),
        ]
        crcs_at = self._align()
        self._put(crcs.tobytes())
        crc = crc32c(crcs.tobytes())
        crcs_end = crcs_at + 4 * len(crcs)
        self._sections = width, crc, self.end, *begins, crcs_at, crcs_end, pairs

    def _index(self, pairs: int) -> IndexBuilder:
        """Return the index and the filter of all records."""
        builder = IndexBuilder(RECORDS_AT, pairs)
        while builder.make_room():
            self._pace(0)
        for lengths, digests in self._batches:
            builder.add(digests, lengths)
            self._pace(0)
        self._batches = []
        return builder

    def _put_section(self, section: int, pieces: Iterable[Buffer], crcs: array[int]) -> int:
        """Append a section; returns where it begins."""
        begin, block = self._align(), 0
        for data in _in_blocks(pieces):
            for at in range(0, len(data), BLOCK):
                crcs.append(crc32c(data[at : at + BLOCK], block_seed(self.number, section, block)))
                block += 1
            self._put(data)
            self._pace(0)
        return begin

    def finish(
        self,
        store_id: bytes,
        *,
        level: int,
        part: int,
        parts: int,
        sequences: tuple[int, int],
    ) -> TableInfo:
        """Write the footer, sync and close; the directory is the caller's to sync.

        Part ``part`` of the ``parts`` of its run, at ``level``; ``sequences``
        are the first and the last sequence number that its records may have.
        """
        if not self._sections:
            self.seal()
        puts = self._count - self.tombstones
        footer = FOOTER.pack(
            FORMAT, store_id, self.number, puts, self.tombstones, *sequences, level, part, parts,
            *self._sections, self._seed, *self._key_lengths, len(self._first), len(self._last),
        )  # fmt: skip
        footer = self._first + self._last + footer
        footer_crc = crc32c(footer)
        self._put(footer + TAIL.pack(footer_crc, TAIL_MAGIC))
        self._drain()
        assert self._file is not None
        self._filesystem.sync(self._file)
        self._close()
        return TableInfo(self.number, self._written, footer_crc, puts, self.tombstones)

    def _align(self) -> int:
        """Fill up to the next multiple of 8; returns where that is."""
        end = self._written + self._pending_size
        begin = (end + 7) & ~7
        self._put(bytes(begin - end))
        return begin

    def _close(self) -> None:
        """Close the file, once: its descriptor may be another file's afterwards."""
        file, self._file = self._file, None
        if file is not None:
            self._filesystem.close(file)

    def abandon(self) -> None:
        """Close and remove the file; where that fails the next sweep removes it."""
        with suppress(error):
            self._close()
        with suppress(error):
            self._filesystem.remove(self.path)


def _of_width(width: int, batches: Iterable[tuple[array[int], Any]]) -> Iterator[array[int]]:
    """Yield the lengths of batches as items of ``width`` bytes, which may be wider than theirs."""
    for lengths, _ in batches:
        yield lengths if lengths.itemsize == width else array(WIDTHS[width], lengths)


def _in_blocks(pieces: Iterable[Buffer]) -> Iterator[bytes]:
    """Yield the bytes of ``pieces`` cut between blocks; what comes last may be shorter."""
    rest = b""
    for piece in pieces:
        data = rest + piece
        whole = len(data) - len(data) % BLOCK
        if whole:
            yield data[:whole]
        rest = data[whole:]
    if rest:
        yield rest
