"""A Segment: a log segment as it is found on the disk, for reading.

Whoever writes it may be at work: what has been published stays as it is, and the
words of the header page go on.
"""

from __future__ import annotations

from errno import ENOTSUP

from xxhash import xxh64

from oblivion_dbm.engine.filenames import log as log_name
from oblivion_dbm.engine.header_page import (
    APPENDED,
    APPENDED_AT,
    CHAIN,
    CHAIN_AT,
    CHAIN_SUM_AT,
    CRC_32C,
    DATA_AT,
    ENDED_AT,
    ENDED_SUM_AT,
    FORMAT,
    HEADER,
    MAGIC,
    NUMBER,
    SEQUENCE_AT,
    SLOT_SIZE,
    SLOTS_AT,
    is_being_stored,
    pack_end,
    pack_number,
    pack_slot,
    read_end,
    read_slot,
    unsealed,
)
from oblivion_dbm.engine.record import PUT, BadRecord, crc32c, read
from oblivion_dbm.errors import CorruptionError, error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from oblivion_dbm.engine.filesystem import FileSystem
    from oblivion_dbm.engine.header_page import Mark

#: Bytes that are summed up at once.
_STRIDE = 1 << 20
_DAMAGED = -1


class Segment:
    """A segment as found on disk, for reading: its header, and its bytes.

    Raises CorruptionError where the header does not check, and ``error`` for
    a segment of a newer format.
    """

    def __init__(
        self, filesystem: FileSystem, directory: str, number: int, store_id: bytes
    ) -> None:
        self.path = filesystem.join(directory, log_name(number))
        self.number = number
        self.filesystem = filesystem
        self.closed = False
        self._file = filesystem.open(self.path)
        self.buffer: Any = b""
        #: One word, appended-up-to; constant where the file cannot be mapped.
        self.words: Any = (0,)
        try:
            self.remap()
            self._read_header(store_id)
        except BaseException:
            self.close()
            raise

    def remap(self) -> None:
        """Map the file's present length; a live segment grows."""
        length = self.filesystem.size(self._file)
        if length < DATA_AT:
            raise CorruptionError(
                self.path, length, f"expected a header of {DATA_AT} bytes, found {length} bytes"
            )
        if isinstance(self.buffer, bytes) or length > len(self.buffer):
            try:
                buffer: Any = self.filesystem.map(self._file, length)
                words: Any = self.filesystem.words(buffer, APPENDED_AT, 1)
            except error:
                buffer = self.filesystem.read(self._file, 0, length)
                words = (0,)
            self._let_go()
            self.buffer, self.words = buffer, words

    def reach(self, position: int) -> None:
        """Make the bytes below ``position`` readable; CorruptionError if the file is shorter."""
        if position > len(self.buffer):
            self.remap()
        if position > len(self.buffer):
            meaning = f"expected {position} bytes, found {len(self.buffer)}"
            raise CorruptionError(self.path, len(self.buffer), meaning)

    def _read_header(self, store_id: bytes) -> None:
        self._parse_header(bytes(self.buffer[: HEADER.size]))
        if self.owner != (store_id, self.number):
            store, number = self.owner
            raise CorruptionError(
                self.path,
                16,
                f"expected segment {self.number} of store {store_id.hex()}, "
                f"found segment {number} of store {store.hex()}",
            )

    def _parse_header(self, data: bytes) -> None:
        if data[:8] != MAGIC:
            raise CorruptionError(self.path, 0, f"expected the magic {MAGIC!r}, found {data[:8]!r}")
        fields = unsealed(HEADER, data)
        if fields is None:
            raise CorruptionError(self.path, 0, "the header's crc does not match")
        _, version, kind, store, number, self._first_sequence, self.prelude_end = fields[:7]
        self.boot, self.synced_only = fields[7:]
        if self.prelude_end < DATA_AT or max(number, self.prelude_end, self._first_sequence) >> 63:
            raise CorruptionError(self.path, 0, "a header that says what cannot be")
        if version > FORMAT or kind != CRC_32C:
            meaning = (
                f"expected log format {FORMAT} with checksum kind {CRC_32C}, "
                f"found {version} and {kind}: a newer oblivion_dbm wrote it"
            )
            raise error(ENOTSUP, meaning, self.path)
        #: The id of the store, and the number, that it was made for.
        self.owner: tuple[bytes, int] = (store, number)
        self.seed = int.from_bytes(data[-4:], "little")

    @property
    def first_sequence(self) -> int:
        """The sequence number of the first record behind the prelude.

        A segment that was made ahead of its time learns it when it is begun.
        """
        sequence = self._number(SEQUENCE_AT)
        if sequence is None:
            return int(self._first_sequence)
        if sequence == _DAMAGED or sequence >> 63:
            meaning = "the first sequence number does not check"
            raise CorruptionError(self.path, SEQUENCE_AT, meaning)
        return sequence

    @property
    def ended(self) -> int | None:
        """The position behind which nothing was ever stored; None where nobody says so.

        A kill may have cut it short: then nobody does.
        """
        position = read_end(self.buffer[ENDED_AT : ENDED_AT + NUMBER.size])
        return position if position is not None and position >= DATA_AT else None

    def _number(self, at: int) -> int | None:
        """Return a number with a crc: None for zeros, _DAMAGED for what does not check."""
        data = self.buffer[at : at + NUMBER.size]
        if not any(data):
            return None
        fields = unsealed(NUMBER, data)
        return _DAMAGED if fields is None else int(fields[0])

    @property
    def appended(self) -> int:
        """The position below which everything was published."""
        return int(APPENDED.unpack_from(self.buffer, APPENDED_AT)[0])

    def synced(self) -> tuple[int, int]:
        """Return (position, running crc) of the last sync that is known of.

        Raises CorruptionError when neither slot checks: one always does.
        """
        return self._last_slot()[:2]

    def _last_slot(self) -> Mark:
        slots = [read_slot(self.buffer, at) for at in SLOTS_AT]
        found = [slot for slot in slots if slot is not None]
        if not found:
            raise CorruptionError(self.path, SLOTS_AT[0], "no slot of synced-up-to checks")
        return max(found)

    def check_slots(self) -> None:
        """Raise for a slot that is damaged, and not just being stored.

        What a writer changes meanwhile is looked at again; it never comes back to what it was.
        """
        for at in SLOTS_AT:
            seen = b""
            while read_slot(self.buffer, at) is None and not is_being_stored(self.buffer, at):
                before, seen = seen, bytes(self.buffer[at : at + SLOT_SIZE])
                if seen == before:
                    raise CorruptionError(self.path, at, "a slot of synced-up-to does not check")

    def check_sums(self, end: int) -> None:
        """Raise unless the records up to ``end`` are those that were synced, or closed behind."""
        position, running, total = self._last_slot()
        ended, whole = self.ended, self._number(ENDED_SUM_AT)
        if ended == end >= position and whole not in (None, _DAMAGED):
            position, total = end, int(whole or 0)
        if position <= end and not self.matches(position, running, total):
            meaning = f"the bytes from here to {position} are not those that were written"
            raise CorruptionError(self.path, DATA_AT, meaning)

    def chain(self) -> tuple[int, int, int] | None:
        """Return the (number, length, running crc) of the segment before, None if unset."""
        data = self.buffer[CHAIN_AT : CHAIN_AT + CHAIN.size]
        if not any(data):
            return None
        fields = unsealed(CHAIN, data)
        if fields is None:
            raise CorruptionError(self.path, CHAIN_AT, "the crc of the chain does not match")
        return fields[0], fields[1], fields[2]

    @property
    def chain_sum(self) -> int:
        """The sum of the segment before, 0 where none was made."""
        total = self._number(CHAIN_SUM_AT)
        if total == _DAMAGED:
            raise CorruptionError(self.path, CHAIN_SUM_AT, "the sum of the chain does not check")
        return total or 0

    def matches(self, position: int, running: int, total: int) -> bool:
        """Tell whether the bytes below ``position`` have this sum, or running crc without one."""
        if position > len(self.buffer):
            return False
        return self.total(position) == total if total else self.running_crc(position) == running

    def total(self, position: int) -> int:
        """Return the sum of the bytes below ``position``."""
        total = xxh64(seed=self.seed)
        for at in range(DATA_AT, position, _STRIDE):
            total.update(self.buffer[at : min(position, at + _STRIDE)])
        return int(total.intdigest())

    def after(self, offset: int) -> int:
        """Return where a whole record at ``offset`` ends, and ``offset`` where there is none."""
        try:
            return read(self.buffer, offset, len(self.buffer))[3]
        except BadRecord:
            return offset

    def running_crc(self, position: int) -> int:
        """Return the running crc of the bytes below ``position``."""
        running = self.seed
        for at in range(DATA_AT, position, _STRIDE):
            running = crc32c(bytes(self.buffer[at : min(position, at + _STRIDE)]), running)
        return running

    def page_at(self, end: int, *, sealed: bool = False, begun: bool = True) -> bytes:
        """Return the header page of a copy that ends at ``end`` and is synced up to there.

        ``sealed`` tells that SEAL is what it ends with; unless it is ``begun`` it
        says nothing of the segment before.
        """
        page = bytearray(self.buffer[:DATA_AT])
        fields = {at: pack_slot(end, self.running_crc(end), self.total(end)) for at in SLOTS_AT}
        fields[APPENDED_AT] = APPENDED.pack(end)
        fields[ENDED_AT] = bytes(NUMBER.size) if sealed else pack_end(end)
        fields[ENDED_SUM_AT] = bytes(NUMBER.size) if sealed else pack_number(self.total(end))
        if not begun:
            fields[CHAIN_AT] = bytes(CHAIN.size)
            fields[SEQUENCE_AT] = fields[CHAIN_SUM_AT] = bytes(NUMBER.size)
        for at, field in fields.items():
            page[at : at + len(field)] = field
        return bytes(page)

    def is_current(self) -> bool:
        """Tell whether the file still has its name: a backup's logs are replaced by longer ones."""
        return self.filesystem.is_at(self._file, self.path)

    def explain(self, offset: int, end: int) -> CorruptionError:
        """Return what is wrong at ``offset``, where there should be records up to ``end``."""
        try:
            op, _, _, after = read(self.buffer, offset, len(self.buffer))
        except BadRecord as bad:
            return CorruptionError(self.path, offset, bad.meaning)
        meaning = "no record"
        if op >= PUT:
            meaning = f"expected records up to {end}, found one that goes on to {after}"
        return CorruptionError(self.path, offset, meaning)

    def used_up_to(self, offset: int) -> int:
        """Return where zeros begin that go on to the end of the file, ``offset`` at least."""
        end = len(self.buffer)
        while end > offset:
            start = max(offset, end - _STRIDE)
            used = bytes(self.buffer[start:end]).rstrip(b"\0")
            if used:
                return start + len(used)
            end = start
        return offset

    def _let_go(self) -> None:
        # Not released by force: another thread may be looking at the word.
        self.buffer, self.words = b"", (0,)

    def close(self) -> None:
        """Let go of the map and the file.  Again is fine."""
        self._let_go()
        if not self.closed:
            self.closed = True  # first: a descriptor closed twice may be another file's
            self.filesystem.close(self._file)
