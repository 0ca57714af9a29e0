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
from functools import partial
from pathlib import Path

import pytest

from oblivion_dbm import Database
from oblivion_dbm.snapshot import Snapshot

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
        pairs = {b"%03d" % dice.randrange(300): value for _ in range(8)}
        (kind,) = dice.choices(list(WEIGHTS), list(WEIGHTS.values()))
        yield kind(key, value, pairs)


def _put(key: bytes, value: bytes, _: Model) -> tuple[Operation, Effect]:
    return (lambda db: db.__setitem__(key, value)), (lambda model: model.__setitem__(key, value))


def _put_large(key: bytes, value: bytes, pairs: Model) -> tuple[Operation, Effect]:
    return _put(key, value + bytes(300_000), pairs)


def _put_async(key: bytes, value: bytes, _: Model) -> tuple[Operation, Effect]:
    return (
        lambda db: db.put_async(key, value).result(60),
        lambda model: model.__setitem__(key, value),
    )


def _batch(_: bytes, __: bytes, pairs: Model) -> tuple[Operation, Effect]:
    return (lambda db: db.put_many(pairs)), (lambda model: model.update(pairs))


def _batch_async(gone: bytes, _: bytes, pairs: Model) -> tuple[Operation, Effect]:
    def effect(model: Model) -> None:
        model.update(pairs)
        model.pop(gone, None)

    return (lambda db: db.batch_async({**pairs, gone: None}).result(60)), effect


def _transaction(gone: bytes, _: bytes, pairs: Model) -> tuple[Operation, Effect]:
    """Change what was read, put some and remove one."""

    def operation(db: Database) -> None:
        with db.transaction() as changes:
            for key, value in pairs.items():
                changes[key] = changes.get(key, b"")[:100] + value
            changes.pop(gone, None)

    def effect(model: Model) -> None:
        model.update({key: model.get(key, b"")[:100] + value for key, value in pairs.items()})
        model.pop(gone, None)

    return operation, effect


def _delete(key: bytes, _: bytes, __: Model) -> tuple[Operation, Effect]:
    return (lambda db: db.pop(key, None)), (lambda model: model.pop(key, None))


def _clear(_: bytes, __: bytes, ___: Model) -> tuple[Operation, Effect]:
    return (lambda db: db.clear()), (lambda model: model.clear())


_held: list[Snapshot] = []


def _snapshot(_: bytes, __: bytes, ___: Model) -> tuple[Operation, Effect]:
    """Hold the present state, and let the oldest that is held go."""

    def operation(db: Database) -> None:
        _held.append(db.snapshot())
        if len(_held) > 3:
            _held.pop(0).close()

    return operation, _nothing


def _flush(_: bytes, __: bytes, ___: Model) -> tuple[Operation, Effect]:
    return (lambda db: db.flush()), _nothing


def _compact(_: bytes, __: bytes, ___: Model) -> tuple[Operation, Effect]:
    return (lambda db: db.compact()), _nothing


def _sync(_: bytes, __: bytes, ___: Model) -> tuple[Operation, Effect]:
    return (lambda db: db.sync()), _nothing


def _nothing(model: Model) -> None:
    """Stand for what a dict need not do."""


WEIGHTS = {
    _put: 45, _put_async: 10, _put_large: 2, _batch: 10, _batch_async: 5, _transaction: 8,
    _delete: 12, _clear: 1, _snapshot: 1, _flush: 2, _compact: 1, _sync: 3,
}  # fmt: skip


def write_until_killed(path: str, sync: str | float, seed: int, skip: int, pipe: int) -> None:
    """Do what ``operations`` says from number ``skip`` on; acknowledge each."""
    todo = operations(seed)
    for _ in range(skip):
        next(todo)
    with Database(path, "c", sync=sync, **LIMITS) as db:
        for done in range(skip, sys.maxsize):
            next(todo)[0](db)
            os.write(pipe, struct.pack("<Q", done + 1))


def kill_after(seconds: float, child_does: Callable[[int], None], done: int) -> int:
    """Return the last number that a child had written to its pipe when it was killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            child_does(writing)
        finally:
            os._exit(1)
    os.close(writing)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the writer ended before it was killed"
    with os.fdopen(reading, "rb") as acknowledged:
        while word := acknowledged.read(8):
            (done,) = struct.unpack("<Q", word)
    return done


@needs_fork
@pytest.mark.parametrize("sync", ["normal", "full", 0.002])
def test_what_returned_before_a_kill_is_there(tmp_path: Path, sync: str | float) -> None:
    seed = int(os.environ.get("OBLIVION_DBM_SEED", random.randrange(1 << 32)))
    print(f"OBLIVION_DBM_SEED={seed}")
    dice = random.Random(seed)
    path = str(tmp_path / "store")
    done, model, todo = 0, dict[bytes, bytes](), operations(seed)
    for _ in range(ROUNDS):
        writes = partial(write_until_killed, path, sync, seed, done)
        now = kill_after(dice.uniform(0.0, 0.12), writes, done)
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


def queue_until_killed(path: str, sync: str | float, first: int, pipe: int) -> None:
    """Queue puts of numbers from ``first`` on; acknowledge each when its Future is done."""
    with Database(path, "c", sync=sync, **LIMITS) as db:
        for number in range(first, sys.maxsize):
            future = db.put_async(b"%08d" % number, b"x" * (number % 500))
            word = struct.pack("<Q", number + 1)
            future.add_done_callback(lambda _, word=word: os.write(pipe, word))  # type: ignore[misc]


@needs_fork
@pytest.mark.parametrize("sync", ["normal", "full", 0.002])
def test_queued_writes_survive_a_kill_in_their_order(tmp_path: Path, sync: str | float) -> None:
    dice = random.Random()
    path = str(tmp_path / "store")
    there = 0
    for _ in range(ROUNDS // 4):
        done = kill_after(
            dice.uniform(0.0, 0.12), partial(queue_until_killed, path, sync, there), there
        )
        if not os.path.exists(path + "/MANIFEST"):
            continue
        with Database(path, "r") as reader:
            keys = reader.keys()
            assert keys == [b"%08d" % number for number in range(len(keys))]
            assert len(keys) >= done
            assert reader.verify() == []
        there = len(keys)
