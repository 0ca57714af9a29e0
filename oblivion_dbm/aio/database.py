"""``Database`` and ``open`` for asyncio; what goes where is in the package's docstring."""

from __future__ import annotations

import asyncio
import sys
from functools import partial

from oblivion_dbm import database
from oblivion_dbm.aio.batch import GatheredBatch
from oblivion_dbm.aio.off_loop import OffLoop
from oblivion_dbm.aio.reads import Reads
from oblivion_dbm.aio.snapshot import Snapshot
from oblivion_dbm.aio.transaction import Transaction
from oblivion_dbm.bytes_like import to_bytes
from oblivion_dbm.engine.storage_engine import CLOSED
from oblivion_dbm.errors import error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping
    from concurrent.futures import Future
    from types import TracebackType
    from typing import Any, ParamSpec, TypeVar

    from oblivion_dbm.bytes_like import Bytes
    from oblivion_dbm.database import Path
    from oblivion_dbm.engine.backup import Report

    P = ParamSpec("P")
    T = TypeVar("T")

#: Bytes of a key and a value that are made a record on the loop: some 30 µs.
LARGEST_ON_LOOP = 1 << 16


class Database(Reads):
    """A store, for the tasks of one event loop; ``async with``, or ``await`` and ``close``.

    It is opened as ``oblivion_dbm.Database`` is, with the same arguments, and raises
    what that raises.  What is different:

    * Writes of one handle happen in the order in which they were asked for,
      whichever tasks asked, waiting or not: ``put``, ``delete``, ``put_many``,
      batches, ``pop``, ``clear`` and ``delete_range``.  A read sees every write
      that was awaited before.
    * A write that is cancelled happens whole or not at all.
    * ``delete`` takes an absent key for no error, as a batch does, since it does
      not look; ``pop`` looks.
    * A walk shows the state of the moment of its first item.

    Used from another event loop it raises RuntimeError, after ``close`` it raises
    ``error``.  One that is forgotten is closed, with a ResourceWarning; the loop
    waits for that.
    """

    _store: database.Database | None = None

    def __init__(
        self,
        path: Path,
        flag: str = "c",
        mode: int = 0o666,
        *,
        sync: str | float | None = None,
        lock_timeout: float = 0.0,
        **options: Any,
    ) -> None:
        """Name the store; it is opened by ``await`` or ``async with``."""
        self._given = path
        options.setdefault("read_ahead", True)
        self._open = partial(
            database.Database, path, flag, mode, sync=sync, lock_timeout=lock_timeout, **options
        )
        self._opening = False
        #: Held by who hands in a write, until it is queued (or done).
        self._turn = asyncio.Lock()
        self._queued: set[Future[None]] = set()
        self._ended: asyncio.Future[BaseException | None] | None = None

    # Beginning and end.

    async def _begin(self) -> Database:
        if self._store is not None:
            self._mapping()
            return self
        if self._opening:
            raise RuntimeError("the store is being opened already")
        self._opening = True
        off_loop = self._off_loop = OffLoop()
        try:
            self._store = await off_loop.acquire(self._open, database.Database.close)
        except asyncio.CancelledError:
            # The open may still wait for another writer; nobody waits for it.
            off_loop.end(lambda: None, off_loop.loop.create_future())
            raise
        except BaseException:
            await asyncio.wait((off_loop.end(lambda: None, off_loop.loop.create_future()),))
            raise
        finally:
            self._opening = False
        return self

    def __await__(self) -> Generator[Any, None, Database]:
        return self._begin().__await__()

    async def __aenter__(self) -> Database:
        return await self._begin()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Write what is queued, end the handle and its threads; a second time is fine.

        A cancelled close goes on by itself.
        """
        store = self._store
        if store is None:
            return
        self._off_loop.check()
        if self._ended is not None:
            await asyncio.wait((self._ended,))
            return
        ended = self._ended = self._off_loop.loop.create_future()
        try:
            await self._turn.acquire()  # behind all writes that were asked for before
        finally:
            self._off_loop.end(store.close, ended)
        await asyncio.wait((ended,))
        problem = ended.result()
        if problem is not None:
            raise problem

    def __del__(self) -> None:
        if self._store is not None and self._ended is None and not sys.is_finalizing():
            from warnings import warn

            warn(f"{self!r} was never closed", ResourceWarning, stacklevel=2, source=self)

    def __repr__(self) -> str:
        return f"<aio.Database {self._given if self._store is None else self._store!r}>"

    # What Reads is made of.

    def _mapping(self) -> database.Database:
        store = self._store
        if store is None:
            raise RuntimeError("the store is opened by `async with` or `await`")
        self._off_loop.check()
        if store.closed:
            store.refresh()  # raises why: in a forked child there are no threads either
        if self._ended is not None:
            raise error(CLOSED)
        return store

    async def get(self, key: Bytes, default: Any = None) -> Any:
        """Return the value of ``key``, ``default`` where it has none."""
        store = self._mapping()
        known, value = store.recall(key)
        if not known:
            value = await self._read(store.get, key)
        return default if value is None else value

    # Writes.

    async def put(self, key: Bytes, value: Bytes) -> None:
        """Put a value; returns when a ``Database``'s put would have.

        In mode "full" that is once it is on the disk; puts that are awaited
        together share one sync.
        """
        exact, content = to_bytes(key, "key"), to_bytes(value, "value")
        store = self._mapping()
        await self._queue(len(exact) + len(content), partial(store.put_async, exact, content))

    async def delete(self, key: Bytes) -> None:
        """Remove a key; an absent one is no error.  See ``put``."""
        exact = to_bytes(key, "key")
        await self._queue(len(exact), partial(self._mapping().delete_async, exact))

    async def put_many(self, pairs: Iterable[tuple[Bytes, Bytes]] | Mapping[Any, Bytes]) -> None:
        """Put all pairs as one: after a crash all are there, or none.

        Raises ValueError when they have more than 4,294,967,295 bytes.
        """
        source: Any = pairs.items() if hasattr(pairs, "items") else pairs
        await self._write({to_bytes(key, "key"): to_bytes(value, "value") for key, value in source})

    def batch(self) -> GatheredBatch:
        """Return an ``async with`` whose changes happen together at its end, or not at all."""
        self._check_writable()
        return GatheredBatch(self._write)

    async def pop(self, key: Bytes, *default: Any) -> Any:
        """Remove ``key`` and return its value, or the default; KeyError without one."""
        return await self._alone(partial(self._mapping().pop, key, *default))

    async def clear(self) -> None:
        """Remove every key, at the same cost whatever their number."""
        await self._alone(self._mapping().clear)

    async def delete_range(self, start: Bytes | None = None, stop: Bytes | None = None) -> None:
        """Remove the keys from ``start`` on, and before ``stop``, as one."""
        await self._alone(partial(self._mapping().__delitem__, slice(start, stop)))

    def _check_writable(self) -> None:
        store = self._mapping()
        if store.readonly:
            store.batch()  # raises why

    async def _write(self, changes: dict[bytes, bytes | None], cleared: bool = False) -> None:
        """Apply puts and deletes (None) as one, after a clear if ``cleared``."""
        store = self._mapping()
        self._check_writable()
        if cleared:
            await self._alone(partial(_write_cleared, store, changes))
        elif changes:
            await self._queue(None, partial(store.batch_async, changes))

    async def _queue(self, size: int | None, hand_in: Callable[[], Future[None]]) -> None:
        """Hand a write to the queue, after those that were asked for before, and wait for it.

        ``size``: of its key and value, None for a batch.
        """
        store, off_loop = self._mapping(), self._off_loop
        await self._turn.acquire()
        write = None
        try:
            if size is not None and size <= LARGEST_ON_LOOP and store.has_room(size):
                write = self._noted(hand_in())
        except BaseException:  # of a store that has been closed meanwhile
            self._turn.release()
            raise
        if write is not None:
            self._turn.release()
        else:
            write = await self._in_turn((), lambda: self._noted(hand_in()))
        await off_loop.result(write)

    def _noted(self, write: Future[None]) -> Future[None]:
        """Remember a write for as long as it is queued; from any thread."""
        self._queued.add(write)
        write.add_done_callback(self._queued.discard)
        return write

    async def _alone(self, call: Callable[[], T]) -> T:
        """Make a call in a thread, after all writes that were asked for before, and wait for it."""
        await self._turn.acquire()
        return await self._in_turn(tuple(self._queued), call)

    async def _in_turn(self, before: Iterable[Future[Any]], call: Callable[[], T]) -> T:
        """Make a call in a thread; the turn, which is held, ends when the call does."""
        try:
            source = self._off_loop.after(before, call)
        except BaseException:
            self._turn.release()
            raise
        return await self._off_loop.result(source, self._turn.release)

    # The store.

    @property
    def path(self) -> str:
        """The store's directory, absolute."""
        return self._mapping().path

    @property
    def readonly(self) -> bool:
        """Whether this handle was opened with flag 'r'."""
        return self._mapping().readonly

    @property
    def closed(self) -> bool:
        """Whether this handle is not open, or not any more."""
        return self._store is None or self._ended is not None or self._store.closed

    def snapshot(self) -> Snapshot:
        """Return the present state, to be made by ``async with`` or ``await``."""
        return Snapshot(self._off_loop, self._mapping().snapshot)

    def transaction(self) -> Transaction:
        """Return an ``async with`` whose reads and writes are one step; see ``Transaction``."""
        return Transaction(self._off_loop, self._mapping().transaction)

    async def _settled(self, call: Callable[[], T]) -> T:
        """Make a call in a thread once all writes that were asked for before are done."""
        await self._turn.acquire()
        try:
            source = self._off_loop.after(tuple(self._queued), call)
        finally:
            self._turn.release()
        return await self._off_loop.result(source)

    async def sync(self) -> None:
        """Return once everything written is on the disk."""
        await self._settled(self._mapping().sync)

    async def flush(self) -> None:
        """Turn what is in memory into a table on the disk."""
        await self._settled(self._mapping().flush)

    async def compact(self) -> None:
        """Merge all tables into one run, without what was deleted or replaced.  O(store)."""
        await self._settled(self._mapping().compact)

    async def refresh(self) -> None:
        """See what another process has written; reads do this by themselves."""
        await self._read(self._mapping().refresh)

    async def sequence(self) -> int:
        """Return how many bytes of records the store has logged; see ``Database.sequence``."""
        store = self._mapping()
        return await self._read(lambda: store.sequence)

    async def verify(self) -> list[Any]:
        """Check every byte and every invariant; return the findings, none being good."""
        return await self._settled(self._mapping().verify)

    async def backup(
        self,
        destination: Path,
        *,
        copy: bool = False,
        progress: Callable[[int, int], object] | None = None,
    ) -> Report:
        """Make a backup, in a thread, as ``Database.backup`` does; ``progress`` is called there."""
        call = partial(self._mapping().backup, destination, copy=copy, progress=progress)
        return await self._settled(call)

    async def stats(self) -> dict[str, Any]:
        """Return figures: see ``Database.stats``."""
        return await self._settled(self._mapping().stats)


def _write_cleared(store: database.Database, changes: dict[bytes, bytes | None]) -> None:
    """Apply puts and deletes (None) after a clear, as one."""
    with store.batch() as batch:
        batch.clear()
        for key, value in changes.items():
            if value is None:
                del batch[key]
            else:
                batch[key] = value


def open(
    file: Path,
    flag: str = "r",
    mode: int = 0o666,
    *,
    sync: str | float | None = None,
    lock_timeout: float = 0.0,
    **options: Any,
) -> Database:
    """Return a ``Database``, as ``oblivion_dbm.open`` does; the default is to read."""
    return Database(file, flag, mode, sync=sync, lock_timeout=lock_timeout, **options)
