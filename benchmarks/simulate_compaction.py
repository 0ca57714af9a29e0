"""Runs the compaction policy over imagined stores, from 10,000 to 1,000,000,000 keys.

    python benchmarks/simulate_compaction.py --plot docs/compaction.svg

The policy is the real one, asked about real Versions; only the tables are imagined.  Of
each run the simulator knows what part of the keys it is expected to hold, so memory grows
with the number of runs, not of keys.  docs/compaction.md has the formulas.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import exp, log, log1p
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from oblivion_dbm.engine.options import Options
from oblivion_dbm.engine.policy import Task, choose
from oblivion_dbm.engine.version import Run, TableInfo, Version

Choose = Callable[[Version, Options, "frozenset[int]"], "Task | None"]

#: Bytes of a record in the log: 16 of key and 100 of value, or none, and what frames them.
PUT, TOMBSTONE = 129, 29
#: Bytes a record adds to a table beside its own: slot, filter, length and checksums.
TABLE_OVERHEAD = 15.78
#: Bytes of memory that a MemTable counts for a key beside its record.
KEY_OVERHEAD = 200
#: The part of absent keys that a filter lets through.
FALSE_POSITIVES = 0.007
#: Microseconds to write a record by flush or merge, and to ask the filter of a run.
WRITING, ASKING = 1.4, 0.35
#: The skew of skewed writes: the key of rank r is written in proportion to r ** -SKEW.
SKEW, BUCKETS = 0.99, 60


class Contents(Protocol):
    """What a run holds."""

    @property
    def puts(self) -> float:
        """Records that are not tombstones."""

    @property
    def tombstones(self) -> float:
        """Records that are."""

    def merged(self, older: Sequence[Any], drop_tombstones: bool) -> Contents:
        """Return what a merge with ``older``, newest first, leaves."""


class Keys:
    """The keys that are written, in buckets of about equal popularity.

    ``counts`` are the keys of each bucket, ``shares`` the part of all writes that go there.
    """

    def __init__(self, counts: Sequence[int], shares: Sequence[float]) -> None:
        self.counts = counts
        self.shares = shares
        self.total = sum(counts)

    @classmethod
    def uniform(cls, total: int) -> Keys:
        """Return keys that are all written equally often."""
        return cls([total], [1.0])

    @classmethod
    def skewed(cls, total: int) -> Keys:
        """Return keys whose popularity follows Zipf's law, in logarithmic buckets."""
        ends = sorted({round(total ** (place / BUCKETS)) for place in range(1, BUCKETS + 1)})
        starts = [0, *ends[:-1]]
        weights = [_zipf(start, end) for start, end in zip(starts, ends)]
        return cls(
            [end - start for start, end in zip(starts, ends)],
            [weight / sum(weights) for weight in weights],
        )

    def written(self, operations: float) -> list[float]:
        """Return, for each bucket, the part of its keys that so many writes touch."""
        return [
            1.0 - (exp(operations * log1p(-share / count)) if share < count else 0.0)
            for count, share in zip(self.counts, self.shares)
        ]

    def weigh(self, parts: Sequence[float]) -> float:
        """Return how many keys these parts of the buckets are."""
        return sum(count * part for count, part in zip(self.counts, parts))


def _zipf(start: int, end: int) -> float:
    """Return the popularity of the ranks start + 1 to end, not normalised."""
    if end <= 1000:
        return sum(exp(-SKEW * log(rank)) for rank in range(start + 1, end + 1))
    power = 1 - SKEW
    return (exp(power * log(end + 0.5)) - exp(power * log(start + 0.5))) / power


class Estimate:
    """What a run is expected to hold, as parts of each bucket of ``keys``.

    ``loaded``: keys whose first record came by the load into this run; each is in one run.
    ``touched``: keys written since, in the time that the run stands for; ``put`` and
    ``deleted``: those whose newest record is here, a put or a tombstone.  Times are
    independent of one another, and the load is older than all of them.
    """

    __slots__ = ("deleted", "keys", "loaded", "put", "puts", "tombstones", "touched")

    def __init__(
        self,
        keys: Keys,
        loaded: list[float],
        touched: list[float],
        put: list[float],
        deleted: list[float],
    ) -> None:
        self.keys = keys
        self.loaded = loaded
        self.touched = touched
        self.put = put
        self.deleted = deleted
        self.puts = keys.weigh(
            [now + first * (1 - seen) for now, first, seen in zip(put, loaded, touched)]
        )
        self.tombstones = keys.weigh(deleted)

    @classmethod
    def load(cls, keys: Keys, part: float) -> Estimate:
        """Return a run of keys that were not there before, ``part`` of all."""
        none = [0.0] * len(keys.counts)
        return cls(keys, [part] * len(none), none, none, none)

    @classmethod
    def writes(cls, keys: Keys, operations: float, puts: float) -> Estimate:
        """Return what so many writes leave in a MemTable, the part ``puts`` not deletes."""
        none = [0.0] * len(keys.counts)
        touched = keys.written(operations)
        put = [part * puts for part in touched]
        return cls(keys, none, touched, put, [part * (1 - puts) for part in touched])

    def merged(self, older: Sequence[Estimate], drop_tombstones: bool) -> Estimate:
        """Return what a merge with ``older``, newest first, leaves."""
        loaded, touched = self.loaded, self.touched
        put, deleted = self.put, self.deleted
        for run in older:
            put = [a + b * (1 - seen) for a, b, seen in zip(put, run.put, touched)]
            deleted = [a + b * (1 - seen) for a, b, seen in zip(deleted, run.deleted, touched)]
            touched = [1 - (1 - a) * (1 - b) for a, b in zip(touched, run.touched)]
            loaded = [a + b for a, b in zip(loaded, run.loaded)]
        if drop_tombstones:
            deleted = [0.0] * len(deleted)
        return Estimate(self.keys, loaded, touched, put, deleted)


def runs_touched(runs: Sequence[Estimate]) -> float:
    """Return how many runs, newest first, a read of a key that is there looks at."""
    unseen = [1.0] * len(runs[0].keys.counts)
    found: list[float] = []
    for run in runs:
        found.append(run.keys.weigh([a * b for a, b in zip(run.put, unseen)]))
        unseen = [left * (1 - part) for left, part in zip(unseen, run.touched)]
    for place, run in enumerate(runs):
        found[place] += run.keys.weigh([a * b for a, b in zip(run.loaded, unseen)])
    return sum(place * part for place, part in enumerate(found, 1)) / (sum(found) or 1.0)


def table_bytes(contents: Contents) -> float:
    """Return the bytes of a run's tables."""
    put, tombstone = PUT + TABLE_OVERHEAD, TOMBSTONE + TABLE_OVERHEAD
    return contents.puts * put + contents.tombstones * tombstone


class Store:
    """A store whose flushes come in and whose merges the policy chooses."""

    def __init__(self, options: Options, policy: Choose = choose) -> None:
        self.options = options
        self.policy = policy
        self.version = Version("00" * 16, 0)
        self.contents: dict[int, Any] = {}
        self.size = self.peak = self.merged = self.largest = 0.0
        self.merges = 0

    def runs(self) -> list[Any]:
        """Return what each run holds, newest first."""
        return [self.contents[run.tables[0].number] for run in self.version.runs]

    def new_run(self, level: int, contents: Contents) -> Run:
        """Return a run as the MANIFEST would name it."""
        number = self.version.next_file
        self.version = self.version.replace(next_file=number + 1)
        self.contents[number] = contents
        size = table_bytes(contents)
        self.size += size
        self.peak = max(self.peak, self.size)
        return Run(
            level,
            (TableInfo(number, round(size), 0, round(contents.puts), round(contents.tombstones)),),
        )

    def flush(self, contents: Contents) -> float:
        """Add a run, carry out what the policy chooses, and return the bytes of the run."""
        if not self.version.runs:
            contents = contents.merged((), drop_tombstones=True)
        run = self.new_run(0, contents)
        self.version = self.version.with_flush(run, (), None)
        while (task := self.policy(self.version, self.options, frozenset())) is not None:
            self.merge(task)
        return table_bytes(contents)

    def merge(self, task: Task) -> None:
        """Carry a task out."""
        newest, *older = (self.contents[run.tables[0].number] for run in task.runs)
        output = newest.merged(older, task.drop_tombstones)
        run = self.new_run(task.level, output) if output.puts + output.tombstones >= 1 else None
        self.version = self.version.with_merge(task.runs, run)
        for old in task.runs:
            self.size -= table_bytes(self.contents.pop(old.tables[0].number))
        self.merges += 1
        self.merged += table_bytes(output)
        self.largest = max(self.largest, table_bytes(output))


class Phase(NamedTuple):
    """A stretch of writes: ``times`` for each key, the part ``puts`` of them not deletes.

    It lasts for ``least`` flushes at least, for a small MemTable's worth of keys takes many
    writes each before anything is merged.
    """

    name: str
    times: float
    puts: float
    least: int = 1


LOAD = Phase("load", 1, 1.0)
OVERWRITE = Phase("overwrite", 4, 1.0, least=100)
MIXED = Phase("puts and deletes", 3, 0.5, least=100)
DELETE = Phase("delete", 1, 0.0)
PHASES = (LOAD, OVERWRITE, MIXED, DELETE)
#: Flushes of a phase, about, after which the runs that a read touches are counted.
SAMPLES = 200


@dataclass
class Figures:
    """What a phase has cost.

    ``records`` are the bytes of records written, as in the log; ``flushed`` and ``merged``
    bytes of tables, as are ``largest``, of one merge, and ``space``, ``peak`` for each byte
    that a table of the live records alone would take: at rest after each flush, and while
    the inputs and the output of a merge are both there.
    """

    records: float = 0.0
    flushed: float = 0.0
    merged: float = 0.0
    merges: int = 0
    largest: float = 0.0
    peak: float = 0.0
    space: list[float] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)
    touched: list[float] = field(default_factory=list)

    @property
    def write_amplification(self) -> float:
        """Bytes written to tables for each byte of records; the log is one more."""
        return (self.flushed + self.merged) / self.records

    @property
    def searched(self) -> float:
        """Runs that a read of a present key searches: their filters have let it through."""
        return 1 + (mean(self.touched) - 1) * FALSE_POSITIVES

    @property
    def microseconds(self) -> tuple[float, float]:
        """Time to write tables for a put, and to ask filters for a read."""
        written = self.write_amplification * PUT / (PUT + TABLE_OVERHEAD)
        return WRITING * written, ASKING * mean(self.touched)


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean, 0 of nothing."""
    return sum(values) / len(values) if values else 0.0


def operations_per_flush(keys: Keys, options: Options, puts: float) -> float:
    """Return how many writes fill a MemTable: log and keys together reach its limit."""
    record = puts * PUT + (1 - puts) * TOMBSTONE
    low, high = 0.0, options.memtable_limit / record
    while high - low > 0.5:
        middle = (low + high) / 2
        distinct = keys.weigh(keys.written(middle))
        if middle * record + KEY_OVERHEAD * distinct < options.memtable_limit:
            low = middle
        else:
            high = middle
    return max(1.0, high)


def memtables(phase: Phase, keys: Keys, options: Options) -> Iterator[tuple[float, Estimate]]:
    """Yield the MemTables of a phase: how many writes, and what they leave."""
    if phase == LOAD:
        step = min(keys.total, options.memtable_limit / (PUT + KEY_OVERHEAD))
        whole, left = divmod(keys.total, step)
        yield from [(step, Estimate.load(keys, step / keys.total))] * int(whole)
        if left >= 1:
            yield left, Estimate.load(keys, left / keys.total)
    else:
        operations = phase.times * keys.total
        step = operations_per_flush(keys, options, phase.puts)
        if phase.least == 1:
            step = min(step, operations)
        count = max(phase.least, round(operations / step))
        yield from [(step, Estimate.writes(keys, step, phase.puts))] * count


def play(store: Store, keys: Keys, phase: Phase, live: list[float]) -> Figures:
    """Let a phase happen; ``live`` is the part of each bucket that is there, and changes."""
    figures = Figures(merged=-store.merged, merges=-store.merges)
    record = phase.puts * PUT + (1 - phase.puts) * TOMBSTONE
    coming = list(memtables(phase, keys, store.options))
    store.largest = 0.0
    for number, (writes, memtable) in enumerate(coming):
        figures.records += writes * record
        for place, (first, touched) in enumerate(zip(memtable.loaded, memtable.touched)):
            live[place] += first + memtable.put[place] - touched * live[place]
        store.peak = 0.0
        figures.flushed += store.flush(memtable)
        alive = keys.weigh(live) * (PUT + TABLE_OVERHEAD)
        figures.space.append(store.size / alive)
        figures.peak = max(figures.peak, store.peak / alive)
        figures.runs.append(len(store.version.runs))
        if number % (len(coming) // SAMPLES + 1) == 0:
            figures.touched.append(runs_touched(store.runs()))
    figures.merged += store.merged
    figures.merges += store.merges
    figures.largest = store.largest
    return figures


def simulate(
    keys: Keys, options: Options, policy: Choose = choose, phases: Sequence[Phase] = PHASES
) -> dict[str, Figures]:
    """Return what each phase costs, one after the other, by name."""
    store, live = Store(options, policy), [0.0] * len(keys.counts)
    return {phase.name: play(store, keys, phase, live) for phase in phases}


# What was weighed against the policy.

#: A fan-in and a bound that are never reached.
NEVER = 1 << 60
#: Flushes that leveling gathers before it merges them.
GATHERED = 4


def one_level_at_a_time(
    version: Version, options: Options, quarantined: frozenset[int]
) -> Task | None:
    """Return the policy's task, but leave alone the runs that it takes along."""
    whole = Options(fan_in=NEVER, space_ratio=options.space_ratio)
    task = choose(version, whole, quarantined)
    if task is None and (task := choose(version, options, quarantined)) is not None:
        level = task.runs[0].level
        runs = tuple(run for run in task.runs if run.level == level)
        return Task(runs, level + 1, len(runs) == len(version.runs))
    return task


def plain_tiering(version: Version, options: Options, quarantined: frozenset[int]) -> Task | None:
    """Return the policy's task, but count the oldest run as one of its level."""
    whole = Options(fan_in=NEVER, space_ratio=options.space_ratio)
    task = choose(version, whole, quarantined)
    if task is None:
        older = Run(NEVER, (TableInfo(0, NEVER, 0, NEVER, 0),))
        task = choose(version.replace(runs=(*version.runs, older)), options, quarantined)
        if task is not None:
            task.drop_tombstones = task.runs[-1] is version.runs[-1]
    return task


def leveling(version: Version, options: Options, _quarantined: frozenset[int]) -> Task | None:
    """Return a merge that leaves one run a level, each ``fan_in`` times the one above.

    As LevelDB does, it gathers four flushes at level 0 first.  LevelDB merges single tables
    below it, which the simulator, knowing no key ranges, cannot tell from whole levels.
    """
    fresh = sum(run.level == 0 for run in version.runs)
    memtable = options.memtable_limit * (PUT + TABLE_OVERHEAD) / (PUT + KEY_OVERHEAD)

    def depth(run: Run) -> int:
        return int(log(max(1.0, 1.01 * run.size / (GATHERED * memtable)), options.fan_in))

    older = version.runs[fresh:]
    if fresh >= GATHERED:
        taken = fresh + bool(older and depth(older[0]) == 0)
        return Task(version.runs[:taken], 1, taken == len(version.runs))
    for upper, lower in pairwise(older):
        if depth(upper) >= depth(lower):
            return Task((upper, lower), 1, lower is version.runs[-1])
    return None


TIERING = "fan-in {}, space ratio {}"
ALTERNATIVES: dict[str, tuple[Choose, Options]] = {
    "the policy and its defaults": (choose, Options()),
    "one level at a time": (one_level_at_a_time, Options()),
    "the same, fan-in 4": (one_level_at_a_time, Options(fan_in=4)),
    "the oldest run in tiers too": (plain_tiering, Options()),
    "leveling, fan-in 10": (leveling, Options(fan_in=10)),
    "leveling, fan-in 4": (leveling, Options(fan_in=4)),
    "tiering, space unbounded": (choose, Options(space_ratio=NEVER)),
    **{
        TIERING.format(fan_in, 2.0): (choose, Options(fan_in=fan_in))
        for fan_in in (2, 3, 4, 6, 10, 12, 16)
    },
    **{
        TIERING.format(8, ratio): (choose, Options(space_ratio=ratio))
        for ratio in (0.5, 1.0, 1.5, 3.0, 4.0)
    },
}
#: Sizes over which the alternatives are compared: eight in each power of ten.
MEAN_SIZES = [round(10 ** (6 + place / 8)) for place in range(17)]
#: Those that are drawn, over all sizes.
DRAWN = (
    "the policy and its defaults",
    "fan-in 4, space ratio 2.0",
    "leveling, fan-in 10",
    "tiering, space unbounded",
)


def small_flushes(count: int, beside: int, policy: Choose) -> tuple[float, int]:
    """Return the records that merges write, and runs, after ``count`` flushes by hand.

    Each holds ten records, all new, in a store that holds ``beside`` others.
    """
    total = beside + 10 * count
    keys, store = Keys.uniform(total), Store(Options(), policy)
    if beside:
        store.flush(Estimate.load(keys, beside / total))
    memtable = Estimate.load(keys, 10 / total)
    for _ in range(count):
        store.flush(memtable)
    return store.merged / (PUT + TABLE_OVERHEAD), len(store.version.runs)


# What is printed and drawn.

HEADINGS = (
    f"{'written':>8} {'with log':>8} {'runs':>9} {'touched':>7} {'searched':>8}"
    f" {'space':>9} {'peak':>5} {'merges':>6} {'largest':>9}"
)


def row(figures: Figures) -> str:
    """Return a line for people, under ``HEADINGS``."""
    runs = f"{mean(figures.runs):.1f} / {max(figures.runs)}"
    space = f"{mean(figures.space):.1f} / {max(figures.space):.1f}"
    return (
        f"{figures.write_amplification:8.2f} {figures.write_amplification + 1:8.2f} {runs:>9}"
        f" {mean(figures.touched):7.2f} {figures.searched:8.3f} {space:>9} {figures.peak:5.2f}"
        f" {figures.merges:6} {figures.largest / 1e6:6.0f} MB"
    )


def print_sizes(results: dict[tuple[str, int], dict[str, Figures]]) -> None:
    """Print what the policy costs at each size, phase after phase."""
    print(f"{'keys':>13}  {'':8} {'':16} {HEADINGS}")
    for (kind, total), phases in results.items():
        for name, figures in phases.items():
            print(f"{total:13,}  {kind:8} {name:16} {row(figures)}")


def print_alternatives() -> None:
    """Print what each policy costs, as means over many sizes: a single one may be lucky."""
    print(
        "\nMeans over stores of 1,000,000 to 100,000,000 keys, in random order\n"
        f"{'':28} {'written by':>28}  {'when overwriting':>40}  {'deletes':>7}  {'µs':>6}\n"
        f"{'':28} {'load':>8} {'overwrite':>9} {'deletes':>9}  {'runs':>6} {'most':>6} "
        f"{'touched':>7} {'space':>5} {'most':>5} {'peak':>5}  {'most':>7}  "
        f"{'a put':>6} {'a read':>6} {'both':>5}"
    )
    for name, (policy, options) in ALTERNATIVES.items():
        each = [simulate(Keys.uniform(size), options, policy, PHASES[:3]) for size in MEAN_SIZES]
        load, overwrite, mixed = ([one[phase.name] for one in each] for phase in PHASES[:3])
        put = mean([figures.microseconds[0] for figures in overwrite])
        read = mean([figures.microseconds[1] for figures in overwrite])
        written = [
            mean([figures.write_amplification for figures in phase])
            for phase in (load, overwrite, mixed)
        ]
        print(
            f"{name:28} {written[0]:8.2f} {written[1]:9.2f} {written[2]:9.2f}  "
            f"{mean([mean(figures.runs) for figures in overwrite]):6.1f} "
            f"{max(max(figures.runs) for figures in overwrite):6} "
            f"{mean([mean(figures.touched) for figures in overwrite]):7.2f} "
            f"{mean([mean(figures.space) for figures in overwrite]):5.2f} "
            f"{max(max(figures.space) for figures in overwrite):5.2f} "
            f"{max(figures.peak for figures in overwrite):5.2f}  "
            f"{max(max(figures.space) for figures in mixed):7.2f}  "
            f"{put:6.2f} {read:6.2f} {put + read:5.2f}"
        )


def print_small_flushes() -> None:
    """Print what flushes of ten records each cost, alone and beside a large store."""
    print("\nflush() after every ten records: records that merges write, and runs at the end")
    print(f"{'flushes':>9}  {'alone':>17}  {'beside 1,000,000':>17}  {'oldest in tiers':>17}")
    for count in (10, 100, 1_000, 10_000, 100_000):
        cases = ((0, choose), (1_000_000, choose), (1_000_000, plain_tiering))
        pairs = [small_flushes(count, beside, policy) for beside, policy in cases]
        columns = (f"{f'{written:,.0f} / {runs}':>17}" for written, runs in pairs)
        print(f"{count:9,}  {'  '.join(columns)}")


def print_fill() -> None:
    """Print what is merged while a million records come in, before the rest is flushed."""
    print("\nFilling 1,000,000 keys, while they come in")
    for fan_in in (2, 4, 6, 8, 10):
        store, keys = Store(Options(fan_in=fan_in)), Keys.uniform(1_000_000)
        *full, _ = memtables(LOAD, keys, store.options)
        for _, memtable in full:
            store.flush(memtable)
        merged = store.merged / (PUT + TABLE_OVERHEAD)
        print(
            f"fan-in {fan_in:2}: {len(full)} flushes of {full[0][0]:,.0f}, {store.merges} merges "
            f"of {merged:,.0f} records, {len(store.version.runs)} runs"
        )


def print_small_stores() -> None:
    """Print the most space that stores take which are few MemTables large."""
    print("\nMost bytes at rest for a live one; peak")
    for total in (100_000, 200_000, 300_000, 500_000, 1_000_000):
        phases = simulate(Keys.uniform(total), Options(), choose, PHASES[:3])
        columns = (
            f"{phase.name}: {max(phases[phase.name].space):.2f}; {phases[phase.name].peak:.2f}"
            for phase in PHASES[1:3]
        )
        print(f"{total:9,}  {'  '.join(columns)}")


LINES = {
    "load": ("uniform", LOAD, "#7f93a8"),
    "overwrite, uniform": ("uniform", OVERWRITE, "#d9541e"),
    "overwrite, skewed": ("skewed", OVERWRITE, "#2a9d8f"),
    "puts and deletes, uniform": ("uniform", MIXED, "#6a4c93"),
    "puts and deletes, skewed": ("skewed", MIXED, "#b39ddb"),
}
PANELS: dict[str, Callable[[Figures], float]] = {
    "write: bytes to tables for a byte put": lambda figures: figures.write_amplification,
    "read: runs that may hold a present key": lambda figures: mean(figures.touched),
    "space: most bytes at rest for a live one": lambda figures: max(figures.space),
}


def draw(
    results: dict[tuple[str, int], dict[str, Figures]],
    others: dict[str, dict[int, Figures]],
    path: Path,
) -> None:
    """Draw the three amplifications over the number of keys, ours and those of others."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7.2))
    grid = figure.subplots(2, 3, sharex=True)
    sizes = sorted({total for _, total in results})
    for (title, pick), above, below in zip(PANELS.items(), *grid):
        above.set_title(title, fontsize=10)
        for label, (kind, phase, colour) in LINES.items():
            values = [pick(results[kind, total][phase.name]) for total in sizes]
            above.plot(sizes, values, "o-", markersize=3, color=colour, label=label)
        for label, by_size in others.items():
            values = [pick(figures) for figures in by_size.values()]
            below.plot(list(by_size), values, "o-", markersize=3, label=label)
        for axes in (above, below):
            axes.set_xscale("log")
            axes.minorticks_off()
            axes.set_ylim(bottom=0)
            axes.grid(color="#dddddd")
            axes.spines[["top", "right"]].set_visible(False)
        below.set_xlabel("keys of 16 bytes, with 100 bytes of value")
    for axes, title in zip(grid[:, 0], ("the policy", "overwrite, uniform: other policies")):
        axes.set_ylabel(title)
        axes.legend(fontsize=8, frameon=False)
    grid[1, 2].set_ylim(0, 6)
    figure.tight_layout()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "compaction"}):
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Print the tables, and draw the picture if asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keys", type=float, nargs="+", default=[10.0**n for n in range(4, 10)])
    parser.add_argument("--plot", type=Path, help="draw into this file (needs matplotlib)")
    options = parser.parse_args()
    sizes = [round(total) for total in options.keys]
    results = {
        (kind, total): simulate(make(total), Options())
        for kind, make in (("uniform", Keys.uniform), ("skewed", Keys.skewed))
        for total in sizes
    }
    print_sizes(results)
    print_alternatives()
    print_small_stores()
    print_fill()
    print_small_flushes()
    if options.plot:
        others: dict[str, dict[int, Figures]] = {}
        for name in DRAWN:
            policy, settings = ALTERNATIVES[name]
            others[name] = {
                total: simulate(Keys.uniform(total), settings, policy, PHASES[:2])[OVERWRITE.name]
                for total in sizes
            }
        draw(results, others, options.plot)


if __name__ == "__main__":
    main()
