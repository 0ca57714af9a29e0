"""Recovery: from the log segments that the MANIFEST names to MemTables.

Nothing here changes the disk.  In the same boot every byte that was published
must check; after a crash of the machine every byte that was synced must, and
above it the first bad record ends the log.
"""

from __future__ import annotations

from oblivion_dbm.engine import filenames
from oblivion_dbm.engine.filesystem import close_all
from oblivion_dbm.engine.header_page import APPENDED_AT, DATA_AT
from oblivion_dbm.engine.kernel import replay
from oblivion_dbm.engine.memtable import Layer, MemTable
from oblivion_dbm.engine.record import BATCH, CLEAR, SEAL, BadRecord, read
from oblivion_dbm.engine.segment import Segment
from oblivion_dbm.errors import CorruptionError, error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from oblivion_dbm.engine.filesystem import FileSystem
    from oblivion_dbm.engine.version import Version


#: Seconds after which a live writer has published what it had stored.
_MOMENT = 0.001
#: Bytes that are copied at once.
_STRIDE = 1 << 20


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


def check_newest(filesystem: FileSystem, directory: str, version: Version) -> None:
    """Raise if records were logged that ``version`` cannot know of: the MANIFEST is a stale one.

    A segment takes records only once the MANIFEST on the disk names it, and is
    followed by a newer one before it is dropped.
    """
    for name in filesystem.list(directory):
        parsed = filenames.parse(name)
        if parsed is None or parsed[0] != filenames.LOG_KIND:
            continue
        if parsed[1] > max(version.logs, default=0) and _holds_records(
            filesystem, directory, parsed[1], bytes.fromhex(version.store_id)
        ):
            path = filesystem.join(directory, filenames.MANIFEST)
            raise CorruptionError(path, 0, f"it is older than {name}, which holds records")


def places(
    filesystem: FileSystem, directory: str, version: Version
) -> list[tuple[int, int] | None]:
    """Return which files have the names of the logs, None where there is none.

    The logs of a backup that is brought up to date are replaced, by longer copies of
    the same, behind a MANIFEST that says so already.  Whoever has opened some of them
    before and some of them after sees a hole, and has to look again.
    """
    found: list[tuple[int, int] | None] = []
    for number in version.logs:
        path = filesystem.join(directory, filenames.log(number))
        try:
            found.append(filesystem.inode(path))
        except error:  # it is gone
            found.append(None)
    return found


def _holds_records(filesystem: FileSystem, directory: str, number: int, store_id: bytes) -> bool:
    """Tell whether a log segment that no MANIFEST names belongs to the store and holds records."""
    try:
        segment = Segment(filesystem, directory, number, store_id)
    except error:  # it is just being made, or its store is no more, or it is gone
        return False
    try:
        return bool(max(segment.appended, segment.synced()[0]) > segment.prelude_end)
    except CorruptionError:
        return False
    finally:
        segment.close()


class Lost:
    """Bytes at the end of a log segment that recovery had to drop.

    They stay in the file, and in its map, until they are kept; a damaged file may
    have very many.
    """

    __slots__ = ("_buffer", "end", "kept", "number", "offset")

    def __init__(self, segment: Segment, offset: int, end: int) -> None:
        self.number = segment.number
        self.offset = offset
        self.end = end
        self._buffer = segment.buffer
        self.kept = False

    def __len__(self) -> int:
        return self.end - self.offset

    def pieces(self) -> Iterator[bytes]:
        """Yield all of it, some at a time."""
        for at in range(self.offset, self.end, _STRIDE):
            yield bytes(self._buffer[at : min(self.end, at + _STRIDE)])

    def note_kept(self) -> None:
        """Let go of the log's file: the bytes are in another one."""
        self.kept, self._buffer = True, b""


def keep_lost(lost: list[Lost], filesystem: FileSystem, directory: str, mode: int) -> None:
    """Write what recovery dropped into files of their own, which stay."""
    for tail in [tail for tail in lost if not tail.kept]:
        path = filesystem.join(directory, filenames.lost(tail.number))
        if filesystem.kind(path) != "missing":
            filesystem.remove(path)  # a try that was cut short: same log, same bytes
        file = filesystem.create(path, mode)
        try:
            at = 0
            for piece in tail.pieces():
                filesystem.write(file, at, piece)
                at += len(piece)
            filesystem.sync(file)
        finally:
            filesystem.close(file)
        tail.note_kept()


class ReplayedLog:
    """A log segment, and what was replayed of it: up to ``end``, into ``memtable``.

    ``live`` tells that it is of this boot, ``begun`` that the log goes on in
    it, ``sealed`` that SEAL ended it.
    """

    __slots__ = (
        "begun",
        "chain",
        "end",
        "filled",
        "first_sequence",
        "live",
        "memtable",
        "sealed",
        "segment",
    )

    def __init__(self, segment: Segment, boot: bytes) -> None:
        self.segment = segment
        self.memtable = MemTable()
        self.live = segment.boot == boot
        self.begun = False
        self.sealed = False
        self.end = DATA_AT
        #: The sequence number of the end of the prelude, once it is begun.
        self.first_sequence = 0
        self.filled = False
        self.chain: Any = None

    @property
    def sequence(self) -> int:
        """The sequence number of the end."""
        new: int = self.end - self.segment.prelude_end
        return self.first_sequence + max(0, new)

    def published(self, to_readers: bool) -> int:
        """Return the position below which every byte must check."""
        if self.live and not (to_readers and self.segment.synced_only):
            return self.segment.appended
        synced = self.segment.synced()[0]
        if self.live and synced < self.segment.appended:
            self.segment.check_slots()  # a damaged one would hide what was synced
        return synced

    def look(self, to_readers: bool) -> None:
        """Note whether it is ``filled``, that is, holds new records, then its ``chain``.

        In this order, since a writer names the end of the segment before this
        one first.  A kill may cut that short; then it holds nothing.
        """
        segment = self.segment
        filled = max(self.published(to_readers), segment.synced()[0])
        self.filled = filled > segment.prelude_end
        try:
            self.chain = segment.chain()
        except CorruptionError:
            self.chain = None

    def follows(self, before: ReplayedLog, checked: bool = True) -> bool:
        """Tell whether its chain names the end of ``before``.

        The bytes are compared unless ``checked`` says that the length is enough,
        as it is where each record of ``before`` was checked when it came.
        """
        if self.chain is None:
            return False
        number, length, crc = self.chain[:3]
        if (number, length) != (before.segment.number, before.end):
            return False
        return checked or before.segment.matches(length, crc, self.segment.chain_sum)

    def begin(self, before: ReplayedLog | None) -> None:
        """Let the log go on here, where it has left ``before``."""
        self.first_sequence = self.segment.first_sequence if before is None else before.sequence
        self.begun = True

    def misfit(self, before: ReplayedLog) -> CorruptionError:
        """Return what to raise where this segment must follow ``before`` and does not."""
        if self.chain is None:
            meaning = "records, but no end of the log before it"
            return CorruptionError(self.segment.path, DATA_AT, meaning)
        meaning = f"expected the log to go on to byte {self.chain[1]}, as {self.segment.path} says"
        return CorruptionError(before.segment.path, before.end, meaning)

    def replay(self, limit: int) -> None:
        """Apply the whole records below ``limit`` that were not yet applied."""
        start = self.end
        self.end, self.sealed = replay_into(self.memtable, self.segment.buffer, start, limit)


class Recovery:
    """The replay of a Version's logs.

    ``logs`` stand oldest first, each with a MemTable of its own.  ``lost`` is
    what was dropped, ``sequence`` the sequence number of the end, and
    ``unsynced`` tells whether something was replayed that the disk may not
    have, ``crashed`` whether a crash of the machine may have taken what came last.
    With ``readable_only`` a reader gets what a live writer shows to
    readers; of the logs it knows it replays what is new.

    Raises CorruptionError when bytes that must check do not.
    """

    def __init__(
        self,
        filesystem: FileSystem,
        directory: str,
        version: Version,
        readable_only: bool = False,
        known: Sequence[ReplayedLog] = (),
    ) -> None:
        self.logs: list[ReplayedLog] = []
        self.lost: list[Lost] = []
        self.sequence = 0
        self.unsynced = False
        self.crashed = False
        self._opened: list[ReplayedLog] = []
        self._filesystem = filesystem
        self._readable_only = readable_only
        self._over = False
        boot, store_id = filesystem.boot(), bytes.fromhex(version.store_id)
        old = {log.segment.number: log for log in known}
        try:
            for number in version.logs:
                if number not in old:
                    segment = Segment(filesystem, directory, number, store_id)
                    self._opened.append(ReplayedLog(segment, boot))
                self.logs.append(old.get(number) or self._opened[-1])
            # Before any record: a live writer may go on to the next segment
            # while this one is read, and what counts is the earlier moment.
            for log in self._opened:
                log.look(readable_only)
            for before, log in zip([None, *self.logs], self.logs):
                self._recover(before, log)
            if self.logs:
                self._check_end(self.logs[-1])
            check_newest(filesystem, directory, version)
        except BaseException:
            self.close()
            raise

    def _recover(self, before: ReplayedLog | None, log: ReplayedLog) -> None:
        """Replay what is new in one log, the oldest that is left."""
        if not log.begun and (before is None or self._goes_on(before, log)):
            log.begin(before)
        if log.begun:
            if not log.sealed:
                self._replay(log)
            self.sequence = log.sequence
        elif not log.live:
            self._drop(log, log.segment.prelude_end)
        if not (log.live or log.sealed or log.segment.ended == log.end):
            self.crashed = True

    def _goes_on(self, before: ReplayedLog, log: ReplayedLog) -> bool:
        """Tell whether ``log`` continues the one before; raise if it must and does not."""
        if not self._over and log.chain is not None:
            if log.follows(before, checked=before not in self._opened):
                return True
            # Readers may have to wait for the SEAL: it is shown once it is synced.
            waits = self._readable_only and before.segment.synced_only
            if log.filled or (log.live and not waits):
                raise log.misfit(before)
        elif log.filled:
            raise log.misfit(before)
        self._over = True
        return False

    def _replay(self, log: ReplayedLog) -> None:
        segment, start = log.segment, log.end
        synced = segment.synced()[0]
        required = log.published(self._readable_only)
        if log.live and segment.appended < max(synced, segment.prelude_end):
            meaning = f"appended-up-to is {segment.appended}, below what is synced"
            raise CorruptionError(segment.path, APPENDED_AT, meaning)
        segment.reach(max(required, synced))
        log.replay(self._limit(log, required))
        if log.end < required and not log.sealed:
            raise segment.explain(log.end, required)
        if start == DATA_AT:
            segment.check_sums(log.end)
        self.unsynced = self.unsynced or log.end > synced
        if not log.live and not log.sealed:
            self._drop(log, log.end)

    def _limit(self, log: ReplayedLog, required: int) -> int:
        """Return the position up to which a log is replayed, ``required`` at least.

        Behind what was published in this boot there may be one record that was
        just being stored, which a writer keeps.  Another behind that one means that
        more was published than appended-up-to says.
        """
        segment, ended = log.segment, log.segment.ended
        if not log.live:
            end = len(segment.buffer)
            return end if ended is None else min(end, max(required, ended))
        if self._readable_only and segment.synced_only:
            return required
        if ended is not None:
            if ended != required == segment.appended:
                meaning = f"appended-up-to is {required}, but the writer ended at {ended}"
                raise CorruptionError(segment.path, APPENDED_AT, meaning)
            return required
        following = segment.after(required)
        if segment.after(following) > following:
            self._filesystem.sleep(_MOMENT)
            if segment.appended == required:
                meaning = f"appended-up-to is {required}, and more than one record stands there"
                raise CorruptionError(segment.path, APPENDED_AT, meaning)
        return required if self._readable_only else following

    def _check_end(self, last: ReplayedLog) -> None:
        """Raise if the log goes on in a segment that the Version does not name.

        A segment is sealed only once the MANIFEST on the disk names the next one.
        """
        if last.sealed:
            meaning = "the log goes on from here, but the MANIFEST names no segment that follows"
            raise CorruptionError(last.segment.path, last.end, meaning)

    def _drop(self, log: ReplayedLog, offset: int) -> None:
        end = log.segment.used_up_to(offset)
        if end > offset:
            self.lost.append(Lost(log.segment, offset, end))
            self.unsynced = True

    def merged(self) -> MemTable:
        """Return one MemTable of all logs; the separate ones are used up."""
        whole, logs = MemTable(), self.logs
        self.logs = []
        for memtable in [log.memtable for log in logs]:
            if memtable.cleared:
                whole.reset(cleared=True)
            for layer in reversed(memtable.layers):
                whole.top.pour(layer)
        return whole

    def close(self) -> None:
        """Let go of the segments that were opened for it; known ones stay open."""
        opened, self._opened = self._opened, []
        close_all(log.segment for log in opened)
