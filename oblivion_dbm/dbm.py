"""A look-alike of the standard module ``dbm`` that creates our stores.

Change ``import dbm`` into ``from oblivion_dbm import dbm`` and a program keeps
its existing files: a gdbm, ndbm, dumb or sqlite3 file is found by
:func:`whichdb` and opened with its own module.  What is created anew is one of
our stores, a directory.

>>> import tempfile
>>> from oblivion_dbm import dbm
>>> path = tempfile.mkdtemp() + "/colours"
>>> with dbm.open(path, "c") as db:
...     db["sky"] = "blue"
>>> dbm.whichdb(path)
'oblivion_dbm'

:data:`error` is a tuple, as in the standard module: ours comes first, the
standard ones follow, because files of other kinds raise those.  Every name
that is not defined here (``dbm.gnu``, ``dbm.dumb`` and so on) is the standard
module's own.
"""

from __future__ import annotations

import dbm as stdlib_dbm
from typing import Any

from oblivion_dbm import errors
from oblivion_dbm.stdlib import open, whichdb

__all__ = ["error", "open", "whichdb"]

error: tuple[type[Exception], ...] = (errors.error, *stdlib_dbm.error)


def __getattr__(name: str) -> Any:
    if name in ("dumb", "gnu", "ndbm", "sqlite3"):
        from importlib import import_module

        try:
            return import_module(f"dbm.{name}")
        except ImportError as cause:
            raise AttributeError(f"this Python has no module dbm.{name}") from cause
    return getattr(stdlib_dbm, name)
