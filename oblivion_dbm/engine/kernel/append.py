"""The write path's inner loop: encode, append to the log's map, publish, insert."""

from __future__ import annotations

from _thread import get_ident
from contextlib import suppress
from errno import EDEADLK

from oblivion_dbm.engine.kernel.pure import replay
from oblivion_dbm.engine.record import (
    DELETE,
    PUT,
    check_lengths,
    crc32c,
    encode,
    pack_head,
    pack_length,
)
from oblivion_dbm.errors import error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import RLock
    from collections.abc import Callable
    from typing import Any

#: Added to an Appender's position while a write is in progress: beyond every limit.
BUSY = 1 << 59

_PUT_HEADS = [pack_head(PUT, length) for length in range(256)]
_LENGTHS = [pack_length(length) for length in range(1024)]


class Stalled(Exception):
    """There is no room for a write yet.

    ``relieve`` is to be called without the lock; then the write is tried again.
    """

    def __init__(self, relieve: Callable[[], None]) -> None:
        self.relieve = relieve


class Appender:
    """The write path: encode, append to the log's map, publish, insert.

    ``make_room(length)`` is called, with the lock held, when a record does not
    fit below ``limit``; it provides room or raises, Stalled included.  A limit
    of -1 thus sends every write there: closed, failed and not yet started
    handles need no check of their own.  ``after(sequence)``, if there is one,
    is called after each write, without this call's hold on the lock;
    ``sequence`` is ``origin`` plus the position behind the record.

    ``lock`` guards every field.  While a write is in progress ``position`` has
    BUSY added to it, beyond every limit.  Whoever finds it so and owns the lock
    twice is a signal handler inside that write, and is refused; whoever owns it
    once is the next call after a write that was interrupted again while it was
    put right, and does that first.  ``restore(record)`` brings a published
    record of any kind into memory; it may run twice.
    """

    __slots__ = (
        "active",
        "after",
        "limit",
        "lock",
        "make_room",
        "origin",
        "position",
        "restore",
        "target",
        "tombstones",
        "words",
    )

    def __init__(
        self,
        lock: RLock,
        make_room: Callable[[int], None],
        restore: Callable[[bytes], None],
    ) -> None:
        self.lock = lock
        self.make_room = make_room
        self.restore = restore
        self.after: Callable[[int], None] | None = None
        self.target: Any = None
        self.words: Any = None
        self.origin = 0
        self.position = 0
        self.limit = -1
        self.active: dict[bytes, bytes] = {}
        self.tombstones: set[bytes] = set()

    def put(self, key: bytes, value: bytes) -> None:
        """Write one record; when it returns, readers everywhere see it.  O(length)."""
        try:
            body = b"".join((_PUT_HEADS[len(key)], key, _LENGTHS[len(value)], value))
        except IndexError:
            check_lengths(len(key), len(value))
            body = b"".join((pack_head(PUT, len(key)), key, pack_length(len(value)), value))
        record = body + pack_length(crc32c(body))
        length = len(record)
        while True:
            try:
                with self.lock:
                    # A signal handler may run at any call and any jump: there is
                    # none between looking at the position and marking it.
                    start = self.position
                    end = start + length
                    self.position = start + BUSY
                    try:
                        if end > self.limit:
                            start, end = self.reserve(start, length)
                        self.target[start:end] = record
                        self.words[0] = end
                        self.active[key] = record
                        if self.tombstones:
                            self.tombstones.discard(key)
                        self.position = end
                    except BaseException:
                        self.settle(start, end)
                        raise
                    after = self.after
                    if after is None:
                        return
                    sequence = self.origin + end
            except Stalled as stalled:
                stalled.relieve()
            else:
                after(sequence)
                return

    def append(self, record: bytes) -> None:
        """Write one record of any kind."""
        sequence = self.write(record)
        after = self.after
        if after is not None:
            after(sequence)

    def write(self, record: bytes) -> int:
        """Write one record of any kind, without what comes after; returns its sequence."""
        length = len(record)
        while True:
            try:
                with self.lock:
                    start = self.position
                    end = start + length
                    self.position = start + BUSY
                    try:
                        if end > self.limit:
                            start, end = self.reserve(start, length)
                        self.target[start:end] = record
                        self.words[0] = end
                        self._apply(record)
                        self.position = end
                    except BaseException:
                        self.settle(start, end)
                        raise
                    return self.origin + end
            except Stalled as stalled:
                stalled.relieve()

    def delete(self, key: bytes) -> None:
        """Write a tombstone for ``key``."""
        self.append(encode(DELETE, key, b""))

    def _apply(self, record: bytes) -> None:
        if record[0] <= DELETE:
            replay(record, 0, len(record), self.active, self.tombstones)
        else:
            self.restore(record)

    def reserve(self, start: int, length: int) -> tuple[int, int]:
        """Return (start, end) of room for ``length`` bytes, made where there is none.

        ``start`` is the position that was found, and that is marked.  It is
        looked at again after it was marked anew: a signal handler that wrote in
        between has used the room up.
        """
        found = -1
        while start != found:
            self.position = start
            if start >= BUSY:
                self.recover()
            found = self.position
            if found + length > self.limit:
                self.make_room(length)
            start = self.position
            self.position = start + BUSY
        return start, start + length

    def recover(self) -> None:
        """Finish what was interrupted twice; a handler inside a write is refused."""
        if self.position < BUSY:
            return
        if depth(self.lock) > 1:
            refuse()
        start = self.position & (BUSY - 1)
        if self.target is None:
            self.position = start
            return
        stored = bytes(self.target[start : len(self.target)]).rstrip(b"\0")
        self.settle(start, max(self.words[0], start + len(stored)))

    def settle(self, start: int, end: int) -> None:
        """After an exception: what was published is applied, the rest is wiped.

        Bytes that were stored but not published must not stay: a shorter
        record written over them would uncover their end.
        """
        if self.position < BUSY:
            return
        if self.target is None:
            self.position = start
        elif self.words[0] > start:
            published = self.words[0]
            self._apply(bytes(self.target[start:published]))
            self.position = published
        else:
            # A target that can fail wipes by itself what it could not store.
            with suppress(error):
                stop = min(end, len(self.target))
                if start < stop:
                    self.target[start:stop] = bytes(stop - start)
            self.position = start


def depth(lock: RLock) -> int:
    """Return how many times the calling thread has acquired ``lock`` and not released it."""
    count: Any = getattr(lock, "_recursion_count", None)  # from Python 3.11 on
    if count is not None:
        return int(count())
    fields = dict(field.split("=") for field in repr(lock).split() if "=" in field)
    return int(fields["count"]) if int(fields["owner"]) == get_ident() else 0


def refuse() -> None:
    """Raise for a signal handler that writes inside a write of its own thread."""
    raise error(EDEADLK, "the store is in the middle of a write of this very thread")
