"""A thread that is there while there is work, and gone when there is none.

It is made of the lowest parts: a store that is opened, read and closed pays
nothing for it, not even the import of ``threading``.
"""

from __future__ import annotations

import sys
from _thread import RLock, allocate_lock, start_new_thread
from _weakref import ref
from atexit import register
from collections import deque
from contextlib import suppress

from oblivion_dbm.engine.kernel import depth, refuse
from oblivion_dbm.errors import error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_LONGEST_PAUSE = 3600.0

#: Workers that have started a thread.
_started: dict[ref[Worker], None] = {}


def _stop_all() -> None:
    """Before the interpreter ends: it would freeze the threads, with the locks they hold."""
    for reference in list(_started):
        worker = reference()
        if worker is not None:
            worker.stop()


register(_stop_all)


class Job:
    """A call that somebody waits for, and what came of it."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._done = allocate_lock()
        self._done.acquire()
        self._problem: BaseException | None = None

    def run(self) -> bool:
        """Call, and tell who waits; True when it failed."""
        failed = False
        try:
            self._call()
        except BaseException as problem:  # noqa: BLE001 - it is raised where it was asked for
            self._problem, failed = problem, True
        finally:
            self._done.release()
        return failed

    def wait(self, seconds: float) -> bool:
        """Wait at most so long; True once the call has returned.  Raises what it raised."""
        done = self._done.acquire(timeout=seconds)
        problem, self._problem = self._problem, None
        try:
            if problem is not None:
                raise problem
        finally:
            problem = None  # else it and this frame, with all it holds, keep each other alive
        return done


class Worker:
    """Calls ``step`` in a thread of its own, again and again, as long as that asks for it.

    ``step`` returns None when there is nothing to do, else the seconds until it
    wants to be called again; it must not raise.  Signals are never delivered
    in the thread, so what ``step`` does there is not interrupted.

    Where ``here`` is true there is no thread: none is wanted, the system gives
    none, or the interpreter is about to end.  Then ``wake`` does nothing, and
    ``call`` calls.  While the thread is asked to end for that, ``stopping`` is
    true, and ``step`` should come to an end and leave nothing for later.
    """

    def __init__(self, step: Callable[[], float | None], threaded: bool = True) -> None:
        self._step = step
        self.here = not threaded
        #: Held by the thread from its beginning to its end.
        self._life = allocate_lock()
        #: Free when somebody has called ``wake`` since the last pause.
        self._bell = allocate_lock()
        #: Held by whoever works, the thread or, where it is ``here``, a caller.
        self._turn = RLock()
        self._jobs: deque[Job] = deque()
        self._due = False
        #: A thread was started that has not begun yet.
        self._coming = False
        self.stopping = False
        self.closed = False

    def wake(self) -> None:
        """Have ``step`` called soon."""
        if self.here or self.closed:
            return
        self._due = True
        self._ring()
        if not self._coming and not self._life.locked():
            self._start()

    def _start(self) -> None:
        if sys.is_finalizing():
            self.here = True
            return
        _started[ref(self, _started.pop)] = None
        try:
            self._coming = True
            start_new_thread(self._run, ())
        except RuntimeError:  # no more threads, or the interpreter is ending
            self._coming = False
            self.here = True
        except BaseException:
            self._coming = False
            raise

    def call(self, step: Callable[[], object]) -> None:
        """Return once ``step`` has run where work is done; raise what it raised.

        An interrupt ends the wait, and not the step.  Raises error once closed.
        """
        if self.is_this_thread:
            refuse()
        if not self.here:
            job = Job(step)
            self._jobs.append(job)
            self.wake()
            while not job.wait(1.0):
                if not self._life.locked() and self._withdraw(job):
                    break
            else:
                return
        with self._turn:
            if self.closed:
                raise error("the handle was closed before this was done")
            step()

    def _withdraw(self, job: Job) -> bool:
        """Take a job back that nobody has begun; False when somebody has."""
        with self._turn:
            waiting = job in self._jobs
            if waiting:
                self._jobs.remove(job)
            return waiting

    def _ring(self) -> None:
        with suppress(RuntimeError):  # it is ringing already
            self._bell.release()

    def _run(self) -> None:
        """Be the thread; a second one ends at once."""
        self._coming = False
        while self._life.acquire(blocking=False):
            try:
                self._steps()
            finally:
                self._life.release()
            # Whoever called ``wake`` before the release relied on this thread.
            if self.closed or self.stopping or not self._due:
                return

    def _steps(self) -> None:
        while not (self.closed or self.stopping):
            self._due = False
            with self._turn:
                # What has just failed is not tried again at once.
                pause = None if self._do_jobs() else self._step()
            if pause is not None:
                self._bell.acquire(timeout=min(pause, _LONGEST_PAUSE))
            elif not self._due:
                return

    def _do_jobs(self) -> bool:
        """Do what was asked for; tell whether something of it failed."""
        failed = False
        while self._jobs:
            failed |= self._jobs.popleft().run()
        return failed

    @property
    def is_this_thread(self) -> bool:
        """Whether the caller runs inside the work that is done."""
        return depth(self._turn) > 0

    def close(self) -> None:
        """Call ``step`` no more; return once nobody works.  Again is fine."""
        self.closed = True
        self._ring()
        if self.is_this_thread:
            return
        with self._life, self._turn:
            self.here = True

    def stop(self) -> None:
        """End the thread, after one more step; callers do from then on what is to be done."""
        self.stopping = True
        self._ring()
        if not self.is_this_thread:
            with self._life, self._turn:
                self.here = True
                if not self.closed:
                    self._step()
        self.stopping = False

    def forked(self) -> None:
        """Forget, in a child, the thread that only the parent has."""
        _started.pop(ref(self), None)
        self.closed = self.here = True
