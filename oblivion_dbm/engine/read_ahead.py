"""Tables that are read ahead: no part of a map is touched before it is in memory.

To wait for a cold page of a map holds the interpreter's lock, and with it every
other thread, for as long as the disk takes.  A read of the file lets go of the
lock and leaves the same page in the page cache.  So a program that must not
stop, as an event loop, reads each part first and touches it then.  That costs
some 9 µs a look-up in a table, and 0.1 µs for each thousand-byte record of a walk.
"""

from __future__ import annotations

from bisect import bisect_right

from oblivion_dbm.engine import filenames
from oblivion_dbm.engine.kernel import PROBE_LIMIT, SLOTS_PER_PAIR, Lookup, filter_admits, hash_keys
from oblivion_dbm.engine.record import LENGTH
from oblivion_dbm.engine.sstable import (
    BLOCK,
    FILTER,
    FOOTER,
    INDEX,
    RECORDS_AT,
    TAIL,
    SSTable,
)
from oblivion_dbm.errors import error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oblivion_dbm.engine.filesystem import FileSystem
    from oblivion_dbm.engine.kernel.pure import RunProbe
    from oblivion_dbm.engine.version import TableInfo

_OFFSET_MASK = (1 << 40) - 1
#: Bytes that are read at once; more would be other memory each time, which costs more.
_PIECE = 1 << 16
#: Bytes of a record, behind its key, that are read before its length is known.
_HEAD = 1024


def bring_logs(filesystem: FileSystem, directory: str) -> None:
    """Read the log segments that an opening will replay."""
    for name in filesystem.list(directory):
        if filenames.parse(name) is None or not name.endswith(filenames.LOG_KIND):
            continue
        try:
            file = filesystem.open(filesystem.join(directory, name))
        except error:  # its writer has just removed it
            continue
        try:
            for at in range(0, filesystem.size(file), _PIECE):
                filesystem.read(file, at, _PIECE)
        finally:
            filesystem.close(file)


class AheadLookup(Lookup):
    """A look-up that reads ahead what it touches of tables."""

    __slots__ = ()

    def search(self, key: bytes, runs: tuple[RunProbe, ...]) -> bytes | None:
        """Return the value of ``key`` in the first of ``runs`` that has a record of it."""
        (digest,) = hash_keys((key,), self.seed)
        for fences, probes in runs:
            place = 0 if fences is None else bisect_right(fences, key) - 1
            if _bring_for(probes[place][-1], digest, len(key)):
                break
        return super().search(key, runs)


def _bring_for(table: AheadTable, digest: int, key_length: int) -> bool:
    """Read what a look-up in one table touches; tell whether it will find a record."""
    home = digest * table.slot_count >> 64
    table.bring_item(FILTER, home // SLOTS_PER_PAIR * 16, 16)
    if not filter_admits(table.words, table.slot_count, digest):
        return False
    table.bring_item(INDEX, 8 * home, 8 * PROBE_LIMIT)
    for slot in table.slots[home : home + PROBE_LIMIT]:
        if slot and slot >> 40 == digest & 0xFF_FFFF:
            table.bring_record(slot & _OFFSET_MASK, key_length)
            return True
        if not slot:
            break
    return False


class AheadTable(SSTable):
    """A table that keeps its descriptor too, and reads each part before it is touched."""

    lookup = AheadLookup

    def __init__(
        self, filesystem: FileSystem, directory: str, info: TableInfo, store_id: bytes
    ) -> None:
        self._filesystem = filesystem
        self._file = filesystem.open(filesystem.join(directory, filenames.table(info.number)))
        # What opening touches: the header, and the end from the crcs of the blocks on.
        self._bring(0, RECORDS_AT)
        footer = self._bring(max(0, info.size - FOOTER.size - TAIL.size), info.size)
        if len(footer) == FOOTER.size + TAIL.size:
            crcs_at: int = FOOTER.unpack_from(footer)[-8]
            self._bring(crcs_at, info.size)
        super().__init__(filesystem, directory, info, store_id)

    def __del__(self) -> None:
        # Nobody closes a table that is read no more; its map goes with it, and so does this.
        file = getattr(self, "_file", None)
        if file is not None:
            self._filesystem.close(file)

    def _bring(self, begin: int, end: int) -> bytes:
        """Read a part of the file; return its first piece.  The map tells of damage."""
        if begin >= end:
            return b""
        try:
            data = self._filesystem.read(self._file, begin, min(end - begin, _PIECE))
            for at in range(begin + _PIECE, end, _PIECE):
                self._filesystem.read(self._file, at, min(end - at, _PIECE))
        except error:
            return b""
        return data

    def bring_item(self, section: int, start: int, length: int) -> None:
        """Read ``length`` bytes of a section, from its byte ``start`` on."""
        begin = self._begins[section] + start
        self._bring(begin, begin + length)

    def bring_record(self, offset: int, key_length: int) -> None:
        """Read the record at ``offset``, if its key has that length."""
        value_at = offset + 5 + key_length
        if offset // BLOCK != value_at // BLOCK:
            self._bring(offset, value_at)
        head = self._bring(value_at, value_at + _HEAD)
        if len(head) >= LENGTH.size:
            end = min(value_at + 8 + LENGTH.unpack_from(head)[0], self.records_end)
            self._bring(value_at + len(head), end)

    # What the walks touch.

    def check_block(self, section: int, block: int) -> None:
        """Check one block of a section and remember that it is sound."""
        self.bring_item(section, block * BLOCK, BLOCK)
        crc_at = self._crcs_at + 4 * (self._first_blocks[section] + block)
        self._bring(crc_at, crc_at + 4)
        super().check_block(section, block)

    def _section_checked(self, section: int, start: int, stop: int, width: int) -> None:
        self.bring_item(section, start * width, (stop - start) * width)
        super()._section_checked(section, start, stop, width)

    def _read(self, offset: int) -> tuple[int, bytes, bytes, int]:
        head = self._bring(offset, offset + RECORDS_AT)
        if len(head) >= 5:
            self.bring_record(offset, LENGTH.unpack_from(head, 1)[0])
        return super()._read(offset)

    def ends(self, start: int, stop: int) -> list[int]:
        """Return the offset of each of the records [start, stop), and where the last ends."""
        ends = super().ends(start, stop)
        self._bring(ends[0], ends[-1])
        return ends

    def close(self) -> None:
        """Let go of map and file.  Reads in progress in other threads fail."""
        file, self._file = self._file, None  # type: ignore[assignment]  # it is used no more
        if file is not None:
            self._filesystem.close(file)
        super().close()
