"""Tables and logs that are read ahead: nothing of a map is touched that was not read before."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oblivion_dbm import CorruptionError, Database, error
from oblivion_dbm.engine import storage_engine
from oblivion_dbm.engine.filesystem import File, FileSystem
from oblivion_dbm.engine.kernel import SHAPES, Lookup
from oblivion_dbm.engine.options import Options
from oblivion_dbm.engine.read_ahead import AheadTable, bring_logs
from oblivion_dbm.engine.record import DELETE, PUT, encode
from oblivion_dbm.engine.table_writer import TableWriter
from oblivion_dbm.engine.version import TableInfo

STORE = bytes(range(16))
SEED = 7
PAGE = 4096

Table = dict[bytes, bytes | None]
KEYS = st.one_of(st.binary(max_size=5), st.integers(0, 6000).map(lambda n: b"%02d" % (n % 50) * n))
VALUES = st.one_of(st.none(), st.integers(0, 9000).map(lambda n: b"%d " % n * (n // 3)))
TABLES = st.dictionaries(KEYS, VALUES, min_size=1, max_size=150)


class Cold(FileSystem):
    """A file system whose maps hold zeros but where the file was read: a page cache to look into.

    What is touched without having been read does not check.
    """

    def __init__(self) -> None:
        self._maps: list[tuple[str, Any]] = []
        self._pages: set[tuple[str, int]] = set()

    def map(self, file: File, length: int, writable: bool = False) -> mmap.mmap:
        if not file.path.endswith(".sst"):
            return super().map(file, length, writable)
        mapped = mmap.mmap(-1, length)
        self._maps.append((file.path, mapped))
        for path, page in list(self._pages):
            if path == file.path:
                self._fill(path, page)
        return mapped

    def read(self, file: File, offset: int, length: int) -> bytes:
        data = super().read(file, offset, length)
        for page in range(offset // PAGE, -(-(offset + len(data)) // PAGE)):
            self._pages.add((file.path, page))
            self._fill(file.path, page)
        return data

    def _fill(self, path: str, page: int) -> None:
        for of, mapped in self._maps:
            if of == path:
                with Path(path).open("rb", buffering=0) as file:
                    file.seek(page * PAGE)
                    content = file.read(PAGE)
                mapped[page * PAGE : page * PAGE + len(content)] = content

    def evict(self) -> None:
        """Forget all pages."""
        self._pages.clear()
        for _, mapped in self._maps:
            mapped[:] = bytes(len(mapped))


def write(folder: Path, table: Table) -> TableInfo:
    """Write a table; return what the MANIFEST would say of it."""
    writer = TableWriter(FileSystem(), str(folder), 9, SEED)
    keys = sorted(table)
    records = [
        encode(DELETE, key, b"") if table[key] is None else encode(PUT, key, table[key] or b"")
        for key in keys
    ]
    writer.add(keys, records, sum(table[key] is None for key in keys))
    return writer.finish(STORE, level=0, part=0, parts=1, sequences=(5, 500))


def lookup_of(table: AheadTable) -> Lookup:
    return table.lookup(SEED, ({}, (), ((None, [table.probe()]),)))


def numbered(count: int, size: int = 100) -> Table:
    return {b"%06d" % n: b"%06d" % n * (size // 6) for n in range(count)}


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(TABLES, st.lists(KEYS, max_size=5))
def test_what_was_written_is_found_in_every_way(
    tmp_path_factory: pytest.TempPathFactory, contents: Table, others: list[bytes]
) -> None:
    folder, system = tmp_path_factory.mktemp("table"), Cold()
    table = AheadTable(system, str(folder), write(folder, contents), STORE)
    lookup, keys = lookup_of(table), sorted(contents)
    for key in [*keys, *others]:
        system.evict()
        assert lookup.value(key) == contents.get(key)
        system.evict()
        assert table.position(key) == sum(other < key for other in keys)
    table.close()


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    "contents",
    [numbered(3000), numbered(20, 300_000), {b"a": bytes(3 << 20), b"b": b"1"}],
    ids=["many", "long", "very long"],
)
def test_walks_find_everything(tmp_path: Path, contents: Table, reverse: bool) -> None:
    system = Cold()
    table = AheadTable(system, str(tmp_path), write(tmp_path, contents), STORE)
    keys = sorted(contents)
    start, stop = keys[len(keys) // 3], keys[-1]
    found = []
    for part in table.lists(SHAPES["pairs"], start, stop, reverse, repeat(500)):
        system.evict()
        found.append(part)
    if reverse:
        found.reverse()
    expected = [(key, contents[key]) for key in keys if start <= key < stop]
    assert [pair for part in found for pair in part] == expected


def test_a_second_look_reads_little_but_reads(tmp_path: Path) -> None:
    """The disk may have been given other pages meanwhile, whatever was checked before."""
    contents, system = numbered(3000), Cold()
    table = AheadTable(system, str(tmp_path), write(tmp_path, contents), STORE)
    lookup = lookup_of(table)
    for _ in range(3):
        for key, value in contents.items():
            if key.endswith(b"77"):
                system.evict()
                assert lookup.value(key) == value
                assert len(system._pages) < 10
            assert lookup.value(b"x" + key) is None


def test_opening_reads_what_it_touches(tmp_path: Path) -> None:
    info = write(tmp_path, numbered(3000))
    table = AheadTable(Cold(), str(tmp_path), info, STORE)
    assert len(table) == 3000


@pytest.mark.parametrize("at", [0, 20, -1, -3000])
def test_damage_is_found(tmp_path: Path, at: int) -> None:
    contents, system = numbered(300), Cold()
    info = write(tmp_path, contents)
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    data[at] ^= 0x41
    path.write_bytes(data)

    def read_all() -> None:
        table = AheadTable(system, str(tmp_path), info, STORE)
        for key, value in contents.items():
            assert lookup_of(table).value(key) == value
        for _ in table.chunks(None, None, False, repeat(100)):
            pass

    with pytest.raises(CorruptionError):
        read_all()


def open_cold(path: Path, flag: str, system: FileSystem, **options: Any) -> Any:
    return storage_engine.open_store(
        str(path), flag, Options(read_ahead=True, **options), filesystem=system
    )


@pytest.mark.parametrize("flag", ["r", "w"])
def test_a_store_is_read_ahead_in_every_way(tmp_path: Path, flag: str) -> None:
    with Database(tmp_path, fan_in=100) as db:
        for part in range(3):
            for n in range(part, 2000, part + 1):
                db[b"%05d" % n] = b"%d of %d" % (n, part)
            db.flush()
        del db["00005"]
        expected = dict(db)
    system = Cold()
    engine = open_cold(tmp_path, flag, system, fan_in=100)
    for n in range(0, 2000, 97):
        system.evict()
        assert engine.value(b"%05d" % n) == expected.get(b"%05d" % n)
        snapshot = engine.snapshot()
        system.evict()
        assert snapshot.lookup.value(b"%05d" % n) == expected.get(b"%05d" % n)
        snapshot.end(ValueError("it is over"))
    system.evict()
    assert dict(engine.scan("pairs", None, None, False)) == expected
    system.evict()
    assert engine.count() == len(expected)
    engine.close()


def test_the_log_is_read_before_it_is_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Database(tmp_path) as db:
        db["a"] = bytes(100_000)
    read: list[tuple[str, int]] = []
    original: Callable[..., bytes] = FileSystem.read

    def noting(self: FileSystem, file: File, offset: int, length: int) -> bytes:
        data = original(self, file, offset, length)
        read.append((os.path.basename(file.path), len(data)))
        return data

    monkeypatch.setattr(FileSystem, "read", noting)
    with Database(tmp_path, read_ahead=True) as db:
        assert len(db["a"]) == 100_000
    assert sum(size for name, size in read if name == "000001.wal") >= 100_000


def test_descriptors_go_with_their_tables(tmp_path: Path) -> None:
    folder = "/proc/self/fd"
    if not os.path.isdir(folder):
        pytest.skip("there is no /proc")

    def descriptors() -> int:
        links = [os.path.join(folder, name) for name in os.listdir(folder)]
        found = [os.readlink(link) for link in links if os.path.lexists(link)]
        return sum(name.startswith(str(tmp_path)) for name in found)

    for _ in range(3):
        with Database(tmp_path, "n", read_ahead=True) as db:
            for n in range(5):
                db[b"%d" % n] = b"1"
                db.flush()
                assert db[b"%d" % n] == b"1"
            db.compact()
            assert len(db) == 5
            assert 0 < descriptors() < 15
        assert descriptors() == 0


def test_a_log_that_its_writer_has_just_removed_is_passed_over(tmp_path: Path) -> None:
    class Late(FileSystem):
        def list(self, path: str) -> list[str]:
            return [*super().list(path), "999999.wal"]

    with Database(tmp_path / "store") as db:
        db[b"key"] = b"value"
    bring_logs(Late(), str(tmp_path / "store"))
    with pytest.raises(error):
        bring_logs(Late(), str(tmp_path / "nowhere"))


def test_what_cannot_be_read_ahead_is_still_looked_up(tmp_path: Path) -> None:
    class Unready(FileSystem):
        def read(self, file: File, offset: int, length: int) -> bytes:
            raise error(errno.EAGAIN, "not now", file.path)

    contents = numbered(500)
    table = AheadTable(Unready(), str(tmp_path), write(tmp_path, contents), STORE)
    lookup = lookup_of(table)
    assert {key: lookup.value(key) for key in contents} == contents
    assert table.position(b"000250") == 250
    table.close()
    table.close()
