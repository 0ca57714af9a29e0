"""Options are checked before anything is touched."""

from __future__ import annotations

import re
from typing import Any

import pytest

from oblivion_dbm.engine.options import Options


def test_what_is_not_given_has_its_documented_default() -> None:
    options = Options()
    assert (options.sync, options.log_back_end) == ("normal", "auto")
    assert (options.memtable_limit, options.table_limit) == (40 << 20, 256 << 20)
    assert (options.fan_in, options.space_ratio, options.lock_timeout) == (8, 2.0, 0.0)
    assert (options.slow_runs, options.stop_runs, options.queue_limit) == (40, 80, 16 << 20)
    assert (options.background, options.read_ahead) == (True, False)


def test_what_is_given_is_kept() -> None:
    given = {
        "sync": "full",
        "memtable_limit": 1,
        "table_limit": 2,
        "fan_in": 3,
        "space_ratio": 4,
        "log_back_end": "pwrite",
        "lock_timeout": 0.5,
        "slow_runs": 5,
        "stop_runs": 6,
        "queue_limit": 7,
        "background": False,
        "read_ahead": True,
    }
    options = Options(**given)
    assert {name: getattr(options, name) for name in Options.__slots__} == given


def test_an_unknown_option_is_a_type_error_that_lists_the_known_ones() -> None:
    with pytest.raises(TypeError, match=r"unknown option 'memtable'; there are: .*memtable_limit"):
        Options(memtable=1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("sync", value) for value in ("", "FULL", "s", -1, float("nan"), None, True, b"full")),
        ("sync", []),
        *(("sync", value) for value in (10**400, float("inf"))),
        *(("log_back_end", value) for value in ("", "mmap", None, 1)),
        *(("memtable_limit", value) for value in (0, -1, 1.0, "1", None, True)),
        *(("table_limit", value) for value in (0, 2.5, b"1")),
        *(("fan_in", value) for value in (1, 0, -8, 8.0)),
        *((name, value) for name in ("slow_runs", "stop_runs") for value in (1, 2.0, None)),
        *(("queue_limit", value) for value in (0, 1.0, None)),
        *((name, value) for name in ("background", "read_ahead") for value in (0, 1, None, "yes")),
        *(("space_ratio", value) for value in (-0.1, float("nan"), "2", None)),
        *(("lock_timeout", value) for value in (-1, float("nan"), "0", None)),
    ],
)
def test_an_impossible_value_is_a_value_error_that_names_option_and_value(
    name: str, value: Any
) -> None:
    with pytest.raises(ValueError, match=f"{name} must be .* not {re.escape(repr(value))}"):
        Options(**{name: value})
