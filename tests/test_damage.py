"""Whatever happens to the bytes of a store, what it says is right, or it is an error.

OBLIVION_DBM_MUTATIONS says how many damages are tried; ``tests/gates/damage.py`` is what
is tried, and repeats one by its seed.
"""

from __future__ import annotations

import os
from pathlib import Path

from gates.damage import run

TRIALS = int(os.environ.get("OBLIVION_DBM_MUTATIONS", "300"))


def test_every_answer_of_a_damaged_store_is_right_or_an_error(tmp_path: Path) -> None:
    failures = [
        f"{text}\nrepeat it with: python tests/gates/damage.py {seed}"
        for seed, text in run(range(TRIALS), str(tmp_path))
    ]
    assert not failures, f"{len(failures)} of {TRIALS}\n" + "\n".join(failures[:5])
