"""A look-alike of the standard module ``shelve`` on our stores.

Change ``import shelve`` into ``from oblivion_dbm import shelve``: existing
shelves of every standard kind still open, new ones are stores of ours.  The
classes are the standard ones, derived, so ``isinstance`` goes on holding, with
the signature of Python 3.15 (``serializer=``, ``deserializer=``) everywhere.

>>> import json, tempfile
>>> from oblivion_dbm import shelve
>>> path = tempfile.mkdtemp() + "/settings"
>>> with shelve.open(path) as shelf:
...     shelf["window"] = {"width": 80}
>>> with shelve.open(path, "r") as shelf:
...     shelf["window"]
{'width': 80}

What differs from the standard classes: ``clear()`` costs one call of the
backend's ``clear`` on every version, where older ones listed all keys for
every key; ``close()`` closes the backend also when writing the cache back
fails, and an AttributeError that the backend's ``close`` raises is not
swallowed.

:class:`Ordered` adds the cursor that :class:`BsdDbShelf` wants.
"""

from __future__ import annotations

import shelve as stdlib_shelve
from collections.abc import MutableMapping
from pickle import dumps, loads

from oblivion_dbm import stdlib

TYPE_CHECKING = False  # importing typing would cost more than all of this
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, TypeAlias

    from oblivion_dbm.stdlib import StrOrBytesPath

    Serializer: TypeAlias = Callable[[Any, int], bytes | bytearray]
    Deserializer: TypeAlias = Callable[[bytes], Any]
    BytesMapping = MutableMapping[Any, bytes]
    StandardShelf = stdlib_shelve.Shelf[Any]
    StandardBsdDbShelf = stdlib_shelve.BsdDbShelf[Any]
    StandardDbfilenameShelf = stdlib_shelve.DbfilenameShelf[Any]
else:
    BytesMapping = MutableMapping
    StandardShelf = stdlib_shelve.Shelf
    StandardBsdDbShelf = stdlib_shelve.BsdDbShelf
    StandardDbfilenameShelf = stdlib_shelve.DbfilenameShelf

__all__ = ["BsdDbShelf", "DbfilenameShelf", "Ordered", "Shelf", "ShelveError", "open"]

if TYPE_CHECKING or not hasattr(stdlib_shelve, "ShelveError"):

    class ShelveError(Exception):
        """A shelf was asked for something that makes no sense."""

else:
    ShelveError = stdlib_shelve.ShelveError


def _pair(
    serializer: Serializer | None, deserializer: Deserializer | None
) -> tuple[Serializer, Deserializer]:
    if serializer is None and deserializer is None:
        return dumps, loads
    if serializer is None or deserializer is None:
        raise ShelveError("serializer and deserializer are given both or not at all")
    return serializer, deserializer


class Shelf(StandardShelf):
    """A mapping of str to objects over a mapping of bytes to bytes.

    ``serializer(obj, protocol)`` gives bytes or a bytearray,
    ``deserializer(data)`` the object back; only one of the two is a
    ShelveError.  Without them it is ``pickle``.  Each read gives a fresh copy,
    unless ``writeback`` keeps every entry that was touched and writes all of
    them again at ``sync()`` and ``close()``.
    """

    # What the standard class sets.
    cache: dict[str, Any]
    dict: Any
    keyencoding: str
    writeback: bool
    _protocol: int

    def __init__(
        self,
        dict: Any,
        protocol: int | None = None,
        writeback: bool = False,
        keyencoding: str = "utf-8",
        *,
        serializer: Serializer | None = None,
        deserializer: Deserializer | None = None,
    ) -> None:
        pair = _pair(serializer, deserializer)
        StandardShelf.__init__(self, dict, protocol, writeback, keyencoding)
        self.serializer, self.deserializer = pair

    def __getitem__(self, key: str) -> Any:
        if key in self.cache:
            return self.cache[key]
        value = self.deserializer(self.dict[key.encode(self.keyencoding)])
        if self.writeback:
            self.cache[key] = value
        return value

    def __setitem__(self, key: str, value: Any) -> None:
        if self.writeback:
            self.cache[key] = value
        self.dict[key.encode(self.keyencoding)] = self.serializer(value, self._protocol)

    def clear(self) -> None:
        """Remove everything, with the backend's own ``clear`` where it has one."""
        self.cache.clear()
        if hasattr(self.dict, "clear"):
            self.dict.clear()
        else:
            for key in list(self.dict.keys()):
                del self.dict[key]

    def reorganize(self) -> None:
        """Write the cache back and let the backend, if it can, use less disk."""
        self.sync()
        if hasattr(self.dict, "reorganize"):
            self.dict.reorganize()

    def close(self) -> None:
        """Write the cache back and close the backend, also if the first fails.

        Afterwards every use is a ValueError; closing again does nothing.
        """
        backend = self.dict
        if backend is None:  # the interpreter is ending
            return
        try:
            self.sync()
        finally:
            # Nothing is left for the standard close(), which would swallow an
            # AttributeError; it only marks the shelf as closed.
            self.cache, self.dict = {}, {}
            super().close()
            if hasattr(backend, "close"):
                backend.close()


class BsdDbShelf(Shelf, StandardBsdDbShelf):
    """A shelf with a cursor, over :class:`Ordered` or anything like it.

    ``first``, ``last``, ``next``, ``previous`` and ``set_location`` give
    (str key, object) and raise KeyError past an end.
    """

    def set_location(self, key: str | bytes) -> tuple[str, Any]:
        """Go to the record at ``key`` or the next one, and give it."""
        return self._object(self.dict.set_location(key))

    def next(self) -> tuple[str, Any]:
        """Go one record on and give it."""
        return self._object(next(self.dict))

    def previous(self) -> tuple[str, Any]:
        """Go one record back and give it."""
        return self._object(self.dict.previous())

    def first(self) -> tuple[str, Any]:
        """Go to the first record and give it."""
        return self._object(self.dict.first())

    def last(self) -> tuple[str, Any]:
        """Go to the last record and give it."""
        return self._object(self.dict.last())

    def _object(self, record: tuple[bytes, bytes]) -> tuple[str, Any]:
        key, data = record
        return key.decode(self.keyencoding), self.deserializer(data)


class DbfilenameShelf(Shelf, StandardDbfilenameShelf):
    """A shelf over the database at ``filename``; see :func:`open`."""

    def __init__(
        self,
        filename: StrOrBytesPath,
        flag: str = "c",
        protocol: int | None = None,
        writeback: bool = False,
        *,
        serializer: Serializer | None = None,
        deserializer: Deserializer | None = None,
        **options: Any,
    ) -> None:
        serializer, deserializer = _pair(serializer, deserializer)
        Shelf.__init__(
            self,
            stdlib.open(filename, flag, **options),
            protocol,
            writeback,
            serializer=serializer,
            deserializer=deserializer,
        )


def open(
    filename: StrOrBytesPath,
    flag: str = "c",
    protocol: int | None = None,
    writeback: bool = False,
    *,
    serializer: Serializer | None = None,
    deserializer: Deserializer | None = None,
    **options: Any,
) -> DbfilenameShelf:
    """Open a shelf, made by default if there is none.

    ``flag`` is that of :func:`oblivion_dbm.dbm.open`, to which ``options``
    (``mode=``, ``sync=``, ``lock_timeout=`` …) go as well.
    """
    return DbfilenameShelf(
        filename,
        flag,
        protocol,
        writeback,
        serializer=serializer,
        deserializer=deserializer,
        **options,
    )


class Ordered(BytesMapping):
    """An ordered store together with a cursor, as ``bsddb``'s B-trees had it.

    >>> import tempfile, oblivion_dbm
    >>> db = oblivion_dbm.Database(tempfile.mkdtemp() + "/store")
    >>> db.update({"a": "1", "c": "3"})
    >>> cursor = Ordered(db)
    >>> cursor.set_location("b"), cursor.previous()
    ((b'c', b'3'), (b'a', b'1'))
    >>> cursor.close()

    The mapping is ``db`` itself.  The cursor remembers the key it stands on
    and seeks it anew at every step, so it survives writes and the removal of
    that key.  A step past an end, or any step in an empty store, is a KeyError
    and leaves the cursor where it was.  Each step costs one seek.
    """

    def __init__(self, db: Any) -> None:
        self.db = db
        self._at: bytes | None = None

    def first(self) -> tuple[bytes, bytes]:
        """The smallest key and its value; the cursor goes there."""
        return self._go(self.db.scan(), "the store is empty")

    def last(self) -> tuple[bytes, bytes]:
        """The greatest key and its value; the cursor goes there."""
        return self._go(self.db.scan(reverse=True), "the store is empty")

    def set_location(self, key: str | bytes) -> tuple[bytes, bytes]:
        """The first record at ``key`` or after it."""
        return self._go(self.db.scan(start=key), key)

    def next(self) -> tuple[bytes, bytes]:
        """The record after the cursor; the first one if it stands nowhere yet."""
        if self._at is None:
            return self.first()
        return self._go(self.db.scan(start=self._at + b"\0"), "past the last key")

    def __next__(self) -> tuple[bytes, bytes]:
        return self.next()

    def previous(self) -> tuple[bytes, bytes]:
        """The record before the cursor; the last one if it stands nowhere yet."""
        if self._at is None:
            return self.last()
        return self._go(self.db.scan(stop=self._at, reverse=True), "before the first key")

    def _go(self, records: Iterable[tuple[bytes, bytes]], missing: object) -> tuple[bytes, bytes]:
        for key, value in records:
            self._at = key
            return key, value
        raise KeyError(missing)

    def __getitem__(self, key: Any) -> bytes:
        value: bytes = self.db[key]
        return value

    def __setitem__(self, key: Any, value: Any) -> None:
        self.db[key] = value

    def __delitem__(self, key: Any) -> None:
        del self.db[key]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.db)

    def __len__(self) -> int:
        return len(self.db)

    def __contains__(self, key: object) -> bool:
        return key in self.db

    def keys(self) -> Any:
        """The store's ``keys()``, a list of bytes."""
        return self.db.keys()

    def clear(self) -> None:
        """Remove everything, at the store's own cost of ``clear``."""
        self.db.clear()

    def sync(self) -> None:
        """The store's ``sync``."""
        self.db.sync()

    def reorganize(self) -> None:
        """The store's ``reorganize``."""
        self.db.reorganize()

    def close(self) -> None:
        """Close the store."""
        self.db.close()
