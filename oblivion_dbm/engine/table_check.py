"""Checks every byte and every invariant of tables, and of the runs that they make up.

A table that is open does not change, so what is found is so, whoever is at work beside.
"""

from __future__ import annotations

from itertools import pairwise

from oblivion_dbm.engine.finding import Finding, found
from oblivion_dbm.engine.kernel import (
    filter_admits,
    hash_keys,
    index_holds,
    split,
    start_sum,
)
from oblivion_dbm.engine.record import DELETE, LENGTH, OVERHEAD, PUT, RESIDUE, crc32c
from oblivion_dbm.engine.sstable import (
    FENCES,
    FILTER,
    FOOTER,
    GROUP,
    INDEX,
    LENGTHS,
    RECORDS_AT,
    SECTIONS,
    SUMS,
    TAIL,
)
from oblivion_dbm.errors import CorruptionError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from oblivion_dbm.engine.sstable import SSTable
    from oblivion_dbm.engine.version import Run, Version

#: Bytes of records that are looked at together, and slots that are counted at once.
_STRETCH, _SLOTS = 1 << 20, 1 << 15


def check_runs(version: Version, runs: Sequence[Sequence[SSTable | None]]) -> Iterator[Finding]:
    """Yield what is wrong with the tables of ``version``; None stands for one that did not open.

    Constant memory, but for one record at a time.
    """
    newer: SSTable | None = None
    for run, tables in zip(version.runs, runs):
        yield from _check_run(version, run, tables)
        table = next(filter(None, tables), None)
        if table is None:
            continue
        if newer is not None and newer.first_sequence not in (0, table.last_sequence):
            yield _footer(
                newer,
                f"its run begins behind sequence number {newer.first_sequence}, "
                f"the older one ends at {table.last_sequence}",
            )
        if newer is not None and newer.last_sequence < table.last_sequence:
            yield _footer(newer, "its run ends before the older one does")
        newer = table


def _footer(table: SSTable, meaning: str) -> Finding:
    return Finding(table.path, len(table.data) - TAIL.size - FOOTER.size, meaning)


def _check_run(version: Version, run: Run, tables: Sequence[SSTable | None]) -> Iterator[Finding]:
    first = next(filter(None, tables), None)
    last: SSTable | None = None
    for place, (info, table) in enumerate(zip(run.tables, tables)):
        if table is None or first is None:
            last = None
            continue
        facts = [
            ("puts", table.puts, info.puts),
            ("tombstones", table.tombstones, info.tombstones),
            ("hash seed", table.seed, version.seed),
            ("level", table.level, run.level),
            ("part", table.part, place),
            ("parts", table.parts, len(run.tables)),
            ("first sequence number", table.first_sequence, first.first_sequence),
            ("last sequence number", table.last_sequence, first.last_sequence),
        ]
        for name, said, expected in facts:
            if said != expected:
                yield _footer(table, f"expected {name} {expected}, found {said}")
        if table.first_sequence > table.last_sequence:
            yield _footer(table, "its last sequence number comes before the first")
        if last is not None and table.first_key <= last.last_key:
            yield Finding(table.path, RECORDS_AT, "its keys do not follow the table before")
        last = table
        yield from TableCheck(table).findings()


class TableCheck:
    """The check of one table, group by group."""

    def __init__(self, table: SSTable) -> None:
        self._table = table
        self._end = RECORDS_AT
        self._first: bytes | None = None  # key, and the last so far
        self._last: bytes | None = None
        self._tombstones = 0
        self._left_out = 0
        #: Of the shortest and the longest.
        self._key_lengths: list[int] = []
        self._longest = 0
        #: No record's crc was wrong.
        self._sound = True
        self._whole = [True] * len(SECTIONS)

    def findings(self) -> Iterator[Finding]:
        """Yield everything that is wrong."""
        yield from self._check_places()
        for section, blocks in enumerate(self._table.checked):
            for block in range(len(blocks)):
                try:
                    self._table.check_block(section, block)
                except CorruptionError as problem:  # noqa: PERF203 - each damaged one is told of
                    self._whole[section] = False
                    yield found(problem, self._table.path)
        if not self._whole[LENGTHS] or not self._whole[FENCES]:
            return  # nobody knows where records begin
        for group in range((len(self._table) + GROUP - 1) // GROUP):
            yield from self._check_group(group)
        if self._sound:
            yield from self._check_totals()

    def _finding(self, offset: int, meaning: str) -> Finding:
        return Finding(self._table.path, offset, meaning)

    def _check_places(self) -> Iterator[Finding]:
        """Check that the parts follow each other, with zeros in between."""
        table, data = self._table, self._table.data
        footer_at = len(data) - TAIL.size - FOOTER.size
        *begins, crcs_at, crcs_end = FOOTER.unpack(data[footer_at : -TAIL.size])[13:20]
        ends = [begin + size for begin, size in zip(begins, table.sizes)]
        keys_at = footer_at - len(table.first_key) - len(table.last_key)
        names = [*SECTIONS, "crcs"]
        for name, end, begin in zip(names, [table.records_end, *ends], [*begins, crcs_at]):
            if not 0 <= begin - end < 8 or begin % 8:
                yield self._finding(footer_at, f"expected {name} behind byte {end}, not at {begin}")
            elif any(data[end:begin]):
                yield self._finding(end, f"bytes before the {name} that are not zero")
        if crcs_end != keys_at:
            yield self._finding(footer_at, f"expected the first key at {crcs_end}, not {keys_at}")

    # Records.

    def _check_group(self, group: int) -> Iterator[Finding]:
        table = self._table
        ends = table.ends(group * GROUP, min((group + 1) * GROUP, len(table)))
        if ends[0] != self._end:
            yield self._finding(self._end, "lengths and fences do not agree")
        self._end = ends[-1]
        if self._end > table.records_end:
            self._sound = False
            yield self._finding(ends[0], "records beyond the end of the records")
            return
        sound = True
        for first, last in _stretches(ends):
            part = ends[first : last + 1]
            for begin, end in pairwise(part):
                if crc32c(table.data[begin:end]) != RESIDUE:
                    sound = False
                    yield self._finding(begin, "a record's crc does not match")
            if sound:
                yield from self._check_records(*split(table.data, part, checked=True), part)
        self._sound = self._sound and sound
        if sound and self._whole[SUMS] and self._sum(group, ends) != table.sums[group]:
            yield self._finding(ends[0], "the sum of a group does not match its records")

    def _sum(self, group: int, ends: list[int]) -> int:
        """Return the sum of a group's bytes, of which some at a time are in memory."""
        total: Any = start_sum(self._table.info.number, group)
        for at in range(ends[0], ends[-1], _STRETCH):
            total.update(self._table.data[at : min(ends[-1], at + _STRETCH)])
        return int(total.intdigest())

    def _check_records(
        self, keys: list[bytes], records: list[bytes], offsets: list[int]
    ) -> Iterator[Finding]:
        """Check form and order of sound records, and that index and filter lead to them."""
        for key, record, offset in zip(keys, records, offsets):
            if self._last is None:
                self._first = key
            elif key <= self._last:
                yield self._finding(offset, "the keys are not in order")
            self._last = key
            if record[0] not in (PUT, DELETE):
                yield self._finding(offset, f"operation {record[0]} in a table")
            elif not _is_formed(record, len(key)):
                yield self._finding(offset, "lengths in a record that do not fill it")
        yield from self._check_ways(keys, offsets)
        self._tombstones += sum(record[0] == DELETE for record in records)
        lengths = [*self._key_lengths, *map(len, keys)]
        self._key_lengths = [min(lengths), max(lengths)]
        self._longest = max(self._longest, *map(len, records))

    def _check_ways(self, keys: list[bytes], offsets: list[int]) -> Iterator[Finding]:
        """Check that index and filter, where they are whole, lead to the keys."""
        table = self._table
        for digest, offset in zip(hash_keys(keys, table.seed), offsets):
            held = index_holds(table.slots, table.slot_count, digest, offset)
            self._left_out += held is None
            if held is False and self._whole[INDEX]:
                yield self._finding(offset, "the index does not lead to this record")
            if self._whole[FILTER] and not filter_admits(table.words, table.slot_count, digest):
                yield self._finding(offset, "the filter does not admit this key")

    # What the footer says of all of them.

    def _check_totals(self) -> Iterator[Finding]:
        table = self._table
        fields = FOOTER.unpack(table.data[-TAIL.size - FOOTER.size : -TAIL.size])
        facts: list[tuple[str, Any, Any]] = [
            ("tombstones", self._tombstones, table.tombstones),
            ("end of the records", self._end, table.records_end),
            ("first key", self._first, table.first_key),
            ("last key", self._last, table.last_key),
            ("lengths of keys", self._key_lengths, [*fields[-4:-2]]),
            ("bytes of a length", _width(self._longest), fields[10]),
        ]
        if self._whole[INDEX]:
            facts.append(("slots in use", self._used(), len(table) - self._left_out))
        for name, so, said in facts:
            if so != said:
                yield _footer(table, f"expected {name} {so!r:.99}, found {said!r:.99}")

    def _used(self) -> int:
        """Return how many slots of the index are not empty."""
        slots = self._table.slots
        parts = (slots[at : at + _SLOTS].tolist() for at in range(0, len(slots), _SLOTS))
        return sum(len(part) - part.count(0) for part in parts)


def _stretches(ends: list[int]) -> Iterator[tuple[int, int]]:
    """Yield (first, last + 1) of records of a group that are looked at together."""
    first = 0
    for place in range(1, len(ends)):
        if place + 1 == len(ends) or ends[place + 1] - ends[first] > _STRETCH:
            yield first, place
            first = place


def _is_formed(record: bytes, key_length: int) -> bool:
    """Tell whether the lengths in a record are those of its parts."""
    if len(record) < OVERHEAD + key_length:
        return False
    (value_length,) = LENGTH.unpack_from(record, 5 + key_length)
    if record[0] == DELETE and value_length:
        return False
    return len(record) == OVERHEAD + key_length + int(value_length)


def _width(longest: int) -> int:
    """Return how many bytes of a length are enough for the longest record."""
    return 2 if longest < 1 << 16 else 4 if longest < 1 << 32 else 8
