"""The TableWriter: makes one SSTable out of chunks of records in key order.

The layout is that of :mod:`oblivion_dbm.engine.sstable`.
"""

from __future__ import annotations

from array import array
from errno import EFBIG
from itertools import accumulate

from oblivion_dbm.engine.filenames import table as table_name
from oblivion_dbm.engine.kernel import build_index, hash_keys, sum_group
from oblivion_dbm.engine.record import crc32c
from oblivion_dbm.engine.sstable import (
    BLOCK,
    FENCES,
    FILTER,
    FOOTER,
    FORMAT,
    GROUP,
    INDEX,
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
    from oblivion_dbm.engine.filesystem import File, FileSystem

_WRITE_SIZE = 1 << 15


class TableWriter:
    """Writes one table: chunks of records in ascending order, then the rest.

    Memory: 10 bytes a record, and one chunk; 12 more while finishing.
    """

    def __init__(
        self, filesystem: FileSystem, directory: str, number: int, seed: int, mode: int = 0o666
    ) -> None:
        self.number = number
        self.path = filesystem.join(directory, table_name(number))
        self._filesystem = filesystem
        self._seed = seed
        self._lengths = array("Q")
        self._digests = array("Q")
        self._sums = array("Q")
        self._group: list[bytes] = []
        self._first = self._last = b""
        self._key_lengths: tuple[int, ...] = ()
        self.tombstones = 0
        self.end = RECORDS_AT
        self._file: File | None = filesystem.create(self.path, mode)
        self._pending = [pack_header()]
        self._pending_size = RECORDS_AT
        self._written = 0

    def __len__(self) -> int:
        return len(self._lengths)

    def add(self, keys: list[bytes], records: list[bytes], tombstones: int) -> None:
        """Append a chunk, of whose records ``tombstones`` are such."""
        if not keys:
            return
        if not self._lengths:
            self._first = keys[0]
        self._last = keys[-1]
        self._add_sums(records)
        data = b"".join(records)
        self._lengths.extend(map(len, records))
        self._digests.extend(hash_keys(keys, self._seed))
        lengths = set(map(len, keys)).union(self._key_lengths)
        self._key_lengths = min(lengths), max(lengths)
        self.tombstones += tombstones
        self.end += len(data)
        self._put(data)

    def _add_sums(self, records: list[bytes]) -> None:
        """Append the sums of the groups that ``records`` complete."""
        self._group += records
        while len(self._group) >= GROUP:
            self._end_group()

    def _end_group(self) -> None:
        group, self._group = self._group[:GROUP], self._group[GROUP:]
        self._sums.append(sum_group(group, self.number, len(self._sums)))

    def _put(self, data: bytes) -> None:
        """Write ``data`` behind what is there; small pieces are gathered first."""
        self._pending.append(data)
        self._pending_size += len(data)
        if self._pending_size >= _WRITE_SIZE:
            self._drain()

    def _drain(self) -> None:
        assert self._file is not None
        self._filesystem.write(self._file, self._written, b"".join(self._pending))
        self._written += self._pending_size
        self._pending, self._pending_size = [], 0

    def _put_section(self, section: int, data: bytes, crcs: array[int]) -> int:
        """Append a section; returns where it begins."""
        begin = self._align()
        self._put(data)
        for block, at in enumerate(range(0, len(data), BLOCK)):
            seed = block_seed(self.number, section, block)
            crcs.append(crc32c(data[at : at + BLOCK], seed))
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
        """Write sections and footer, sync and close; the directory is the caller's to sync.

        Part ``part`` of the ``parts`` of its run, at ``level``; ``sequences``
        are the first and the last sequence number that its records may have.
        """
        if self.end > LONGEST_TABLE:
            meaning = f"a table of {self.end} bytes; the limit is {LONGEST_TABLE}"
            raise error(EFBIG, meaning, self.path)
        puts = len(self._lengths) - self.tombstones
        sections = self._put_sections()
        footer = FOOTER.pack(
            FORMAT, store_id, self.number, puts, self.tombstones, *sequences, level, part, parts,
            *sections, self._seed, *self._key_lengths, len(self._first), len(self._last),
        )  # fmt: skip
        footer = self._first + self._last + footer
        footer_crc = crc32c(footer)
        self._put(footer + TAIL.pack(footer_crc, TAIL_MAGIC))
        self._drain()
        assert self._file is not None
        self._filesystem.sync(self._file)
        self._close()
        return TableInfo(self.number, self._written, footer_crc, puts, self.tombstones)

    def _put_sections(self) -> tuple[int, ...]:
        """Append the sections; returns what the footer says of them, in its order."""
        longest = max(self._lengths)
        width = 2 if longest < 1 << 16 else 4 if longest < 1 << 32 else 8
        pairs = -(-3 * len(self._lengths) // 32)  # 1.5 slots and 12 bits of filter a record
        slots, words = build_index(self._digests, self._lengths, RECORDS_AT, pairs)
        if self._group:
            self._end_group()
        fences = list(accumulate(self._lengths, initial=RECORDS_AT))[:-1:GROUP]
        crcs = array("I")
        begins = [
            self._put_section(LENGTHS, array(WIDTHS[width], self._lengths).tobytes(), crcs),
            self._put_section(FENCES, array("Q", fences).tobytes(), crcs),
            self._put_section(SUMS, self._sums.tobytes(), crcs),
            self._put_section(INDEX, slots.tobytes(), crcs),
            self._put_section(FILTER, words.tobytes(), crcs),
        ]
        crcs_at = self._align()
        self._put(crcs.tobytes())
        crc = crc32c(crcs.tobytes())
        return width, crc, self.end, *begins, crcs_at, crcs_at + 4 * len(crcs), pairs

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
        """Close and remove the file."""
        self._close()
        self._filesystem.remove(self.path)
