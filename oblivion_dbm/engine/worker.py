"""A thread that is there while there is work, and gone when there is none.

It is made of the lowest parts: a store that is opened, read and closed pays
nothing for it, not even the import of ``threading``.
"""

from __future__ import annotations

from _thread import allocate_lock, get_ident, start_new_thread
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_LONGEST_PAUSE = 3600.0


class Worker:
    """Calls ``step`` in a thread of its own, again and again, as long as that asks for it.

    ``step`` returns None when there is nothing to do, else the seconds until it
    wants to be called again; it must not raise.  Signals are never delivered
    here, so what ``step`` does is not interrupted.
    """

    def __init__(self, step: Callable[[], float | None]) -> None:
        self._step = step
        #: Held by the thread from its beginning to its end.
        self._life = allocate_lock()
        #: Free when somebody has called ``wake`` since the last pause.
        self._bell = allocate_lock()
        self._due = False
        self._thread = 0
        self.closed = False

    def wake(self) -> bool:
        """Have ``step`` called soon; False where the system gives no thread for it."""
        self._due = True
        self._ring()
        if not self._life.locked() and not self.closed:
            try:
                start_new_thread(self._run, ())
            except RuntimeError:  # no more threads, or the interpreter is ending
                return False
        return True

    def _ring(self) -> None:
        with suppress(RuntimeError):  # it is ringing already
            self._bell.release()

    def _run(self) -> None:
        """Be the thread; a second one ends at once."""
        while self._life.acquire(blocking=False):
            self._thread = get_ident()
            try:
                self._steps()
            finally:
                self._thread = 0
                self._life.release()
            # Whoever called ``wake`` before the release relied on this thread.
            if self.closed or not self._due:
                return

    def _steps(self) -> None:
        while not self.closed:
            self._due = False
            pause = self._step()
            if pause is not None:
                self._bell.acquire(timeout=min(pause, _LONGEST_PAUSE))
            elif not self._due:
                return

    @property
    def is_this_thread(self) -> bool:
        """Whether the caller runs in the worker's thread."""
        return self._thread == get_ident()

    @property
    def busy(self) -> bool:
        """Whether there is a thread."""
        return self._life.locked()

    def close(self) -> None:
        """Call ``step`` no more; return once the thread is gone.  Again is fine."""
        self.closed = True
        self._ring()
        if not self.is_this_thread:
            with self._life:
                pass
