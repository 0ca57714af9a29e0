"""The write path: the live log, and the steps that turn what it holds into tables.

::

    begin    the first segment of this process takes over what was recovered
    rotate   seal segment and MemTable; writes go to new ones
    flush    the oldest sealed MemTable becomes a table
    compact  neighbouring runs become one

Each step is separate, is called with the handle's mutex held, and can be
called again after it failed or was interrupted.
"""

from __future__ import annotations

from contextlib import contextmanager
from errno import EIO

from oblivion_dbm.engine.compactor import Compactor
from oblivion_dbm.engine.kernel import BUSY, Appender, refuse
from oblivion_dbm.engine.manifest import Manifest, missing_is_damage
from oblivion_dbm.engine.memtable import OVERHEAD as KEY_OVERHEAD
from oblivion_dbm.engine.memtable import MemTable
from oblivion_dbm.engine.options import FULL, OFF
from oblivion_dbm.engine.policy import choose, everything
from oblivion_dbm.engine.record import DELETE
from oblivion_dbm.engine.recovery import Recovery, keep_lost
from oblivion_dbm.engine.tree import Tree
from oblivion_dbm.engine.wal import DATA_AT, WAL
from oblivion_dbm.errors import CorruptionError, error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import RLock
    from collections.abc import Iterator
    from typing import Any

    from oblivion_dbm.engine.filesystem import FileSystem
    from oblivion_dbm.engine.lock import WriterLock
    from oblivion_dbm.engine.options import Options
    from oblivion_dbm.engine.policy import Task
    from oblivion_dbm.engine.version import Run, Version

#: Bytes of recovered records that are copied into the next log segment; more
#: than that becomes a table.
LARGEST_PRELUDE = 1 << 18
#: Bytes of log up to which close leaves the MemTable to the next opening.
LARGEST_LEFT_OPEN = 1 << 20
#: Bytes of log between two looks at the MemTable's size.
STRIDE = 1 << 20


class WritePath:
    """What a writer changes: the tree, through the log and the MANIFEST.

    ``failed`` is what has stopped all writing, if anything has: after it the
    state of the disk is not known, so nothing is retried.
    """

    def __init__(
        self,
        filesystem: FileSystem,
        directory: str,
        options: Options,
        *,
        lock: WriterLock,
        version: Version,
        mode: int,
        mutex: RLock,
    ) -> None:
        self._filesystem = filesystem
        self._directory = directory
        self._options = options
        self._lock = lock
        self._mode = mode
        self._manifest = Manifest(filesystem, directory, version, mode)
        self._compactor = Compactor(filesystem, directory, options, self._manifest, mode)
        self._wal: WAL | None = None
        #: Sealed segments whose MemTables are no tables yet, oldest first.
        self._sealed: list[WAL] = []
        self._quarantined: frozenset[int] = frozenset()
        self._working = False
        self.failed: BaseException | None = None
        try:
            recovery = Recovery(filesystem, directory, version)
            recovery.close()
            self.tree = Tree(filesystem, directory, version)
        except error as problem:
            raise missing_is_damage(problem) from problem
        self._lost = recovery.lost
        self._unsynced = recovery.unsynced
        self._sequence = recovery.sequence
        self.tree.memtables = [recovery.merged()]
        self.appender = self.tree.appender = Appender(mutex, self._make_room)
        self.tree.show()
        if options.sync == FULL:
            self.appender.after = self._sync_log
            if self._unsynced:
                self._begin()  # what this handle shows is on the disk

    def check(self) -> None:
        """Raise if writing has stopped for good, or is under way in this very thread."""
        self.check_idle()
        problem = self.failed or self._manifest.failed
        if problem is not None:
            raise error(EIO, f"writing stopped: {problem}", self._directory) from problem

    def check_idle(self) -> None:
        """Raise for a signal handler that arrived inside a write of its own thread."""
        if self._working or self.appender.position == BUSY:
            refuse()

    def _stop(self, problem: BaseException) -> None:
        """Stop writing for good."""
        self.failed = problem
        self.appender.limit = -1

    def refuse(self, mutex: RLock) -> None:
        """Send every later write to ``check``; ``mutex`` replaces one that may never be free."""
        self.appender.lock = mutex
        self.appender.limit = -1
        if self.failed is None:
            self.failed = error("the handle has ended")

    @contextmanager
    def work(self) -> Iterator[None]:
        """Be the context in which every step runs; raise where one is under way.

        The only one who can find it so is a signal handler, since the mutex is
        held.  No write gets past the steps before ``_make_room`` has run again.
        """
        self.check()
        self._working = True
        self.appender.limit = -1
        try:
            yield
        finally:
            self._working = False

    # Room: called by the appender when a record does not fit.

    def _make_room(self, length: int) -> None:
        self.tree.check()
        with self.work():
            self._make_room_for(length)

    def _make_room_for(self, length: int) -> None:
        self.tree.show()
        if self._wal is None:
            self._begin()
            self._compact_due()
        elif len(self.tree.memtables) > 1 or self._is_full():
            if len(self.tree.memtables) == 1:
                self.rotate()
            self.flush_sealed()
            self._compact_due()
        wal, position = self._live(), self.appender.position
        try:
            wal.grow(position + length)
        finally:
            self.appender.target, self.appender.words = wal.target, wal.words
        stride = min(STRIDE, self._options.memtable_limit // 8 + 1)
        self.appender.limit = max(position + length, min(wal.capacity, position + stride))

    def _live(self) -> WAL:
        assert self._wal is not None
        return self._wal

    @property
    def sequence(self) -> int:
        """The sequence number of the end of the log."""
        if self._wal is None:
            return self._sequence
        return self._wal.sequence(self.appender.position)

    def _is_full(self) -> bool:
        memory = self.appender.position + KEY_OVERHEAD * len(self.tree.memtables[0])
        return memory >= self._options.memtable_limit

    # Begin.

    def _begin(self) -> None:
        """Start the first segment of this process, taking over what was recovered.

        Small contents are copied into it, larger ones become a table; both are
        synced before the MANIFEST drops the logs they came from.
        """
        keep_lost(self._lost, self._filesystem, self._directory, self._mode)
        memtable = self.tree.memtables[0]
        records = memtable.merged()
        if memtable.cleared or not self.tree.version.runs:
            records = {key: record for key, record in records.items() if record[0] != DELETE}
        if sum(map(len, records.values())) <= LARGEST_PRELUDE:
            wal = self._new_wal(b"".join(records.values()))
            version = self.tree.version
            if memtable.cleared:
                version = version.cleared(())
            self._install_log(version.replace(logs=(wal.number,)), wal)
            memtable.cleared = False
        else:
            memtable.last_sequence = self._sequence
            version, run = self._write_table(memtable, self.tree.version.logs)
            try:
                wal = self._new_wal(b"")
                self._install_log(version.with_log(wal.number), wal)
            except BaseException:
                self._compactor.discard(run)
                raise
            self.tree.memtables = [MemTable(memtable.floor)]
        self._start(wal)

    def _new_wal(self, prelude: bytes) -> WAL:
        """Create a segment that no MANIFEST names yet."""
        number = self._manifest.new_number()
        try:
            return WAL(
                self._filesystem,
                self._directory,
                number,
                store_id=bytes.fromhex(self.tree.version.store_id),
                first_sequence=self._sequence,
                prelude=prelude,
                back_end=self._options.log_back_end,
                synced_only=self._options.sync == FULL,
                mode=self._mode,
            )
        except BaseException:
            self._manifest.forget(number)
            raise

    def _install_log(self, version: Version, wal: WAL) -> None:
        """Make a Version current that names ``wal``, which is given up if that fails."""
        try:
            self._manifest.install(version, self._publish)
        except BaseException:
            wal.close()
            if not self._manifest.may_name(wal.number):
                self._manifest.forget(wal.number)
                self._filesystem.remove(wal.path)
            raise

    def _publish(self) -> None:
        """Show the installed Version, here and to readers in other processes."""
        self.tree.adopt(self._manifest.version)
        self.tree.show()
        self._lock.bump()

    def _start(self, wal: WAL) -> None:
        """Append to ``wal`` from now on."""
        self._wal = wal
        self._unsynced = False
        self.tree.memtables[0].log = wal.number
        self.appender.target, self.appender.words = wal.target, wal.words
        self.appender.position = wal.prelude_end
        self.appender.limit = wal.prelude_end
        self.tree.show()

    # Rotate, flush, compact.

    def rotate(self) -> None:
        """Seal the segment and the MemTable; writes go to new ones.

        The new segment is durable and named before the old one is sealed, and
        holds the old one's end before its first record.  The old one is synced
        by the flush that follows at once, as a table; if that fails, by the
        next sync, before anything younger.
        """
        if self._wal is None:
            self._begin()
        old = self._live()
        self._sequence = old.sequence(self.appender.position)
        new = self._new_wal(b"")
        try:
            self._install_log(self.tree.version.with_log(new.number), new)
            end = old.seal(self.appender.position)
            if self._options.sync == FULL:
                old.sync(old.end)  # readers see what is synced, the SEAL included
            new.follow(end)
            memtable = self.tree.memtables[0]
            memtable.last_sequence = self._sequence
            memtable.lower_floor()
            self.tree.memtables.insert(0, MemTable(memtable.floor))
            self._sealed.append(old)
            self._start(new)
        except BaseException as problem:
            # Before the MANIFEST named the new segment nothing has happened;
            # from then on only reopening tells how far this came.
            if self._manifest.may_name(new.number):
                self._stop(problem)
            raise

    def flush(self) -> None:
        """Turn everything in memory into tables, and merge as the policy says."""
        self.flush_sealed()
        if len(self.tree.memtables[0]) or self.tree.cleared:
            self.rotate()
            self.flush_sealed()
        self._compact_due()

    def compact(self) -> None:
        """Flush, and merge everything into one run without tombstones."""
        self.flush()
        self.compact_once(everything(self.tree.version))

    def flush_sealed(self) -> None:
        """Turn the sealed MemTables into tables, the oldest first."""
        while len(self.tree.memtables) > 1:
            memtable = self.tree.memtables[-1]
            if memtable.log in self.tree.version.logs:
                version, run = self._write_table(memtable, (memtable.log,))
                try:
                    self._manifest.install(version, self._publish)
                except BaseException:
                    self._compactor.discard(run)
                    raise
            self.tree.memtables.remove(memtable)
            self.tree.show()
            for wal in [wal for wal in self._sealed if wal.number == memtable.log]:
                self._sealed.remove(wal)
                wal.close()

    def drop_cleared(self) -> None:
        """Remove the tables that a clear has hidden."""
        if self.tree.version.runs:
            self.rotate()
            self.flush_sealed()

    def _write_table(self, memtable: MemTable, logs: tuple[int, ...]) -> tuple[Version, Run | None]:
        """Write the oldest MemTable as a run; return the Version that has it for ``logs``."""
        version = self.tree.version
        if memtable.cleared:
            version = version.cleared(())
        live = self.tree.live_once_flushed(memtable)
        run = self._compactor.flush(
            memtable.merged(),
            (0, memtable.last_sequence),
            tombstones=any(layer.tombstones for layer in memtable.layers),
            drop_tombstones=not version.runs,
        )
        if not version.runs:
            live = 0 if run is None else run.puts
        return version.with_flush(run, logs, live), run

    def _compact_due(self) -> None:
        """Merge as the policy says; a table that does not check is left out from then on."""
        try:
            while self.compact_once(choose(self.tree.version, self._options, self._quarantined)):
                pass
        except CorruptionError as problem:
            tables = self.tree.tables
            numbers = [number for number in tables if tables[number].path == problem.filename]
            if not numbers:
                raise
            self._quarantined |= frozenset(numbers)

    def compact_once(self, task: Task | None) -> bool:
        """Carry one task out; False when there is none."""
        if task is None:
            return False
        run = self._compactor.merge(task, self.tree.tables.__getitem__)
        try:
            self._manifest.install(self.tree.version.with_merge(task.runs, run), self._publish)
        except BaseException:
            self._compactor.discard(run)
            raise
        return True

    # Sync and end.

    def _sync_log(self) -> None:
        """Sync every segment with unsynced bytes, the oldest first."""
        try:
            for wal in self._sealed:
                if wal.synced < wal.end:
                    wal.sync(wal.end)
            self._live().sync(self.appender.position)
        except BaseException as problem:
            self._stop(problem)
            raise

    def sync(self) -> None:
        """Return once everything written is on the disk; recovered records too."""
        if self._wal is None and self._unsynced:
            self._begin()
        if self._wal is not None:
            self._sync_log()

    def settle(self) -> None:
        """Leave things as the next opening likes them: synced, and little in the log."""
        if self.failed is not None or self._manifest.failed is not None:
            return
        with self.work():
            if self._wal is not None and self.appender.position - DATA_AT > LARGEST_LEFT_OPEN:
                self.rotate()
                self.flush_sealed()
            if self._options.sync != OFF:
                self.sync()

    def stats(self) -> dict[str, Any]:
        """Return figures for people."""
        return {
            "log_back_end": "" if self._wal is None else self._wal.back_end,
            "log_bytes": 0 if self._wal is None else self.appender.position - DATA_AT,
            "lost_bytes": sum(len(lost.data) for lost in self._lost),
            "quarantined_tables": sorted(self._quarantined),
        }

    def close(self) -> None:
        """Let go of the log."""
        self.appender.target = self.appender.words = None
        for wal in [*self._sealed, *([self._wal] if self._wal else [])]:
            wal.close()
