"""Merging: one ordered stream of chunks out of several, the newest winning.

A *source* is an iterator of (keys, records), each chunk in ascending order;
forward the chunks ascend, in reverse they descend.  Reads and compaction share
this.  The work is done a chunk at a time with what CPython does in C: take
from each source all keys up to the smallest last key, let a dict keep the
newest, sort.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from oblivion_dbm.engine.kernel import combine
from oblivion_dbm.engine.record import DELETE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Chunk = tuple[list[bytes], list[bytes]]

#: Records in the first and in the largest chunk that a source is asked for.
FIRST_CHUNK, LARGEST_CHUNK = 16, 512


def growing_sizes(first: int = FIRST_CHUNK) -> Iterator[int]:
    """Yield chunk sizes that double: a look at one key is cheap, a long scan fast."""
    size = first
    while True:
        yield size
        size = min(2 * size, LARGEST_CHUNK)


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
