"""The WriteQueue: writes that their callers do not wait for.

A write that is handed in gets a ``Future``; a thread of the queue's own appends
what is queued, in the order in which it came, syncs once for all of it where
the mode asks for that, and then completes the Futures.  It is handed functions,
not the engine, so it can be used and tested alone.

The same thread keeps the promise of ``sync=<seconds>``: the first write after a
sync sets the time of the next one.
"""

from __future__ import annotations

from _thread import allocate_lock, get_ident
from collections import deque
from contextlib import suppress

from oblivion_dbm.engine.worker import Worker
from oblivion_dbm.errors import error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from oblivion_dbm.engine.filesystem import FileSystem

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
        self._lock = allocate_lock()
        #: (number, record, Future), the oldest first.
        self._queue: deque[tuple[int, bytes, Future[None]]] = deque()
        self._size = 0
        #: The numbers of the last record that was handed in, and that is done.
        self._taken = self._done = 0
        #: The last record that each thread has handed in and that is not done.
        self._last: dict[int, int] = {}
        self._deadline: float | None = None
        self._sync_all: Callable[[], None] | None = None
        self._closing: error | None = None
        self.worker = Worker(self._step)

    def submit(self, record: bytes) -> Future[None]:
        """Queue a record; its Future is done once the write has returned, or failed.

        Waits while the queue is full.  Raises error once the queue is closed.
        """
        from concurrent.futures import Future

        future: Future[None] = Future()
        while not self._take(record, future):
            self._filesystem.sleep(_PAUSE)
        self._attend()
        self._wake()
        return future

    def has_room(self, length: int) -> bool:
        """Tell whether a record of ``length`` bytes could be queued at once."""
        return not self._queue or self._size + length <= self._limit

    def _take(self, record: bytes, future: Future[None]) -> bool:
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
        if self.worker.here:  # no thread to be had
            self.worker.call(self._step_on)

    def _step_on(self) -> None:
        while self._step() is not None:
            pass

    @property
    def owes(self) -> bool:
        """Whether the calling thread has queued what is not appended yet."""
        return bool(self._queue) and self._last.get(get_ident(), 0) > self._done

    def settle(self) -> None:
        """Return once all that the calling thread has queued is appended, or has failed."""
        while self.owes and not self.worker.is_this_thread:
            self._filesystem.sleep(_PAUSE)

    def sync_within(self, seconds: float, sync_all: Callable[[], None]) -> None:
        """Have ``sync_all`` called ``seconds`` from now at the latest."""
        if self._deadline is None:
            self._sync_all = sync_all
            self._deadline = self._filesystem.clock() + seconds
            self.worker.wake()
            if self.worker.here:
                self._deadline = None
                sync_all()

    # The thread.

    def _step(self) -> float | None:
        """Do a group of what is queued, and the sync that is due."""
        if self._queue:
            self._do_group()
        if self._deadline is not None:
            left = self._deadline - self._filesystem.clock()
            if left > 0 and self._closing is None:
                return 0.0 if self._queue else left
            self._deadline = None
            assert self._sync_all is not None
            with suppress(error):  # writing has stopped, and every later write says why
                self._sync_all()
        return 0.0 if self._queue else None

    def _do_group(self) -> None:
        """Append a group of records, make them durable, complete their Futures."""
        applied: list[Future[None]] = []
        size, sequence = 0, -1
        while self._queue and size < GROUP:
            number, record, future = self._queue[0]
            size += len(record)
            if future.set_running_or_notify_cancel():
                try:
                    sequence = self._append(record)
                    applied.append(future)
                except BaseException as its_problem:  # noqa: BLE001 - it is the Future's
                    future.set_exception(its_problem)
            with self._lock:
                self._queue.popleft()
                self._size -= len(record)
                self._done = number
                if not self._queue:
                    self._size = 0
                    self._last.clear()
        problem = self._synced(sequence) if applied else None
        for future in applied:
            if problem is None:
                future.set_result(None)
            else:
                future.set_exception(problem)

    def _synced(self, sequence: int) -> BaseException | None:
        try:
            self._sync(sequence)
        except BaseException as problem:  # noqa: BLE001 - it is the Futures'
            return problem
        return None

    def close(self, reason: error) -> None:
        """Take nothing more; return once all that was queued is done.  Again is fine.

        A sync that was to come later comes now.
        """
        with self._lock:
            self._closing = reason
        while (self._queue or self._deadline is not None) and not self.worker.is_this_thread:
            self._wake()
            self._filesystem.sleep(_PAUSE)
        self.worker.close()
