"""CPython's own tests of dbm and shelve, unchanged, against us, in three ways.

* ``Backend``: ``oblivion_dbm.open`` in the place of ``dbm.open``, as a module
  like ``dbm.gnu``.
* ``Installed``: after ``oblivion_dbm.install()``.
* ``LookAlike``: ``test.test_dbm`` and ``test.test_shelve`` loaded anew, so that
  their ``import dbm`` and ``import shelve`` give our look-alikes.

In each way the classes that CPython makes for each of its backends run, and one
more that it would make for ours.  What is added here only says what is under
test; no test is changed or left out.
"""

from __future__ import annotations

import contextlib
import dbm as stdlib_dbm
import importlib
import pickle
import subprocess
import sys
import unittest
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest

import oblivion_dbm

STANDARD_BACKENDS = ("sqlite3", "gnu", "ndbm", "dumb")


def cpython_tests(name: str) -> ModuleType:
    """A module of the package ``test``, or a failure that names what is missing."""
    try:
        return importlib.import_module(f"test.{name}")
    except ImportError as cause:
        version = ".".join(map(str, sys.version_info[:2]))
        return pytest.fail(
            f"{sys.executable} has no test.{name} ({cause}). CPython's own tests are a part of "
            f"every build from source; Debian has them in the package "
            f"libpython{version}-testsuite.",
            pytrace=False,
        )


def look_alike_tests() -> tuple[ModuleType, ModuleType]:
    """test_dbm and test_shelve, loaded with our look-alikes as ``dbm`` and ``shelve``."""
    for name in STANDARD_BACKENDS:  # while `dbm` is still a package
        with contextlib.suppress(ImportError):
            importlib.import_module(f"dbm.{name}")
    changed = {"dbm": oblivion_dbm.dbm, "shelve": oblivion_dbm.shelve}
    with mock.patch.dict(sys.modules, changed):
        for name in ("test.test_dbm", "test.test_shelve"):
            sys.modules.pop(name, None)
        return cpython_tests("test_dbm"), cpython_tests("test_shelve")


class Backend:
    """dbm.open is our open."""

    face = oblivion_dbm

    def setUp(self) -> None:
        super().setUp()
        enter(self, mock.patch.object(stdlib_dbm, "open", oblivion_dbm.open))


class Installed:
    """install() was called."""

    face = stdlib_dbm

    def setUp(self) -> None:
        super().setUp()
        oblivion_dbm.install()
        self.addCleanup(oblivion_dbm.uninstall)


class LookAlike:
    """The import lines were changed."""

    face = oblivion_dbm.dbm

    def setUp(self) -> None:
        super().setUp()
        # The tests assign dbm._defaultmod; the look-alike itself has none.
        self.addCleanup(vars(oblivion_dbm.dbm).pop, "_defaultmod", None)


class Whichdb:
    """WhichDBTestCase asks a dbm imported anew; here it asks the one under test, about us too."""

    def setUp(self) -> None:
        super().setUp()
        self.dbm = self.face
        enter(self, mock.patch.dict(stdlib_dbm._modules))
        names = [*stdlib_dbm._names, "oblivion_dbm"]
        enter(self, mock.patch.object(stdlib_dbm, "_names", names))


def enter(case: unittest.TestCase, context: contextlib.AbstractContextManager) -> None:
    """TestCase.enterContext, which Python 3.10 lacks."""
    context.__enter__()
    case.addCleanup(context.__exit__, None, None, None)


def test_cases(way: type, dbm_tests: ModuleType, shelve_tests: ModuleType) -> dict[str, type]:
    """Every test class of the two modules and those for our backend, run in one way."""
    from test import mapping_tests

    found = [
        type("TestCase_oblivion", (dbm_tests.AnyDBMTestCase, unittest.TestCase), {"module": OURS})
    ]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        name = f"TestProto{protocol}File_oblivionShelve"
        bases = (shelve_tests.TestShelveFileBase, mapping_tests.BasicTestMappingProtocol)
        found.append(type(name, bases, {"dbm_mod": OURS, "_args": {"protocol": protocol}}))
    for module in (dbm_tests, shelve_tests):
        found += [
            thing
            for thing in vars(module).values()
            if isinstance(thing, type) and issubclass(thing, unittest.TestCase)
        ]
    classes = {}
    for case in found:
        added = (Whichdb, way) if case is dbm_tests.WhichDBTestCase else (way,)
        name = f"Test{way.__name__}_{case.__name__}"
        classes[name] = type(name, (*added, case), {"__module__": __name__})
    return classes


test_cases.__test__ = False
OURS = oblivion_dbm
UNCHANGED = (cpython_tests("test_dbm"), cpython_tests("test_shelve"))
globals().update(test_cases(Backend, *UNCHANGED))
globals().update(test_cases(Installed, *UNCHANGED))
globals().update(test_cases(LookAlike, *look_alike_tests()))


class TestDatabaseAsMapping(cpython_tests("mapping_tests").BasicTestMappingProtocol):
    """The mapping protocol on the handle itself, with bytes, which it keeps as they are."""

    def _reference(self) -> dict[bytes, bytes]:
        return {b"1": b"2", b"key1": b"value1", b"key2": b"\0\xff"}

    def _empty_mapping(self) -> oblivion_dbm.Database:
        self.opened = getattr(self, "opened", 0) + 1
        db = oblivion_dbm.Database(f"store{self.opened}")
        self.addCleanup(db.close)
        return db


def test_each_way_has_the_classes_of_both_files() -> None:
    backends = len(list(UNCHANGED[0].dbm_iterator()))
    protocols = pickle.HIGHEST_PROTOCOL + 1
    expected = 2 + (1 + backends) + protocols * (2 + backends)
    for way in (Backend, Installed, LookAlike):
        classes = [name for name in globals() if name.startswith(f"Test{way.__name__}_")]
        assert len(classes) == expected


def test_the_look_alike_tests_test_the_look_alikes() -> None:
    case = globals()["TestLookAlike_TestCase"]
    module = sys.modules[case.__mro__[2].__module__]
    assert module is UNCHANGED[1], "the standard copy is back in sys.modules"
    namespace = case.test_with.__globals__
    assert namespace["dbm"] is oblivion_dbm.dbm
    assert namespace["shelve"] is oblivion_dbm.shelve


@pytest.mark.parametrize("way", [Backend, Installed, LookAlike])
def test_each_way_reaches_our_stores(way: type) -> None:
    case = globals()[f"Test{way.__name__}_TestCase_dumb"]("test_anydbm_creation")
    case.setUp()
    case.init_db()
    assert oblivion_dbm.whichdb(case.init_db.__globals__["_fname"]) == "oblivion_dbm"
    case.doCleanups()
    case = globals()[f"Test{way.__name__}_TestProto2File_dumbShelve"]("test_read")
    case.setUp()
    assert isinstance(case._empty_mapping().dict, oblivion_dbm.Database)
    case.doCleanups()
    assert "oblivion" not in stdlib_dbm.open.__module__


def test_the_files_run_as_they_are_in_an_installed_process(tmp_path: Path) -> None:
    code = (
        "from oblivion_dbm.stdlib import run_script\n"
        "run_script(['-m', 'unittest', 'test.test_dbm', 'test.test_shelve'])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "Ran " in ran.stderr
