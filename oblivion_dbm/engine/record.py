"""The record: the one unit that the log, the MemTable and the tables share.

::

    op u8 | key length u32 | key | value length u32 | value | crc u32

All numbers are little-endian; ``crc`` is the CRC-32C of every byte before it.
A record's bytes do not depend on where they lie, so they are encoded once and
copied ever after.

====  ======  ==============================================================
op    name    meaning
====  ======  ==============================================================
0     --      never valid: zeroed space is not a record
1     PUT     ``key`` now has ``value``
2     DELETE  ``key`` is gone (a tombstone); the value is empty
3     BATCH   the value is a run of whole records: an optional CLEAR, then PUT
              and DELETE; they happen together or not at all; never nested
4     SEAL    the segment ends here
5     CLEAR   everything before it is gone
6     MARKER  tables changed beside the log: reload them
====  ======  ==============================================================

BATCH to MARKER appear in logs only and have an empty key.

>>> encode(PUT, b"key", b"value").hex(" ")
'01 03 00 00 00 6b 65 79 05 00 00 00 76 61 6c 75 65 6f 10 c6 b9'
>>> read(encode(PUT, b"key", b"value"), 0, 21)
(1, b'key', b'value', 21)

Price: 13 bytes a record.  The CRC-32C of a whole record, its own crc
included, is the constant ``RESIDUE``, so a check needs no cutting.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Buffer = bytes | bytearray | memoryview

PUT, DELETE, BATCH, SEAL, CLEAR, MARKER = range(1, 7)

#: Bytes of a record beyond its key and value.
OVERHEAD = 13
#: The longest key, and the longest value, in bytes.
LONGEST = 0xFFFF_FFFF
#: crc32c(record) of every whole record.
RESIDUE = 0x48674BC7
#: Bytes of a record that may be copied before its crc is known; a damaged length
#: may claim all that is left of the file.
LONG = 1 << 16

HEAD = Struct("<BI")
LENGTH = Struct("<I")
pack_head = HEAD.pack
pack_length = LENGTH.pack
unpack_length = LENGTH.unpack_from


class BadRecord(ValueError):
    """What stands at ``offset`` is no record; ``meaning`` says why."""

    def __init__(self, offset: int, meaning: str) -> None:
        super().__init__(f"at byte {offset}: {meaning}")
        self.offset = offset
        self.meaning = meaning


def _load_crc32c() -> Callable[..., int]:
    """Return ``crc32c.crc32c``, from the package's extension module if found.

    The package's ``__init__`` pulls in ``importlib.metadata`` and
    ``argparse``, which costs more than all the rest of this package.
    """
    if "crc32c" not in sys.modules:
        package = PathFinder.find_spec("crc32c")
        if package is not None and package.submodule_search_locations:
            spec = PathFinder.find_spec("crc32c._crc32c", package.submodule_search_locations)
            if spec is not None and spec.loader is not None:
                module = spec.loader.create_module(spec)
                if module is not None:
                    spec.loader.exec_module(module)
                    return module.crc32c  # type: ignore[no-any-return]  # an untyped extension
    from crc32c import crc32c as function

    return function


#: crc32c(data, crc=0) -> int; passing the crc so far continues it.
crc32c = _load_crc32c()


def encode(op: int, key: bytes, value: bytes) -> bytes:
    """Return the record's bytes.  O(len(key) + len(value)).

    Raises ValueError when the key or the value is longer than ``LONGEST``.
    """
    check_lengths(len(key), len(value))
    body = b"".join((pack_head(op, len(key)), key, pack_length(len(value)), value))
    return body + pack_length(crc32c(body))


def check_lengths(key: int, value: int) -> None:
    """Raise ValueError, naming the limit, for lengths the format cannot hold."""
    for name, length in (("key", key), ("value", value)):
        if length > LONGEST:
            raise ValueError(f"the {name} has {length} bytes; the limit is {LONGEST}")


def crc_of(buffer: Buffer, start: int, end: int) -> int:
    """Return the crc of the bytes from ``start`` to ``end``, few of which are copied at once."""
    crc = 0
    for at in range(start, end, LONG):
        crc = crc32c(bytes(buffer[at : min(end, at + LONG)]), crc)
    return crc


def read(buffer: Buffer, offset: int, end: int) -> tuple[int, bytes, bytes, int]:
    """Return (op, key, value, offset of what follows) of the record at ``offset``.

    ``end`` bounds what may be read.  Raises BadRecord when there is no whole
    and sound record; reads no byte at or past ``end`` and allocates no more
    than the buffer holds, whatever the lengths claim.
    """
    if offset + OVERHEAD > end:
        raise BadRecord(offset, f"expected a record, found {max(end - offset, 0)} bytes to the end")
    op, key_length = HEAD.unpack_from(buffer, offset)
    value_at = offset + 5 + key_length
    if value_at + 8 > end:
        raise BadRecord(offset, f"a key of {key_length} bytes does not fit before the end")
    (value_length,) = unpack_length(buffer, value_at)
    after = value_at + 8 + value_length
    if after > end:
        raise BadRecord(offset, f"a value of {value_length} bytes does not fit before the end")
    if crc_of(buffer, offset, after) != RESIDUE:
        expected, found = crc_of(buffer, offset, after - 4), unpack_length(buffer, after - 4)[0]
        raise BadRecord(offset, f"expected crc {expected:08x}, found {found:08x}")
    record = bytes(buffer[offset:after])
    if not PUT <= op <= MARKER:
        raise BadRecord(offset, f"unknown operation {op}")
    key = record[5 : 5 + key_length]
    return op, key, record[9 + key_length : -4], after
