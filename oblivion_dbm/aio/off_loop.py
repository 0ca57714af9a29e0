"""Calls that an event loop does not wait for: threads that make them, and the way back.

There are two groups of threads, so that no read stands behind a sync.  What is
done comes back to the loop through one queue, so that a thousand writes that
were made durable together wake the loop once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Thread

from oblivion_dbm.engine.storage_engine import CLOSED
from oblivion_dbm.errors import error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, ParamSpec, TypeVar

    P = ParamSpec("P")
    T = TypeVar("T")

#: Threads for calls that read, and for those that wait for locks and syncs.  More
#: readers would stand in line for the interpreter's lock, not for the disk.
READERS, WAITERS = 4, 8


class OffLoop:
    """The threads of one handle, and the loop that it belongs to: the running one.

    A call that an awaiting task has given up (by cancellation) is not made if it
    has not begun, and is made to its end if it has.
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.readers = ThreadPoolExecutor(READERS, "oblivion_dbm-read")
        self.waiters = ThreadPoolExecutor(WAITERS, "oblivion_dbm-wait")
        self._done: deque[Callable[[], object]] = deque()
        self._woken = False

    def check(self) -> None:
        """Raise RuntimeError in a task of another loop."""
        if asyncio.get_running_loop() is not self.loop:
            raise RuntimeError("this handle belongs to another event loop: open the store there")

    def submit(
        self, threads: ThreadPoolExecutor, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        """Have a call made in a thread; raises ``error`` once the threads are told to end."""
        try:
            return threads.submit(call, *args, **kwargs)
        except RuntimeError as problem:
            raise error(CLOSED) from problem

    async def read(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what a call returns that waits for nothing but the disk."""
        return await self.result(self.submit(self.readers, call, *args, **kwargs))

    async def result(self, source: Future[T], ended: Callable[[], object] | None = None) -> T:
        """Wait for ``source``; ``ended`` is called on the loop once it is really over."""
        arrived = self.loop.create_future()

        def arrive() -> None:
            if ended is not None:
                ended()
            if not arrived.done():
                arrived.set_result(None)

        source.add_done_callback(lambda _: self._land(arrive))
        try:
            await arrived
        except asyncio.CancelledError:
            source.cancel()
            raise
        return source.result()

    async def acquire(self, call: Callable[[], T], give_back: Callable[[T], object]) -> T:
        """Return what a call made in a thread returns; if nobody waits any more, give it back."""
        source = self.submit(self.waiters, call)

        def give() -> None:
            if not source.cancelled() and source.exception() is None:
                give_back(source.result())

        try:
            return await self.result(source)
        except asyncio.CancelledError:
            self.after((source,), give)
            raise

    def after(self, sources: Iterable[Future[Any]], call: Callable[[], T]) -> Future[T]:
        """Have a call made in a thread once all ``sources`` are over, whatever comes of them."""

        def wait_and_call() -> T:
            wait(sources)
            return call()

        return self.submit(self.waiters, wait_and_call)

    def _land(self, call: Callable[[], object]) -> None:
        """Have a call made on the loop soon; from any thread."""
        self._done.append(call)
        if not self._woken:
            self._woken = True
            try:
                self.loop.call_soon_threadsafe(self._make_calls)
            except RuntimeError:  # the loop has been closed: nobody waits
                self._done.clear()

    def _make_calls(self) -> None:
        self._woken = False  # first: what is added from here on wakes the loop again
        for _ in range(len(self._done)):
            self._done.popleft()()

    def end(
        self, last: Callable[[], object], ended: asyncio.Future[BaseException | None]
    ) -> asyncio.Future[BaseException | None]:
        """Make the last call, in a thread of its own, and end all threads after it.

        ``ended`` gets what the call raised.  It is made whether or not anybody waits.
        """

        def end() -> None:
            problem: BaseException | None = None
            try:
                last()
            except BaseException as raised:  # noqa: BLE001 - it is raised where it was asked for
                problem = raised
            self.readers.shutdown()
            self.waiters.shutdown()
            self._land(lambda: arrive(problem))

        def arrive(problem: BaseException | None) -> None:
            thread.join()
            if not ended.done():
                ended.set_result(problem)

        thread = Thread(target=end, name="oblivion_dbm-end")
        thread.start()
        return ended
