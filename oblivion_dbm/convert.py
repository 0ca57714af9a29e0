"""Moving in: files of other formats, read into a store.

The log of the seeds
    The prototypes that this project grew from kept a write-ahead log without
    a header: entry after entry, from the first byte of the file to the last::

        op u8 | key length u32 | key | value length u32 | value | crc u32

    Integers are little-endian.  ``op`` is 1 for a put and 2 for a delete; the
    value of a delete is empty (one that is not is ignored).  ``crc`` is
    CRC-32/ISO-HDLC, as of :func:`zlib.crc32`, over every byte of the entry
    before it.  Entries apply in order: the last one for a key counts.

    A put of ``colour`` = ``blue``, then a delete of ``colour``:

    >>> log = bytes.fromhex(
    ...     "01  06000000  636f6c6f7572  04000000  626c7565  81add0c1"
    ...     "02  06000000  636f6c6f7572  00000000            e3aeda1c")
    >>> zlib.crc32(log[:19]).to_bytes(4, "little") == log[19:23]
    True

    >>> import os, tempfile
    >>> from oblivion_dbm import Database
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = os.path.join(folder.name, "seed.wal")
    >>> with open(path, "wb") as file:
    ...     _ = file.write(log)
    >>> with Database(os.path.join(folder.name, "store")) as database:
    ...     import_wal(path, database)
    Imported(puts=1, deletes=1, bytes_read=42, damage=None)
    >>> folder.cleanup()
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import zlib
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from oblivion_dbm.errors import error

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from oblivion_dbm.mapping import OrderedMapping

__all__ = ["Imported", "import_wal", "open_regular"]

_PUT, _DELETE = 1, 2
_U32 = struct.Struct("<I")

_PIECE = 1 << 20
"""Bytes that are read or checked at a time."""

_GROUP_BYTES, _GROUP_ENTRIES = 1 << 20, 4096
"""A group is applied when it has reached either."""

_Entry = tuple[int, bytes, bytes]


class Imported(NamedTuple):
    """What :func:`import_wal` did.

    ``bytes_read`` counts the bytes of the whole entries that were applied, so
    it is where the damage begins if there is any.  ``damage`` is None, or a
    line that names the file, the offset, what was expected and what was found.
    """

    puts: int
    deletes: int
    bytes_read: int
    damage: str | None


def import_wal(path: str | bytes | os.PathLike[str], database: OrderedMapping) -> Imported:
    """Apply a log of the seeds, in the file ``path``, to ``database``, in order.

    ``database`` is a Database, or a prefixed view of one.

    Entries go in as atomic groups (up to 4,096 entries, and up to 1 MiB unless
    one entry is larger).  Reading stops at the first entry that is cut off or
    does not check; everything before it is in the database then, and
    ``damage`` says what is wrong.  Damage is returned and not raised, because
    a log whose writer was killed ends in half an entry as a rule.

    If the database raises, a prefix of whole groups has been applied; doing
    the import again is harmless as long as nothing else has written since.

    Raises ``error`` with ``errno`` and ``filename`` if ``path`` cannot be read
    or is no regular file.

    Memory: one group, or the largest entry that checks.  A length is believed
    only after the crc over the entry has confirmed it, so a damaged one costs
    reading but no memory.  Time: proportional to the file.
    """
    puts = deletes = 0
    with open_regular(path) as source:
        log = _Log(source, os.fsdecode(path))
        for group in _groups(log):
            with database.batch() as batch:
                for operation, key, value in group:
                    if operation == _PUT:
                        batch[key] = value
                    else:
                        del batch[key]
            put = sum(operation == _PUT for operation, _, _ in group)
            puts += put
            deletes += len(group) - put
    return Imported(puts, deletes, log.end, log.damage)


def open_regular(path: str | bytes | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading; anything else is an ``error``.

    A pipe or a device is refused before it is opened, since its size is
    unknown and opening it may block.
    """
    filename = os.fsdecode(path)
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise error(errno.EISDIR, os.strerror(errno.EISDIR), filename)
        if not stat.S_ISREG(mode):
            raise error(errno.EINVAL, "expected a regular file, found a pipe or device", filename)
        return open(path, "rb", buffering=_PIECE)
    except error:
        raise
    except OSError as failure:
        raise error(failure.errno, failure.strerror, filename) from None


def _groups(entries: Iterable[_Entry]) -> Iterator[list[_Entry]]:
    """The entries, cut into the lists that are applied atomically."""
    group: list[_Entry] = []
    room = _GROUP_BYTES
    for entry in entries:
        group.append(entry)
        room -= len(entry[1]) + len(entry[2])
        if room <= 0 or len(group) == _GROUP_ENTRIES:
            yield group
            group, room = [], _GROUP_BYTES
    if group:
        yield group


class _Unreadable(Exception):
    """Why the entry at hand is no entry: its text says what was expected and found."""


class _Log:
    """The whole entries of an open log, in order, up to the end or the first damage.

    ``end`` is the offset after the last entry given out, ``damage`` the report
    once iteration has stopped before the end of the file.
    """

    def __init__(self, source: BinaryIO, filename: str) -> None:
        self.end = 0
        self.damage: str | None = None
        self._source = source
        self._filename = filename
        self._size = os.fstat(source.fileno()).st_size

    def __iter__(self) -> Iterator[_Entry]:
        while self.end < self._size:
            try:
                entry, end = self._entry(self.end)
            except _Unreadable as reason:
                self.damage = f"{self._filename}: damaged at byte {self.end}: {reason}"
                return
            self.end = end
            yield entry

    def _entry(self, start: int) -> tuple[_Entry, int]:
        """The entry at ``start`` and the offset after it."""
        operation = self._read(start, 1, "the operation")[0]
        if operation not in (_PUT, _DELETE):
            raise _Unreadable(
                f"expected operation {_PUT} (put) or {_DELETE} (delete), found {operation}"
            )
        key_length = self._u32(start + 1, "the key length")
        key_at = start + 1 + _U32.size
        value_length = self._u32(
            key_at + key_length, f"the value length after a key of {key_length} bytes"
        )
        value_at = key_at + key_length + _U32.size
        crc_at = value_at + value_length
        stored = self._u32(crc_at, f"the crc after a value of {value_length} bytes")
        computed = self._crc(start, crc_at)
        if stored != computed:
            raise _Unreadable(f"expected crc {computed:08x} of its bytes, found {stored:08x}")
        key = self._read(key_at, key_length, "the key")
        value = self._read(value_at, value_length, "the value") if operation == _PUT else b""
        return (operation, key, value), crc_at + _U32.size

    def _u32(self, offset: int, what: str) -> int:
        number: int = _U32.unpack(self._read(offset, _U32.size, what))[0]
        return number

    def _crc(self, start: int, stop: int) -> int:
        """CRC-32 of the bytes from ``start`` to ``stop``, in pieces."""
        crc = 0
        for offset in range(start, stop, _PIECE):
            piece = self._read(offset, min(_PIECE, stop - offset), "the entry")
            crc = zlib.crc32(piece, crc)
        return crc

    def _read(self, offset: int, count: int, what: str) -> bytes:
        """Exactly ``count`` bytes at ``offset``.

        The caller keeps ``count`` small until a crc has confirmed it.
        """
        try:
            self._source.seek(offset)
            found = self._source.read(count)
        except OSError as failure:
            raise error(failure.errno, failure.strerror, self._filename) from None
        if len(found) != count:
            raise _Unreadable(
                f"expected {count} bytes ({what}) at byte {offset}, "
                f"found the end of the file at byte {self._size}"
            )
        return found
