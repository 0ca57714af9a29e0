"""An Overlay: changes of one's own over a snapshot, and what was read through it.

It is what a transaction is made of.  The changes lie in a MemTable that nobody
else sees.  Whatever a reader learns of the snapshot is remembered: keys that
were looked up, ranges that were walked, and whether the keys were counted; so
it can be told later whether all of it still holds.
"""

from __future__ import annotations

from itertools import chain, islice, zip_longest

from oblivion_dbm.engine.kernel import SHAPES
from oblivion_dbm.engine.memtable import SOME, MemTable
from oblivion_dbm.engine.ranges import joined
from oblivion_dbm.engine.record import DELETE, PUT, encode
from oblivion_dbm.engine.snapshot import Scan, Snapshot, live_changes, look_up_in
from oblivion_dbm.errors import ConflictError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from oblivion_dbm.engine.ranges import Range

    Pair = tuple[bytes, bytes]

#: Ranges that are kept before those that touch are made one.
MANY_RANGES = 100


class Walk:
    """How far somebody has come on his way through [start, stop)."""

    __slots__ = ("_reverse", "_start", "_stop", "done", "reached")

    def __init__(self, start: bytes | None, stop: bytes | None, reverse: bool) -> None:
        self._start = start or b""
        self._stop = stop
        self._reverse = reverse
        self.reached: bytes | None = None
        self.done = False

    def range(self) -> Range | None:
        """Return what was seen so far, None for nothing."""
        if self.done:
            return self._start, self._stop
        if self.reached is None:
            return None
        return (self.reached, self._stop) if self._reverse else (self._start, self.reached + b"\0")


class Overlay:
    """Changes over ``below``.  For one thread; raises what ``below`` has ended with."""

    __slots__ = ("_counted", "_keys", "_memtable", "_most_ranges", "_ranges", "_walks", "below")

    def __init__(self, below: Snapshot) -> None:
        self.below = below
        self._memtable = MemTable()
        self._keys: set[bytes] = set()
        self._ranges: list[Range] = []
        self._most_ranges = MANY_RANGES
        self._walks: set[Walk] = set()
        self._counted = False

    def value(self, key: bytes) -> bytes | None:
        """Return the value of ``key``, None where it has none."""
        self.below.check()
        record = self._memtable.get(key)
        if record is not None:
            return _value(key, record)
        if self._memtable.cleared:
            return None
        self._keys.add(key)
        return self.below.lookup.value(key)

    def write(self, changes: dict[bytes, bytes | None], cleared: bool) -> None:
        """Apply puts (value) and deletes (None), after a clear if ``cleared``.

        A clear is a write to every key.
        """
        self.below.check()
        records = {
            key: encode(DELETE, key, b"") if value is None else encode(PUT, key, value)
            for key, value in changes.items()
        }
        if cleared:
            self._memtable.reset(cleared=True)
            self._ranges = [(b"", None)]
        top = self._memtable.top
        top.records.update(records)
        top.tombstones.difference_update(records)
        top.tombstones.update(key for key, value in changes.items() if value is None)

    def scan(
        self, start: bytes | None, stop: bytes | None, reverse: bool, owner: object
    ) -> Iterator[Pair]:
        """Return an iterator of (key, value) of [start, stop) over the present state."""
        self.below.check()
        scan = self.below.begin(Scan(self._frozen(), owner))
        pairs = scan.items(SHAPES["pairs"], start, stop, reverse)
        if self._memtable.cleared:
            return pairs
        return self._watched(pairs, Walk(start, stop, reverse))

    def count(self) -> int:
        """Return the number of keys with a value; see ``Snapshot.count`` for the cost."""
        self.below.check()
        layers, _, probes, _held = self._frozen().parts()
        own = len(self._memtable.layers) - 1
        changes = islice(live_changes(layers, self.below.lookup.seed, probes), own)
        if self._memtable.cleared:
            return sum(changes)
        self._counted = True
        return self.below.count() + sum(changes)

    def changes(self) -> tuple[dict[bytes, bytes | None], bool]:
        """Return (puts and deletes, whether they come after a clear)."""
        self.below.check()
        records = self._memtable.merged()
        changes = {key: _value(key, record) for key, record in records.items()}
        return changes, self._memtable.cleared

    def check_against(self, now: Snapshot) -> None:
        """Raise ConflictError unless ``now`` shows all that was read here, or written over.

        A look-up in both for each key, a walk over both for each range.
        """
        before, after = self.below.lookup, now.lookup
        for key in chain(self._keys, self._memtable.merged()):
            if before.value(key) != after.value(key):
                raise ConflictError(key)
        walked = [walk.range() for walk in tuple(self._walks)]
        for start, stop in joined([*self._ranges, *filter(None, walked)]):
            pairs = (each.scan("pairs", start, stop, False) for each in (self.below, now))
            for old, new in zip_longest(*pairs):
                if old != new:
                    raise ConflictError(min(filter(None, (old, new)))[0])
        if self._counted and self.below.count() != now.count():
            raise ConflictError(None)

    def _frozen(self) -> Snapshot:
        """Return the present state; iterators of it end with what is below."""
        layers, runs, probes, held = self.below.parts()
        border, seed = self._memtable.freeze(SOME), self.below.lookup.seed
        if self._memtable.cleared:
            return Snapshot(border.layers, (), look_up_in(border.layers, seed, ()), held=border)
        layers = (*border.layers, *layers)
        return Snapshot(layers, runs, look_up_in(layers, seed, probes), held=(border, held))

    def _watched(self, pairs: Iterator[Pair], walk: Walk) -> Iterator[Pair]:
        self._walks.add(walk)
        try:
            for pair in pairs:
                walk.reached = pair[0]
                yield pair
            walk.done = True
        finally:
            self._walks.discard(walk)
            self._remember(walk.range())

    def _remember(self, seen: Range | None) -> None:
        if seen is not None:
            self._ranges.append(seen)
        if len(self._ranges) > self._most_ranges:
            # In one step: a walk that is collected in another thread adds to them.
            count = len(self._ranges)
            self._ranges[:count] = joined(self._ranges[:count])
            self._most_ranges = 2 * len(self._ranges) + MANY_RANGES


def _value(key: bytes, record: bytes) -> bytes | None:
    """Return the value in a record of ``key``, None for a tombstone."""
    return record[9 + len(key) : -4] if record[0] == PUT else None
