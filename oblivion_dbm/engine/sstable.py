"""The SSTable: an immutable file of records in key order, and ways to find them.

::

    magic "oblivsst" | format u32 | crc u32        16 bytes
    records, in key order
    lengths    the length of each record: u16, u32 or u64 as the longest needs
    fences     u64: the offset of every 64th record, which begins a group
    sums       u64: the XXH64 of the bytes of each group, its place being the seed
    index      u64 slots: fingerprint (24 bits) << 40 | offset (40 bits); 0: empty
    filter     u64 words, in pairs
    crcs       u32 for each block of 4,096 bytes of the five sections above
    first key | last key | footer | crc u32 | magic "sstoblia"

Sections begin at multiples of 8.  A block's crc starts from the crc of (table
number, section, block number), so blocks that changed places do not check;
they are checked when first touched.  The crcs themselves are covered by the
footer, and the footer by the MANIFEST.

The index is open addressing: a key's home slot is ``xxh64(key, seed) * slots
>> 64``, two thirds of the slots are full, and what finds no room within
PROBE_LIMIT slots is left to binary search.  So a point read is one hash, one
or two slots, one slice and one crc.  Before it stands a Bloom filter of 12
bits a key; every 16 home slots share two of its words, three bits in each.

>>> pack_header().hex(" ")
'6f 62 6c 69 76 73 73 74 01 00 00 00 b9 fd be 15'

(The other parts, byte by byte, are in ``docs/format.md``.)

Price: 13 bytes of a record are overhead, and beside it stand 12 bytes of
index, 2 of length, 1.5 of filter and 0.2 of fences, sums and crcs.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from errno import ENOTSUP
from itertools import accumulate, pairwise
from struct import Struct

from oblivion_dbm.engine.filenames import table as table_name
from oblivion_dbm.engine.kernel import (
    PROBE_LIMIT,
    SLOTS_PER_PAIR,
    Lookup,
    hash_keys,
    index_holds,
    split,
    sum_group,
)
from oblivion_dbm.engine.record import OVERHEAD, BadRecord, crc32c, read
from oblivion_dbm.errors import CorruptionError, error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, NoReturn

    from oblivion_dbm.engine.filesystem import FileSystem
    from oblivion_dbm.engine.kernel import Shape
    from oblivion_dbm.engine.kernel.pure import Probe
    from oblivion_dbm.engine.version import TableInfo

MAGIC = b"oblivsst"
TAIL_MAGIC = b"sstoblia"
FORMAT = 1

_HEADER = Struct("<8sII")
RECORDS_AT = _HEADER.size
BLOCK = 4096
GROUP = 64
LENGTHS, FENCES, SUMS, INDEX, FILTER = range(5)
SECTIONS = ("lengths", "fences", "sums", "index", "filter")
_BLOCK_SEED = Struct("<QII")
WIDTHS = {2: "H", 4: "I", 8: "Q"}

#: format, store id, number, puts, tombstones, first and last sequence, level,
#: part, parts, width of a length, crc of the crcs, end of records, beginnings of
#: lengths, fences, sums, index, filter and crcs, end of crcs, pairs of filter words,
#: hash seed, lengths of the shortest, longest, first and last key
FOOTER = Struct("<I16sQQQQQIIIIIQQQQQQQQQQIIII")
TAIL = Struct("<I8s")
LONGEST_TABLE = 1 << 40
#: Bytes of records that are cut out of a table at once, if it is more than one record.
LARGEST_STRETCH = 1 << 20
#: Bytes beyond twice those wanted that are summed up so that whole groups are checked.
LONGEST_DETOUR = 1 << 14


def pack_header() -> bytes:
    """Return what every table begins with."""
    body = _HEADER.pack(MAGIC, FORMAT, 0)[:-4]
    return body + crc32c(body).to_bytes(4, "little")


def block_seed(number: int, section: int, block: int) -> int:
    """Return what the crc of a block starts from."""
    return crc32c(_BLOCK_SEED.pack(number, section, block))


class SSTable:
    """A table open for reading; shared by all threads, closed by whoever ends the store.

    Opening reads the footer only.  Raises CorruptionError for anything that
    does not check, and ``error`` for a table of a newer format.
    """

    #: What looks up in tables of this kind, and what their files are called, by number.
    lookup = Lookup
    file_name = staticmethod(table_name)

    def __init__(
        self, filesystem: FileSystem, directory: str, info: TableInfo, store_id: bytes
    ) -> None:
        self.info = info
        self.path = filesystem.join(directory, self.file_name(info.number))
        file = filesystem.open(self.path)
        try:
            size = filesystem.size(file)
            if size != info.size:
                raise CorruptionError(
                    self.path, min(size, info.size), f"expected {info.size} bytes, found {size}"
                )
            self.data: Any = filesystem.map(file, size)
        finally:
            filesystem.close(file)
        self._views: list[memoryview] = []
        try:
            self._read_footer(store_id)
        except BaseException:
            self.close()
            raise

    def _read_footer(self, store_id: bytes) -> None:
        size = len(self.data)
        fixed_at = size - TAIL.size - FOOTER.size
        if fixed_at < RECORDS_AT or self.data[:RECORDS_AT] != pack_header():
            self.damaged(0, f"expected the header of a table of format {FORMAT}")
        footer_crc, magic = TAIL.unpack(self.data[size - TAIL.size :])
        if magic != TAIL_MAGIC:
            self.damaged(size - 8, f"expected the magic {TAIL_MAGIC!r}, found {magic!r}")
        fields = FOOTER.unpack(self.data[fixed_at : size - TAIL.size])
        first, last = fields[-2:]
        keys_at = fixed_at - first - last
        if keys_at < RECORDS_AT or footer_crc != crc32c(self.data[keys_at : size - TAIL.size]):
            self.damaged(max(keys_at, 0), "the footer's crc does not match")
        if footer_crc != self.info.footer_crc or fields[1:3] != (store_id, self.info.number):
            self.damaged(keys_at, "this is not the table that the MANIFEST names")
        if fields[0] != FORMAT:
            meaning = f"expected table format {FORMAT}, found {fields[0]}: a newer one wrote it"
            raise error(ENOTSUP, meaning, self.path)
        self.first_key: bytes = self.data[keys_at : keys_at + first]
        self.last_key: bytes = self.data[keys_at + first : fixed_at]
        (
            _, _, _, self.puts, self.tombstones, self.first_sequence, self.last_sequence,
            self.level, self.part, self.parts, self._width, crcs_crc, self.records_end,
            *begins, crcs_at, crcs_end, pairs, self.seed, shortest, longest, _, _,
        ) = fields  # fmt: skip
        self.slot_count = SLOTS_PER_PAIR * pairs
        self._key_length = shortest if shortest == longest else -1
        self._open_sections(begins, crcs_at, crcs_end, crcs_crc)

    def _open_sections(self, begins: list[int], crcs_at: int, crcs_end: int, crc: int) -> None:
        self._begins = begins
        #: From here on lies what only point reads need.
        self.index_at = begins[INDEX]
        self._crcs_at = crcs_at
        if (
            self._width not in WIDTHS
            or not self.slot_count
            or not 0 < self.puts + self.tombstones < LONGEST_TABLE
            or not RECORDS_AT <= self.records_end <= begins[0]
        ):
            self.damaged(crcs_at, "the footer says what cannot be")
        if crc32c(self.data[crcs_at:crcs_end]) != crc:
            self.damaged(crcs_at, "the crc of the block crcs does not match")
        count, groups = len(self), (len(self) + GROUP - 1) // GROUP
        self.sizes = [
            count * self._width,
            8 * groups,
            8 * groups,
            8 * (self.slot_count + PROBE_LIMIT),
            16 * self.slot_count // SLOTS_PER_PAIR,
        ]
        blocks = [(size + BLOCK - 1) // BLOCK for size in self.sizes]
        ends = [begin + size for begin, size in zip(begins, self.sizes)]
        if sum(blocks) * 4 != crcs_end - crcs_at or max(*ends, crcs_end) > len(self.data):
            self.damaged(crcs_at, "the sections and their crcs do not agree")
        self._first_blocks = list(accumulate(blocks, initial=0))
        self.checked = [bytearray(number) for number in blocks]
        whole = memoryview(self.data)
        self._views.append(whole)
        formats: tuple[Any, ...] = (WIDTHS[self._width], "Q", "Q", "Q", "Q")
        for begin, size, kind in zip(begins, self.sizes, formats):
            self._views.append(whole[begin : begin + size].cast("B").cast(kind))
        _, self._lengths, self._fences, self.sums, self.slots, self.words = self._views

    def __len__(self) -> int:
        return int(self.puts + self.tombstones)

    def damaged(self, offset: int, meaning: str) -> NoReturn:
        """Raise CorruptionError for this table."""
        raise CorruptionError(self.path, offset, meaning)

    def probe(self) -> Probe:
        """Return what the kernel's look-up needs of this table."""
        return (
            self.slot_count,
            self.words,
            self.checked[FILTER],
            self.slots,
            self.checked[INDEX],
            self.data,
            self,
        )

    def check_block(self, section: int, block: int) -> None:
        """Check one block of a section and remember that it is sound."""
        begin = self._begins[section] + block * BLOCK
        size = min(BLOCK, self.sizes[section] - block * BLOCK)
        crc_at = self._crcs_at + 4 * (self._first_blocks[section] + block)
        expected = int.from_bytes(self.data[crc_at : crc_at + 4], "little")
        seed = block_seed(self.info.number, section, block)
        if crc32c(self.data[begin : begin + size], seed) != expected:
            self.damaged(begin, f"block {block} of the {SECTIONS[section]} does not check")
        items = BLOCK // self._width
        if section == LENGTHS and min(self._lengths[block * items :][:items]) < OVERHEAD:
            self.damaged(begin, "a record is shorter than a record can be")
        self.checked[section][block] = 1

    def check_filter(self, block: int) -> None:
        """Check a block of the filter."""
        self.check_block(FILTER, block)

    def check_index(self, block: int) -> None:
        """Check a block of the index."""
        self.check_block(INDEX, block)

    def check_other_key(self, offset: int, key: bytes, fingerprint: int) -> None:
        """Raise unless a sound record of another key with this fingerprint is at ``offset``."""
        found = self._read(offset)[1]
        if found == key or hash_keys([found], self.seed)[0] & 0xFF_FFFF != fingerprint:
            self.damaged(offset, "the index points to a record of another key")

    def _read(self, offset: int) -> tuple[int, bytes, bytes, int]:
        """Return the checked record at ``offset``."""
        try:
            return read(self.data, offset, self.records_end)
        except BadRecord as bad:
            self.damaged(bad.offset, bad.meaning)

    def _section_checked(self, section: int, start: int, stop: int, width: int) -> None:
        """Check the blocks that hold items [start, stop) of a section."""
        checked = self.checked[section]
        for block in range(start * width // BLOCK, (stop * width + BLOCK - 1) // BLOCK):
            if not checked[block]:
                self.check_block(section, block)

    def _fence(self, group: int) -> int:
        """Return the offset of the first record of a group."""
        self._section_checked(FENCES, group, group + 1, 8)
        return int(self._fences[group])

    def offset(self, number: int) -> int:
        """Return where a record begins: its group's fence and the lengths from there."""
        group = number // GROUP
        self._section_checked(LENGTHS, group * GROUP, number, self._width)
        return self._fence(group) + sum(self._lengths[group * GROUP : number])

    def records(self, start: int, stop: int) -> tuple[list[bytes], list[bytes]]:
        """Return (keys, records) of the records [start, stop), every one checked.

        O(stop - start), and up to 63 records more before and behind, where they are not long.
        """
        ends = self.ends(start, stop)
        match = self.sums_match(start, stop, ends)
        try:
            keys, records = split(self.data, ends, self._key_length, match is True)
        except BadRecord as bad:
            self.damaged(bad.offset, bad.meaning)
        if not match:
            self._check_places(keys, ends)
            if match is False:
                self.damaged(ends[0], "the sum of a group does not match its records")
        return keys, records

    def ends(self, start: int, stop: int) -> list[int]:
        """Return the offset of each of the records [start, stop), and where the last ends."""
        self._section_checked(LENGTHS, start, stop, self._width)
        return list(accumulate(self._lengths[start:stop].tolist(), initial=self.offset(start)))

    def sums_match(self, start: int, stop: int, ends: list[int]) -> bool | None:
        """Tell whether the sums of the groups that hold the records [start, stop) are right.

        None where the groups hold much more than these, and were not looked at.
        One sum over a group costs a fifth of a crc for each of its records.  It
        is no crc: that of records which end with their own depends on their
        lengths alone, and would not tell that two changed places.
        """
        first, last = start // GROUP, -(-stop // GROUP)
        if start % GROUP or (stop % GROUP and stop != len(self)):
            whole = self._group_end(last - 1) - self._fence(first)
            if whole > LONGEST_DETOUR + 2 * (ends[-1] - ends[0]):
                return None
            ends = self.ends(first * GROUP, min(last * GROUP, len(self)))
        self._section_checked(SUMS, first, last, 8)
        begins = [*ends[:-1:GROUP], ends[-1]]
        data, number = self.data, self.info.number
        sums = [
            sum_group(data[begin:end], number, group)
            for group, (begin, end) in enumerate(pairwise(begins), first)
        ]
        return bool(sums == self.sums[first:last].tolist())

    def _group_end(self, group: int) -> int:
        """Return the offset where the records of a group end."""
        return self._fence(group + 1) if group + 1 < len(self._fences) else self.records_end

    def _check_places(self, keys: list[bytes], ends: list[int]) -> None:
        """Raise unless the index leads to each of these records, which begin at ``ends``.

        A sound record of another place, or of another table, is damage too.
        """
        for key, offset, digest in zip(keys, ends, hash_keys(keys, self.seed)):
            home = digest * self.slot_count >> 64
            self._section_checked(INDEX, home, home + PROBE_LIMIT, 8)
            if index_holds(self.slots, self.slot_count, digest, offset) is False:
                self.damaged(offset, f"a record that does not belong here: key {key[:60]!r}")

    def lists(
        self,
        shape: Shape,
        start: bytes | None,
        stop: bytes | None,
        reverse: bool,
        sizes: Iterator[int],
    ) -> Iterator[list[Any]]:
        """Yield what ``shape`` makes of the records in [start, stop), in ascending lists.

        For a table without tombstones: its records need not be cut out first.
        """
        for low, high in self.stretches(start, stop, reverse, sizes):
            ends = self.ends(low, high)
            if self._key_length >= 0 and self.sums_match(low, high, ends) is True:
                yield shape.cut(self.data, ends, self._key_length)
            else:
                yield shape.take(*self.records(low, high))

    def position(self, key: bytes) -> int:
        """Return the number of the first record whose key is >= ``key``.

        O(log n) checked records and one group of lengths.
        """
        if key <= self.first_key:
            return 0
        low, high, following = 0, len(self._fences), b""
        while low < high:
            middle = (low + high) // 2
            found = self._read(self._fence(middle))[1]
            if found <= key:
                low = middle + 1
            else:
                high, following = middle, found
        # What was found depends on these two groups alone.
        if low < len(self._fences):
            self._check_places([following], [self._fence(low)])
        start = max(0, low - 1) * GROUP
        keys, _ = self.records(start, min(start + GROUP, len(self)))
        return start + sum(1 for found in keys if found < key)

    def search(self, key: bytes) -> bytes | None:
        """Return the record of ``key`` by binary search, None if there is none."""
        at = self.position(key)
        if at == len(self):
            return None
        keys, records = self.records(at, at + 1)
        return records[0] if keys[0] == key else None

    def chunks(
        self, start: bytes | None, stop: bytes | None, reverse: bool, sizes: Iterator[int]
    ) -> Iterator[tuple[list[bytes], list[bytes]]]:
        """Yield (keys, records) in order, in runs of about the sizes that ``sizes`` gives.

        Each chunk ascends; in reverse the chunks descend.
        """
        for low, high in self.stretches(start, stop, reverse, sizes):
            yield self.records(low, high)

    def stretches(
        self, start: bytes | None, stop: bytes | None, reverse: bool, sizes: Iterator[int]
    ) -> Iterator[tuple[int, int]]:
        """Yield (first, last + 1) of stretches of records; large ones end with a group."""
        low = 0 if start is None else self.position(start)
        high = len(self) if stop is None else self.position(stop)
        while low < high:
            size = next(sizes)
            if reverse:
                middle = high - size
                middle = max(low, middle // GROUP * GROUP if size >= GROUP else middle)
                middle = self._fitting(middle, high, reverse)
                yield middle, high
                high = middle
            else:
                middle = low + size
                middle = min(high, -(-middle // GROUP) * GROUP if size >= GROUP else middle)
                middle = self._fitting(low, middle, reverse)
                yield low, middle
                low = middle

    def _fitting(self, low: int, high: int, reverse: bool) -> int:
        """Return where to cut [low, high) so that it fits LARGEST_STRETCH, or holds one record."""
        end = self.records_end if high == len(self) else self.offset(high)
        if end - self.offset(low) <= LARGEST_STRETCH:
            return low if reverse else high
        ends = SSTable.ends(self, low, high)  # of more than will be read, perhaps
        if reverse:
            return min(high - 1, low + bisect_left(ends, end - LARGEST_STRETCH))
        return max(low + 1, low + bisect_right(ends, ends[0] + LARGEST_STRETCH) - 1)

    def close(self) -> None:
        """Let go of the map.  Reads in progress in other threads fail."""
        for view in reversed(self._views):
            view.release()
        self._views = []
        self.data.close()
