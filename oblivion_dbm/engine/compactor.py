"""The Compactor: writes runs of tables; it carries tasks out and decides nothing."""

from __future__ import annotations

from itertools import islice, repeat

from oblivion_dbm.engine.filenames import table as table_name
from oblivion_dbm.engine.kernel import keys_of
from oblivion_dbm.engine.merge import LARGEST_CHUNK, in_order, merge, without_tombstones
from oblivion_dbm.engine.record import DELETE
from oblivion_dbm.engine.sstable import RECORDS_AT
from oblivion_dbm.engine.table_writer import TableWriter, at_once
from oblivion_dbm.engine.version import Run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from oblivion_dbm.engine.filesystem import FileSystem
    from oblivion_dbm.engine.manifest import Manifest
    from oblivion_dbm.engine.merge import Chunk
    from oblivion_dbm.engine.options import Options
    from oblivion_dbm.engine.policy import Task
    from oblivion_dbm.engine.sstable import SSTable

#: Bytes that are read ahead at once: as few calls as is decent, since each may
#: wait some milliseconds for the interpreter's lock when it comes back.
_AHEAD = 1 << 20


class Compactor:
    """Writes the runs of one store.

    Both jobs read immutable input and write new files that no Version names
    yet, so they need no lock but for the file numbers, and leave nothing
    behind when they fail.  Between pieces of work of about a millisecond they
    call ``pace``, with the number of records that were written since the last
    call: it may wait, do another job, or end the job by what it raises.
    """

    def __init__(  # noqa: PLR0917 - made in one place, of what that place was handed
        self,
        filesystem: FileSystem,
        directory: str,
        options: Options,
        manifest: Manifest,
        mode: int,
        pace: Callable[[int], None] = at_once,
    ) -> None:
        self._filesystem = filesystem
        self._directory = directory
        self._options = options
        self._manifest = manifest
        self._mode = mode
        self._pace = pace

    def flush(
        self,
        records: dict[bytes, bytes],
        sequences: tuple[int, int],
        *,
        tombstones: bool,
        drop_tombstones: bool,
    ) -> Run | None:
        """Write a MemTable's records as a run of level 0, None where nothing is left.

        ``tombstones`` tells whether there are some, ``drop_tombstones`` that
        nothing older is left that they could hide.
        """
        chunks = self._in_order(records, tombstones)
        if tombstones and drop_tombstones:
            return self.write(without_tombstones(chunks), 0, sequences, False)
        return self.write(chunks, 0, sequences, tombstones)

    def merge(self, task: Task, table: Callable[[int], SSTable]) -> Run | None:
        """Write the merge of the task's runs; ``table(number)`` gives an open table.

        Raises CorruptionError when an input does not check; the inputs stay.
        """
        inputs = [[table(info.number) for info in run.tables] for run in task.runs]
        sequences = (
            min(part.first_sequence for run in inputs for part in run),
            max(part.last_sequence for run in inputs for part in run),
        )
        chunks = merge([self._run(tables) for tables in inputs])
        tombstones = any(run.tombstones for run in task.runs)
        if tombstones and task.drop_tombstones:
            return self.write(without_tombstones(chunks), task.level, sequences, False)
        return self.write(chunks, task.level, sequences, tombstones)

    def write(
        self, chunks: Iterable[Chunk], level: int, sequences: tuple[int, int], tombstones: bool
    ) -> Run | None:
        """Write ``chunks`` as a run, None where there is no record.

        ``tombstones``: there may be some among them.
        """
        writers: list[TableWriter] = []
        try:
            for keys, records in chunks:
                if not writers:
                    writers.append(self._new_table())
                elif writers[-1].end >= self._options.table_limit:
                    writers[-1].seal()
                    writers.append(self._new_table())
                buried = sum(record[0] == DELETE for record in records) if tombstones else 0
                writers[-1].add(keys, records, buried)
            if not writers:
                return None
            store_id = bytes.fromhex(self._manifest.version.store_id)
            tables = [
                writer.finish(
                    store_id,
                    level=level,
                    part=part,
                    parts=len(writers),
                    sequences=sequences,
                )
                for part, writer in enumerate(writers)
            ]
            return Run(level, tuple(tables))
        except BaseException:
            for writer in writers:
                self._manifest.forget(writer.number)
                writer.abandon()
            raise

    def _new_table(self) -> TableWriter:
        number, seed = self._manifest.new_number(), self._manifest.version.seed
        try:
            return TableWriter(
                self._filesystem, self._directory, number, seed, self._mode, pace=self._pace
            )
        except BaseException:
            self._manifest.forget(number)
            raise

    def _in_order(self, records: dict[bytes, bytes], tombstones: bool) -> Iterator[Chunk]:
        """Yield what a MemTable holds in order."""
        key_length = len(next(iter(records), b""))
        # Of one length and one operation records sort as their keys do: that
        # spares the dict's look-ups, a fifth of a microsecond each.
        alike = not tombstones and self._have_length(records, key_length)
        for part in in_order(records.values() if alike else records, self._pace):
            for start in range(0, len(part), LARGEST_CHUNK):
                chunk = part[start : start + LARGEST_CHUNK]
                if alike:
                    assert chunk[-1][0] != DELETE, "a tombstone that was not announced"
                    yield keys_of(chunk, key_length), chunk
                else:
                    yield chunk, list(map(records.__getitem__, chunk))

    def _have_length(self, keys: Iterable[bytes], length: int) -> bool:
        """Tell whether all keys are of one length."""
        rest = iter(keys)
        while lengths := set(map(len, islice(rest, 16 * LARGEST_CHUNK))):
            if lengths != {length}:
                return False
            self._pace(0)
        return True

    def _run(self, tables: list[SSTable]) -> Iterator[Chunk]:
        """Yield all chunks of a run, oldest key first, none out of a cold part of a map."""
        for table in tables:
            yield from self._warm(table)

    def _warm(self, table: SSTable) -> Iterator[Chunk]:
        """Yield the chunks of a table, each after its bytes were read into the page cache.

        A cold page of a map is read with the interpreter's lock held, up to
        400 ms; a read of the file lets go of it.
        """
        self._read_ahead(table, table.records_end, table.index_at)
        warm = RECORDS_AT
        for low, high in table.stretches(None, None, False, repeat(LARGEST_CHUNK)):
            end = table.offset(high) if high < len(table) else table.records_end
            if end > warm:
                begin, warm = warm, min(max(end, warm + _AHEAD), table.records_end)
                self._read_ahead(table, begin, warm)
            yield table.records(low, high)
            self._pace(0)

    def _read_ahead(self, table: SSTable, begin: int, end: int) -> None:
        """Read a part of a table's file, which leaves it in the page cache."""
        file = self._filesystem.open(table.path)
        try:
            for at in range(begin, end, _AHEAD):
                self._filesystem.read(file, at, min(_AHEAD, end - at))
                self._pace(0)
        finally:
            self._filesystem.close(file)

    def discard(self, run: Run | None) -> None:
        """Remove the files of a run, unless the MANIFEST on disk may name them."""
        for info in () if run is None else run.tables:
            path = self._filesystem.join(self._directory, table_name(info.number))
            self._manifest.discard(info.number, path)
