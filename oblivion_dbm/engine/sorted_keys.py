"""Keys in order, as a value: taking in more keys gives another one.

Whoever walks one is thus not disturbed by whoever makes the next, and two
threads that make the same one at once need no lock.  The keys lie in parts of
some hundreds, which the next one shares where nothing is new in them.

No step in C takes long, so that other threads get the interpreter in between:
``sorted`` of 130,000 keys would keep it for 40 ms.  Keys are sorted in slices,
each slice is cut where the parts begin, and each part is merged from its cuts
(a sample sort; ``sorted`` merges what is sorted in linear time).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from itertools import chain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

#: Keys that are sorted at once, about what a part holds, and the most it holds.
SLICE, PART, LARGEST_PART = 4096, 512, 1024
#: How many keys are looked at for each boundary between parts.
SAMPLE = 8


class SortedKeys:
    """Distinct keys in ascending order; nothing changes one.

    >>> few = SortedKeys().with_keys([b"b", b"a"])
    >>> list(few.with_keys([b"c"])), list(few)
    ([b'a', b'b', b'c'], [b'a', b'b'])
    """

    __slots__ = ("_lasts", "_parts", "_size")

    def __init__(self) -> None:
        self._parts: list[list[bytes]] = []
        self._lasts: list[bytes] = []
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        return chain.from_iterable(self._parts)

    def with_keys(self, keys: list[bytes]) -> SortedKeys:
        """Return all of these and ``keys``, none of which is here.

        O(m log m) for m keys, and O(n / 512) for the n that are here; where m is
        no less than n / 2, O(n) to divide them anew.
        """
        if not keys:
            return self
        other = SortedKeys()
        other._size = self._size + len(keys)
        if len(keys) == 1 and self._size:
            other._parts, other._lasts = self._with_key(keys[0])
            return other
        runs = [sorted(keys[start : start + SLICE]) for start in range(0, len(keys), SLICE)]
        lasts, parts = self._lasts, self._parts
        if 2 * len(keys) >= self._size:
            runs += self._parts
            lasts = _bounds(runs)
            parts = [[]] * len(lasts)
        other._parts = _fill(lasts, parts, runs)
        other._lasts = [part[-1] for part in other._parts]
        return other

    def _with_key(self, key: bytes) -> tuple[list[list[bytes]], list[bytes]]:
        """Return the parts and their last keys with one key more; what a loop of popitem does."""
        place = min(bisect_left(self._lasts, key), len(self._lasts) - 1)
        part = [*self._parts[place]]
        insort(part, key)
        halves = [part] if len(part) <= LARGEST_PART else [part[:PART], part[PART:]]
        parts, lasts = [*self._parts], [*self._lasts]
        parts[place : place + 1] = halves
        lasts[place : place + 1] = [half[-1] for half in halves]
        return parts, lasts

    def parts(
        self, start: bytes | None, stop: bytes | None, reverse: bool
    ) -> Iterator[list[bytes]]:
        """Yield the keys of [start, stop) in lists that ascend; in reverse the lists descend."""
        first = 0 if start is None else bisect_left(self._lasts, start)
        last = len(self._parts) if stop is None else bisect_left(self._lasts, stop) + 1
        places = range(first, min(last, len(self._parts)))
        for place in reversed(places) if reverse else places:
            part = self._parts[place]
            low = 0 if start is None else bisect_left(part, start)
            high = len(part) if stop is None else bisect_left(part, stop)
            if low < high:
                yield part[low:high]


def _bounds(runs: list[list[bytes]]) -> list[bytes]:
    """Return the last keys of parts that will be of about the same size."""
    step = max(1, PART // SAMPLE)
    sample = sorted(key for run in runs for key in run[step - 1 :: step])
    return [*sample[SAMPLE - 1 : -1 : SAMPLE], max(run[-1] for run in runs)]


def _fill(
    lasts: list[bytes], parts: list[list[bytes]], runs: list[list[bytes]]
) -> list[list[bytes]]:
    """Return ``parts``, which end with ``lasts``, with the keys of all ``runs`` in their places."""
    cuts: dict[int, list[list[bytes]]] = {}
    for run in runs:
        at = 0
        while at < len(run):
            place = min(bisect_left(lasts, run[at]), len(lasts) - 1)
            end = len(run) if place == len(lasts) - 1 else bisect_right(run, lasts[place], at)
            cuts.setdefault(place, []).append(run[at:end])
            at = end
    filled = []
    for place, part in enumerate(parts):
        if place not in cuts:
            filled.append(part)
            continue
        whole = sorted(sum(cuts[place], part))
        size = len(whole) if len(whole) <= LARGEST_PART else PART
        filled += [whole[start : start + size] for start in range(0, len(whole), size)]
    return filled
