"""Recovery: from the log segments that the MANIFEST names to MemTables.

Nothing here changes the disk.  In the same boot every byte that was published
must check; after a crash of the machine every byte that was synced must, and
above it the first bad record ends the log.
"""

from __future__ import annotations

from oblivion_dbm.engine.filenames import lost as lost_name
from oblivion_dbm.engine.kernel import replay
from oblivion_dbm.engine.memtable import Layer, MemTable
from oblivion_dbm.engine.record import BATCH, CLEAR, SEAL, BadRecord, read
from oblivion_dbm.engine.wal import APPENDED_AT, DATA_AT, Segment
from oblivion_dbm.errors import CorruptionError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from oblivion_dbm.engine.filesystem import FileSystem
    from oblivion_dbm.engine.version import Version


def apply_batch(value: bytes, memtable: MemTable) -> None:
    """Bring the records of a batch's value into ``memtable``: all, or BadRecord and none."""
    batch = Layer()
    cleared = value[:1] == bytes([CLEAR])
    start = read(value, 0, len(value))[3] if cleared else 0
    offset, _ = replay(value, start, len(value), batch.records, batch.tombstones)
    if offset < len(value):
        raise BadRecord(offset, "a batch holds something else than puts and deletes")
    if cleared:
        memtable.reset(cleared=True)
    memtable.top.pour(batch)


def replay_into(memtable: MemTable, buffer: Any, offset: int, end: int) -> tuple[int, bool]:
    """Apply all whole records from ``offset`` on, up to ``end``.

    Returns (where the first bad one, or the end, is; whether SEAL was met).
    """
    while True:
        top = memtable.top
        offset, op = replay(buffer, offset, end, top.records, top.tombstones)
        if op == 0:
            return offset, False
        try:
            _, _, value, after = read(buffer, offset, end)
            if op == BATCH:
                apply_batch(value, memtable)
        except BadRecord:
            return offset, False
        if op == CLEAR:
            memtable.reset(cleared=True)
        offset = after
        if op == SEAL:
            return offset, True


class Lost:
    """Bytes at the end of a log segment that recovery had to drop."""

    __slots__ = ("data", "number", "offset")

    def __init__(self, number: int, offset: int, data: bytes) -> None:
        self.number = number
        self.offset = offset
        self.data = data


def keep_lost(lost: list[Lost], filesystem: FileSystem, directory: str, mode: int) -> None:
    """Write what recovery dropped into files of their own, which stay."""
    for tail in lost:
        path = filesystem.join(directory, lost_name(tail.number))
        if filesystem.kind(path) != "missing":
            filesystem.remove(path)  # a try that was cut short: same log, same bytes
        file = filesystem.create(path, mode)
        try:
            filesystem.write(file, 0, tail.data)
            filesystem.sync(file)
        finally:
            filesystem.close(file)


class Recovery:
    """The replay of a Version's logs.

    ``memtables`` holds one MemTable for each log, oldest first; ``ends`` says
    where each log ended, ``sealed`` whether by a SEAL.  ``lost`` is what was
    dropped, ``sequence`` the sequence number of the end, and ``unsynced`` tells
    whether something was replayed that the disk may not have.  With
    ``readable_only`` a reader gets what a live writer shows to readers.

    Raises CorruptionError when bytes that must check do not.
    """

    def __init__(
        self,
        filesystem: FileSystem,
        directory: str,
        version: Version,
        readable_only: bool = False,
    ) -> None:
        self.memtables: list[MemTable] = []
        self.ends: list[int] = []
        self.sealed: list[bool] = []
        self.lost: list[Lost] = []
        self.segments: list[Segment] = []
        self.sequence = 0
        self.unsynced = False
        self.boot = filesystem.boot()
        self._readable_only = readable_only
        self._over = False
        try:
            for number in version.logs:
                segment = Segment(filesystem, directory, number, bytes.fromhex(version.store_id))
                self.segments.append(segment)
            # Before any record: a live writer may go on to the next segment
            # while this one is read, and what counts is the earlier moment.
            self._chains = [segment.chain() for segment in self.segments]
            for place, segment in enumerate(self.segments):
                self._recover(place, segment)
        except BaseException:
            self.close()
            raise

    def _recover(self, place: int, segment: Segment) -> None:
        """Replay one segment, the oldest that is left."""
        memtable = MemTable()
        end, sealed = DATA_AT, False
        if not self._begun(place, segment):
            if segment.boot != self.boot:
                self._drop(segment, segment.prelude_end)
        else:
            end, sealed = self._replay(segment, memtable)
        self.memtables.append(memtable)
        self.ends.append(end)
        self.sealed.append(sealed)
        if end > DATA_AT or place == 0:
            self.sequence = segment.first_sequence + max(0, end - segment.prelude_end)

    def _begun(self, place: int, segment: Segment) -> bool:
        """Tell whether this segment continues the log; raise if it must and does not."""
        if place == 0:
            return True
        before, chain = self.segments[place - 1], self._chains[place]
        if self._over or chain is None:
            same_boot = segment.boot == self.boot and not self._readable_only
            synced = not self._readable_only and segment.synced()[0] > segment.prelude_end
            if synced or (same_boot and segment.appended > segment.prelude_end):
                meaning = "records, but no end of the log before it"
                raise CorruptionError(segment.path, DATA_AT, meaning)
            self._over = True
            return False
        end = self.ends[-1]
        if chain == (before.number, end, before.running_crc(end)):
            return True
        if segment.boot == self.boot or segment.synced()[0] > segment.prelude_end:
            raise CorruptionError(
                before.path,
                end,
                f"expected the log to go on to byte {chain[1]}, as {segment.path} says",
            )
        self._over = True
        return False

    def _replay(self, segment: Segment, memtable: MemTable) -> tuple[int, bool]:
        same_boot = segment.boot == self.boot
        synced, running = segment.synced()
        required = segment.appended if same_boot else synced
        if same_boot and required < max(synced, segment.prelude_end):
            meaning = f"appended-up-to is {required}, below what is synced"
            raise CorruptionError(segment.path, APPENDED_AT, meaning)
        segment.reach(max(required, synced))
        limit = len(segment.buffer)
        if self._readable_only and same_boot:
            limit = required = synced if segment.synced_only else required
        end, sealed = replay_into(memtable, segment.buffer, DATA_AT, limit)
        if end < required and not sealed:
            raise segment.explain(end)
        if segment.running_crc(synced) != running and synced <= end:
            raise CorruptionError(segment.path, DATA_AT, "the running crc does not match")
        self.unsynced = self.unsynced or end > synced
        if not same_boot and not sealed:
            self._drop(segment, end)
        return end, sealed

    def _drop(self, segment: Segment, offset: int) -> None:
        data = segment.unread(offset)
        if data:
            self.lost.append(Lost(segment.number, offset, data))
            self.unsynced = True

    def merged(self) -> MemTable:
        """Return one MemTable of all logs; the separate ones are used up."""
        whole = MemTable()
        for memtable in self.memtables:
            if memtable.cleared:
                whole.reset(cleared=True)
            for layer in reversed(memtable.layers):
                whole.top.pour(layer)
        return whole

    def close(self) -> None:
        """Let go of the segments."""
        for segment in self.segments:
            segment.close()
        self.segments = []
