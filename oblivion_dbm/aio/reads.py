"""Reading without the loop: what a store, a snapshot and a transaction share; and walks."""

from __future__ import annotations

from functools import partial
from itertools import chain, repeat
from typing import Generic, TypeVar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator
    from typing import Any, ParamSpec

    from oblivion_dbm.aio.off_loop import OffLoop
    from oblivion_dbm.bytes_like import Bytes
    from oblivion_dbm.mapping import Pair, StoredMapping

    P = ParamSpec("P")

T = TypeVar("T")

#: Items, and about how many bytes of them, that a walk fetches at once.
FIRST_CHUNK, LARGEST_CHUNK, LARGEST_FETCH = 16, 512, 1 << 20


class Walk(Generic[T]):
    """An asynchronous iterator over one state: that of the moment of its first item.

    It holds that state until its end, until ``aclose()``, until it is cancelled or
    until nobody holds it any more.
    """

    def __init__(
        self,
        fetch: Callable[[Callable[[], list[T]]], Any],
        begin: Callable[[], Iterator[T]],
        closed: Callable[[], bool],
    ) -> None:
        self._fetch = fetch
        self._closed = closed
        self._begin = begin
        self._source: Iterator[T] | None = None
        self._chunk: Iterator[T] = iter(())
        self._sizes = chain((FIRST_CHUNK, 4 * FIRST_CHUNK), repeat(LARGEST_CHUNK))
        self._ended: str | None = None
        self._fetching = False

    def __aiter__(self) -> Walk[T]:
        return self

    async def __anext__(self) -> T:
        if self._closed():
            self._chunk = iter(())  # the next fetch raises
        for item in self._chunk:
            return item
        if self._ended is not None:
            if self._ended:
                raise RuntimeError(self._ended)
            raise StopAsyncIteration
        if self._fetching:
            raise RuntimeError("another task waits for the next item of this walk")
        self._fetching = True
        try:
            chunk = await self._fetch(self._next_chunk)
        except BaseException as problem:
            self._end(f"this walk has ended by {type(problem).__name__}; begin another one")
            raise
        finally:
            self._fetching = False
        if chunk and not self._has_ended():  # by another task, meanwhile
            self._chunk = iter(chunk)
            return next(self._chunk)
        self._end("")
        raise StopAsyncIteration

    def _has_ended(self) -> bool:
        return self._ended is not None

    def _next_chunk(self) -> list[T]:
        """Return the next items, none at the end; in a thread."""
        source = self._source
        if source is None:
            source = self._source = self._begin()
            if self._has_ended():  # given up meanwhile
                self._source = None
        most, size = next(self._sizes), 0
        chunk: list[T] = []
        item: Any
        for item in source:
            chunk.append(item)
            size += len(item[1]) if type(item) is tuple else len(item)
            if len(chunk) >= most or size >= LARGEST_FETCH:
                break
        return chunk

    def _end(self, reason: str) -> None:
        self._ended = reason
        self._source, self._chunk = None, iter(())

    async def aclose(self) -> None:
        """Let go of the state; what follows is the end.  ``contextlib.aclosing`` calls it."""
        self._end("")


class Reads:
    """The methods that read: what a store, a snapshot and a transaction share."""

    _off_loop: OffLoop

    async def _read(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what a call made in a thread returns."""
        return await self._off_loop.read(call, *args, **kwargs)

    def _mapping(self) -> StoredMapping:
        """Return what is read; raises where it may not be used now."""
        raise NotImplementedError

    def _is_closed(self) -> bool:
        return self._mapping().closed

    def __copy__(self) -> Reads:
        raise TypeError(f"a {type(self).__name__} cannot be copied: it stands for one thing only")

    def __deepcopy__(self, memo: object) -> Reads:
        return self.__copy__()

    def __reduce__(self) -> str:
        raise TypeError(f"a {type(self).__name__} cannot be pickled: it is a handle on open files")

    async def get(self, key: Bytes, default: Any = None) -> Any:
        """Return the value of ``key``, ``default`` where it has none."""
        return await self._read(self._mapping().get, key, default)

    async def contains(self, key: Bytes) -> bool:
        """Tell whether ``key`` has a value."""
        return await self.get(key) is not None

    async def get_many(self, keys: Iterable[Bytes], default: Any = None) -> list[Any]:
        """Return the values in the order of ``keys``, ``default`` for absent ones."""
        return await self._read(self._mapping().get_many, list(keys), default)

    async def first(self) -> Pair:
        """Return (key, value) of the smallest key; KeyError when there is none."""
        return await self._read(self._mapping().first)

    async def last(self) -> Pair:
        """Return (key, value) of the largest key; KeyError when there is none."""
        return await self._read(self._mapping().last)

    async def count(self) -> int:
        """Return the exact number of keys; see ``len`` of a ``Database`` for what it costs."""
        return await self._read(self._mapping().__len__)

    def scan(
        self,
        *,
        start: Bytes | None = None,
        stop: Bytes | None = None,
        prefix: Bytes | None = None,
        reverse: bool = False,
    ) -> Walk[Pair]:
        """Return an asynchronous iterator of (key, value) in key order.

        ``start`` is included, ``stop`` is not; ``prefix`` narrows both.
        """
        begin = partial(
            self._mapping().scan, start=start, stop=stop, prefix=prefix, reverse=reverse
        )
        return Walk(self._read, begin, self._is_closed)

    def items(self) -> Walk[Pair]:
        """Return an asynchronous iterator of all (key, value) in key order."""
        return self.scan()

    def keys(self) -> Walk[bytes]:
        """Return an asynchronous iterator of all keys in order."""
        return Walk(self._read, self._mapping().__iter__, self._is_closed)

    def values(self) -> Walk[bytes]:
        """Return an asynchronous iterator of all values in key order."""
        return Walk(self._read, self._mapping().values().__iter__, self._is_closed)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self.keys()
