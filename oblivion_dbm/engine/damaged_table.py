"""Tables that may be damaged: every record that is certainly one, and where some may be missing.

A record is *certain* where it checks and lies where a record must begin: at the
beginning of the file, behind a certain record, or where lengths or fences say so
that check.  The index and the filter are not needed, and a footer whose crc is
wrong costs nothing by itself, as the records before it lie one after the other.
"""

from __future__ import annotations

from bisect import bisect_right
from errno import EIO, ENOTSUP
from itertools import accumulate, pairwise
from operator import lt

from oblivion_dbm.engine.damage import Damage, Reading
from oblivion_dbm.engine.damaged_footer import Footer, Sections
from oblivion_dbm.engine.kernel import PROBE_LIMIT, hash_keys, start_sum
from oblivion_dbm.engine.record import DELETE, HEAD, OVERHEAD, PUT, RESIDUE, crc32c, unpack_length
from oblivion_dbm.engine.sstable import (
    BLOCK,
    FENCES,
    FOOTER,
    FORMAT,
    GROUP,
    INDEX,
    LARGEST_STRETCH,
    LENGTHS,
    RECORDS_AT,
    SUMS,
    TAIL,
    TAIL_MAGIC,
    pack_header,
)
from oblivion_dbm.errors import error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from oblivion_dbm.engine.damage import Piece
    from oblivion_dbm.engine.version import TableInfo

    #: The file's name; keys, records and offsets, in order.
    Part = tuple[str, list[bytes], list[bytes], list[int]]

_SLOTS = BLOCK // 8
_OFFSET_MASK = (1 << 40) - 1
#: Damaged places that are told apart in one table; more become one.
MOST_PLACES = 1000


class DamagedTable:
    """The file ``name`` as a table; ``footer`` is None where that does not check.

    ``sound_header`` tells that it begins as a table does.  Without a footer
    ``count`` may say how many records there are.  ``damages`` is what a walk
    through its records meets, once it was walked.  Raises ``error`` for a newer format.
    """

    def __init__(self, files: Any, directory: str, name: str) -> None:
        self._files = files
        self._path = files.join(directory, name)
        self.name = name
        self.count = 0
        self.walked = False
        self.damages: list[Damage] = []
        with self.reading() as file:
            self.size = file.size
            header = file.piece(0, RECORDS_AT)
            self.sound_header = header == pack_header()
            self._check_format(header)
            self.footer = self._read_footer(file.piece, self.size)
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
            self.footer = self._read_footer(file.piece, info.size, info.footer_crc)
        if self.footer is not None:
            self.records_end = self.footer.records_end

    def reading(self) -> Reading:
        """Return the file, opened by a ``with`` statement."""
        return Reading(self._files, self._path)

    def walk(self, start: bytes, stop: bytes | None) -> Iterator[Part]:
        """Yield the certain records, whose keys are in [start, stop).

        The first walk notes all damage, and each later one must meet the same:
        else ``error`` is raised at its end.  Constant memory, but for large records.
        """
        with self.reading() as file:
            walk = _Walk(self, file.piece, start, stop)
            yield from walk.parts()
        if not self.walked:
            self.walked, self.damages = True, walk.damages
        elif self.damages != walk.damages:
            raise error(EIO, "it gives other bytes each time it is read", self._path)

    def hidden(self, keys: list[bytes]) -> list[bool]:
        """Tell of each key whether a damaged part may hold a record of it.

        The index tells where a record is, or that there is none, as far as it
        checks; without a footer any key may be hidden.  O(1) for each key.
        """
        if self.footer is None:
            return [True] * len(keys)
        with self.reading() as file:
            sections = Sections(self.footer, file.piece)
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
        place = bisect_right(self.damages, offset, key=_offset) - 1
        if place < 0:
            return False
        return offset < self.damages[place].offset + self.damages[place].length


def _crc(data: bytes) -> bytes:
    return crc32c(data).to_bytes(4, "little")


def _offset(damage: Damage) -> int:
    return damage.offset


def sound_key(record: bytes) -> bytes | None:
    """Return the key of what is one sound PUT or DELETE, and nothing else; else None."""
    if len(record) < OVERHEAD or crc32c(record) != RESIDUE:
        return None
    op, key_length = HEAD.unpack_from(record)
    value_at = HEAD.size + key_length
    if op not in (PUT, DELETE) or value_at + 8 > len(record):
        return None
    if value_at + 8 + unpack_length(record, value_at)[0] != len(record):
        return None
    return record[HEAD.size : value_at]


class _Walk:
    """A walk through the records of one table, a group at a time."""

    def __init__(self, table: DamagedTable, piece: Piece, start: bytes, stop: bytes | None) -> None:
        self._table = table
        self._piece = piece
        self._sections = Sections(table.footer, piece)
        self._stop = stop
        self.damages: list[Damage] = []
        #: No key below it is left.
        self._next_key = start
        #: Up to where the file is accounted for, and whether a record begins there for certain.
        self._end = RECORDS_AT
        self._chained = True
        self._damage: Damage | None = None

    def parts(self) -> Iterator[Part]:
        """Yield the certain records."""
        table = self._table
        count = table.count if table.footer is None else table.footer.count
        for first in range(0, count, GROUP):
            yield from self._group(first, min(count, first + GROUP))
            if table.footer is None and not self._chained:
                break  # nothing will tell where a record begins
        self._close(table.records_end, self._stop)

    def _group(self, first: int, last: int) -> Iterator[Part]:
        """Yield what is certain of the records [first, last), a group."""
        ends, whole = self._ends(first, last)
        if ends is None:
            self._chained = False
            self._open(self._end, "what is here does not check, nor what says where records begin")
            return
        if ends[0] > self._end:
            self._open(self._end, "between the records before and here no record checks")
        data = self._piece(ends[0], ends[-1] - ends[0]) if _fits(ends) else None
        keys = self._keys(first // GROUP, ends, data, whole)
        if keys is None:
            self._open(ends[0], "the records are not those that were written here")
        else:
            yield from self._certain(ends, keys, data)
        self._end, self._chained = ends[-1], True
        if not whole:
            self._chained = False
            self._open(ends[-1], "a record does not check, and no length says where the next is")

    def _fence(self, number: int) -> int | None:
        """Return where the record of this number, the first of a group, begins; None: unknown."""
        footer = self._table.footer
        if footer is not None and number >= footer.count:
            return int(footer.records_end)
        group = number // GROUP
        found = self._sections.items(FENCES, group, group + 1, 8)
        if found is None or not RECORDS_AT <= found[0] < self._table.records_end:
            return None
        return found[0]

    def _ends(self, first: int, last: int) -> tuple[list[int] | None, bool]:
        """Return (where records begin and the last ends, None: unknown; whether that is all)."""
        start, stop = self._fence(first), self._fence(last)
        if start is None and self._chained:
            start = self._end
        width = 0 if self._table.footer is None else self._table.footer.width
        lengths = self._sections.items(LENGTHS, first, last, width)
        limit = self._table.records_end if stop is None else stop
        if lengths is not None:
            if start is None and stop is not None:
                start = stop - sum(lengths)
            if start is not None:
                ends = list(accumulate(lengths, initial=start))
                if self._end <= start and ends[-1] <= limit and stop in (None, ends[-1]):
                    return ends, True
        if start is None or not self._end <= start < limit:
            return None, False
        ends = self._followed(start, limit, last - first)
        whole = len(ends) == last - first + 1
        return ends, whole and stop in (None, ends[-1])

    def _followed(self, start: int, limit: int, most: int) -> list[int]:
        """Return where the sound records begin that follow each other from ``start`` on."""
        piece, ends = self._piece, [start]
        while len(ends) <= most and ends[-1] + OVERHEAD <= limit:
            at = ends[-1]
            value_at = at + HEAD.size + HEAD.unpack(piece(at, HEAD.size))[1]
            if value_at + 8 > limit:
                break
            end = value_at + 8 + unpack_length(piece(value_at, 4))[0]
            if end > limit or sound_key(piece(at, end - at)) is None:
                break
            ends.append(end)
        return ends

    def _keys(
        self, group: int, ends: list[int], data: bytes | None, whole: bool
    ) -> list[bytes | None] | None:
        """Return the key of each record, None for one that does not check.

        None for all, where they check and are others than were written.
        """
        found = self._sections.items(SUMS, group, group + 1, 8)
        footer = self._table.footer
        total = None if found is None or footer is None else start_sum(footer.number, group)
        keys = []
        for start, end in pairwise(ends):
            record = self._record(ends[0], data, start, end)
            keys.append(sound_key(record))
            if total is not None:
                total.update(record)
        known = [key for key in keys if key is not None]
        if not all(map(lt, known, known[1:])) or (known and not self._in_range(known)):
            return None
        if whole and total is not None and found is not None and len(known) == len(keys):
            return keys if total.intdigest() == found[0] else None
        return keys

    def _in_range(self, keys: list[bytes]) -> bool:
        return keys[0] >= self._next_key and (self._stop is None or keys[-1] < self._stop)

    def _record(self, begin: int, data: bytes | None, start: int, end: int) -> bytes:
        if data is None:
            return self._piece(start, end - start)
        return data[start - begin : end - begin]

    def _certain(
        self, ends: list[int], keys: list[bytes | None], data: bytes | None
    ) -> Iterator[Part]:
        """Yield the records that have a key, in parts of limited size; note the others."""
        part: Part = (self._table.name, [], [], [])
        for (start, end), key in zip(pairwise(ends), keys):
            if key is None:
                if part[1]:
                    yield part
                    part = (self._table.name, [], [], [])
                self._open(start, "a record does not check", searching=False)
                continue
            self._close(start, key)
            self._next_key = key + b"\0"
            part[1].append(key)
            part[2].append(self._record(ends[0], data, start, end))
            part[3].append(start)
            if data is None:
                yield part
                part = (self._table.name, [], [], [])
        if part[1]:
            yield part

    def _open(self, offset: int, meaning: str, searching: bool = True) -> None:
        """Note that from ``offset`` on something is damaged."""
        if self._damage is None:
            self._damage = Damage(self._table.name, offset, 0, meaning, self._next_key)
        self._damage = self._damage._replace(search=self._damage.search or searching)

    def _close(self, offset: int, key: bytes | None) -> None:
        """Note that damage ends at ``offset``, with a record of ``key`` if there is one."""
        damage, self._damage = self._damage, None
        if damage is None:
            return
        damage = damage._replace(length=offset - damage.offset, stop=key)
        if len(self.damages) == MOST_PLACES:
            damage = self.damages.pop().to(damage)
        self.damages.append(damage)


def _fits(ends: list[int]) -> bool:
    """Tell whether the records between ``ends`` are few enough bytes to be read at once."""
    return ends[-1] - ends[0] <= LARGEST_STRETCH
