"""A Snapshot: the state at one moment, which nothing changes any more.

It holds the frozen layers of the MemTables and the tables of one Version.
Holding them is all it takes: a removed file stays readable through its map,
and a border between layers stands while somebody holds it.
"""

from __future__ import annotations

from _weakref import ref
from itertools import chain

from oblivion_dbm.engine.kernel import SHAPES, Lookup, live_keys
from oblivion_dbm.engine.merge import growing_sizes, merge

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from oblivion_dbm.engine.kernel import Shape
    from oblivion_dbm.engine.kernel.pure import RunProbe
    from oblivion_dbm.engine.memtable import Layer
    from oblivion_dbm.engine.merge import Chunk
    from oblivion_dbm.engine.sstable import SSTable

    Parts = tuple[Sequence[Layer], Sequence[Sequence[SSTable]], tuple[RunProbe, ...], object]


class Ended:
    """Stands where a MemTable's dict was, and raises for every look-up."""

    __slots__ = ("problem",)

    def __init__(self, problem: Exception) -> None:
        self.problem = problem

    def get(self, _: bytes) -> bytes:
        """Raise."""
        # A new one each time: a traceback grows with every raise.
        raise type(self.problem)(*self.problem.args)


class Dependents:
    """Scans and snapshots that end together with what they read from.

    They may be forgotten at any moment, in the middle of ``add`` too, and be
    added by several threads at once: each step on the dict is one of C code.
    """

    __slots__ = ("_references",)

    def __init__(self) -> None:
        self._references: dict[ref[Any], None] = {}

    def add(self, dependent: Scan | Snapshot) -> None:
        """Let ``dependent`` end when ``end`` is called, if it is still there."""
        # In C, since an interrupt in a function called for this would be lost.
        self._references[ref(dependent, self._references.pop)] = None

    def end(self, problem: Exception) -> None:
        """Let all of them raise ``problem`` from now on."""
        for reference in list(self._references):
            dependent = reference()
            if dependent is not None:
                dependent.end(problem)


class Snapshot:
    """Layers and runs, each newest first, and how to look up in them.

    ``live`` is the number of keys with a value in the runs, None where nobody
    knows; ``held`` is whatever must stay alive as long as the snapshot.  Any
    number of threads may use one, and it takes no lock.
    """

    __slots__ = (
        "__weakref__",
        "_count",
        "_live",
        "_parts",
        "dependents",
        "ended",
        "lookup",
        "sequence",
    )

    def __init__(
        self,
        layers: Sequence[Layer],
        runs: Sequence[Sequence[SSTable]],
        lookup: Lookup,
        *,
        live: int | None = None,
        held: object = None,
    ) -> None:
        self.lookup = lookup
        #: Replaced as one when the snapshot ends.
        self._parts: Parts = layers, runs, lookup.view[2], held
        #: The sequence number of the state, for those who know it.
        self.sequence = 0
        self.ended: Exception | None = None
        self._live = live
        self._count: int | None = None
        self.dependents = Dependents()

    def parts(self) -> Parts:
        """Return layers, runs, what looks up in these, and what must stay alive meanwhile.

        Who reads keeps all of it: then nothing changes, though another thread
        ends the snapshot.  Raises if it has ended.
        """
        parts = self._parts
        self.check()  # afterwards, since ``end`` sets the error first
        return parts

    def check(self) -> None:
        """Raise if the snapshot has ended."""
        if self.ended is not None:
            raise type(self.ended)(*self.ended.args)

    def count(self) -> int:
        """Return the number of keys with a value.

        The first call looks up each key of the layers that nobody has counted
        yet, and walks the runs if nobody knows how many live keys they hold.
        """
        layers, runs, probes, _held = self.parts()
        if self._count is None:
            live = count_live(runs) if self._live is None else self._live
            self._count = live + sum(live_changes(layers, self.lookup.seed, probes))
        return self._count

    def first(self) -> bytes | None:
        """Return the smallest key with a value, None when there is none."""
        for keys, records in self.chunks(None, None):
            live = live_keys(keys, records)
            if live:
                return live[0]
        return None

    def scan(
        self,
        shape: str,
        start: bytes | None,
        stop: bytes | None,
        reverse: bool,
        owner: object = None,
    ) -> Iterator[Any]:
        """Return an iterator of "pairs", "keys" or "values" of [start, stop).

        ``owner`` is kept alive as long as the iterator is.
        """
        self.check()
        return self.begin(Scan(self, owner)).items(SHAPES[shape], start, stop, reverse)

    def begin(self, scan: Scan) -> Scan:
        """Return ``scan``, which from now on ends when this does."""
        self.dependents.add(scan)
        if self.ended is not None:  # another thread was faster
            scan.end(self.ended)
        return scan

    def end(self, problem: Exception) -> None:
        """Let every later read, iterators included, raise ``problem``; let go of all.

        What it has ended with first stays.
        """
        if self.ended is not None:
            return
        self.ended = problem
        self.lookup.view = (Ended(problem), (), ())
        self.dependents.end(problem)
        self._parts = (), (), (), None

    def chunks(
        self, start: bytes | None, stop: bytes | None, reverse: bool = False
    ) -> Iterator[Chunk]:
        """Yield the merged chunks of [start, stop), tombstones included."""
        layers, runs, _, _held = self.parts()
        sources: list[Iterator[Chunk]] = [
            layer.chunks(start, stop, reverse, growing_sizes()) for layer in layers
        ]
        sources += [_run_chunks(tables, start, stop, reverse) for tables in runs]
        yield from merge(sources, reverse)

    def lists(
        self, shape: Shape, start: bytes | None, stop: bytes | None, reverse: bool
    ) -> Iterator[list[Any]]:
        """Yield what ``shape`` makes of the live records of [start, stop), in ascending lists."""
        layers, runs, _, _held = self.parts()
        tables = runs[0] if len(runs) == 1 else ()
        alone = tables and not any(layer.records for layer in layers)
        if alone and not any(table.tombstones for table in tables):
            for table in _in_range(tables, start, stop, reverse):
                yield from table.lists(shape, start, stop, reverse, growing_sizes())
        else:
            for keys, records in self.chunks(start, stop, reverse):
                yield shape.take(keys, records)


class HeldRecords(tuple):  # type: ignore[type-arg]  # of dicts; each look-up names them
    """The dicts of layers that are frozen as long as ``held`` is alive.

    A look-up keeps this while it goes on, whoever ends the snapshot meanwhile.
    """

    held: object = None


def look_up_in(
    layers: Sequence[Layer], seed: int, probes: tuple[RunProbe, ...], held: object = None
) -> Lookup:
    """Return what looks up in layers over runs; ``held`` is kept alive by each look-up."""
    kind: type[Lookup] = probes[0][1][0][-1].lookup if probes else Lookup
    records = HeldRecords([layer.records for layer in layers])
    records.held = held
    return kind(seed, ({}, records, probes))


def live_changes(layers: Sequence[Layer], seed: int, probes: tuple[RunProbe, ...]) -> Iterator[int]:
    """Yield how many keys each layer, the newest first, adds to what is below it."""
    for place, layer in enumerate(layers, 1):
        yield layer.live_change(look_up_in(layers[place:], seed, probes).value)


def count_live(runs: Sequence[Sequence[SSTable]]) -> int:
    """Return the number of keys with a value in runs.  A walk over all of them."""
    chunks = merge([_run_chunks(tables, None, None, False) for tables in runs])
    return sum(len(live_keys(keys, records)) for keys, records in chunks)


def _run_chunks(
    tables: Sequence[SSTable], start: bytes | None, stop: bytes | None, reverse: bool
) -> Iterator[Chunk]:
    for table in _in_range(tables, start, stop, reverse):
        yield from table.chunks(start, stop, reverse, growing_sizes())


def _in_range(
    tables: Sequence[SSTable], start: bytes | None, stop: bytes | None, reverse: bool
) -> Iterator[SSTable]:
    """Yield the tables of a run that may hold keys of [start, stop), in order."""
    for table in reversed(tables) if reverse else tables:
        if (start is None or start <= table.last_key) and (stop is None or table.first_key < stop):
            yield table


class Scan:
    """A walk over a snapshot in chunks of items; ``end`` makes it fail from then on.

    Items run through C code a chunk at a time; to end the walk the chunk under
    way is emptied, and the next one asked for raises.  It keeps its snapshot
    and its ``owner``, the handle, alive for as long as it goes on.
    """

    __slots__ = ("__weakref__", "_chunk", "_owner", "_problem", "_snapshot")

    def __init__(self, snapshot: Snapshot, owner: object = None) -> None:
        self._snapshot = snapshot
        self._owner = owner
        self._chunk: list[Any] = []
        self._problem: Exception | None = None

    def items(
        self, shape: Shape, start: bytes | None, stop: bytes | None, reverse: bool
    ) -> Iterator[Any]:
        """Return an iterator of the items that ``shape`` makes of [start, stop)."""
        lists = self._snapshot.lists(shape, start, stop, reverse)
        return chain.from_iterable(self._ended(lists, reverse))

    def _ended(self, lists: Iterator[list[Any]], reverse: bool) -> Iterator[list[Any]]:
        for chunk in lists:
            if self._problem is not None:
                break
            if reverse:
                chunk.reverse()
            self._chunk = chunk
            if self._problem is not None:  # since the look, and of the chunk before
                break
            yield chunk
            if self._problem is not None:
                break
        if self._problem is not None:
            raise type(self._problem)(*self._problem.args)

    def end(self, problem: Exception) -> None:
        """Make the walk raise ``problem`` when its next item is asked for."""
        self._problem = problem
        self._chunk.clear()
