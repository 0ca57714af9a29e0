"""How far writers may get ahead, and the merges' share of the time between two flushes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from oblivion_dbm.engine.header_page import DATA_AT
from oblivion_dbm.engine.memtable import OVERHEAD
from oblivion_dbm.engine.options import Options
from oblivion_dbm.engine.pressure import (
    FLUSH_STRIDE,
    PAUSE,
    PRESSED_STRIDE,
    STRIDE,
    Pressure,
)
from oblivion_dbm.engine.storage_engine import open_store

LIMIT = 100_000_000
RECORD = 800


class Writer:
    """What Pressure looks at: a MemTable that is as full as the test says, and runs."""

    def __init__(self, **options: Any) -> None:
        self.position = DATA_AT
        self.memtables: list[Any] = [[]]
        self.version = SimpleNamespace(runs=())
        self.pressure = Pressure(
            Options(memtable_limit=LIMIT, fan_in=8, slow_runs=16, stop_runs=32, **options),
            self,  # type: ignore[arg-type]  # as much of a tree as is asked for
            self,  # type: ignore[arg-type]  # as much of an appender
        )

    def fill(self, share: float) -> float | None:
        """Fill the MemTable to ``share`` of its limit, and return the pause."""
        records = round(share * LIMIT / (RECORD + OVERHEAD))
        self.memtables[0] = range(records)
        self.position = DATA_AT + RECORD * records
        assert self.pressure.fill() == pytest.approx(share, abs=1e-4)
        return self.pressure.pause()

    def seal(self) -> None:
        self.memtables = [[], []]

    def runs(self, count: int) -> None:
        self.version.runs = (None,) * count


def longer(pauses: list[float | None]) -> bool:
    """Whether there are only pauses, each longer than the one before it."""
    found = [pause or 0.0 for pause in pauses]
    return found[0] > 0 and all(low < high for low, high in pairwise(found))


def test_nobody_pauses_while_nothing_is_under_way() -> None:
    writer = Writer()
    assert [writer.fill(share) for share in (0.0, 0.3, 0.99)] == [0.0] * 3
    assert writer.pressure.stride() == STRIDE


def test_the_further_ahead_the_longer_the_pause_until_nothing_may_be_written() -> None:
    writer = Writer()
    writer.seal()
    writer.pressure.flush_begins(1000, merges_wait=False)
    assert writer.fill(0.4) == 0.0
    assert writer.pressure.stride() == FLUSH_STRIDE
    assert longer([PAUSE, *(writer.fill(share) for share in (0.51, 0.6, 0.8, 1.2))])
    assert writer.pressure.stride() == PRESSED_STRIDE
    assert writer.fill(1.26) is None
    assert writer.pressure.stride() == 0


def test_writers_keep_pace_with_the_flush() -> None:
    writer = Writer()
    writer.seal()
    writer.pressure.flush_begins(1000, merges_wait=False)
    assert writer.fill(0.7) != 0.0
    writer.pressure.piece_is_done(500)
    assert writer.fill(0.7) == 0.0
    assert writer.fill(0.9) != 0.0
    writer.pressure.piece_is_done(500)
    assert writer.fill(1.0) == 0.0


def test_merges_have_a_share_that_grows_with_the_runs() -> None:
    shares = []
    for runs in (8, 16, 24):
        writer = Writer()
        writer.runs(runs)
        writer.pressure.flush_begins(1000, merges_wait=True)
        for _ in range(10):
            writer.pressure.piece_is_done(100)
        writer.pressure.flush_ends()
        shares.append(0)
        while writer.pressure.share_is_due:
            writer.pressure.piece_is_done(77)
            shares[-1] += 1
    assert shares == [10, 20, 30]


def test_writers_keep_pace_with_flush_and_share_together() -> None:
    writer = Writer()
    writer.runs(8)
    writer.pressure.flush_begins(1000, merges_wait=True)
    for _ in range(10):
        writer.pressure.piece_is_done(100)
    assert writer.fill(0.79) == 0.0
    assert writer.fill(0.81) != 0.0
    writer.pressure.flush_ends()
    assert writer.fill(0.79) == 0.0
    assert writer.fill(0.81) != 0.0
    for _ in range(9):
        writer.pressure.piece_is_done(100)
    assert writer.fill(1.0) == 0.0


def test_no_share_where_nothing_waits_or_merging_has_failed() -> None:
    writer = Writer()
    writer.runs(8)
    for merges_wait in (False, True):
        writer.pressure.flush_begins(1000, merges_wait)
        writer.pressure.piece_is_done(1000)
        writer.pressure.flush_ends()
        assert writer.pressure.share_is_due is merges_wait
    writer.pressure.end_share()
    assert not writer.pressure.share_is_due
    assert writer.fill(0.99) == 0.0


def test_many_runs_slow_writers_down_and_more_stop_them_while_a_merge_goes_on() -> None:
    writer = Writer()
    for merging, expected in ((False, [0.0, 0.0, 0.0]), (True, [0.0, PAUSE, None])):
        writer.pressure.merging = merging
        for runs, pause in zip((15, 16, 32), expected, strict=True):
            writer.runs(runs)
            assert writer.fill(0.1) == pause


def test_merges_keep_up_with_writers_that_never_rest(tmp_path: Path) -> None:
    options = Options(memtable_limit=100_000, fan_in=4, slow_runs=1000, stop_runs=1000)
    store = open_store(str(tmp_path / "store"), "c", options)
    runs = set()
    for number in range(40_000):
        store.put(b"%d" % (number * 7919 % 10_007), b"value")
        runs.add(len(store.tree.version.runs))
    assert 4 <= max(runs) <= 20  # of some 80 flushes
    store.close()
