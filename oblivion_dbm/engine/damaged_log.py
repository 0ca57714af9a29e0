"""Log segments that may be damaged: what of them is certain, in what order, and what is missing.

On sound segments this does what :mod:`oblivion_dbm.engine.recovery` does.  Where
that raises, this goes on: what precedes the damage counts, what follows it in the
same segment may be bytes inside a value and is left to be searched, and the next
segment begins at a known place again.
"""

from __future__ import annotations

from oblivion_dbm.engine.bit_rot import corrected
from oblivion_dbm.engine.damage import BACK, Loss
from oblivion_dbm.engine.filenames import log as log_name
from oblivion_dbm.engine.header_page import DATA_AT, HEADER, MAGIC
from oblivion_dbm.engine.memtable import MemTable
from oblivion_dbm.engine.recovery import Lost, ReplayedLog
from oblivion_dbm.engine.segment import Segment
from oblivion_dbm.errors import CorruptionError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from oblivion_dbm.engine.header_page import Mark

#: The length of what is missing, where that is not known.
UNKNOWN = 0


class DamagedLog(Segment):
    """The file of segment ``number``, whatever its header says; all of it is read.

    ``owner`` is (store id, number) as the header says, None where that does not
    check.  ``problems`` says what of the header page does not.  Raises ``error``
    for a newer format, and CorruptionError where there is not even a header page.
    """

    def __init__(self, files: Any, directory: str, number: int) -> None:
        self.name = log_name(number)
        self.problems: list[str] = []
        super().__init__(files, directory, number, b"")
        self.knows_synced = self._checks(super()._last_slot)
        self.knows_sequence = self._checks(lambda: super(DamagedLog, self).first_sequence)
        self.knows_sequence = self.knows_sequence and self.owner is not None
        self.knows_chain = self._checks(self.chain)
        self._knows_sum = self._checks(lambda: super(DamagedLog, self).chain_sum)

        if self.ended not in (None, self.appended):
            meaning = f"appended-up-to is {self.appended}, but the writer ended at {self.ended}"
            self.problems.append(meaning)

    def _checks(self, read: Callable[[], object]) -> bool:
        """Tell whether a field of the header page checks; note it where it does not."""
        try:
            read()
        except CorruptionError as problem:
            self.problems.append(problem.meaning)
            return False
        return True

    def _read_header(self, _: bytes) -> None:
        self.owner: Any = None
        data = bytes(self.buffer[: HEADER.size])
        for header in (data, _mended(data, self.number)):
            try:
                self._parse_header(header)
                break
            except CorruptionError as problem:
                self.problems.append(problem.meaning)
        if self.owner is not None and not DATA_AT <= self.prelude_end <= len(self.buffer):
            self.owner = None
            self.problems.append("the header says what cannot be")
        self.problems = list(dict.fromkeys(self.problems))
        if self.owner is not None:
            self.number = self.owner[1]
        else:
            self._first_sequence, self.prelude_end = 0, DATA_AT
            self.seed = int.from_bytes(data[-4:], "little")
            self.boot, self.synced_only = b"", 0

    @property
    def first_sequence(self) -> int:
        """The sequence number of the first record behind the prelude, as far as it is known."""
        return int(super().first_sequence if self.knows_sequence else self._first_sequence)

    def _last_slot(self) -> Mark:
        return super()._last_slot() if self.knows_synced else (DATA_AT, self.seed, 0)

    @property
    def chain_sum(self) -> int:
        """The sum of the segment before, 0 where none is known."""
        return super().chain_sum if self._knows_sum else 0

    @property
    def begins_as_one(self) -> bool:
        """Whether the file begins as a log segment does."""
        return bytes(self.buffer[: len(MAGIC)]) == MAGIC

    @property
    def takes_nothing_over(self) -> bool:
        """Whether it is known to begin behind all that older logs and tables hold."""
        return self.owner is not None and self.knows_sequence and self.prelude_end == DATA_AT

    def is_below(self, sequence: int) -> bool:
        """Tell whether a flush that holds all up to ``sequence`` holds what is in here.

        Flushes take whole segments; a prelude is older than all new records.
        """
        if not self.knows_sequence or self.owner is None:
            return False
        first = self.first_sequence
        return first < sequence or (first == sequence and self.prelude_end > DATA_AT)

    def piece(self, offset: int, length: int) -> bytes:
        """Return up to ``length`` bytes; fewer only at the end of the file."""
        return bytes(self.buffer[offset : offset + length])

    def end_of_bytes(self) -> int:
        """Return where the zeros begin that fill the file to its end."""
        return len(bytes(self.buffer).rstrip(b"\0"))


def _mended(header: bytes, number: int) -> bytes:
    """Return a header with the bit changed that is wrong, if that makes it one of ``number``."""
    crc = bytes(byte ^ 0xFF for byte in header[-4:])
    found = corrected(header[:-4] + crc)
    if found is None or HEADER.unpack(found)[4] != number:
        return header
    return found[:-4] + bytes(byte ^ 0xFF for byte in found[-4:])


class _Replayed(ReplayedLog):
    """A damaged segment and what was replayed of it."""

    __slots__ = ()
    segment: DamagedLog


class Replay:
    """What the segments ``logs``, oldest first, hold together.

    ``memtable`` is all that is certain, ``tails`` what recovery drops too, and
    ``gaps`` holds (log, from, to) of what is to be searched.  ``losses`` is what is
    missing, ``notes`` what is damaged at no cost, ``sequence`` the highest number.
    """

    def __init__(self, logs: Sequence[DamagedLog], boot: bytes) -> None:
        self.memtable = MemTable()
        self.losses: list[Loss] = []
        self.notes: list[Loss] = []
        self.tails: list[Lost] = []
        self.gaps: list[tuple[DamagedLog, int, int]] = []
        self.sequence = 0
        self._over = False
        replayed = [_Replayed(log, boot) for log in logs]
        for log in replayed:
            # Nobody knows in which boot it was made, so everything has to be there.
            log.live = log.live or log.segment.owner is None
            log.look(False)
        before: _Replayed | None = None
        for log, following in zip(replayed, [*replayed[1:], None]):
            if before is None or self._goes_on(before, log):
                log.begin(before)
                if log.segment.knows_sequence:
                    log.first_sequence = log.segment.first_sequence
                self._take(log, following)
                before = log
            elif not log.live:
                self._drop(log, log.segment.prelude_end)
        if before is not None and before.sealed and before.segment is logs[-1]:
            self._lose(before, UNKNOWN, "it was sealed, and the segment after it is missing")

    def _goes_on(self, before: _Replayed, log: _Replayed) -> bool:
        """Tell whether ``log`` counts; note where something is missing before it."""
        segment = log.segment
        named = log.chain is not None and log.chain[0] == before.segment.number
        if named and log.follows(before) and not self._over:
            if before.segment.owner is not None and not log.follows(before, checked=False):
                self._doubt(before)
            return True
        if log.chain is None and segment.knows_chain:
            if log.filled or segment.prelude_end > DATA_AT:
                # Another process has begun it, and has taken over all that was before.
                if segment.knows_sequence and segment.first_sequence > before.sequence:
                    self._lose(before, UNKNOWN, "writes are missing that were made after these")
                self._over = False
                return True
        elif log.filled or log.live or (named and self._is_cut(before)):
            self._miss(before, log, named)
            self._over = False
            return True
        self._over = True
        return False

    @staticmethod
    def _is_cut(before: _Replayed) -> bool:
        """Tell whether bytes at the end of what was replayed had to check and did not."""
        return not before.sealed and before.end < _required(before)

    def _miss(self, before: _Replayed, log: _Replayed, named: bool) -> None:
        """Note what is missing between two segments, unless that was done."""
        if named and (before.sealed or self._is_cut(before)):
            return
        if log.chain is None:
            if not before.sealed and not self._is_cut(before):
                self._lose(before, UNKNOWN, "the log went on from here; how far is not known")
        elif named:
            length = max(0, log.chain[1] - before.end)
            self._lose(before, length, "the end of this segment is missing")
        else:
            meaning = "this segment is missing"
            self.losses.append(Loss(log_name(log.chain[0]), DATA_AT, UNKNOWN, meaning))

    def _take(self, log: _Replayed, following: _Replayed | None) -> None:
        """Replay one segment, and note what of it does not check."""
        segment, required = log.segment, _required(log)
        log.replay(min(len(segment.buffer), _limit(log)))
        self._pour(log.memtable)
        self.sequence = max(self.sequence, log.sequence, segment.first_sequence)
        if not log.sealed:
            if log.end < required:
                if following is not None and following.chain is not None:
                    number, length, _ = following.chain
                    required = length if number == segment.number else required
                self._cut(log, required)
            elif not _knows_end(log) and segment.end_of_bytes() > log.end:
                self._cut(log, segment.end_of_bytes())
            elif not _knows_end(log):
                self._lose(log, UNKNOWN, "whether there were more writes is not known")
            elif not log.live:
                self._drop(log, log.end)
        if segment.owner is None:
            if following is None or not following.follows(log, checked=False):
                meaning = "its header does not check, so these may be another segment's records"
                self.losses.append(
                    Loss(segment.name, DATA_AT, log.end - DATA_AT, f"{meaning}; if so, {BACK}")
                )
        else:
            try:
                segment.check_sums(log.end)
            except CorruptionError:
                self._doubt(log)
        for problem in segment.problems:
            self.notes.append(Loss(segment.name, 0, DATA_AT, problem))

    def _doubt(self, log: _Replayed) -> None:
        """Note that the records of a segment check, and are others than were written."""
        meaning = "these records are not those that were written"
        loss = Loss(log.segment.name, DATA_AT, log.end - DATA_AT, meaning)
        if loss not in self.losses:
            self.losses.append(loss)

    def _lose(self, log: _Replayed, length: int, meaning: str) -> None:
        """Note that something is missing behind what was replayed of a segment."""
        self.losses.append(Loss(log.segment.name, log.end, length, meaning))

    def _cut(self, log: _Replayed, end: int) -> None:
        segment = log.segment
        meaning = f"{segment.explain(log.end, end).meaning}; the writes from here on are missing"
        self._lose(log, max(0, end - log.end), meaning)
        self.gaps.append((segment, log.end, segment.end_of_bytes()))

    def _drop(self, log: _Replayed, offset: int) -> None:
        end = log.segment.used_up_to(offset)
        if end > offset:
            self.tails.append(Lost(log.segment, offset, end))

    def _pour(self, memtable: MemTable) -> None:
        if memtable.cleared:
            self.memtable.reset(cleared=True)
        for layer in reversed(memtable.layers):
            self.memtable.top.pour(layer)


def _required(log: _Replayed) -> int:
    """Return the position below which every byte of a segment must check."""
    segment = log.segment
    if log.live or not segment.knows_synced:
        ended = segment.ended
        return max(segment.appended, segment.synced()[0]) if ended is None else ended
    return int(segment.synced()[0])


def _limit(log: _Replayed) -> int:
    """Return the position up to which records count."""
    ended = log.segment.ended
    return len(log.segment.buffer) if ended is None else max(ended, _required(log))


def _knows_end(log: _Replayed) -> bool:
    """Tell whether it is known that no record was behind those that were replayed.

    Behind what was published there may be one that was just being stored.
    """
    segment = log.segment
    if segment.ended is not None:
        return True
    if not log.live:
        return segment.knows_synced
    published = segment.appended
    least = max(segment.prelude_end, segment.synced()[0])
    return segment.knows_synced and published >= least and segment.after(published) >= log.end
