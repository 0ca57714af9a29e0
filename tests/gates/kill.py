"""A writer is killed at a random moment; everything that returned is there.

The child acknowledges each operation through a pipe once it has returned; the parent kills
it, opens the store in its own process and compares.  The state must be that after the
acknowledged operations, or one more.  It is killed while it opens, writes values of up to
many MiB, flushes, merges and closes.
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
from typing import Any

from oblivion_dbm import Database
from oblivion_dbm.snapshot import Snapshot

SYNCS: list[str | float] = ["normal", "full", 0.002, "off"]
LIMITS: dict[str, Any] = {"memtable_limit": 60_000, "table_limit": 50_000, "fan_in": 3}
#: Kills of one store, the longest life of a writer in seconds, and operations of one handle.
KILLS, LONGEST_LIFE, LIFE = 10, 0.12, 400

Operation = Callable[[Database], object]
Model = dict[bytes, bytes]
Effect = Callable[[Model], object]


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


def _put_huge(key: bytes, value: bytes, pairs: Model) -> tuple[Operation, Effect]:
    """A copy so long that a kill tears it."""
    part = value or b"huge"
    mebibytes = 64 if value[:1] < b"\x08" else 1 + value[0] // 16
    return _put(key, part * ((mebibytes << 20) // len(part)), pairs)


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
    _put: 45, _put_async: 10, _put_large: 2, _put_huge: 0.1, _batch: 10, _batch_async: 5,
    _transaction: 8, _delete: 12, _clear: 1, _snapshot: 1, _flush: 2, _compact: 1, _sync: 3,
}  # fmt: skip


def write_until_killed(path: str, sync: str | float, seed: int, skip: int, pipe: int) -> None:
    """Do what ``operations`` says from number ``skip`` on, in one handle after the other.

    Acknowledges each.
    """
    todo = operations(seed)
    for _ in range(skip):
        next(todo)
    done, dice = skip, random.Random(seed ^ skip)
    while True:
        with Database(path, "c", sync=sync, **LIMITS) as db:
            _held.clear()
            for _ in range(dice.randrange(1, LIFE)):
                next(todo)[0](db)
                done += 1
                os.write(pipe, struct.pack("<Q", done))


def queue_until_killed(path: str, sync: str | float, first: int, pipe: int) -> None:
    """Queue puts of numbers from ``first`` on; acknowledge each when its Future is done."""
    with Database(path, "c", sync=sync, **LIMITS) as db:
        for number in range(first, sys.maxsize):
            future = db.put_async(b"%08d" % number, b"x" * (number % 500))
            word = struct.pack("<Q", number + 1)
            future.add_done_callback(lambda _, word=word: os.write(pipe, word))  # type: ignore[misc]


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


class Victim:
    """A store whose writers are killed, and the dict that it must equal after ``done``."""

    def __init__(self, path: str, sync: str | float, seed: int) -> None:
        self.path = path
        self.sync = sync
        self.seed = seed
        self.done = 0
        self.model: Model = {}
        self.todo = operations(seed)

    def kill(self, seconds: float) -> None:
        """Let a writer live so long; compare what is left, and put both at one state."""
        writes = partial(write_until_killed, self.path, self.sync, self.seed, self.done)
        now = kill_after(seconds, writes, self.done)
        for _ in range(now - self.done):
            next(self.todo)[1](self.model)
        self.done = now
        if not os.path.exists(self.path + "/MANIFEST"):
            assert not self.model
            return
        one_more = dict(self.model)
        next(self.todo)[1](one_more)
        with Database(self.path, "r") as reader:
            assert dict(reader.scan()) in (self.model, one_more)
        with Database(self.path, "w", sync=self.sync, **LIMITS) as db:
            found = dict(db.scan())
            assert found in (self.model, one_more)
            # What was in progress is done either way, so that numbers agree.
            changes = {key: one_more.get(key) for key in set(one_more) | set(found)}
            for key in [key for key, value in changes.items() if value == found.get(key)]:
                del changes[key]
            db.batch_async(changes).result(60)
            self.model = one_more
            self.done += 1
            assert dict(db.scan()) == self.model
            assert len(db) == len(self.model)
        with Database(self.path, "r") as reader:
            assert reader.verify() == []
            assert dict(reader.scan()) == self.model


def trial(seed: int, folder: str, _: str) -> int:
    """Kill the writers of one store; return the number of kills."""
    dice = random.Random(seed)
    sync = dice.choice(SYNCS)
    victim = Victim(folder + "/store", sync, seed)
    for _kill in range(KILLS):
        victim.kill(dice.uniform(0.0, LONGEST_LIFE))
    return KILLS + queued(folder + "/queued", sync, dice)


def queued(path: str, sync: str | float, dice: random.Random) -> int:
    """Kill a writer that queues; what is left is what came first, and all that was done."""
    there, kills = 0, KILLS // 5
    for _ in range(kills):
        queues = partial(queue_until_killed, path, sync, there)
        done = kill_after(dice.uniform(0.0, LONGEST_LIFE), queues, there)
        if not os.path.exists(path + "/MANIFEST"):
            assert done == 0
            continue
        with Database(path, "r") as reader:
            keys = reader.keys()
            assert keys == [b"%08d" % number for number in range(len(keys))]
            assert len(keys) >= done
            # No writer has removed yet what the kill has left.
            assert [finding for finding in reader.verify() if not finding.leftover] == []
        there = len(keys)
    return kills
