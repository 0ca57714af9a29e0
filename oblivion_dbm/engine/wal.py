"""The write-ahead log: segments that are preallocated, mapped and appended to.

A segment is a header page of 4,096 bytes and records behind it::

      0  magic "oblivwal" | format u32 | checksum kind u32 (1: CRC-32C)
         | store id 16 bytes | number u64 | first sequence u64
         | end of prelude u64 | boot id 16 bytes
         | visibility u32 (1: readers see what is synced) | crc u32
    128  the end of the segment before: number u64 | length u64
         | running crc u32 | crc u32             (zeros while it is being written)
    160  first sequence u64 | crc u32            (instead of the header's, if not zeros)
    192  appended-up-to u64
    512  synced-up-to u64 | running crc u32 | crc u32
   1024  synced-up-to, the other slot

*appended-up-to* is the one 8-byte store that publishes a write, to readers in
other processes and to recovery.  *synced-up-to* is advanced after a sync to
the position captured before it, in two slots in turn; the running crc covers
every byte from 4,096 on, seeded with the header's crc.  The *prelude* is what
recovery took over from older segments; its records are not new.  *Sequence*
numbers count the bytes of all records a store has logged, as PostgreSQL's LSN
does.

>>> pack_header(bytes(16), 7, (0, 4096), bytes(16), 0)[:20].hex(" ")
'6f 62 6c 69 76 77 61 6c 01 00 00 00 01 00 00 00 00 00 00 00'

Storing into the map costs some 60 ns and survives ``kill -9``, since the bytes
are in the page cache; a ``pwrite`` costs 5 to 20 times that for the same
promise and serves where a file cannot be mapped.  A segment is never truncated
and never recycled, and nobody appends to one that another process left.
"""

from __future__ import annotations

from contextlib import suppress
from errno import EDQUOT, EFBIG, ENOSPC, ENOTSUP
from struct import Struct

from oblivion_dbm.engine.filenames import log as log_name
from oblivion_dbm.engine.record import PUT, SEAL, BadRecord, crc32c, encode, read
from oblivion_dbm.errors import CorruptionError, error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from oblivion_dbm.engine.filesystem import FileSystem

    #: A position and the running crc of the bytes below it.
    Mark = tuple[int, int]

MAGIC = b"oblivwal"
FORMAT = 1
CRC_32C = 1
DATA_AT = 4096

_HEADER = Struct("<8sII16sQQQ16sII")
_CHAIN = Struct("<QQII")
_CHAIN_AT = 128
_SEQUENCE = Struct("<QI")
_SEQUENCE_AT = 160
_APPENDED = Struct("<Q")
APPENDED_AT = 192
_SLOT = Struct("<QII")
_SLOTS_AT = (512, 1024)

_FIRST_CAPACITY = 1 << 16
_CRC_STRIDE = 1 << 20

SEAL_RECORD = encode(SEAL, b"", b"")


def _sealed(values: Struct, *fields: Any) -> bytes:
    """Pack ``fields`` and the crc of what they become; a crc is never all zeros there."""
    body = values.pack(*fields, 0)[:-4]
    return body + (crc32c(body) ^ 0xFFFF_FFFF).to_bytes(4, "little")


def _unsealed(values: Struct, data: bytes) -> tuple[Any, ...] | None:
    """Return the fields that ``_sealed`` packed, None if they do not check."""
    if len(data) != values.size:
        return None
    if (crc32c(data[:-4]) ^ 0xFFFF_FFFF).to_bytes(4, "little") != data[-4:]:
        return None
    return values.unpack(data)[:-1]


def pack_header(
    store_id: bytes,
    number: int,
    sequences: tuple[int, int],
    boot: bytes,
    visibility: int,
) -> bytes:
    """Return the fixed part of a segment's header.

    ``sequences`` holds the first sequence number and the end of the prelude.
    """
    return _sealed(
        _HEADER,
        MAGIC,
        FORMAT,
        CRC_32C,
        store_id,
        number,
        *sequences,
        boot,
        visibility,
    )


class WAL:
    """The live segment: the one that this process created and appends to.

    Guarded by the appender's lock, but for ``sync``.  ``back_end`` is "mapped" or "pwrite".
    """

    def __init__(
        self,
        filesystem: FileSystem,
        directory: str,
        number: int,
        *,
        store_id: bytes,
        first_sequence: int,
        prelude: bytes = b"",
        back_end: str = "auto",
        synced_only: bool = False,
        mode: int = 0o666,
    ) -> None:
        """Create segment ``number`` holding ``prelude``, and sync it.

        Its directory entry is the caller's to sync.  Raises ``error``, leaving
        no file behind.
        """
        self.filesystem = filesystem
        self.number = number
        self.path = filesystem.join(directory, log_name(number))
        self.first_sequence = first_sequence
        self.prelude_end = DATA_AT + len(prelude)
        self.sealed = False
        self.closed = False
        self.end = 0
        self.synced = 0
        self._interrupted = False
        self._next_slot = 0
        self._file = filesystem.create(self.path, mode)
        try:
            self.back_end = self._choose(back_end, self.prelude_end)
            sequences = first_sequence, self.prelude_end
            boot = filesystem.boot()
            self._write_first(pack_header(store_id, number, sequences, boot, synced_only), prelude)
        except BaseException:
            self.abandon()
            raise

    def _write_first(self, header: bytes, prelude: bytes) -> None:
        """Write header and prelude, with synced-up-to behind them, and sync all of it."""
        self._running, self._covered = int.from_bytes(header[-4:], "little"), DATA_AT
        self.target[0 : len(header)] = header
        self.target[DATA_AT : self.prelude_end] = prelude
        self.words[0] = self.prelude_end
        self.note_synced(self.cover(self.prelude_end))
        self.filesystem.sync(self._file)

    def _choose(self, back_end: str, length: int) -> str:
        self.target: Any = None
        self.words: Any = None
        self.capacity = 0
        if back_end != "pwrite":
            try:
                self._map(max(_FIRST_CAPACITY, length))
                return "mapped"
            except error as problem:
                if back_end == "mapped" or problem.errno in (ENOSPC, EDQUOT, EFBIG):
                    raise
        from oblivion_dbm.engine.positioned import PositionedFile, PositionedWord

        self.filesystem.write(self._file, 0, bytes(DATA_AT))
        self.target = PositionedFile(self.filesystem, self._file, DATA_AT)
        self.words = PositionedWord(self.target, APPENDED_AT)
        self.capacity = 1 << 62
        return "pwrite"

    def _map(self, capacity: int) -> None:
        """Give the segment ``capacity`` bytes of room on the disk and map them."""
        self.filesystem.allocate(self._file, capacity)
        target = self.filesystem.map(self._file, capacity, writable=True)
        words = self.filesystem.words(target, APPENDED_AT, 1)
        self._unmap()
        self.target, self.words, self.capacity = target, words, capacity

    def _unmap(self) -> None:
        if self.words is not None:
            self.words.release()
            self.words = None
        if self.target is not None:
            self.target.close()
            self.target = None

    def grow(self, end: int) -> None:
        """Make room up to ``end`` at least, by doubling.  Raises error when the disk is full."""
        capacity = self.capacity
        while capacity < end:
            capacity *= 2
        if capacity > self.capacity:
            self._map(capacity)

    def sequence(self, position: int) -> int:
        """Return the sequence number of the byte at ``position``."""
        return self.first_sequence + max(0, position - self.prelude_end)

    def cover(self, position: int) -> Mark:
        """Bring the running crc up to ``position``, below which all is stored; return both.

        O(bytes since the last call).
        """
        while self._covered < position:
            stop = min(position, self._covered + _CRC_STRIDE)
            self._running = crc32c(self.target[self._covered : stop], self._running)
            self._covered = stop
        return self._covered, self._running

    def sync(self) -> None:
        """Return once all that is stored is on the disk; needs no lock.

        Raises error when the system cannot; that is final for the handle.
        """
        self._interrupted = True
        self.filesystem.sync(self._file)

    def rewrite(self) -> None:
        """Store again what the last sync covered, if that was interrupted.

        The system may have told it, and nobody else, that the bytes did not
        get to the disk; stored again, they are the next sync's.
        """
        if not self._interrupted:
            return
        for start in range(self.synced, self._covered, _CRC_STRIDE):
            stop = min(self._covered, start + _CRC_STRIDE)
            self.target[start:stop] = bytes(self.target[start:stop])
        self._interrupted = False

    def note_synced(self, mark: Mark) -> None:
        """Advance synced-up-to, after a sync that began after ``cover`` gave ``mark``."""
        self._interrupted = False
        if self.target is None or mark[0] <= self.synced:
            return
        slot = _sealed(_SLOT, *mark)
        place = _SLOTS_AT[self._next_slot]
        self.target[place : place + len(slot)] = slot
        self._next_slot ^= 1
        self.synced = mark[0]

    def seal(self, position: int) -> tuple[int, int, int]:
        """End the segment: append SEAL.  Again is fine.

        Returns (number, length, running crc) for the next segment's header.
        """
        if not self.sealed:
            end = position + len(SEAL_RECORD)
            if end > self.capacity:
                self.grow(end)
            self.target[position:end] = SEAL_RECORD
            self.words[0] = end
            self.end = end
            self.sealed = True
        return self.number, *self.cover(self.end)

    def follow(self, end: tuple[int, int, int], first_sequence: int) -> None:
        """Become the live segment: write down the end of the one before, and what comes first."""
        self.first_sequence = first_sequence
        sequence = _sealed(_SEQUENCE, first_sequence)
        self.target[_SEQUENCE_AT : _SEQUENCE_AT + len(sequence)] = sequence
        chain = _sealed(_CHAIN, *end)
        self.target[_CHAIN_AT : _CHAIN_AT + len(chain)] = chain

    def close(self) -> None:
        """Let go of the map and the file; what was appended stays.  Again is fine."""
        if not self.closed:
            self.closed = True  # first: a descriptor closed twice may be another file's
            self._unmap()
            self.filesystem.close(self._file)

    def abandon(self) -> None:
        """Close and remove the file; where that fails a later sweep removes it."""
        with suppress(error):
            self.close()
        with suppress(error):
            self.filesystem.remove(self.path)


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
        data = self.buffer[: _HEADER.size]
        if data[:8] != MAGIC:
            raise CorruptionError(self.path, 0, f"expected the magic {MAGIC!r}, found {data[:8]!r}")
        fields = _unsealed(_HEADER, data)
        if fields is None:
            raise CorruptionError(self.path, 0, "the header's crc does not match")
        _, version, kind, store, number, self._first_sequence, self.prelude_end = fields[:7]
        self.boot, self.synced_only = fields[7:]
        if version > FORMAT or kind != CRC_32C:
            meaning = (
                f"expected log format {FORMAT} with checksum kind {CRC_32C}, "
                f"found {version} and {kind}: a newer oblivion_dbm wrote it"
            )
            raise error(ENOTSUP, meaning, self.path)
        if (store, number) != (store_id, self.number):
            raise CorruptionError(
                self.path,
                16,
                f"expected segment {self.number} of store {store_id.hex()}, "
                f"found segment {number} of store {store.hex()}",
            )
        self.seed = int.from_bytes(data[-4:], "little")

    @property
    def first_sequence(self) -> int:
        """The sequence number of the first record behind the prelude.

        A segment that was made ahead of its time learns it when it is begun.
        """
        data = self.buffer[_SEQUENCE_AT : _SEQUENCE_AT + _SEQUENCE.size]
        if not any(data):
            return int(self._first_sequence)
        fields = _unsealed(_SEQUENCE, data)
        if fields is None:
            meaning = "the crc of the first sequence does not match"
            raise CorruptionError(self.path, _SEQUENCE_AT, meaning)
        return int(fields[0])

    @property
    def appended(self) -> int:
        """The position below which everything was published."""
        return int(_APPENDED.unpack_from(self.buffer, APPENDED_AT)[0])

    def synced(self) -> tuple[int, int]:
        """Return (position, running crc) of the last sync that is known of.

        Raises CorruptionError when neither slot checks: one always does.
        """
        slots = [_unsealed(_SLOT, self.buffer[at : at + _SLOT.size]) for at in _SLOTS_AT]
        found = [slot for slot in slots if slot is not None]
        if not found:
            raise CorruptionError(self.path, _SLOTS_AT[0], "no slot of synced-up-to checks")
        position, running = max(found)
        return position, running

    def chain(self) -> tuple[int, int, int] | None:
        """Return the (number, length, running crc) of the segment before, None if unset."""
        data = self.buffer[_CHAIN_AT : _CHAIN_AT + _CHAIN.size]
        if not any(data):
            return None
        fields = _unsealed(_CHAIN, data)
        if fields is None:
            raise CorruptionError(self.path, _CHAIN_AT, "the crc of the chain does not match")
        return fields[0], fields[1], fields[2]

    def running_crc(self, position: int) -> int:
        """Return the running crc of the bytes below ``position``."""
        running = self.seed
        for at in range(DATA_AT, position, _CRC_STRIDE):
            running = crc32c(bytes(self.buffer[at : min(position, at + _CRC_STRIDE)]), running)
        return running

    def explain(self, offset: int) -> CorruptionError:
        """Return the error that says what is wrong at ``offset``."""
        try:
            op = read(self.buffer, offset, len(self.buffer))[0]
        except BadRecord as bad:
            return CorruptionError(self.path, offset, bad.meaning)
        meaning = "a record beyond the end" if op >= PUT else "no record"
        return CorruptionError(self.path, offset, meaning)

    def unread(self, offset: int) -> bytes:
        """Return the bytes from ``offset`` on, without the zeros at the end of the file."""
        return bytes(self.buffer[offset:]).rstrip(b"\0")

    def _let_go(self) -> None:
        # Not released by force: another thread may be looking at the word.
        self.buffer, self.words = b"", (0,)

    def close(self) -> None:
        """Let go of the map and the file.  Again is fine."""
        self._let_go()
        if not self.closed:
            self.closed = True  # first: a descriptor closed twice may be another file's
            self.filesystem.close(self._file)
