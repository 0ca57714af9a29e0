"""What a scan yields, out of records or straight out of a table's bytes."""

from __future__ import annotations

from itertools import pairwise

from oblivion_dbm.engine.record import PUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any


def pairs(keys: Iterable[bytes], records: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
    """Return (key, value) of the records that are not tombstones."""
    return [
        (key, record[9 + len(key) : -4]) for key, record in zip(keys, records) if record[0] == PUT
    ]


def live_keys(keys: Iterable[bytes], records: Iterable[bytes]) -> list[bytes]:
    """Return the keys whose records are not tombstones."""
    return [key for key, record in zip(keys, records) if record[0] == PUT]


def live_values(keys: Iterable[bytes], records: Iterable[bytes]) -> list[bytes]:
    """Return the values of the records that are not tombstones."""
    return [record[9 + len(key) : -4] for key, record in zip(keys, records) if record[0] == PUT]


def cut_pairs(data: Any, ends: list[int], key_length: int) -> list[tuple[bytes, bytes]]:
    """Cut (key, value) out of checked records that are puts with keys of one length."""
    key_end, value_at = 5 + key_length, 9 + key_length
    return [
        (data[start + 5 : start + key_end], data[start + value_at : end - 4])
        for start, end in pairwise(ends)
    ]


def cut_keys(data: Any, ends: list[int], key_length: int) -> list[bytes]:
    """Cut the keys out of checked records that are puts with keys of one length."""
    key_end = 5 + key_length
    return [data[start + 5 : start + key_end] for start in ends[:-1]]


def cut_values(data: Any, ends: list[int], key_length: int) -> list[bytes]:
    """Cut the values out of checked records that are puts with keys of one length."""
    value_at = 9 + key_length
    return [data[start + value_at : end - 4] for start, end in pairwise(ends)]


class Shape:
    """What a scan yields.

    ``take`` makes it of (keys, records), ``cut`` straight of a table's bytes.
    """

    __slots__ = ("cut", "take")

    def __init__(self, take: Callable[..., list[Any]], cut: Callable[..., list[Any]]) -> None:
        self.take = take
        self.cut = cut


SHAPES = {
    "pairs": Shape(pairs, cut_pairs),
    "keys": Shape(live_keys, cut_keys),
    "values": Shape(live_values, cut_values),
}
