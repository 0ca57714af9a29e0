"""Verify: every byte and every invariant of a store, without changing anything."""

from __future__ import annotations

from oblivion_dbm.engine.filenames import MANIFEST
from oblivion_dbm.engine.filesystem import FileSystem
from oblivion_dbm.engine.kernel import filter_admits, hash_keys, index_holds
from oblivion_dbm.engine.manifest import load
from oblivion_dbm.engine.record import DELETE, PUT
from oblivion_dbm.engine.recovery import Recovery
from oblivion_dbm.engine.sstable import FENCES, FILTER, INDEX, LENGTHS, RECORDS_AT, SUMS, SSTable
from oblivion_dbm.engine.tree import Tree
from oblivion_dbm.errors import CorruptionError, error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from oblivion_dbm.engine.version import Run, TableInfo, Version

_STRIDE = 1024


class Finding:
    """Something that is wrong: ``file``, ``offset`` in it, and what it means."""

    __slots__ = ("file", "meaning", "offset")

    def __init__(self, file: str, offset: int, meaning: str) -> None:
        self.file = file
        self.offset = offset
        self.meaning = meaning

    def __repr__(self) -> str:
        return f"{self.file}: byte {self.offset}: {self.meaning}"


def verify(directory: str, filesystem: FileSystem | None = None) -> list[Finding]:
    """Return what is wrong with the store in ``directory``; [] when nothing is.

    Reads everything once: O(store), in constant memory but for the log's
    records.  Raises ``error`` where there is no store at all.
    """
    filesystem = filesystem or FileSystem()
    while True:
        try:
            version = load(filesystem, directory)
        except CorruptionError as problem:
            return [_found(directory, problem)]
        findings = list(_check_version(filesystem, directory, version))
        if not findings or load(filesystem, directory) == version:
            return findings
        # A writer has moved on meanwhile, and its old files are gone.


def _check_version(filesystem: FileSystem, directory: str, version: Version) -> Iterator[Finding]:
    try:
        Recovery(filesystem, directory, version, readable_only=True).close()
    except error as problem:
        yield _found(directory, problem)
    damaged = False
    for run in version.runs:
        for finding in _check_run(filesystem, directory, version, run):
            damaged = True
            yield finding
    if not damaged and version.live is not None:
        try:
            live = Tree(filesystem, directory, version.replace(live=None)).base_count()
        except error as problem:  # a writer has moved on: its old files are gone
            yield _found(directory, problem)
            return
        if live != version.live:
            path = filesystem.join(directory, MANIFEST)
            yield Finding(path, 0, f"expected {live} live keys, found {version.live}")


def _found(path: str, problem: error) -> Finding:
    if isinstance(problem, CorruptionError):
        return Finding(problem.filename, problem.offset, problem.meaning)
    return Finding(str(problem.filename or path), 0, problem.strerror or str(problem))


def _check_run(
    filesystem: FileSystem, directory: str, version: Version, run: Run
) -> Iterator[Finding]:
    last: bytes | None = None
    for place, info in enumerate(run.tables):
        try:
            table = SSTable(filesystem, directory, info, bytes.fromhex(version.store_id))
        except error as problem:
            yield _found(directory, problem)
            continue
        try:
            yield from _check_footer(table, info, version, run, place)
            if last is not None and table.first_key <= last:
                yield Finding(table.path, RECORDS_AT, "its keys do not follow the table before")
            last = table.last_key
            yield from _check_table(table)
        except CorruptionError as problem:
            yield _found(directory, problem)
        finally:
            table.close()


def _check_footer(
    table: SSTable, info: TableInfo, version: Version, run: Run, place: int
) -> Iterator[Finding]:
    facts = (
        ("puts", table.puts, info.puts),
        ("tombstones", table.tombstones, info.tombstones),
        ("hash seed", table.seed, version.seed),
        ("level", table.level, run.level),
        ("part", table.part, place),
        ("parts", table.parts, len(run.tables)),
    )
    for name, found, expected in facts:
        if found != expected:
            yield Finding(table.path, info.size, f"expected {name} {expected}, found {found}")


def _check_table(table: SSTable) -> Iterator[Finding]:
    """Check blocks, records, order, counts, index and filter of one table."""
    for section in (LENGTHS, FENCES, SUMS, INDEX, FILTER):
        for block in range(len(table.checked[section])):
            table.check_block(section, block)
    offset, tombstones = RECORDS_AT, 0
    ends: list[bytes] = []
    for start in range(0, len(table), _STRIDE):
        if table.offset(start) != offset:
            yield Finding(table.path, offset, "lengths and fences do not agree")
        stop = min(start + _STRIDE, len(table))
        keys, records = table.records(start, stop)
        if table.sums_match(start, stop, table.ends(start, stop)) is False:
            yield Finding(table.path, offset, "the sum of a group does not match its records")
        if ends and keys[0] <= ends[-1]:
            yield Finding(table.path, offset, "the keys are not in order")
        yield from _check_chunk(table, keys, records, offset)
        ends = [ends[0] if ends else keys[0], keys[-1]]
        tombstones += sum(record[0] == DELETE for record in records)
        offset += sum(map(len, records))
    if ends != [table.first_key, table.last_key]:
        yield Finding(table.path, offset, "the footer names another first or last key")
    if tombstones != table.tombstones or offset != table.records_end:
        yield Finding(
            table.path,
            offset,
            f"expected {table.tombstones} tombstones up to byte {table.records_end}, "
            f"found {tombstones} up to {offset}",
        )


def _check_chunk(
    table: SSTable, keys: list[bytes], records: list[bytes], offset: int
) -> Iterator[Finding]:
    """Check order, index and filter for some records, the first at ``offset``."""
    digests = hash_keys(keys, table.seed)
    for place, (key, record, digest) in enumerate(zip(keys, records, digests)):
        if place and key <= keys[place - 1]:
            yield Finding(table.path, offset, "the keys are not in order")
        if not index_holds(table.slots, table.slot_count, digest, offset):
            yield Finding(table.path, offset, "the index does not lead to this record")
        if not filter_admits(table.words, table.slot_count, digest):
            yield Finding(table.path, offset, "the filter does not admit this key")
        if record[0] not in (PUT, DELETE):
            yield Finding(table.path, offset, f"operation {record[0]} in a table")
        offset += len(record)
