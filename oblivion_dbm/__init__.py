"""An embedded, ordered key-value store, and a stand-in for ``dbm`` and ``shelve``.

>>> import oblivion_dbm, tempfile
>>> path = tempfile.mkdtemp() + "/store"
>>> with oblivion_dbm.Database(path) as db:
...     db["colour"] = "blue"
...     db["colour"]
b'blue'

Names that a short program does not need (the faces ``aio``, ``dbm`` and
``shelve``, ``install``, ``import_wal`` and so on) are loaded when they are
first touched.
"""

from __future__ import annotations

from oblivion_dbm.database import Database, backup, open, remove, repair, restore, verify
from oblivion_dbm.errors import ConflictError, CorruptionError, error

__version__ = "0.1.0"

__all__ = [
    "ConflictError",
    "CorruptionError",
    "Database",
    "aio",
    "backup",
    "dbm",
    "error",
    "import_wal",
    "install",
    "open",
    "remove",
    "repair",
    "restore",
    "shelve",
    "uninstall",
    "verify",
    "whichdb",
]

_LOADED_WHEN_TOUCHED = {
    "import_wal": "convert",
    "install": "stdlib",
    "uninstall": "stdlib",
    "whichdb": "stdlib",
}

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oblivion_dbm import aio, dbm, shelve
    from oblivion_dbm.convert import import_wal
    from oblivion_dbm.stdlib import install, uninstall, whichdb


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name in ("aio", "dbm", "shelve"):
        return import_module(f"oblivion_dbm.{name}")
    if name in _LOADED_WHEN_TOUCHED:
        value = getattr(import_module(f"oblivion_dbm.{_LOADED_WHEN_TOUCHED[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
