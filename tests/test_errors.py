"""The errors, as a user of any dbm module expects them."""

from __future__ import annotations

import copy
import pickle

import oblivion_dbm
from oblivion_dbm import CorruptionError, error


def test_every_error_of_ours_is_an_os_error_and_an_error() -> None:
    assert issubclass(error, OSError)
    assert issubclass(CorruptionError, error)
    assert oblivion_dbm.error is error


def test_corruption_says_which_file_where_and_what() -> None:
    problem = CorruptionError("/store/000009.sst", 4096, "expected 1, found 2")
    assert (problem.filename, problem.offset) == ("/store/000009.sst", 4096)
    for part in ("/store/000009.sst", "4096", "expected 1, found 2"):
        assert part in str(problem)


def test_corruption_survives_copying_and_pickling() -> None:
    problem = CorruptionError("/store/000009.sst", 4096, "expected 1, found 2")
    for twin in (copy.copy(problem), pickle.loads(pickle.dumps(problem))):
        assert type(twin) is CorruptionError
        assert (twin.filename, twin.offset, twin.meaning) == (
            problem.filename,
            problem.offset,
            problem.meaning,
        )
        assert str(twin) == str(problem)


def test_an_error_carries_errno_and_filename_as_gnu_s_does() -> None:
    problem = error(2, "no store", "/store")
    assert (problem.errno, problem.strerror, problem.filename) == (2, "no store", "/store")
