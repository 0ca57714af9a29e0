"""The names of the files in a store: the only place that makes or parses them.

::

    MANIFEST        the current Version
    MANIFEST.new    the next one, until it is renamed
    LOCK            flock'ed by the writer
    000012.wal      a log segment
    000009.sst      a table
    000012.lost     what recovery dropped from the end of that log segment
    000009.sst.new  a copy that is being made, as 000012.wal.new
    UNFINISHED      says that a first backup, or a restore, was not done here yet

Numbers only grow and are never reused.

>>> log(12), table(9), parse("000012.wal"), parse("notes.txt")
('000012.wal', '000009.sst', ('wal', 12), None)
"""

from __future__ import annotations

MANIFEST = "MANIFEST"
MANIFEST_NEW = "MANIFEST.new"
LOCK = "LOCK"
UNFINISHED = "UNFINISHED"

_NEW = ".new"

LOG_KIND = "wal"
TABLE_KIND = "sst"
LOST_KIND = "lost"


def log(number: int) -> str:
    """Return the name of log segment ``number``."""
    return f"{number:06d}.{LOG_KIND}"


def table(number: int) -> str:
    """Return the name of table ``number``."""
    return f"{number:06d}.{TABLE_KIND}"


def lost(number: int) -> str:
    """Return the name under which the dropped tail of a log segment is kept."""
    return f"{number:06d}.{LOST_KIND}"


def parse(name: str) -> tuple[str, int] | None:
    """Return (kind, number) of a numbered file of ours, None for any other name."""
    digits, _, kind = name.partition(".")
    if kind not in (LOG_KIND, TABLE_KIND, LOST_KIND):
        return None
    if not (digits.isascii() and digits.isdigit()) or digits != f"{int(digits):06d}":
        return None
    return kind, int(digits)


def fresh(name: str) -> str:
    """Return the name that a file has until it may have the name ``name``."""
    return name + _NEW


def is_fresh(name: str) -> bool:
    """Tell whether ``fresh`` made this name for a numbered file."""
    return name.endswith(_NEW) and parse(name[: -len(_NEW)]) is not None


def restoring(path: str) -> str:
    """Return the directory in which the store at ``path`` is restored."""
    return path + ".restoring"


def is_ours(name: str) -> bool:
    """Tell whether a store's directory may hold a file of this name."""
    fixed = (MANIFEST, MANIFEST_NEW, LOCK, UNFINISHED)
    return name in fixed or parse(name) is not None or is_fresh(name)
