"""Beaker, caches and sessions for web programs, with its ``dbm`` containers.

It imports dbm.gnu or dbm.dumb by name, so ``install()`` does not reach it; it
takes the module to use as an argument.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from beaker.cache import Cache
from beaker.session import Session

import oblivion_dbm

OURS = {"dbmmodule": oblivion_dbm, "data_dir": "data"}


def stores() -> list[Path]:
    return [path for path in Path("data").rglob("*.dbm") if oblivion_dbm.whichdb(path)]


def test_a_cache_makes_a_value_once() -> None:
    made = []

    def make() -> dict[str, int]:
        made.append(1)
        return {"value": 1}

    for _ in range(2):
        cache = Cache("texts", type="dbm", **OURS)
        assert cache.get("key", createfunc=make) == {"value": 1}
    assert made == [1]
    assert "key" in cache
    cache.put("other", [2])
    assert cache.get("other") == [2]
    cache.remove_value("other")
    assert "other" not in cache
    assert [oblivion_dbm.whichdb(path) for path in stores()] == ["oblivion_dbm"]


def test_a_session_is_kept_between_requests() -> None:
    settings = {"id": "visitor", "type": "dbm", "use_cookies": False, **OURS}
    first = Session({}, **settings)
    first["basket"] = ["apples"]
    first.save()
    again = Session({}, **settings)
    assert again["basket"] == ["apples"]
    assert [oblivion_dbm.whichdb(path) for path in stores()] == ["oblivion_dbm"]


def test_clearing_a_whole_cache_fails() -> None:
    """In the table of compat/README.md: Beaker deletes the database with os.remove."""
    cache = Cache("texts", type="dbm", **OURS)
    cache.put("a", 1)
    with pytest.raises(IsADirectoryError):
        cache.clear()
    assert cache.get("a") == 1
