"""Ranges of keys: joined, and keys divided by them.

A range is its first key and the first key above it, None where there is none.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    #: The first key of a range, and the first one above it; None: there is none.
    Range = tuple[bytes, bytes | None]


def joined(ranges: Iterable[Range]) -> list[Range]:
    """Return the union of ranges, in order, none touching the next.

    >>> joined([(b"c", b"d"), (b"a", b"b"), (b"a", b"c"), (b"x", None), (b"y", b"z")])
    [(b'a', b'd'), (b'x', None)]
    """
    union: list[Range] = []
    for start, stop in sorted(ranges, key=_start):
        if union and (union[-1][1] is None or start <= union[-1][1]):
            last = union[-1][1]
            if last is not None and (stop is None or stop > last):
                union[-1] = union[-1][0], stop
        else:
            union.append((start, stop))
    return union


def divided(keys: Sequence[bytes], ranges: Sequence[Range]) -> Iterator[tuple[int, int, bool]]:
    """Yield (low, high, within) of the stretches of ascending keys in ``ranges`` and between.

    ``ranges`` is as ``joined`` returns it.  O(log n) for each stretch.

    >>> list(divided([b"a", b"b", b"c", b"d"], [(b"b", b"c"), (b"cc", None)]))
    [(0, 1, False), (1, 2, True), (2, 3, False), (3, 4, True)]
    """
    low, place = 0, max(0, bisect_right(ranges, keys[0], key=_start) - 1) if keys else 0
    while low < len(keys):
        if place == len(ranges):
            yield low, len(keys), False
            return
        start, stop = ranges[place]
        begin = bisect_left(keys, start, low)
        end = len(keys) if stop is None else bisect_left(keys, stop, begin)
        if begin > low:
            yield low, begin, False
        if end > begin:
            yield begin, end, True
        low, place = end, place + 1


def _start(each: Range) -> bytes:
    return each[0]
