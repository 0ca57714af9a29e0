"""A Snapshot: the store as it was at one moment, as a mapping that nothing changes."""

from __future__ import annotations

import sys
from _thread import RLock
from errno import EROFS

from oblivion_dbm.errors import error
from oblivion_dbm.mapping import StoredMapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Any, NoReturn

    from oblivion_dbm.bytes_like import Bytes
    from oblivion_dbm.engine.storage_engine import StorageEngine
    from oblivion_dbm.mapping import Pair

RELEASED = "the snapshot has been closed"


class Snapshot(StoredMapping):
    """What ``Database.snapshot()`` returns: all methods that read, and a context manager.

    Any number of threads may read it, and none of them waits for a lock.  Every
    write raises ``error`` with errno EROFS.  Once it is closed, or its Database
    is, every access raises ``error``, that of iterators taken from it included.

    While it is open, tables that were merged since stay readable and keep their
    disk space.  One that is forgotten lets go of them when it is collected as
    garbage, and says so with a ResourceWarning.

    ``len`` looks up what is in memory and was not counted yet; where nobody has
    asked the Database for its length it walks the tables.

    >>> import tempfile
    >>> from oblivion_dbm import Database
    >>> with Database(tempfile.mkdtemp() + "/store") as db:
    ...     db["colour"] = "blue"
    ...     with db.snapshot() as before:
    ...         db["colour"] = "red"
    ...         before["colour"], db["colour"]
    (b'blue', b'red')
    """

    __slots__ = ("__weakref__", "_owner", "_path", "_state", "_value")

    def __init__(self, engine: StorageEngine, path: str, owner: object) -> None:
        """Show the present state; ``owner``, the handle, stays alive as long as this does."""
        self._owner: object = owner
        self._path = path
        self._state = engine.snapshot()
        self._value = self._state.lookup.value

    def __len__(self) -> int:
        """Return the exact number of keys; see the class for what it costs."""
        return self._state.count()

    # What OrderedMapping is made of.

    def _pairs(
        self, start: bytes | None, stop: bytes | None, reverse: bool = False
    ) -> Iterator[Pair]:
        return self._state.scan("pairs", start, stop, reverse, self)

    def _keys(
        self, start: bytes | None, stop: bytes | None, reverse: bool = False
    ) -> Iterator[bytes]:
        return self._state.scan("keys", start, stop, reverse, self)

    def _values(
        self, start: bytes | None, stop: bytes | None, reverse: bool = False
    ) -> Iterator[bytes]:
        return self._state.scan("values", start, stop, reverse, self)

    def _first_key(self) -> bytes | None:
        return self._state.first()

    # No writes.

    def _check_writable(self) -> NoReturn:
        self._state.check()
        raise error(EROFS, "a snapshot cannot be changed", self._path)

    def __setitem__(self, key: Any, value: Bytes) -> None:
        """Raise."""
        self._check_writable()

    def __delitem__(self, key: Any) -> None:
        """Raise."""
        self._check_writable()

    def _write(self, changes: dict[bytes, bytes | None], cleared: bool) -> None:  # noqa: ARG002 - refused whatever they are
        self._check_writable()

    @property
    def _mutex(self) -> RLock:
        return RLock()  # there is nothing to guard

    def _commit(self) -> None:
        pass

    # The handle.

    @property
    def path(self) -> str:
        """The store's directory, absolute."""
        return self._path

    @property
    def readonly(self) -> bool:
        """True."""
        return True

    @property
    def sequence(self) -> int:
        """The ``sequence`` that the Database had when this was made."""
        return self._state.sequence

    @property
    def closed(self) -> bool:
        """Whether this, or the Database, has been closed."""
        return self._state.ended is not None

    def close(self) -> None:
        """Let go of the state; a second time is fine.  Iterators raise from then on."""
        self._state.end(error(RELEASED))
        self._owner = None

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # In the middle of anything, a write of this very thread too: it takes no lock.
        state = getattr(self, "_state", None)
        if state is not None and state.ended is None and not sys.is_finalizing():
            from warnings import warn

            meaning = f"{self!r} was never closed"
            self.close()
            warn(meaning, ResourceWarning, stacklevel=2, source=self)

    def __repr__(self) -> str:
        state = "closed " if self.closed else ""
        return f"<{state}Snapshot {self.sequence} of {self._path!r}>"
