"""A handler that calls into the store from inside an operation: it works, or is refused.

A signal handler, or a finaliser, may run at any call of a function.  Here it runs at
each call in turn, of one operation after the other, and reads and writes through the
same handle.  What it was not refused is there afterwards, and so is all else.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from errno import EDEADLK
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from oblivion_dbm import Database, error

OPERATIONS: dict[str, Callable[[Database], object]] = {
    "snapshot": lambda db: db.snapshot().close(),
    "scan": lambda db: list(db.scan()),
    "len": len,
    "first": lambda db: db.first(),
    "put": lambda db: db.__setitem__(b"put", b"1"),
    "pop": lambda db: db.pop(b"popped", None),
    "batch": lambda db: db.put_many({b"x": b"1", b"y": b"2"}),
    "flush": lambda db: db.flush(),
}


def frozen_and_put(db: Database, key: bytes) -> None:
    db.snapshot().close()
    db[key] = b"by a handler"


def scanned_and_put(db: Database, key: bytes) -> None:
    next(db.scan(), None)
    db[key] = b"by a handler"


def queued(db: Database, key: bytes) -> None:
    db.put_async(key, b"by a handler").result(5)


HANDLERS = {"frozen": frozen_and_put, "scanned": scanned_and_put, "queued": queued}


def called_at(place: int, operation: Callable[[], object], handler: Callable[[], None]) -> bool:
    """Call ``operation``, and ``handler`` at its ``place``-th call; False if there are fewer."""
    left = place

    def profile(frame: FrameType, event: str, _: Any) -> None:
        nonlocal left
        if event == "call" and "oblivion_dbm" in frame.f_code.co_filename:
            left -= 1
            if left == 0:
                sys.setprofile(None)
                handler()

    sys.setprofile(profile)
    try:
        operation()
    finally:
        sys.setprofile(None)
    return left <= 0


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("handler", ["frozen", "scanned"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_a_handler_was_not_refused_is_there(
    tmp_path: Path, operation: str, handler: str, background: bool
) -> None:
    path = tmp_path / "store"
    model: dict[bytes, bytes] = {b"%03d" % number: b"before" for number in range(40)}
    db = Database(path, background=background)
    db.update(model)
    place, refused = 0, set[int | None]()
    while True:
        place += 4 if operation == "flush" else 1  # it has hundreds of calls, and syncs
        key = b"handler %d" % place
        db[b"each time"] = model[b"each time"] = b"%d" % place

        def handle(key: bytes = key) -> None:
            try:
                HANDLERS[handler](db, key)
                model[key] = b"by a handler"
            except error as problem:
                refused.add(problem.errno)

        if not called_at(place, lambda: OPERATIONS[operation](db), handle):
            break
        found = dict(db.scan())
        assert {key: found.get(key) for key in model} == model
    assert refused <= {EDEADLK}
    db.close()
    with Database(path) as db:
        found = dict(db.scan())
        assert {key: found.get(key) for key in model} == model
        assert db.verify() == []


@pytest.mark.parametrize("operation", ["pop", "put", "scan"])
def test_a_handler_that_waits_for_the_queue_inside_a_held_lock_is_refused(
    tmp_path: Path, operation: str
) -> None:
    refused = set[int | None]()
    with Database(tmp_path / "store") as db:
        for place in range(1, 60):
            db[b"popped"] = b"1"

            def handle(key: bytes = b"handler %d" % place) -> None:
                try:
                    queued(db, key)
                except error as problem:
                    refused.add(problem.errno)

            if not called_at(place, lambda: OPERATIONS[operation](db), handle):
                break
        assert refused <= {EDEADLK}
        assert db.verify() == []
