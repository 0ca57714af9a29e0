"""A snapshot is the state at one moment, and a scan is a walk over it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oblivion_dbm.engine.filesystem import FileSystem
from oblivion_dbm.engine.kernel import SHAPES
from oblivion_dbm.engine.memtable import Layer
from oblivion_dbm.engine.record import DELETE, PUT, encode
from oblivion_dbm.engine.snapshot import Scan, Snapshot, look_up_in
from oblivion_dbm.engine.sstable import SSTable
from oblivion_dbm.engine.table_writer import TableWriter
from oblivion_dbm.engine.tree import Tree

Table = dict[bytes, bytes | None]
KEYS = st.integers(0, 30).map(lambda number: b"%02d" % number)
TABLES = st.dictionaries(KEYS, st.one_of(st.none(), st.binary(max_size=3)), max_size=20)
BOUNDS = st.one_of(st.none(), KEYS)


def record(key: bytes, value: bytes | None) -> bytes:
    return encode(DELETE, key, b"") if value is None else encode(PUT, key, value)


def layer_of(table: Table) -> Layer:
    layer = Layer()
    layer.records.update((key, record(key, value)) for key, value in table.items())
    layer.tombstones.update(key for key, value in table.items() if value is None)
    return layer


def snapshot_of(
    layers: Sequence[Layer], runs: Sequence[list[SSTable]], live: int | None = None
) -> Snapshot:
    probes = tuple(Tree.probe_run(run) for run in runs if run)
    runs = [run for run in runs if run]
    return Snapshot(layers, runs, look_up_in(layers, 7, probes), live=live)


def run_of(folder: Path, table: Table, part_size: int) -> list[SSTable]:
    """Write a run of tables of ``part_size`` keys each."""
    keys, tables = sorted(table), []
    for start in range(0, len(keys), part_size):
        part = keys[start : start + part_size]
        writer = TableWriter(FileSystem(), str(folder), len(list(folder.iterdir())), 7)
        records = [record(key, table[key]) for key in part]
        writer.add(part, records, sum(table[key] is None for key in part))
        info = writer.finish(bytes(16), level=0, part=0, parts=1, sequences=(0, 0))
        tables.append(SSTable(FileSystem(), str(folder), info, bytes(16)))
    return tables


def flat(chunks: Iterator[tuple[list[bytes], list[bytes]]], reverse: bool) -> list[bytes]:
    found: list[bytes] = []
    for keys, _ in chunks:
        found += reversed(keys) if reverse else keys
    return found


@given(
    st.lists(TABLES, max_size=3),
    st.lists(TABLES, max_size=3),
    st.tuples(BOUNDS, BOUNDS, st.booleans(), st.integers(1, 9)),
)
def test_a_snapshot_is_its_layers_over_its_runs(
    tmp_path_factory: pytest.TempPathFactory,
    layers: list[Table],
    runs: list[Table],
    how: tuple[bytes | None, bytes | None, bool, int],
) -> None:
    start, stop, reverse, part_size = how
    folder = tmp_path_factory.mktemp("tables")
    snapshot = snapshot_of(
        [layer_of(layer) for layer in layers], [run_of(folder, run, part_size) for run in runs]
    )
    model: Table = {}
    for table in [*reversed(runs), *reversed(layers)]:
        model.update(table)
    inside = [k for k in model if (start or b"") <= k and (stop is None or k < stop)]
    found = flat(snapshot.chunks(start, stop, reverse), reverse)
    assert found == sorted(inside, reverse=reverse)
    scan = Scan(snapshot).items(SHAPES["pairs"], start, stop, reverse)
    live = [(key, value) for key in inside if (value := model[key]) is not None]
    assert list(scan) == sorted(live, reverse=reverse)
    assert {key: snapshot.lookup.value(key) for key in model} == model
    everything = [key for key, value in model.items() if value is not None]
    assert snapshot.count() == snapshot.count() == len(everything)
    assert snapshot.first() == min(everything, default=None)


def test_only_tables_within_the_bounds_are_read(tmp_path: Path) -> None:
    table: Table = {b"%02d" % number: b"" for number in range(30)}
    run = run_of(tmp_path, table, 10)
    run[0].close()
    run[2].close()
    snapshot = snapshot_of([], [run])
    assert flat(snapshot.chunks(b"10", b"20"), False) == sorted(table)[10:20]
    assert flat(snapshot.chunks(b"10", b"20", True), True) == sorted(table)[19:9:-1]
    with pytest.raises(ValueError, match=r"closed|released"):
        flat(snapshot.chunks(b"09", b"20"), False)


def scan_of(count: int, reverse: bool = False) -> tuple[Scan, Iterator[bytes]]:
    scan = Scan(snapshot_of([layer_of({b"%04d" % number: b"" for number in range(count)})], []))
    return scan, scan.items(SHAPES["keys"], None, None, reverse)


class EndedError(Exception):
    """What ends a scan here."""


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("taken", [0, 1, 15, 16, 17, 500, 1000])
def test_a_scan_that_was_ended_raises_at_the_next_item(taken: int, reverse: bool) -> None:
    scan, items = scan_of(1000, reverse)
    assert len(list(islice(items, taken))) == taken
    scan.end(EndedError("ended"))
    with pytest.raises(EndedError):
        next(items)


def test_a_scan_of_nothing_ends_by_itself_or_raises_once_ended() -> None:
    _, items = scan_of(0)
    assert list(items) == []
    scan, items = scan_of(0)
    scan.end(EndedError("ended"))
    with pytest.raises(EndedError):
        next(items)


def test_a_snapshot_that_has_ended_raises_from_every_side_and_holds_nothing() -> None:
    layer = layer_of({b"a": b"1", b"b": b"2"})
    snapshot = snapshot_of([layer], [])
    begun, fresh = (snapshot.scan("pairs", None, None, False) for _ in range(2))
    assert next(begun) == (b"a", b"1")
    snapshot.end(EndedError("ended"))
    calls: list[Callable[[], object]] = [snapshot.check, snapshot.count, snapshot.first]
    calls += [lambda: next(begun), lambda: next(fresh), lambda: snapshot.lookup.value(b"a")]
    calls += [lambda: snapshot.scan("pairs", None, None, False)]
    for call in calls:
        with pytest.raises(EndedError, match="ended"):
            call()
    assert snapshot._parts == ((), (), (), None)


def test_a_count_that_is_known_below_is_believed() -> None:
    assert snapshot_of([layer_of({b"a": b"1"})], [], live=41).count() == 42


def test_threads_may_put_a_layer_in_order_and_walk_it_at_once() -> None:
    table: Table = {b"%05d" % (number * 7919 % 20_000): b"" for number in range(20_000)}
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(5):
            found = walks_at_once(snapshot_of([layer_of(table)], []), 4)
            assert found == [sorted(table)] * 4
    finally:
        sys.setswitchinterval(interval)


def walks_at_once(snapshot: Snapshot, count: int) -> list[list[bytes]]:
    found: list[list[bytes]] = []
    walks = [
        threading.Thread(
            target=lambda: found.append(list(snapshot.scan("keys", None, None, False)))
        )
        for _ in range(count)
    ]
    for walk in walks:
        walk.start()
    for walk in walks:
        walk.join()
    return found
