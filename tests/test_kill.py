"""A writer is killed at a random moment; everything that returned is there.

The child acknowledges each operation through a pipe once it has returned; the
parent kills it, opens the store in its own process and compares.  The state
must be that after the acknowledged operations, or one more.
"""

from __future__ import annotations

import os
import random
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oblivion_dbm import Database

ROUNDS = int(os.environ.get("OBLIVION_DBM_KILLS", "40"))
LIMITS = {"memtable_limit": 60_000, "table_limit": 50_000, "fan_in": 3}

Operation = Callable[[Database], object]
Model = dict[bytes, bytes]
Effect = Callable[[Model], object]

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")


def operations(seed: int) -> Iterator[tuple[Operation, Effect]]:
    """Yield endless pairs: what to do to a store, and the same for a dict."""
    dice = random.Random(seed)
    while True:
        key = b"%03d" % dice.randrange(300)
        value = dice.randbytes(dice.choice([0, 5, 100, 3000]))
        kind = dice.randrange(100)
        if kind < 60:
            yield _put(key, value)
        elif kind < 75:
            yield _batch({b"%03d" % dice.randrange(300): value for _ in range(8)})
        elif kind < 90:
            yield _delete(key)
        elif kind < 92:
            yield _put(key, dice.randbytes(300_000))
        elif kind < 94:
            yield (lambda db: db.flush()), (lambda model: None)
        elif kind < 95:
            yield (lambda db: db.compact()), (lambda model: None)
        elif kind < 96:
            yield (lambda db: db.clear()), (lambda model: model.clear())
        else:
            yield (lambda db: db.sync()), (lambda model: None)


def _put(key: bytes, value: bytes) -> tuple[Operation, Effect]:
    return (lambda db: db.__setitem__(key, value)), (lambda model: model.__setitem__(key, value))


def _batch(pairs: Model) -> tuple[Operation, Effect]:
    return (lambda db: db.put_many(pairs)), (lambda model: model.update(pairs))


def _delete(key: bytes) -> tuple[Operation, Effect]:
    return (lambda db: db.pop(key, None)), (lambda model: model.pop(key, None))


def write_until_killed(path: str, sync: str, seed: int, skip: int, pipe: int) -> None:
    """Do what ``operations`` says from number ``skip`` on; acknowledge each."""
    todo = operations(seed)
    for _ in range(skip):
        next(todo)
    with Database(path, "c", sync=sync, **LIMITS) as db:
        for done in range(skip, sys.maxsize):
            next(todo)[0](db)
            os.write(pipe, struct.pack("<Q", done + 1))


def run_and_kill(path: str, sync: str, seed: int, skip: int, after: float) -> int:
    """Return how many operations a child had done when it was killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            write_until_killed(path, sync, seed, skip, writing)
        finally:
            os._exit(1)
    os.close(writing)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the writer ended before it was killed"
    done = skip
    with os.fdopen(reading, "rb") as acknowledged:
        while word := acknowledged.read(8):
            (done,) = struct.unpack("<Q", word)
    return done


@needs_fork
@pytest.mark.parametrize("sync", ["normal", "full"])
def test_what_returned_before_a_kill_is_there(tmp_path: Path, sync: str) -> None:
    seed = int(os.environ.get("OBLIVION_DBM_SEED", random.randrange(1 << 32)))
    print(f"OBLIVION_DBM_SEED={seed}")
    dice = random.Random(seed)
    path = str(tmp_path / "store")
    done, model, todo = 0, dict[bytes, bytes](), operations(seed)
    for _ in range(ROUNDS):
        now = run_and_kill(path, sync, seed, done, dice.uniform(0.0, 0.12))
        for _ in range(now - done):
            next(todo)[1](model)
        done = now
        if not os.path.exists(path + "/MANIFEST"):
            assert not model
            continue
        after_one_more = dict(model)
        in_progress = next(todo)[1]
        in_progress(after_one_more)
        with Database(path, "r") as reader:
            assert dict(reader.scan()) in (model, after_one_more)
        with Database(path, "w", sync=sync, **LIMITS) as db:
            found = dict(db.scan())
            assert found in (model, after_one_more)
            if found != model:
                model = after_one_more
            # What was in progress is done either way, so that numbers agree.
            for key in set(after_one_more) ^ set(model) | {
                key for key in model if after_one_more.get(key) != model[key]
            }:
                if key in after_one_more:
                    db[key] = after_one_more[key]
                else:
                    del db[key]
            model = after_one_more
            done += 1
            assert dict(db.scan()) == model
            assert len(db) == len(model)
        with Database(path, "r") as reader:
            assert reader.verify() == []
            assert dict(reader.scan()) == model
