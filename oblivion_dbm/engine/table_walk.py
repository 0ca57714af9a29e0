"""A walk through the records of a table that may be damaged, a group at a time.

A record that checks, where a record must begin, may still be another table's: a block
may have come from elsewhere, or a file may have got the wrong name.  So a record is
*certain* where the sum of its group checks, for which nothing but the number of the
table and the very bytes of the group will do.  Then it may even be set right, where
one bit of it is wrong.  It is *likely* where that cannot be told.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate, pairwise
from operator import lt
from typing import NamedTuple

from oblivion_dbm.engine.bit_rot import corrected
from oblivion_dbm.engine.damage import Damage
from oblivion_dbm.engine.damaged_footer import Sections
from oblivion_dbm.engine.kernel import start_sum
from oblivion_dbm.engine.record import DELETE, HEAD, OVERHEAD, PUT, RESIDUE, crc32c, unpack_length
from oblivion_dbm.engine.sstable import FENCES, GROUP, LARGEST_STRETCH, LENGTHS, RECORDS_AT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from oblivion_dbm.engine.damage import Piece
    from oblivion_dbm.engine.damaged_footer import Footer, Layout

    #: The file's name; keys, records and offsets, in order.
    Part = tuple[str, list[bytes], list[bytes], list[int]]

#: Damaged places that are told apart in one table; more become one.
MOST_PLACES = 1000


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


def followed(piece: Piece, start: int, limit: int, most: int) -> list[int]:
    """Return where the sound records begin that follow each other from ``start`` on."""
    ends = [start]
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


class Outline(NamedTuple):
    """What is known of a table: how many ``records`` it has, where they end, and their ``damages``.

    Without a ``layout`` nothing of it is proved; ``damages`` are those of an earlier walk.
    """

    name: str
    layout: Footer | Layout | None
    records: int
    records_end: int
    damages: list[Damage]

    def damage_at(self, offset: int) -> Damage | None:
        """Return the damage in which a byte is."""
        place = bisect_right(self.damages, offset, key=_offset) - 1
        if place < 0 or offset >= self.damages[place].offset + self.damages[place].length:
            return None
        return self.damages[place]


def _offset(damage: Damage) -> int:
    return damage.offset


class _Group:
    """Records that lie one after the other; ``keys`` has None for those that do not check."""

    __slots__ = ("_data", "_mended", "_piece", "ends", "keys")

    def __init__(self, piece: Piece, ends: list[int]) -> None:
        self.ends = ends
        self._piece = piece
        size = ends[-1] - ends[0]
        self._data = piece(ends[0], size) if size <= LARGEST_STRETCH else None
        #: Records of which one bit was wrong, as they were, by their place.
        self._mended: dict[int, bytes] = {}
        self.keys = [sound_key(record) for record in self.records()]

    def records(self) -> Iterator[bytes]:
        """Yield the bytes of each."""
        begin = self.ends[0]
        for start, end in pairwise(self.ends):
            if start in self._mended:
                yield self._mended[start]
            elif self._data is None:
                yield self._piece(start, end - start)
            else:
                yield self._data[start - begin : end - begin]

    def is_as_written(self, number: int, group: int, expected: int) -> bool:
        """Tell whether it has the sum of group ``group`` of table ``number``.

        One bit may be wrong in each record, if they have it then; and one in the sum:
        it proves nothing less.
        """
        keys = self._mended_keys() if None in self.keys else self.keys
        total = start_sum(number, group)
        if self._data is None or self._mended:
            for record in self.records():
                total.update(record)
        else:
            total.update(self._data)
        if None in keys or (total.intdigest() ^ expected).bit_count() > 1:
            self._mended = {}
            return False
        self.keys = keys
        return True

    def _mended_keys(self) -> list[bytes | None]:
        """Set right what can be, up to the first record of which more is wrong."""
        keys = list(self.keys)
        for place, (start, record) in enumerate(zip(self.ends, self.records())):
            if keys[place] is None:
                mended = corrected(record)
                if mended is None:
                    break
                self._mended[start], keys[place] = mended, sound_key(mended)
        return keys

    @property
    def mended(self) -> list[int]:
        """Where the records begin that were set right."""
        return list(self._mended)

    def parts(self, name: str, chosen: list[bool]) -> Iterator[Part]:
        """Yield those that are chosen, one by one where they are large."""
        part: Part = (name, [], [], [])
        for key, record, start, choose in zip(self.keys, self.records(), self.ends, chosen):
            if choose and key is not None:
                part[1].append(key)
                part[2].append(record)
                part[3].append(start)
                if self._data is None:
                    yield part
                    part = (name, [], [], [])
        if part[1]:
            yield part


class Walk:
    """A walk through the records of one table, a group at a time."""

    def __init__(self, table: Outline, piece: Piece, start: bytes, stop: bytes | None) -> None:
        self._table = table
        self._piece = piece
        self._sections = Sections(table.layout, piece)
        self._stop = stop
        self.damages: list[Damage] = []
        #: Where records begin of which one bit was wrong.
        self.mended: list[int] = []
        #: No key below it is left, none that is certain and none that is likely.
        self._next_key = self._next_likely = start
        #: Up to where the file is accounted for, and whether a record begins there.
        self._end = RECORDS_AT
        self._chained = True
        #: Damage that goes on, of which the last key is not known yet.
        self._open_damages: list[Damage] = []

    def parts(self) -> Iterator[tuple[Part, bool]]:
        """Yield records, and whether they are certain."""
        table = self._table
        for first in range(0, table.records, GROUP):
            yield from self._group(first, min(table.records, first + GROUP))
            if table.layout is None and not self._chained:
                break  # nothing will tell where a record begins
        self._close(table.records_end, self._stop)

    def _group(self, first: int, last: int) -> Iterator[tuple[Part, bool]]:
        """Yield what there is of the records [first, last), a group."""
        ends, whole = self._ends(first, last)
        if ends is None:
            self._chained = False
            self._open(self._end, "what is here does not check, nor what says where records begin")
            return
        if ends[0] > self._end:
            self._open(self._end, "between the records before and here no record checks")
        group = _Group(self._piece, ends)
        if whole and self._is_certain(group, first // GROUP):
            self._close(ends[0], group.keys[0])
            self.mended += group.mended[: MOST_PLACES - len(self.mended)]
            for part in group.parts(self._table.name, [True] * len(group.keys)):
                yield part, True
            self._next_key = self._next_likely = (group.keys[-1] or b"") + b"\0"
        elif group.keys:
            meaning = "whether these records are those that were written here cannot be told"
            if None in group.keys:
                meaning = f"a record does not check; {meaning}"
            self._open(ends[0], meaning, searching=False)
            for part in group.parts(self._table.name, self._likely(group)):
                yield part, False
        self._end, self._chained = ends[-1], True
        if not whole:
            self._chained = False
            self._open(ends[-1], "a record does not check, and no length says where the next is")

    def _fence(self, number: int) -> int | None:
        """Return where the record of this number, the first of a group, begins; None: unknown."""
        layout = self._table.layout
        if layout is not None and number >= layout.count:
            return int(layout.records_end)
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
        width = 0 if self._table.layout is None else self._table.layout.width
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
        ends = followed(self._piece, start, limit, last - first)
        whole = len(ends) == last - first + 1
        return ends, whole and stop in (None, ends[-1])

    def _is_certain(self, group: _Group, number: int) -> bool:
        """Tell whether the records of a whole group are those that were written."""
        layout, found = self._table.layout, self._sections.sum_of(number)
        if layout is None or found is None:
            return False
        if not group.is_as_written(layout.number, number, found):
            return False
        keys = [key for key in group.keys if key is not None]
        in_range = keys[0] >= self._next_key and (self._stop is None or keys[-1] < self._stop)
        return in_range and all(map(lt, keys, keys[1:]))

    def _likely(self, group: _Group) -> list[bool]:
        """Tell which records of a group may belong here, by the keys around the damage."""
        damage = self._table.damage_at(group.ends[0])
        chosen = []
        for key in group.keys:
            chosen.append(
                damage is not None
                and key is not None
                and max(damage.start, self._next_likely) <= key
                and (damage.stop is None or key < damage.stop)
            )
            if key is not None and chosen[-1]:
                self._next_likely = key + b"\0"
        return chosen

    def _open(self, offset: int, meaning: str, searching: bool = True) -> None:
        """Note that from ``offset`` on something is damaged."""
        damages = self._open_damages
        if not damages or damages[-1].search != searching:
            if damages:
                damages[-1] = damages[-1]._replace(length=offset - damages[-1].offset)
            start = self._next_key
            damages.append(Damage(self._table.name, offset, 0, meaning, start, search=searching))

    def _close(self, offset: int, key: bytes | None) -> None:
        """Note that damage ends at ``offset``, with a record of ``key`` if there is one."""
        damages, self._open_damages = self._open_damages, []
        if damages:
            damages[-1] = damages[-1]._replace(length=offset - damages[-1].offset)
        for damage in damages:
            closed = damage._replace(stop=key)
            if len(self.damages) == MOST_PLACES:
                closed = self.damages.pop().to(closed)
            self.damages.append(closed)
