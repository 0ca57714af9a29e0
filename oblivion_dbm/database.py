"""``Database``: a store as a dict; ``open`` and ``remove``: a store as a dbm.

The hot methods are bound to the engine's when a store is opened, so that
between the user's call and the bytes there is little else.
"""

from __future__ import annotations

import os
import sys
from _operator import index
from errno import ENOENT

from oblivion_dbm.bytes_like import to_bytes
from oblivion_dbm.engine.options import FULL, OFF, Options
from oblivion_dbm.engine.storage_engine import open_store, remove_store
from oblivion_dbm.errors import error
from oblivion_dbm.mapping import StoredMapping

# Not where it is used: with cold caches an import costs more than a snapshot.
from oblivion_dbm.snapshot import Snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import RLock
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from concurrent.futures import Future
    from types import TracebackType
    from typing import Any

    from oblivion_dbm.bytes_like import Bytes
    from oblivion_dbm.engine.backup import Report
    from oblivion_dbm.engine.repair import Report as RepairReport
    from oblivion_dbm.engine.verify import Finding
    from oblivion_dbm.mapping import Pair
    from oblivion_dbm.transaction import Transaction

    Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]

_FLAGS = (
    "flag must be 'r' (read), 'w' (write), 'c' (write, create if missing) or 'n' (new, empty), "
    "then any of 's' (sync every write), 'f' (never sync by itself) and 'u' (no effect)"
)


def _parse_flag(flag: str, sync: str | float | None) -> tuple[str, str | float]:
    """Return (r, w, c or n; the sync mode).  Raises ValueError that lists the flags."""
    if not isinstance(flag, str):
        raise TypeError(f"flag must be a str, not {type(flag).__name__}")
    first, rest = flag[:1], set(flag[1:])
    if not first or first not in "rwcn" or rest - set("sfu"):
        raise ValueError(f"{_FLAGS}; not {flag!r}")
    if {"s", "f"} <= rest:
        raise ValueError(f"the letters 's' and 'f' of flag {flag!r} contradict each other")
    asked = FULL if "s" in rest else OFF if "f" in rest else None
    if asked is not None and sync is not None and sync != asked:
        raise ValueError(f"flag {flag!r} and sync={sync!r} contradict each other")
    return first, asked or ("normal" if sync is None else sync)


def _absolute(path: Path) -> str:
    """Return ``path`` as an absolute str; ``error`` where it is empty, as for any file."""
    name = os.fsdecode(path)
    if not name:
        raise error(ENOENT, "the path of a store is empty", name)
    return os.path.abspath(name)


class Database(StoredMapping):
    """An ordered mapping of bytes to bytes that stays: a store in a directory.

    ======================  ==================================================
    as a dict               ``db[k]``  ``db[k] = v``  ``del db[k]``  ``k in db``
                            ``len``  ``get``  ``pop``  ``items``  ``update`` …
    in order                ``scan``  ``db[a:b]``  ``first``  ``last``
    together                ``batch``  ``put_many``  ``get_many``  ``load``
                            ``transaction``  ``snapshot``
    parts                   ``prefixed``
    as a dbm                ``firstkey``  ``nextkey``  ``reorganize``  ``sync``
    the store               ``flush``  ``compact``  ``verify``  ``stats``
                            ``backup``  ``close``  ``path``  ``readonly``
                            ``closed``
    ======================  ==================================================

    Keys and values are str (stored as UTF-8), bytes, bytearray or memoryview;
    they come out as bytes.  One handle serves many threads.  Changing while
    iterating is allowed: an iteration shows the state at its start.

    >>> import tempfile
    >>> db = Database(tempfile.mkdtemp() + "/store")
    >>> db["b"] = "2"; db["a"] = "1"
    >>> list(db.scan())
    [(b'a', b'1'), (b'b', b'2')]
    >>> db.close()
    """

    __slots__ = ("__weakref__", "_engine", "_path", "_put", "_value")

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
        """Open the store at ``path``.

        ``flag`` is r, w, c or n, then any of s, f and u (see ``open``); ``sync``
        is "full", "normal", "off" or a number of seconds; ``lock_timeout`` seconds are waited for
        another writer.  Further options: ``oblivion_dbm.engine.options.Options``.

        Raises ``error`` with errno ENOENT where there is no store (r, w), with
        EAGAIN where another writer has it, CorruptionError where it is damaged;
        ValueError and TypeError for a flag or an option that cannot be.
        """
        first, sync_mode = _parse_flag(flag, sync)
        settings = Options(sync=sync_mode, lock_timeout=lock_timeout, **options)
        mode = index(mode)
        self._path = _absolute(path)
        self._engine = open_store(self._path, first, settings, mode)
        self._put = self._engine.put
        self._value = self._engine.value

    # One key.

    def __setitem__(self, key: Any, value: Bytes) -> None:
        """Put a value; TypeError and ValueError come before a byte is written.

        When it returns, every reader sees it and a crash of the process keeps
        it; what a crash of the machine keeps is the sync mode's.
        """
        if type(key) is not bytes:
            if type(key) is slice:
                raise TypeError("a range of keys cannot be assigned")
            key = to_bytes(key, "key")
        self._put(key, value if type(value) is bytes else to_bytes(value, "value"))

    def __delitem__(self, key: Any) -> None:
        """Remove a key, or the keys of a slice as one.  Raises KeyError when absent."""
        if type(key) is slice:
            self._delete_range(key)
        elif not self._engine.delete(to_bytes(key, "key")):
            raise KeyError(key)

    def __len__(self) -> int:
        """Return the exact number of keys.

        The first call after opening looks up each key of the MemTable, and
        walks the tables if their count is not known; later ones look at what
        is new.  A program that never asks pays nothing.
        """
        return self._engine.count()

    def clear(self) -> None:
        """Remove every key, at the same cost whatever their number."""
        self._engine.clear()

    # Writes that are not waited for.

    def put_async(self, key: Bytes, value: Bytes) -> Future[None]:
        """Queue a put; return a Future that is done once the put has returned.

        In mode "full" that is once it is on the disk; what is queued together
        shares one sync.  What one thread has queued comes before what it writes
        otherwise afterwards.  Waits while ``queue_limit`` bytes are queued; an
        error goes to this Future alone.  A queued write shows in reads once its
        Future is done.  Raises TypeError and ValueError at once.
        """
        return self._engine.submit({to_bytes(key, "key"): to_bytes(value, "value")})

    def delete_async(self, key: Bytes) -> Future[None]:
        """Queue the removal of a key; an absent one is no error.  See ``put_async``."""
        return self._engine.submit({to_bytes(key, "key"): None})

    def batch_async(
        self, changes: Mapping[Any, Bytes | None] | Iterable[tuple[Bytes, Bytes | None]]
    ) -> Future[None]:
        """Queue puts, and deletes (of keys whose value is None), as one.  See ``put_async``."""
        source: Any = changes.items() if hasattr(changes, "items") else changes
        return self._engine.submit(
            {
                to_bytes(key, "key"): None if value is None else to_bytes(value, "value")
                for key, value in source
            }
        )

    # What never waits, for event loops.

    def has_room(self, size: int) -> bool:
        """Tell whether ``put_async`` takes a key and value of ``size`` bytes at once.

        Else it would wait for room in the queue.  Looks at memory, and takes no lock.
        """
        return self._engine.has_room(size)

    def recall(self, key: Bytes) -> tuple[bool, bytes | None]:
        """Return (True, the value of ``key`` or None) where memory alone tells, else (False, None).

        It touches no file and waits for no lock.
        """
        return self._engine.recall(to_bytes(key, "key"))

    # States and steps.

    def snapshot(self) -> Snapshot:
        """Return the present state as a mapping that nothing changes any more.

        It costs some 20 µs, whatever is in memory; the first walk puts in order
        what was written since the last flush.  While it is open it keeps the
        disk space of tables that were merged since, so close it, or use ``with``.
        """
        return Snapshot(self._engine, self._path, self)

    def transaction(self) -> Transaction:
        """Return a context manager whose reads and writes are one step; see ``Transaction``."""
        from oblivion_dbm.transaction import Transaction

        return Transaction(self._engine, self._write_if, self)

    def _write_if(
        self, check: Callable[[], None], changes: dict[bytes, bytes | None], cleared: bool
    ) -> None:
        """Write, unless ``check`` raises at that very moment."""
        with self._mutex:
            check()
            self._write(changes, cleared)
        self._commit()

    # What OrderedMapping is made of.

    def _pairs(
        self, start: bytes | None, stop: bytes | None, reverse: bool = False
    ) -> Iterator[Pair]:
        return self._engine.scan("pairs", start, stop, reverse, self)

    def _keys(
        self, start: bytes | None, stop: bytes | None, reverse: bool = False
    ) -> Iterator[bytes]:
        return self._engine.scan("keys", start, stop, reverse, self)

    def _values(
        self, start: bytes | None, stop: bytes | None, reverse: bool = False
    ) -> Iterator[bytes]:
        return self._engine.scan("values", start, stop, reverse, self)

    def _first_key(self) -> bytes | None:
        return self._engine.first()

    def _write(self, changes: dict[bytes, bytes | None], cleared: bool) -> None:
        self._engine.write(changes, cleared)

    def _check_writable(self) -> None:
        self._engine.check_writable()

    @property
    def _mutex(self) -> RLock:
        return self._engine.exclusive

    def _commit(self) -> None:
        self._engine.commit()

    # The store.

    @property
    def path(self) -> str:
        """The store's directory, absolute."""
        return self._path

    @property
    def readonly(self) -> bool:
        """Whether this handle was opened with flag 'r'."""
        return self._engine.readonly

    @property
    def sequence(self) -> int:
        """How many bytes of records the store has logged, as far as this handle sees.

        It grows with every write and never goes back, but begins anew in a store
        that flag "n" has emptied.  A reader's says what its last look showed, so
        call ``refresh()`` first: once it is at least what the writer's was after
        a write, the reader sees that write.
        """
        return self._engine.sequence

    @property
    def closed(self) -> bool:
        """Whether this handle has been closed."""
        return self._engine.ended is not None

    def sync(self) -> None:
        """Return once everything written is on the disk.  Nothing to do for a reader."""
        self._engine.sync()

    def flush(self) -> None:
        """Turn what is in memory into a table on the disk."""
        self._engine.flush()

    def compact(self) -> None:
        """Merge all tables into one run, without what was deleted or replaced.  O(store)."""
        self._engine.compact()

    def reorganize(self) -> None:
        """Do what ``compact`` does; the name gdbm has for it."""
        self._engine.compact()

    def refresh(self) -> None:
        """See what another process has written; reads do this by themselves."""
        self._engine.refresh()

    def verify(self) -> list[Finding]:
        """Check every byte and every invariant; return the findings, none being good."""
        from oblivion_dbm.engine.verify import verify

        self._engine.refresh()
        return verify(self._path)

    def backup(
        self,
        destination: Path,
        *,
        copy: bool = False,
        progress: Callable[[int, int], object] | None = None,
    ) -> Report:
        """Make ``destination`` a backup of this store, while others write; see ``backup``."""
        self._engine.refresh()
        return backup(self._path, destination, copy=copy, progress=progress)

    def stats(self) -> dict[str, Any]:
        """Return figures: kernel, runs, MemTable, log, look-ups.  For people; keys may be added."""
        return self._engine.stats()

    def close(self) -> None:
        """End the handle; a second time is fine.  Iterators raise from then on."""
        self._engine.close()

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # Gives the lock back; nothing that returned depends on it.  While the
        # interpreter shuts down there is nothing left to give back.
        engine = getattr(self, "_engine", None)
        if engine is not None and not sys.is_finalizing():
            engine.close()

    def __repr__(self) -> str:
        state = "closed " if self.closed else "read-only " if self.readonly else ""
        return f"<{state}{type(self).__name__} {self._path!r}>"


def open(
    file: Path,
    flag: str = "r",
    mode: int = 0o666,
    *,
    sync: str | float | None = None,
    lock_timeout: float = 0.0,
    **options: Any,
) -> Database:
    """Open a store as ``dbm.open`` opens a database; the default is to read.

    The first letter of ``flag``: r reads, w writes, c writes and creates where
    there is none, n makes a new, empty store.  Then any of: s syncs every write,
    f never syncs by itself, u is accepted and has no effect (the lock is taken
    all the same).  ``mode`` is for new files, less the umask.
    """
    return Database(file, flag, mode, sync=sync, lock_timeout=lock_timeout, **options)


def remove(path: Path) -> None:
    """Delete the store at ``path``, and nothing that is not one.

    Raises ``error``, before anything has changed, where there is no store, where
    its directory holds other files, and where somebody is writing to it.
    """
    remove_store(_absolute(path))


def verify(path: Path) -> list[Finding]:
    """Check every byte and every invariant of the store at ``path``; return the findings.

    [] where nothing is wrong.  Each has ``file``, ``offset`` and ``meaning``, and
    ``leftover`` where a crash has left a file that the next writer removes.  It
    changes nothing, and others may write meanwhile.  O(store), in constant memory
    but for one record, or one batch, at a time.  Raises ``error`` where there is no
    store at all.
    """
    from oblivion_dbm.engine.verify import verify

    return verify(_absolute(path))


def backup(
    path: Path,
    destination: Path,
    *,
    copy: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Report:
    """Make ``destination`` a backup of the store at ``path``, or bring an earlier one up to date.

    Others may write meanwhile: it is the store as it was when this was called, all
    that had returned included (in mode "full": all that was synced).  Opened with
    flag "r" it is a store like any other.  Where both are on one file system its
    tables are hard links, which share the disk, and what befalls it; with ``copy``
    they are copies.  Only what is new is linked or copied into an earlier backup.
    ``progress(done, total)`` is told of bytes.

    Returns a report.  Raises ``error``, before anything has changed, where there is no
    store, with EEXIST or ESTALE where the destination is something else than
    nothing, an empty directory or an earlier backup of this store, with EAGAIN where
    another backup is being made there; CorruptionError where the store is damaged.
    """
    from oblivion_dbm.engine.backup import backup

    return backup(_absolute(path), _absolute(destination), copy=copy, progress=progress)


def restore(
    backup: Path,
    path: Path,
    *,
    link: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Report:
    """Make a store at ``path``, where there is nothing or an empty directory, out of a backup.

    The backup is verified before, and the store after it was copied; until then it
    is not at ``path``.  With ``link`` tables are hard links where that is possible.
    The store goes its own way from then on, so it needs a backup of its own.

    Returns a report.  Raises CorruptionError, before anything has changed, where the
    backup is damaged, and ``error`` with EEXIST where something is in the way.
    """
    from oblivion_dbm.engine.backup import restore

    return restore(_absolute(backup), _absolute(path), link=link, progress=progress)


def repair(path: Path, *, destination: Path | None = None, doubtful: bool = False) -> RepairReport:
    """Make a new store out of what still checks of the damaged one at ``path``.

    The old directory stays as it is, but for its LOCK file, and gets the name
    ``path.damaged``; the new one takes its place.  With ``destination``, which
    must not exist or be an empty directory, the new one goes there and the old
    one stays where it is.  Records that may be bytes inside a value, or that may be
    old or deleted, are not merged: they are in a file beside the new store.
    ``doubtful`` merges the latter too, where nothing newer is known of their keys.

    Reads everything up to four times, and writes what was saved: O(store), in
    memory for the log's records and ten bytes for each record of a table.  Returns a
    report of what was saved and what was not.  Raises ``error``, before anything has
    changed, where there never was a store, where it is in use (EAGAIN), where it has a
    newer format, or where the new one would have to take the place of a mount point (EBUSY).
    """
    from oblivion_dbm.engine.repair import repair

    place = None if destination is None else _absolute(destination)
    return repair(_absolute(path), place, doubtful=doubtful)
