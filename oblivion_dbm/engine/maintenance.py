"""Maintenance: what a store does behind its writers' backs.

::

    prepare  the next log segment is made and named before it is needed
    rotate   segment and MemTable are sealed; writes go to the next ones
    flush    the oldest sealed MemTable becomes a table
    merge    neighbouring runs become one, as the policy says

All of it runs in one thread, the most urgent first, and in the middle of a
merge too.  Where there is no such thread (``background=False``, or the system
gives none) whoever writes does it, before the write.  Either way only one does
it at a time, without the handle's lock but for moments, so that its order of
steps is the one of a single thread.
"""

from __future__ import annotations

from contextlib import suppress

from oblivion_dbm.engine.compactor import Compactor
from oblivion_dbm.engine.kernel import depth, refuse
from oblivion_dbm.engine.lineage import emptied
from oblivion_dbm.engine.memtable import MemTable
from oblivion_dbm.engine.options import FULL
from oblivion_dbm.engine.policy import choose, everything
from oblivion_dbm.engine.pressure import Pressure
from oblivion_dbm.engine.worker import Worker
from oblivion_dbm.errors import CorruptionError, error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from oblivion_dbm.engine.filesystem import FileSystem
    from oblivion_dbm.engine.kernel import Appender
    from oblivion_dbm.engine.log import Log
    from oblivion_dbm.engine.manifest import Manifest
    from oblivion_dbm.engine.options import Options
    from oblivion_dbm.engine.policy import Task
    from oblivion_dbm.engine.tree import Tree
    from oblivion_dbm.engine.version import Run, Version

#: Seconds of work between two yields of the interpreter, and what a yield takes
#: at least.  Another thread that wants to run gets the interpreter in that time,
#: which a sleep of nothing would not make sure of.
SLICE, YIELD = 0.0015, 0.00005
#: How full the MemTable is when the next segment is made.
PREPARE_AT = 0.5


class Cancelled(BaseException):
    """Raised between two pieces of a merge whose store is being closed, or has been cleared."""


class Maintenance:
    """Makes tables of MemTables and one run of several.

    ``problem`` is what went wrong in the thread and was not told to anybody
    yet: the next write tries again what failed, and raises if it fails again.
    ``begin`` makes sure that there is a live segment, ``bump`` tells readers
    that the MANIFEST has changed.
    """

    def __init__(
        self,
        filesystem: FileSystem,
        directory: str,
        options: Options,
        *,
        tree: Tree,
        log: Log,
        appender: Appender,
        manifest: Manifest,
        begin: Callable[[], None],
        bump: Callable[[], None],
        mode: int,
    ) -> None:
        self._filesystem = filesystem
        self._options = options
        self._tree = tree
        self._log = log
        self._appender = appender
        self._manifest = manifest
        self._begin = begin
        self._bump = bump
        self.compactor = Compactor(filesystem, directory, options, manifest, mode, self._pace)
        self.worker = Worker(self._step, options.background)
        self._slice_began = 0.0
        #: The numbers of the tables that are being merged.
        self._inputs: frozenset[int] = frozenset()
        self.pressure = Pressure(options, tree, appender)
        self._seal_wanted = False
        self.quarantined: frozenset[int] = frozenset()
        self.problem: BaseException | None = None
        #: It is not a merge's: a flush that succeeds has solved it.
        self._stuck = False

    # Who does it.

    def _step(self) -> None:
        """Do all that is due: the thread's part."""
        try:
            if self.problem is None and not self.worker.stopping:
                self.work()
        except Cancelled:
            pass
        except BaseException as problem:  # noqa: BLE001 - the next write raises it
            self.problem = problem
            self._appender.limit = -1

    def call(self, step: Callable[[], object]) -> None:
        """Return once ``step`` has run where maintenance runs; raise what it raised.

        An interrupt ends the wait, and not the step.
        """
        if depth(self._appender.lock):
            refuse()
        self._log.check_outside()
        try:
            self.worker.call(step)
        except Cancelled as problem:
            raise error("the handle was closed while this was under way") from problem

    def retry(self) -> None:
        """Do again what failed and raise if it fails again.

        A merge is not tried again before the next flush, but its failure is raised.
        """
        self.call(self._try_again)

    def _try_again(self) -> None:
        problem, self.problem = self.problem, None
        self.pressure.end_share()
        done = False
        try:
            while self._urgent():
                done = True
        except BaseException as again:
            self.problem = again
            raise
        try:
            if problem is not None and not done:
                raise problem
        finally:
            problem = None  # else it and this frame, with all it holds, keep each other alive

    # What is due.

    @property
    def rotation_due(self) -> bool:
        """Whether the MemTable is to be sealed."""
        return self._seal_wanted or self.pressure.fill() >= 1

    @property
    def due(self) -> bool:
        """Whether there is something that cannot wait for long."""
        if self._log.live is None:
            return False
        preparing = self._log.prepared is None and self.pressure.fill() >= PREPARE_AT
        return preparing or self.rotation_due or len(self._tree.memtables) > 1

    @property
    def under_pressure(self) -> bool:
        """Whether a writer should wait before it goes on."""
        if self._log.live is None:
            return False  # nothing is done before the first write has begun the log
        return self.pressure.pause() != 0 or (self.worker.here and self.due)

    def work(self) -> None:
        """Do all that is due, the most urgent first."""
        while True:
            while self._urgent() or self._merge_due():
                pass
            if not self.pressure.share_is_due:
                return
            self.pressure.end_share()  # there is nothing left to merge

    def _urgent(self) -> bool:
        """Do one thing that writers may be waiting for; False where there is none."""
        if self._log.live is None:
            return False
        turn = self._seal_wanted or not self.pressure.share_is_due
        try:
            if turn and len(self._tree.memtables) > 1:
                self._flush_oldest()
            elif turn and self.rotation_due:
                self.rotate()
            elif self._log.prepared is None and self.pressure.fill() >= PREPARE_AT:
                self._prepare()
            else:
                return False
        except BaseException:
            self._stuck = True
            raise
        return True

    def _pace(self, records: int) -> None:
        """Come here between two pieces of work: let others run, and do what is urgent."""
        self.pressure.piece_is_done(records)
        if self._inputs and not self.pressure.flushing:
            if self.worker.closed or self.worker.stopping:
                raise Cancelled
            # Small merges too: else runs pile up while a large one goes on.
            while self._inputs_are_there() and (self._urgent() or self._merge_due()):
                pass
            if not self._inputs_are_there():
                raise Cancelled
        if self.worker.here:
            return
        now = self._filesystem.clock()
        if now - self._slice_began >= SLICE:
            self._filesystem.sleep(YIELD)
            self._slice_began = self._filesystem.clock()

    def _inputs_are_there(self) -> bool:
        """Tell whether the tables that are being merged still count: a clear drops them."""
        return self._inputs <= self._tree.version.numbers()

    # The steps.

    def install(
        self, version: Version, run: Run | None = None, swap: Callable[[], None] | None = None
    ) -> None:
        """Make ``version`` current; ``run`` is new in it.  ``swap`` goes with it in memory."""
        try:
            tables = self._tree.open_tables(version)
            self._manifest.install(version, lambda: self._publish(tables, swap))
        except BaseException:
            if self._manifest.failed is not None:
                with self._appender.lock:  # whoever makes room has looked, or will
                    self._appender.limit = -1
            self.compactor.discard(run)
            raise

    def _publish(self, tables: Any, swap: Callable[[], None] | None) -> None:
        """Show the installed Version, here and to readers in other processes."""

        def show() -> None:
            if swap is not None:
                swap()
            self._tree.adopt(self._manifest.version, tables)
            self._tree.show()
            self._bump()

        with self._appender.lock:
            self._tree.within(self._appender.lock, show)

    def _prepare(self) -> None:
        """Make the segment that follows the live one; it is durable and named, and empty."""
        with self._appender.lock:
            first_sequence = self._log.sequence
        version = self._tree.version
        number = self._manifest.new_number()
        try:
            wal = self._log.create(number, version.store_id, first_sequence, b"")
        except BaseException:
            self._manifest.forget(number)
            raise

        def swap() -> None:
            self._log.prepared = wal

        try:
            self.install(version.with_log(number), swap=swap)
        except BaseException:
            with suppress(error):
                wal.close()
            self._manifest.discard(wal.number, wal.path)
            raise

    def rotate(self) -> None:
        """Seal the segment and the MemTable; writes go to new ones.

        Costs no input or output but to make the next segment, where that has
        not been done ahead.
        """
        self._begin()
        if self._log.prepared is None:
            self._prepare()
        with self._appender.lock:
            self._appender.recover()
            self._seal_wanted = False
            self._appender.limit = -1
            self._tree.apart(self._appender.lock, self._rotate)
            sequence = self._log.sequence
        if self._options.sync == FULL:
            self._log.wait(sequence)  # readers are shown the SEAL once it is synced

    def _rotate(self) -> None:
        self._log.rotate()
        self.finish_rotation()

    def finish_rotation(self) -> None:
        """Let log and MemTables agree again after a rotation, an interrupted one included."""
        live, memtable = self._log.live, self._tree.memtables[0]
        assert live is not None
        if live.sealed:
            live = self._log.rotate()
        if memtable.log != live.number:
            memtable.last_sequence = live.first_sequence
            memtable.seal()
            following = MemTable(memtable.floor)
            following.log = live.number
            self._tree.memtables.insert(0, following)
        self._tree.show()

    def flush(self) -> None:
        """Turn everything in memory into tables, and merge as the policy says."""
        self.flush_all()
        self.work()

    def flush_all(self) -> None:
        """Turn everything in memory into tables."""
        if len(self._tree.memtables[0]) or self._tree.cleared:
            self.rotate()
        while len(self._tree.memtables) > 1:
            self._flush_oldest()

    def compact(self) -> None:
        """Flush, and merge everything into one run without tombstones."""
        self.flush_all()
        self._merge(everything(self._tree.version))

    def drop_cleared(self) -> None:
        """Have the tables removed that a clear has hidden; with the handle's lock."""
        if self._tree.version.runs:
            self._seal_wanted = True
            self._appender.limit = -1
            self.worker.wake()

    def _flush_oldest(self) -> None:
        """Turn the oldest sealed MemTable into a table, and let its segment go."""
        memtable = self._tree.memtables[-1]
        version, run = self.write_table(memtable, (memtable.log,))
        self.install(version, run, lambda: self._tree.memtables.remove(memtable))
        self._log.retire(memtable.log)
        if self._stuck:
            self._stuck, self.problem = False, None

    def write_table(self, memtable: MemTable, logs: tuple[int, ...]) -> tuple[Version, Run | None]:
        """Write the oldest MemTable as a run; return the Version that has it for ``logs``."""
        merges_wait = bool(self._inputs) or self._next_merge() is not None
        self.pressure.flush_begins(len(memtable), merges_wait)
        try:
            version = self._tree.version
            if memtable.cleared:
                version = version.cleared(())
            run = self.compactor.flush(
                memtable.merged(),
                (self._tree.flushed_up_to if version.runs else 0, memtable.last_sequence),
                tombstones=any(layer.tombstones for layer in memtable.layers),
                drop_tombstones=not version.runs,
            )
            # Somebody may have asked for the first time meanwhile.
            live = self._tree.live_once_flushed(memtable)
        finally:
            self.pressure.flush_ends()
        if not version.runs:
            live = 0 if run is None else run.puts
            if run is None:
                version = emptied(version, memtable.last_sequence)
        return version.with_flush(run, logs, live), run

    def _merge_due(self) -> bool:
        """Merge as the policy says; False when there is nothing to merge.

        A table that does not check is left out of merges from then on.
        """
        try:
            return self._merge(self._next_merge())
        except CorruptionError as problem:
            tables = self._tree.tables
            numbers = [number for number in tables if tables[number].path == problem.filename]
            if not numbers:
                raise
            self.quarantined |= frozenset(numbers)
            return True

    def _next_merge(self) -> Task | None:
        """Return what the policy says, of the tables that are not being merged."""
        left_alone = self.quarantined | self._inputs
        return choose(self._tree.version, self._options, left_alone)

    def _merge(self, task: Task | None) -> bool:
        """Carry one task out; False when there is none."""
        if task is None:
            return False
        self._begin()
        outer = self._inputs
        self._inputs = outer | {table.number for run in task.runs for table in run.tables}
        self.pressure.merging = True
        try:
            run = self.compactor.merge(task, self._tree.tables.__getitem__)
            version = self._tree.version.with_merge(task.runs, run)
            if run is None:
                end = max(
                    self._tree.tables[number].last_sequence for number in self._inputs - outer
                )
                version = emptied(version, end)
            self.install(version, run)
        except Cancelled:
            if self.worker.closed or self.worker.stopping:
                raise
        finally:
            self._inputs = outer
            self.pressure.merging = bool(outer)
        return True
