"""Tables that may be damaged: which records are certain, and where some may be missing.

The index and the filter are not needed for that, nor is the footer where the MANIFEST
tells the number: the records before it lie one after the other and lead to the sums.
"""

from __future__ import annotations

from errno import EIO, ENOTSUP

from oblivion_dbm.engine.damage import Damage, Reading
from oblivion_dbm.engine.damaged_footer import Footer, Layout, Sections
from oblivion_dbm.engine.kernel import PROBE_LIMIT, hash_keys
from oblivion_dbm.engine.record import crc32c
from oblivion_dbm.engine.sstable import (
    BLOCK,
    FOOTER,
    FORMAT,
    INDEX,
    RECORDS_AT,
    TAIL,
    TAIL_MAGIC,
    pack_header,
)
from oblivion_dbm.engine.table_walk import Outline, Walk, followed
from oblivion_dbm.errors import error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from oblivion_dbm.engine.damage import Piece
    from oblivion_dbm.engine.damaged_footer import Blocks
    from oblivion_dbm.engine.table_walk import Part
    from oblivion_dbm.engine.version import TableInfo

_SLOTS = BLOCK // 8
_OFFSET_MASK = (1 << 40) - 1


class DamagedTable:
    """The file ``name`` as a table; ``footer`` is None where that does not check.

    ``sound_header`` tells that it begins as a table does.  Without a footer
    ``count`` may say how many records there are, and ``layout`` where they are.
    ``damages`` is what a walk through its records meets, once it was walked, and
    ``mended`` says where a record begins of which one bit was wrong.  Raises ``error``
    for a newer format.
    """

    def __init__(self, files: Any, directory: str, name: str) -> None:
        self._files = files
        self._path = files.join(directory, name)
        self.name = name
        self.count = 0
        self.walked = False
        self.damages: list[Damage] = []
        self.mended: list[int] = []
        with self.reading() as file:
            self.size = file.size
            header = file.piece(0, RECORDS_AT)
            self.sound_header = header == pack_header()
            self._check_format(header)
            self.footer = self._read_footer(file.piece, self.size)
        self.layout: Footer | Layout | None = self.footer
        self.records_end = self.size if self.footer is None else self.footer.records_end

    def _check_format(self, header: bytes) -> None:
        found = int.from_bytes(header[8:12], "little")
        sound = header[:8] == pack_header()[:8] and header[12:] == _crc(header[:12])
        if sound and found > FORMAT:
            self._refuse(found)

    def _refuse(self, found: int) -> None:
        meaning = f"expected table format {FORMAT}, found {found}: a newer oblivion_dbm wrote it"
        raise error(ENOTSUP, meaning, self._path)

    def _read_footer(self, piece: Piece, size: int, expected: int | None = None) -> Footer | None:
        """Return the footer of the table that ends at ``size``, if its crc is as ``expected``.

        None is expected where the crc behind it is to tell.
        """
        fixed_at = size - TAIL.size - FOOTER.size
        fixed = piece(max(0, fixed_at), FOOTER.size)
        if fixed_at < RECORDS_AT or len(fixed) < FOOTER.size:
            return None
        tail = piece(size - TAIL.size, TAIL.size).ljust(TAIL.size, b"\0")
        crc, magic = TAIL.unpack(tail) if expected is None else (expected, TAIL_MAGIC)
        keys_at = fixed_at - sum(FOOTER.unpack(fixed)[-2:])
        if keys_at < RECORDS_AT or magic != TAIL_MAGIC:
            return None
        data = piece(keys_at, fixed_at - keys_at + FOOTER.size)
        if crc32c(data) != crc:
            return None
        found = FOOTER.unpack(fixed)[0]
        if found > FORMAT:
            self._refuse(found)
        footer = Footer(data, crc)
        possible = found == FORMAT and footer.is_possible and footer.crcs_at <= keys_at
        return footer if possible else None

    def expect(self, info: TableInfo) -> None:
        """Take it for the table that the MANIFEST names, whose footer alone does not check."""
        self.count = info.puts + info.tombstones
        with self.reading() as file:
            self.layout = self.footer = self._read_footer(file.piece, info.size, info.footer_crc)
            if self.footer is None:
                self.layout = self._lay_out(file.piece, info)
        if self.layout is not None:
            self.records_end = self.layout.records_end

    def _lay_out(self, piece: Piece, info: TableInfo) -> Layout | None:
        """Return where everything is, if all records check from the first one on.  O(bytes)."""
        end, longest = RECORDS_AT, 0
        for _ in range(self.count):
            following = followed(piece, end, self.size, 1)
            if len(following) < 2:
                return None
            longest, end = max(longest, following[1] - end), following[1]
        return Layout(info.number, self.count, end, longest) if end > RECORDS_AT else None

    def reading(self) -> Reading:
        """Return the file, opened by a ``with`` statement."""
        return Reading(self._files, self._path)

    def walk(self, start: bytes, stop: bytes | None, likely: bool = False) -> Iterator[Part]:
        """Yield the certain records, or the likely ones, whose keys are in [start, stop).

        The first walk, for certain ones, notes all damage, and each later one must meet
        the same: else ``error`` is raised at its end.  Constant memory, but for large records.
        """
        with self.reading() as file:
            walk = Walk(self.outline, file.piece, start, stop)
            for part, certain in walk.parts():
                if certain is not likely:
                    yield part
        if not self.walked:
            self.walked, self.damages, self.mended = True, walk.damages, walk.mended
        elif self.damages != walk.damages:
            raise error(EIO, "it gives other bytes each time it is read", self._path)

    def hidden(self, keys: list[bytes], blocks: Blocks | None = None) -> list[bool]:
        """Tell of each key whether a damaged part may hold a record of it.

        The index tells where a record is, or that there is none, as far as it
        checks; without a footer any key may be hidden.  O(1) for each key.  ``blocks``
        keeps what was read of the index for the next time.
        """
        if self.footer is None:
            return [True] * len(keys)
        with self.reading() as file:
            sections = Sections(self.footer, file.piece, blocks)
            return [self._is_hidden(sections, self.footer, key) for key in keys]

    def _is_hidden(self, sections: Sections, footer: Footer, key: bytes) -> bool:
        digest = hash_keys((key,), footer.seed)[0]
        place = digest * footer.slot_count >> 64
        end = place + PROBE_LIMIT
        while place < end:
            stop = min(end, place - place % _SLOTS + _SLOTS)
            slots = sections.items(INDEX, place, stop, 8)
            if slots is None:
                return True
            for slot in slots:
                if not slot:
                    return False
                if slot >> 40 == digest & 0xFF_FFFF and self._is_damaged(slot & _OFFSET_MASK):
                    return True
            place = stop
        return True  # the index had no room for all

    def _is_damaged(self, offset: int) -> bool:
        return self.outline.damage_at(offset) is not None

    @property
    def outline(self) -> Outline:
        """What is known of it."""
        count = self.count if self.layout is None else self.layout.count
        return Outline(self.name, self.layout, count, self.records_end, self.damages)


def _crc(data: bytes) -> bytes:
    return crc32c(data).to_bytes(4, "little")
