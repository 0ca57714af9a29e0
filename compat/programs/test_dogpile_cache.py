"""dogpile.cache: the test suites that come with it, for its dbm backend, on our stores."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from dogpile.testing.fixtures import (
    _GenericBackendTestSuite,
    _GenericMutexTestSuite,
    _GenericSerializerTestSuite,
)

import oblivion_dbm


@pytest.fixture(scope="class", autouse=True)
def _cache_file(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    installed_for_the_class: None,
) -> Iterator[None]:
    path = tmp_path_factory.mktemp("dogpile") / "cache"
    request.cls.config_args = {"arguments": {"filename": str(path)}}
    yield
    assert oblivion_dbm.whichdb(path) == "oblivion_dbm"


class TestBackend(_GenericSerializerTestSuite, _GenericBackendTestSuite):
    backend = "dogpile.cache.dbm"

    @classmethod
    def setup_class(cls) -> None:
        """The suite opens the cache here, before there is a path; we do so later."""


class TestMutex(_GenericMutexTestSuite):
    backend = "dogpile.cache.dbm"

    @classmethod
    def setup_class(cls) -> None:
        """As above."""
