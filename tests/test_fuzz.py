"""Whatever bytes are read from a disk, nothing comes of them but an answer or an error.

Hypothesis decides here; ``python tests/fuzz/run.py TARGET`` looks for much longer. What
has failed once is tried again each time.
"""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.targets import TARGETS

#: Small ones, which Hypothesis makes smaller still; and long ones, which decide more.
INPUTS = st.one_of(
    st.binary(max_size=200), st.integers(0, 1 << 32).map(lambda seed: Random(seed).randbytes(500))
)
LEAVES_OPEN = "one store takes all logs of the seeds, and ends with the process"
FAILURES = sorted(path for path in (Path(__file__).parent / "fuzz" / "failures").glob("*/*"))
#: Bytes that a try may allocate at once, whatever the input claims.
MEMORY = 16 << 20


def by_name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


@pytest.mark.parametrize("target", sorted(TARGETS))
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(data=INPUTS)
def test_bytes_are_read_or_refused(target: str, data: bytes) -> None:
    TARGETS[target](data)


@pytest.mark.parametrize("target", sorted(TARGETS))
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(data=INPUTS)
def test_memory_is_in_proportion_to_the_input(target: str, data: bytes) -> None:
    TARGETS[target](data)  # what is made once does not count
    tracemalloc.start()
    try:
        TARGETS[target](data)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("path", FAILURES, ids=by_name)
def test_what_has_failed_once_does_not_fail_again(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


def test_every_target_has_a_test_and_each_input_a_target() -> None:
    assert {path.parent.name for path in FAILURES} <= set(TARGETS)
