"""A Transaction: reads and writes that happen as one step, or not at all."""

from __future__ import annotations

import sys
from _thread import RLock

from oblivion_dbm.bytes_like import to_bytes
from oblivion_dbm.engine.overlay import Overlay
from oblivion_dbm.mapping import StoredMapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import Any

    from oblivion_dbm.bytes_like import Bytes
    from oblivion_dbm.engine.storage_engine import StorageEngine
    from oblivion_dbm.mapping import Pair

    #: Writes puts, deletes and perhaps a clear, unless a check raises at that moment.
    WriteIf = Callable[[Callable[[], None], dict[bytes, bytes | None], bool], None]

ENDED = "this transaction has ended"


class Transaction(StoredMapping):
    """What ``Database.transaction()`` returns: a mapping, and a context manager.

    Reads show the state at its beginning and what was written through it; nobody
    else sees that before the end of the ``with`` block.  There all of it is
    written as one record, or nothing: an exception rolls the transaction back,
    and so does a ``ConflictError``, which is raised when a key that was read or
    written no longer holds what it held at the beginning.

    So transactions that write are serializable: it is as if each ran alone, at
    the moment of its commit.  A key that was absent counts as read too, a range
    counts as far as an iterator has come in it, with the keys that are new
    there, and ``len`` counts as the number it gave.  A value that was changed
    and put back is no conflict.  A transaction that only read has nothing to
    write, and never conflicts: it has seen one state.

    Nothing is locked while it runs.  To commit costs nothing beyond the write
    where nobody has written since the beginning.  Else it costs two look-ups for
    each key, and a walk over both states for each range: O(what was read).  That
    is done before the lock of the handle is taken, and again with it where yet
    another write came in between.

    Run it again when it conflicts:

    >>> import tempfile
    >>> from oblivion_dbm import ConflictError, Database
    >>> def transfer(db, source, target, amount):
    ...     while True:
    ...         try:
    ...             with db.transaction() as accounts:
    ...                 accounts[source] = str(int(accounts[source]) - amount)
    ...                 accounts[target] = str(int(accounts[target]) + amount)
    ...             return
    ...         except ConflictError:
    ...             continue
    >>> with Database(tempfile.mkdtemp() + "/store") as db:
    ...     db.update({"anna": "10", "ben": "0"})
    ...     transfer(db, "anna", "ben", 3)
    ...     dict(db)
    {b'anna': b'7', b'ben': b'3'}

    One transaction is for one thread; any number of them may run at once.  It
    is as large as memory allows and as one batch may be (4 GiB).  After its end
    every use raises ValueError, iterators included; after that of the Database,
    ``error``.  One that is forgotten is rolled back, with a ResourceWarning.
    """

    __slots__ = ("__weakref__", "_checked", "_engine", "_overlay", "_owner", "_value", "_write_if")

    def __init__(self, engine: StorageEngine, write_if: WriteIf, owner: object) -> None:
        """Begin; ``owner``, the handle, stays alive until the end."""
        self._engine = engine
        self._write_if = write_if
        self._owner: object = owner
        self._overlay = Overlay(engine.snapshot())
        self._value = self._overlay.value
        #: The sequence number up to which nothing that was read has changed.
        self._checked = self._overlay.below.sequence

    def __setitem__(self, key: Any, value: Bytes) -> None:
        """Put a value, for this transaction to see."""
        if type(key) is slice:
            raise TypeError("a range of keys cannot be assigned")
        self._write({to_bytes(key, "key"): to_bytes(value, "value")}, False)

    def __delitem__(self, key: Any) -> None:
        """Remove a key, or the keys of a slice.  Raises KeyError when absent."""
        if type(key) is slice:
            self._delete_range(key)
            return
        exact = to_bytes(key, "key")
        if self._value(exact) is None:
            raise KeyError(key)
        self._write({exact: None}, False)

    def __len__(self) -> int:
        """Return the exact number of keys.

        The first call costs what it costs a Snapshot, later ones look at what
        this transaction has written since.
        """
        return self._overlay.count()

    # What OrderedMapping is made of.

    def _pairs(
        self, start: bytes | None, stop: bytes | None, reverse: bool = False
    ) -> Iterator[Pair]:
        return self._overlay.scan(start, stop, reverse, self)

    def _keys(
        self, start: bytes | None, stop: bytes | None, reverse: bool = False
    ) -> Iterator[bytes]:
        return (key for key, _ in self._pairs(start, stop, reverse))

    def _values(
        self, start: bytes | None, stop: bytes | None, reverse: bool = False
    ) -> Iterator[bytes]:
        return (value for _, value in self._pairs(start, stop, reverse))

    def _first_key(self) -> bytes | None:
        return next(self._keys(None, None), None)

    def _write(self, changes: dict[bytes, bytes | None], cleared: bool) -> None:
        self._overlay.write(changes, cleared)

    def _check_writable(self) -> None:
        self._overlay.below.check()

    @property
    def _mutex(self) -> RLock:
        return RLock()  # there is one thread

    def _commit(self) -> None:
        pass

    # The end.

    @property
    def closed(self) -> bool:
        """Whether this transaction, or its Database, has ended."""
        return self._overlay.below.ended is not None

    def commit(self) -> None:
        """Write everything, as durably as the sync mode says, and end.

        Raises ConflictError where another write came in between, and nothing was
        written; and what any write may raise.  It has ended then too.
        """
        changes, cleared = self._overlay.changes()
        try:
            if changes or cleared:
                self._engine.check_writable()
                self._check()
                self._write_if(self._check, changes, cleared)
        finally:
            self.rollback()

    def _check(self) -> None:
        """Raise ConflictError unless all that was read, or written over, is as it was."""
        now = self._engine.snapshot()
        if now.sequence != self._checked:
            self._overlay.check_against(now)
            self._checked = now.sequence

    def rollback(self) -> None:
        """End without writing; nothing to do for one that has ended."""
        self._overlay.below.end(ValueError(ENDED))
        self._owner = None

    def __enter__(self) -> Transaction:
        self._check_writable()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.rollback()
        elif self._owner is not None:
            self.commit()

    def __del__(self) -> None:
        # In the middle of anything, a write of this very thread too: it takes no lock.
        overlay = getattr(self, "_overlay", None)
        if overlay is not None and overlay.below.ended is None and not sys.is_finalizing():
            from warnings import warn

            meaning = f"{self!r} was neither committed nor rolled back"
            self.rollback()
            warn(meaning, ResourceWarning, stacklevel=2, source=self)

    def __repr__(self) -> str:
        state = "ended " if self.closed else ""
        return f"<{state}Transaction on {self._owner!r}>"
