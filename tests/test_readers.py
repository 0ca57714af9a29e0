"""A reader process beside a busy writer that is killed over and over: it sees nothing but prefixes.

The writer takes numbered steps, each one operation.  What the store holds after
step n is known from n alone, so whatever the reader sees must be the state after
some step: all of it, none older than the state it saw before, and none older than
what had returned when it looked.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oblivion_dbm import Database

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")

#: Of all modes together.
SECONDS = float(os.environ.get("OBLIVION_DBM_READER_SECONDS", "8"))
MODES: list[dict[str, Any]] = [
    {"sync": "normal"},
    {"sync": "full"},
    {"sync": 0.02},
    {"sync": "off", "log_back_end": "pwrite"},
]
LIMITS: dict[str, Any] = {"memtable_limit": 30_000, "table_limit": 20_000, "fan_in": 3}
SLOTS = 60
NUMBER = b"number"


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


def empties(step: int) -> bool:
    """Tell whether a clear comes before a step, an operation of its own."""
    return step % 223 == 0


class Model:
    """What the store holds after step ``number``."""

    def __init__(self) -> None:
        self.number = 0
        self.contents: dict[bytes, bytes] = {}

    def advance(self, number: int) -> None:
        while self.number < number:
            self.number += 1
            if clears(self.number) or empties(self.number):
                self.contents = {}
            for key, value in changes(self.number).items():
                if value is None:
                    self.contents.pop(key, None)
                else:
                    self.contents[key] = value


# The writer.


def take(db: Database, step: int) -> None:
    if empties(step):
        db.clear()
    todo = changes(step)
    if len(todo) == 1 and not clears(step):
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


def write(path: Path, returned: memoryview, options: dict[str, Any], dice: random.Random) -> None:
    """Take steps until killed; ``returned`` says how many have returned, and at which sequence.

    In mode "full" the sequence counts a SEAL that is not synced yet.
    """
    while True:
        with Database(path, "c", lock_timeout=10, **LIMITS, **options) as db:
            first = int(db.get(NUMBER, b"%d" % returned[0]))
            assert first >= returned[0]
            for step in range(first + 1, first + dice.randrange(2, 1000)):
                take(db, step)
                returned[0] = step
                returned[1] = 0 if options["sync"] == "full" else db.sequence
                event = dice.randrange(400)
                if event < 4:
                    db.flush()
                elif event == 4:
                    db.compact()
                elif event == 5:
                    db.sync()


# The reader.


class Watch:
    """One handle, and what it has seen last."""

    def __init__(self, path: Path, returned: memoryview) -> None:
        self.db = Database(path, "r")
        self.returned = returned
        self.model = Model()
        self.sequence = 0
        self.exact = 0

    def expect(self, condition: bool, meaning: str) -> None:
        if not condition:
            raise AssertionError(f"{meaning}, at step {self.model.number}")

    def moved_to(self, number: bytes | None) -> None:
        """Take the state's number for granted, as far as it may be."""
        if number is None:  # cleared, and the step's own batch is still to come
            return
        self.expect(int(number) >= self.model.number, f"went back to {number!r}")
        self.model.advance(int(number))

    def look(self, dice: random.Random) -> None:
        at_least, at_least_sequence = self.returned[0], self.returned[1]
        (self.scan, self.points, self.count, self.reverse)[dice.randrange(4)]()
        now = self.db.get(NUMBER)
        self.moved_to(now)
        self.expect(now is None or int(now) >= at_least, f"{at_least} has returned, saw {now!r}")
        sequence = self.db.sequence
        earlier = max(self.sequence, at_least_sequence)
        self.expect(sequence >= earlier, f"sequence {sequence} after {earlier}")
        self.sequence = sequence

    def scan(self) -> None:
        self.whole(dict(self.db.scan()))

    def reverse(self) -> None:
        pairs = list(self.db.scan(reverse=True))
        self.expect(pairs == sorted(pairs, reverse=True), "out of order")
        self.whole(dict(pairs))

    def whole(self, found: dict[bytes, bytes]) -> None:
        self.moved_to(found.get(NUMBER))
        if found:
            self.expect(found == self.model.contents, f"{found!r} is no state")
            self.exact += 1

    def points(self) -> None:
        self.between(lambda: [self.db.get(slot(n)) for n in range(0, SLOTS, 7)],
                     lambda held: [held.get(slot(n)) for n in range(0, SLOTS, 7)])  # fmt: skip

    def count(self) -> None:
        self.between(lambda: len(self.db), len)

    def between(self, read: Callable[[], Any], truth: Callable[[dict[bytes, bytes]], Any]) -> None:
        """Read several times; where no step was taken meanwhile, it must be the truth."""
        self.moved_to(self.db.get(NUMBER))
        before = self.db.sequence
        found = read()
        if self.db.get(NUMBER) is not None and self.db.sequence == before:
            expected = truth(self.model.contents)
            self.expect(found == expected, f"expected {expected!r}, found {found!r}")
            self.exact += 1


def watch(path: Path, returned: memoryview, stop: memoryview, dice: random.Random) -> str:
    """Look until told to stop, with one handle that stays and others that come and go."""
    stays, comes = Watch(path, returned), Watch(path, returned)
    looks, exact = 0, 0
    while not stop[0]:
        stays.look(dice)
        comes.look(dice)
        looks += 1
        if looks % 50 == 0:
            comes.db.close()
            exact += comes.exact
            comes = Watch(path, returned)
            comes.model.advance(stays.model.number)
    exact += stays.exact + comes.exact
    stays.db.close()
    comes.db.close()
    return f"fine {looks} {exact}"


def start(work: Callable[[], object]) -> int:
    """Run something in a forked child; return the child."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001 - the parent finds it in the output
            traceback.print_exc()
        finally:
            os._exit(0)
    return child


def kill_writers(write: Callable[[], None], seconds: float, dice: random.Random) -> int:
    """Let one writer after the other begin and be killed; return how many there were."""
    end, writers = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        child = start(write)
        time.sleep(dice.uniform(0.05, 0.5))
        os.kill(child, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), "a writer ended before it was killed"
        writers += 1
    return writers


@pytest.mark.parametrize("options", MODES, ids=lambda options: str(options["sync"]))
def test_a_reader_sees_prefixes_whatever_becomes_of_the_writers(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    seed = int(os.environ.get("OBLIVION_DBM_SEED", random.randrange(1 << 32)))
    print(f"OBLIVION_DBM_SEED={seed}")
    dice, path = random.Random(seed), tmp_path / "store"
    Database(path, "c", **LIMITS, **options).close()
    shared = memoryview(mmap.mmap(-1, 4096)).cast("Q")
    returned, stop = shared[0:2], shared[2:3]
    answering, answer = os.pipe()

    def read() -> None:
        found = "an exception"
        try:
            found = watch(path, returned, stop, random.Random(seed))
        except BaseException as problem:  # noqa: BLE001 - it is the answer
            found = f"{type(problem).__name__}: {problem}"
        finally:
            os.write(answer, found.encode()[:4000])

    def work() -> None:
        write(path, returned, options, random.Random(os.getpid() ^ seed))

    reader = start(read)
    writers = kill_writers(work, SECONDS / len(MODES), dice)
    stop[0] = 1
    found = os.read(answering, 4000).decode()
    os.waitpid(reader, 0)
    os.close(answering)
    os.close(answer)
    print(f"{writers} writers, {returned[0]} steps: {found}")
    assert found.startswith("fine ")
    assert all(map(int, found.split()[1:])), "it never looked"
    check_at_rest(path)


def check_at_rest(path: Path) -> None:
    model = Model()
    with Database(path, "r") as db:
        number = db.get(NUMBER)
        if number is not None:
            model.advance(int(number))
            assert dict(db) == model.contents
        # No writer has removed yet what a kill may have left.
        assert [finding for finding in db.verify() if not finding.leftover] == []


# ``len``.


class Counted:
    """A store, and a dict beside it; each turn does something to both."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.dice = random.Random(7)
        self.model: dict[bytes, bytes] = {}
        self.writer = self.open("c")

    def open(self, flag: str) -> Database:
        return Database(self.path, flag, memtable_limit=5000, fan_in=2)

    def keys(self, count: int) -> list[bytes]:
        return [b"%03d" % self.dice.randrange(300) for _ in range(count)]

    def turn(self) -> None:
        some = [self.put_many, self.batch, self.overwrite, self.remove]
        self.dice.choice([*some * 3, self.maintain, self.clear_or_reopen])()

    def put_many(self) -> None:
        pairs = dict.fromkeys(self.keys(5), b"x" * self.dice.randrange(60))
        self.model.update(pairs)
        self.writer.put_many(pairs)

    def batch(self) -> None:
        with self.writer.batch() as batch:
            for key in self.keys(6):  # absent ones too, and some of them twice
                del batch[key]
                self.model.pop(key, None)
                if self.dice.random() < 0.5:
                    batch[key] = self.model[key] = b"again"

    def overwrite(self) -> None:
        for key in self.keys(3):
            self.writer[key] = self.model[key] = b"over" * self.dice.randrange(20)

    def remove(self) -> None:
        for key in self.keys(3):
            assert self.writer.pop(key, None) == self.model.pop(key, None)

    def maintain(self) -> None:
        self.dice.choice([self.writer.flush, self.writer.compact, self.writer.sync])()

    def clear_or_reopen(self) -> None:
        if self.dice.random() < 0.3:
            self.writer.clear()
            self.model.clear()
        else:
            self.writer.close()
            self.writer = self.open("w")


def test_len_is_exact_in_a_reader_after_everything(tmp_path: Path) -> None:
    store = Counted(tmp_path / "store")
    asks, seldom = store.open("r"), store.open("r")
    for turn in range(500):
        store.turn()
        assert len(asks) == len(store.model)
        if turn % 17 == 0:
            assert len(seldom) == len(store.writer) == len(store.model)
            with store.open("r") as late:
                assert len(late) == len(store.model)
                assert late.keys() == sorted(store.model)
    store.writer.close()
    assert len(asks) == len(seldom) == len(store.model)
    asks.close()
    seldom.close()
