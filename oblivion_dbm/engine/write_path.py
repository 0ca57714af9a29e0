"""The write path: from a record to the log and the MemTable, and room for both.

::

    begin      the first segment of this process takes over what was recovered
    make room  what a write finds that does not fit: a longer segment; a pause,
               where writers are ahead of maintenance; or an error
    commit     wait for the disk, as the sync mode says

What happens to the MemTable afterwards is in :mod:`oblivion_dbm.engine.maintenance`.
"""

from __future__ import annotations

from contextlib import suppress
from errno import EIO

from oblivion_dbm.engine.header_page import DATA_AT
from oblivion_dbm.engine.history import with_session
from oblivion_dbm.engine.kernel import BUSY, Appender, Stalled, depth, refuse
from oblivion_dbm.engine.log import Log
from oblivion_dbm.engine.maintenance import Maintenance
from oblivion_dbm.engine.manifest import Manifest, missing_is_damage
from oblivion_dbm.engine.memtable import MemTable
from oblivion_dbm.engine.options import FULL, NORMAL, OFF
from oblivion_dbm.engine.pressure import PAUSE
from oblivion_dbm.engine.record import DELETE
from oblivion_dbm.engine.recovery import Recovery, keep_lost, replay_into
from oblivion_dbm.engine.tree import Tree
from oblivion_dbm.engine.write_queue import WriteQueue
from oblivion_dbm.errors import error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import RLock
    from collections.abc import Callable
    from typing import Any

    from oblivion_dbm.engine.filesystem import FileSystem
    from oblivion_dbm.engine.lock import WriterLock
    from oblivion_dbm.engine.options import Options
    from oblivion_dbm.engine.version import Version
    from oblivion_dbm.engine.wal import WAL

#: Bytes of recovered records that are copied into the next log segment; more
#: than that becomes a table.
LARGEST_PRELUDE = 1 << 18
#: Bytes of log up to which close leaves the MemTable to the next opening.
LARGEST_LEFT_OPEN = 1 << 20


class WritePath:
    """What a writer changes: the tree, through the log and the MANIFEST.

    ``failed`` is what has stopped all writing, if anything has: after it the
    state of the disk is not known, so nothing is retried.

    Lock order: maintenance, a round of syncing, the handle's lock.  Who holds
    the handle's lock waits for nobody.
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
        self._mode = mode
        self._mutex = mutex
        #: A writer has just paused; the next to need room gets it.
        self._relieved = False
        #: A write inside a held lock has not paused; ``admit`` will, before the next.
        self._to_relieve = False
        #: The sync that has failed was one that nobody waited for.
        self._untold = False
        self._manifest = Manifest(filesystem, directory, version, mode)
        self.failed: BaseException | None = None
        self.closing = False
        self._recover(version)
        self.appender = self.tree.appender = Appender(mutex, self._make_room, self._restore)
        self.log = Log(
            filesystem, directory, options, appender=self.appender, mode=mode,
            check=self.check_failed, stop=self._stop,
        )  # fmt: skip
        self.maintenance = Maintenance(
            filesystem, directory, options, tree=self.tree, log=self.log, appender=self.appender,
            manifest=self._manifest, begin=self.begin, bump=lock.bump, mode=mode,
        )  # fmt: skip
        self.tree.show()
        self._set_durability()

    def _recover(self, version: Version) -> None:
        """Bring what the logs hold into memory."""
        try:
            recovery = Recovery(self._filesystem, self._directory, version)
            recovery.close()
            self.tree = Tree(self._filesystem, self._directory, version, self._options.read_ahead)
        except error as problem:
            raise missing_is_damage(problem) from problem
        self._recovered = recovery
        # A crash of the machine may have taken what the log said of its beginning.
        self._sequence = max(recovery.sequence, self.tree.flushed_up_to)
        self.tree.memtables = [recovery.merged()]

    def _set_durability(self) -> None:
        """Say what follows a write, by the sync mode."""
        mode = self._options.sync
        wait: Callable[[int], None] = _durable_enough
        if mode == FULL:
            self.appender.after = wait = self._wait
            if self._recovered.unsynced:
                self.begin()  # what this handle shows is on the disk
        elif mode not in (NORMAL, OFF):
            self.appender.after = wait = self._sync_soon
        self.queue = WriteQueue(
            self._filesystem, self.appender.write, wait, self._attend, self._options.queue_limit
        )

    # Whether writing is possible.

    def check(self) -> None:
        """Raise if writing has stopped for good, or is under way in this very thread."""
        self.check_idle()
        self.check_failed()

    def check_failed(self) -> None:
        """Raise if writing has stopped for good."""
        self.tree.check()
        problem = self.failed or self._manifest.failed
        if problem is not None:
            self._untold = False
            self.maintenance.problem = None
            raise error(EIO, f"writing stopped: {problem}", self._directory) from problem

    def check_idle(self) -> None:
        """Raise for a signal handler that arrived inside a write of its own thread.

        To be called with the lock: what was interrupted and left is put right.
        """
        self.appender.recover()
        if self.tree.inside and depth(self._mutex) > 1:
            refuse()
        self.tree.inside = False

    def _stop(self, problem: BaseException) -> None:
        """Stop writing for good."""
        self.failed = problem
        with self._mutex:  # whoever makes room has looked, or will
            self.appender.limit = -1

    def refuse(self, mutex: RLock) -> None:
        """Send every later write to ``check``; ``mutex`` replaces one that may never be free."""
        self.appender.lock = mutex
        self.appender.limit = -1
        # In a child the parent may be in the middle of a write: nothing is put right there.
        self.appender.target = self.appender.words = None
        if self.failed is None:
            self.failed = error("the handle has ended")

    # Room: called by the appender when a record does not fit.

    def _make_room(self, length: int) -> None:
        self.tree.check()
        self.check()
        if self.closing:
            raise error("the handle is being closed")
        self.appender.limit = -1
        if depth(self._mutex) == 1:
            self._stall()
        else:
            self._relieved, self._to_relieve = False, True
        self.tree.apart(self._mutex, self._make_room_for, length)

    def _stall(self) -> None:
        """Raise Stalled where this write has to wait first; the lock is not held then."""
        self.log.check_outside()
        if self.queue.owes:
            raise Stalled(self.queue.settle)
        if self.maintenance.problem is not None:
            raise Stalled(self.maintenance.retry)
        if self._relieved or self.log.live is None:
            self._relieved = False
        elif self.maintenance.under_pressure:
            raise Stalled(self._relieve)

    def admit(self) -> None:
        """Do before a lock is taken for several calls what a single write would stall for."""
        if depth(self._mutex):
            return
        self.log.check_outside()
        self.queue.settle()
        if self.tree.inside or self.appender.position >= BUSY:
            with self._mutex:  # later it could not be told from a handler's call
                self.check_idle()
        if self.maintenance.problem is not None:
            self.maintenance.retry()
        elif self._to_relieve or self.appender.limit < 0:
            self._to_relieve = False
            if self.maintenance.under_pressure:
                self._relieve()

    def _relieve(self) -> None:
        """Pause until maintenance has caught up; do it here where it has no thread."""
        maintenance = self.maintenance
        maintenance.worker.wake()
        while not (maintenance.worker.here or maintenance.problem or self.tree.ended):
            pause = maintenance.pressure.pause()
            self._filesystem.sleep(PAUSE if pause is None else pause)
            if pause is not None:
                break
        if maintenance.worker.here and not self.closing:
            maintenance.call(maintenance.work)
        self._relieved = True

    def _make_room_for(self, length: int) -> None:
        if self.log.live is None:
            self._begin()
        self.maintenance.finish_rotation()
        position = self.appender.position
        self.log.grow(position + length)
        if self.maintenance.due:
            self.maintenance.worker.wake()
        stride = self.maintenance.pressure.stride()
        assert self.log.live is not None
        self.appender.limit = max(position + length, min(self.log.live.capacity, position + stride))
        if self.queue.pending:  # whoever has queued it must come here
            self.appender.limit = -1

    def _attend(self) -> None:
        """Send the next write to ``_make_room``."""
        self.appender.limit = -1

    def _restore(self, record: bytes) -> None:
        """Bring a published record of any kind into memory; twice does no harm."""
        replay_into(self.tree.memtables[0], record, 0, len(record))
        self.tree.show()

    # Begin.

    def begin(self) -> None:
        """Make sure that there is a live segment."""
        with self._mutex:
            self.check()
            if self.log.live is None:
                self.tree.within(self._mutex, self._begin)

    def _begin(self) -> None:
        """Start the first segment of this process, taking over what was recovered.

        Small contents are copied into it, larger ones become a table; both are
        synced before the MANIFEST drops the logs they came from.  No
        maintenance runs before this has been done.
        """
        keep_lost(self._recovered.lost, self._filesystem, self._directory, self._mode)
        memtable = self.tree.memtables[0]
        records = memtable.merged()
        if memtable.cleared or not self.tree.version.runs:
            records = {key: record for key, record in records.items() if record[0] != DELETE}
        if sum(map(len, records.values())) <= LARGEST_PRELUDE:
            wal = self._new_wal(b"".join(records.values()))
            version = self.tree.version
            version = version.cleared(()) if memtable.cleared else version
            self._install_log(version.replace(logs=(wal.number,)), wal)
            memtable.cleared = False
        else:
            memtable.last_sequence = self._sequence
            version, run = self.maintenance.write_table(memtable, self.tree.version.logs)
            try:
                wal = self._new_wal(b"")
                self._install_log(version.with_log(wal.number), wal)
            except BaseException:
                self.maintenance.compactor.discard(run)
                raise
            memtable = MemTable(memtable.floor)
            self.tree.memtables = [memtable]
        memtable.log = wal.number
        self._recovered.unsynced = False
        self.log.synced = wal.sequence(wal.prelude_end)
        self.log.begin(wal)
        self.tree.show()

    def _new_wal(self, prelude: bytes) -> WAL:
        """Create a segment that no MANIFEST names yet."""
        number = self._manifest.new_number()
        try:
            return self.log.create(number, self.tree.version.store_id, self._sequence, prelude)
        except BaseException:
            self._manifest.forget(number)
            raise

    def _install_log(self, version: Version, wal: WAL) -> None:
        """Make a Version current that names ``wal``, which is given up if that fails."""
        version = with_session(version, self._sequence, self._recovered.crashed, self._filesystem)
        try:
            self.maintenance.install(version)
        except BaseException:
            with suppress(error):
                wal.close()
            self._manifest.discard(wal.number, wal.path)
            raise

    # Durability.

    @property
    def sequence(self) -> int:
        """The sequence number of the end of the log."""
        if self.log.live is None:
            return self._sequence
        self.appender.recover()
        return self.log.sequence

    def _wait(self, sequence: int) -> None:
        """Wait for the disk, unless whoever holds the lock will do so afterwards."""
        if not depth(self._mutex):
            self.log.wait(sequence)

    def _sync_soon(self, _: int) -> None:
        """Begin the time after which what was written is synced, unless it has begun."""
        if depth(self._mutex):
            return  # whoever holds the lock will commit
        seconds = self._options.sync
        assert not isinstance(seconds, str)
        try:
            self.appender.after = None
            self.queue.sync_within(seconds, self._sync_in_time)
        except BaseException:
            self.appender.after = self._sync_soon
            raise

    def _sync_in_time(self) -> None:
        self.appender.after = self._sync_soon  # before the sync: it misses what comes after
        try:
            self.sync()
        except error:
            self._untold = True
            raise

    def commit(self) -> None:
        """Wait for the disk, as the sync mode says, after writes inside a held lock."""
        after = self.appender.after
        if after is None or self.log.live is None or depth(self._mutex):
            return
        with self._mutex:
            sequence = self.sequence
        after(sequence)

    def sync(self) -> None:
        """Return once everything written is on the disk; recovered records too."""
        if depth(self._mutex):
            refuse()
        with self._mutex:
            if self._recovered.unsynced:
                self.begin()
            if self.log.live is None:
                return
            sequence = self.sequence
        self.log.wait(sequence)

    # The end.

    @property
    def is_own_thread(self) -> bool:
        """Whether the caller runs in one of the threads that ``end_work`` waits for."""
        return self.maintenance.worker.is_this_thread or self.queue.worker.is_this_thread

    def forget_threads(self) -> None:
        """Wait for none of them: what a forked child does, which has none."""
        self.maintenance.worker.forked()
        self.queue.worker.forked()

    def end_work(self, reason: error) -> None:
        """Take no more writes; do what is queued, and stop the threads.  Again is fine."""
        self.queue.close(reason)
        self.closing = True
        self._attend()
        self.maintenance.worker.close()

    def settle(self) -> None:
        """Leave things as the next opening likes them: synced, and little in the log.

        Raises error where writing has stopped and nobody was told.
        """
        if self.failed is not None or self._manifest.failed is not None:
            if self._untold or self.maintenance.problem is not None:
                self.check_failed()
            return
        try:
            if self.appender.position - DATA_AT > LARGEST_LEFT_OPEN:
                self.maintenance.flush_all()
        finally:  # a disk too full for a table may sync all the same
            if self._options.sync != OFF:
                self.sync()
        self.log.note_end()

    def stats(self) -> dict[str, Any]:
        """Return figures for people."""
        live = self.log.live
        return {
            "log_back_end": "" if live is None else live.back_end,
            "log_bytes": 0 if live is None else self.appender.position - DATA_AT,
            "lost_bytes": sum(map(len, self._recovered.lost)),
            "quarantined_tables": sorted(self.maintenance.quarantined),
        }


def _durable_enough(_: int) -> None:
    """Sync nothing: what modes do that promise nothing to the single write."""
