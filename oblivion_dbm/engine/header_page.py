"""The header page of a log segment: 4,096 bytes before the records.

::

      0  magic "oblivwal" | format u32 | checksum kind u32 (1: CRC-32C)
         | store id 16 bytes | number u64 | first sequence u64
         | end of prelude u64 | boot id 16 bytes
         | visibility u32 (1: readers see what is synced) | crc u32
    128  the end of the segment before: number u64 | length u64
         | running crc u32 | crc u32             (zeros while it is being written)
    160  first sequence u64 | crc u32            (instead of the header's, if not zeros)
    176  the sum of the segment before u64 | crc u32
    192  appended-up-to u64
    208  ended-at u64, bit 63 set | crc u32      (zeros until the writer has closed)
    224  the sum up to there u64 | crc u32
    512  synced-up-to u64, bit 63 set | running crc u32 | crc u32 | sum u64 | crc u32
   1024  synced-up-to, the other slot

Each crc is the complement of that of the bytes before it in its field, so that
zeros do not check; the last one of a slot leaves the first one out.  A *sum* is
the XXH64 of the bytes from 4,096 on under the first crc as the seed.  The
running crc alone would not do: that of records which end with their own depends
on their lengths, and not on what they say or which comes first.  A sum of zero
was not made.

>>> pack_header(bytes(16), 7, (0, 4096), bytes(16), 0)[:20].hex(" ")
'6f 62 6c 69 76 77 61 6c 01 00 00 00 01 00 00 00 00 00 00 00'
>>> len(pack_slot(4096, 7, 8)), read_slot(bytes(512) + pack_slot(4096, 7, 8), 512)
(28, (4096, 7, 8))
"""

from __future__ import annotations

from struct import Struct

from oblivion_dbm.engine.record import crc32c

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    #: A position, the running crc and the sum of the bytes below it.
    Mark = tuple[int, int, int]

MAGIC = b"oblivwal"
FORMAT = 1
CRC_32C = 1
#: Where the page ends and the records begin.
DATA_AT = 4096

HEADER = Struct("<8sII16sQQQ16sII")
APPENDED = Struct("<Q")
APPENDED_AT = 192
CHAIN = Struct("<QQII")
CHAIN_AT = 128
#: A position, a sequence number, a sum.
NUMBER = Struct("<QI")
SEQUENCE_AT = 160
CHAIN_SUM_AT = 176
ENDED_AT = 208
ENDED_SUM_AT = 224
#: Set in a position that is stored last, so that no single byte that is zeroed makes it
#: look as if it was not stored yet.
_STORED = 1 << 63
_MARK = Struct("<QII")
_SUMMED = Struct("<QIQI")
_SUMMED_AT = 12
SLOT_SIZE = _MARK.size + _SUMMED.size - _SUMMED_AT
SLOTS_AT = (512, 1024)
#: Where each field, or several without a gap, begins and ends; all else is zero.
FIELDS = (
    (0, HEADER.size),
    (CHAIN_AT, CHAIN_AT + CHAIN.size),
    (SEQUENCE_AT, SEQUENCE_AT + NUMBER.size),
    (CHAIN_SUM_AT, CHAIN_SUM_AT + NUMBER.size),
    (APPENDED_AT, APPENDED_AT + APPENDED.size),
    (ENDED_AT, ENDED_AT + NUMBER.size),
    (ENDED_SUM_AT, ENDED_SUM_AT + NUMBER.size),
    *((at, at + SLOT_SIZE) for at in SLOTS_AT),
)


def sealed(values: Struct, *fields: Any) -> bytes:
    """Pack ``fields`` and the crc of what they become; a crc is never all zeros there."""
    body = values.pack(*fields, 0)[:-4]
    return body + (crc32c(body) ^ 0xFFFF_FFFF).to_bytes(4, "little")


def unsealed(values: Struct, data: bytes) -> tuple[Any, ...] | None:
    """Return the fields that ``sealed`` packed, None if they do not check."""
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
    return sealed(
        HEADER,
        MAGIC,
        FORMAT,
        CRC_32C,
        store_id,
        number,
        *sequences,
        boot,
        visibility,
    )


def pack_number(number: int) -> bytes:
    """Return a field that holds one number and its crc."""
    return sealed(NUMBER, number)


def pack_end(position: int) -> bytes:
    """Return what says where the log has ended; the first eight bytes are to be stored last."""
    return sealed(NUMBER, position | _STORED)


def read_end(field: bytes) -> int | None:
    """Return where the log has ended; None where nothing says so, or what does not check."""
    fields = unsealed(NUMBER, field)
    return None if fields is None else int(fields[0]) & ~_STORED


def pack_slot(position: int, running: int, total: int) -> bytes:
    """Return a slot of synced-up-to: a position, the running crc and the sum up to there.

    The first eight bytes are to be zeroed first, and stored last: a kill must not leave
    the position of one sync with the sum of another.  The second crc does not cover the
    first: a crc over bytes and their own crc is the same whatever the bytes are.
    """
    mark = sealed(_MARK, position | _STORED, running)
    return mark + sealed(_SUMMED, position | _STORED, running, total)[_SUMMED_AT:]


def read_slot(page: Any, at: int) -> tuple[int, int, int] | None:
    """Return what ``pack_slot`` packed, None if it does not check; a sum of 0 was not made."""
    data = page[at : at + SLOT_SIZE]
    mark = unsealed(_MARK, data[: _MARK.size])
    if mark is None:
        return None
    position, running = mark[0] & ~_STORED, mark[1]
    if not any(data[_MARK.size :]):
        return position, running, 0
    fields = unsealed(_SUMMED, data[:_SUMMED_AT] + data[_MARK.size :])
    return None if fields is None else (position, running, fields[2])


def is_being_stored(page: Any, at: int) -> bool:
    """Tell whether a slot is what its writer, or a kill, leaves while it is being stored."""
    return not any(page[at : at + 8])
