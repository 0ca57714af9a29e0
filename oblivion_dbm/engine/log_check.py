"""Checks every byte and every invariant of the log: its segments, and how they follow each other.

A writer may be at work meanwhile.  What it has published stays as it is, so each
segment is checked up to where it was at one moment.  The youngest is looked at
first: what it shows tells of moments when the older ones were as far at least.

What nobody can tell: bytes behind the end of a log that was never closed.  They are
what a writer that was killed had begun to store, or what a crash of the machine has
left of records that were not synced; recovery leaves them out.
"""

from __future__ import annotations

from oblivion_dbm.engine.finding import Finding, found
from oblivion_dbm.engine.header_page import (
    APPENDED_AT,
    CHAIN,
    CHAIN_AT,
    CHAIN_SUM_AT,
    DATA_AT,
    ENDED_AT,
    ENDED_SUM_AT,
    FIELDS,
    NUMBER,
    SEQUENCE_AT,
    SLOT_SIZE,
    SLOTS_AT,
    is_being_stored,
    pack_end,
    pack_number,
    read_end,
    read_slot,
    sealed,
    unsealed,
)
from oblivion_dbm.engine.memtable import MemTable
from oblivion_dbm.engine.record import BATCH, DELETE, SEAL, BadRecord, read
from oblivion_dbm.engine.recovery import apply_batch
from oblivion_dbm.errors import CorruptionError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from oblivion_dbm.engine.filesystem import FileSystem
    from oblivion_dbm.engine.segment import Segment

_STRIDE = 1 << 20
#: How often a field that does not check is looked at again where a writer may be
#: storing it, and seconds in between.
_LOOKS, _MOMENT = 4, 0.005


def check_logs(filesystem: FileSystem, segments: Sequence[Segment | None]) -> Iterator[Finding]:
    """Yield what is wrong with the log segments, oldest first; None is one that did not open."""
    boot = filesystem.boot()
    checks = [
        None if segment is None else SegmentCheck(filesystem, segment, boot)
        for segment in reversed(segments)
    ]
    checks.reverse()
    before: SegmentCheck | None = None
    for place, check in enumerate(checks):
        if check is None:
            continue
        yield from check.findings()
        if place == 0:
            yield from check.check_beginning()
        elif checks[place - 1] is not None and before is not None:
            yield from check.check_chain(before)
        before = check
        if check.sealed and place + 1 == len(checks):
            meaning = "the log goes on from here, but the MANIFEST names no segment that follows"
            yield Finding(check.segment.path, check.end, meaning)


class SegmentCheck:
    """The check of one segment, as its header page was at one moment.

    ``end`` is where its records end, if it is ``known``; ``sealed`` tells that SEAL ends them.
    """

    def __init__(self, filesystem: FileSystem, segment: Segment, boot: bytes) -> None:
        self.segment = segment
        self._filesystem = filesystem
        self._live = segment.boot == boot
        self._page = self._look()
        # Afterwards, as what is synced and where the log has ended is published before.
        self._appended = segment.appended
        self._slots = {at: read_slot(self._page, at) for at in SLOTS_AT}
        self._synced = max((slot[0] for slot in self._slots.values() if slot), default=0)
        self._ended = read_end(self._page[ENDED_AT : ENDED_AT + NUMBER.size])
        self._required = max(self._appended, self._synced) if self._live else self._synced
        self.filled = self._required > segment.prelude_end
        self.end = DATA_AT
        self.sealed = False
        self.known = False
        self.sequence = 0

    def _look(self) -> bytes:
        """Return the header page, at a moment when no field is half stored."""
        page = bytes(self.segment.buffer[:DATA_AT])
        for _ in range(_LOOKS if self._live else 0):
            if _is_settled(page):
                break
            self._filesystem.sleep(_MOMENT)
            page = bytes(self.segment.buffer[:DATA_AT])
        return page

    def _finding(self, offset: int, meaning: str) -> Finding:
        return Finding(self.segment.path, offset, meaning)

    def findings(self) -> Iterator[Finding]:
        """Yield what is wrong with this segment by itself."""
        yield from self._check_page()
        yield from self._check_records()
        if self.known:
            yield from self._check_sums()
            yield from self._check_end()

    # The header page.

    def _check_page(self) -> Iterator[Finding]:
        """Check the page by itself; its fixed part was checked when it was opened."""
        segment, page = self.segment, self._page
        for (_, stop), (start, _) in zip(FIELDS, [*FIELDS[1:], (DATA_AT, 0)]):
            if any(page[stop:start]):
                yield self._finding(
                    _first_used(page, stop), "bytes of the header that must be zero"
                )
        for at, slot in self._slots.items():
            killed = is_being_stored(page, at) and not self._is_closed
            if slot is None and not killed and any(page[at : at + SLOT_SIZE]):
                yield self._finding(at, "a slot of synced-up-to does not check")
            elif slot is not None and slot[0] < segment.prelude_end:
                yield self._finding(at, "synced-up-to is before the end of the prelude")
        if not self._synced:
            yield self._finding(SLOTS_AT[0], "no slot of synced-up-to checks")
        if segment.synced_only not in (0, 1):
            yield self._finding(72, f"expected visibility 0 or 1, found {segment.synced_only}")
        if self._live and self._appended < max(self._synced, segment.prelude_end):
            meaning = f"appended-up-to is {self._appended}, below what is synced"
            yield self._finding(APPENDED_AT, meaning)
        if self._is_closed and self._appended != self._ended:
            meaning = f"appended-up-to is {self._appended}, but the writer ended at {self._ended}"
            yield self._finding(APPENDED_AT, meaning)

    @property
    def _is_closed(self) -> bool:
        """Whether nothing but what the writer left when it closed can be there."""
        return self._ended is not None and (self._live or self._synced == self._ended)

    # The records.

    def _check_records(self) -> Iterator[Finding]:
        """Walk over all records that count, and note where they end."""
        segment, offset = self.segment, DATA_AT
        marks = {segment.prelude_end, *(slot[0] for slot in self._slots.values() if slot)}
        try:
            segment.reach(self._required)
        except CorruptionError as problem:
            yield found(problem, segment.path)
            return
        limit = len(segment.buffer) if self._ended is None else self._ended
        limit = self._required if self._live else min(limit, len(segment.buffer))
        while offset < limit and not self.sealed:
            marks.discard(offset)
            try:
                op, key, value, after = read(segment.buffer, offset, limit)
            except BadRecord as bad:
                if offset < self._required:
                    yield self._finding(offset, bad.meaning)
                    return
                break
            meaning = _malformed(op, key, value, offset < segment.prelude_end)
            if meaning:
                yield self._finding(offset, meaning)
            offset = after
            self.sealed = op == SEAL
        marks.discard(offset)
        for mark in sorted(marks):
            meaning = f"expected a record to end at {mark}, where header or slots say so"
            yield self._finding(mark, meaning)
        self.end = offset
        self.known = True

    def _check_sums(self) -> Iterator[Finding]:
        for at, slot in self._slots.items():
            if slot is None or slot[0] > self.end:
                continue
            position, running, total = slot
            if self.segment.running_crc(position) != running:
                yield self._finding(at, f"the running crc up to {position} does not match")
            if total and not self.segment.matches(position, running, total):
                yield self._finding(at, f"the sum of the bytes up to {position} does not match")

    def _check_end(self) -> Iterator[Finding]:
        """Check what stands behind the records, and what is said of their end."""
        segment = self.segment
        if self._required > self.end:
            yield self._finding(self.end, "a SEAL, and more that was published behind it")
        if self.sealed and self._synced >= self.end != self._appended:
            yield self._finding(APPENDED_AT, f"appended-up-to is {self._appended}, not {self.end}")
        yield from self._check_marks()
        if self._is_closed or (self.sealed and (self._live or self._synced >= self.end)):
            yield from self._check_zeros()
        elif self._live and not self.sealed:
            following = segment.after(self.end)
            if segment.after(following) > following:
                self._filesystem.sleep(_MOMENT)
                if segment.appended == self._appended:
                    meaning = f"appended-up-to is {self._appended}, and several records follow"
                    yield self._finding(APPENDED_AT, meaning)

    def _check_marks(self) -> Iterator[Finding]:
        """Check what is said of the end of the log; the position is stored last, as one."""
        page, end = self._page, self.end
        position = page[ENDED_AT : ENDED_AT + 8]
        marks = [
            (ENDED_AT, page[ENDED_AT : ENDED_AT + NUMBER.size], pack_end(end)),
            (
                ENDED_SUM_AT,
                page[ENDED_SUM_AT : ENDED_SUM_AT + NUMBER.size],
                pack_number(self.segment.total(end)),
            ),
        ]
        for at, mark, expected in marks:
            if self.sealed:
                fits = not any(mark)
            elif not any(position):
                fits = _within(mark, expected)  # a kill has cut it short
            elif self._ended not in (None, end) and not self._is_closed:
                fits = True  # a crash of the machine may have taken what was not synced
            elif at == ENDED_AT:
                fits = self._ended == end
            else:
                fits = mark == expected or not any(mark)  # by a program that did not know of it
            if not fits:
                meaning = f"what is said of the end of the log does not fit records up to {end}"
                yield self._finding(at, meaning)

    def _check_zeros(self) -> Iterator[Finding]:
        buffer = self.segment.buffer
        for at in range(self.end, len(buffer), _STRIDE):
            data = buffer[at : at + _STRIDE]
            if any(data):
                meaning = "bytes that are not zero behind the end of the log"
                yield self._finding(at + _first_used(data, 0), meaning)
                return

    # How it follows the one before.

    def check_beginning(self) -> Iterator[Finding]:
        """Check what the first segment says of those before it, which are no more."""
        try:
            self._begin(self.segment.first_sequence)
        except CorruptionError as problem:
            yield found(problem, self.segment.path)
        for at, values in ((CHAIN_AT, CHAIN), (CHAIN_SUM_AT, NUMBER)):
            data = self._page[at : at + values.size]
            if any(data) and unsealed(values, data) is None:
                yield self._finding(at, "what is said of the segment before does not check")
        chain = unsealed(CHAIN, self._page[CHAIN_AT : CHAIN_AT + CHAIN.size])
        if chain is not None and chain[0] >= self.segment.number:
            yield self._finding(CHAIN_AT, f"it names segment {chain[0]} as the one before")

    def check_chain(self, before: SegmentCheck) -> Iterator[Finding]:
        """Check that this goes on where ``before`` has ended, or has not been begun."""
        if not before.known:
            return
        if before.sealed:
            fields = before.ending()
        elif self.filled:
            yield self._finding(DATA_AT, "records, but the log before it is not sealed")
            return
        elif self._live or before._is_closed:
            fields = {at: bytes(len(field)) for at, field in before.ending().items()}
        else:
            return  # the machine has crashed between the two
        begun = any(self._page[CHAIN_AT : CHAIN_SUM_AT + NUMBER.size])
        for at, expected in fields.items():
            data = self._page[at : at + len(expected)]
            # Programs that did not know of a field have left zeros.
            unknown = at != CHAIN_AT and not any(data)
            whole = self.filled or (self._is_closed and begun)
            if data != expected and (whole or not _within(data, expected)) and not unknown:
                meaning = (
                    f"this is not what goes on from byte {before.end} of {before.segment.path}"
                )
                yield self._finding(at, meaning)
        self._begin(before.sequence)

    def ending(self) -> dict[int, bytes]:
        """Return what the next segment says of this one, by place."""
        number, end = self.segment.number, self.end
        chain = sealed(CHAIN, number, end, self.segment.running_crc(end))
        total = sealed(NUMBER, self.segment.total(end))
        return {CHAIN_AT: chain, CHAIN_SUM_AT: total, SEQUENCE_AT: sealed(NUMBER, self.sequence)}

    def _begin(self, sequence: int) -> None:
        """Note which sequence number comes first, and so that of the end."""
        self.sequence = sequence + max(0, self.end - self.segment.prelude_end)


def _is_settled(page: bytes) -> bool:
    """Tell whether each field that may be being stored is zero, or checks."""
    fields = [(at, NUMBER) for at in (CHAIN_SUM_AT, SEQUENCE_AT, ENDED_AT, ENDED_SUM_AT)]
    for at, values in [(CHAIN_AT, CHAIN), *fields]:
        data = page[at : at + values.size]
        if any(data) and unsealed(values, data) is None:
            return False
    return all(read_slot(page, at) or not any(page[at : at + SLOT_SIZE]) for at in SLOTS_AT)


def _within(data: bytes, expected: bytes) -> bool:
    """Tell whether ``data`` is what a kill may leave of ``expected`` that was being stored."""
    return all(one in (0, other) for one, other in zip(data, expected))


def _first_used(data: bytes, start: int) -> int:
    """Return where the first byte that is not zero stands, from ``start`` on."""
    return len(data) - len(data[start:].lstrip(b"\0"))


def _malformed(op: int, key: bytes, value: bytes, in_prelude: bool) -> str:
    """Return what is wrong with a sound record at its place, "" if nothing is."""
    if op <= DELETE:
        return "a tombstone with a value" if op == DELETE and value else ""
    if in_prelude:
        return f"operation {op} in the prelude"
    if key or (value and op != BATCH):
        return f"operation {op} with a key or a value"
    if op == BATCH:
        try:
            apply_batch(value, MemTable())
        except BadRecord as bad:
            return f"within a batch, {bad}"
    return ""
