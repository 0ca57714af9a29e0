"""The one bit of a record that is wrong, found by its CRC-32C.

Each single bit changes the crc in a way of its own, which depends on how far it is from
the end.  That a record checks once the bit is changed is no proof: any damage may look
like one bit, one time in some millions.  The caller has to know more.
"""

from __future__ import annotations

from oblivion_dbm.engine.record import RESIDUE, crc32c

#: What the last byte changes in the crc, by what is changed in it; and that by its top byte.
_CHANGES = [crc32c(bytes([byte])) ^ crc32c(b"\0") for byte in range(256)]
_BYTES = {change >> 24: byte for byte, change in enumerate(_CHANGES)}
_BITS = {_CHANGES[1 << bit]: 1 << bit for bit in range(8)}
#: Bytes of the longest record that is looked at: 2 ms.
LONGEST = 1 << 14


def corrected(record: bytes) -> bytes | None:
    """Return a record with the bit changed that makes its crc match; None: there is none.

    >>> from oblivion_dbm.engine.record import PUT, encode
    >>> record = encode(PUT, b"sky", b"blue")
    >>> corrected(record.replace(b"blue", b"glue")), corrected(record.replace(b"blue", b"grey"))
    (None, None)
    >>> corrected(record.replace(b"blue", b"blwe")) == record
    True

    O(bytes).
    """
    change = crc32c(record) ^ RESIDUE
    if len(record) > LONGEST:
        return None
    for at in range(len(record) - 1, -1, -1):
        bit = _BITS.get(change)
        if bit is not None:
            return record[:at] + bytes([record[at] ^ bit]) + record[at + 1 :]
        # Undo what the byte at ``at`` did to a change that came before it.
        byte = _BYTES[change >> 24]
        change = (change ^ _CHANGES[byte]) << 8 & 0xFFFF_FFFF | byte
    return None
