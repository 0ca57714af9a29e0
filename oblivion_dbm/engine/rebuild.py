"""Rebuild: a new store beside a damaged one, complete or not there at all.

It grows in a directory of its own, whose name says that it is not finished.  Its
MANIFEST is written last.
"""

from __future__ import annotations

from contextlib import suppress
from errno import EEXIST, ENOTEMPTY

from oblivion_dbm.engine import filenames
from oblivion_dbm.engine.compactor import Compactor
from oblivion_dbm.engine.damage import Damage, Loss, PatientFiles, between
from oblivion_dbm.engine.damaged_log import Replay
from oblivion_dbm.engine.doubt import live_chunks
from oblivion_dbm.engine.hand_over import DOUBTFUL, FOUND, LINES, HandOver
from oblivion_dbm.engine.header_page import DATA_AT
from oblivion_dbm.engine.inventory import Inventory
from oblivion_dbm.engine.lineage import begin
from oblivion_dbm.engine.lock import WriterLock
from oblivion_dbm.engine.manifest import Manifest, load
from oblivion_dbm.engine.options import Options
from oblivion_dbm.engine.recovery import keep_lost
from oblivion_dbm.engine.report import Report
from oblivion_dbm.engine.selection import Selection, select
from oblivion_dbm.engine.sstable import RECORDS_AT
from oblivion_dbm.engine.verify import verify
from oblivion_dbm.engine.version import Version
from oblivion_dbm.engine.wal import WAL
from oblivion_dbm.errors import CorruptionError, error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from oblivion_dbm.engine.filesystem import FileSystem
    from oblivion_dbm.engine.version import Run

#: What is appended to the name of a store while it is being made.
BUILDING = ".repairing"
#: The MANIFEST's line in a store that was repaired, and in one that is not complete;
#: the id of the damaged store follows.
DONE, _BEGUN = "? repaired", "? repairing"
#: Sequence numbers that leave room for all that will ever be written.
_HIGHEST_SEQUENCE = 1 << 62


class Rebuild:
    """The rebuilding of the store at ``old``, to become the one at ``new``.

    ``old`` is locked by the caller and is only read.  The new store is at
    ``directory``, locked until ``close``; ``hand_over`` is a file beside it.
    """

    def __init__(self, filesystem: FileSystem, old: str, new: str) -> None:
        self._filesystem = filesystem
        self._old = old
        self.directory = new + BUILDING
        self.report = Report(new, old)
        lock = filesystem.join(old, filenames.LOCK)
        like = lock if filesystem.kind(lock) == "file" else old
        self._mode = filesystem.mode_of(like) & 0o666 | 0o200
        self.hand_over = HandOver(filesystem, self.directory + LINES, self._mode)
        self._files: Any = PatientFiles(filesystem)
        self._inventory = Inventory(self._files, old)
        self._selection = Selection()
        self._lock: WriterLock | None = None

    def run(self, doubtful: bool) -> None:
        """Make the new store, complete and synced; note what was lost."""
        try:
            self._selection = select(self._inventory)
            self._make_room()
            replay = Replay(self._selection.logs, self._filesystem.boot())
            self._note(replay)
            self._build(replay, doubtful)
            check(self._filesystem, self.directory)
        finally:
            self._inventory.close()

    def close(self) -> None:
        """Unlock the new store.  Again is fine."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()

    def abandon(self) -> None:
        """Remove the new store, unless it has got its name, and what is handed over."""
        self.hand_over.close()
        self.close()
        with suppress(error):
            self._make_room()
            if self.report.handed_over is not None:
                self._filesystem.remove(self.report.handed_over)

    def _make_room(self) -> None:
        """Remove what a try has left; raise for anything else that is there."""
        old_id = self._selection.store_id
        clear_away(self._filesystem, self.directory, (f"{_BEGUN} {old_id}", f"{DONE} {old_id}"))
        if self._filesystem.kind(self.hand_over.path) == "file":
            self._filesystem.remove(self.hand_over.path)

    def _note(self, replay: Replay) -> None:
        """Put into the report what is known so far."""
        chosen, report = self._selection, self.report
        if replay.memtable.cleared:
            chosen.drop((run, "everything in it was cleared later") for run in chosen.runs)
            chosen.runs = []
        report.taken = [name for run in chosen.runs for name in run.names]
        report.taken += [log.name for log in chosen.logs]
        report.dropped = chosen.dropped
        report.losses = [self._placed(loss) for loss in (*chosen.losses, *replay.losses)]
        report.notes = [self._placed(note) for note in (*chosen.notes, *replay.notes)]
        for run in chosen.runs:
            for damage in run.damages:
                meaning = f"{damage.meaning}; {between(*damage.range)}"
                loss = Loss(damage.file, damage.offset, damage.length, meaning)
                report.losses.append(self._placed(loss))
        meaning = "it was written after the last sync and is not whole"
        for tail in replay.tails:
            name = filenames.log(tail.number)
            report.tails.append(self._placed(Loss(name, tail.offset, len(tail), meaning)))

    def _placed(self, loss: Loss) -> Loss:
        """Return a loss in a file of the old store with the file's path."""
        name = loss.file
        return loss._replace(file=self._filesystem.join(self._old, name) if name else self._old)

    def _build(self, replay: Replay, doubtful: bool) -> None:
        """Write the new store, and what is handed over; the MANIFEST comes last."""
        filesystem, directory, chosen = self._filesystem, self.directory, self._selection
        filesystem.make_directory(directory, filesystem.mode_of(self._old) | 0o700)
        self._lock = WriterLock(filesystem, directory, mode=self._mode)
        version = Version(
            filesystem.random(16).hex(),
            int.from_bytes(filesystem.random(8), "little"),
            next_file=self._inventory.highest + 1,
            extra=(f"{_BEGUN} {chosen.store_id}",),
        )
        manifest = Manifest(filesystem, directory, version, self._mode)
        keep_lost(replay.tails, filesystem, directory, self._mode)
        self._hand_over_found(replay)
        run, number = self._write_files(replay, doubtful, manifest)
        version = manifest.version.replace(
            runs=() if run is None else (run,),
            logs=(number,),
            live=0 if run is None else run.puts,
            extra=(f"{DONE} {chosen.store_id}",),
        )
        manifest.install(begin(version, filesystem), self._lock.bump)
        self.hand_over.finish()
        filesystem.sync_directory(filesystem.parent(directory))
        self.report.saved = version.live or 0
        self.report.found = self.hand_over.counts[FOUND]
        for path, offset in self._files.unreadable:
            note = Loss(path, offset, 0, "the system cannot read this block")
            self.report.notes.append(note)

    def _write_files(
        self, replay: Replay, doubtful: bool, manifest: Manifest
    ) -> tuple[Run | None, int]:
        """Write the one run, and an empty log that goes on from it; return both."""

        def take(file: str, offset: int, record: bytes) -> bool:
            self.report.doubtful += 1
            self.report.merged += doubtful
            if not doubtful:
                self.hand_over.add(file, offset, record, DOUBTFUL)
            return doubtful

        filesystem, directory, runs = self._filesystem, self.directory, self._selection.runs
        ends = [replay.sequence, *(run.age[0] for run in runs)]
        # Never 0: a merge of later flushes must not seem to hold what this run holds.
        sequence = max([1, *(end for end in ends if end < _HIGHEST_SEQUENCE)])
        chunks = live_chunks(replay.memtable.merged(), runs, take)
        compactor = Compactor(filesystem, directory, Options(), manifest, self._mode)
        run = compactor.write(chunks, 1, (0, sequence), False)
        number = manifest.new_number()
        store_id = bytes.fromhex(manifest.version.store_id)
        WAL(
            filesystem, directory, number,
            store_id=store_id, first_sequence=sequence, mode=self._mode,
        ).close()  # fmt: skip
        return run, number

    def _hand_over_found(self, replay: Replay) -> None:
        """Search what is damaged, and all files whose place is not known."""
        chosen, hand_over = self._selection, self.hand_over
        for run in chosen.runs:
            for table in run.tables:
                with table.reading() as file:
                    for damage in table.damages:
                        if damage.search:
                            hand_over.add_of_table(file.piece, damage)
        for table in chosen.other_tables:
            whole = Damage(table.name, RECORDS_AT, table.size - RECORDS_AT, "")
            with table.reading() as file:
                hand_over.add_of_table(file.piece, whole)
        gaps = [(log, DATA_AT, log.end_of_bytes()) for log in chosen.other_logs]
        for log, start, end in (*replay.gaps, *gaps):
            hand_over.add_of_log(log.name, log.piece, start, end)


def check(filesystem: FileSystem, directory: str) -> None:
    """Raise CorruptionError where a store that was just made does not verify."""
    findings = verify(directory, filesystem)
    if findings:
        first = findings[0]
        raise CorruptionError(first.file, first.offset, first.meaning)


def clear_away(filesystem: FileSystem, directory: str, marks: tuple[str, ...]) -> None:
    """Remove a store that was being made and whose MANIFEST, if it has one, has one of ``marks``.

    Raises ``error``, and removes nothing, for anything else.
    """
    kind = filesystem.kind(directory)
    if kind == "missing":
        return
    names = filesystem.list(directory) if kind == "directory" else ["a file"]
    strange = [name for name in names if not filenames.is_ours(name)]
    if strange:
        meaning = f"expected nothing, or what a repair has left, found {strange[0]!r}"
        raise error(ENOTEMPTY, meaning, directory)
    lock = WriterLock(filesystem, directory)
    try:
        if filenames.MANIFEST in names and not set(marks) & set(load(filesystem, directory).extra):
            raise error(EEXIST, "expected nothing, found a store; move it away", directory)
        # The MANIFEST goes first: what is left of a cut-short removal is no store.
        names = filesystem.list(directory)  # a LOCK that was missing is there now
        for name in sorted(names, key=lambda name: name != filenames.MANIFEST):
            filesystem.remove(filesystem.join(directory, name))
        filesystem.remove_directory(directory)
    finally:
        lock.release()
