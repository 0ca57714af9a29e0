"""The way of a store's state, as it is at one moment, into another directory.

::

    hold      MANIFEST, tables and logs of one moment are found, and kept open
    transfer  tables are linked or copied, logs copied up to that moment

A file that is held may lose its name meanwhile, to a flush or a merge: it can
still be copied.  Each file gets its name only once it is whole, checked and
synced.  To name them all in a MANIFEST is left to who asked for it.
"""

from __future__ import annotations

from contextlib import suppress
from errno import EACCES, EAGAIN, EMLINK, ENOENT, ENOSYS, ENOTSUP, EOPNOTSUPP, EPERM, EXDEV

from oblivion_dbm.engine.filenames import MANIFEST, fresh
from oblivion_dbm.engine.filenames import log as log_name
from oblivion_dbm.engine.filenames import table as table_name
from oblivion_dbm.engine.manifest import load, missing_is_damage
from oblivion_dbm.engine.memtable import MemTable
from oblivion_dbm.engine.recovery import Recovery
from oblivion_dbm.engine.sstable import GROUP, RECORDS_AT, SSTable
from oblivion_dbm.engine.header_page import DATA_AT
from oblivion_dbm.errors import CorruptionError, error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from oblivion_dbm.engine.filesystem import File, FileSystem
    from oblivion_dbm.engine.version import TableInfo, Version
    from oblivion_dbm.engine.segment import Segment

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


class Held:
    """The state of a store at one moment, and a hold on its files; ends with ``close``.

    ``version`` names what belongs to it: of the logs those that have begun,
    which ``logs`` has as (segment, where it ends).  ``files`` are the tables,
    by number, that ``has`` has not said to be there already.  ``sequence`` is
    the sequence number of the end, ``mode`` the permissions of its files.
    """

    def __init__(self, filesystem: FileSystem, directory: str, version: Version, has: Has) -> None:
        self._filesystem = filesystem
        self.directory = directory
        self.store_id = bytes.fromhex(version.store_id)
        self.files: dict[int, File] = {}
        self._recovery: Recovery | None = None
        try:
            self.mode = self._mode_of(filesystem.join(directory, MANIFEST)) | 0o200
            self.directory_mode = self._mode_of(directory) | 0o700
            for info in tables_of(version):
                self._hold(info, has)
            recovery = Recovery(filesystem, directory, version, readable_only=True)
        except BaseException:
            self.close()
            raise
        self._recovery = recovery
        self.sequence = recovery.sequence
        self.logs = [(log.segment, log.end) for log in recovery.logs if log.begun]
        for log in recovery.logs:
            log.memtable = MemTable()  # the records were to be checked, not to be kept
        self.version = version.replace(logs=tuple(segment.number for segment, _ in self.logs))

    def _mode_of(self, path: str) -> int:
        file = self._filesystem.open(path)
        try:
            return self._filesystem.mode(file)
        finally:
            self._filesystem.close(file)

    def _hold(self, info: TableInfo, has: Has) -> None:
        """Open a table and look at its footer; keep it open if it is to be transferred."""
        file = self._filesystem.open(self.path(info))
        self.files[info.number] = file
        SSTable(self._filesystem, self.directory, info, self.store_id).close()
        if has(self.store_id, info, file):
            del self.files[info.number]
            self._filesystem.close(file)

    def path(self, info: TableInfo) -> str:
        """Return the path of a table."""
        return self._filesystem.join(self.directory, table_name(info.number))

    def close(self) -> None:
        """Let go of all files."""
        if self._recovery is not None:
            self._recovery.close()
        while self.files:
            self._filesystem.close(self.files.popitem()[1])


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
        try:
            return Held(filesystem, directory, version, has)
        except error as problem:
            if load(filesystem, directory) == version:
                raise missing_is_damage(problem) from problem
            # A writer has moved on meanwhile, and its old files are gone.
    meaning = f"the MANIFEST has changed {ATTEMPTS} times while its files were being opened"
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
        self._logs = [log for log in held.logs if log[0].number not in kept_logs]
        self._progress = progress
        self._done = 0
        self._total = sum(info.size for info in self._tables) + sum(end for _, end in self._logs)
        #: How many tables were linked and copied, and how many bytes were written.
        self.linked = 0
        self.copied = 0
        self.bytes_copied = 0

    def run(self) -> None:
        """Bring all files; a log, of which an earlier backup may have the beginning, comes last."""
        self._advance(0)
        for info in self._tables:
            self._bring_table(info)
        for segment, end in self._logs:
            self._copy_log(segment, end)

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

        self._copy(name, info.size, filesystem.mode(file) | 0o200, piece, check)

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

    def _copy_log(self, segment: Segment, end: int) -> None:
        """Copy a log up to ``end``, as a whole one that is synced up to there."""
        page = segment.page_at(end)

        def piece(at: int, stop: int) -> bytes:
            records = segment.buffer[max(at, DATA_AT) : max(stop, DATA_AT)]
            return page[at:stop] + bytes(records)

        def check(file: File) -> None:
            for at in range(0, end, STRIDE):
                stop = min(end, at + STRIDE)
                if self._filesystem.read(file, at, stop - at) != piece(at, stop):
                    meaning = "what was written here reads back otherwise"
                    raise CorruptionError(file.path, at, meaning)

        self._copy(log_name(segment.number), end, self._held.mode, piece, check)

    # Files.

    def _copy(
        self,
        name: str,
        length: int,
        mode: int,
        piece: Callable[[int, int], bytes],
        check: Callable[[File], None],
    ) -> None:
        """Make the file ``name`` of its pieces; it is synced and checked before it is there."""
        filesystem = self._filesystem
        new = filesystem.join(self._directory, fresh(name))
        file = filesystem.create(new, mode)
        try:
            try:
                for at in range(0, length, STRIDE):
                    data = piece(at, min(length, at + STRIDE))
                    filesystem.write(file, at, data)
                    self.bytes_copied += len(data)
                    self._advance(len(data))
                filesystem.sync(file)
                check(file)
            finally:
                filesystem.close(file)
        except BaseException:
            with suppress(error):
                filesystem.remove(new)
            raise
        self._place(name)

    def _place(self, name: str) -> None:
        """Give a whole file its name."""
        join, directory = self._filesystem.join, self._directory
        self._filesystem.rename(join(directory, fresh(name)), join(directory, name))


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
