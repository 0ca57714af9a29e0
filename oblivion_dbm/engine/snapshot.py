"""A Snapshot: the state at one moment, which nothing changes any more.

It holds the frozen layers of the MemTables and the tables of one Version.
Holding them is all it takes: a removed file stays readable through its map,
and a border between layers stands while somebody holds it.
"""

from __future__ import annotations

from itertools import chain

from oblivion_dbm.engine.merge import growing_sizes, merge

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from oblivion_dbm.engine.kernel import Shape
    from oblivion_dbm.engine.memtable import Layer
    from oblivion_dbm.engine.merge import Chunk
    from oblivion_dbm.engine.sstable import SSTable


class Snapshot:
    """Layers and runs, each newest first.

    ``held`` is whatever must stay alive as long as the snapshot.
    """

    __slots__ = ("held", "layers", "runs")

    def __init__(
        self, layers: Sequence[Layer], runs: Sequence[Sequence[SSTable]], held: object = None
    ) -> None:
        self.layers = layers
        self.runs = runs
        self.held = held

    def chunks(
        self, start: bytes | None, stop: bytes | None, reverse: bool = False
    ) -> Iterator[Chunk]:
        """Yield the merged chunks of [start, stop), tombstones included."""
        sources: list[Iterator[Chunk]] = [
            layer.chunks(start, stop, reverse, growing_sizes()) for layer in self.layers
        ]
        sources += [_run_chunks(tables, start, stop, reverse) for tables in self.runs]
        return merge(sources, reverse)

    def lists(
        self, shape: Shape, start: bytes | None, stop: bytes | None, reverse: bool
    ) -> Iterator[list[Any]]:
        """Yield what ``shape`` makes of the live records of [start, stop), in ascending lists."""
        tables = self.runs[0] if len(self.runs) == 1 else ()
        alone = tables and not any(layer.records for layer in self.layers)
        if alone and not any(table.tombstones for table in tables):
            for table in _in_range(tables, start, stop, reverse):
                yield from table.lists(shape, start, stop, reverse, growing_sizes())
        else:
            for keys, records in self.chunks(start, stop, reverse):
                yield shape.take(keys, records)


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
            yield chunk
            if self._problem is not None:
                break
        if self._problem is not None:
            raise type(self._problem)(*self._problem.args)

    def end(self, problem: Exception) -> None:
        """Make the walk raise ``problem`` when its next item is asked for."""
        self._problem = problem
        self._chunk.clear()
