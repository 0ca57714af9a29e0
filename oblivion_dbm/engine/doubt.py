"""Merging runs that have gaps, so that nothing overwritten or deleted comes back.

A gap in a run may have hidden a newer record, or a tombstone, of a key in it.  So
what an older run holds there is *doubtful*: it may be old, or deleted.  Only where
the index of the damaged table checks, and leads from the key to no place in the
gap, nothing was hidden.  What stands in the gap and is only likely to be the run's
own is doubtful, too.  A record that nothing may have hidden is *certain*.

Where a key has records of both kinds the certain one is the newer, since the gap
lies in a run between them; so all certain records are merged above all doubtful
ones, and a doubtful record that is left over is the newest that is known of its key.
"""

from __future__ import annotations

from itertools import compress

from oblivion_dbm.engine.merge import LARGEST_CHUNK, in_order, merge
from oblivion_dbm.engine.record import DELETE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from oblivion_dbm.engine.damaged_run import DamagedRun
    from oblivion_dbm.engine.merge import Chunk
    from oblivion_dbm.engine.table_walk import Part


class _Doubtful:
    """A doubtful record and where it lies; takes a record's place while chunks are merged."""

    __slots__ = ("file", "offset", "record")

    def __init__(self, file: str, offset: int, record: bytes) -> None:
        self.file = file
        self.offset = offset
        self.record = record


def live_chunks(
    records: dict[bytes, bytes],
    runs: Sequence[DamagedRun],
    take: Callable[[str, int, bytes], bool],
) -> Iterator[Chunk]:
    """Yield all that is certain of ``records`` over ``runs``, newest first, without tombstones.

    ``take(file, offset, record)`` is asked of each doubtful put that nothing
    newer is known of, and tells whether it counts.  Each run is read once, and
    once more where it or a newer one has gaps; constant memory.
    """
    certain, doubtful = [_in_order(records)], []
    newer: list[DamagedRun] = []
    for run in runs:
        if run.outer is not None:
            doubtful.append(_doubtful_of(run.chunks(), [run.outer]))
            doubtful.append(_doubtful_of(run.chunks(likely=True), [run.outer]))
            continue
        certain.append(_certain_of(run, tuple(newer)))
        if newer:
            doubtful.append(_doubtful_of(run.chunks(), tuple(newer)))
        if not run.is_complete:
            doubtful.append(_doubtful_of(run.chunks(likely=True), None))
            newer.append(run)
    for keys, found in merge([*certain, *doubtful]):
        pairs = [
            (key, record)
            for key, record in ((key, _counted(each, take)) for key, each in zip(keys, found))
            if record and record[0] != DELETE
        ]
        if pairs:
            yield [key for key, _ in pairs], [record for _, record in pairs]


def _counted(each: object, take: Callable[[str, int, bytes], bool]) -> bytes:
    """Return the record that counts; none, b"", for one that is doubtful and not taken."""
    if isinstance(each, bytes):
        return each
    assert isinstance(each, _Doubtful)
    put = each.record[0] != DELETE
    return each.record if put and take(each.file, each.offset, each.record) else b""


def _in_order(records: dict[bytes, bytes]) -> Iterator[Chunk]:
    for keys in in_order(records, lambda _: None):
        for start in range(0, len(keys), LARGEST_CHUNK):
            part = keys[start : start + LARGEST_CHUNK]
            yield part, [records[key] for key in part]


def _hidden(keys: list[bytes], newer: Sequence[DamagedRun]) -> list[bool]:
    """Tell of each key whether one of the newer runs may have hidden a record of it."""
    return [any(each) for each in zip(*(run.hidden(keys) for run in newer))]


def _certain_of(run: DamagedRun, newer: Sequence[DamagedRun]) -> Iterator[Chunk]:
    for _, keys, records, _ in run.chunks():
        hidden = _hidden(keys, newer)
        if True not in hidden:
            yield keys, records
        elif False in hidden:
            sure = [not each for each in hidden]
            yield list(compress(keys, sure)), list(compress(records, sure))


def _doubtful_of(parts: Iterable[Part], newer: Sequence[DamagedRun] | None) -> Iterator[Chunk]:
    """Yield what the newer runs may hide of ``parts``; all of it where there are None."""
    for file, keys, records, offsets in parts:
        hidden = [True] * len(keys) if newer is None else _hidden(keys, newer)
        if True in hidden:
            found = compress(zip(offsets, records), hidden)
            marked: list[object] = [_Doubtful(file, at, record) for at, record in found]
            yield list(compress(keys, hidden)), marked  # type: ignore[misc]  # merged by key alone
