"""A damaged store opens within twice the time and twice the memory of a whole one.

Run by hand: ``pytest tests/long/test_damage_cost.py -s``.  OBLIVION_DBM_MUTATIONS says how
many damages, OBLIVION_DBM_SEED which.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

from gates.cost import make, ratios

DAMAGES = int(os.environ.get("OBLIVION_DBM_MUTATIONS", "400"))
SEED = int(os.environ.get("OBLIVION_DBM_SEED", str(random.randrange(1 << 32))))
RECORDS = 30_000
MOST_TIME, MOST_MEMORY = 2, 2


def test_a_damaged_store_opens_within_twice_the_time_and_memory(tmp_path: Path) -> None:
    print(f"OBLIVION_DBM_SEED={SEED}")
    path = str(tmp_path / "store")
    make(path, RECORDS)
    costs = [(cost, f"{damage}, {way}") for damage, way, cost in ratios(path, DAMAGES, SEED, 5)]
    time, where = max((cost.seconds, what) for cost, what in costs)
    print(f"{len(costs):,} openings; most time: {time:.2f} x that of the whole store: {where}")
    memory, where = max((cost.peak, what) for cost, what in costs)
    print(f"most memory: {memory:.2f} x that of the whole store: {where}")
    assert time <= MOST_TIME
    assert memory <= MOST_MEMORY
