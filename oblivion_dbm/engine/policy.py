"""Which runs to merge next: a pure function of a Version, with no clock and no I/O.

Lazy leveling: small runs in tiers above one large, oldest run.  Two rules, weighed
against others in docs/compaction.md:

* *Fan-in.*  Runs of one level are left side by side until there are ``fan_in`` of them,
  then merged into one run of the next level; where that run would be the last that the
  next level has been waiting for, its runs are taken along.  So a record is rewritten
  at most once for each level.  The oldest run is left out, unless it is a flush.
* *Space.*  Everything is merged into one run once the tables take (1 + ``space_ratio``)
  times what is alive in the oldest run.
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

    Runs that hold a table whose number is ``quarantined`` are left alone.  The newest
    runs come first, since they are the smallest and multiply fastest.
    """
    runs = version.runs
    sound = [not any(table.number in quarantined for table in run.tables) for run in runs]
    if all(sound) and _takes_too_much_space(runs, options.space_ratio):
        return everything(version)
    # Few small flushes are no reason to write a large run again.
    tiers = len(runs) - 1 if runs and runs[-1].level else len(runs)
    start = 0
    while start < tiers:
        level, stop = runs[start].level, start
        while True:
            end = stop
            while end < tiers and runs[end].level == level and sound[end]:
                end += 1
            # What is taken already will be one run of this level.
            if end - stop + (stop > start) < options.fan_in:
                break
            level, stop = level + 1, end
        if stop > start:
            return Task(runs[start:stop], level, stop == len(runs))
        start = max(end, start + 1)
    return None


def _takes_too_much_space(runs: tuple[Run, ...], space_ratio: float) -> bool:
    """Tell whether the tables take (1 + ``space_ratio``) times what must be alive.

    Each tombstone is taken to have killed a record of the oldest run, of mean size; what
    newer runs have overwritten there is not known, but is in them again.  An oldest run of
    level 0 waits for the fan-in: there are a few MemTables' worth, whatever is alive.
    """
    if len(runs) < 2 or runs[-1].level == 0:
        return False
    *newer, oldest = runs
    killed = sum(run.tombstones for run in newer) / max(1, oldest.puts)
    size = sum(run.size for run in runs)
    return size >= (1 + space_ratio) * oldest.size * (1 - killed)


def everything(version: Version) -> Task | None:
    """Return the merge of all runs into one, None when that changes nothing."""
    runs = version.runs
    if not runs or (len(runs) == 1 and not runs[0].tombstones):
        return None
    return Task(runs, max(1, *(run.level for run in runs)), drop_tombstones=True)
