"""The policy returns a value; a simulator runs it over imagined stores, without files."""

from __future__ import annotations

from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oblivion_dbm.engine.options import Options
from oblivion_dbm.engine.policy import choose, everything
from oblivion_dbm.engine.version import Run, TableInfo, Version

OPTIONS = Options(fan_in=3, space_ratio=2.0)


def run_of(number: int, level: int, size: int = 100, puts: int = 10, tombstones: int = 0) -> Run:
    return Run(level, (TableInfo(number, size, 0, puts, tombstones),))


def version_of(*runs: Run) -> Version:
    return Version("00" * 16, 7, runs=runs, next_file=1000)


def test_nothing_to_merge_is_no_task() -> None:
    assert choose(version_of(), OPTIONS) is None
    assert everything(version_of()) is None
    alone = version_of(run_of(1, 0))
    assert choose(alone, OPTIONS) is None
    assert everything(alone) is None


def test_runs_of_one_level_wait_until_there_are_fan_in_of_them() -> None:
    runs = [run_of(number, 0) for number in (3, 2, 1)]
    assert choose(version_of(*runs[:2]), OPTIONS) is None
    task = choose(version_of(*runs), OPTIONS)
    assert task is not None
    assert (task.runs, task.level, task.drop_tombstones) == (tuple(runs), 1, True)


def test_tombstones_stay_while_something_older_is_left() -> None:
    runs = [*(run_of(number, 0) for number in (5, 4, 3)), run_of(2, 1, size=10**6, puts=10**6)]
    task = choose(version_of(*runs), OPTIONS)
    assert task is not None
    assert task.runs == tuple(runs[:3])
    assert not task.drop_tombstones


def test_everything_is_merged_once_the_newer_runs_weigh_space_ratio_times_the_oldest() -> None:
    oldest = run_of(1, 1, size=100, puts=1000)
    assert choose(version_of(run_of(2, 0, size=199), oldest), OPTIONS) is None
    task = choose(version_of(run_of(2, 0, size=200), oldest), OPTIONS)
    assert task is not None
    assert len(task.runs) == 2
    assert task.drop_tombstones


def test_tombstones_count_as_dead_records_of_the_oldest_run() -> None:
    # 1,100 bytes in all; at 63 of 100 dead, 3.0 times what is alive is 1,110; at 64, 1,080.
    oldest = run_of(1, 1, size=1000, puts=100)
    assert choose(version_of(run_of(2, 0, size=100, tombstones=63), oldest), OPTIONS) is None
    task = choose(version_of(run_of(2, 0, size=100, tombstones=64), oldest), OPTIONS)
    assert task is not None
    assert len(task.runs) == 2
    assert task.drop_tombstones


def test_more_tombstones_than_there_are_records_is_a_reason_to_merge() -> None:
    oldest = run_of(1, 1, size=1000, puts=100)
    task = choose(version_of(run_of(2, 0, size=1, tombstones=1000), oldest), OPTIONS)
    assert task is not None
    assert len(task.runs) == 2


def test_a_flush_that_is_the_oldest_waits_for_the_fan_in() -> None:
    assert choose(version_of(run_of(2, 0, size=10**6), run_of(1, 0, size=1)), OPTIONS) is None


def test_without_room_for_dead_records_every_flush_is_merged() -> None:
    version = version_of(run_of(2, 0, size=1), run_of(1, 1, size=10**6))
    task = choose(version, Options(space_ratio=0))
    assert task is not None
    assert len(task.runs) == 2


def test_a_level_that_a_merge_would_fill_is_taken_along() -> None:
    fresh = [run_of(number, 0) for number in (8, 7, 6)]
    older = [run_of(number, 1) for number in (5, 4)]
    oldest = run_of(1, 3, size=10**6, puts=10**6)
    task = choose(version_of(*fresh, *older, oldest), OPTIONS)
    assert task is not None
    assert (task.runs, task.level) == ((*fresh, *older), 2)
    assert not task.drop_tombstones
    task = choose(version_of(*fresh, older[0], oldest), OPTIONS)
    assert task is not None
    assert (task.runs, task.level) == (tuple(fresh), 1)


def test_all_that_has_piled_up_on_a_level_is_merged_at_once() -> None:
    runs = [run_of(number, 0) for number in range(20, 0, -1)]
    task = choose(version_of(*runs), OPTIONS)
    assert task is not None
    assert (task.runs, task.level) == (tuple(runs), 1)


def test_a_full_level_is_merged_below_one_that_is_not() -> None:
    runs = [run_of(5, 0), *(run_of(number, 1) for number in (4, 3, 2)), run_of(1, 1, size=10**6)]
    task = choose(version_of(*runs), OPTIONS)
    assert task is not None
    assert (task.runs, task.level, task.drop_tombstones) == (tuple(runs[1:4]), 2, False)


def test_the_oldest_run_is_left_to_the_rule_of_space_once_it_was_merged() -> None:
    fresh = [run_of(number, 0) for number in (4, 3)]
    assert choose(version_of(*fresh, run_of(1, 0, size=10**6)), OPTIONS) is not None
    older = [run_of(number, 1) for number in (4, 3)]
    assert choose(version_of(*older, run_of(1, 1, size=10**6)), OPTIONS) is None


def test_the_merge_of_everything_keeps_the_highest_level() -> None:
    task = everything(version_of(run_of(3, 0), run_of(2, 4), run_of(1, 1)))
    assert task is not None
    assert task.level == 4


def test_other_runs_can_be_merged_while_a_merge_is_under_way() -> None:
    old = [run_of(number, 1) for number in (3, 2, 1)]
    fresh = [run_of(number, 0) for number in (6, 5, 4)]
    taken = frozenset({1, 2, 3})
    assert choose(version_of(*fresh[1:], *old), OPTIONS, taken) is None
    task = choose(version_of(*fresh, *old), OPTIONS, taken)
    assert task is not None
    assert (task.runs, task.level, task.drop_tombstones) == (tuple(fresh), 1, False)


def test_one_run_is_merged_on_demand_only_if_that_drops_tombstones() -> None:
    task = everything(version_of(run_of(1, 2, tombstones=1)))
    assert task is not None
    assert (task.level, task.drop_tombstones) == (2, True)


def test_a_quarantined_run_is_left_alone_and_divides_its_neighbours() -> None:
    runs = [run_of(number, 0) for number in (7, 6, 5, 4, 3, 2, 1)]
    task = choose(version_of(*runs), OPTIONS, frozenset({4}))
    assert task is not None
    assert task.runs == tuple(runs[:3])
    assert choose(version_of(*runs), OPTIONS, frozenset({5, 3})) is None
    older = choose(version_of(*runs), OPTIONS, frozenset({6}))
    assert older is not None
    assert older.runs == tuple(runs[2:])
    deep = version_of(run_of(2, 0, size=500), run_of(1, 1))
    assert choose(deep, OPTIONS) is not None
    assert choose(deep, OPTIONS, frozenset({1})) is None


class Simulator:
    """A store of sizes alone: flushes come in, the policy's tasks are carried out."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.version = version_of()
        self.number = 0
        self.written = 0

    def flush(self, size: int, tombstones: int) -> None:
        self.number += 1
        run = run_of(self.number, 0, size, size, tombstones)
        self.version = self.version.with_flush(run, (), None)
        self.written += size
        while (task := choose(self.version, self.options)) is not None:
            assert len(task.runs) > 1
            assert task.drop_tombstones == (task.runs[-1] is self.version.runs[-1])
            self.number += 1
            size = sum(run.size for run in task.runs)
            buried = 0 if task.drop_tombstones else sum(run.tombstones for run in task.runs)
            output = run_of(self.number, task.level, size, size, buried)
            self.version = self.version.with_merge(task.runs, output)
            self.written += size


@given(
    st.integers(2, 6),
    st.floats(0, 4),
    st.lists(st.tuples(st.integers(1, 100), st.integers(0, 100)), max_size=80),
)
def test_the_policy_comes_to_rest_after_every_flush(
    fan_in: int, ratio: float, flushes: list[tuple[int, int]]
) -> None:
    simulator = Simulator(Options(fan_in=fan_in, space_ratio=ratio))
    for size, tombstones in flushes:
        simulator.flush(size, min(size, tombstones))
        *levels, oldest = [run.level for run in simulator.version.runs]
        levels += [] if oldest else [oldest]
        assert all(levels.count(level) < fan_in for level in levels)


def test_fresh_records_are_written_less_than_once_a_level() -> None:
    simulator = Simulator(Options(fan_in=8, space_ratio=100.0))
    for _ in range(8**3):
        simulator.flush(100, 0)
    assert simulator.written <= 4 * 100 * 8**3
    assert len(simulator.version.runs) <= 3 * 7


@pytest.mark.parametrize("beside", [0, 10_000])
def test_many_small_flushes_cost_the_logarithm_of_their_number(beside: int) -> None:
    simulator = Simulator(Options())
    simulator.flush(beside, 0)
    for _ in range(10_000):
        simulator.flush(1, 0)
    levels = log(10_000, 8)
    assert simulator.written <= 2.5 * beside + 10_000 * (levels + 3)
    assert len(simulator.version.runs) <= 7 * (levels + 1)


def test_the_newer_runs_never_weigh_space_ratio_times_the_oldest_for_long() -> None:
    simulator = Simulator(Options(fan_in=4, space_ratio=2.0))
    for _ in range(200):
        simulator.flush(100, 0)
        *newer, oldest = simulator.version.runs
        if newer and oldest.level:
            assert sum(run.size for run in newer) < 2.0 * oldest.size
