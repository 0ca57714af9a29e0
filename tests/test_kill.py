"""A writer is killed at a random moment; everything that returned is there: some of the kills.

``python tests/long/gates.py kill death`` kills more of them.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from gates import death
from gates.kill import KILLS, SYNCS, Victim, queued

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")


@pytest.fixture
def dice() -> random.Random:
    seed = int(os.environ.get("OBLIVION_DBM_SEED", random.randrange(1 << 32)))
    print(f"OBLIVION_DBM_SEED={seed}")
    return random.Random(seed)


def test_what_returned_before_a_death_at_any_store_is_there(
    tmp_path: Path, dice: random.Random
) -> None:
    assert death.trial(dice.randrange(1 << 32), str(tmp_path), "change") > 10


@needs_fork
@pytest.mark.parametrize("sync", SYNCS)
def test_what_returned_before_a_kill_is_there(
    tmp_path: Path, sync: str | float, dice: random.Random
) -> None:
    victim = Victim(str(tmp_path / "store"), sync, dice.randrange(1 << 32))
    for _ in range(KILLS // 2):
        victim.kill(dice.uniform(0.0, 0.12))


@needs_fork
@pytest.mark.parametrize("sync", SYNCS)
def test_queued_writes_survive_a_kill_in_their_order(
    tmp_path: Path, sync: str | float, dice: random.Random
) -> None:
    assert queued(str(tmp_path / "store"), sync, dice) > 0
