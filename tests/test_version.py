"""A Version is an immutable value, and age is the position in it."""

from __future__ import annotations

from itertools import permutations

import pytest

from oblivion_dbm.engine.version import Run, TableInfo, Version


def run_of(*numbers: int, level: int = 0, puts: int = 10, tombstones: int = 0) -> Run:
    tables = tuple(TableInfo(number, 100, 7, puts, tombstones) for number in numbers)
    return Run(level, tables)


A, B, C, D = (run_of(number) for number in (4, 3, 2, 1))
FOUR = Version("00" * 16, 7, runs=(A, B, C, D), logs=(5, 6), next_file=7, live=40, extra=("?x",))


def test_versions_are_equal_by_value() -> None:
    runs = tuple(run_of(number) for number in (4, 3, 2, 1))
    twin = Version("00" * 16, 7, runs=runs, logs=(5, 6), next_file=7, live=40, extra=("?x",))
    assert twin == FOUR
    assert hash(twin) == hash(FOUR)
    assert FOUR.replace() == FOUR
    for change in ({"epoch": 2}, {"seed": 8}, {"live": None}, {"logs": ()}, {"extra": ()}):
        assert FOUR.replace(**change) != FOUR
    assert FOUR != "a version"
    assert "next_file=7" in repr(FOUR)


def test_a_run_sums_up_its_tables() -> None:
    run = run_of(1, 2, puts=3, tombstones=4)
    assert (run.size, run.puts, run.tombstones) == (200, 6, 8)


def test_it_names_the_numbers_of_all_its_files() -> None:
    assert FOUR.numbers() == {1, 2, 3, 4, 5, 6}


def test_a_log_is_added_as_the_youngest() -> None:
    assert FOUR.with_log(9).logs == (5, 6, 9)
    for number in (5, 6):
        with pytest.raises(ValueError, match="is not newer than log 6"):
            FOUR.with_log(number)


def test_a_flush_becomes_the_newest_run_in_the_place_of_the_oldest_logs() -> None:
    new = run_of(8)
    flushed = FOUR.with_flush(new, (5,), 45)
    assert (flushed.runs, flushed.logs, flushed.live) == ((new, A, B, C, D), (6,), 45)
    assert flushed.extra == FOUR.extra
    assert FOUR.with_flush(None, (5, 6), 40).runs == FOUR.runs
    for logs in ((6,), (6, 5), (4,), (5, 6, 7)):
        with pytest.raises(ValueError, match="must begin with the oldest"):
            FOUR.with_flush(new, logs, 45)


def test_a_merge_takes_exactly_neighbours_in_age_newest_first() -> None:
    output = run_of(9, level=1)
    runs = (A, B, C, D)
    neighbours = {runs[start:stop] for start in range(4) for stop in range(start + 1, 5)}
    for count in range(5):
        for inputs in permutations(runs, count):
            if inputs in neighbours:
                place = runs.index(inputs[0])
                expected = (*runs[:place], output, *runs[place + count :])
                assert FOUR.with_merge(inputs, output).runs == expected
            else:
                with pytest.raises(ValueError, match="neighbours in age"):
                    FOUR.with_merge(inputs, output)
    with pytest.raises(ValueError, match="neighbours in age"):
        FOUR.with_merge((run_of(77),), output)


def test_a_merge_of_everything_tells_how_many_keys_live() -> None:
    unknown = FOUR.replace(live=None)
    assert unknown.with_merge(FOUR.runs, run_of(9, puts=33)).live == 33
    assert unknown.with_merge(FOUR.runs, run_of(9, puts=33, tombstones=1)).live is None
    assert unknown.with_merge((A, B), run_of(9)).live is None
    assert FOUR.with_merge((A, B), run_of(9)).live == 40
    nothing = unknown.with_merge(FOUR.runs, None)
    assert (nothing.runs, nothing.live) == ((), 0)


def test_a_clear_drops_every_run() -> None:
    cleared = FOUR.cleared((5,))
    assert (cleared.runs, cleared.logs, cleared.live) == ((), (6,), 0)
