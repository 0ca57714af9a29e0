"""Whatever happens to the bytes of a store, what it says is right, or it is an error.

OBLIVION_DBM_MUTATIONS says how many damages are tried; ``gates/damage.py`` is what is
tried, and repeats one by its number.  ``python tests/long/gates.py damage bytes`` tries more.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gates import GATES, damage
from gates.gate import at_once
from gates.prepared import MAKERS, SMALL, prepared
from oblivion_dbm.engine import recovery
from oblivion_dbm.engine import verify as verify_module
from oblivion_dbm.engine.kernel import pure
from oblivion_dbm.engine.manifest import parse
from oblivion_dbm.engine.record import RESIDUE
from oblivion_dbm.engine.segment import Segment
from oblivion_dbm.engine.sstable import SSTable

LEAVES_OPEN = "what a planted bug stops in the middle closes nothing"
TRIALS = int(os.environ.get("OBLIVION_DBM_MUTATIONS", "300"))


def outcomes(name: str, trials: int) -> int:
    """Run trials of a gate from the first on; return how many damages there were."""
    done = 0
    for outcome in at_once(GATES[name], range(trials), "change", os.cpu_count() or 1):
        assert not outcome.failure, outcome.failure
        done += outcome.units
    return done


def test_every_answer_of_a_damaged_store_is_right_or_an_error() -> None:
    for number in range(len(MAKERS)):
        prepared(number)  # once, and not in each child
    trials = -(-TRIALS // damage.BATCH)
    assert outcomes("damage", trials) == trials * damage.BATCH


def test_every_changed_byte_is_found_and_changes_no_answer() -> None:
    assert damage.byte_seeds() > 100
    assert outcomes("bytes", 1) > 60


def test_the_small_store_has_three_levels_and_a_log_of_two_segments() -> None:
    version = parse(prepared(SMALL).files["MANIFEST"], "MANIFEST")
    assert {run.level for run in version.runs} >= {0, 1, 2}
    assert len(version.logs) == 2


def test_a_damage_is_the_same_each_time_it_is_made() -> None:
    for number in range(40):
        assert damage.damage(number).files == damage.damage(number).files


# The gate can fail: each of these bugs is planted, and found.


def is_found(folder: Path, where: str, most: int = 4000) -> bool:
    """Tell whether one of the damages whose description has ``where`` in it finds something."""
    for number in range(most):
        if where in damage.describe(damage.damage(number)):
            try:
                damage.check(number, str(folder))
            except AssertionError:
                return True
    return False


def yes(*_: object) -> bool:
    return True


def nothing(*_: object) -> None:
    """Check nothing."""


@pytest.mark.parametrize(
    ("owner", "name", "instead", "where"),
    [
        (pure, "crc32c", lambda *_: RESIDUE, ".sst: byte"),
        (pure, "crc32c", lambda *_: RESIDUE, ".wal: byte"),
        (recovery, "check_newest", nothing, "MANIFEST: as it was"),
        (Segment, "matches", yes, "swapped"),
        (Segment, "check_sums", nothing, "swapped"),
        (
            SSTable,
            "check_block",
            lambda s, section, b: s.checked[section].__setitem__(b, 1),
            ".sst",
        ),
        (verify_module, "verify", lambda *_: [], ".sst: byte"),
    ],
)
def test_a_check_that_is_left_out_is_found(  # noqa: PLR0917 - fixtures and the parameters of a bug
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    instead: Callable[..., Any],
    where: str,
) -> None:
    monkeypatch.setattr(owner, name, instead)
    if owner is verify_module:
        monkeypatch.setattr(damage, name, instead)
    assert is_found(tmp_path, where)
