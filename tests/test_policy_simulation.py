"""The simulator's estimates against sets of real keys, and against a real store."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path

import pytest

from oblivion_dbm import Database
from oblivion_dbm.engine.options import Options

BENCHMARKS = str(Path(__file__).resolve().parent.parent / "benchmarks")
sys.path.append(BENCHMARKS)
try:
    import simulate_compaction as simulation
    from simulate_compaction import DELETE, LOAD, MIXED, OVERWRITE, Keys, Phase
finally:
    sys.path.remove(BENCHMARKS)


class Counted:
    """What a run holds, key by key: True is a put, False a tombstone."""

    def __init__(self, records: dict[int, bool]) -> None:
        self.records = records
        self.puts = sum(records.values())
        self.tombstones = len(records) - self.puts

    def merged(self, older: Sequence[Counted], drop_tombstones: bool) -> Counted:
        records: dict[int, bool] = {}
        for run in reversed([self, *older]):
            records.update(run.records)
        if drop_tombstones:
            records = {key: put for key, put in records.items() if put}
        return Counted(records)


class Writes:
    """Random writes to real keys, as the simulator imagines them."""

    def __init__(self, keys: Keys, skewed: bool) -> None:
        self.keys = keys
        self.random = random.Random(1)
        self.ranks = range(keys.total)
        self.order = list(self.ranks)
        self.random.shuffle(self.order)
        self.weights: list[float] | None = None
        if skewed:
            powers = ((rank + 1) ** -simulation.SKEW for rank in self.ranks)
            self.weights = list(accumulate(powers))

    def memtables(self, phase: Phase, options: Options) -> Iterator[Counted]:
        for writes, _ in simulation.memtables(phase, self.keys, options):
            count = round(writes)
            if phase == LOAD:
                chosen, self.order = self.order[:count], self.order[count:]
            else:
                chosen = self.random.choices(self.ranks, cum_weights=self.weights, k=count)
            kinds = self.random.choices((True, False), (phase.puts, 1 - phase.puts), k=count)
            yield Counted(dict(zip(chosen, kinds)))


def close(estimate: float, counted: float, least: float) -> bool:
    """Tell whether two numbers differ by at most 3 %, or by ``least``."""
    return abs(estimate - counted) <= max(0.03 * counted, least)


def runs_looked_at(runs: Sequence[Counted]) -> float:
    """Return the mean number of runs to look at, over the keys that are there."""
    newest: dict[int, int] = {}
    for place, run in enumerate(runs, 1):
        for key, put in run.records.items():
            newest.setdefault(key, place if put else 0)
    return simulation.mean([place for place in newest.values() if place])


SHORT = (LOAD, OVERWRITE._replace(times=3, least=1), MIXED._replace(times=2, least=1), DELETE)


@pytest.mark.parametrize(
    ("total", "skewed", "phases"),
    [
        (10_000, False, SHORT),
        (10_000, True, SHORT),
        (100_000, False, SHORT),
        (100_000, True, SHORT),
        (1_000_000, False, (LOAD, OVERWRITE._replace(times=0.6, least=1))),
        (1_000_000, True, (LOAD, MIXED._replace(times=0.6, least=1))),
    ],
)
def test_the_estimates_agree_with_sets_of_keys(
    total: int, skewed: bool, phases: tuple[Phase, ...]
) -> None:
    keys = Keys.skewed(total) if skewed else Keys.uniform(total)
    options = Options(memtable_limit=total * 40, fan_in=4)
    writes = Writes(keys, skewed)
    estimated, counted = simulation.Store(options), simulation.Store(options)
    live = [0.0] * len(keys.counts)
    for phase in phases:
        figures = simulation.play(estimated, keys, phase, live)
        flushed = sum(counted.flush(memtable) for memtable in writes.memtables(phase, options))
        assert close(figures.flushed, flushed, 0), phase.name
        assert close(estimated.merged, counted.merged, 0), phase.name
        assert close(estimated.size, counted.size, 0), phase.name
        assert len(estimated.version.runs) == len(counted.version.runs)
        for estimate, run in zip(estimated.runs(), counted.runs()):
            assert close(estimate.puts, run.puts, total / 500), phase.name
            assert close(estimate.tombstones, run.tombstones, total / 500), phase.name
        there = counted.runs()[0].merged(counted.runs()[1:], True).puts
        assert close(keys.weigh(live), there, 0), phase.name
        looked_at = runs_looked_at(counted.runs())
        assert close(simulation.runs_touched(estimated.runs()), looked_at, 0.02), phase.name


@pytest.mark.parametrize("puts", [1.0, 0.5])
def test_a_memtable_is_full_when_log_and_keys_reach_its_limit(puts: float) -> None:
    keys, options = Keys.skewed(50_000), Options(memtable_limit=1 << 22)
    step = simulation.operations_per_flush(keys, options, puts)
    writes = Writes(keys, skewed=True)
    distinct = len(
        set(writes.random.choices(writes.ranks, cum_weights=writes.weights, k=int(step)))
    )
    record = puts * simulation.PUT + (1 - puts) * simulation.TOMBSTONE
    assert close(step * record + simulation.KEY_OVERHEAD * distinct, options.memtable_limit, 0)


def shape(db: Database) -> list[tuple[int, int, int, int]]:
    """Return level, puts, tombstones and bytes of each run, newest first."""
    return [
        (run["level"], run["puts"], run["tombstones"], run["bytes"]) for run in db.stats()["runs"]
    ]


def test_the_estimates_agree_with_a_store(tmp_path: Path) -> None:
    keys = Keys.uniform(6_000)
    options = Options(memtable_limit=200_000, fan_in=3)
    writes = Writes(keys, skewed=False)
    estimated = simulation.Store(options)
    phases = (LOAD, OVERWRITE._replace(times=2, least=1), MIXED._replace(times=1, least=1))
    with Database(tmp_path / "s", fan_in=3) as db:
        for phase in phases:
            coming = simulation.memtables(phase, keys, options)
            for (_, memtable), counted in zip(coming, writes.memtables(phase, options)):
                estimated.flush(memtable)
                with db.batch() as batch:
                    for key, put in counted.records.items():
                        if put:
                            batch[b"%016d" % key] = bytes(100)
                        else:
                            del batch[b"%016d" % key]
                db.flush()
                wait_for_levels(db, [run.level for run in estimated.version.runs])
        for found, run in zip(shape(db), estimated.version.runs):
            estimate = estimated.contents[run.tables[0].number]
            assert close(estimate.puts, found[1], 40)
            assert close(estimate.tombstones, found[2], 40)
            assert close(simulation.table_bytes(estimate), found[3], 40 * simulation.PUT)


def wait_for_levels(db: Database, levels: list[int]) -> None:
    """Return once the store's runs have these levels; merging may be somebody else's work."""
    for _ in range(500):
        if [run[0] for run in shape(db)] == levels:
            return
        time.sleep(0.01)
    assert [run[0] for run in shape(db)] == levels


def test_the_bound_on_space_holds_where_flushes_are_small_beside_the_store() -> None:
    for ratio in (0.5, 1.0, 2.0, 4.0):
        options = Options(space_ratio=ratio)
        phases = simulation.simulate(Keys.uniform(3_000_000), options)
        for name in ("load", "overwrite", "puts and deletes", "delete"):
            assert max(phases[name].space) <= 1 + ratio


@pytest.mark.parametrize("name", simulation.ALTERNATIVES)
def test_every_policy_comes_to_rest(name: str) -> None:
    policy, options = simulation.ALTERNATIVES[name]
    phases = simulation.simulate(Keys.uniform(2_000_000), options, policy)
    assert all(figures.write_amplification >= 1 for figures in phases.values())
