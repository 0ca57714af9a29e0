"""What lies in a store's directory: every file of ours that can be read at all."""

from __future__ import annotations

from errno import ENOENT

from oblivion_dbm.engine import filenames
from oblivion_dbm.engine.damage import Loss
from oblivion_dbm.engine.damaged_log import DamagedLog
from oblivion_dbm.engine.damaged_table import DamagedTable
from oblivion_dbm.engine.filesystem import close_all
from oblivion_dbm.engine.lock import read_words
from oblivion_dbm.engine.manifest import begins_as_one, load
from oblivion_dbm.engine.recovery import check_newest
from oblivion_dbm.errors import CorruptionError, error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from oblivion_dbm.engine.version import Version

#: Names of a higher number are nobody's: no store gets there.
_HIGHEST_NUMBER = 1 << 62


class Inventory:
    """The files in ``directory``: tables, logs, and the Version where the MANIFEST checks.

    ``problem`` is what is wrong with the MANIFEST; ``store_id`` is what it says of
    whose it is, also where it is an older one, b"" where it does not check.
    ``unreadable`` holds logs that are shorter than a header.  Raises ``error`` where a
    file has a newer format.
    """

    def __init__(self, files: Any, directory: str) -> None:
        self._files = files
        self._directory = directory
        self.tables: list[DamagedTable] = []
        self.logs: list[DamagedLog] = []
        self.unreadable: dict[str, Loss] = {}
        self.version: Version | None = None
        self.problem: Loss | None = None
        self.store_id = b""
        self.highest = 0
        self._load()
        try:
            for name in files.list(directory):
                self._add(name)
            self._check_age()
        except BaseException:
            self.close()
            raise

    def _load(self) -> None:
        try:
            version = load(self._files, self._directory)
            if not 0 < version.next_file < _HIGHEST_NUMBER:
                meaning = f"a next file number that cannot be: {version.next_file}"
                raise CorruptionError(filenames.MANIFEST, 0, meaning)
            self.store_id = bytes.fromhex(version.store_id)
            check_newest(self._files, self._directory, version)
            self.version, self.highest = version, version.next_file - 1
        except CorruptionError as problem:
            self.problem = Loss(filenames.MANIFEST, problem.offset, 0, problem.meaning)
        except error as problem:
            if problem.errno != ENOENT:
                raise
            self.problem = Loss(filenames.MANIFEST, 0, 0, "it is missing")

    def _check_age(self) -> None:
        """Take the MANIFEST for an older one where it names what is gone, and no table after that.

        A file goes once the MANIFEST does not name it any more; by then it names what
        was made of it, whose number is higher.  Where a file was lost in another way, and
        a crash has left a later table, that looks the same; then the footers are right, too.
        """
        version = self.version
        there = {log.name for log in self.logs} | {table.name for table in self.tables}
        later: dict[int, str] = {}
        for table in self.tables:
            if table.footer is not None and table.footer.store_id == self.store_id:
                there.add(filenames.table(table.footer.number))
                later[table.footer.number] = table.name
        if version is None:
            return
        tables = [info.number for run in version.runs for info in run.tables]
        named = {number: filenames.table(number) for number in tables}
        named.update((number, filenames.log(number)) for number in version.logs)
        gone = [n for n, name in named.items() if name not in {*there, *self.unreadable}]
        newest = max(later.keys() - named.keys(), default=0)
        if gone and newest > min(gone):
            meaning = f"it names {named[min(gone)]}, which is gone, and is older than"
            self.problem = Loss(filenames.MANIFEST, 0, 0, f"{meaning} {later[newest]}")
            self.version = None

    def _add(self, name: str) -> None:
        parsed = filenames.parse(name)
        path = self._files.join(self._directory, name)
        if parsed is None or parsed[1] >= _HIGHEST_NUMBER or self._files.kind(path) != "file":
            return
        kind, number = parsed
        self.highest = max(self.highest, number)
        if kind == filenames.TABLE_KIND:
            self.tables.append(DamagedTable(self._files, self._directory, name))
        elif kind == filenames.LOG_KIND:
            try:
                self.logs.append(DamagedLog(self._files, self._directory, number))
            except CorruptionError as problem:
                self.unreadable[name] = Loss(name, problem.offset, 0, problem.meaning)

    @property
    def is_unfinished(self) -> bool:
        """Whether it is what a first backup, or a restore, has left that was cut short.

        The generation grows with each MANIFEST: where it has, there was one.
        """
        mark = self._files.join(self._directory, filenames.UNFINISHED)
        if self.version is not None or self._files.kind(mark) == "missing":
            return False
        return not any(read_words(self._files, self._directory)[:8])

    @property
    def is_a_store(self) -> bool:
        """Whether any of it was made by a store of ours."""
        tables = any(table.footer or table.sound_header for table in self.tables)
        logs = any(log.owner or log.begins_as_one for log in self.logs)
        return tables or logs or begins_as_one(self._files, self._directory)

    def close(self) -> None:
        """Let go of the logs."""
        close_all(self.logs)
