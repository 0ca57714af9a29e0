"""Verify: every byte and every invariant of a store, without changing anything.

A writer, in this process or another, may be at work: what the MANIFEST named at one
moment is opened, and stays readable whatever is removed meanwhile.
"""

from __future__ import annotations

from itertools import islice

from oblivion_dbm.engine import filenames, lock
from oblivion_dbm.engine.filesystem import FileSystem, close_all
from oblivion_dbm.engine.finding import Finding, found
from oblivion_dbm.engine.header_page import DATA_AT, SEQUENCE_AT
from oblivion_dbm.engine.history import sessions
from oblivion_dbm.engine.lineage import emptied_up_to
from oblivion_dbm.engine.log_check import check_logs
from oblivion_dbm.engine.manifest import RESERVE, load, missing_is_damage
from oblivion_dbm.engine.record import OVERHEAD
from oblivion_dbm.engine.recovery import check_newest, places
from oblivion_dbm.engine.segment import Segment
from oblivion_dbm.engine.snapshot import count_live
from oblivion_dbm.engine.sstable import SSTable
from oblivion_dbm.engine.table_check import check_runs
from oblivion_dbm.errors import CorruptionError, error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    from oblivion_dbm.engine.version import Version

    File = TypeVar("File", Segment, SSTable)

__all__ = ["Finding", "verify"]

#: How often a store is looked at whose MANIFEST moves on while its log is checked.
_ATTEMPTS = 20
#: How a line begins that says that a repair has not come to its end.
_UNFINISHED = "? repairing "
#: How many SEALs without a write may follow each other.
_SEALS = 8
#: Findings that are listed of logs, and of tables.
_MOST = 1000


def verify(directory: str, filesystem: FileSystem | None = None) -> list[Finding]:
    """Return what is wrong with the store in ``directory``; [] when nothing is.

    Reads everything once: O(store), in constant memory but for one record, or
    one batch, at a time.  Raises ``error`` where there is no store at all, and where
    this process may not read it, or has no descriptors or memory left.
    """
    filesystem = filesystem or FileSystem()
    attempts = _ATTEMPTS
    while True:
        attempts -= 1
        try:
            version = load(filesystem, directory)
        except CorruptionError as problem:
            return [found(problem, directory)]
        except error:
            if not _has_lost_its_manifest(filesystem, directory):
                raise
            meaning = "it is missing, and only it tells which of the files here make up the store"
            return [Finding(filesystem.join(directory, filenames.MANIFEST), 0, meaning)]
        check = _Check(filesystem, directory, version)
        try:
            findings = list(check.of_what_moves())
            # A writer may have moved on meanwhile, and its old files be gone.
            if not findings or not attempts or not check.has_moved():
                return findings + list(check.of_tables())
        finally:
            check.close()


def _has_lost_its_manifest(filesystem: FileSystem, directory: str) -> bool:
    """Tell whether there are files of a store, and no MANIFEST."""
    if filesystem.kind(directory) != "directory":
        return False
    names = filesystem.list(directory)
    return filenames.MANIFEST not in names and any(map(filenames.parse, names))


class _Check:
    """The check of what one Version names; all of it is opened at once."""

    def __init__(self, filesystem: FileSystem, directory: str, version: Version) -> None:
        self._filesystem = filesystem
        self._directory = directory
        self._version = version
        self._places = places(filesystem, directory, version)
        self._missing: list[Finding] = []
        self._opened: list[Segment | SSTable] = []
        store_id = bytes.fromhex(version.store_id)
        try:
            self._segments = [
                self._open(lambda n=number: Segment(filesystem, directory, n, store_id))  # type: ignore[misc]
                for number in version.logs
            ]
            self._runs = [
                [
                    self._open(lambda i=info: SSTable(filesystem, directory, i, store_id))  # type: ignore[misc]
                    for info in run.tables
                ]
                for run in version.runs
            ]
        except BaseException:
            self.close()
            raise

    def _open(self, call: Callable[[], File]) -> File | None:
        try:
            file = call()
        except error as problem:
            self._missing.append(found(missing_is_damage(problem), self._directory))
            return None
        self._opened.append(file)
        return file

    def has_moved(self) -> bool:
        """Tell whether the store has another Version, or longer copies of its logs, by now."""
        filesystem, directory, version = self._filesystem, self._directory, self._version
        try:
            moved = load(filesystem, directory) != version
        except error:
            return False
        return moved or places(filesystem, directory, version) != self._places

    def of_what_moves(self) -> Iterator[Finding]:
        """Yield what is wrong, if the Version is still the store's, with all but tables."""
        yield from self._missing
        yield from _listed(check_logs(self._filesystem, self._segments))
        yield from self._check_sequences()
        yield from self._check_lock()
        yield from self._check_names()

    def of_tables(self) -> Iterator[Finding]:
        """Yield what is wrong with the tables, whoever has moved on meanwhile."""
        manifest = self._filesystem.join(self._directory, filenames.MANIFEST)
        damaged = False
        for finding in _listed(check_runs(self._version, self._runs)):
            damaged = True
            yield finding
        tables = [[table for table in run if table is not None] for run in self._runs]
        if damaged or self._version.live is None or sum(map(len, tables)) < self._count():
            return
        live = count_live(tables)
        if live != self._version.live:
            meaning = f"expected {live} live keys, found {self._version.live}"
            yield Finding(manifest, 0, meaning)

    def _check_sequences(self) -> Iterator[Finding]:
        """Check that tables and logs together hold all that was ever written.

        Of two runs that follow each other ``check_runs`` tells.
        """
        version, gone = self._version, emptied_up_to(self._version)
        runs = [next(filter(None, run), None) for run in self._runs]
        known = sessions(version)
        manifest = self._filesystem.join(self._directory, filenames.MANIFEST)
        if any(line.startswith(_UNFINISHED) for line in version.extra):
            yield Finding(manifest, 0, "a repair was not finished here")
        oldest = runs[-1] if runs else None
        if oldest is not None and gone is not None and oldest.first_sequence not in (0, gone):
            meaning = f"no table holds the writes up to number {oldest.first_sequence}"
            yield Finding(manifest, 0, meaning)
        if not version.logs and (runs or known):
            yield Finding(manifest, 0, "it names no log segment, but there must be one")
        log = self._segments[0] if version.logs else None
        if log is None or log.prelude_end > DATA_AT:
            return  # nobody knows where what it has taken over had begun
        if runs:
            end = None if runs[0] is None else runs[0].last_sequence
        else:  # all logs are of the last session
            end = gone if gone is None or not known else max(gone, known[-1].start)
        if end is not None and self._is_hole(end, log):
            meaning = f"no table and no log holds the writes from number {end} on"
            yield Finding(log.path, SEQUENCE_AT, meaning)

    def _is_hole(self, end: int, log: Segment) -> bool:
        """Tell whether something is missing between ``end`` and the first log.

        A segment that is sealed before its first write leaves the number of its SEAL
        alone.  A crash of the machine may have taken where a segment begins: then there
        is a guess, which is too low.
        """
        try:
            missing = log.first_sequence - end
        except CorruptionError:  # which the check of the log tells of
            return False
        return missing > 0 and missing not in range(0, _SEALS * OVERHEAD, OVERHEAD)

    def _count(self) -> int:
        return sum(len(run.tables) for run in self._version.runs)

    # The directory.

    def _check_lock(self) -> Iterator[Finding]:
        path = self._filesystem.join(self._directory, filenames.LOCK)
        size = len(lock.read_words(self._filesystem, self._directory))
        if size not in (0, lock.SIZE):  # empty until its first writer has come that far
            yield Finding(path, size, f"expected {lock.SIZE} bytes, found {size}")

    def _check_names(self) -> Iterator[Finding]:
        """Check the names of files that look like the store's."""
        filesystem, directory, version = self._filesystem, self._directory, self._version
        try:
            check_newest(filesystem, directory, version)
        except error as problem:
            yield found(problem, directory)
        named = set(map(filenames.log, version.logs))
        named |= {filenames.table(table.number) for run in version.runs for table in run.tables}
        # Before and after: its new files are named by no MANIFEST yet.
        at_work = lock.may_have_a_writer(filesystem, directory)
        names = filesystem.list(directory)
        at_work = at_work or lock.may_have_a_writer(filesystem, directory)
        for name in names:
            path, parsed = filesystem.join(directory, name), filenames.parse(name)
            if parsed is not None and parsed[1] >= version.next_file + RESERVE:
                meaning = f"the MANIFEST is older: its numbers end at {version.next_file + RESERVE}"
                yield Finding(path, 0, meaning)
            elif name in named or (parsed is not None and parsed[0] == filenames.LOST_KIND):
                continue
            elif parsed is not None and parsed[1] in version.numbers():
                yield Finding(path, 0, "no writer has made it: another file has this number")
            elif not at_work and (parsed is not None or name == filenames.MANIFEST_NEW):
                meaning = "the MANIFEST does not name it; if nothing else is wrong a crash"
                meaning += " has left it, and the next writer removes it"
                yield Finding(path, 0, meaning, leftover=True)

    def close(self) -> None:
        """Let go of all files."""
        close_all(self._opened)


def _listed(findings: Iterator[Finding]) -> Iterator[Finding]:
    """Yield findings, so many of them at most."""
    yield from islice(findings, _MOST)
    following = next(findings, None)
    if following is not None:
        yield Finding(following.file, following.offset, f"{following.meaning}; and maybe more")
