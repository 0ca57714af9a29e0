"""One handle is linearizable: each call of each of eight threads takes effect at one moment.

Every call on a key is written down with the moments of its beginning and its end, and a
checker looks for an order of all calls that agrees with both and with what they returned.
It follows all orders that are still possible as sets of states (J. Wing and C. Gong,
*Testing and Verifying Concurrent Objects*, 1993; just in time, as G. Lowe does, 2017).
"""

from __future__ import annotations

import os
import random
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from oblivion_dbm import ConflictError, Database

THREADS = 8
CALLS = int(os.environ.get("OBLIVION_DBM_LINEARIZABLE_CALLS", "1500"))
KEYS = [b"a", b"b", b"c", b"d"]
LIMITS: dict[str, Any] = {"memtable_limit": 20_000, "table_limit": 5_000, "fan_in": 2}

Value = bytes | None


class Called(NamedTuple):
    """A call on one key, by whom, between which two ticks, and what it gave."""

    thread: int
    began: int
    ended: int
    name: str
    argument: bytes
    result: object


#: What each call makes of a key's value, and what it returns.
STEPS: dict[str, Callable[[Value, bytes], tuple[Value, object]]] = {
    "put": lambda value, new: (new, None),
    "get": lambda value, _: (value, value),
    "contains": lambda value, _: (value, value is not None),
    "pop": lambda value, _: (None, value),
    "delete": lambda value, _: (None, value is not None),
    "setdefault": lambda value, new: (new, new) if value is None else (value, value),
    "swap": lambda value, new: (new, value),
}


def is_linearizable(calls: list[Called]) -> bool:
    """Tell whether calls on one key that begins absent have an order that explains them."""
    ticks = sorted(
        [(call.began, 0, number) for number, call in enumerate(calls)]
        + [(call.ended, 1, number) for number, call in enumerate(calls)]
    )
    running: set[int] = set()
    # What the value may be, with the running calls that have taken effect already.
    possible: set[tuple[Value, frozenset[int]]] = {(None, frozenset())}
    for _, ends, number in ticks:
        if not ends:
            running.add(number)
            continue
        possible = {
            (value, done - {number})
            for value, done in reachable(calls, running, possible)
            if number in done
        }
        running.discard(number)
        if not possible:
            return False
    return True


def reachable(
    calls: list[Called], running: set[int], possible: set[tuple[Value, frozenset[int]]]
) -> set[tuple[Value, frozenset[int]]]:
    """Return the states that running calls can make of the possible ones, in any order."""
    found, fresh = set(possible), list(possible)
    while fresh:
        value, done = fresh.pop()
        for number in running - done:
            after, result = STEPS[calls[number].name](value, calls[number].argument)
            state = after, done | {number}
            if result == calls[number].result and state not in found:
                found.add(state)
                fresh.append(state)
    return found


def delete(db: Database, key: bytes) -> bool:
    try:
        del db[key]
    except KeyError:
        return False
    return True


def swap(db: Database, key: bytes, value: bytes) -> Value:
    """Read and write as one, again and again until nobody was faster."""
    while True:
        try:
            with db.transaction() as changes:
                found: Value = changes.get(key)
                changes[key] = value
        except ConflictError:
            continue
        return found


DOES: dict[str, Callable[[Database, bytes, bytes], object]] = {
    "put": lambda db, key, value: db.__setitem__(key, value),
    "get": lambda db, key, _: db.get(key),
    "contains": lambda db, key, _: key in db,
    "pop": lambda db, key, _: db.pop(key, None),
    "delete": lambda db, key, _: delete(db, key),
    "setdefault": lambda db, key, value: db.setdefault(key, value),
    "swap": swap,
}
WEIGHTS = {"put": 8, "get": 8, "contains": 3, "pop": 2, "delete": 2, "setdefault": 2, "swap": 1}


@pytest.fixture
def switching() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def work(
    db: Database, thread: int, dice: random.Random, ticks: Iterator[int], log: list[Any]
) -> None:
    """Make calls on random keys, each new value another one, and write them down."""
    others: list[Callable[[], object]] = [db.flush, db.compact, lambda: db.snapshot().close()]
    for number in range(CALLS):
        (name,) = dice.choices(list(WEIGHTS), list(WEIGHTS.values()))
        key = dice.choice(KEYS)
        value = b"%d-%d " % (thread, number) + bytes(dice.choice([0, 50, 500]))
        began = next(ticks)
        result = DOES[name](db, key, value)
        log.append((key, Called(thread, began, next(ticks), name, value, result)))
        if number % 100 == 99:
            dice.choice(others)()


@pytest.mark.usefixtures("switching")
@pytest.mark.parametrize("sync", ["normal", "full"])
def test_eight_threads_see_one_order_for_each_key(tmp_path: Path, sync: str) -> None:
    seed = int(os.environ.get("OBLIVION_DBM_SEED", random.randrange(1 << 32)))
    print(f"OBLIVION_DBM_SEED={seed}")
    logs: list[list[tuple[bytes, Called]]] = [[] for _ in range(THREADS)]
    ticks = count()
    with Database(tmp_path / "store", sync=sync, **LIMITS) as db:
        threads = [
            threading.Thread(
                target=work, args=(db, number, random.Random(seed + number), ticks, logs[number])
            )
            for number in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        left = dict(db)
    by_key: dict[bytes, list[Called]] = defaultdict(list)
    for key, call in [entry for log in logs for entry in log]:
        by_key[key].append(call)
    assert sum(map(len, by_key.values())) == THREADS * CALLS
    for key in KEYS:
        end = next(ticks)
        by_key[key].append(Called(THREADS, end, next(ticks), "get", b"", left.get(key)))
        assert is_linearizable(by_key[key]), f"no order explains the calls on {key!r}"


def calls(*rows: tuple[int, int, str, bytes, object]) -> list[Called]:
    return [Called(thread, *row) for thread, row in enumerate(rows)]


def test_calls_that_overlap_may_have_happened_in_either_order() -> None:
    for value in (None, b"1"):
        assert is_linearizable(calls((0, 3, "put", b"1", None), (1, 2, "get", b"", value)))
    swapped = calls((0, 5, "swap", b"1", b"2"), (1, 6, "swap", b"2", None))
    assert is_linearizable(swapped)


@pytest.mark.parametrize(
    "wrong",
    [
        calls((0, 1, "put", b"1", None), (2, 3, "get", b"", None)),  # lost
        calls((0, 1, "put", b"1", None), (2, 3, "put", b"2", None), (4, 5, "get", b"", b"1")),
        calls((0, 9, "put", b"1", None), (1, 2, "get", b"", b"1"), (3, 4, "get", b"", None)),
        calls((0, 1, "put", b"1", None), (2, 5, "pop", b"", b"1"), (3, 6, "pop", b"", b"1")),
        calls((0, 3, "setdefault", b"1", b"1"), (1, 4, "setdefault", b"2", b"2")),
    ],
)
def test_the_checker_finds_what_no_order_explains(wrong: list[Called]) -> None:
    assert not is_linearizable(wrong)
