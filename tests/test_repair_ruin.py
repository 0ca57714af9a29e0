"""Random stores with random damage are repaired, and nothing that is not so is presented as so.

OBLIVION_DBM_RUINS is how many there are of each kind, OBLIVION_DBM_SEED the first; a failure
names its number.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from gates.ruin import leftovers, trial

RUINS = int(os.environ.get("OBLIVION_DBM_RUINS", "25"))


@pytest.mark.parametrize("kind", [trial, leftovers])
def test_a_ruin_is_repaired(kind: Callable[[int, str], int], tmp_path: Path) -> None:
    first = int(os.environ.get("OBLIVION_DBM_SEED", random.randrange(1 << 32)))
    for seed in range(first, first + RUINS):
        print(f"OBLIVION_DBM_SEED={seed}")
        folder = tmp_path / str(seed)
        folder.mkdir()
        assert kind(seed, str(folder)) == 1
