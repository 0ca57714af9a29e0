"""Merging: one ordered stream of chunks out of several, the newest winning.

A *source* is an iterator of (keys, records), each chunk in ascending order;
forward the chunks ascend, in reverse they descend.  Reads and compaction share
this.  The work is done a chunk at a time with what CPython does in C: take
from each source all keys up to the smallest last key, let a dict keep the
newest, sort.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from errno import EIO
from itertools import cycle, islice

from oblivion_dbm.engine.kernel import combine
from oblivion_dbm.engine.record import DELETE
from oblivion_dbm.errors import error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Chunk = tuple[list[bytes], list[bytes]]

#: Records in the first and in the largest chunk that a source is asked for.
FIRST_CHUNK, LARGEST_CHUNK = 16, 512
#: Keys that are sorted at once; one of how many is in the sample that pivots are
#: taken from; and one of how many of those is a pivot.
_SORTED_AT_ONCE, _SAMPLED, _PIVOTS = 4096, 128, 32


def growing_sizes(first: int = FIRST_CHUNK) -> Iterator[int]:
    """Yield chunk sizes that double: a look at one key is cheap, a long scan fast."""
    size = first
    while True:
        yield size
        size = min(2 * size, LARGEST_CHUNK)


def in_order(keys: Iterable[bytes], pace: Callable[[int], None]) -> Iterator[list[bytes]]:
    """Yield distinct keys in ascending lists of a few thousand, ``pace(0)`` between two steps.

    Sorted pieces are cut at pivots out of a sample of all (sample sort, Frazer and
    McKellar 1970), so no step sorts more than some thousand keys; O(n log n).
    """
    # Tuples, since the garbage collector passes over each of them once only.
    pieces, rest = [], iter(keys)
    while piece := tuple(sorted(islice(rest, _SORTED_AT_ONCE))):
        pieces.append(piece)
        pace(0)
    pivots: list[bytes] = []
    if len(pieces) > 1:
        # Not from the same place on in each piece: all would run out together.
        phases = zip(pieces, cycle(range(0, _SAMPLED, _SAMPLED // 16)))
        sample = [key for piece, phase in phases for key in piece[phase::_SAMPLED]]
        pivots = [key for part in in_order(sample, pace) for key in part][_PIVOTS::_PIVOTS]
    begins = [0] * len(pieces)
    for pivot in [*pivots, None]:
        merged: list[bytes] = []
        for place, piece in enumerate(pieces):
            end = len(piece) if pivot is None else bisect_left(piece, pivot, begins[place])
            merged += piece[begins[place] : end]
            begins[place] = end
        pace(0)
        merged.sort()
        yield merged
    while pieces:
        pieces.pop()
        pace(0)


def merge(sources: Iterable[Iterator[Chunk]], reverse: bool = False) -> Iterator[Chunk]:
    """Yield the merged chunks of ``sources``, which stand newest first.

    Tombstones are passed on.  About 0.7 µs a record where sources overlap,
    and nothing where one source is left.
    """
    live: list[Iterator[Chunk]] = []
    heads: list[Chunk] = []
    for source in sources:
        head = next(source, None)
        if head is not None:
            live.append(source)
            heads.append(head)
    while len(live) > 1:
        if reverse:
            bound = max(keys[0] for keys, _ in heads)
        else:
            bound = min(keys[-1] for keys, _ in heads)
        parts = []
        for place in reversed(range(len(live))):
            part, left = cut(*heads[place], bound, reverse)
            parts.append(part)
            following = left if left[0] else next(live[place], None)
            if following is None:
                del live[place], heads[place]
            else:
                heads[place] = following
        parts.reverse()
        if not any(keys for keys, _ in parts):  # else this would go on for ever
            raise error(EIO, "the keys of a table are not in order; verify() tells of which")
        yield combine(parts)
    if live:
        yield heads[0]
        yield from live[0]


def cut(
    keys: list[bytes], records: list[bytes], bound: bytes, reverse: bool
) -> tuple[tuple[list[bytes], list[bytes]], tuple[list[bytes], list[bytes]]]:
    """Cut a chunk at ``bound`` into (what comes first, what is left).

    Forward, what comes first has keys <= bound; in reverse, keys >= bound.
    Both parts stay in ascending order.
    """
    at = bisect_left(keys, bound) if reverse else bisect_right(keys, bound)
    below, above = (keys[:at], records[:at]), (keys[at:], records[at:])
    return (above, below) if reverse else (below, above)


def without_tombstones(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """Yield the chunks with their tombstones left out; none is empty."""
    for keys, records in chunks:
        kept = [place for place, record in enumerate(records) if record[0] != DELETE]
        if len(kept) == len(records):
            yield keys, records
        elif kept:
            yield [keys[place] for place in kept], [records[place] for place in kept]
