"""What goes in as a key or a value: str and bytes-likes, made exact bytes."""

from __future__ import annotations

from oblivion_dbm.engine.record import LONGEST

TYPE_CHECKING = False
if TYPE_CHECKING:
    Bytes = str | bytes | bytearray | memoryview


def to_bytes(given: Bytes, name: str) -> bytes:
    """Return ``given`` as exact bytes; ``name`` says what it is, for the error.

    Raises TypeError for anything but str, bytes, bytearray and memoryview, and
    ValueError for more than 4,294,967,295 bytes.
    """
    if isinstance(given, str):
        return given.encode("utf-8")
    if isinstance(given, memoryview):
        length = given.nbytes
    elif isinstance(given, (bytes, bytearray)):
        length = len(given)
    else:
        raise TypeError(f"{name}s are str or bytes-like, not {type(given).__name__}")
    if length > LONGEST:
        raise ValueError(f"the {name} has {length} bytes; the limit is {LONGEST}")
    return bytes(given)


def after_prefix(prefix: bytes) -> bytes | None:
    """Return the smallest key above all that begin with ``prefix``; None: there is none."""
    shorter = prefix.rstrip(b"\xff")
    return shorter[:-1] + bytes([shorter[-1] + 1]) if shorter else None


def to_bound(given: Bytes | None) -> bytes | None:
    """Return the bound of a range as ``to_bytes`` does, None for no bound."""
    return None if given is None else to_bytes(given, "key")
