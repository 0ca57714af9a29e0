"""Programs from PyPI that take a dbm, run on our stores.

What they need is in ``compat/requirements.txt``; a program that is missing is
an error of the run, not a skip.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import oblivion_dbm


def pytest_configure(config: pytest.Config) -> None:
    """Make dogpile.cache's own mark known."""
    config.addinivalue_line("markers", "time_intensive: dogpile.cache's mark for its slow tests")


@pytest.fixture
def installed() -> Iterator[None]:
    """The standard dbm and shelve create and find our stores."""
    oblivion_dbm.install()
    yield
    oblivion_dbm.uninstall()


@pytest.fixture(scope="class")
def installed_for_the_class() -> Iterator[None]:
    """The same, for suites that open their cache once for all their tests."""
    oblivion_dbm.install()
    yield
    oblivion_dbm.uninstall()
