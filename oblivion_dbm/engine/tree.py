"""The tree in memory: MemTables over a Version's tables, as one thing to read.

The writer and a follower each change one; reads go through its ``lookup``,
whose view is replaced whole, or through a snapshot.  Guarded by its owner's
lock, but for reads through the lookup.
"""

from __future__ import annotations

from oblivion_dbm.engine.kernel import depth, live_keys, refuse
from oblivion_dbm.engine.memtable import FEW, SOME, MemTable
from oblivion_dbm.engine.snapshot import (
    Dependents,
    Ended,
    Scan,
    Snapshot,
    count_live,
    live_changes,
    look_up_in,
)
from oblivion_dbm.engine.sstable import SSTable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import RLock
    from collections.abc import Callable, Iterator
    from typing import Any, ParamSpec, TypeVar

    from oblivion_dbm.engine.filesystem import FileSystem
    from oblivion_dbm.engine.kernel import Appender, Shape
    from oblivion_dbm.engine.kernel.pure import RunProbe
    from oblivion_dbm.engine.memtable import Border, Layer
    from oblivion_dbm.engine.version import Version

    P = ParamSpec("P")
    T = TypeVar("T")


class Tree:
    """MemTables, newest first, over the runs of ``version``.

    With ``read_ahead`` tables are read as :mod:`oblivion_dbm.engine.read_ahead` says.

    Raises CorruptionError where a table that the Version names does not open.
    """

    def __init__(
        self, filesystem: FileSystem, directory: str, version: Version, read_ahead: bool = False
    ) -> None:
        self._filesystem = filesystem
        self._directory = directory
        self.memtables: list[MemTable] = [MemTable()]
        self.tables: dict[int, SSTable] = {}
        self._runs: list[list[SSTable]] = []
        self._run_probes: tuple[RunProbe, ...] = ()
        #: Somebody has asked for the count, so it is kept from then on.
        self.counting = False
        #: What ends when the tree does.
        self._dependents = Dependents()
        self.version = version
        self.ended: Exception | None = None
        #: Something is under way, with the owner's lock, that must not be entered again.
        self.inside = False
        #: Who writes to the top layer, if anybody does.
        self.appender: Appender | None = None
        self._table = SSTable
        if read_ahead:
            from oblivion_dbm.engine.read_ahead import AheadTable

            self._table = AheadTable
        self.lookup = self._table.lookup(version.seed, ({}, (), ()))
        self.adopt(version, self.open_tables(version))

    def open_tables(self, version: Version) -> dict[int, SSTable]:
        """Return the tables of ``version``, those that are new opened.  Needs no lock."""
        tables = {}
        same_store = self.version.store_id == version.store_id
        for run in version.runs:
            for info in run.tables:
                table = self.tables.get(info.number)
                if table is None or table.info != info or not same_store:
                    store_id = bytes.fromhex(version.store_id)
                    table = self._table(self._filesystem, self._directory, info, store_id)
                tables[info.number] = table
        return tables

    def adopt(self, version: Version, tables: dict[int, SSTable]) -> None:
        """Read from ``tables``, those of ``version``, from now on."""
        self.tables, self.version = tables, version
        self._runs = [[self.tables[info.number] for info in run.tables] for run in version.runs]
        self._run_probes = tuple(self.probe_run(run) for run in self._runs)

    @staticmethod
    def probe_run(tables: list[SSTable]) -> RunProbe:
        """Return what looks up in a run."""
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
    def flushed_up_to(self) -> int:
        """The sequence number up to which the runs hold all records; 0 where there are none."""
        return int(self._runs[0][0].last_sequence) if self._runs else 0

    @property
    def cleared(self) -> bool:
        """Whether a MemTable hides the tables."""
        return True in [memtable.cleared for memtable in self.memtables]

    def show(self) -> None:
        """Let reads see the present state, and writes go to the top layer."""
        self._hold_writes()
        top, *older = self.layers()
        if self.appender is not None:
            self.appender.active, self.appender.tombstones = top.records, top.tombstones
        probes = () if self.cleared else self._run_probes
        self.lookup.seed = self.version.seed
        self.lookup.view = top.records, tuple([layer.records for layer in older]), probes

    def _hold_writes(self) -> None:
        """Send the next write to ``show``: an interrupt may come before the layers are bound."""
        if self.appender is not None:
            self.appender.limit = -1

    def snapshot(self, sequence: int = 0) -> Snapshot:
        """Return the present state at ``sequence``, to be kept; it ends when the tree does.

        O(tables), whatever the number of records.
        """
        snapshot = self._freeze(FEW)
        snapshot.sequence = sequence
        self._dependents.add(snapshot)
        return snapshot

    def _freeze(self, most: int) -> Snapshot:
        held: list[Border] = []
        layers: list[Layer] = []
        runs, probes, live = self._runs, self._run_probes, self.version.live
        self._hold_writes()
        try:
            for memtable in self.memtables:
                held.append(memtable.freeze(most))
                layers += held[-1].layers
                if memtable.cleared:
                    runs, probes, live = [], (), 0
                    break
        finally:
            self.show()
        lookup = look_up_in(layers, self.version.seed, probes, held)
        return Snapshot(layers, runs, lookup, live=live, held=held)

    def first(self) -> bytes | None:
        """Return the smallest key with a value, None when there is none."""
        snapshot = self._freeze(SOME)
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
        live = self.base_count()
        self._mend()
        probes = () if self.cleared else self._run_probes
        return live + sum(live_changes(self.layers(), self.version.seed, probes))

    def base_count(self) -> int:
        """Return the number of keys with a value in the tables that count."""
        if self.cleared:
            return 0
        if self.version.live is None:
            self.version = self.version.replace(live=count_live(self._runs))
        assert self.version.live is not None
        return self.version.live

    def _mend(self) -> None:
        """Let no key be in two layers because an exception interrupted the pouring of one."""
        self._hold_writes()
        for memtable in self.memtables:
            memtable.mend()
        self.show()

    def live_once_flushed(self, memtable: MemTable) -> int | None:
        """Return the live keys in the tables once ``memtable``, the oldest, is one.

        None where nobody has asked for a count, and where a clear makes it
        meaningless.  Needs no lock where ``memtable`` is sealed: then nothing
        changes but how many of its keys have been looked up.
        """
        version, probes = self.version, self._run_probes
        if not self.counting or version.live is None or self.cleared:
            return None
        if not memtable.sealed:
            self._mend()
        return version.live + sum(live_changes(memtable.layers, version.seed, probes))

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
        scan = Scan(self._freeze(SOME), owner)
        self._dependents.add(scan)
        return scan.items(shape, start, stop, reverse)

    def apart(self, lock: RLock, call: Callable[P, T], *arguments: P.args, **more: P.kwargs) -> T:
        """Make a call, with the owner's ``lock``, that changes what layers there are.

        A signal handler, or a finaliser, that arrives in it and wants to make
        such a call is refused: it would find things half done.  Where the lock is
        held once, nobody is in it, whatever an interrupt has left behind.
        """
        if self.inside and depth(lock) > 1:
            refuse()
        return self.within(lock, call, *arguments, **more)

    def within(self, lock: RLock, call: Callable[P, T], *arguments: P.args, **more: P.kwargs) -> T:
        """Make a call as ``apart`` does, perhaps as a part of such a call."""
        outer = self.inside and depth(lock) > 1
        self.inside = True
        try:
            return call(*arguments, **more)
        finally:
            self.inside = outer

    def check(self) -> None:
        """Raise if the tree has ended."""
        if self.ended is not None:
            # A new one each time: a traceback grows with every raise.
            raise type(self.ended)(*self.ended.args)

    def end(self, problem: Exception) -> None:
        """Let every later read, iterators included, raise ``problem``; let go of all."""
        self.ended = problem
        self.lookup.view = (Ended(problem), (), ())
        self._dependents.end(problem)
        self.memtables = [MemTable()]
        self.tables = {}
        self._runs = []
        self._run_probes = ()
