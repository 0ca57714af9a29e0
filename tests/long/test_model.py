"""100,000 random steps of a store beside a dict: ``tests/test_model.py``, for longer.

Run by hand: ``pytest tests/long/test_model.py -s``.  OBLIVION_DBM_STEPS says how many.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

STEPS = int(os.environ.get("OBLIVION_DBM_STEPS", "100000"))
#: Steps of one store at most, and stores between two looks at how many steps there were.
DEPTH, EXAMPLES = 100, 100


def machine() -> Any:
    """Return the machine of the fast suite."""
    path = Path(__file__).parent.parent / "test_model.py"
    spec = importlib.util.spec_from_file_location("model_of_the_fast_suite", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.StoreMachine


def test_a_hundred_thousand_steps_agree_with_a_dict() -> None:
    subject = machine()
    how = settings(
        max_examples=EXAMPLES,
        stateful_step_count=DEPTH,
        deadline=None,
        database=None,
        print_blob=True,
        phases=[Phase.generate, Phase.shrink],
    )
    while subject.steps < STEPS:
        run_state_machine_as_test(subject, settings=how)
        print(f"{subject.steps:,} steps")
