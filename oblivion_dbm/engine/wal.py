"""The write-ahead log: segments that are preallocated, mapped and appended to.

A segment is a header page (:mod:`oblivion_dbm.engine.header_page`) and records
behind it, one after the other.

*appended-up-to* is the one 8-byte store that publishes a write, to readers in
other processes and to recovery.  *synced-up-to* is advanced after a sync to
the position captured before it, in two slots in turn; a running crc and a sum
cover every byte from 4,096 on, seeded with the header's crc.  *ended-at* says
that nothing was stored behind it, once the writer has closed.  The *prelude* is what
recovery took over from older segments; its records are not new.  *Sequence*
numbers count the bytes of all records a store has logged, as PostgreSQL's LSN
does.

Storing into the map costs some 60 ns and survives ``kill -9``, since the bytes
are in the page cache; a ``pwrite`` costs 5 to 20 times that for the same
promise and serves where a file cannot be mapped.  A segment is never truncated
and never recycled, and nobody appends to one that another process left.
"""

from __future__ import annotations

from contextlib import suppress
from errno import EDQUOT, EFBIG, ENOSPC

from xxhash import xxh64

from oblivion_dbm.engine.filenames import log as log_name
from oblivion_dbm.engine.header_page import (
    APPENDED_AT,
    CHAIN,
    CHAIN_AT,
    CHAIN_SUM_AT,
    DATA_AT,
    ENDED_AT,
    ENDED_SUM_AT,
    NUMBER,
    SEQUENCE_AT,
    SLOTS_AT,
    pack_end,
    pack_header,
    pack_number,
    pack_slot,
    sealed,
)
from oblivion_dbm.engine.record import SEAL, crc32c, encode
from oblivion_dbm.errors import error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from oblivion_dbm.engine.filesystem import FileSystem
    from oblivion_dbm.engine.header_page import Mark

_FIRST_CAPACITY = 1 << 16
_CRC_STRIDE = 1 << 20

SEAL_RECORD = encode(SEAL, b"", b"")


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
        self._total = xxh64(seed=self._running)
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
        """Bring running crc and sum up to ``position``, below which all is stored; return them.

        O(bytes since the last call).
        """
        while self._covered < position:
            stop = min(position, self._covered + _CRC_STRIDE)
            data = self.target[self._covered : stop]
            self._running = crc32c(data, self._running)
            self._total.update(data)
            self._covered = stop
        return self._covered, self._running, self._total.intdigest()

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
        at, slot = SLOTS_AT[self._next_slot], pack_slot(*mark)
        self._store(at, bytes(8))
        self._store(at + 8, slot[8:])
        self._store(at, slot[:8])
        self._next_slot ^= 1
        self.synced = mark[0]

    def _store(self, place: int, data: bytes) -> None:
        self.target[place : place + len(data)] = data

    def seal(self, position: int) -> tuple[int, int, int, int]:
        """End the segment: append SEAL.  Again is fine.

        Returns (number, length, running crc, sum) for the next segment's header.
        """
        if not self.sealed:
            self._store(ENDED_AT, bytes(8))
            self._store(ENDED_AT, bytes(ENDED_SUM_AT + NUMBER.size - ENDED_AT))
            end = position + len(SEAL_RECORD)
            if end > self.capacity:
                self.grow(end)
            self.target[position:end] = SEAL_RECORD
            self.words[0] = end
            self.end = end
            self.sealed = True
        return self.number, *self.cover(self.end)

    def follow(self, end: tuple[int, int, int, int], first_sequence: int) -> None:
        """Become the live segment: write down the end of the one before, and what comes first."""
        *chain, total = end
        self.first_sequence = first_sequence
        self._store(SEQUENCE_AT, sealed(NUMBER, first_sequence))
        self._store(CHAIN_SUM_AT, sealed(NUMBER, total))
        self._store(CHAIN_AT, sealed(CHAIN, *chain))

    def note_end(self, position: int) -> None:
        """Write down that nothing will be stored at or behind ``position``."""
        if not self.sealed:
            self._store(ENDED_SUM_AT, pack_number(self.cover(position)[2]))
            end = pack_end(position)
            self._store(ENDED_AT + 8, end[8:])
            self._store(ENDED_AT, end[:8])

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
