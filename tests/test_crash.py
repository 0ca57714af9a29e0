"""The machine loses power at a random moment; what is left is a prefix: some of the crashes.

``python tests/long/gates.py crash`` makes more of them.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from gates.crash import SYNCS, Crashes

SETTINGS = [(sync, background, 0.0) for sync in SYNCS for background in (False, True)]


@pytest.mark.parametrize(("sync", "background", "lies"), [*SETTINGS, ("normal", False, 0.3)])
def test_after_a_crash_of_the_machine_a_prefix_is_there(
    tmp_path: Path, sync: str | float, background: bool, lies: float
) -> None:
    seed = int(os.environ.get("OBLIVION_DBM_SEED", random.randrange(1 << 32)))
    print(f"OBLIVION_DBM_SEED={seed}")
    crashes = Crashes(str(tmp_path), seed, sync=sync, background=background, lies=lies)
    while crashes.checked < 50:
        crashes.go_on()
