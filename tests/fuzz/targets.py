"""What is fuzzed: each target takes bytes, and returns, or lets nothing out but a bug.

Some of what is tried is the bytes themselves.  Most is a file that is sound but for what
the bytes decide, with crcs made anew: else a crc would turn nearly everything away.
"""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, partial
from itertools import pairwise, repeat
from typing import Any
from zlib import crc32

from xxhash import xxh64_intdigest

from fuzz.memory import Memory
from fuzz.source import Source
from oblivion_dbm import Database, error, import_wal
from oblivion_dbm.engine.header_page import (
    APPENDED,
    APPENDED_AT,
    CHAIN,
    CHAIN_AT,
    CHAIN_SUM_AT,
    DATA_AT,
    ENDED_AT,
    ENDED_SUM_AT,
    NUMBER,
    SEQUENCE_AT,
    SLOTS_AT,
    pack_header,
    pack_slot,
    sealed,
)
from oblivion_dbm.engine.kernel import SHAPES, Lookup, replay
from oblivion_dbm.engine.manifest import FIRST_WORD, parse, render
from oblivion_dbm.engine.memtable import MemTable
from oblivion_dbm.engine.merge import merge
from oblivion_dbm.engine.options import Options
from oblivion_dbm.engine.record import BATCH, BadRecord, crc32c, encode, read
from oblivion_dbm.engine.recovery import Recovery, apply_batch
from oblivion_dbm.engine.segment import Segment
from oblivion_dbm.engine.sstable import BLOCK, FOOTER, TAIL, TAIL_MAGIC, SSTable, block_seed
from oblivion_dbm.engine.storage_engine import open_store
from oblivion_dbm.engine.table_check import check_runs
from oblivion_dbm.engine.table_writer import TableWriter
from oblivion_dbm.engine.verify import verify
from oblivion_dbm.engine.version import Run, TableInfo, Version

STORE, SEED, BOOT = bytes(range(16)), 7, bytes(16)


# Records.


def record(data: bytes) -> None:
    """Read a record, and replay what may be a run of records."""
    source = Source(data)
    if source.chance():
        buffer = source.rest()
    else:
        buffer = b"".join(some_records(source))
    with suppress(BadRecord):
        op, key, value, after = read(buffer, 0, len(buffer))
        assert encode(op, key, value) == buffer[:after]
    records: dict[bytes, bytes] = {}
    offset, op = replay(buffer, 0, len(buffer), records, set())
    assert 0 <= offset <= len(buffer)
    with suppress(BadRecord):
        apply_batch(buffer, MemTable())


def some_records(source: Source, most: int = 6) -> Iterator[bytes]:
    """Yield records, some of which are none."""
    for _ in range(1 + source.byte() % most):
        if not source:
            return
        op, key, value = source.number(8) % 8, source.string(), source.string(20)
        if op == BATCH and most > 1:
            value = b"".join(some_records(source, 1))
        whole = bytearray(encode(op, key, value))
        if source.chance():  # lengths that do not fill it
            whole[1:5] = source.near(len(key), 32).to_bytes(4, "little")
            whole[-4:] = crc32c(bytes(whole[:-4])).to_bytes(4, "little")
        if source.chance():
            whole[source.byte() % len(whole)] ^= 1 << source.byte() % 8
        yield bytes(whole)


# The log.


def log(data: bytes) -> None:
    """Recover segments whose header pages and records are as the bytes say."""
    source = Source(data)
    count = 1 + source.byte() % 3
    files = {}
    before = (0, DATA_AT, 0, 0)
    for number in range(1, count + 1):
        files[f"{number:06d}.wal"], before = segment(source, number, before)
    version = Version(STORE.hex(), SEED, logs=tuple(range(1, count + 1 - source.chance())))
    system = Memory(files, BOOT if source.chance() else b"x" * 16)
    for number in range(1, count + 1):
        with suppress(error):
            look_at(Segment(system, "store", number, STORE))
    for readable_only in (False, True):
        with suppress(error):
            recovery = Recovery(system, "store", version, readable_only)
            recovery.merged().merged()
            assert recovery.sequence >= 0
            assert all(sum(map(len, tail.pieces())) == len(tail) for tail in recovery.lost)
            recovery.close()


def look_at(found: Segment) -> None:
    """Ask for everything that a header page says."""
    assert found.ended is None or found.ended >= DATA_AT
    assert found.used_up_to(DATA_AT) <= len(found.buffer)
    assert found.after(found.appended) >= found.appended
    for ask in (found.synced, found.chain):
        with suppress(error):
            ask()
    with suppress(error):
        found.check_sums(found.appended)
    with suppress(error):
        assert found.first_sequence + found.chain_sum >= 0
    assert isinstance(found.explain(found.appended, found.appended), error)


def segment(
    source: Source, number: int, before: tuple[int, int, int, int]
) -> tuple[bytes, tuple[int, int, int, int]]:
    """Return the bytes of a segment, and what the next one should say of it."""
    records = b"".join(some_records(source))
    prelude = DATA_AT + source.near(0, 16) % (len(records) + 1)
    end = DATA_AT + len(records)
    boot, visibility = BOOT if source.chance() else b"y" * 16, source.near(0, 32)
    header = pack_header(
        source.near(int.from_bytes(STORE, "little"), 64).to_bytes(16, "little")
        if source.chance()
        else STORE,
        source.near(number, 64),
        (source.near(0, 64), source.near(prelude, 64)),
        boot,
        visibility & 0xFFFF_FFFF,
    )
    seed = int.from_bytes(header[-4:], "little")
    running, total = crc32c(records, seed), xxh64_intdigest(records, seed)
    fields = {
        APPENDED_AT: APPENDED.pack(source.near(end, 64)),
        SLOTS_AT[0]: pack_slot(source.near(end, 64), running, source.near(total, 64)),
        SLOTS_AT[1]: pack_slot(source.near(DATA_AT, 64), seed, 0) if source.chance() else b"",
        ENDED_AT: sealed(NUMBER, source.near(end, 64)) if source.chance() else b"",
        ENDED_SUM_AT: sealed(NUMBER, source.near(total, 64)) if source.chance() else b"",
    }
    if number > 1 and not source.chance():
        fields[CHAIN_AT] = sealed(CHAIN, *(source.near(part, 32) for part in before[:3]))
        fields[SEQUENCE_AT] = sealed(NUMBER, source.near(0, 64))
        fields[CHAIN_SUM_AT] = sealed(NUMBER, source.near(before[3], 64))
    page = bytearray(header.ljust(DATA_AT, b"\0"))
    for at, field in fields.items():
        page[at : at + len(field)] = field
    if source.chance():
        page[source.number(16) % DATA_AT] ^= 1 << source.byte() % 8
    whole = bytes(page) + records + bytes(source.near(0, 16) % 100)
    return whole[: source.near(len(whole), 16)], (number, end, running, total)


# Tables.


@cache
def sound_table(kind: int) -> tuple[bytes, TableInfo]:
    """Return a table to begin with: the bytes, and what a MANIFEST says of it."""
    system = Memory({})
    writer = TableWriter(system, "store", 1, SEED)
    count = (1, 3, 70, 150)[kind]
    keys = [b"%03d" % number + b"k" * (number % 3 if kind % 2 else 0) for number in range(count)]
    for key in keys:
        deleted = kind > 1 and key[2:3] == b"4"
        value = b"" if deleted else b"value" * (key[1] % 4)
        writer.add([key], [encode(2 if deleted else 1, key, value)], deleted)
    info = writer.finish(STORE, level=0, part=0, parts=1, sequences=(0, 10))
    return bytes(system.files["000001.sst"]), info


def crafted_table(source: Source, number: int = 1) -> tuple[bytes, TableInfo]:
    """Return a table with some numbers changed behind right crcs."""
    whole, info = sound_table(source.byte() % 4)
    data = bytearray(whole)
    table = SSTable(Memory({"000001.sst": whole}), "store", info, STORE)
    begins, sizes, crcs_at, end = table._begins, table.sizes, table._crcs_at, table.records_end
    widths = [table._width, 8, 8, 8, 8]
    for _ in range(source.byte() % 6):
        section = source.byte() % 6
        if section == 5:  # a byte of a record; its own crc is made right below
            at = 16 + source.number(16) % (end - 16)
            data[at] ^= 1 << source.byte() % 8
            continue
        width = widths[section]
        at = begins[section] + source.number(16) % (sizes[section] // width) * width
        old = int.from_bytes(data[at : at + width], "little")
        data[at : at + width] = source.near(old, 8 * width).to_bytes(width, "little")
    fields: list[Any] = list(FOOTER.unpack(data[-FOOTER.size - TAIL.size : -TAIL.size]))
    for _ in range(source.byte() % 4):
        place = 3 + source.byte() % (len(fields) - 3)
        bits = 32 if isinstance(fields[place], int) and place in _SHORT else 64
        fields[place] = source.near(fields[place], bits)
    fields[2] = number
    if source.chance():
        mend_records(data, table)
    if not source.chance():
        fields[11] = mend_blocks(data, number, list(zip(begins, sizes)), crcs_at)
    data[-FOOTER.size - TAIL.size : -TAIL.size] = FOOTER.pack(*fields)
    keys = fields[-1] + fields[-2]
    crc = crc32c(bytes(data[max(0, len(data) - FOOTER.size - TAIL.size - keys) : -TAIL.size]))
    data[-TAIL.size :] = TAIL.pack(crc, TAIL_MAGIC)
    return bytes(data), TableInfo(number, len(data), crc, info.puts, info.tombstones)


#: Fields of the footer that have 32 bits.
_SHORT = {7, 8, 9, 10, 11, 22, 23, 24, 25}


def mend_records(data: bytearray, table: SSTable) -> None:
    """Make the crcs of all records right."""
    ends = SSTable.ends(table, 0, len(table))
    for begin, end in pairwise(ends):
        data[end - 4 : end] = crc32c(bytes(data[begin : end - 4])).to_bytes(4, "little")


def mend_blocks(data: bytearray, number: int, sections: list[tuple[int, int]], crcs_at: int) -> int:
    """Make the crcs of all blocks right; return the crc of these."""
    crcs = array("I")
    for section, (begin, size) in enumerate(sections):
        for block, at in enumerate(range(0, size, BLOCK)):
            part = bytes(data[begin + at : begin + min(size, at + BLOCK)])
            crcs.append(crc32c(part, block_seed(number, section, block)))
    data[crcs_at : crcs_at + 4 * len(crcs)] = crcs.tobytes()
    return crc32c(crcs.tobytes())


def table(data: bytes) -> None:
    """Open a table and ask for everything in every way."""
    source = Source(data)
    if source.chance():
        whole = source.rest()
        crc = int.from_bytes(whole[-12:-8], "little")
        info = TableInfo(1, len(whole), crc, 1, 0)
    else:
        whole, info = crafted_table(source)
    system = Memory({"000001.sst": whole})
    with suppress(error):
        ask_table(SSTable(system, "store", info, STORE), source)
    with suppress(error):
        found = SSTable(system, "store", info, STORE)
        version = Version(STORE.hex(), SEED, runs=(Run(0, (info,)),))
        for finding in check_runs(version, [[found]]):
            assert finding.offset >= 0
        found.close()


def ask_table(found: SSTable, source: Source) -> None:
    lookup = Lookup(found.seed, ({}, (), ((None, [found.probe()]),)))
    keys = [b"", b"004", b"069kk", source.string(), b"k" * 5000]
    ways: list[Callable[[], object]] = []
    for key in keys:
        ways += [partial(lookup.value, key), partial(found.search, key)]
    for start, stop in ((None, None), (source.string(), source.one_of([None, b"07"]))):
        size, reverse = source.one_of([7, 1, 64, 100]), source.byte() % 2 == 1
        ways += [partial(walk, found, by, start, stop, reverse, size) for by in (False, True)]
    other, info = sound_table(2)
    ways.append(lambda: merge_with(found, SSTable(Memory({"000001.sst": other}), "s", info, STORE)))
    for way in ways:
        with suppress(error):
            way()
    found.close()


def walk(  # noqa: PLR0917 - called at once
    found: SSTable, cut: bool, start: bytes | None, stop: bytes | None, reverse: bool, size: int
) -> None:
    """Walk over a table by its records, or by what is cut straight out of it."""
    if cut:
        list(found.lists(SHAPES["pairs"], start, stop, reverse, repeat(size)))
    else:
        list(found.chunks(start, stop, reverse, repeat(size)))


def merge_with(found: SSTable, other: SSTable) -> None:
    sources = [part.chunks(None, None, False, repeat(30)) for part in (found, other)]
    for keys, records in merge(sources, False):
        assert len(keys) == len(records)


# The MANIFEST, and all of it together.

_WORDS = b"store seed epoch next live log run table ? crc unknown".split()


def manifest(data: bytes) -> None:
    """Parse a MANIFEST: bytes, or lines of known words behind a right crc."""
    source = Source(data)
    with suppress(error):
        parsed = parse(source.rest() if source.chance() else manifest_text(source), "MANIFEST")
        assert parse(render(parsed), "MANIFEST") == parsed


def manifest_text(source: Source) -> bytes:
    lines = [f"{FIRST_WORD} 1".encode()]
    version = Version(
        STORE.hex(), SEED, next_file=9, logs=(7, 8), runs=(Run(0, (TableInfo(1, 2, 3, 4, 5),)),)
    )
    lines += render(version).split(b"\n")[1:-2]
    for _ in range(source.byte() % 5):
        at, kind = source.byte() % len(lines), source.byte() % 4
        words = lines[at].split(b" ")
        if kind == 0:
            del lines[at]
        elif kind == 1:
            lines.insert(at, source.one_of(_WORDS) + b" " + source.string(20))
        elif kind == 2:
            words[source.byte() % len(words)] = b"%d" % source.number(64)
            lines[at] = b" ".join(words)
        else:
            words[source.byte() % len(words)] = source.string()
            lines[at] = b" ".join(words)
        lines = lines or [b""]
    body = b"".join(line + b"\n" for line in lines)
    return body + b"crc %08x\n" % crc32c(body)


def store(data: bytes) -> None:
    """Open a whole store for reading, read all of it, and verify it."""
    source = Source(data)
    tables = [crafted_table(source, number) for number in range(1, 1 + source.byte() % 3)]
    files = {f"{info.number:06d}.sst": whole for whole, info in tables}
    runs = [Run(0, (info,)) for _, info in reversed(tables)]
    before, logs = (0, DATA_AT, 0, 0), []
    for number in range(5, 5 + source.byte() % 3):
        files[f"{number:06d}.wal"], before = segment(source, number, before)
        logs.append(number)
    version = Version(STORE.hex(), SEED, next_file=9, logs=tuple(logs), runs=tuple(runs), live=None)
    files["MANIFEST"] = render(version)
    files["LOCK"] = source.string(24)
    system = Memory(files, BOOT if source.chance() else b"x" * 16)
    with suppress(error):
        engine = open_store("store", "r", Options(), 0o666, system)
        ways: list[Callable[[], object]] = [engine.count, engine.first, engine.stats]
        ways += [lambda key=key: engine.value(key) for key in (b"", b"004", source.string())]  # type: ignore[misc]
        for reverse in (False, True):
            ways.append(lambda way=reverse: list(engine.scan("pairs", None, None, way)))  # type: ignore[misc]
            ways.append(lambda way=reverse: list(engine.scan("keys", b"003", b"07", way)))  # type: ignore[misc]
        for way in ways:
            with suppress(error):
                way()
        engine.close()
    with suppress(error):
        for finding in verify("store", system):
            assert finding.offset >= 0


# The log of the seeds.


@cache
def database() -> Database:
    """Return a store to import into; its directory goes with the process."""
    folder = tempfile.TemporaryDirectory(prefix="fuzz-")
    made = Database(folder.name + "/store", background=False, sync="off")
    _folders.append(folder)
    return made


_folders: list[tempfile.TemporaryDirectory[str]] = []


def seeds(data: bytes) -> None:
    """Import a log of the seeds."""
    source = Source(data)
    whole = source.rest() if source.chance() else b"".join(seed_entries(source))
    target = database()
    target.clear()
    path = _folders[0].name + "/seed.wal"
    with open(path, "wb") as file:
        file.write(whole)
    done = import_wal(path, target)
    assert done.bytes_read <= len(whole)
    assert (done.damage is None) == (done.bytes_read == len(whole))
    assert len(target) <= done.puts
    os.unlink(path)


def seed_entries(source: Source) -> Iterator[bytes]:
    for _ in range(source.byte() % 8):
        key, value = source.string(), source.string(20)
        parts = (
            source.one_of(b"\1\2\1\2\1\0\3\xff").to_bytes(1, "little"),
            source.near(len(key), 32).to_bytes(4, "little"),
            key,
            source.near(len(value), 32).to_bytes(4, "little"),
            value,
        )
        body = b"".join(parts)
        yield body + source.near(crc32(body), 32).to_bytes(4, "little")


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (record, log, table, manifest, store, seeds)
}
