"""zict, layered mappings: its own checks, with a shelf of ours as the slow layer."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import zict
from zict.tests import utils_test

import oblivion_dbm
from oblivion_dbm import shelve


class Texts(shelve.DbfilenameShelf):
    """A shelf in which a key that is no str is absent; in shelve it is an AttributeError."""

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and super().__contains__(key)

    def __getitem__(self, key: object) -> Any:
        if isinstance(key, str):
            return super().__getitem__(key)
        raise KeyError(key)


@pytest.fixture
def buffer() -> Iterator[zict.Buffer]:
    """Three keys in memory, the others on disk."""
    with Texts("shelf") as shelf, zict.Buffer({}, shelf, n=3) as opened:
        yield opened


def test_a_buffer_is_a_mapping_while_records_move_between_its_layers(buffer: zict.Buffer) -> None:
    utils_test.check_mapping(buffer)
    assert len(buffer.fast) == 3
    assert len(buffer.slow) == len(buffer) - 3


def test_threads_use_different_keys(buffer: zict.Buffer) -> None:
    utils_test.check_different_keys_threadsafe(buffer)


def test_threads_use_the_same_key(buffer: zict.Buffer) -> None:
    utils_test.check_same_key_threadsafe(buffer)


def test_what_was_evicted_is_there_after_reopening() -> None:
    with zict.Buffer({}, oblivion_dbm.open("store", "c"), n=2) as buffer:
        for number in range(10):
            buffer[b"%d" % number] = b"value %d" % number
        buffer.fast.evict()
        buffer.fast.evict()
    with oblivion_dbm.open("store") as db:
        assert dict(db) == {b"%d" % number: b"value %d" % number for number in range(10)}


def test_a_func_over_a_store_keeps_objects() -> None:
    with oblivion_dbm.open("store", "c") as db:
        objects = zict.Func(pickle.dumps, pickle.loads, db)
        objects.update({b"a": [1, 2], b"b": {"c": 3}})
        assert dict(objects.items()) == {b"a": [1, 2], b"b": {"c": 3}}
        assert objects.pop(b"a") == [1, 2]
        assert list(objects) == db.keys() == [b"b"]
        objects.close()
