"""A Transaction for asyncio."""

from __future__ import annotations

import asyncio
from functools import partial

from oblivion_dbm.aio.reads import Reads
from oblivion_dbm.bytes_like import to_bytes
from oblivion_dbm.transaction import Transaction as TransactionMapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from types import TracebackType
    from typing import Any, ParamSpec, TypeVar

    from oblivion_dbm.aio.off_loop import OffLoop
    from oblivion_dbm.bytes_like import Bytes

    P = ParamSpec("P")
    T = TypeVar("T")


class Transaction(Reads):
    """Reads and writes that are one step; see ``oblivion_dbm.transaction``.

    ``async with`` commits at its end, or raises ``ConflictError``; an exception
    rolls back, cancellation included.  One that is cancelled while it commits is
    committed whole or not at all.  Several tasks may use it: it does one thing
    after the other.
    """

    def __init__(self, off_loop: OffLoop, make: Callable[[], TransactionMapping]) -> None:
        self._off_loop = off_loop
        self._make = make
        self._turn = asyncio.Lock()
        self._calls: tuple[Future[Any], ...] = ()
        self._transaction: TransactionMapping | None = None

    def _mapping(self) -> TransactionMapping:
        self._off_loop.check()
        if self._transaction is None:
            raise RuntimeError("a transaction begins by `async with`")
        return self._transaction

    async def _read(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._in_turn(partial(call, *args, **kwargs))

    async def _in_turn(self, call: Callable[[], T]) -> T:
        await self._turn.acquire()
        try:
            source = self._off_loop.submit(self._off_loop.waiters, call)
        except BaseException:
            self._turn.release()
            raise
        self._calls = (source,)
        return await self._off_loop.result(source, self._turn.release)

    async def put(self, key: Bytes, value: Bytes) -> None:
        """Put a value, for this transaction to see."""
        await self._read(
            self._mapping().__setitem__, to_bytes(key, "key"), to_bytes(value, "value")
        )

    async def delete(self, key: Bytes) -> None:
        """Remove a key; an absent one is no error."""
        await self._read(self._mapping().pop, to_bytes(key, "key"), None)

    async def pop(self, key: Bytes, *default: Any) -> Any:
        """Remove ``key`` and return its value, or the default; KeyError without one."""
        return await self._read(self._mapping().pop, to_bytes(key, "key"), *default)

    async def clear(self) -> None:
        """Remove every key."""
        await self._read(self._mapping().clear)

    async def __aenter__(self) -> Transaction:
        self._off_loop.check()
        if self._transaction is not None:
            raise RuntimeError("this transaction has begun already")
        self._transaction = await self._off_loop.acquire(self._make, TransactionMapping.rollback)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        transaction = self._mapping()
        try:
            await self._in_turn(transaction.commit if kind is None else transaction.rollback)
        except asyncio.CancelledError:
            # A commit that has begun goes on; after it there is nothing to roll back.
            self._off_loop.after(self._calls, transaction.rollback)
            raise
