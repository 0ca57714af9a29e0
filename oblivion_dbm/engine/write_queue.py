"""The WriteQueue: writes that their callers do not wait for.

A write that is handed in gets a ``Future``; a thread of the queue's own appends
what is queued, in the order in which it came, syncs once for all of it where
the mode asks for that, and then completes the Futures.  It is handed functions,
not the engine, so it can be used and tested alone.

The same thread keeps the promise of ``sync=<seconds>``: the first write after a
sync sets the time of the next one.
"""

from __future__ import annotations

from _thread import RLock, get_ident
from collections import deque
from contextlib import suppress

from oblivion_dbm.engine.kernel import depth, refuse
from oblivion_dbm.engine.worker import Worker
from oblivion_dbm.errors import error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from oblivion_dbm.engine.filesystem import FileSystem
    from oblivion_dbm.engine.future import WriteFuture

#: Bytes of records that are appended before their Futures are completed.
GROUP = 1 << 20
_PAUSE = 0.001


class WriteQueue:
    """Appends records in a thread of its own.

    ``append(record)`` writes one and returns its sequence number;
    ``sync(sequence)`` returns once all below it is as durable as it must be;
    ``attend()`` makes every direct write look at ``owes`` first.  At most
    ``limit`` bytes of records wait (or one record).
    """

    def __init__(
        self,
        filesystem: FileSystem,
        append: Callable[[bytes], int],
        sync: Callable[[int], None],
        attend: Callable[[], None],
        limit: int,
    ) -> None:
        self._filesystem = filesystem
        self._append = append
        self._sync = sync
        self._attend = attend
        self._limit = limit
        self._lock = RLock()
        #: (number, record, Future), the oldest first.
        self._queue: deque[tuple[int, bytes, WriteFuture]] = deque()
        self._size = 0
        #: The numbers of the last record that was handed in, and that is done.
        self._taken = self._done = 0
        #: The last record that each thread has handed in and that is not done.
        self._last: dict[int, int] = {}
        self._appending = False
        #: Futures of what is appended, or what went wrong; the sequence behind it.
        self._appended: list[tuple[WriteFuture, BaseException | None]] = []
        self._sequence = -1
        #: Futures whose lock was not to be had, and what went wrong.
        self._late: list[tuple[WriteFuture, BaseException | None]] = []
        self._deadline: float | None = None
        self._sync_all: Callable[[], None] | None = None
        self._closing: error | None = None
        self.worker = Worker(self._step)

    def submit(self, record: bytes) -> Future[None]:
        """Queue a record; its Future is done once the write has returned, or failed.

        Waits while the queue is full.  Raises error once the queue is closed.
        """
        from oblivion_dbm.engine.future import WriteFuture

        future = WriteFuture()
        try:
            while not self._take(record, future):
                self._filesystem.sleep(_PAUSE)
            self._attend()
            self._wake()
        except BaseException:
            future.cancel()  # nobody gets it: what is not done yet is not to be done
            raise
        return future

    def has_room(self, length: int) -> bool:
        """Tell whether a record of ``length`` bytes could be queued at once."""
        return not self._queue or self._size + length <= self._limit

    def _take(self, record: bytes, future: WriteFuture) -> bool:
        if depth(self._lock):  # a signal handler inside this very call
            refuse()
        with self._lock:
            if self._closing is not None:
                raise type(self._closing)(*self._closing.args)
            # Its own thread may queue more, from a callback; nobody else would make room.
            if not self.has_room(len(record)) and not self.worker.is_this_thread:
                return False
            self._taken += 1
            self._last[get_ident()] = self._taken
            self._size += len(record)
            self._queue.append((self._taken, record, future))
            return True

    def _wake(self) -> None:
        self.worker.wake()
        if self.worker.here and not self.worker.is_this_thread:  # no thread to be had
            self.worker.call(self._step_on)

    def _step_on(self) -> None:
        while self._step() == 0.0:
            pass

    @property
    def pending(self) -> bool:
        """Whether anything is queued that is not appended yet."""
        return bool(self._queue)

    @property
    def owes(self) -> bool:
        """Whether the calling thread has queued what must come before what it writes now."""
        if not self._queue or self._last.get(get_ident(), 0) <= self._done:
            return False
        return not (self._appending and self.worker.is_this_thread)

    def settle(self) -> None:
        """Return once all that the calling thread has queued is appended, or has failed."""
        while self.owes:
            if depth(self._lock):  # a signal handler in the middle of queueing
                refuse()
            if self.worker.is_this_thread:  # in a callback
                self._append_group()
            else:
                self._wake()
                self._filesystem.sleep(_PAUSE)

    def sync_within(self, seconds: float, sync_all: Callable[[], None]) -> None:
        """Have ``sync_all`` called ``seconds`` from now at the latest."""
        if self._deadline is None:
            self._sync_all = sync_all
            self._deadline = self._filesystem.clock() + seconds
        self.worker.wake()  # who set the time may have been interrupted before doing so
        if self.worker.here:
            self._deadline = None
            sync_all()

    # The thread.

    def _step(self) -> float | None:
        """Do a group of what is queued, and the sync that is due; all when it is the last."""
        self._append_group()
        self._answer()
        while self.worker.stopping and self._queue:
            self._append_group()
            self._answer()
        if self._deadline is not None:
            left = self._deadline - self._filesystem.clock()
            if left > 0 and self._closing is None and not self.worker.stopping:
                return 0.0 if self._queue else min(left, _PAUSE) if self._late else left
            self._deadline = None
            assert self._sync_all is not None
            with suppress(error):  # writing has stopped, and every later write says why
                self._sync_all()
        return 0.0 if self._queue else _PAUSE if self._late else None

    def _append_group(self) -> None:
        """Append a group of records; their Futures are still to be completed."""
        size = 0
        self._appending = True
        while self._queue and size < GROUP:
            number, record, future = self._queue[0]
            size += len(record)
            problem: BaseException | None = None
            try:
                wanted = future.begin()
                if wanted:
                    self._sequence = self._append(record)
            except BaseException as its_problem:  # noqa: BLE001 - it is the Future's
                wanted, problem = True, its_problem
            with self._lock:
                self._queue.popleft()
                self._size -= len(record)
                self._done = number
                if not self._queue:
                    self._size = 0
                    self._last.clear()
            if wanted:
                self._appended.append((future, problem))
        self._appending = False

    def _answer(self) -> None:
        """Make durable what is appended, and complete the Futures."""
        answers, self._appended = self._appended, []
        if not answers:
            self._answer_late()
            return
        problem = None
        try:
            if None in [its_problem for _, its_problem in answers]:
                self._sync(self._sequence)
        except BaseException as of_all:  # noqa: BLE001 - it is the Futures'
            problem = of_all
        self._late += [(future, its_problem or problem) for future, its_problem in answers]
        self._answer_late()

    def _answer_late(self) -> None:
        """Complete the Futures that are left, but for those that cannot be completed yet."""
        answers, self._late = self._late, []
        for future, problem in answers:
            answered = True
            # What a callback raises is neither this thread's nor the next Future's.
            with suppress(BaseException):
                answered = future.answer(problem)
            if not answered:
                self._late.append((future, problem))

    def close(self, reason: error) -> None:
        """Take nothing more; return once all that was queued is done.  Again is fine.

        A sync that was to come later comes now.  Not for callbacks to call: they
        run in the thread that this waits for.
        """
        if self.worker.is_this_thread or depth(self._lock):
            refuse()
        with self._lock:
            self._closing = reason
        while self._queue or self._deadline is not None:
            self._wake()
            self._filesystem.sleep(_PAUSE)
        self.worker.close()
        while self._appended:  # by a callback, in the last moment of the thread
            self._answer()
        self._answer_late()
