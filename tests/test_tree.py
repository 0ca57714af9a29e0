"""The tree in memory: MemTables over the runs of a Version, read as one."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path

import pytest

from oblivion_dbm import CorruptionError, error
from oblivion_dbm.engine.compactor import Compactor
from oblivion_dbm.engine.filesystem import FileSystem
from oblivion_dbm.engine.kernel import SHAPES, Lookup, replay
from oblivion_dbm.engine.manifest import Manifest
from oblivion_dbm.engine.memtable import MemTable
from oblivion_dbm.engine.options import Options
from oblivion_dbm.engine.record import DELETE, PUT, encode
from oblivion_dbm.engine.tree import Tree
from oblivion_dbm.engine.version import Run, Version

Table = dict[bytes, bytes | None]
SYSTEM = FileSystem()


def record(key: bytes, value: bytes | None) -> bytes:
    return encode(DELETE, key, b"") if value is None else encode(PUT, key, value)


def write(memtable: MemTable, table: Table) -> None:
    for key, value in table.items():
        whole = record(key, value)
        replay(whole, 0, len(whole), memtable.top.records, memtable.top.tombstones)


class Forest:
    """Makes Versions with runs of tables in one directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self.manifest = Manifest(SYSTEM, self.folder, Version("00" * 16, 7, live=None))

    def run(self, table: Table) -> Run:
        compactor = Compactor(SYSTEM, self.folder, Options(table_limit=1), self.manifest, 0o666)
        records = {key: record(key, value) for key, value in table.items()}
        run = compactor.flush(records, (0, 1), tombstones=True, drop_tombstones=False)
        assert run is not None
        return run

    def tree(self, *runs: Table) -> Tree:
        version = self.manifest.version.replace(runs=tuple(self.run(run) for run in runs))
        tree = Tree(SYSTEM, self.folder, version)
        tree.show()
        return tree


@pytest.fixture
def forest(tmp_path: Path) -> Forest:
    return Forest(tmp_path)


def contents(tree: Tree) -> dict[bytes, bytes]:
    return dict(tree.scan(SHAPES["pairs"], None, None, False))


def test_an_empty_tree_has_nothing(forest: Forest) -> None:
    tree = forest.tree()
    assert tree.lookup.value(b"a") is None
    assert contents(tree) == {}
    assert tree.first() is None
    assert tree.count() == 0


def test_memtables_hide_newer_runs_and_these_hide_older_ones(forest: Forest) -> None:
    tree = forest.tree({b"a": b"2", b"b": None, b"c": b"2"}, {b"a": b"1", b"b": b"1", b"d": b"1"})
    write(tree.memtables[0], {b"c": None, b"e": b"3"})
    tree.show()
    expected = {b"a": b"2", b"d": b"1", b"e": b"3"}
    assert {key: tree.lookup.value(key) for key in expected} == expected
    assert [tree.lookup.value(key) for key in (b"b", b"c", b"x")] == [None] * 3
    assert contents(tree) == expected
    assert tree.first() == b"a"
    assert tree.count() == 3


def test_a_cleared_memtable_hides_everything_older(forest: Forest) -> None:
    tree = forest.tree({b"a": b"1"})
    write(tree.memtables[0], {b"b": b"2"})
    tree.memtables.insert(0, MemTable())
    tree.memtables[0].reset(cleared=True)
    write(tree.memtables[0], {b"c": b"3"})
    tree.show()
    assert tree.cleared
    assert contents(tree) == {b"c": b"3"}
    assert tree.lookup.value(b"a") is tree.lookup.value(b"b") is None
    assert (tree.count(), tree.base_count(), tree.first()) == (1, 0, b"c")


def test_a_snapshot_stands_still_while_the_tree_goes_on(forest: Forest) -> None:
    tree = forest.tree({b"a": b"1"})
    write(tree.memtables[0], {b"b": b"1"})
    scan = tree.scan(SHAPES["pairs"], None, None, False)
    write(tree.memtables[0], {b"a": None, b"b": b"2", b"c": b"2"})
    tree.show()
    assert list(scan) == [(b"a", b"1"), (b"b", b"1")]
    assert contents(tree) == {b"b": b"2", b"c": b"2"}


def test_the_count_is_kept_as_keys_come_and_go(forest: Forest) -> None:
    tree = forest.tree({b"a": b"1", b"b": b"1"}, {b"c": b"1", b"a": None})
    assert tree.count() == 3
    steps: list[tuple[Table, int]] = [
        ({b"d": b"1"}, 4),
        ({b"a": None, b"never": None}, 3),
        ({b"a": b"back"}, 4),
        ({b"b": b"changed"}, 4),
    ]
    for change, expected in steps:
        write(tree.memtables[0], change)
        assert tree.count() == expected == len(contents(tree))


def test_counting_walks_the_tables_once(forest: Forest) -> None:
    tree = forest.tree({b"a": b"1", b"b": b"1"})
    assert tree.version.live is None
    assert tree.count() == 2
    assert tree.version.live == 2


def test_first_skips_tombstones_and_comes_back_down_for_smaller_keys(forest: Forest) -> None:
    tree = forest.tree({b"%03d" % number: b"" for number in range(100)})
    for number in range(50):
        assert tree.first() == b"%03d" % number
        write(tree.memtables[0], {b"%03d" % number: None})
    write(tree.memtables[0], {b"010": b"again"})
    assert tree.first() == b"010"
    write(tree.memtables[0], {b"010": None, b"": b"smallest"})
    assert tree.first() == b""


def test_adopting_opens_what_is_new_and_keeps_what_is_open(forest: Forest) -> None:
    tree = forest.tree({b"a": b"1"})
    old = dict(tree.tables)
    newer = forest.run({b"b": b"1"})
    tree.adopt(
        tree.version.replace(runs=(newer, *tree.version.runs)),
        tree.open_tables(tree.version.replace(runs=(newer, *tree.version.runs))),
    )
    tree.show()
    assert contents(tree) == {b"a": b"1", b"b": b"1"}
    assert all(tree.tables[number] is table for number, table in old.items())
    tree.adopt(
        tree.version.replace(runs=(newer,)), tree.open_tables(tree.version.replace(runs=(newer,)))
    )
    tree.show()
    assert contents(tree) == {b"b": b"1"}


def test_tables_may_be_opened_before_they_are_adopted(forest: Forest) -> None:
    tree = forest.tree({b"a": b"1"})
    newer = tree.version.replace(runs=(forest.run({b"b": b"1"}), *tree.version.runs))
    tables = tree.open_tables(newer)
    assert contents(tree) == {b"a": b"1"}
    assert len(tree.tables) == 1
    tree.adopt(newer, tables)
    tree.show()
    assert contents(tree) == {b"a": b"1", b"b": b"1"}
    assert tree.tables is tables


def test_a_version_that_does_not_open_is_not_adopted(forest: Forest) -> None:
    tree = forest.tree({b"a": b"1"})
    before = tree.version
    good, bad = forest.run({b"b": b"1"}), forest.run({b"c": b"1"})
    path = Path(forest.folder, f"{bad.tables[0].number:06d}.sst")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptionError):
        tree.adopt(
            before.replace(runs=(good, bad, *before.runs)),
            tree.open_tables(before.replace(runs=(good, bad, *before.runs))),
        )
    tree.show()
    assert tree.version == before
    assert contents(tree) == {b"a": b"1"}


def test_a_snapshot_has_all_that_a_read_needs(forest: Forest) -> None:
    tree = forest.tree({b"a": b"1", b"b": b"1"}, {b"c": b"1"})
    write(tree.memtables[0], {b"b": None, b"d": b"2"})
    snapshot = tree.snapshot(41)
    write(tree.memtables[0], {b"a": None, b"d": None, b"e": b"3"})
    merged = forest.run({b"a": b"1", b"b": b"1", b"c": b"1"})
    version = tree.version.replace(runs=(merged,))
    tree.adopt(version, tree.open_tables(version))
    tree.show()
    assert snapshot.sequence == 41
    found = {key: snapshot.lookup.value(key) for key in (b"a", b"b", b"c", b"d", b"e")}
    assert found == {b"a": b"1", b"b": None, b"c": b"1", b"d": b"2", b"e": None}
    assert (snapshot.count(), snapshot.first()) == (3, b"a")
    assert tree.count() == 2


def test_a_snapshot_counts_without_disturbing_the_count_of_the_tree(forest: Forest) -> None:
    tree = forest.tree({b"a": b"1", b"b": b"1"})
    write(tree.memtables[0], {b"a": None, b"c": b"1"})
    held = [tree.snapshot()]
    write(tree.memtables[0], {b"c": None, b"a": b"1", b"d": b"1"})
    held.append(tree.snapshot())
    write(tree.memtables[0], {b"d": None, b"e": b"1"})
    assert tree.count() == 3
    assert [snapshot.count() for snapshot in held] == [2, 3]
    assert tree.count() == 3


def test_a_snapshot_of_a_cleared_tree_has_no_tables(forest: Forest) -> None:
    tree = forest.tree({b"a": b"1"})
    tree.memtables[0].reset(cleared=True)
    snapshot = tree.snapshot()
    assert (snapshot.count(), snapshot.first(), snapshot.parts()[1]) == (0, None, [])
    assert snapshot.lookup.value(b"a") is None


def test_a_walk_keeps_what_it_walks_over_though_its_snapshot_has_ended(forest: Forest) -> None:
    tree = forest.tree()
    write(tree.memtables[0], {b"%04d" % number: b"1" for number in range(0, 1000, 2)})
    snapshot = tree.snapshot()
    walk = snapshot.lists(SHAPES["keys"], None, None, False)
    found = next(walk)
    snapshot.end(error("ended"))
    for number in range(3):
        write(tree.memtables[0], {b"%04d" % (10 * number + 1): b"1", b"0900": None})
        contents(tree)
    found += [key for keys in walk for key in keys]
    assert found == [b"%04d" % number for number in range(0, 1000, 2)]


def sealed(tree: Tree) -> MemTable:
    """Do what rotation does."""
    oldest = tree.memtables[0]
    oldest.seal()
    tree.memtables.insert(0, MemTable())
    tree.show()
    return oldest


def test_live_keys_are_counted_before_a_memtable_becomes_a_table(forest: Forest) -> None:
    tree = forest.tree({b"a": b"1", b"b": b"1"})
    write(tree.memtables[0], {b"a": None, b"c": b"1"})
    held = tree.snapshot()
    write(tree.memtables[0], {b"c": None, b"d": b"1", b"never": None})
    oldest = sealed(tree)
    assert tree.live_once_flushed(oldest) is None, "nobody has asked"
    assert tree.count() == 2
    write(tree.memtables[0], {b"b": None, b"e": b"1"})
    assert tree.live_once_flushed(oldest) == 2
    assert tree.count() == 2
    assert held.count() == 2
    tree.memtables[0].reset(cleared=True)
    assert tree.live_once_flushed(oldest) is None


def test_counting_a_sealed_memtable_goes_on_beside_everything_else(forest: Forest) -> None:
    tree = forest.tree({b"%04d" % number: b"1" for number in range(0, 1000, 3)})
    tree.count()
    write(tree.memtables[0], {b"%04d" % number: b"2" for number in range(0, 2000, 2)})
    held = tree.snapshot()
    write(tree.memtables[0], {b"%04d" % number: None for number in range(0, 2000, 5)})
    oldest = sealed(tree)
    live = len(contents(tree))
    found: list[int | None] = []
    threads = [
        threading.Thread(target=lambda: found.append(tree.live_once_flushed(oldest)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for number in range(200):
        write(tree.memtables[0], {b"x%04d" % number: b"3"})
        assert tree.count() == live + number + 1
        assert len(contents(tree)) == live + number + 1
    for thread in threads:
        thread.join()
    assert found == [live, live]
    assert held.count() == len(list(held.scan("keys", None, None, False)))


def test_a_count_of_a_sealed_memtable_that_failed_leaves_the_count_right(
    forest: Forest, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = forest.tree({b"%02d" % number: b"1" for number in range(10)})
    tree.count()
    write(tree.memtables[0], {b"%02d" % number: b"2" for number in range(5, 15)})
    oldest = sealed(tree)

    def fail(lookup: Lookup, key: bytes, runs: object) -> bytes | None:
        if key == b"12":
            raise error("damaged")
        return search(lookup, key, runs)  # type: ignore[arg-type]  # it is what it is

    search = Lookup.search
    with monkeypatch.context() as patch:
        patch.setattr(Lookup, "search", fail)
        with pytest.raises(error, match="damaged"):
            tree.live_once_flushed(oldest)
    assert tree.count() == 15
    assert tree.live_once_flushed(oldest) == 15


def test_tables_and_layers_are_let_go_once_no_scan_needs_them(forest: Forest) -> None:
    tree = forest.tree({b"a": b"1"})
    scan = tree.scan(SHAPES["pairs"], None, None, False)
    (number,) = tree.tables
    table = weakref.ref(tree.tables[number])
    tree.adopt(tree.version.replace(runs=()), tree.open_tables(tree.version.replace(runs=())))
    tree.show()
    gc.collect()
    assert table() is not None
    assert list(scan) == [(b"a", b"1")]
    del scan
    gc.collect()
    assert table() is None


def test_a_tree_that_has_ended_raises_from_every_side(forest: Forest) -> None:
    tree = forest.tree({b"a": b"1", b"b": b"2"})
    begun, fresh = (tree.scan(SHAPES["pairs"], None, None, False) for _ in range(2))
    assert next(begun) == (b"a", b"1")
    problem = error("ended")
    tree.end(problem)
    for scan in (begun, fresh):
        with pytest.raises(error, match="ended"):
            next(scan)
    for _ in range(2):
        with pytest.raises(error, match="ended"):
            tree.lookup.value(b"a")
        with pytest.raises(error, match="ended"):
            tree.check()
