"""The Compactor: writes runs of tables; it carries tasks out and decides nothing."""

from __future__ import annotations

from oblivion_dbm.engine.filenames import table as table_name
from oblivion_dbm.engine.merge import LARGEST_CHUNK, growing_sizes, merge, without_tombstones
from oblivion_dbm.engine.record import DELETE
from oblivion_dbm.engine.sstable import LARGEST_STRETCH
from oblivion_dbm.engine.table_writer import TableWriter
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


class Compactor:
    """Writes the runs of one store.

    Both jobs read immutable input and write new files that no Version names
    yet, so they need no lock but for the file numbers, and leave nothing
    behind when they fail.
    """

    def __init__(
        self,
        filesystem: FileSystem,
        directory: str,
        options: Options,
        manifest: Manifest,
        mode: int,
        pace: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._pace = pace
        self._filesystem = filesystem
        self._directory = directory
        self._options = options
        self._manifest = manifest
        self._mode = mode

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
        chunks = _in_chunks(records)
        if tombstones and drop_tombstones:
            return self._write(without_tombstones(chunks), 0, sequences, False)
        return self._write(chunks, 0, sequences, tombstones)

    def merge(self, task: Task, table: Callable[[int], SSTable]) -> Run | None:
        """Write the merge of the task's runs; ``table(number)`` gives an open table.

        Raises CorruptionError when an input does not check; the inputs stay.
        """
        inputs = [[table(info.number) for info in run.tables] for run in task.runs]
        sequences = (
            min(part.first_sequence for run in inputs for part in run),
            max(part.last_sequence for run in inputs for part in run),
        )
        sources = [whole_run(tables) for tables in inputs]
        chunks = merge(sources)
        tombstones = any(run.tombstones for run in task.runs)
        if tombstones and task.drop_tombstones:
            return self._write(without_tombstones(chunks), task.level, sequences, False)
        return self._write(chunks, task.level, sequences, tombstones)

    def _write(
        self, chunks: Iterable[Chunk], level: int, sequences: tuple[int, int], tombstones: bool
    ) -> Run | None:
        """Write ``chunks`` as a run; ``tombstones``: there may be some among them."""
        writers: list[TableWriter] = []
        try:
            for keys, records in chunks:
                if not writers or writers[-1].end >= self._options.table_limit:
                    writers.append(self._new_table())
                buried = sum(record[0] == DELETE for record in records) if tombstones else 0
                writers[-1].add(keys, records, buried)
                self._pace(len(keys))
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
        return TableWriter(
            self._filesystem,
            self._directory,
            self._manifest.new_number(),
            self._manifest.version.seed,
            self._mode,
        )

    def discard(self, run: Run | None) -> None:
        """Remove the files of a run, unless the MANIFEST on disk may name them."""
        if run is None or self._manifest.may_name(run.tables[0].number):
            return
        for info in run.tables:
            self._manifest.forget(info.number)
            self._filesystem.remove(self._filesystem.join(self._directory, table_name(info.number)))


def whole_run(tables: Iterable[SSTable]) -> Iterator[Chunk]:
    """Yield all chunks of a run, oldest key first."""
    for table in tables:
        yield from table.chunks(None, None, False, growing_sizes(LARGEST_CHUNK))


def _in_chunks(records: dict[bytes, bytes]) -> Iterator[Chunk]:
    """Yield what a MemTable holds in order; the writer joins a chunk, so none is large."""
    keys = sorted(records)
    for start in range(0, len(keys), LARGEST_CHUNK):
        part = keys[start : start + LARGEST_CHUNK]
        found = list(map(records.__getitem__, part))
        if sum(map(len, found)) <= LARGEST_STRETCH:
            yield part, found
        else:
            yield from (([key], [record]) for key, record in zip(part, found))
