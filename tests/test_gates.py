"""The gates can fail: each of these bugs is planted, and found within some trials.

And trials that end badly, in whatever way, are told of with their seed.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gates import damage, death
from gates import gate as gate_module
from gates.crash import Crashes
from gates.disk import Disk
from gates.failure import Workload, operations_of
from gates.failure import run as fail_one
from gates.gate import Gate, Results
from gates.gate import run as run_gate
from oblivion_dbm import error
from oblivion_dbm.engine.compactor import Compactor
from oblivion_dbm.engine.header_page import SLOTS_AT, pack_slot
from oblivion_dbm.engine.kernel import Appender
from oblivion_dbm.engine.log import Log
from oblivion_dbm.engine.manifest import Manifest
from oblivion_dbm.engine.policy import Task
from oblivion_dbm.engine.record import PUT, RESIDUE, encode
from oblivion_dbm.engine.wal import WAL

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")

LEAVES_OPEN = "what a planted bug stops in the middle closes nothing"
#: What a trial raises that has found something.
FINDINGS = (AssertionError, error)


def crash(folder: Path, disk: type[Disk] = Disk) -> Iterator[Callable[[], None]]:
    """Yield histories that crash: each a call that raises where it finds something."""
    for seed in range(60):
        where = folder / str(seed)
        where.mkdir()
        crashes = Crashes(str(where), seed, sync="normal", background=False, disk=disk)
        yield crashes.go_on


def deaths(folder: Path) -> Iterator[Callable[[], object]]:
    """Yield trials of processes that die."""
    for seed in range(30):
        where = folder / str(seed)
        where.mkdir()
        yield partial(death.trial, seed, str(where), "change")


def is_found(trials: Iterator[Callable[[], object]]) -> bool:
    """Tell whether one of the trials finds something."""
    for trial in trials:
        try:
            trial()
        except FINDINGS:  # noqa: PERF203 - that is what is waited for
            return True
    return False


def test_a_directory_that_is_never_synced_is_found(tmp_path: Path) -> None:
    class Careless(Disk):
        def sync_directory(self, path: str) -> None:
            """Sync nothing."""

    assert is_found(crash(tmp_path, Careless))


def test_a_version_that_is_published_before_its_manifest_is_durable_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install = Manifest.install

    def hasty(self: Manifest, version: Any, publish: Callable[[], None]) -> None:
        system: Any = self._filesystem
        late: list[str] = []
        system.sync_directory = late.append  # of the new MANIFEST too; the old files go first
        try:
            install(self, version, publish)
        finally:
            del system.sync_directory
        for path in late:
            system.sync_directory(path)

    monkeypatch.setattr(Manifest, "install", hasty)
    assert is_found(crash(tmp_path))


def test_a_tombstone_that_is_dropped_too_early_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge = Compactor.merge

    def eager(self: Compactor, task: Task, table: Any) -> Any:
        return merge(self, Task(task.runs, task.level, True), table)

    monkeypatch.setattr(Compactor, "merge", eager)
    assert is_found(crash(tmp_path))


def test_a_log_that_is_let_go_before_its_records_are_synced_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Log, "_sync", lambda self: setattr(self, "synced", self.sequence))
    assert is_found(crash(tmp_path))


def test_a_crc_that_nobody_checks_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = (partial(damage.check, seed, str(tmp_path)) for seed in range(2000))
    next(trials)()  # with the stores that all of them damage
    monkeypatch.setattr("oblivion_dbm.engine.kernel.pure.crc32c", lambda *_: RESIDUE)
    assert is_found(trials)


def test_a_record_that_is_appended_behind_a_torn_one_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workload = Workload(1, "normal")
    operations = operations_of(workload)

    def leave(self: Appender, start: int, end: int) -> None:
        if self.words is not None and self.words[0] <= start:
            self.position = end  # what was torn stays, and the next record stands behind it

    monkeypatch.setattr(Appender, "settle", leave)

    def failing() -> Iterator[Callable[[], object]]:
        for place, what in enumerate(operations):
            if what.startswith("write") and what.endswith(".wal"):
                where = tmp_path / str(place)
                where.mkdir()
                yield partial(fail_one, workload, "once", place, str(where))

    assert is_found(failing())


def test_a_slot_that_is_stored_at_once_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill in the middle would leave the position of one sync with the sum of another."""

    def at_once(self: WAL, mark: tuple[int, int, int]) -> None:
        if self.target is not None and mark[0] > self.synced:
            self._store(SLOTS_AT[self._next_slot], pack_slot(*mark))
            self._next_slot ^= 1
            self.synced = mark[0]

    monkeypatch.setattr(WAL, "note_synced", at_once)
    assert is_found(deaths(tmp_path))


def test_a_write_that_is_published_before_it_is_stored_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = Appender.put

    def hasty(self: Appender, key: bytes, value: bytes) -> None:
        record = encode(PUT, key, value)
        with self.lock:
            if self.position + len(record) <= self.limit:
                self.words[0] = self.position + len(record)
        put(self, key, value)

    monkeypatch.setattr(Appender, "put", hasty)
    assert is_found(deaths(tmp_path))


# Trials that end badly.


def crashes(_: int, __: str, ___: str) -> int:
    faulthandler.disable()  # pytest's: the report would look like one of this run
    os.kill(os.getpid(), signal.SIGSEGV)
    return 0


def hangs(_: int, __: str, ___: str) -> int:
    time.sleep(600)
    return 0


def raises(seed: int, folder: str, _: str) -> int:
    assert Path(folder).is_dir()
    if seed == 3:
        raise ValueError("the third")
    return 10


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let trials work where pytest clears away what a failure leaves."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def results_of(path: Path, gate: Gate, resume: bool = False) -> tuple[int, list[str]]:
    units, failures = run_gate(
        gate, Results(path, "change", resume), 0, end=time.monotonic() + 60, jobs=2
    )
    return units, [outcome.failure for outcome in failures]


@needs_fork
@pytest.mark.parametrize(
    ("trial", "meaning"), [(crashes, "SIGSEGV"), (hangs, "did not end"), (raises, "the third")]
)
def test_a_trial_that_ends_badly_is_told_of_with_its_seed(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    trial: Callable[[int, str, str], int],
    meaning: str,
) -> None:
    monkeypatch.setattr(gate_module, "LONGEST", 2)
    gate = Gate("some", "trials", trial, {"change": None}, seeds=lambda _: 4)
    _, failures = results_of(tmp_path / "results", gate)
    assert failures
    assert all(meaning in failure for failure in failures)
    for failure in failures:
        assert Path(failure.rpartition("kept in ")[2], "work").is_dir()
    assert "gates.py some --seed 3" in capfd.readouterr().out


@needs_fork
def test_a_run_goes_on_behind_the_last_seed(tmp_path: Path) -> None:
    gate = Gate("some", "units", raises, {"change": 20})
    path = tmp_path / "results"
    assert results_of(path, gate)[0] >= 20
    seeds = len(path.read_text().splitlines())
    assert results_of(path, gate._replace(wanted={"change": 50}), resume=True)[0] >= 50
    lines = path.read_text().splitlines()
    assert len(lines) > seeds
    assert len({line.split('"seed": ')[1].split(",")[0] for line in lines}) == len(lines)
