"""The Future of a queued write, which an interrupted wait leaves usable."""

from __future__ import annotations

from _thread import LockType, RLock, allocate_lock
from collections import deque
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Seconds that who answers waits for the lock of a Future.
PATIENCE = 0.01


class Condition(RLock):  # type: ignore[misc]  # final in the stubs only
    """What ``threading.Condition`` is to a Future, entered and left by C code.

    A signal handler that raises inside the methods of ``threading.Condition``, which are
    Python, may leave its lock taken for ever.  Then the queue's thread would wait for ever
    with its answer, and everybody else's with it.
    """

    def __init__(self) -> None:
        self._waiters: deque[LockType] = deque()

    def wait(self, timeout: float | None = None) -> bool:
        """Let go of the lock until ``notify_all``, or for so many seconds; False after these."""
        if timeout == 0:
            return False
        waiter = self.waiter()
        state = self._release_save()  # type: ignore[attr-defined]  # not in the stubs
        try:
            return waiter.acquire(timeout=-1 if timeout is None else max(0.0, timeout))
        finally:
            self._acquire_restore(state)  # type: ignore[attr-defined]  # not in the stubs
            self.forget(waiter)

    def is_held(self) -> bool:
        """Tell whether the caller's thread holds the lock."""
        return bool(self._is_owned())  # type: ignore[attr-defined]  # not in the stubs

    def waiter(self) -> LockType:
        """Return a lock that is held until ``notify_all``, for who does not hold this one."""
        waiter = allocate_lock()
        waiter.acquire()
        self._waiters.append(waiter)
        return waiter

    def forget(self, waiter: LockType) -> None:
        """Do not notify a waiter any more; again is fine."""
        with suppress(ValueError):  # it was notified
            self._waiters.remove(waiter)

    def notify_all(self) -> None:
        """Wake all who wait; by whoever holds the lock."""
        while self._waiters:
            self._waiters.popleft().release()


class WriteFuture(Future[None]):
    """A ``concurrent.futures.Future`` on such a condition.

    Who answers never waits long for its lock: a signal handler that arrived while a waiter
    held it may wait for the very answer.
    """

    def __init__(self) -> None:
        super().__init__()
        self._condition: Any = Condition()
        self._answering = False

    def result(self, timeout: float | None = None) -> None:
        """Return once the write has happened; see ``concurrent.futures.Future``."""
        self._wait(timeout)
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the write has raised; see ``concurrent.futures.Future``."""
        self._wait(timeout)
        return super().exception(0)

    def _wait(self, timeout: float | None) -> None:
        """Wait, without the lock where that can be: an interrupt has nothing to put right then."""
        condition = self._condition
        if condition.is_held():  # by what a signal handler, which calls this, has interrupted
            if not self.done():
                condition.wait(timeout)
            return
        waiter = condition.waiter()
        if not self.done():
            waiter.acquire(timeout=-1 if timeout is None else max(0.0, timeout))
        condition.forget(waiter)

    def begin(self) -> bool:
        """Tell whether the write is wanted; if so it cannot be cancelled any more."""
        if not self._condition.acquire(timeout=PATIENCE):
            return True
        try:
            return self.running() or self.set_running_or_notify_cancel()
        finally:
            self._condition.release()

    def answer(self, problem: BaseException | None) -> bool:
        """Complete it; False where that has to be tried again later."""
        if not self._condition.acquire(timeout=PATIENCE):
            return False
        self._answering = True
        try:
            with suppress(InvalidStateError):  # it was cancelled all the same
                if problem is None:
                    self.set_result(None)
                else:
                    self.set_exception(problem)
        finally:
            self._answering = False
            self._condition.release()
        self._invoke_callbacks()
        return True

    def _invoke_callbacks(self) -> None:
        if not self._answering:  # else once the lock is free
            super()._invoke_callbacks()  # type: ignore[misc]  # not in the stubs
