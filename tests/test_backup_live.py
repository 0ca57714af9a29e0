"""Backups beside busy writers, some of which are killed: each is a prefix, and none is too old.

The writer takes numbered steps.  What the store holds after step n is known from n
alone, so a backup must hold the state after some step: all of it, and none older than
what had returned when the backup was asked for.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import oblivion_dbm
from oblivion_dbm import Database
from oblivion_dbm.engine.filesystem import FileSystem
from oblivion_dbm.engine.manifest import load
from oblivion_dbm.engine.transfer import tables_of

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")

#: Of all tests together.
SECONDS = float(os.environ.get("OBLIVION_DBM_BACKUP_SECONDS", "10"))
MODES: list[dict[str, Any]] = [
    {"sync": "normal"},
    {"sync": "full"},
    {"sync": 0.02},
    {"sync": "off", "log_back_end": "pwrite"},
]
LIMITS: dict[str, Any] = {"memtable_limit": 30_000, "table_limit": 20_000, "fan_in": 3}
SLOTS = 60
NUMBER = b"number"
SYSTEM = FileSystem()


def slot(number: int) -> bytes:
    return b"slot %02d" % (number % SLOTS)


def changes(step: int) -> dict[bytes, bytes | None]:
    """Return what a step changes."""
    number = b"%d" % step
    if step % 3 == 0:
        return {NUMBER: number}
    return {slot(step): number + b" " + number * 30, slot(step + 17): None, NUMBER: number}


def clears(step: int) -> bool:
    """Tell whether a step, a batch, begins with a clear."""
    return step % 101 == 0


def state(number: int) -> dict[bytes, bytes]:
    """Return what the store holds after step ``number``."""
    contents: dict[bytes, bytes] = {}
    for step in range(number // 101 * 101, number + 1):
        if clears(step):
            contents = {}
        for key, value in changes(step).items() if step else ():
            if value is None:
                contents.pop(key, None)
            else:
                contents[key] = value
    return contents


def take(db: Database, step: int) -> None:
    todo = changes(step)
    if step % 3 == 0 and not clears(step):
        db[NUMBER] = b"%d" % step
        return
    with db.batch() as batch:
        if clears(step):
            batch.clear()
        for key, value in todo.items():
            if value is None:
                del batch[key]
            else:
                batch[key] = value


def write(db: Database, returned: memoryview, until: Callable[[], bool]) -> None:
    """Take steps; ``returned`` says how many have returned."""
    dice = random.Random(returned[0])
    first = int(db.get(NUMBER, b"%d" % returned[0]))
    assert first >= returned[0]
    step = first
    while not until():
        step += 1
        take(db, step)
        returned[0] = step
        event = dice.randrange(400)
        if event < 4:
            db.flush()
        elif event == 4:
            db.compact()
        elif event == 5:
            db.sync()


class Backups:
    """What takes backups in turn and checks them: a chain, one anew each time, and copies."""

    def __init__(self, folder: Path, returned: memoryview) -> None:
        self.folder = folder
        self.returned = returned
        self.made = 0
        self.kept = 0
        self.reader: Database | None = None
        self.tables: set[int] = set()

    def chain(self, make: Callable[..., Any]) -> None:
        """Bring one up to date; what it had already is kept."""
        report = self.checked(make, self.folder / "chain")
        version = load(SYSTEM, str(self.folder / "chain"))
        tables = {info.number for info in tables_of(version)}
        assert report.kept == len(tables & self.tables)
        assert report.kept + report.linked + report.copied == len(tables)
        self.kept += report.kept
        self.tables = tables
        if self.reader is None:
            self.reader = Database(self.folder / "chain", "r")
        assert dict(self.reader) == state(int(self.reader.get(NUMBER, b"0")))
        assert self.reader.sequence == report.sequence

    def anew(self, make: Callable[..., Any]) -> None:
        path = self.folder / f"anew {self.made}"
        assert self.checked(make, path).kept == 0
        oblivion_dbm.remove(path)

    def copies(self, make: Callable[..., Any]) -> None:
        report = self.checked(partial(make, copy=True), self.folder / "copies")
        assert report.linked == 0

    def checked(self, make: Callable[..., Any], path: Path) -> Any:
        at_least = self.returned[0]
        report = make(path)
        at_most = self.returned[0] + 1
        with Database(path, "r") as db:
            assert at_least <= int(db.get(NUMBER, b"0")) <= at_most
            assert dict(db) == state(int(db.get(NUMBER, b"0")))
            assert len(db) == len(state(int(db.get(NUMBER, b"0"))))
            assert db.sequence == report.sequence
            assert db.verify() == []
        self.made += 1
        return report

    def take(self, make: Callable[..., Any], seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end or not self.kept:
            for kind in (self.chain, self.anew, self.chain, self.copies):
                kind(make)
        assert self.made > 4
        assert self.reader is not None
        self.reader.close()


def shared_words() -> memoryview:
    return memoryview(mmap.mmap(-1, 4096)).cast("Q")


@pytest.mark.parametrize("options", MODES, ids=lambda options: str(options["sync"]))
def test_backups_by_a_thread_beside_the_writer(tmp_path: Path, options: dict[str, Any]) -> None:
    returned, failures = shared_words(), list[BaseException]()
    done = threading.Event()
    with Database(tmp_path / "store", **LIMITS, **options) as db:

        def work() -> None:
            try:
                write(db, returned, done.is_set)
            except BaseException as problem:  # noqa: BLE001 - the test raises it
                failures.append(problem)

        writer = threading.Thread(target=work)
        writer.start()
        backups = Backups(tmp_path, returned)
        try:
            backups.take(db.backup, SECONDS / 8)
        finally:
            done.set()
            writer.join()
    assert failures == []
    print(f"{returned[0]} steps, {backups.made} backups, {backups.kept} tables kept")


@pytest.mark.parametrize("options", MODES, ids=lambda options: str(options["sync"]))
def test_backups_by_another_process_beside_writers_that_are_killed(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    path, returned = tmp_path / "store", shared_words()
    Database(path, **LIMITS, **options).close()
    stop = threading.Event()

    def child() -> None:
        try:
            with Database(path, "w", lock_timeout=10, **LIMITS, **options) as db:
                write(db, returned, lambda: False)
        except BaseException:  # noqa: BLE001 - it is seen in the output
            traceback.print_exc()
        finally:
            os._exit(1)

    def writers() -> None:
        while not stop.is_set():
            process = os.fork()
            if process == 0:
                child()
            time.sleep(random.uniform(0.1, 0.5))
            os.kill(process, signal.SIGKILL)
            ended.append(os.WIFSIGNALED(os.waitpid(process, 0)[1]))

    ended: list[bool] = []
    killer = threading.Thread(target=writers)
    killer.start()
    backups = Backups(tmp_path, returned)
    try:
        backups.take(partial(oblivion_dbm.backup, path), SECONDS / 8)
    finally:
        stop.set()
        killer.join()
    assert ended
    assert all(ended), "a writer ended before it was killed"
    print(f"{len(ended)} writers, {returned[0]} steps, {backups.made} backups")
    last = Backups(tmp_path / "last", returned)
    (tmp_path / "last").mkdir()
    last.chain(partial(oblivion_dbm.backup, path))
