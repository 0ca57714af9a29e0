"""The tree in memory: MemTables over a Version's tables, as one thing to read.

The writer and a follower each change one; reads go through its ``lookup``,
whose view is replaced whole, or through a snapshot.  Guarded by its owner's
lock, but for reads through the lookup.
"""

from __future__ import annotations

from oblivion_dbm.engine.kernel import Lookup, live_keys
from oblivion_dbm.engine.memtable import MemTable
from oblivion_dbm.engine.snapshot import Scan, Snapshot
from oblivion_dbm.engine.sstable import SSTable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any
    from weakref import WeakSet

    from oblivion_dbm.engine.filesystem import FileSystem
    from oblivion_dbm.engine.kernel import Appender, Shape
    from oblivion_dbm.engine.kernel.pure import RunProbe
    from oblivion_dbm.engine.memtable import Border, Layer
    from oblivion_dbm.engine.version import Version


class Ended:
    """Stands where a MemTable's dict was, and raises for every look-up."""

    __slots__ = ("problem",)

    def __init__(self, problem: Exception) -> None:
        self.problem = problem

    def get(self, key: bytes) -> bytes:
        """Raise."""
        raise type(self.problem)(*self.problem.args)


class Tree:
    """MemTables, newest first, over the runs of ``version``.

    Raises CorruptionError where a table that the Version names does not open.
    """

    def __init__(self, filesystem: FileSystem, directory: str, version: Version) -> None:
        self._filesystem = filesystem
        self._directory = directory
        self.memtables: list[MemTable] = [MemTable()]
        self.tables: dict[int, SSTable] = {}
        self._run_probes: tuple[RunProbe, ...] = ()
        #: Somebody has asked for the count, so it is kept from then on.
        self.counting = False
        self._scans: WeakSet[Scan] | None = None
        self.version = version
        self.ended: Exception | None = None
        #: Who writes to the top layer, if anybody does.
        self.appender: Appender | None = None
        self.lookup = Lookup(version.seed, ({}, (), ()))
        self.adopt(version, self.open_tables(version))

    def open_tables(self, version: Version) -> dict[int, SSTable]:
        """Open what is new in ``version``; needs no lock.  Returns all its tables by number."""
        tables = {}
        for run in version.runs:
            for info in run.tables:
                table = self.tables.get(info.number)
                if table is None or table.info != info or self.version.store_id != version.store_id:
                    store_id = bytes.fromhex(version.store_id)
                    table = SSTable(self._filesystem, self._directory, info, store_id)
                tables[info.number] = table
        return tables

    def adopt(self, version: Version, tables: dict[int, SSTable]) -> None:
        """Read from ``tables``, those of ``version``, from now on."""
        self.tables, self.version = tables, version
        self._run_probes = tuple(self._probe_run(run) for run in self._runs())

    def _runs(self) -> list[list[SSTable]]:
        return [[self.tables[info.number] for info in run.tables] for run in self.version.runs]

    @staticmethod
    def _probe_run(tables: list[SSTable]) -> RunProbe:
        fences = [table.first_key for table in tables] if len(tables) > 1 else None
        return fences, [table.probe() for table in tables]

    def layers(self) -> list[Layer]:
        """Return the layers that count, newest first."""
        found: list[Layer] = []
        for memtable in self.memtables:
            found += memtable.layers
            if memtable.cleared:
                break
        return found

    @property
    def cleared(self) -> bool:
        """Whether a MemTable hides the tables."""
        return any(memtable.cleared for memtable in self.memtables)

    def show(self) -> None:
        """Let reads see the present state, and writes go to the top layer."""
        self._hold_writes()
        top, *older = self.layers()
        if self.appender is not None:
            self.appender.active, self.appender.tombstones = top.records, top.tombstones
        self.lookup.seed = self.version.seed
        self.lookup.view = (
            top.records,
            tuple(layer.records for layer in older),
            () if self.cleared else self._run_probes,
        )

    def _hold_writes(self) -> None:
        """Send the next write to ``show``: an interrupt may come before the layers are bound."""
        if self.appender is not None:
            self.appender.limit = -1

    def snapshot(self) -> Snapshot:
        """Freeze the present state, in order.

        O(1) when nothing was written since the last one, else what it costs
        to put what was written in order.
        """
        held: list[Border] = []
        layers: list[Layer] = []
        self._hold_writes()
        try:
            for memtable in self.memtables:
                held.append(memtable.freeze())
                layers += held[-1].layers
                if memtable.cleared:
                    break
        finally:
            self.show()
        for layer in layers:
            layer.order()
        return Snapshot(layers, [] if self.cleared else self._runs(), held)

    def first(self) -> bytes | None:
        """Return the smallest key with a value, None when there is none."""
        snapshot = self.snapshot()
        newest = self.memtables[0]
        for keys, records in snapshot.chunks(newest.floor, None):
            live = live_keys(keys, records)
            if live:
                newest.floor = live[0]
                return live[0]
        return None

    def count(self) -> int:
        """Return the number of keys with a value.

        The first call looks at each key of the MemTable once, and walks the
        tables if nobody knows how many live keys they hold; later calls look
        at the keys that are new.
        """
        self.counting = True
        return self.base_count() + sum(self.layer_changes())

    def base_count(self) -> int:
        """Return the number of keys with a value in the tables that count."""
        if self.cleared:
            return 0
        if self.version.live is None:
            chunks = Snapshot((), self._runs()).chunks(None, None)
            live = sum(len(live_keys(keys, records)) for keys, records in chunks)
            self.version = self.version.replace(live=live)
        assert self.version.live is not None
        return self.version.live

    def layer_changes(self) -> list[int]:
        """Return how many keys each layer that counts adds to what is below it."""
        # What an interrupt left half poured would be counted in two layers.
        self._hold_writes()
        for memtable in self.memtables:
            memtable.settle()
        self.show()
        layers = self.layers()
        runs = () if self.cleared else self._run_probes
        changes = []
        for place, layer in enumerate(layers):
            below = tuple(older.records for older in layers[place + 1 :])
            changes.append(layer.live_change(Lookup(self.version.seed, ({}, below, runs)).value))
        return changes

    def live_once_flushed(self, memtable: MemTable) -> int | None:
        """Return the live keys in the tables once ``memtable``, the oldest, is one.

        None where nobody has asked for a count, or a clear makes it meaningless.
        """
        if not self.counting or self.cleared:
            return None
        return self.base_count() + sum(self.layer_changes()[-len(memtable.layers) :])

    def scan(
        self,
        shape: Shape,
        start: bytes | None,
        stop: bytes | None,
        reverse: bool,
        owner: object = None,
    ) -> Iterator[Any]:
        """Return an iterator of items over a snapshot of [start, stop).

        ``owner`` is kept alive as long as the iterator is.
        """
        from weakref import WeakSet

        if self._scans is None:
            self._scans = WeakSet()
        scan = Scan(self.snapshot(), owner)
        self._scans.add(scan)
        return scan.items(shape, start, stop, reverse)

    def check(self) -> None:
        """Raise if the tree has ended."""
        if self.ended is not None:
            # A new one each time: a traceback grows with every raise.
            raise type(self.ended)(*self.ended.args)

    def end(self, problem: Exception) -> None:
        """Let every later read, iterators included, raise ``problem``; let go of all."""
        self.ended = problem
        self.lookup.view = (Ended(problem), (), ())
        for scan in list(self._scans or ()):
            scan.end(problem)
        self.memtables = [MemTable()]
        self.tables = {}
        self._run_probes = ()
