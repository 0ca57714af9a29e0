"""Runs of tables that may be damaged, and which of several hold what others hold too.

Where the MANIFEST does not tell, the footers do: a run holds all records with
sequence numbers above ``first`` and up to ``last``.  A merge takes whole runs and
gets file numbers above theirs, so of two runs whose spans lie in each other the
one with the higher numbers was made out of the other.
"""

from __future__ import annotations

from oblivion_dbm.engine.damage import Damage
from oblivion_dbm.engine.ranges import divided, joined

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from oblivion_dbm.engine.damaged_footer import Blocks
    from oblivion_dbm.engine.damaged_table import DamagedTable
    from oblivion_dbm.engine.ranges import Range
    from oblivion_dbm.engine.table_walk import Part

MISSING = "this table is missing"


class Place:
    """A table's place in its run: the table, or None and what is known of it."""

    __slots__ = ("meaning", "name", "size", "table")

    def __init__(
        self, table: DamagedTable | None, name: str = "", size: int = 0, meaning: str = MISSING
    ) -> None:
        self.table = table
        self.name = name if table is None else table.name
        self.size = size if table is None else table.size
        self.meaning = meaning


class DamagedRun:
    """Tables in key order, made by one flush or merge; some may be damaged or missing.

    ``span`` is None where no footer tells it.  ``outer`` is a newer run, damaged too,
    that was made out of this one: then only what that run may hide means anything.
    """

    def __init__(self, level: int, places: Sequence[Place], numbers: Iterable[int]) -> None:
        self.level = level
        self.places = places
        self.numbers = tuple(numbers)
        self.outer: DamagedRun | None = None
        self._gaps: list[Range] | None = None
        #: The table that was asked last, and blocks of its index.
        self._asked: tuple[DamagedTable | None, Blocks] = None, {}
        footers = [place.table.footer for place in places if place.table is not None]
        spans = [(footer.first, footer.last) for footer in footers if footer is not None]
        self.span: tuple[int, int] | None = spans[0] if spans else None

    def _bounds(self) -> Iterator[tuple[Place, bytes, bytes | None]]:
        """Yield each place with the range of keys that it can have."""
        footers = [None if place.table is None else place.table.footer for place in self.places]
        begins: list[bytes | None] = [None]
        for footer in reversed(footers):
            begins.append(begins[-1] if footer is None else footer.first_key)
        start = b""
        for place, footer, following in zip(self.places, footers, begins[-2::-1]):
            if footer is None:
                yield place, start, following
                continue
            start, stop = max(start, footer.first_key), footer.last_key + b"\0"
            stop = stop if following is None else min(stop, following)
            yield place, start, stop
            start = stop

    def chunks(self, likely: bool = False) -> Iterator[Part]:
        """Yield what is certain of all tables, or what is likely, in key order."""
        for place, start, stop in self._bounds():
            if place.table is not None:
                yield from place.table.walk(start, stop, likely)

    def survey(self) -> None:
        """Walk through all tables once, so that their damage is known.  O(bytes)."""
        for _ in self.chunks():
            pass

    @property
    def damages(self) -> list[Damage]:
        """All damage, in key order, once it was surveyed."""
        found: list[Damage] = []
        for place, start, stop in self._bounds():
            if place.table is None:
                found.append(Damage(place.name, 0, place.size, place.meaning, start, stop))
            else:
                found += place.table.damages
        return found

    def hidden(self, keys: list[bytes]) -> list[bool]:
        """Tell of each of ascending keys whether damage may hide a record of it.

        To be asked once it was surveyed.
        """
        hidden = [False] * len(keys)
        if self._gaps is None:
            self._gaps = joined(damage.range for damage in self.damages)
        for low, high, within in divided(keys, self._gaps):
            if within:
                hidden[low:high] = self._hidden_in_gaps(keys[low:high])
        return hidden

    def _hidden_in_gaps(self, keys: list[bytes]) -> list[bool]:
        hidden = [True] * len(keys)
        for place, start, stop in self._bounds():
            for low, high, within in divided(keys, [(start, stop)]):
                if within and place.table is not None:
                    if self._asked[0] is not place.table:
                        self._asked = place.table, {}
                    hidden[low:high] = place.table.hidden(keys[low:high], self._asked[1])
        return hidden

    @property
    def is_complete(self) -> bool:
        """Whether no record is missing."""
        return not self.damages

    @property
    def age(self) -> tuple[int, int]:
        """What runs are sorted by: the younger is the greater."""
        return (self.span or (0, 0))[1], max(self.numbers, default=0)

    @property
    def tables(self) -> list[DamagedTable]:
        """Its tables, those that are there."""
        return [place.table for place in self.places if place.table is not None]

    @property
    def names(self) -> list[str]:
        """The names of its tables, those that are there."""
        return [table.name for table in self.tables]

    @property
    def has_all_footers(self) -> bool:
        """Whether each table is there, with a footer that checks."""
        tables = self.tables
        return len(tables) == len(self.places) and all(table.footer for table in tables)

    def holds_all_after(self, sequence: int) -> bool:
        """Tell whether it holds the write directly after ``sequence``, and misses none."""
        if self.span is None or self.outer is not None or not self.is_complete:
            return False
        return self.span[0] <= sequence < self.span[1]


class Hole(DamagedRun):
    """A run of which nothing is left: it may have held any key."""

    def __init__(self, meaning: str) -> None:
        super().__init__(0, [Place(None, meaning=meaning)], ())


class _Growing:
    """A run that is put together out of tables with footers, in the order of their parts."""

    def __init__(self, level: int, parts: int) -> None:
        self.level = level
        self.parts = parts
        self.places: list[Place] = []
        self.numbers: list[int] = []
        self.part = 0

    def reach(self, part: int) -> None:
        """Note what is missing before ``part``."""
        if part > self.part:
            last = "" if part == self.part + 1 else f" to {part}"
            meaning = f"part {self.part + 1}{last} of the {self.parts} parts of a run is missing"
            self.places.append(Place(None, meaning=meaning))
            self.part = part

    def add(self, table: DamagedTable, number: int) -> None:
        """Put a table behind the others."""
        self.places.append(Place(table))
        self.numbers.append(number)
        self.part += 1


def grouped(tables: Iterable[DamagedTable]) -> list[DamagedRun]:
    """Return the runs that tables with footers make up, one for each set of parts."""
    growing: list[_Growing] = []
    latest: dict[tuple[int, ...], _Growing] = {}
    footers = [(table.footer, table) for table in tables]
    known = [(footer, table) for footer, table in footers if footer is not None]
    for footer, table in sorted(known, key=lambda pair: pair[0].number):
        key = footer.level, footer.parts, footer.first, footer.last
        run = latest.get(key)
        if run is None or footer.part < run.part:
            run = latest[key] = _Growing(footer.level, footer.parts)
            growing.append(run)
        run.reach(footer.part)
        run.add(table, footer.number)
    for run in growing:
        run.reach(run.parts)
    return [DamagedRun(run.level, run.places, run.numbers) for run in growing]


def covers(outer: DamagedRun, inner: DamagedRun) -> bool:
    """Tell whether ``outer`` was made out of ``inner``, and perhaps of others.

    Flushes of level 0 that say to hold everything from the beginning are no
    proof: in stores of early days all of them do.
    """
    if outer.span is None or inner.span is None or not (outer.level or outer.span[0]):
        return False
    first, last = outer.span
    inside = first <= inner.span[0] and inner.span[1] <= last
    return inside and min(outer.numbers) > max(inner.numbers)


def chain(runs: Iterable[DamagedRun], span: tuple[int, int]) -> list[DamagedRun] | None:
    """Return complete runs that together hold all of ``span``, newest first, if there are such."""
    complete = [run for run in runs if run.is_complete]
    links: list[DamagedRun] = []
    at, last = span
    while at < last:
        fitting = [run for run in complete if run.span and run.span[0] == at < run.span[1] <= last]
        if not fitting:
            return None
        links.insert(0, max(fitting, key=lambda run: run.age))
        at = links[0].age[0]
    return links or None


class Resolved:
    """What became of runs of which some hold what others do: ``kept`` newest first."""

    def __init__(self, runs: Iterable[DamagedRun]) -> None:
        self.dropped: list[tuple[DamagedRun, str]] = []
        self.kept = sorted(runs, key=lambda run: min(run.numbers), reverse=True)
        for outer in tuple(self.kept):
            inner = [run for run in self.kept if run is not outer and covers(outer, run)]
            if outer in self.kept and inner:
                self._choose(outer, inner)
        self.kept.sort(key=lambda run: run.age, reverse=True)

    def _choose(self, outer: DamagedRun, inner: list[DamagedRun]) -> None:
        """Choose between ``outer`` and what it was made of."""
        assert outer.span is not None
        if outer.is_complete:
            for run in inner:
                self._drop(run, "a complete later table holds what is in it")
        elif chain(inner, outer.span) is not None:
            self._drop(outer, "it is damaged or cut short, and what it was made of is all there")
        else:
            for run in inner:
                run.outer = outer

    def _drop(self, run: DamagedRun, why: str) -> None:
        self.kept.remove(run)
        self.dropped.append((run, why))
