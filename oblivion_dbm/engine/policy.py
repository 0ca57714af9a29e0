"""Which runs to merge next: a pure function of a Version, with no clock and no I/O.

Tiering with a bound on space: runs of one level are left side by side until
there are ``fan_in`` of them, then merged into one run of the next level; and
everything is merged into one run once the newer runs together are
``space_ratio`` times as large as the oldest.  So a record is rewritten about
once for each level of fan-in, and a store of unchanging size takes at most
(1 + ``space_ratio``) times its live bytes, and a flush's worth.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oblivion_dbm.engine.options import Options
    from oblivion_dbm.engine.version import Run, Version


class Task:
    """Merge ``runs``, neighbours in age, into one run of ``level``.

    ``drop_tombstones``: nothing older is left that a tombstone could hide.
    """

    __slots__ = ("drop_tombstones", "level", "runs")

    def __init__(self, runs: tuple[Run, ...], level: int, drop_tombstones: bool) -> None:
        self.runs = runs
        self.level = level
        self.drop_tombstones = drop_tombstones


def choose(
    version: Version, options: Options, quarantined: frozenset[int] = frozenset()
) -> Task | None:
    """Return the next merge, None when there is nothing to do.

    Runs that hold a table whose number is ``quarantined`` are left alone.
    """
    runs = version.runs
    sound = [not any(table.number in quarantined for table in run.tables) for run in runs]
    if len(runs) > 1 and runs[-1].level > 0 and all(sound):
        newer = sum(run.size for run in runs[:-1])
        buried = sum(run.tombstones for run in runs[:-1])
        if newer >= options.space_ratio * runs[-1].size or 2 * buried > runs[-1].puts:
            return everything(version)
    start = 0
    while start < len(runs):
        level, stop = runs[start].level, start
        while stop < len(runs) and runs[stop].level == level and sound[stop]:
            stop += 1
        if stop - start >= options.fan_in:
            return Task(runs[start:stop], level + 1, stop == len(runs))
        start = max(stop, start + 1)
    return None


def everything(version: Version) -> Task | None:
    """Return the merge of all runs into one, None when that changes nothing."""
    runs = version.runs
    if not runs or (len(runs) == 1 and not runs[0].tombstones):
        return None
    return Task(runs, max(1, runs[0].level, runs[-1].level), drop_tombstones=True)
