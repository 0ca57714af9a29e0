"""The log of a writer: sealed segments, the live one, and the one prepared to follow it.

Nothing in a segment counts as durable before all earlier segments are durable
to their end, so a sync covers every segment with unsynced bytes, the oldest
first.  Threads that wait for the disk share syncs: one leads, and syncs for
all whose records were in the log when it began.
"""

from __future__ import annotations

import sys
from _thread import RLock

from oblivion_dbm.engine.filesystem import close_all
from oblivion_dbm.engine.kernel import depth, refuse
from oblivion_dbm.engine.options import FULL
from oblivion_dbm.engine.wal import WAL
from oblivion_dbm.errors import error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oblivion_dbm.engine.filesystem import FileSystem
    from oblivion_dbm.engine.kernel import Appender
    from oblivion_dbm.engine.options import Options

#: How long the leader of a round waits for others at most: a share of what the last
#: sync took, and seconds.  It looks up so often, in seconds.
GATHER_SHARE, LONGEST_GATHER, GATHER_STEP = 0.25, 0.001, 0.00005


class Log:
    """The segments of this process, of which the live one takes records.

    Fields are guarded by the appender's lock.  ``synced`` is the sequence
    number below which all is on the disk.  ``check`` raises where writing has
    stopped for good, and ``stop`` stops it.

    Lock order: a round of syncing, then the appender's lock; never the other way.
    """

    def __init__(
        self,
        filesystem: FileSystem,
        directory: str,
        options: Options,
        *,
        mode: int,
        appender: Appender,
        check: Callable[[], None],
        stop: Callable[[BaseException], None],
    ) -> None:
        self._filesystem = filesystem
        self._directory = directory
        self._options = options
        self._mode = mode
        self._appender = appender
        self._check = check
        self._stop = stop
        self.live: WAL | None = None
        #: The segment that the MANIFEST names already and that comes next.
        self.prepared: WAL | None = None
        #: Segments whose MemTables are no tables yet, oldest first.
        self.sealed: tuple[WAL, ...] = ()
        self.synced = 0
        self._round = RLock()
        #: Who has come since the last sync began, and how many are writing at the
        #: moment; what the last sync took.  Being wrong by one costs time only.
        self._arrived, self._expected = 0, 1
        self._sync_seconds = 0.0

    def create(self, number: int, store_id: str, first_sequence: int, prelude: bytes) -> WAL:
        """Create a segment that no MANIFEST names yet."""
        return WAL(
            self._filesystem,
            self._directory,
            number,
            store_id=bytes.fromhex(store_id),
            first_sequence=first_sequence,
            prelude=prelude,
            back_end=self._options.log_back_end,
            synced_only=self._options.sync == FULL,
            mode=self._mode,
        )

    @property
    def sequence(self) -> int:
        """The sequence number of the end of the log, once there is a live segment."""
        return self._appender.origin + self._appender.position

    def begin(self, wal: WAL) -> None:
        """Append to ``wal`` from now on; again is fine."""
        appender = self._appender
        appender.limit = -1
        appender.target, appender.words = wal.target, wal.words
        appender.position = wal.prelude_end
        appender.origin = wal.first_sequence - wal.prelude_end
        self.live = wal

    def grow(self, end: int) -> None:
        """Make room in the live segment up to ``end`` at least."""
        wal = self.live
        assert wal is not None
        wal.cover(self._appender.position)  # bit by bit, so that no sync finds much to do
        try:
            wal.grow(end)
        finally:
            self._appender.target, self._appender.words = wal.target, wal.words

    def rotate(self) -> WAL:
        """Seal the live segment and go on in the prepared one, which is returned.

        Not interrupted: it runs where no signal is delivered, or can be called
        again, since each of its steps can.
        """
        old, new = self.live, self.prepared
        assert old is not None
        assert new is not None
        self._appender.limit = -1
        if new is not old:
            end = old.seal(self._appender.position)
            new.follow(end, old.sequence(old.end))
            self.sealed = (*(wal for wal in self.sealed if wal is not old), old)
            self.begin(new)
        self.prepared = None
        return new

    # Syncing.

    def wait(self, sequence: int) -> None:
        """Return once everything below ``sequence`` is on the disk.

        The first to come syncs for all; who comes meanwhile waits for it to end,
        and one of those whose records came too late leads the next round.
        Raises error where the system cannot, and writing has stopped then.
        """
        self._arrived += 1
        while self.synced < sequence:
            turn = self._round
            self.check_outside()
            with turn:
                if self._round is turn and self.synced < sequence:
                    self._lead()
                    # Whoever is behind this round passes through the old lock at
                    # once, instead of waiting for the next leader's sync too.
                    self._round = RLock()

    def _lead(self) -> None:
        """Sync for all who wait, and for those who are on their way.

        Threads that write one record after the other would share each sync with
        half of the others only: the rest is just being let go when it begins.
        """
        clock = self._filesystem.clock
        began = clock()
        if self._arrived < self._expected:
            end = began + min(GATHER_SHARE * self._sync_seconds, LONGEST_GATHER)
            while self._arrived < self._expected and began < end:
                self._filesystem.sleep(GATHER_STEP)
                began = clock()
        group, self._arrived = self._arrived, 0
        self._sync()
        self._sync_seconds = clock() - began
        self._expected = group + self._arrived

    def _sync(self) -> None:
        """Sync every segment with unsynced bytes, the oldest first."""
        with self._appender.lock:
            self._check()
            assert self.live is not None
            self._appender.recover()
            ends = [(wal, wal.end) for wal in self.sealed]
            ends.append((self.live, self._appender.position))
            marks = [(wal, wal.cover(end)) for wal, end in ends if wal.synced < end]
            sequence = self.sequence
            for wal, _ in marks:
                wal.rewrite()
        outside = sys.exc_info()[1]
        try:
            for wal, _ in marks:
                wal.sync()
        except BaseException as problem:
            failure = _failure(problem, outside)
            if failure is not None:
                self._stop(failure)
            raise
        with self._appender.lock:
            for wal, mark in marks:
                wal.note_synced(mark)
            self.synced = max(self.synced, sequence)

    def check_outside(self) -> None:
        """Raise for a signal handler inside a sync of its own thread.

        Whoever else is to come to an end may have to wait for that sync.
        """
        if depth(self._round):
            refuse()

    def retire(self, number: int) -> None:
        """Let go of a sealed segment whose records are a table now."""
        gone: list[WAL] = []

        def drop() -> None:
            gone.extend(wal for wal in self.sealed if wal.number == number)
            self.sealed = tuple(wal for wal in self.sealed if wal.number != number)
            for wal in gone:
                self.synced = max(self.synced, wal.sequence(wal.end))

        self._without_syncs(drop)
        # Without a lock: the file has no name by now, and to free its room
        # takes the system tens of milliseconds.
        close_all(gone)

    def _without_syncs(self, call: Callable[[], None]) -> None:
        """Call with the appender's lock while nobody syncs."""
        while True:
            turn = self._round
            with turn:
                if self._round is turn:
                    with self._appender.lock:
                        call()
                    return

    def note_end(self) -> None:
        """Write down where the log ends; no write finds room from then on."""
        with self._appender.lock:
            self._appender.recover()
            self._appender.limit = -1
            if self.live is not None:
                self.live.note_end(self._appender.position)
            if self.prepared is not None:
                self.prepared.note_end(self.prepared.prelude_end)

    def close(self) -> None:
        """Let go of all segments, after the last sync.  Again is fine."""
        self._without_syncs(self._close)

    def _close(self) -> None:
        self._appender.target = self._appender.words = None
        close_all(filter(None, (*self.sealed, self.live, self.prepared)))


def _failure(problem: BaseException, outside: BaseException | None) -> OSError | None:
    """Return the system's failure that ``problem`` is, or that an interrupt hides.

    A signal handler may raise any exception, TimeoutError too, which is no
    failure of the disk; nor is what the caller of the store was just handling,
    which is ``outside``.
    """
    if isinstance(problem, error):
        return problem
    hidden = problem.__context__
    while hidden is not None and hidden is not outside:
        if isinstance(hidden, OSError):
            return hidden
        hidden = hidden.__context__
    return None
