"""A backup's moment is part of a store's history, or is told that it is not."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oblivion_dbm.engine.filesystem import FileSystem
from oblivion_dbm.engine.history import LATEST, LINE, MOST, is_part, sessions, with_session
from oblivion_dbm.engine.manifest import parse, render
from oblivion_dbm.engine.version import Version

SYSTEM = FileSystem()
EMPTY = Version("00" * 16, 7, extra=("? lineage ab",))


class Store:
    """A store's MANIFEST, the end of its log, and all that was ever logged, for the truth."""

    def __init__(self) -> None:
        self.version = EMPTY
        self.logged: list[object] = []

    def open(self, after_crash: bool = False) -> None:
        self.version = with_session(self.version, len(self.logged), after_crash, SYSTEM)
        self.start = len(self.logged)

    def write(self, count: int) -> None:
        self.logged += [object() for _ in range(count)]

    def lose(self, count: int) -> None:
        """Lose some of what the last session has logged, which then ends."""
        end = max(self.start, len(self.logged) - count)
        del self.logged[end:]
        self.open(after_crash=True)

    def copy(self) -> Store:
        other = Store()
        other.version, other.logged = self.version, self.logged.copy()
        other.open()
        return other


@given(st.data())
@settings(max_examples=200)
def test_it_is_told_for_certain_where_histories_part(data: st.DataObject) -> None:
    """As long as the sessions since then are not too many."""
    stores, backups = [Store()], list[tuple[Version, list[object]]]()
    stores[0].open()
    for _ in range(data.draw(st.integers(1, 40))):
        store = data.draw(st.sampled_from(stores))
        step = data.draw(st.sampled_from(["write", "write", "open", "lose", "copy", "back up"]))
        if step == "write":
            store.write(data.draw(st.integers(0, 5)))
        elif step == "open":
            store.open()
        elif step == "lose":
            store.lose(data.draw(st.integers(0, 5)))
        elif step == "copy":
            stores.append(store.copy())
            store.open()  # the original was closed before it was copied
        else:
            backups.append((store.version, store.logged.copy()))
    for store in stores:
        for version, logged in backups:
            truth = store.logged[: len(logged)] == logged
            assert is_part(version, len(logged), store.version) == truth


@pytest.mark.parametrize("seed", range(5))
def test_a_long_history_takes_little_room_and_no_true_backup_is_ever_refused(seed: int) -> None:
    dice = random.Random(seed)
    store, backups = Store(), list[tuple[Version, int]]()
    for number in range(3000):
        store.open()
        store.write(dice.randrange(20))
        if number % 50 == 0:
            backups.append((store.version, len(store.logged)))
            store.write(dice.randrange(3))
    assert all(is_part(*backup, store.version) for backup in backups)
    known = sessions(store.version)
    assert len(known) == MOST
    assert [session.ordinal for session in known[-LATEST:]] == [*range(3001 - LATEST, 3001)]
    gaps = [after.ordinal - before.ordinal for before, after in pairwise(known)]
    ages = [3000 - session.ordinal for session in known]
    assert all(gap <= max(1, age / 8) for gap, age in zip(gaps, ages))
    assert len(render(store.version)) < 6000


def test_what_a_crash_has_taken_is_remembered_long() -> None:
    store = Store()
    store.open()
    store.write(100)
    backup = store.version
    store.lose(40)
    assert not is_part(backup, 100, store.version)
    for _ in range(2000):
        store.write(10)
        store.open()
    assert not is_part(backup, 100, store.version)
    assert is_part(backup, 60, store.version)


def test_crashes_without_end_are_forgotten_in_the_end() -> None:
    store = Store()
    store.open()
    for _ in range(3 * MOST):
        store.write(10)
        store.lose(5)
    assert len(sessions(store.version)) == MOST


def test_a_session_that_has_written_nothing_is_no_part_of_a_backup() -> None:
    """A handle that fails while it begins may leave its name in a MANIFEST, or not."""
    store = Store()
    store.open()
    store.write(5)
    failed, again = with_session(store.version, 5, False, SYSTEM), store.copy()
    again.write(5)
    assert is_part(failed, 5, again.version)
    assert not is_part(failed, 6, again.version)


def test_a_store_that_knows_of_no_history() -> None:
    """It, or its backup, was made by a program that did not know of it."""
    begun = with_session(EMPTY, 50, False, SYSTEM)
    assert is_part(EMPTY, 100, EMPTY)
    assert is_part(EMPTY, 50, begun)
    assert not is_part(EMPTY, 51, begun)
    assert not is_part(begun, 51, EMPTY)


@pytest.mark.parametrize(
    "words",
    ["", "1", "1:a", "x:a:0", "1:a:x", ":::", "-1:a:0", "1:a:-1", "²:a:0", f"1:a:{10**30}", " "],
)
def test_words_that_make_no_sense_are_none(words: str) -> None:
    version = EMPTY.replace(extra=(LINE + words,))
    assert sessions(version) == []
    (session,) = sessions(with_session(version, 7, True, SYSTEM))
    assert str(session).endswith(":7:crash")


def test_a_manifest_keeps_it_as_it_is() -> None:
    store = Store()
    for _ in range(3):
        store.open()
        store.write(9)
    store.lose(3)
    again = parse(render(store.version), "MANIFEST")
    assert again == store.version
    assert [*map(str, sessions(again))] == again.extra[-1][len(LINE) :].split(" ")
    assert again.extra[0] == "? lineage ab"


def test_sessions_named_twice_or_out_of_order_are_put_in_order() -> None:
    words = [f"{number % 200 + 1}:a:{number}" for number in range(400, 0, -1)]
    version = EMPTY.replace(extra=(LINE + " ".join(words[:250]), LINE + " ".join(words[250:])))
    for start in range(500, 600):
        version = with_session(version, start, False, SYSTEM)
    ordinals = [session.ordinal for session in sessions(version)]
    assert ordinals == sorted(set(ordinals))
    assert len(ordinals) == MOST
    assert sum(line.startswith(LINE) for line in version.extra) == 1
