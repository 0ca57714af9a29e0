"""Backup and restore: a store as it is at one moment, in another directory.

A backup is a store that is opened for reading like any other.  Tables never
change, so they are hard links where that is possible; logs are copied up to
the moment, never linked.

A first backup, and a restored store, is nothing until its MANIFEST is installed.
An earlier backup becomes the new one in steps, each of which leaves a sound
store, and none an older one: tables and copies of the logs are made; the
MANIFEST that names them is installed, with new logs still empty; then the copies
take the place of the logs, the oldest first.  That is how a writer goes on, too.

What one that was cut short leaves, the next one uses or removes.
"""

from __future__ import annotations

from contextlib import suppress
from errno import EAGAIN, EBUSY, EEXIST, EINVAL, ESTALE

from oblivion_dbm.engine import filenames
from oblivion_dbm.engine.filesystem import FileSystem
from oblivion_dbm.engine.header_page import DATA_AT
from oblivion_dbm.engine.history import is_part
from oblivion_dbm.engine.lineage import as_backup, backup_sequence, begin, is_as_backed_up, lineage
from oblivion_dbm.engine.lock import WriterLock
from oblivion_dbm.engine.manifest import Manifest, begins_as_one, load
from oblivion_dbm.engine.segment import Segment
from oblivion_dbm.engine.sstable import SSTable
from oblivion_dbm.engine.transfer import STRIDE, Transfer, hold, tables_of
from oblivion_dbm.engine.verify import verify
from oblivion_dbm.errors import CorruptionError, error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oblivion_dbm.engine.filesystem import File
    from oblivion_dbm.engine.transfer import Held, HeldLog, Progress
    from oblivion_dbm.engine.version import TableInfo, Version

_UNFINISHED_TEXT = b"A backup or a restore was not finished here; the next one begins again.\n"


class Report:
    """What a backup or a restore has done.

    ``linked``, ``copied`` and ``kept`` count tables: those that got a second
    name, those that were copied, and those that the earlier backup had already.
    ``bytes`` is the size of all tables, ``log_bytes`` that of the logs, and
    ``bytes_copied`` what of both was written.  ``sequence`` is the sequence
    number up to which the copy holds everything.
    """

    __slots__ = ("bytes", "bytes_copied", "copied", "kept", "linked", "log_bytes", "sequence")

    def __init__(self, held: Held, transfer: Transfer) -> None:
        tables = tables_of(held.version)
        self.linked = transfer.linked
        self.copied = transfer.copied
        self.kept = len(tables) - self.linked - self.copied
        self.bytes = sum(info.size for info in tables)
        self.log_bytes = sum(log.end for log in held.logs)
        self.bytes_copied = transfer.bytes_copied
        self.sequence = held.sequence

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)}" for name in self.__slots__)
        return f"<{type(self).__name__} {fields}>"


def backup(
    source: str,
    destination: str,
    *,
    copy: bool = False,
    progress: Progress | None = None,
    filesystem: FileSystem | None = None,
) -> Report:
    """Make ``destination`` a backup of the store ``source``, or bring an earlier one up to date.

    It holds all that had returned when this was called (in mode "full": that was
    synced), and is durable when this returns.  Takes no lock on the source and
    changes nothing in it; writers go on.  With ``copy`` no table is a hard link.
    Both paths are absolute.

    Costs the replay of the source's logs and what is new since the earlier
    backup: some 0.1 ms for a linked table, reading and writing for a copied one.
    Raises ``error`` with EEXIST or ESTALE, before anything has changed, where the
    destination is something else than an earlier backup of this store, and
    CorruptionError where the source is damaged.
    """
    filesystem = filesystem or FileSystem()
    _check_apart(filesystem, source, destination)
    place = _Destination(filesystem, destination, copy)
    held = hold(filesystem, source, place.has)
    try:
        kept_logs = place.check(held)
        lock = place.take(held)
        try:
            place.prepare(held)
            transfer = Transfer(
                filesystem, held, destination,
                link=not copy, kept_logs=kept_logs, progress=progress,
            )  # fmt: skip
            transfer.bring_tables()
            place.switch(held, transfer, lock)
            return Report(held, transfer)
        finally:
            lock.release()
    finally:
        held.close()


class _Destination:
    """Where a backup goes: a directory with an ``earlier`` backup, or with none.

    Raises ``error`` where there is something else.
    """

    def __init__(self, filesystem: FileSystem, path: str, copy: bool) -> None:
        self._filesystem = filesystem
        self._path = path
        self._copy = copy
        self.earlier = self._look()

    def _look(self) -> Version | None:
        filesystem, path = self._filesystem, self._path
        if filesystem.kind(path) == "missing":
            return None
        if not _may_be_store(filesystem, path):
            _check_unfinished(filesystem, path, "a backup, an empty directory or nothing")
            return None
        version = load(filesystem, path)
        if backup_sequence(version) is None:
            meaning = "expected a backup, found a store that is none, or is none any more"
            raise error(EEXIST, meaning, path)
        if not is_as_backed_up(version):
            raise self._stale("a backup as it was made", "one that was written to since")
        return version

    def _stale(self, expected: str, found: str) -> error:
        return error(ESTALE, f"expected {expected}, found {found}", self._path)

    def has(self, store_id: bytes, info: TableInfo, file: File) -> bool:
        """Tell whether there is a table already, and, with ``copy``, one of its own."""
        path = self._filesystem.join(self._path, filenames.table(info.number))
        if not self._filesystem.exists(path):
            return False
        if self._copy and self._filesystem.is_at(file, path):
            return False
        try:
            SSTable(self._filesystem, self._path, info, store_id).close()
        except error:  # damaged: it is replaced
            return False
        return True

    def check(self, held: Held) -> set[int]:
        """Raise unless there is none yet or an older state of the same store.

        Returns the numbers of the logs that need not be copied again.
        """
        earlier, version = self.earlier, held.version
        if earlier is None:
            return set()
        if earlier.store_id != version.store_id:
            meaning = f"expected a backup of store {version.store_id}, found one of "
            raise error(EEXIST, meaning + earlier.store_id, self._path)
        ours, found = lineage(version), lineage(earlier)
        if ours != found:
            raise self._stale(
                f"a backup of lineage {ours or '(none)'}",
                f"one of {found or '(none)'}: of another store that began as a copy of the same",
            )
        sequence = backup_sequence(earlier) or 0
        if sequence > held.sequence:
            raise self._stale(
                f"a backup that ends at or before sequence number {held.sequence}",
                f"one that ends at {sequence}: it is newer than the store",
            )
        if not is_part(earlier, sequence, version):
            why = "the store has lost what this backup holds, or is a copy that went its own way"
            raise self._stale("an earlier state of this store", f"none: {why}")
        self._check_numbers(earlier, version)
        return {
            log.number
            for log in held.logs
            if log.number in earlier.logs and self._has_log(log, held.store_id)
        }

    def _check_numbers(self, earlier: Version, version: Version) -> None:
        """Raise where one number is that of two files.

        A store that has lost its latest part to a crash of the machine gives the
        numbers of what it has lost to others.
        """
        known = {info.number: info for info in tables_of(earlier)}
        for info in tables_of(version):
            if info.number in earlier.numbers() and known.get(info.number) != info:
                raise self._another(filenames.table(info.number))
        for number in known.keys() & set(version.logs):
            raise self._another(filenames.log(number))

    def _another(self, name: str) -> error:
        return self._stale(
            f"an older state of {name}", "another one: the store has lost what this backup holds"
        )

    def _has_log(self, log: HeldLog, store_id: bytes) -> bool:
        """Tell whether the copy of a log is as long already; raise if it is of another log."""
        segment = log.segment
        try:
            copy = Segment(self._filesystem, self._path, log.number, store_id)
        except error:  # damaged: it is replaced
            return False
        try:
            copied, _ = copy.synced()
            copy.check_sums(copied)
            same = copied <= log.end and copy.seed == segment.seed
            for at in range(DATA_AT, copied, STRIDE):
                stop = min(copied, at + STRIDE)
                same = same and copy.buffer[at:stop] == segment.buffer[at:stop]
            if not same:
                raise self._another(filenames.log(log.number))
            return copied == log.end and copy.buffer[:DATA_AT] == log.page()
        except CorruptionError:
            return False
        finally:
            copy.close()

    def take(self, held: Held) -> WriterLock:
        """Make the directory if it is missing, and lock it."""
        if self._filesystem.kind(self._path) == "missing":
            self._filesystem.make_directory(self._path, held.directory_mode)
        busy = "another backup is being made here"
        if self.earlier is not None:
            busy = f"this backup is open for writing, or {busy},"
        return WriterLock(self._filesystem, self._path, mode=held.mode, busy=busy)

    def prepare(self, held: Held) -> None:
        """Make sure that nobody was faster, and remove what is of no use."""
        if self._look() != self.earlier:
            raise error(EAGAIN, "another backup was made here meanwhile", self._path)
        tables = {info.number for info in tables_of(held.version)}
        keep = tables - held.files.keys()
        if self.earlier is None:
            _mark_unfinished(self._filesystem, self._path, held.mode)
        else:
            keep |= self.earlier.numbers()
        for name in self._filesystem.list(self._path):
            kind, number = filenames.parse(name) or (filenames.LOST_KIND, 0)
            if filenames.is_fresh(name) or (kind != filenames.LOST_KIND and number not in keep):
                self._filesystem.remove(self._filesystem.join(self._path, name))

    def switch(self, held: Held, transfer: Transfer, lock: WriterLock) -> None:
        """Bring the logs, and let the MANIFEST name what there is then."""
        earlier, version = self.earlier, as_backup(held.version, held.sequence)
        if earlier is not None:
            transfer.begin_logs(set(version.logs).difference(earlier.logs))
        transfer.copy_logs()
        if earlier is None:
            transfer.place_logs(one_by_one=False)
        Manifest(self._filesystem, self._path, version, held.mode).install(version, lock.bump)
        if earlier is not None:
            transfer.place_logs(one_by_one=True)
            lock.bump()
        _unmark(self._filesystem, self._path)


def restore(
    backup: str,
    path: str,
    *,
    link: bool = False,
    progress: Progress | None = None,
    filesystem: FileSystem | None = None,
) -> Report:
    """Make a store at ``path``, where nothing or an empty directory is, out of a backup.

    The backup is verified first and the store last, each byte: O(store).  Tables
    are copied, or with ``link`` hard links where that is possible.  Until it is
    whole the store is made in ``path`` + ".restoring", which a later call clears
    away.  It has a lineage of its own: it goes into a backup of its own, too.
    Both paths are absolute.

    Raises CorruptionError with the first finding, before anything has changed,
    where the backup is damaged, and ``error`` with EEXIST where something is in
    the way, with EBUSY where ``path`` is a mount point, whose name it could not get.
    """
    filesystem = filesystem or FileSystem()
    _check_apart(filesystem, backup, path)
    path = _place_for(filesystem, path)
    _check_bytes(filesystem, backup)
    held = hold(filesystem, backup, lambda *_: False)
    try:
        making = filenames.restoring(path)
        lock = _begin_restoring(filesystem, making, held)
        try:
            transfer = Transfer(filesystem, held, making, link=link, progress=progress)
            transfer.bring_tables()
            transfer.copy_logs()
            transfer.place_logs(one_by_one=False)
            version = begin(held.version, filesystem)
            Manifest(filesystem, making, version, held.mode).install(version, lock.bump)
            _check_bytes(filesystem, making)
            filesystem.rename(making, path)
            filesystem.sync_directory(filesystem.parent(path))
            _unmark(filesystem, path)
            return Report(held, transfer)
        finally:
            lock.release()
    finally:
        held.close()


def _place_for(filesystem: FileSystem, path: str) -> str:
    """Return where a store that is restored to ``path`` gets its name; raise where it cannot."""
    kind = filesystem.kind(path)
    if kind == "missing":
        return path
    if kind != "directory" or filesystem.list(path):
        meaning = f"expected nothing or an empty directory, found a {kind}"
        raise error(
            EEXIST, f"{meaning} with something in it" if kind == "directory" else meaning, path
        )
    path = filesystem.real(path)  # a link to it stays
    if filesystem.is_mount(path):
        meaning = "expected a directory that can be replaced, found a mount point: name one in it"
        raise error(EBUSY, meaning, path)
    return path


def _begin_restoring(filesystem: FileSystem, making: str, held: Held) -> WriterLock:
    """Return the lock on the directory that a store is made in, which is empty."""
    if filesystem.kind(making) == "missing":
        filesystem.make_directory(making, held.directory_mode)
    _check_unfinished(filesystem, making, "an unfinished restore or nothing")
    busy = "another restore is under way here"
    lock = WriterLock(filesystem, making, mode=held.mode, busy=busy)
    try:
        _check_unfinished(filesystem, making, "an unfinished restore or nothing")
        _mark_unfinished(filesystem, making, held.mode)
        for name in filesystem.list(making):
            if name not in (filenames.LOCK, filenames.UNFINISHED):
                filesystem.remove(filesystem.join(making, name))
    except BaseException:
        lock.release()
        raise
    return lock


def _check_bytes(filesystem: FileSystem, directory: str) -> None:
    """Raise CorruptionError for the first finding in a store."""
    # What an unfinished backup has left in the earlier one is not brought along.
    findings = [found for found in verify(directory, filesystem) if not found.leftover]
    if findings:
        first, count = findings[0], len(findings)
        more = "" if count == 1 else f" (the first of {count} findings)"
        raise CorruptionError(first.file, first.offset, first.meaning + more)


def _check_apart(filesystem: FileSystem, source: str, destination: str) -> None:
    """Raise unless ``destination`` is, or would be, outside of ``source``, whatever the links."""
    inode = filesystem.inode(source)
    there = filesystem.kind(destination) == "directory"
    place = destination if there else filesystem.parent(destination)
    here = filesystem.inode(place)
    while here != inode:
        place, below = filesystem.join(place, ".."), here
        here = filesystem.inode(place)
        if here == below:  # the root
            return
    raise error(EINVAL, f"expected a place outside of {source}, found one in it", destination)


def _may_be_store(filesystem: FileSystem, path: str) -> bool:
    """Tell whether a directory has a MANIFEST that is, or was, one of ours."""
    if filesystem.kind(path) != "directory":
        return False
    names = filesystem.list(path)
    if filenames.MANIFEST not in names:
        return False
    return begins_as_one(filesystem, path) or all(map(filenames.is_ours, names))


def _check_unfinished(filesystem: FileSystem, path: str, expected: str) -> None:
    """Raise unless there is an empty directory, or what was begun in one."""
    kind = filesystem.kind(path)
    if kind != "directory":
        raise error(EEXIST, f"expected {expected}, found a {kind}", path)
    names = filesystem.list(path)
    begun = filenames.UNFINISHED in names
    for name in names:
        known = name in (filenames.LOCK, filenames.MANIFEST_NEW)
        if not known and not (begun and filenames.is_ours(name)):
            raise error(EEXIST, f"expected {expected}, found a directory with {name!r} in it", path)


def _mark_unfinished(filesystem: FileSystem, path: str, mode: int) -> None:
    """Say, before there is anything else, that what will be in a directory is no store yet."""
    mark = filesystem.join(path, filenames.UNFINISHED)
    if not filesystem.exists(mark):
        file = filesystem.create(mark, mode)
        try:
            filesystem.write(file, 0, _UNFINISHED_TEXT)
        finally:
            filesystem.close(file)
    filesystem.sync_directory(path)
    filesystem.sync_directory(filesystem.parent(path))


def _unmark(filesystem: FileSystem, path: str) -> None:
    """Say that it is one; if that cannot be said, the MANIFEST still does."""
    mark = filesystem.join(path, filenames.UNFINISHED)
    with suppress(error):
        if filesystem.exists(mark):
            filesystem.remove(mark)
