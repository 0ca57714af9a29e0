"""What the tour stores: the standard library's sources, and where each word is used.

=======================  ======================  ===========================
key                      value                   one for each
=======================  ======================  ===========================
``file/<name>``          the file's bytes        source file
``word/<word> <name>``   a count, in decimal     word of a file
=======================  ======================  ===========================

``name`` is the path below the standard library's folder, with slashes.  A
word is a letter or ``_`` and at least one more letter, digit or ``_``, all
ASCII; so every key ``word/async…`` is a use of a word that begins so.

A *change* is a tuple of (key, value) pairs, value None meaning a delete.  One
pair is a single put or delete; more are one batch, all or nothing.

>>> list(index("a.py", b"for x in range(3): pass  # for ever"))
[(b'file/a.py', b'for x in range(3): pass  # for ever'), (b'word/for a.py', b'2'), \
(b'word/in a.py', b'1'), (b'word/range a.py', b'1'), (b'word/pass a.py', b'1'), \
(b'word/ever a.py', b'1')]
"""

from __future__ import annotations

import os
import re
import sysconfig
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from oblivion_dbm.database import Database

FILE, WORD = b"file/", b"word/"

Change = tuple[tuple[bytes, "bytes | None"], ...]

_WORD = re.compile(rb"[A-Za-z_]\w+")
_NOT_THE_LIBRARY = {"site-packages", "dist-packages", "__pycache__"}


class Library(NamedTuple):
    """The sources that were taken, and what was left out.

    ``files`` maps names to contents, in the order of the names.  ``beyond``
    counts the files after the limit, ``compiled_only`` the modules whose
    source is not there, ``unreadable`` the files that could not be read.
    """

    files: dict[str, bytes]
    beyond: int
    compiled_only: int
    unreadable: int


def read_library(limit: int) -> Library:
    """Read the running interpreter's sources, until they give ``limit`` records.

    Time and memory: proportional to what is read, about 30 MB and a second
    for a whole standard library.
    """
    found: dict[str, str] = {}
    for folder in ("platstdlib", "stdlib"):
        found.update(_sources(sysconfig.get_path(folder)))
    names = sorted(name for name in found if name.endswith(".py"))
    files: dict[str, bytes] = {}
    records = unreadable = 0
    for name in names:
        if records >= limit:
            break
        try:
            with open(found[name], "rb") as file:
                files[name] = file.read()
        except OSError:
            unreadable += 1
            continue
        records += 1 + len(set(_WORD.findall(files[name])))
    return Library(
        files=files,
        beyond=len(names) - len(files) - unreadable,
        compiled_only=sum(name.endswith(".pyc") and name[:-1] not in found for name in found),
        unreadable=unreadable,
    )


def _sources(root: str) -> dict[str, str]:
    """Name → path of every .py and .pyc below ``root`` that is the library's own."""
    found: dict[str, str] = {}
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in _NOT_THE_LIBRARY]
        for name in names:
            if name.endswith((".py", ".pyc")):
                path = os.path.join(folder, name)
                found[os.path.relpath(path, root).replace(os.sep, "/")] = path
    return found


def index(name: str, content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The records of one file: itself, then its words in the order of their first use."""
    where = os.fsencode(name)
    yield FILE + where, content
    for word, count in Counter(_WORD.findall(content)).items():
        yield WORD + word + b" " + where, b"%d" % count


def filling(library: Library) -> Iterator[Change]:
    """One change for each file: its content and its words, or nothing of it."""
    for name, content in library.files.items():
        yield tuple(index(name, content))


def changing(library: Library) -> Iterator[list[Change]]:
    """What happens to the filled store next, file by file; each kind to every fourth file.

    * Its comment lines go, and it is indexed again: one batch that overwrites,
      adds and deletes.
    * It is removed with its words: one batch of deletes.
    * The count of each of its words is doubled: single puts.
    * Each of its words that is not all lower case is forgotten: single deletes.
    """
    for number, (name, content) in enumerate(library.files.items()):
        records = dict(index(name, content))
        kind = number % 4
        if kind == 0:
            yield [_indexed_again(name, content, records)]
        elif kind == 1:
            yield [tuple((key, None) for key in records)]
        else:
            words = [pair for pair in records.items() if pair[0].startswith(WORD)]
            if kind == 2:
                yield [((key, b"%d" % (2 * int(count))),) for key, count in words]
            else:
                yield [((key, None),) for key, _ in words if not key.split()[0].islower()]


def _indexed_again(name: str, content: bytes, records: dict[bytes, bytes]) -> Change:
    lines = content.splitlines(keepends=True)
    kept = b"".join(line for line in lines if not line.lstrip().startswith(b"#"))
    new = dict(index(name, kept))
    changed = [(key, value) for key, value in new.items() if records.get(key) != value]
    return (*changed, *((key, None) for key in records if key not in new))


def apply(database: Database, change: Change) -> None:
    """Carry a change out.  A single delete of an absent key is a KeyError."""
    if len(change) == 1:
        ((key, value),) = change
        if value is None:
            del database[key]
        else:
            database[key] = value
        return
    with database.batch() as batch:
        for key, value in change:
            if value is None:
                del batch[key]
            else:
                batch[key] = value
