"""What every test run shares: the installed package is the one tested.

A run from a clone would otherwise test the checkout, where a package missing from
the list in ``pyproject.toml`` or a kernel that was never compiled go unnoticed.
"""

from __future__ import annotations

import _thread
import importlib.metadata
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

import oblivion_dbm
from gates.failure import descriptors
from gates.gate import memory
from oblivion_dbm.engine import storage_engine, worker

CHECKOUT = Path(__file__).resolve().parent.parent
IMPORTED = Path(oblivion_dbm.__file__).resolve().parent

# Tests write to disks, whose speed says nothing about right or wrong.
hypothesis.settings.register_profile("disk", hypothesis.settings(), deadline=None, print_blob=True)
hypothesis.settings.load_profile("disk")

# Or they work in memory, unless TMPDIR says where.
if memory():
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(memory()))


def pytest_configure() -> None:
    """Refuse to test the checkout, unless somebody asked for it."""
    if threading.gettrace() is not None:
        _trace_all_threads()
    if IMPORTED != CHECKOUT / "oblivion_dbm" or _checkout_is_wanted():
        return
    raise pytest.UsageError(
        f"the tests would test the checkout, {IMPORTED}, and not an installed package. "
        "Install it (pip install '.[test]') and run `pytest`, not `python -m pytest`; "
        "to test the checkout on purpose, install it with `pip install -e` or set "
        "OBLIVION_DBM_TEST_CHECKOUT=1."
    )


def pytest_report_header() -> str:
    """Say which package is tested."""
    return f"testing: oblivion_dbm {oblivion_dbm.__version__} in {IMPORTED}"


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left_open(request: pytest.FixtureRequest) -> Iterator[None]:
    """Find the descriptors that the tests of a file, or what they test, have left open.

    A file whose tests must leave some open says why in LEAVES_OPEN.
    """
    before = descriptors()
    yield
    assert descriptors() <= before or hasattr(request.module, "LEAVES_OPEN")


def _trace_all_threads() -> None:
    """Let coverage.py, which traces threads of ``threading``, trace those of ``_thread`` too."""
    start = _thread.start_new_thread

    def start_traced(work: Callable[..., object], arguments: tuple[Any, ...]) -> int:
        def traced() -> None:
            sys.settrace(threading.gettrace())
            work(*arguments)

        return start(traced, ())

    for module in (_thread, storage_engine, worker):
        module.start_new_thread = start_traced  # type: ignore[attr-defined]  # at run time


def _checkout_is_wanted() -> bool:
    if os.environ.get("OBLIVION_DBM_TEST_CHECKOUT") == "1":
        return True
    try:
        origin = importlib.metadata.distribution("oblivion_dbm").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return False
    editable = json.loads(origin or "{}").get("dir_info", {}).get("editable", False)
    return bool(editable)
