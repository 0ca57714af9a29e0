"""The StorageEngine: composition only.

::

    put:   record -> WAL (append, publish; by mode: sync) -> MemTable
    get:   MemTable layers -> tables, newest run first -> absent
    full:  rotate (seal segment and MemTable) -> flush (table) -> compact

``open_store`` finds out what is at a path and returns a ``Writer`` or a
``Reader``; both are a ``StorageEngine``.
"""

from __future__ import annotations

import errno
from _thread import RLock, start_new_thread

from oblivion_dbm.engine import filenames, kernel
from oblivion_dbm.engine.filesystem import FileSystem, after_fork
from oblivion_dbm.engine.follower import Follower
from oblivion_dbm.engine.lock import WriterLock
from oblivion_dbm.engine.manifest import Manifest, begins_as_one, load, remove_mark
from oblivion_dbm.engine.record import BATCH, CLEAR, DELETE, LONGEST, OVERHEAD, PUT, encode
from oblivion_dbm.engine.version import Version
from oblivion_dbm.errors import CorruptionError, error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future
    from typing import Any

    from oblivion_dbm.engine.options import Options
    from oblivion_dbm.engine.snapshot import Snapshot
    from oblivion_dbm.engine.tree import Tree

CLOSED = "DBM object has already been closed"
READ_ONLY = "the store is open for reading only"
_NAMES = {"file": "a file", "other": "neither a file nor a directory"}

CLEAR_RECORD = encode(CLEAR, b"", b"")


class StorageEngine:
    """What a handle on a store can do, whether it writes or reads.

    ``value`` is the hot read and ``put`` the hot write: bound methods of the
    kernel where nothing stands between.  Every method raises ``error`` once the
    handle is closed.
    """

    readonly: bool
    put: Callable[[bytes, bytes], None]
    value: Callable[[bytes], bytes | None]
    tree: Tree

    def __init__(self, filesystem: FileSystem, directory: str, options: Options) -> None:
        self.filesystem = filesystem
        self.directory = directory
        self.options = options
        self.lock = RLock()
        after_fork(self)
        if options.read_ahead:
            from oblivion_dbm.engine.read_ahead import bring_logs

            bring_logs(filesystem, directory)

    @property
    def ended(self) -> Exception | None:
        """The error that every call raises, once the handle is closed or forked."""
        return self.tree.ended

    def check(self) -> None:
        """Raise if the handle is closed, or was inherited through a fork."""
        self.tree.check()

    def check_idle(self) -> None:
        """Check, with the lock held once, and put right what an interrupt has left."""
        self.check()

    def check_writable(self) -> None:
        """Raise unless this handle can write."""
        raise self._refusal()

    def refresh(self) -> None:
        """See what was written since; a writer always does."""
        self.check()

    @property
    def exclusive(self) -> RLock:
        """The lock under which several calls are one step, ``commit`` to be called after it."""
        return self.lock

    def commit(self) -> None:
        """Return once what was written is as durable as the sync mode says."""

    @property
    def sequence(self) -> int:
        """The sequence number of the end of what this handle sees."""
        raise NotImplementedError

    def scan(
        self,
        shape: str,
        start: bytes | None,
        stop: bytes | None,
        reverse: bool,
        owner: object = None,
    ) -> Iterator[Any]:
        """Return an iterator of "pairs", "keys" or "values" over a snapshot of [start, stop).

        ``owner`` is kept alive as long as the iterator is.
        """
        self.refresh()
        with self.lock:
            self.check_idle()
            tree, items = self.tree, kernel.SHAPES[shape]
            return tree.apart(self.lock, tree.scan, items, start, stop, reverse, owner)

    def snapshot(self) -> Snapshot:
        """Return the present state with its sequence number; it ends with the handle."""
        self.refresh()
        with self.lock:
            self.check_idle()
            sequence = self.sequence
            return self.tree.apart(self.lock, self.tree.snapshot, sequence)

    def first(self) -> bytes | None:
        """Return the smallest key with a value, None when there is none."""
        self.refresh()
        with self.lock:
            self.check_idle()
            return self.tree.apart(self.lock, self.tree.first)

    def count(self) -> int:
        """Return the number of keys with a value; see ``Tree.count`` for the cost."""
        self.refresh()
        with self.lock:
            self.check_idle()
            return self.tree.apart(self.lock, self.tree.count)

    def delete(self, key: bytes) -> bool:
        """Remove a key; False when it has no value."""
        raise self._refusal()

    def write(self, changes: dict[bytes, bytes | None], cleared: bool) -> None:
        """Apply puts (value) and deletes (None) as one, after a clear if ``cleared``."""
        raise self._refusal()

    def submit(self, changes: dict[bytes, bytes | None]) -> Future[None]:
        """Queue puts (value) and deletes (None), to be applied as one."""
        raise self._refusal()

    def has_room(self, size: int) -> bool:
        """Tell whether ``submit`` returns, or raises, without waiting."""
        self.check()
        return True

    def recall(self, key: bytes) -> tuple[bool, bytes | None]:
        """Return (True, value or None) where memory alone tells, else (False, None).

        It touches no file and waits for no lock.
        """
        active, older, runs = self.tree.lookup.view
        value = kernel.Lookup(0, (active, older, ())).value(key)
        return value is not None or not runs, value

    def clear(self) -> None:
        """Remove everything, at a cost that does not depend on how much there is."""
        raise self._refusal()

    def flush(self) -> None:
        """Turn the MemTable into a table."""
        raise self._refusal()

    def compact(self) -> None:
        """Merge all runs into one."""
        raise self._refusal()

    def sync(self) -> None:
        """Return once everything written is on the disk."""
        self.check()

    def _refusal(self) -> Exception:
        return self.ended or error(errno.EROFS, READ_ONLY, self.directory)

    def stats(self) -> dict[str, Any]:
        """Return figures for people: see ``Database.stats``."""
        self.refresh()
        with self.lock:
            self.check()
            tree, lookup = self.tree, self.tree.lookup
            return {
                "kernel": kernel.NAME,
                "runs": [
                    {"level": run.level, "tables": len(run.tables), "bytes": run.size,
                     "puts": run.puts, "tombstones": run.tombstones}
                    for run in tree.version.runs
                ],
                "memtable_records": sum(len(memtable) for memtable in tree.memtables),
                "absent_lookups": lookup.absent,
                "filter_false_positives": lookup.false_positives,
            }  # fmt: skip

    def forked(self) -> None:
        """Become unusable in a child process, without touching what the parent has."""
        self.lock = RLock()
        if self.ended is None:
            self.tree.end(error("this handle was opened before a fork; open the store again"))

    def close(self) -> None:
        """End the handle; again is fine."""
        with self.lock:
            if self.ended is None:
                self.tree.end(error(CLOSED))


class Reader(StorageEngine):
    """A handle that follows whoever writes, and changes nothing on disk."""

    readonly = True

    def __init__(self, filesystem: FileSystem, directory: str, options: Options) -> None:
        super().__init__(filesystem, directory, options)
        self._follower = Follower(filesystem, directory, self.lock, options.read_ahead)
        self.tree = self._follower.tree
        self.value = self._follower.value
        self.put = self._refuse_put

    def forked(self) -> None:
        """Become unusable in a child process, without touching what the parent has."""
        super().forked()
        self._follower.forget(self.lock)

    def _refuse_put(self, key: bytes, value: bytes) -> None:
        raise self._refusal()

    def recall(self, key: bytes) -> tuple[bool, bytes | None]:
        """Return (True, value or None) where memory alone tells, else (False, None)."""
        self.check()
        return (False, None) if self._follower.moved() else super().recall(key)

    @property
    def sequence(self) -> int:
        """The sequence number of the end of what the last look has shown."""
        self.check()
        return self._follower.sequence

    def refresh(self) -> None:
        """See what was written since the last look."""
        self.check()
        self._follower.refresh()

    def close(self) -> None:
        """End the handle; again is fine."""
        with self.lock:  # as one: nobody looks for what is new in between
            try:
                super().close()
            finally:
                self._follower.close()


class Writer(StorageEngine):
    """The one handle that writes.  Holds the store's lock until it is closed."""

    readonly = False

    def __init__(
        self,
        filesystem: FileSystem,
        directory: str,
        options: Options,
        *,
        lock: WriterLock,
        version: Version,
        mode: int,
    ) -> None:
        from oblivion_dbm.engine.write_path import WritePath

        super().__init__(filesystem, directory, options)
        self._store_lock = lock
        self._path = WritePath(
            filesystem, directory, options, lock=lock, version=version, mode=mode, mutex=self.lock
        )
        self.tree = self._path.tree
        self.value = self.tree.lookup.value
        self.put = self._path.appender.put
        #: Held by whoever closes; nothing is left to do once ``_released``.
        self._closing = RLock()
        self._released = False
        lock.claim()

    @property
    def sequence(self) -> int:
        """The sequence number of the end of the log."""
        with self.lock:
            self.check()
            return self._path.sequence

    @property
    def exclusive(self) -> RLock:
        """The lock under which several calls are one step, ``commit`` to be called after it."""
        self.check()  # in a child nobody is left to do what is queued
        self._path.admit()
        return self.lock

    def commit(self) -> None:
        """Return once what was written is as durable as the sync mode says."""
        self._path.commit()

    def check_idle(self) -> None:
        """Check, with the lock held once, and put right what an interrupt has left."""
        self.check()
        self._path.check_idle()

    def check_writable(self) -> None:
        """Raise unless this handle can write."""
        with self.lock:  # else another thread's write would look like one's own
            self.check()
            self._path.check()

    def delete(self, key: bytes) -> bool:
        """Remove a key; False when it has no value.  Costs a look-up and a write."""
        with self.exclusive:
            if self.value(key) is None:
                return False
            self._path.appender.delete(key)
        self.commit()
        return True

    def write(self, changes: dict[bytes, bytes | None], cleared: bool) -> None:
        """Apply puts (value) and deletes (None) as one record, after a clear if ``cleared``.

        Raises ValueError where the batch is longer than a value can be.
        """
        if changes:
            self._path.appender.append(_batch_record(changes, cleared))
        else:
            self.check_writable()
            if cleared:
                self._path.appender.append(CLEAR_RECORD)
        if cleared:
            with self.lock:
                self._path.maintenance.drop_cleared()

    def submit(self, changes: dict[bytes, bytes | None]) -> Future[None]:
        """Queue puts (value) and deletes (None), to be applied as one; see WriteQueue."""
        self.check()
        if kernel.depth(self.lock):  # a handler: what it may wait for wants this lock
            kernel.refuse()
        if len(changes) == 1:
            ((key, value),) = changes.items()
            record = encode(DELETE, key, b"") if value is None else encode(PUT, key, value)
        else:
            record = _batch_record(changes, False)
        return self._path.queue.submit(record)

    def has_room(self, size: int) -> bool:
        """Tell whether ``submit`` takes a key and value of ``size`` bytes without waiting."""
        self.check()
        queue = self._path.queue
        return not queue.worker.here and queue.has_room(OVERHEAD + size)

    def clear(self) -> None:
        """Remove everything: one record; tables are removed behind it."""
        self.write({}, True)

    def flush(self) -> None:
        """Turn the MemTable into a table; return once it is on the disk."""
        self._maintain(self._path.maintenance.flush)

    def compact(self) -> None:
        """Merge everything into one run without tombstones.  O(store)."""
        self._maintain(self._path.maintenance.compact)

    def _maintain(self, step: Callable[[], None]) -> None:
        self._settle()
        self._path.maintenance.call(step)

    def sync(self) -> None:
        """Return once everything written is on the disk; recovered records too."""
        self._settle()
        self._path.sync()

    def _settle(self) -> None:
        """Return once what this thread has queued is appended."""
        self.check()
        if kernel.depth(self.lock):
            kernel.refuse()
        self._path.queue.settle()
        self.check_writable()

    def stats(self) -> dict[str, Any]:
        """Return figures for people: see ``Database.stats``."""
        with self.lock:
            return {**super().stats(), **self._path.stats()}

    def forked(self) -> None:
        """Become unusable in a child process, without touching what the parent has."""
        if self.ended is None:
            self._store_lock.abandon()
        self._released = True
        super().forked()
        self._path.refuse(self.lock)
        self._path.forget_threads()

    def close(self) -> None:
        """Sync (unless the mode is "off") and end the handle; again is fine.

        What was queued is written first, and a large MemTable becomes a table,
        so the next opening is quick.  Whatever fails, the handle is closed and
        the store unlocked afterwards; only an interrupt while it waits for
        other threads leaves it to be closed again.  In a thread of the handle's
        own, where a Future's callback or the garbage collector may call it,
        another thread closes, some time later.
        """
        if self._released:
            return
        if self._path.is_own_thread:
            try:
                start_new_thread(self.close, ())
            except RuntimeError:  # the system gives none
                kernel.refuse()
            return
        # A handler inside this very call, or another that has to come to its end first.
        if kernel.depth(self._closing) or kernel.depth(self.lock):
            kernel.refuse()
        self._path.log.check_outside()
        with self._closing:
            if self.ended is None:
                self._path.end_work(error(CLOSED))
            try:
                with self.lock:
                    self._path.check_idle()
                if self.ended is None:
                    self._path.settle()
            finally:
                self._release()

    def _release(self) -> None:
        """End the handle and give the store back; again is fine."""
        with self.lock:
            self.tree.end(error(CLOSED))
            self._path.refuse(self.lock)
        try:
            self._path.log.close()
        finally:
            if not self._released:  # by a fork
                self._store_lock.release()
        self._released = True


def _batch_record(changes: dict[bytes, bytes | None], cleared: bool) -> bytes:
    """Return the record of a batch; ValueError where it is too long."""
    records = [
        encode(DELETE, key, b"") if value is None else encode(PUT, key, value)
        for key, value in changes.items()
    ]
    size = sum(map(len, records)) + cleared * len(CLEAR_RECORD)
    if size > LONGEST:
        raise ValueError(f"the batch has {size} bytes; the limit is {LONGEST}: use load()")
    return encode(BATCH, b"", b"".join([CLEAR_RECORD, *records] if cleared else records))


def open_store(
    path: str,
    flag: str,
    options: Options,
    mode: int = 0o666,
    filesystem: FileSystem | None = None,
) -> StorageEngine:
    """Open the store at ``path``: flag "r", "w", "c" or "n".

    Raises ``error``, before anything has changed, where there is none, or
    something else, and where another writer has it.
    """
    filesystem = filesystem or FileSystem()
    kind = _what_is_at(filesystem, path, flag)
    if flag == "r":
        return Reader(filesystem, path, options)
    if kind == "file":
        filesystem.remove(path)
    if kind == "store" and flag != "n":
        load(filesystem, path)  # damage, or a newer format: before the lock is taken
    elif filesystem.kind(path) == "missing":
        try:
            filesystem.make_directory(path, mode | (mode & 0o444) >> 2)
        except error:  # another process may have been faster; the lock decides
            if filesystem.kind(path) != "directory":
                raise
    lock = WriterLock(filesystem, path, options.lock_timeout, mode)
    try:
        version = _current_version(filesystem, path, flag, lock, mode)
        return Writer(filesystem, path, options, lock=lock, version=version, mode=mode)
    except BaseException:
        lock.release()
        raise


def _is_store(filesystem: FileSystem, path: str, names: list[str]) -> bool:
    """Tell a store, damaged ones included, from a directory that has a MANIFEST of its own."""
    if filenames.MANIFEST not in names:
        return False
    if begins_as_one(filesystem, path):
        return True
    return filenames.LOCK in names and all(map(filenames.is_ours, names))


def _what_is_at(filesystem: FileSystem, path: str, flag: str) -> str:
    """Return "store", "missing" or "file"; raise for what ``flag`` cannot open or replace."""
    kind = filesystem.kind(path)
    if kind == "directory":
        names = filesystem.list(path)
        if _is_store(filesystem, path, names):
            return "store"
        known = (filenames.LOCK, filenames.MANIFEST_NEW)
        strange = [name for name in names if name not in known]
        if strange:
            meaning = f"expected a store, found a directory with {strange[0]!r} in it"
            raise error(errno.ENOTEMPTY, meaning, path)
        kind = "missing"  # empty, or a creation that was cut short
    if kind == "missing" and flag in "rw":
        raise error(errno.ENOENT, "there is no store here; use flag 'c' or 'n' to make one", path)
    if kind == "other" or (kind == "file" and flag != "n"):
        meaning = f"expected a store, which is a directory, found {_NAMES[kind]}"
        raise error(errno.ENOTDIR, meaning, path)
    return kind


def _current_version(
    filesystem: FileSystem, path: str, flag: str, lock: WriterLock, mode: int
) -> Version:
    """Return the Version to start from, a new one where there is none or flag is "n"."""
    from oblivion_dbm.engine.lineage import begin, emptied, own

    old = None
    if filesystem.kind(filesystem.join(path, filenames.MANIFEST)) != "missing":
        try:
            old = load(filesystem, path)
        except CorruptionError:
            if flag != "n":
                raise
        if old is not None and flag != "n":
            remove_mark(filesystem, path)
            return own(old, filesystem)
    numbers = [parsed[1] for parsed in map(filenames.parse, filesystem.list(path)) if parsed]
    version = Version(
        filesystem.random(16).hex(),
        int.from_bytes(filesystem.random(8), "little"),
        next_file=max([old.next_file if old else 1, *(number + 1 for number in numbers)]),
    )
    manifest = Manifest(filesystem, path, version, mode)
    manifest.install(emptied(begin(version, filesystem), 0), lock.bump)
    filesystem.sync_directory(filesystem.parent(path))
    return manifest.version


def remove_store(path: str, filesystem: FileSystem | None = None) -> None:
    """Delete the store at ``path``, damaged or not, and nothing that is not one.

    Raises ``error``, before anything has changed, where there is none, where
    the directory holds files that are not the store's, or where it is in use.
    """
    filesystem = filesystem or FileSystem()
    if filesystem.kind(path) == "missing":
        raise error(errno.ENOENT, "there is no store here", path)
    names = filesystem.list(path) if filesystem.kind(path) == "directory" else []
    if not _is_store(filesystem, path, names):
        raise error(errno.ENOTDIR, "this is no store: it has no MANIFEST of ours", path)
    strange = [name for name in names if not filenames.is_ours(name)]
    if strange:
        raise error(errno.ENOTEMPTY, f"{strange[0]!r} is not part of the store", path)
    lock = WriterLock(filesystem, path)
    try:
        names = filesystem.list(path)  # a LOCK that was missing is there now
        # The MANIFEST goes first: what is left of a cut-short removal is no store.
        for name in sorted(names, key=lambda name: name != filenames.MANIFEST):
            filesystem.remove(filesystem.join(path, name))
        filesystem.remove_directory(path)
        filesystem.sync_directory(filesystem.parent(path))
    finally:
        lock.release()
