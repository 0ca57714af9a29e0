"""Every example in the docstrings of the installed package runs and is right."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import oblivion_dbm

# Importing it runs the command line.
PROGRAMS = {"oblivion_dbm.__main__"}

MODULES = {
    "oblivion_dbm",
    *(found.name for found in pkgutil.walk_packages(oblivion_dbm.__path__, "oblivion_dbm.")),
} - PROGRAMS


@pytest.mark.parametrize("name", sorted(MODULES))
def test_the_examples_are_right(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0, "the differences are in the captured output"


def test_the_bytes_of_a_record_are_an_example() -> None:
    record = importlib.import_module("oblivion_dbm.engine.record")
    assert doctest.testmod(record).attempted > 0
