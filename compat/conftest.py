"""What every run of compat/ shares.

The installed package is the one tested, and nothing is skipped but for a
reason that lies outside us and is written down here.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

_TESTS = Path(__file__).resolve().parent.parent / "tests" / "conftest.py"
_SPEC = importlib.util.spec_from_file_location("conftest_of_tests", _TESTS)
assert _SPEC is not None
assert _SPEC.loader is not None
_SHARED = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_SHARED)

# The rule that refuses to test the checkout is the same one.
pytest_configure = _SHARED.pytest_configure
pytest_report_header = _SHARED.pytest_report_header

# The same programs every time, so that a run says something about the change that was made.
# `pytest compat --hypothesis-profile=search` looks for new ones, longer and at random.
hypothesis.settings.register_profile(
    "same", hypothesis.settings(), deadline=None, derandomize=True, max_examples=150, database=None
)
hypothesis.settings.register_profile(
    "search", hypothesis.settings(), deadline=None, print_blob=True, max_examples=3000
)
hypothesis.settings.load_profile("same")

OUTSIDE_US = {
    "Test requires ndbm": "CPython's test of whichdb for a module this Python lacks",
    "Test requires dbm.sqlite3": "the same for a module that came with Python 3.13",
    "Berkeley DB doesn't distinguish the empty value from the absent one": (
        "CPython's test says so wherever ndbm is Berkeley DB; it does not look at what is tested"
    ),
}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CPython's tests, and some programs, write beside where they run."""
    monkeypatch.chdir(tmp_path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """Turn a skip whose reason is not listed above into a failure."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[2]).removeprefix("Skipped: ")
        if reason not in OUTSIDE_US:
            report.outcome = "failed"
            report.longrepr = f"skipped, and the reason is not in OUTSIDE_US: {reason}"
    return report
