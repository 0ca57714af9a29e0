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
from _thread import RLock

from oblivion_dbm.engine import filenames, kernel
from oblivion_dbm.engine.compactor import Compactor
from oblivion_dbm.engine.filesystem import FileSystem, after_fork
from oblivion_dbm.engine.follower import Follower
from oblivion_dbm.engine.lock import WriterLock
from oblivion_dbm.engine.manifest import Manifest, load
from oblivion_dbm.engine.memtable import OVERHEAD as KEY_OVERHEAD
from oblivion_dbm.engine.memtable import MemTable
from oblivion_dbm.engine.options import FULL, OFF, Options
from oblivion_dbm.engine.policy import choose, everything
from oblivion_dbm.engine.record import BATCH, CLEAR, DELETE, LONGEST, PUT, encode
from oblivion_dbm.engine.recovery import Recovery, apply_batch
from oblivion_dbm.engine.tree import Tree
from oblivion_dbm.engine.version import Version
from oblivion_dbm.engine.wal import DATA_AT, WAL
from oblivion_dbm.errors import CorruptionError, error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from oblivion_dbm.engine.policy import Task
    from oblivion_dbm.engine.recovery import Lost
    from oblivion_dbm.engine.snapshot import Shape
    from oblivion_dbm.engine.version import Run

CLOSED = "DBM object has already been closed"
READ_ONLY = "the store is open for reading only"
#: Bytes of recovered records that are copied into the next log segment; more
#: than that becomes a table.
LARGEST_PRELUDE = 1 << 18
#: Bytes of log up to which close leaves the MemTable to the next opening.
LARGEST_LEFT_OPEN = 1 << 20
#: Bytes of log between two looks at the MemTable's size.
STRIDE = 1 << 20

_SHAPES: dict[str, Shape] = {
    "pairs": kernel.pairs,
    "keys": kernel.live_keys,
    "values": kernel.live_values,
}

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
        self.ended: Exception | None = None
        after_fork(self)

    def check(self) -> None:
        """Raise if the handle is closed, or was inherited through a fork."""
        if self.ended is not None:
            raise self.ended

    def check_writable(self) -> None:
        """Raise unless this handle can write."""
        raise self._refusal()

    def refresh(self) -> None:
        """See what was written since; a writer always does."""
        self.check()

    def scan(
        self, shape: str, start: bytes | None, stop: bytes | None, reverse: bool
    ) -> Iterator[Any]:
        """Return an iterator of "pairs", "keys" or "values" over a snapshot of [start, stop)."""
        self.refresh()
        with self.lock:
            self.check()
            return self.tree.scan(_SHAPES[shape], start, stop, reverse)

    def first(self) -> bytes | None:
        """Return the smallest key with a value, None when there is none."""
        self.refresh()
        with self.lock:
            self.check()
            return self.tree.first()

    def count(self) -> int:
        """Return the number of keys with a value; see ``Tree.count`` for the cost."""
        self.refresh()
        with self.lock:
            self.check()
            return self.tree.count()

    def delete(self, key: bytes) -> bool:
        """Remove a key; False when it has no value."""
        raise self._refusal()

    def write(self, changes: dict[bytes, bytes | None], cleared: bool) -> None:
        """Apply puts (value) and deletes (None) as one, after a clear if ``cleared``."""
        raise self._refusal()

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

    def end(self, problem: Exception) -> None:
        """Let every later call raise ``problem``."""
        self.ended = problem
        self.tree.end(problem)

    def forked(self) -> None:
        """Become unusable in a child process, without touching what the parent has."""
        self.lock = RLock()
        if self.ended is None:
            self.end(error("this handle was opened before a fork; open the store again"))

    def close(self) -> None:
        """End the handle; again is fine."""
        with self.lock:
            if self.ended is None:
                self.end(error(CLOSED))


class Reader(StorageEngine):
    """A handle that follows whoever writes, and changes nothing on disk."""

    readonly = True

    def __init__(self, filesystem: FileSystem, directory: str, options: Options) -> None:
        super().__init__(filesystem, directory, options)
        self._follower = Follower(filesystem, directory, self.lock)
        self.tree = self._follower.tree
        self.value = self._follower.value
        self.put = self._refuse_put

    def forked(self) -> None:
        """Become unusable in a child process, without touching what the parent has."""
        super().forked()
        self._follower.forget(self.lock)

    def _refuse_put(self, key: bytes, value: bytes) -> None:
        raise self._refusal()

    def refresh(self) -> None:
        """See what was written since the last look."""
        self.check()
        self._follower.refresh()

    def close(self) -> None:
        """End the handle; again is fine."""
        super().close()
        self._follower.close()


class Writer(StorageEngine):
    """The one handle that writes.

    Lock order: ``lock`` only.  ``rotate``, ``flush_sealed`` and
    ``compact_once`` are separate steps; each is called with the lock held.
    """

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
        super().__init__(filesystem, directory, options)
        self._store_lock = lock
        self._mode = mode
        self._manifest = Manifest(filesystem, directory, version, mode)
        self._compactor = Compactor(filesystem, directory, options, self._manifest, mode)
        self._wal: WAL | None = None
        self._sealed_sequences: list[tuple[int, int]] = []
        self._quarantined: frozenset[int] = frozenset()
        self._last_error: Exception | None = None
        recovery = Recovery(filesystem, directory, version)
        recovery.close()
        self.lost: list[Lost] = recovery.lost
        self._unsynced = recovery.unsynced
        self._sequence = recovery.sequence
        self.tree = Tree(filesystem, directory, version)
        self.tree.memtables = [recovery.merged()]
        self.appender = self.tree.appender = kernel.Appender(self.lock, self._make_room)
        self.tree.show()
        self.value = self.tree.lookup.value
        self.put = self.appender.put
        if options.sync == FULL:
            self.appender.after = self._sync_log
            if self._unsynced:
                self._begin()  # what this handle shows is on the disk
        lock.claim()

    # Writing.

    def delete(self, key: bytes) -> bool:
        """Remove a key; False when it has no value.  Costs a look-up and a write."""
        with self.lock:
            if self.value(key) is None:
                return False
            self.appender.delete(key)
            return True

    def write(self, changes: dict[bytes, bytes | None], cleared: bool) -> None:
        """Apply puts (value) and deletes (None) as one record, after a clear if ``cleared``.

        Raises ValueError where the batch is longer than a value can be.
        """
        if not changes:
            self.check_writable()
            if cleared:
                self.clear()
            return
        records = [
            encode(DELETE, key, b"") if value is None else encode(PUT, key, value)
            for key, value in changes.items()
        ]
        size = sum(map(len, records)) + cleared * len(CLEAR_RECORD)
        if size > LONGEST:
            raise ValueError(f"the batch has {size} bytes; the limit is {LONGEST}: use load()")
        value = b"".join([CLEAR_RECORD, *records] if cleared else records)

        def apply(_: bytes) -> None:
            apply_batch(value, self.tree.memtables[0])
            self.tree.show()

        self.appender.append(encode(BATCH, b"", value), apply)
        if cleared:
            self._drop_cleared()

    def clear(self) -> None:
        """Remove everything: one record, and one new MANIFEST where there are tables."""

        def apply(_: bytes) -> None:
            self.tree.memtables[0].reset(cleared=True)
            self.tree.show()

        self.appender.append(CLEAR_RECORD, apply)
        self._drop_cleared()

    def _drop_cleared(self) -> None:
        """Remove the tables that a clear has hidden."""
        with self.lock:
            if self.tree.version.runs:
                self.rotate()
                self.flush_sealed()

    # Room: called by the appender, with the lock held, when a record does not fit.

    def _make_room(self, length: int) -> None:
        self.check_writable()
        if self._wal is None:
            self._begin()
        elif len(self.tree.memtables) > 1 or self._memory() >= self.options.memtable_limit:
            if len(self.tree.memtables) == 1:
                self.rotate()
            self.flush_sealed()
            self._compact_due()
        wal, position = self._live(), self.appender.position
        try:
            wal.grow(position + length)
        finally:
            self.appender.target, self.appender.words = wal.target, wal.words
        self.appender.limit = max(position + length, min(wal.capacity, position + self._stride()))

    def check_writable(self) -> None:
        """Raise unless this handle can write."""
        self.check()
        if self._last_error is not None:
            meaning = f"writing stopped: {self._last_error}"
            raise error(errno.EIO, meaning, self.directory) from self._last_error
        if self._manifest.failed is not None:
            self._manifest.install(self._manifest.version, lambda: None)

    def _live(self) -> WAL:
        assert self._wal is not None
        return self._wal

    def _memory(self) -> int:
        return self.appender.position + KEY_OVERHEAD * len(self.tree.memtables[0])

    def _stride(self) -> int:
        return min(STRIDE, self.options.memtable_limit // 8 + 1)

    def _begin(self) -> None:
        """Start the first segment of this process, taking over what was recovered.

        Small contents are copied into it, larger ones become a table; both are
        synced before the MANIFEST drops the logs they came from.
        """
        self._keep_lost()
        memtable = self.tree.memtables[0]
        version = self.tree.version
        if memtable.cleared:
            version = version.cleared(())
        records = memtable.merged()
        size = sum(map(len, records.values()))
        if size <= LARGEST_PRELUDE:
            wal = self._new_wal(b"".join(records.values()))
            try:
                self._manifest.install(version.replace(logs=(wal.number,)), self._publish)
            except BaseException:
                self._give_up(wal)
                raise
            memtable.cleared = False
            self._start(wal)
        else:
            wal = self._new_wal(b"")
            try:
                self._write_table(memtable, self._sequence, version.logs, wal.number)
            except BaseException:
                self._give_up(wal)
                raise
            self.tree.memtables = [MemTable(memtable.floor)]
            self._start(wal)
            self._compact_due()

    def _keep_lost(self) -> None:
        """Write what recovery dropped into files of their own; they stay."""
        for lost in self.lost:
            path = self.filesystem.join(self.directory, filenames.lost(lost.number))
            if self.filesystem.kind(path) != "missing":
                self.filesystem.remove(path)  # a try that was cut short: same log, same bytes
            file = self.filesystem.create(path, self._mode)
            try:
                self.filesystem.write(file, 0, lost.data)
                self.filesystem.sync(file)
            finally:
                self.filesystem.close(file)

    def _new_wal(self, prelude: bytes) -> WAL:
        number = self._manifest.new_number()
        try:
            return WAL(
                self.filesystem,
                self.directory,
                number,
                store_id=bytes.fromhex(self.tree.version.store_id),
                first_sequence=self._sequence,
                prelude=prelude,
                back_end=self.options.log_back_end,
                synced_only=self.options.sync == FULL,
                mode=self._mode,
            )
        except BaseException:
            self._manifest.forget(number)
            raise

    def _give_up(self, wal: WAL) -> None:
        """Remove a segment that no MANIFEST can name."""
        wal.close()
        if self._manifest.failed is None:
            self._manifest.forget(wal.number)
            self.filesystem.remove(wal.path)

    def _install(self, version: Version, run: Run | None) -> None:
        """Make a Version current; a run made for it is given up if that fails."""
        try:
            self._manifest.install(version, self._publish)
        except BaseException:
            if run is not None and self._manifest.failed is None:
                self._compactor.discard(run)
            raise

    def _publish(self) -> None:
        """Show the installed Version, here and to readers in other processes."""
        self.tree.adopt(self._manifest.version)
        self.tree.show()
        self._store_lock.bump()

    def _start(self, wal: WAL) -> None:
        """Append to ``wal`` from now on."""
        self._wal = wal
        self._unsynced = False
        self.appender.target, self.appender.words = wal.target, wal.words
        self.appender.position = wal.prelude_end
        self.appender.limit = wal.prelude_end
        self.tree.show()

    # The steps that make room.

    def rotate(self) -> None:
        """Seal the segment and the MemTable; writes go to new ones.

        The new segment is durable and named before the old one is sealed, and
        holds the old one's end before its first record.
        """
        if self._wal is None:
            self._begin()
        old = self._live()
        first, self._sequence = old.first_sequence, old.sequence(self.appender.position)
        new = self._new_wal(b"")
        try:
            self._install(self.tree.version.with_log(new.number), None)
        except BaseException:
            self._give_up(new)
            raise
        try:
            new.follow(old.seal(self.appender.position))
        except BaseException as problem:
            self._stop(problem)
            raise
        memtable = self.tree.memtables[0]
        memtable.lower_floor()
        self._sealed_sequences.append((first, self._sequence))
        self.tree.memtables.insert(0, MemTable(memtable.floor))
        self._start(new)
        old.close()

    def flush_sealed(self) -> None:
        """Turn the sealed MemTables into tables, the oldest first."""
        while len(self.tree.memtables) > 1:
            memtable = self.tree.memtables[-1]
            _, last = self._sealed_sequences[0]
            self._write_table(memtable, last, self.tree.version.logs[:1])
            del self._sealed_sequences[0]

    def _write_table(
        self, memtable: MemTable, last: int, logs: tuple[int, ...], next_log: int | None = None
    ) -> None:
        """Write the oldest MemTable as a run, and install it in the place of ``logs``.

        ``next_log`` is a segment that takes over at the same moment, if any.
        """
        version = self.tree.version
        if memtable.cleared:
            version = version.cleared(())
        live = self._live_after(memtable)
        run = self._compactor.flush(
            memtable.merged(),
            (0, last),
            tombstones=any(layer.tombstones for layer in memtable.layers),
            drop_tombstones=not version.runs,
        )
        if not version.runs:
            live = 0 if run is None else run.puts
        version = version.with_flush(run, logs, live)
        if next_log is not None:
            version = version.with_log(next_log)
        self._install(version, run)
        if next_log is None:
            self.tree.memtables.remove(memtable)
        self.tree.show()

    def _live_after(self, memtable: MemTable) -> int | None:
        """Return the live keys in the tables once ``memtable`` is one, None if not counted."""
        if not self.tree.counting or memtable.cleared:
            return None
        older = len(memtable.layers)
        return self.tree.base_count() + sum(self.tree.layer_changes()[-older:])

    def _compact_due(self) -> None:
        """Merge as the policy says; damage is kept for later calls to tell."""
        try:
            while self.compact_once(choose(self.tree.version, self.options, self._quarantined)):
                pass
        except CorruptionError as problem:
            self._quarantine(problem)

    def compact_once(self, task: Task | None) -> bool:
        """Carry one task out; False when there is none."""
        if task is None:
            return False
        run = self._compactor.merge(task, self.tree.tables.__getitem__)
        self._install(self.tree.version.with_merge(task.runs, run), run)
        return True

    def _quarantine(self, problem: CorruptionError) -> None:
        """Leave the table that does not check out of merges from now on."""
        numbers = [n for n, table in self.tree.tables.items() if table.path == problem.filename]
        if not numbers:
            raise problem
        self._quarantined |= frozenset(numbers)

    # What a user asks for.

    def flush(self) -> None:
        """Turn the MemTable into a table; return once it is on the disk."""
        with self.lock:
            self.check_writable()
            self.flush_sealed()
            if len(self.tree.memtables[0]) or self.tree.cleared:
                self.rotate()
                self.flush_sealed()
            self._compact_due()

    def compact(self) -> None:
        """Merge everything into one run without tombstones.  O(store)."""
        with self.lock:
            self.flush()
            self.compact_once(everything(self.tree.version))

    def _sync_log(self) -> None:
        wal = self._live()
        try:
            wal.sync(self.appender.position)
        except BaseException as problem:
            self._stop(problem)
            raise

    def _stop(self, problem: BaseException) -> None:
        """Stop writing for good: what is on the disk is not known any more."""
        self._last_error = error(str(problem))
        self.appender.limit = -1

    def sync(self) -> None:
        """Return once everything written is on the disk; recovered records too."""
        with self.lock:
            self.check_writable()
            if self._wal is None and self._unsynced:
                self._begin()
            if self._wal is not None:
                self._sync_log()

    def stats(self) -> dict[str, Any]:
        """Return figures for people: see ``Database.stats``."""
        figures = super().stats()
        figures["log_back_end"] = "" if self._wal is None else self._wal.back_end
        figures["log_bytes"] = 0 if self._wal is None else self.appender.position - DATA_AT
        figures["lost_bytes"] = sum(len(lost.data) for lost in self.lost)
        figures["quarantined_tables"] = sorted(self._quarantined)
        return figures

    def forked(self) -> None:
        """Become unusable in a child process, without touching what the parent has."""
        if self.ended is None:
            self.appender.lock = RLock()
            self.appender.limit = -1
            self._store_lock.abandon()
        super().forked()

    def close(self) -> None:
        """Sync (unless the mode is "off") and end the handle; again is fine.

        A large MemTable becomes a table first, so the next opening is quick.
        Whatever fails, the handle is closed and the store unlocked afterwards.
        """
        with self.lock:
            if self.ended is not None:
                return
            try:
                self._settle_for_close()
            finally:
                self.appender.limit = -1
                self.end(error(CLOSED))
                if self._wal is not None:
                    self.appender.target = self.appender.words = None
                    self._wal.close()
                self._store_lock.release()

    def _settle_for_close(self) -> None:
        if self._last_error or self._manifest.failed:
            return
        if self._wal is None:
            if self._unsynced and self.options.sync != OFF:
                self._begin()
            return
        if self.appender.position - DATA_AT > LARGEST_LEFT_OPEN:
            self.rotate()
            self.flush_sealed()
        if self.options.sync != OFF:
            self._sync_log()


def open_store(
    path: str, flag: str, options: Options, mode: int, filesystem: FileSystem
) -> StorageEngine:
    """Open the store at ``path``: flag "r", "w", "c" or "n".

    Raises ``error``, before anything has changed, where there is none, or
    something else, and where another writer has it.
    """
    kind, names = filesystem.kind(path), []
    if kind == "directory":
        names = filesystem.list(path)
        if filenames.MANIFEST in names:
            kind = "store"
        elif all(filenames.is_ours(name) and not filenames.parse(name) for name in names):
            kind = "missing"  # empty, or a creation that was cut short
    if kind == "missing" and flag in "rw":
        raise error(errno.ENOENT, "there is no store here; use flag 'c' or 'n' to make one", path)
    if kind == "directory":
        raise error(
            errno.ENOTEMPTY, f"expected a store, found a directory with {names[0]!r} in it", path
        )
    if kind == "other" or (kind == "file" and flag != "n"):
        meaning = f"expected a store, which is a directory, found {_NAMES[kind]}"
        raise error(errno.ENOTDIR, meaning, path)
    if flag == "r":
        return Reader(filesystem, path, options)
    if kind == "file":
        filesystem.remove(path)
    if kind == "store" and flag != "n":
        load(filesystem, path)  # damage, or a newer format: before the lock is taken
    elif filesystem.kind(path) == "missing":
        filesystem.make_directory(path, mode | (mode & 0o444) >> 2)
    lock = WriterLock(filesystem, path, options.lock_timeout, mode)
    try:
        version = _current_version(filesystem, path, flag, lock, mode)
        return Writer(filesystem, path, options, lock=lock, version=version, mode=mode)
    except BaseException:
        lock.release()
        raise


def _current_version(
    filesystem: FileSystem, path: str, flag: str, lock: WriterLock, mode: int
) -> Version:
    """Return the Version to start from, a new one where there is none or flag is "n"."""
    old = None
    if filesystem.kind(filesystem.join(path, filenames.MANIFEST)) != "missing":
        try:
            old = load(filesystem, path)
        except CorruptionError:
            if flag != "n":
                raise
        if old is not None and flag != "n":
            return old
    numbers = [parsed[1] for parsed in map(filenames.parse, filesystem.list(path)) if parsed]
    version = Version(
        filesystem.random(16).hex(),
        int.from_bytes(filesystem.random(8), "little"),
        next_file=max([old.next_file if old else 1, *(number + 1 for number in numbers)]),
    )
    manifest = Manifest(filesystem, path, version, mode)
    manifest.install(version, lock.bump)
    filesystem.sync_directory(filesystem.parent(path))
    return manifest.version


def remove_store(path: str, filesystem: FileSystem) -> None:
    """Delete the store at ``path``, and nothing that is not one.

    Raises ``error``, before anything has changed, where there is none, where
    the directory holds files that are not the store's, or where it is in use.
    """
    engine = open_store(path, "w", Options(), 0o666, filesystem)
    engine.close()
    names = filesystem.list(path)
    strange = [name for name in names if not filenames.is_ours(name)]
    if strange:
        raise error(errno.ENOTEMPTY, f"{strange[0]!r} is not part of the store", path)
    lock = WriterLock(filesystem, path)
    try:
        # The MANIFEST goes first: what is left of a cut-short removal is no store.
        for name in sorted(names, key=lambda name: name != filenames.MANIFEST):
            filesystem.remove(filesystem.join(path, name))
        filesystem.remove_directory(path)
        filesystem.sync_directory(filesystem.parent(path))
    finally:
        lock.release()
