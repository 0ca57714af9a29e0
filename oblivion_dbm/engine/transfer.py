"""The way of a store's state, as it is at one moment, into another directory.

::

    hold      MANIFEST, tables and logs of one moment are found, and kept open
    transfer  tables are linked or copied, logs copied up to that moment

A file that is held may lose its name meanwhile, to a flush or a merge: it can
still be copied.  Each file gets its name only once it is whole, checked and
synced.  To name them all in a MANIFEST is left to who asked for it, and to say
when: where a store is already, its log goes on as under a writer's hands, which
means that a segment is empty until the MANIFEST names it.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from errno import EACCES, EAGAIN, EMLINK, ENOENT, ENOSYS, ENOTSUP, EOPNOTSUPP, EPERM, EXDEV

from oblivion_dbm.engine.filenames import MANIFEST, fresh
from oblivion_dbm.engine.filenames import log as log_name
from oblivion_dbm.engine.filenames import table as table_name
from oblivion_dbm.engine.header_page import DATA_AT
from oblivion_dbm.engine.manifest import load, missing_is_damage
from oblivion_dbm.engine.memtable import MemTable
from oblivion_dbm.engine.record import OVERHEAD
from oblivion_dbm.engine.recovery import Recovery, places
from oblivion_dbm.engine.sstable import GROUP, RECORDS_AT, SSTable
from oblivion_dbm.errors import CorruptionError, error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from oblivion_dbm.engine.filesystem import File, FileSystem
    from oblivion_dbm.engine.recovery import ReplayedLog
    from oblivion_dbm.engine.version import TableInfo, Version

    #: Tells whether a table of a store (its id), open as a file, need not be transferred.
    Has = Callable[[bytes, TableInfo, File], bool]
    #: Called with the bytes that are done and those that there are to do.
    Progress = Callable[[int, int], object]

#: How often the MANIFEST may change while the files that it names are being opened.
ATTEMPTS = 1000
#: Bytes that are copied at once.
STRIDE = 1 << 20
#: Records whose sums are checked at once.
_CHUNK = 16 * GROUP
#: Why a file gets no second name where it could well be copied.
_NO_LINKS = {EXDEV, EPERM, EACCES, ENOTSUP, EOPNOTSUPP, ENOSYS}
_ONE_COPY = {EMLINK, ENOENT}


class HeldLog:
    """A segment of the log, and where it ends: with a SEAL if it is ``sealed``."""

    def __init__(self, log: ReplayedLog) -> None:
        self.segment = log.segment
        self.number = log.segment.number
        self.end = log.end
        self.sealed = log.sealed

    def page(self) -> bytes:
        """Return the header page of a copy."""
        return self.segment.page_at(self.end, sealed=self.sealed)

    def unwritten_page(self, first: bool) -> bytes:
        """Return that of a copy before its first new record; ``first``: no segment precedes it."""
        return self.segment.page_at(self.segment.prelude_end, begun=first)


class Held:
    """The state of a store at one moment, and a hold on its files; ends with ``close``.

    ``version`` names what belongs to it: of the logs those that have begun,
    which are ``logs``; the last of them is not sealed.
    ``files`` are the tables, by number, that ``has`` has not said to be there
    already.  ``sequence`` is the sequence number of the end, ``mode`` the
    permissions of its files.
    """

    def __init__(self, filesystem: FileSystem, directory: str, version: Version, has: Has) -> None:
        self._filesystem = filesystem
        self.directory = directory
        self.store_id = bytes.fromhex(version.store_id)
        self.files: dict[int, File] = {}
        self._flushed_up_to = 0
        self._recovery: Recovery | None = None
        try:
            self.mode = filesystem.mode_of(filesystem.join(directory, MANIFEST)) | 0o200
            self.directory_mode = filesystem.mode_of(directory) | 0o700
            for info in tables_of(version):
                self._hold(info, has)
            recovery = Recovery(filesystem, directory, version, readable_only=True)
        except BaseException:
            self.close()
            raise
        self._recovery = recovery
        sequence = recovery.sequence
        self.logs = [HeldLog(log) for log in recovery.logs if log.begun]
        if self.logs and self.logs[-1].sealed:
            # What follows the SEAL is not of this moment, so that goes too.
            self.logs[-1].sealed = False
            self.logs[-1].end -= OVERHEAD
            sequence -= OVERHEAD
        for log in recovery.logs:
            log.memtable = MemTable()  # the records were to be checked, not to be kept
        self.sequence = max(sequence, self._flushed_up_to)
        self.version = version.replace(logs=tuple(log.number for log in self.logs))

    def _hold(self, info: TableInfo, has: Has) -> None:
        """Open a table and look at its footer; keep it open if it is to be transferred."""
        file = self._filesystem.open(self.path(info))
        self.files[info.number] = file
        table = SSTable(self._filesystem, self.directory, info, self.store_id)
        table.close()
        self._flushed_up_to = max(self._flushed_up_to, table.last_sequence)
        if has(self.store_id, info, file):
            del self.files[info.number]
            self._filesystem.close(file)

    def path(self, info: TableInfo) -> str:
        """Return the path of a table."""
        return self._filesystem.join(self.directory, table_name(info.number))

    def close(self) -> None:
        """Let go of all files."""
        with ExitStack() as closing:  # all of them, also where one raises
            while self.files:
                closing.callback(self._filesystem.close, self.files.popitem()[1])
            if self._recovery is not None:
                closing.callback(self._recovery.close)


def tables_of(version: Version) -> list[TableInfo]:
    """Return what the MANIFEST says of each table."""
    return [info for run in version.runs for info in run.tables]


def hold(filesystem: FileSystem, directory: str, has: Has) -> Held:
    """Return the present state of the store in ``directory``, which nothing changes any more.

    It is what a reader would see: all that had returned, in mode "full" once it
    was synced, and nothing that was not.  It takes no lock and changes nothing.
    Costs what opening for reading costs.  Raises ``error`` where there is no
    store, and CorruptionError where its logs or the footers of its tables are
    damaged.
    """
    if filesystem.kind(filesystem.join(directory, MANIFEST)) != "file":
        raise error(ENOENT, "there is no store here", directory)
    for _ in range(ATTEMPTS):
        version = load(filesystem, directory)
        there = places(filesystem, directory, version)
        try:
            return Held(filesystem, directory, version, has)
        except error as problem:
            same = load(filesystem, directory) == version
            if same and places(filesystem, directory, version) == there:
                raise missing_is_damage(problem) from problem
            # A writer, or a backup, has moved on meanwhile, and its old files are gone.
    meaning = f"the store has changed {ATTEMPTS} times while its files were being opened"
    raise error(EAGAIN, meaning, directory)


class Transfer:
    """Brings the files of a ``Held`` into ``directory``, but for its ``kept_logs``.

    Tables are linked if ``link``, where that is possible.  ``progress(done, total)``
    is told of bytes; what it raises ends the transfer.
    """

    def __init__(
        self,
        filesystem: FileSystem,
        held: Held,
        directory: str,
        *,
        link: bool,
        kept_logs: Collection[int] = (),
        progress: Progress | None = None,
    ) -> None:
        self._filesystem = filesystem
        self._held = held
        self._directory = directory
        self._links = link
        self._tables = [info for info in tables_of(held.version) if info.number in held.files]
        self._logs = [log for log in held.logs if log.number not in kept_logs]
        self._progress = progress
        self._done = 0
        self._total = sum(info.size for info in self._tables) + sum(log.end for log in self._logs)
        #: How many tables were linked and copied, and how many bytes were written.
        self.linked = 0
        self.copied = 0
        self.bytes_copied = 0

    def bring_tables(self) -> None:
        """Link or copy all tables."""
        self._advance(0)
        for info in self._tables:
            self._bring_table(info)

    def begin_logs(self, numbers: Collection[int]) -> None:
        """Make the logs of these numbers as they were before their first new record."""
        for log in self._logs:
            if log.number in numbers:
                first = log is self._held.logs[0]
                self._write_log(log, log.segment.prelude_end, log.unwritten_page(first))
                self._place(log_name(log.number))

    def copy_logs(self) -> None:
        """Copy all logs; they get their names from ``place_logs``."""
        for log in self._logs:
            self._write_log(log, log.end, log.page(), self._advance)
            self.bytes_copied += log.end

    def place_logs(self, one_by_one: bool) -> None:
        """Let the copies take the place of what was there, the oldest first.

        ``one_by_one``: the disk has each of them before the next one, as between
        them there may be no hole at any time.
        """
        for log in self._logs:
            self._place(log_name(log.number))
            if one_by_one:
                self._filesystem.sync_directory(self._directory)

    def _advance(self, length: int) -> None:
        self._done += length
        if self._progress is not None:
            self._progress(self._done, self._total)

    # Tables.

    def _bring_table(self, info: TableInfo) -> None:
        name, file = table_name(info.number), self._held.files[info.number]
        if self._links and self._link(info, file, name):
            self.linked += 1
            self._advance(info.size)
        else:
            self._copy_table(info, file, name)
            self.copied += 1

    def _link(self, info: TableInfo, file: File, name: str) -> bool:
        """Give a table a second name; False where it is to be copied."""
        new = self._filesystem.join(self._directory, fresh(name))
        try:
            self._filesystem.link(self._held.path(info), new)
        except error as problem:
            if problem.errno not in _NO_LINKS | _ONE_COPY:
                raise
            self._links = problem.errno in _ONE_COPY
            return False
        if not self._filesystem.is_at(file, new):  # another store is at the source's path now
            self._filesystem.remove(new)
            return False
        self._place(name)
        return True

    def _copy_table(self, info: TableInfo, file: File, name: str) -> None:
        """Copy a table, and check every byte of the copy."""
        filesystem, held = self._filesystem, self._held

        def piece(at: int, stop: int) -> bytes:
            data = filesystem.read(file, at, stop - at)
            if len(data) < stop - at:
                meaning = f"expected {info.size} bytes, found {at + len(data)}"
                raise CorruptionError(file.path, at + len(data), meaning)
            return data

        def check(_: File) -> None:
            try:
                _check(_Copy(filesystem, self._directory, info, held.store_id))
            except CorruptionError as found:
                raise self._culprit(info, found) from found

        pieces = _pieces(info.size, piece)
        self._write(name, filesystem.mode(file) | 0o200, pieces, check, self._advance)
        self.bytes_copied += info.size
        self._place(name)

    def _culprit(self, info: TableInfo, found: CorruptionError) -> CorruptionError:
        """Return the damage of a copy as that of the source, where it is the source's."""
        held = self._held
        with suppress(error):  # its name may be gone by now
            try:
                _check(SSTable(self._filesystem, held.directory, info, held.store_id))
            except CorruptionError as problem:
                return problem
        return found

    # Logs.

    def _write_log(
        self,
        log: HeldLog,
        end: int,
        page: bytes,
        advance: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Write a log up to ``end``, as a whole one that is synced up to there."""

        def piece(at: int, stop: int) -> bytes:
            records = log.segment.buffer[max(at, DATA_AT) : max(stop, DATA_AT)]
            return page[at:stop] + bytes(records)

        def check(file: File) -> None:
            for at in range(0, end, STRIDE):
                stop = min(end, at + STRIDE)
                if self._filesystem.read(file, at, stop - at) != piece(at, stop):
                    meaning = "what was written here reads back otherwise"
                    raise CorruptionError(file.path, at, meaning)

        name = log_name(log.number)
        self._write(name, self._held.mode, _pieces(end, piece), check, advance)

    # Files.

    def _write(
        self,
        name: str,
        mode: int,
        pieces: Iterator[bytes],
        check: Callable[[File], None],
        advance: Callable[[int], None],
    ) -> None:
        """Make a file of its pieces, synced and checked; ``_place`` will give it its name."""
        filesystem = self._filesystem
        new = filesystem.join(self._directory, fresh(name))
        file = filesystem.create(new, mode)
        try:
            try:
                at = 0
                for data in pieces:
                    filesystem.write(file, at, data)
                    at += len(data)
                    advance(len(data))
                filesystem.sync(file)
                check(file)
            finally:
                filesystem.close(file)
        except BaseException:
            with suppress(error):
                filesystem.remove(new)
            raise

    def _place(self, name: str) -> None:
        """Give a whole file its name."""
        join, directory = self._filesystem.join, self._directory
        self._filesystem.rename(join(directory, fresh(name)), join(directory, name))


def _pieces(length: int, piece: Callable[[int, int], bytes]) -> Iterator[bytes]:
    """Yield what ``piece`` gives for each stride of ``length`` bytes."""
    for at in range(0, length, STRIDE):
        yield piece(at, min(length, at + STRIDE))


class _Copy(SSTable):
    """A copy of a table that has not its name yet."""

    @staticmethod
    def file_name(number: int) -> str:
        """Return the name of its file."""
        return fresh(table_name(number))


def _check(table: SSTable) -> None:
    """Check all bytes of a table, and close it.

    Looks at the sums of groups and blocks, as a scan does: some 0.1 µs a record.
    """
    try:
        _check_bytes(table)
    finally:
        table.close()


def _check_bytes(table: SSTable) -> None:
    for section, blocks in enumerate(table.checked):
        for block in range(len(blocks)):
            table.check_block(section, block)
    end = RECORDS_AT
    for start in range(0, len(table), _CHUNK):
        stop = min(start + _CHUNK, len(table))
        ends = table.ends(start, stop)
        if ends[0] != end or not table.sums_match(start, stop, ends):
            table.damaged(end, "the sum of a group does not match its records")
        end = ends[-1]
    if end != table.records_end:
        table.damaged(end, f"expected records up to byte {table.records_end}")
