"""To open a damaged store takes little more memory than to open a whole one.

``tests/long/test_damage_cost.py`` does the same with a larger store, and takes the time.
"""

from __future__ import annotations

from pathlib import Path

from gates.cost import make, ratios

#: Of the memory that the whole store takes; the promise is 2.
MOST = 1.5


def test_a_damaged_store_opens_within_the_memory_of_a_whole_one(tmp_path: Path) -> None:
    path = str(tmp_path / "store")
    make(path, 3000)
    worst = max((cost.peak, str(damage), way) for damage, way, cost in ratios(path, 25, 7, times=0))
    print(worst)
    assert worst[0] <= MOST
