"""The lines of a MANIFEST that say where a store comes from, and what became of it.

::

    ? lineage 91c4e0a2d57b3f68     given at random to a store that is created or restored
    ? backup 4291 0196792e         this is a backup: up to which sequence number, and the
                                   crc of what its MANIFEST names
    ? emptied 8913                 nothing is left of the writes up to this sequence number, or
                                   else a table says that it holds them

Two stores with one store id and one lineage are the same store at different
times: a store and its backups.  A store that was made before there were
lineages has none, which is one too.  A backup whose MANIFEST was changed since,
by whatever wrote to it, is told by the crc.

>>> from oblivion_dbm.engine.version import Version
>>> store = Version("00" * 16, 7, extra=("? lineage ab",))
>>> lineage(store), backup_sequence(store)
('ab', None)
>>> copy = as_backup(store, 4291)
>>> lineage(copy), backup_sequence(copy), is_as_backed_up(copy)
('ab', 4291, True)
>>> is_as_backed_up(copy.with_log(3))
False
"""

from __future__ import annotations

from oblivion_dbm.engine.manifest import render

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oblivion_dbm.engine.filesystem import FileSystem
    from oblivion_dbm.engine.version import Version

_LINEAGE = "? lineage "
_BACKUP = "? backup "
_EMPTIED = "? emptied "


def lineage(version: Version) -> str:
    """Return the lineage of a store or a backup, "" where it has none."""
    return _value(version, _LINEAGE)


def begin(version: Version, filesystem: FileSystem) -> Version:
    """Return it with a new lineage, and as no backup."""
    others = _others(version, _LINEAGE, _BACKUP)
    return version.replace(extra=(*others, _LINEAGE + filesystem.random(8).hex()))


def own(version: Version, filesystem: FileSystem) -> Version:
    """Return what a writer goes on from: a backup that is written to is a store of its own."""
    return begin(version, filesystem) if _value(version, _BACKUP) else version


def as_backup(version: Version, sequence: int) -> Version:
    """Return it marked as a backup that holds everything up to ``sequence``."""
    mark = f"{_BACKUP}{sequence} {_crc(version)}"
    return version.replace(extra=(*_others(version, _BACKUP), mark))


def backup_sequence(version: Version) -> int | None:
    """Return the sequence number up to which a backup holds everything; None for no backup."""
    return _number(_value(version, _BACKUP).partition(" ")[0])


def is_as_backed_up(version: Version) -> bool:
    """Tell whether a backup's MANIFEST still names what the backup has put there."""
    return _value(version, _BACKUP).partition(" ")[2] == _crc(version)


def emptied(version: Version, sequence: int) -> Version:
    """Return it with the note that no record up to ``sequence`` is left, and no table of them."""
    return version.replace(extra=(*_others(version, _EMPTIED), f"{_EMPTIED}{sequence}"))


def emptied_up_to(version: Version) -> int | None:
    """Return up to which sequence number nothing may be left; None where nobody has noted it."""
    return _number(_value(version, _EMPTIED))


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _crc(version: Version) -> str:
    """Return the crc, in hex, of all lines that say what the store's contents are."""
    return render(version.replace(next_file=0, extra=()))[-9:-1].decode("ascii")


def _value(version: Version, name: str) -> str:
    """Return what follows ``name`` in the last line that begins so, "" without one."""
    values = [line[len(name) :] for line in version.extra if line.startswith(name)]
    return values[-1] if values else ""


def _others(version: Version, *names: str) -> tuple[str, ...]:
    return tuple(line for line in version.extra if not line.startswith(names))
