"""Tests of the fast suite that take a number from the environment, with larger ones."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
#: Seconds of reading in one trial.
READING = {"change": 20, "long": 600}
#: The tests that interrupt calls.
INTERRUPTED = "test_interrupts.py", "test_interrupts_handlers.py"
#: Runs pytest as its command does: the folder of the checkout is not where modules are from.
PYTEST = "import sys; del sys.path[0]; import pytest; sys.exit(pytest.main(sys.argv[1:]))"


def run(folder: str, *names: str, **environment: str) -> None:
    """Run tests with settings of their own; raises where one of them fails."""
    command = [sys.executable, "-c", PYTEST, "-q", "-p", "no:cacheprovider"]
    command += [f"--basetemp={folder}/tests", *(str(TESTS / name) for name in names)]
    where = TESTS.parent
    subprocess.run(command, cwd=where, env={**os.environ, **environment}, check=True)


def interrupts(seed: int, folder: str, size: str) -> int:
    """Interrupt calls at their instructions: all of put and some of the others; or all of one."""
    if size == "change":
        run(folder, *INTERRUPTED, OBLIVION_DBM_INTERRUPTS="20")
    else:
        run(folder, interrupted_calls(size)[seed], OBLIVION_DBM_INTERRUPTS="0")
    return 1


@cache
def interrupted_calls(size: str) -> tuple[str, ...]:
    """Return the names of what there is to run: in the long run each test by itself."""
    if size == "change":
        return ("all",)
    command = [sys.executable, "-c", PYTEST, "--collect-only", "-q", "-p", "no:cacheprovider"]
    command += [str(TESTS / name) for name in INTERRUPTED]
    found = subprocess.run(command, cwd=TESTS.parent, check=True, capture_output=True, text=True)
    return tuple(line[len("tests/") :] for line in found.stdout.splitlines() if "::" in line)


def readers(seed: int, folder: str, size: str) -> int:
    """Read beside writers that are killed; return the seconds."""
    seconds = READING[size]
    run(
        folder,
        "test_readers.py",
        OBLIVION_DBM_READER_SECONDS=str(seconds),
        OBLIVION_DBM_SEED=str(seed),
    )
    return seconds


def forks(_: int, folder: str, __: str) -> int:
    """Fork in the middle of everything."""
    run(folder, "test_fork.py", "test_lock.py")
    return 1
