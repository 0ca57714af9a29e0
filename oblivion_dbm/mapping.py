"""One ordered mapping, the same methods everywhere.

A store, a snapshot, a transaction and a prefixed view of any of them share
``OrderedMapping``; a subclass gives ``__getitem__``, ``__setitem__`` and
``__delitem__`` for single keys, four walks and ``_write``.  Keys and values go
in as str (UTF-8) or bytes-like and come out as bytes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import ItemsView, MutableMapping, ValuesView
from contextlib import contextmanager

from oblivion_dbm.batch import Batch
from oblivion_dbm.bytes_like import after_prefix, to_bound, to_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import RLock
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from typing import Any

    from oblivion_dbm.bytes_like import Bytes

    Pair = tuple[bytes, bytes]

#: Bytes of keys and values that ``load`` writes as one group.
LOAD_GROUP = 1 << 20

_MISSING: Any = object()


class OrderedMapping(MutableMapping):  # type: ignore[type-arg]  # keys go in as str, come out as bytes
    """The methods of every ordered mapping of ours, in terms of a few primitives."""

    __slots__ = ()

    @abstractmethod
    def _pairs(
        self, start: bytes | None, stop: bytes | None, reverse: bool = False
    ) -> Iterator[Pair]:
        """Return an iterator of (key, value) of [start, stop), over the present state."""

    @abstractmethod
    def _keys(
        self, start: bytes | None, stop: bytes | None, reverse: bool = False
    ) -> Iterator[bytes]:
        """Return an iterator of the keys of [start, stop), over the present state."""

    @abstractmethod
    def _values(
        self, start: bytes | None, stop: bytes | None, reverse: bool = False
    ) -> Iterator[bytes]:
        """Return an iterator of the values of [start, stop), over the present state."""

    @abstractmethod
    def _first_key(self) -> bytes | None:
        """Return the smallest key, None when there is none."""

    @abstractmethod
    def _write(self, changes: dict[bytes, bytes | None], cleared: bool) -> None:
        """Apply puts and deletes (None) as one, after a clear if ``cleared``."""

    @abstractmethod
    def _check_writable(self) -> None:
        """Raise unless this mapping may be changed."""

    @property
    @abstractmethod
    def _mutex(self) -> RLock:
        """The lock under which a read and the write that follows it are one.

        A write inside it is not yet as durable as the sync mode says: whoever
        holds it calls ``_commit`` once it is free again.
        """

    @abstractmethod
    def _commit(self) -> None:
        """Return once what was written is as durable as the sync mode says."""

    # Walking in order.

    def scan(
        self,
        *,
        start: Bytes | None = None,
        stop: Bytes | None = None,
        prefix: Bytes | None = None,
        reverse: bool = False,
    ) -> Iterator[Pair]:
        """Return an iterator of (key, value) in key order, over the present state.

        ``start`` is included, ``stop`` is not; ``prefix`` narrows both.  What is
        written later does not show.  To begin costs O(log n), each pair O(1).
        """
        return self._pairs(*self._range(start, stop, prefix), reverse)

    @staticmethod
    def _range(
        start: Bytes | None, stop: Bytes | None, prefix: Bytes | None
    ) -> tuple[bytes | None, bytes | None]:
        low, high = to_bound(start), to_bound(stop)
        if prefix is not None:
            begin = to_bytes(prefix, "key")
            end = after_prefix(begin)
            low = begin if low is None else max(low, begin)
            if end is not None:
                high = end if high is None else min(high, end)
        return low, high

    def _slice(self, part: slice) -> tuple[bytes | None, bytes | None]:
        if part.step is not None:
            raise ValueError("a slice of keys has no step")
        return to_bound(part.start), to_bound(part.stop)

    def __iter__(self) -> Iterator[bytes]:
        """Return an iterator of the keys in order, over the present state."""
        return self._keys(None, None)

    def __reversed__(self) -> Iterator[bytes]:
        """Return an iterator of the keys from the last to the first."""
        return self._keys(None, None, True)

    def keys(self) -> list[bytes]:  # type: ignore[override]  # dbm promises a list
        """Return a list of all keys in order."""
        return list(self._keys(None, None))

    def items(self) -> ItemsView[bytes, bytes]:
        """Return a view of the (key, value) pairs, in key order."""
        return _Items(self)

    def values(self) -> ValuesView[bytes]:
        """Return a view of the values, in key order."""
        return _Values(self)

    def first(self) -> Pair:
        """Return (key, value) of the smallest key; KeyError when there is none."""
        while True:
            key = self._first_key()
            if key is None:
                raise KeyError("the store is empty")
            value = self.get(key)
            if value is not None:
                return key, value

    def last(self) -> Pair:
        """Return (key, value) of the largest key; KeyError when there is none."""
        for pair in self._pairs(None, None, True):
            return pair
        raise KeyError("the store is empty")

    def firstkey(self) -> bytes | None:
        """Return the smallest key, None when there is none."""
        return self._first_key()

    def nextkey(self, key: Bytes) -> bytes | None:
        """Return the smallest key above ``key``, None when there is none or ``key`` is absent."""
        exact = to_bytes(key, "key")
        if exact not in self:
            return None
        return next(self._keys(exact + b"\0", None), None)

    def __bool__(self) -> bool:
        """Tell whether there is any key.  One look-up."""
        return self._first_key() is not None

    # Many at once.

    def get_many(self, keys: Iterable[Bytes], default: Any = None) -> list[Any]:
        """Return the values in the order of ``keys``, ``default`` for absent ones."""
        return [self.get(key, default) for key in keys]

    def put_many(self, pairs: Iterable[tuple[Bytes, Bytes]] | Mapping[Any, Bytes]) -> None:
        """Put all pairs as one: after a crash all are there, or none.

        Raises ValueError when they have more than 4,294,967,295 bytes.
        """
        source: Any = pairs.items() if hasattr(pairs, "items") else pairs
        changes: dict[bytes, bytes | None] = {
            to_bytes(key, "key"): to_bytes(value, "value") for key, value in source
        }
        self._write(changes, False)

    def update(self, other: Any = (), /, **more: Bytes) -> None:
        """Put what a mapping, an iterable of pairs and keywords give, as one."""
        if hasattr(other, "keys") and not hasattr(other, "items"):
            other = [(key, other[key]) for key in other.keys()]  # noqa: SIM118 - it may have no more
        self.put_many(dict(other, **more) if more else other)

    def load(
        self,
        pairs: Iterable[tuple[Bytes, Bytes]] | Mapping[Any, Bytes],
        progress: Callable[[int], object] | None = None,
    ) -> int:
        """Put any number of pairs in groups of about a mebibyte; return how many.

        Not atomic as a whole, but each group is.  ``progress`` is called with
        the number stored so far after each group; when something raises, the
        exception's ``loaded`` says the same.
        """
        source: Any = pairs.items() if hasattr(pairs, "items") else pairs
        loaded = 0
        group: dict[bytes, bytes | None] = {}
        size = count = 0
        try:
            for key, value in source:
                exact, content = to_bytes(key, "key"), to_bytes(value, "value")
                group[exact] = content
                size += len(exact) + len(content)
                count += 1
                if size >= LOAD_GROUP:
                    self._write(group, False)
                    loaded, size, group = count, 0, {}
                    if progress is not None:
                        progress(loaded)
            self._write(group, False)
        except Exception as problem:
            problem.loaded = loaded  # type: ignore[attr-defined]  # says how far it came
            raise
        return count

    def batch(self) -> Batch:
        """Return a context manager whose changes happen together at its end, or not at all."""
        self._check_writable()
        return Batch(self._write)

    def prefixed(self, prefix: Bytes) -> Prefixed:
        """Return a mapping of the keys that begin with ``prefix``, without it."""
        return Prefixed(self, to_bytes(prefix, "key"))

    def snapshot(self) -> AbstractContextManager[OrderedMapping]:
        """Return the present state, which nothing changes any more."""
        raise TypeError(f"a {type(self).__name__} has no snapshots, only the store has")

    def transaction(self) -> AbstractContextManager[OrderedMapping]:
        """Return a context manager whose reads and writes are one step."""
        raise TypeError(f"a {type(self).__name__} has no transactions, only the store has")

    # The rest of a MutableMapping.

    def pop(self, key: Any, default: Any = _MISSING) -> Any:
        """Remove ``key`` and return its value, or ``default``; KeyError without one."""
        exact = to_bytes(key, "key")  # no key at all is a TypeError, whatever the handle is
        with self._mutex:
            value = self.get(exact)
            if value is None:
                self._check_writable()
                if default is _MISSING:
                    raise KeyError(key)
                return default
            del self[exact]
        self._commit()
        return value

    def popitem(self) -> Pair:
        """Remove the smallest key; return (key, value).  O(log n).

        Raises KeyError when there is none.
        """
        with self._mutex:
            self._check_writable()
            pair = self.first()
            del self[pair[0]]
        self._commit()
        return pair

    def setdefault(self, key: Any, default: Any = b"") -> bytes:
        """Return the value of ``key``, after putting ``default`` where it has none."""
        exact = to_bytes(key, "key")  # as in ``pop``
        with self._mutex:
            value = self.get(exact)
            if value is None:
                value = to_bytes(default, "value")
                self[exact] = value
        self._commit()
        return value

    def clear(self) -> None:
        """Remove every key."""
        self._write({}, True)

    def _delete_range(self, part: slice) -> None:
        """Remove the keys of a slice as one."""
        with self._mutex:
            self._check_writable()
            keys = self._keys(*self._slice(part))
            self._write(dict.fromkeys(keys), False)
        self._commit()


class _Items(ItemsView[bytes, bytes]):
    """Pairs in key order, without a look-up for each."""

    _mapping: OrderedMapping

    def __iter__(self) -> Iterator[Pair]:
        return self._mapping.scan()

    def __reversed__(self) -> Iterator[Pair]:
        return self._mapping.scan(reverse=True)


class _Values(ValuesView[bytes]):
    """Values in key order, without a look-up for each."""

    _mapping: OrderedMapping

    def __iter__(self) -> Iterator[bytes]:
        return self._mapping._values(None, None)

    def __reversed__(self) -> Iterator[bytes]:
        return self._mapping._values(None, None, True)


class StoredMapping(OrderedMapping):
    """An ordered mapping that looks keys up with one function, ``_value``."""

    __slots__ = ()

    _value: Callable[[bytes], bytes | None]

    def __getitem__(self, key: Any) -> Any:
        """Return the value of ``key``, or an iterator of (key, value) for a slice.

        Raises KeyError with the key as given, and CorruptionError for a record
        that is damaged.
        """
        if type(key) is bytes:
            value = self._value(key)
        elif type(key) is slice:
            return self._pairs(*self._slice(key))
        else:
            value = self._value(to_bytes(key, "key"))
        if value is None:
            raise KeyError(key)
        return value

    def get(self, key: Any, default: Any = None) -> Any:
        """Return the value of ``key``, ``default`` where it has none."""
        value = self._value(key if type(key) is bytes else to_bytes(key, "key"))
        return default if value is None else value

    def __contains__(self, key: object) -> bool:
        """Tell whether ``key`` has a value; TypeError for what can be no key."""
        exact = key if type(key) is bytes else to_bytes(key, "key")  # type: ignore[arg-type]  # it checks
        return self._value(exact) is not None

    @property
    @abstractmethod
    def closed(self) -> bool:
        """Whether this has ended."""

    def __copy__(self) -> StoredMapping:
        raise TypeError(f"a {type(self).__name__} cannot be copied: it stands for one thing only")

    def __deepcopy__(self, memo: object) -> StoredMapping:
        return self.__copy__()

    def __reduce__(self) -> str:
        raise TypeError(f"a {type(self).__name__} cannot be pickled: it is a handle on open files")


class Prefixed(OrderedMapping):
    """The keys of ``whole`` that begin with ``prefix``, seen without it: a store in a store."""

    __slots__ = ("_whole", "prefix")

    def __init__(self, whole: OrderedMapping, prefix: bytes) -> None:
        self._whole = whole
        self.prefix = prefix

    def __repr__(self) -> str:
        return f"{self._whole!r}.prefixed({self.prefix!r})"

    def _full(self, key: Any) -> bytes:
        return self.prefix + to_bytes(key, "key")

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return self._pairs(*self._slice(key))
        value = self._whole.get(self._full(key))
        if value is None:
            raise KeyError(key)
        return value

    def get(self, key: Any, default: Any = None) -> Any:
        """Return the value of ``key``, ``default`` where it has none."""
        return self._whole.get(self._full(key), default)

    def __contains__(self, key: object) -> bool:
        return self._full(key) in self._whole

    def __setitem__(self, key: Any, value: Bytes) -> None:
        if isinstance(key, slice):
            raise TypeError("a range of keys cannot be assigned")
        self._whole[self._full(key)] = value

    def __delitem__(self, key: Any) -> None:
        if isinstance(key, slice):
            self._delete_range(key)
            return
        try:
            del self._whole[self._full(key)]
        except KeyError:
            raise KeyError(key) from None

    def __len__(self) -> int:
        """Return the number of keys under the prefix: a walk over them."""
        return sum(1 for _ in self._keys(None, None))

    def _bounds(self, start: bytes | None, stop: bytes | None) -> tuple[bytes, bytes | None]:
        low = self.prefix if start is None else self.prefix + start
        return low, after_prefix(self.prefix) if stop is None else self.prefix + stop

    def _pairs(
        self, start: bytes | None, stop: bytes | None, reverse: bool = False
    ) -> Iterator[Pair]:
        size = len(self.prefix)
        pairs = self._whole._pairs(*self._bounds(start, stop), reverse)
        return ((key[size:], value) for key, value in pairs)

    def _keys(
        self, start: bytes | None, stop: bytes | None, reverse: bool = False
    ) -> Iterator[bytes]:
        size = len(self.prefix)
        return (key[size:] for key in self._whole._keys(*self._bounds(start, stop), reverse))

    def _values(
        self, start: bytes | None, stop: bytes | None, reverse: bool = False
    ) -> Iterator[bytes]:
        return self._whole._values(*self._bounds(start, stop), reverse)

    def _first_key(self) -> bytes | None:
        return next(self._keys(None, None), None)

    def _write(self, changes: dict[bytes, bytes | None], cleared: bool) -> None:
        with self._mutex:
            full: dict[bytes, bytes | None] = {}
            if cleared:
                full = dict.fromkeys(self._whole._keys(*self._bounds(None, None)))
            full.update((self.prefix + key, value) for key, value in changes.items())
            self._whole._write(full, False)
        self._commit()

    def snapshot(self) -> AbstractContextManager[OrderedMapping]:
        """Return a context manager that gives this view of a snapshot of the whole."""
        return self._of(self._whole.snapshot())

    def transaction(self) -> AbstractContextManager[OrderedMapping]:
        """Return a context manager that gives this view of a transaction on the whole."""
        return self._of(self._whole.transaction())

    @contextmanager
    def _of(self, whole: AbstractContextManager[OrderedMapping]) -> Iterator[OrderedMapping]:
        with whole as mapping:
            yield mapping.prefixed(self.prefix)

    def _check_writable(self) -> None:
        self._whole._check_writable()

    @property
    def _mutex(self) -> RLock:
        return self._whole._mutex

    def _commit(self) -> None:
        self._whole._commit()
