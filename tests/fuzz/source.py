"""Decisions out of bytes, one after the other; zeros once they are used up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

#: Numbers at which things change: sizes, and the ends of what fields hold.
_EDGES = (
    *(0, 1, 2, 12, 13, 14, 63, 64, 65, 127, 128, 255, 256, 4095, 4096, 4097, 65535, 65536),
    *(2**31, 2**32 - 1, 2**32, 2**40 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1),
)


class Source:
    """Bytes of a fuzzer, taken from the front."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, length: int) -> bytes:
        """Return the next bytes; fewer at the end."""
        part = self._data[self._at : self._at + length]
        self._at += length
        return part

    def rest(self) -> bytes:
        """Return all that is left."""
        return self.take(max(0, len(self._data) - self._at))

    def byte(self) -> int:
        """Return the next byte."""
        return int.from_bytes(self.take(1), "little")

    def number(self, bits: int) -> int:
        """Return a number of so many bits: a small one, one at an edge, or any."""
        kind = self.byte()
        if kind < 96:
            return kind & ((1 << bits) - 1)
        if kind < 192:
            return _EDGES[kind % len(_EDGES)] & ((1 << bits) - 1)
        return int.from_bytes(self.take(bits // 8), "little")

    def near(self, value: int, bits: int) -> int:
        """Return a number near ``value`` as a rule, else any."""
        kind = self.byte()
        if kind < 128:
            return value
        if kind < 192:
            return (value + kind - 160) & ((1 << bits) - 1)
        return self.number(bits)

    def chance(self) -> bool:
        """Return True in one of four cases or so, False once the bytes are used up."""
        return self.byte() & 3 == 3

    def one_of(self, choices: Sequence[T]) -> T:
        """Return one of ``choices``."""
        return choices[self.byte() % len(choices)]

    def string(self, longest: int = 8) -> bytes:
        """Return some bytes."""
        return self.take(self.byte() % (longest + 1))
