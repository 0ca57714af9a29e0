"""The history of a store: the sessions of writing that it is made of.

::

    ? history 1:91c4e0a2d57b:0 2:5be60fee0196:4291 3:0a6d8f41c7e2:9017:crash

A session begins where a handle begins its first log segment.  It has an ordinal, a
random id, and the sequence number at which it began; ``crash`` says that the machine
had crashed before, so what came last may be lost.

One process alone appends in a session.  So a session and a sequence number are one
point of history, and that point is part of a store's history where the store has
that session and none of the later ones began before that number.  A store that has
lost its end, and a copy of its directory that went on by itself, are told so.

The MANIFEST keeps no more than ``MOST``: the latest, and of older ones the fewer the
older they are, those after a crash longest.  Of a session that was left out the
ordinals of its neighbours and where they began still tell, if not for certain.

>>> from oblivion_dbm.engine.filesystem import FileSystem
>>> from oblivion_dbm.engine.version import Version
>>> empty = Version("00" * 16, 7)
>>> store = with_session(empty, 0, False, FileSystem())
>>> backup, later = store, with_session(store, 4291, True, FileSystem())
>>> [is_part(backup, sequence, later) for sequence in (0, 4291, 4292)]
[True, True, False]
>>> copy = with_session(backup, 4291, False, FileSystem())
>>> is_part(copy, 4291, later), is_part(copy, 4292, later), is_part(later, 4292, copy)
(True, False, False)
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oblivion_dbm.engine.filesystem import FileSystem
    from oblivion_dbm.engine.version import Version

LINE = "? history "
#: Sessions that are kept, and how many of the latest are kept in any case.
MOST, LATEST = 128, 64
#: Digits that a number of 63 bits can have.
_DIGITS = 19


class Session:
    """A session of writing; ``start`` is the sequence number at which it began."""

    __slots__ = ("after_crash", "name", "ordinal", "start")

    def __init__(self, ordinal: int, name: str, start: int, after_crash: bool) -> None:
        self.ordinal = ordinal
        self.name = name
        self.start = start
        self.after_crash = after_crash

    def __str__(self) -> str:
        return f"{self.ordinal}:{self.name}:{self.start}" + ":crash" * self.after_crash


def sessions(version: Version) -> list[Session]:
    """Return the sessions that are known of a store, the oldest first."""
    found: dict[int, Session] = {}
    for line in version.extra:
        for word in line[len(LINE) :].split(" ") if line.startswith(LINE) else ():
            ordinal, name, start, crash = (*word.split(":", 3), "", "", "")[:4]
            if _is_number(ordinal) and _is_number(start):
                session = Session(int(ordinal), name, int(start), crash == "crash")
                found[session.ordinal] = session
    return [found[ordinal] for ordinal in sorted(found)]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _DIGITS


def with_session(
    version: Version, start: int, after_crash: bool, filesystem: FileSystem
) -> Version:
    """Return it with a new session that begins at the sequence number ``start``."""
    known = sessions(version)
    ordinal = known[-1].ordinal + 1 if known else 1
    known.append(Session(ordinal, filesystem.random(6).hex(), start, after_crash))
    while len(known) > MOST:
        del known[_least(known)]
    others = (line for line in version.extra if not line.startswith(LINE))
    return version.replace(extra=(*others, LINE + " ".join(map(str, known))))


def _least(known: list[Session]) -> int:
    """Return the place of the session that tells least: its neighbours are close, for its age."""

    def worth(place: int) -> tuple[bool, float]:
        before = known[place - 1].ordinal if place else 0
        gap = known[place + 1].ordinal - before
        return known[place].after_crash, gap / (known[-1].ordinal - known[place].ordinal)

    return min(range(len(known) - LATEST), key=worth)


def is_part(earlier: Version, sequence: int, version: Version) -> bool:
    """Tell whether ``earlier``, up to ``sequence``, is part of the history of ``version``."""
    ours = sessions(version)
    # Of one that began at the very end there is nothing yet: its handle may have failed.
    theirs = [session for session in sessions(earlier) if session.start < sequence]
    names = {session.ordinal: session.name for session in ours}
    if any(names.get(session.ordinal, session.name) != session.name for session in theirs):
        return False
    last = theirs[-1].ordinal if theirs else 0
    later = [session.start for session in ours if session.ordinal > last]
    return min(later, default=sequence) >= sequence and (bool(later) or last in (0, *names))
