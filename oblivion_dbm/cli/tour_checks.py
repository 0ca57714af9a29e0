"""The tour's second opinion: what the store should hold, and whether it does.

Nothing here believes the store.  :class:`Expected` is a plain dict that sees
the same changes; a check that finds the store to differ raises
:class:`Difference` with the first few differences in words.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from oblivion_dbm.cli.tour_records import Change
    from oblivion_dbm.database import Database

_SHOWN = 5


class Difference(Exception):
    """The store is not what it should be; the text says where."""


class Expected:
    """What the store should hold, and what must be gone from it.

    ``records`` maps keys to values; ``gone`` is the set of keys that were
    deleted and not written since.
    """

    def __init__(self) -> None:
        self.records: dict[bytes, bytes] = {}
        self.gone: set[bytes] = set()

    def apply(self, change: Change) -> None:
        """See a change.  O(its length)."""
        for key, value in change:
            if value is None:
                self.records.pop(key, None)
                self.gone.add(key)
            else:
                self.records[key] = value
                self.gone.discard(key)

    def bytes(self) -> int:
        """Bytes of all keys and values.  O(number of records)."""
        return sum(map(len, self.records)) + sum(map(len, self.records.values()))


def settle(database: Database, expected: Expected, change: Change) -> bool:
    """Whether the change that was in progress at a kill has happened; adds it if so.

    Raises Difference if it has happened in part.  A change that would change
    nothing counts as one that has not happened.
    """
    keys = [key for key, _ in change]
    found = database.get_many(keys)
    if found == [expected.records.get(key) for key in keys]:
        return False
    if found == [value for _, value in change]:
        expected.apply(change)
        return True
    raise Difference(
        f"the change that was in progress, {len(change)} records from {_text(keys[0])} on, "
        "is neither absent nor whole"
    )


def check_records(database: Database, expected: Expected) -> int:
    """Compare a scan of the whole store with what is expected; returns the number of records.

    Every key and value, their order, ``len``, the first and the last record,
    and that nothing else is there.  O(records of the store).
    """
    _raise_first(_differences(database, expected.records), "records differ")
    count = len(expected.records)
    if len(database) != count:
        raise Difference(f"len is {len(database):,}, expected {count:,}")
    if count:
        for name, found, key in (
            ("first", database.first(), min(expected.records)),
            ("last", database.last(), max(expected.records)),
        ):
            if found != (key, expected.records[key]):
                raise Difference(f"{name}() gives {_text(found[0])}, expected {_text(key)}")
    return count


def _differences(database: Database, records: dict[bytes, bytes]) -> Iterator[str]:
    count = 0
    previous: bytes | None = None
    for key, value in database.scan():
        if previous is not None and key <= previous:
            yield f"{_text(key)} comes after {_text(previous)}"
        previous = key
        wanted = records.get(key)
        if wanted is None:
            yield f"{_text(key)} is there and should not be"
        elif wanted != value:
            yield f"{_text(key)} holds {_text(value)}, expected {_text(wanted)}"
        count += wanted is not None
    if count != len(records):
        there = {key for key, _ in database.scan()}
        yield from (f"{_text(key)} is missing" for key in records if key not in there)


def check_lookups(database: Database, expected: Expected) -> int:
    """Look up every record by its key, newest first, and every deleted key; returns how many.

    O(records + deleted keys) look-ups.
    """
    _raise_first(_wrong_lookups(database, expected), "look-ups differ")
    return len(expected.records) + len(expected.gone)


def _wrong_lookups(database: Database, expected: Expected) -> Iterator[str]:
    look_up = database.get
    for key, wanted in reversed(expected.records.items()):
        found = look_up(key)
        if found != wanted:
            text = "is not found" if found is None else f"gives {_text(found)}"
            yield f"a look-up of {_text(key)} {text}, expected {_text(wanted)}"
    for key in expected.gone:
        if key in database:
            yield f"a look-up of {_text(key)} finds it, expected it to be deleted"


def check_prefix(
    database: Database, expected: Expected, view: bytes, prefix: bytes
) -> dict[bytes, bytes]:
    """Scan the keys that begin with ``prefix`` in the view ``database.prefixed(view)``.

    Returns these records in order, once they have been compared.  O(number of
    those records) for the store, O(all records) for the check.
    """
    found = list(database.prefixed(view).scan(prefix=prefix))
    wanted = sorted(
        (key[len(view) :], value)
        for key, value in expected.records.items()
        if key.startswith(view + prefix)
    )
    if found != wanted:
        odd = set(found).symmetric_difference(wanted)
        where = _text(min(odd)[0]) if odd else "the order of the keys"
        raise Difference(
            f"a scan of {_text(prefix)} gives {len(found):,} records, expected {len(wanted):,}; "
            f"they first differ at {where}"
        )
    return dict(found)


def check_verify(database: Database) -> None:
    """Let the store check every byte of its own."""
    findings = list(database.verify())
    if findings:
        raise Difference(f"verify() reports: {'; '.join(map(str, findings[:_SHOWN]))}")


def _raise_first(differences: Iterator[str], what: str) -> None:
    found = list(differences)
    if found:
        shown = "\n".join(f"  {line}" for line in heapq.nsmallest(_SHOWN, found))
        raise Difference(f"{len(found):,} {what}:\n{shown}")


def _text(data: bytes) -> str:
    return repr(data[:60])[1:] + (f"... ({len(data):,} bytes)" if len(data) > 60 else "")
