"""Repair: a new store out of whatever still checks of a damaged one.

The order that keeps data safe::

    lock the old store; read it; nothing in it changes
    STORE.repairing   the new one: built, synced, MANIFEST last; verified
    STORE.repairing.jsonl   what is handed over, synced
    STORE             renamed to STORE.damaged; directory synced
    STORE.repairing.jsonl   renamed to STORE.found.jsonl; directory synced
    STORE.repairing   renamed to STORE; directory synced

A repair that was cut short before the first renaming is begun anew; one that was
cut short after it is brought to its end by the next.  The numbers behind .damaged
and .found are the same, and higher than all that are there; so the highest is the
one that was cut short.
"""

from __future__ import annotations

from errno import EACCES, EBUSY, EEXIST, EINVAL, ENOENT, ENOTDIR, ENOTEMPTY, EPERM, EROFS

from oblivion_dbm.engine.damage import Loss, PatientFiles
from oblivion_dbm.engine.filenames import LOCK, UNFINISHED
from oblivion_dbm.engine.filesystem import FileSystem
from oblivion_dbm.engine.hand_over import LINES, count_lines
from oblivion_dbm.engine.inventory import Inventory
from oblivion_dbm.engine.lock import WriterLock
from oblivion_dbm.engine.manifest import load
from oblivion_dbm.engine.rebuild import BUILDING, DONE, Rebuild, check
from oblivion_dbm.engine.report import Report
from oblivion_dbm.errors import error

__all__ = ["Report", "repair"]

DAMAGED, FOUND = ".damaged", ".found"


def repair(
    old: str,
    destination: str | None = None,
    *,
    doubtful: bool = False,
    filesystem: FileSystem | None = None,
) -> Report:
    """Make a new store out of what still checks of the one at ``old``: see ``oblivion_dbm.repair``.

    Both paths are absolute.  A link to one stays: what it leads to gets the new store.
    """
    filesystem = filesystem or FileSystem()
    old = filesystem.real(old)
    new = old if destination is None else filesystem.real(destination)
    _check_not_mounted(filesystem, new)
    if destination is not None:
        _check_destination(filesystem, old, new)
    elif filesystem.kind(old) == "missing":
        return _finish(filesystem, old)
    _check_source(filesystem, old)
    lock = _locked(filesystem, old, elsewhere=destination is not None)
    try:
        rebuild = Rebuild(filesystem, old, new)
        try:
            rebuild.run(doubtful)
            _put_in_place(filesystem, rebuild, old, new)
        except BaseException:
            # Once a store has been renamed the new one is complete, and stays.
            if all(filesystem.kind(path) != "missing" for path in (old, rebuild.directory)):
                rebuild.abandon()
            raise
        finally:
            rebuild.close()
    finally:
        if lock is not None:
            lock.release()
    return rebuild.report


def _locked(filesystem: FileSystem, old: str, elsewhere: bool) -> WriterLock | None:
    """Return the lock on the old store; None where there is none to take and none can be made.

    On a medium that is read-only, or where others may write, reading is enough for a
    new store that goes ``elsewhere``.
    """
    try:
        return WriterLock(filesystem, old)
    except error as problem:
        if not elsewhere or problem.errno not in (EROFS, EACCES, EPERM):
            raise
    if filesystem.kind(filesystem.join(old, LOCK)) == "missing":
        return None
    return WriterLock(filesystem, old, writable=False)


def _put_in_place(filesystem: FileSystem, rebuild: Rebuild, old: str, new: str) -> None:
    """Give the new store, which is complete, its name; the old one's first, if it is that."""
    report, parent = rebuild.report, filesystem.parent(new)
    damaged, found = _names(new, _last_number(filesystem, new) + 1)
    if new == old:
        filesystem.rename(old, damaged)
        filesystem.sync_directory(parent)
        report.move(damaged)
    if len(rebuild.hand_over):
        report.handed_over = found
        filesystem.rename(rebuild.hand_over.path, found)
        filesystem.sync_directory(parent)
    filesystem.rename(rebuild.directory, new)
    filesystem.sync_directory(parent)


def _check_source(filesystem: FileSystem, path: str) -> None:
    """Raise unless there was a store at ``path`` once."""
    kind = filesystem.kind(path)
    if kind == "missing":
        raise error(ENOENT, "there is no store here", path)
    if kind != "directory":
        raise error(ENOTDIR, "expected a store, which is a directory", path)
    inventory = Inventory(PatientFiles(filesystem), path)
    try:
        if inventory.is_unfinished:
            meaning = (
                "a backup or a restore was not finished here, so there is no whole store; "
                f"if it was, remove {UNFINISHED} from it"
            )
            raise error(ENOTDIR, meaning, path)
        if not inventory.is_a_store:
            meaning = "this never was a store: no MANIFEST, table or log of ours is in it"
            raise error(ENOTDIR, meaning, path)
    finally:
        inventory.close()


def _check_not_mounted(filesystem: FileSystem, path: str) -> None:
    """Raise where something is mounted, before anything is built that could not get its name."""
    if filesystem.is_mount(path):
        meaning = "expected a directory that can be renamed, found a mount point"
        raise error(EBUSY, f"{meaning}: name another destination for the new store", path)


def _check_destination(filesystem: FileSystem, old: str, new: str) -> None:
    """Raise unless a new store can be made at ``new``, and outside of the old one."""
    kind = filesystem.kind(new)
    if kind == "directory" and filesystem.list(new):
        raise error(ENOTEMPTY, "expected nothing, or an empty directory", new)
    if kind not in ("directory", "missing"):
        raise error(EEXIST, "expected nothing, or an empty directory", new)
    parent = filesystem.parent(new)
    if filesystem.kind(parent) != "directory":
        raise error(ENOENT, "there is no such directory", parent)
    if filesystem.kind(old) == "directory":
        inode = filesystem.inode(old)
        above = new if kind == "directory" else parent
        while filesystem.inode(above) != inode:
            if above == filesystem.parent(above):
                return
            above = filesystem.parent(above)
        raise error(EINVAL, "the new store cannot lie in the old one", new)


def _finish(filesystem: FileSystem, path: str) -> Report:
    """Bring a repair to its end that was cut short when the old store had been put aside."""
    building, parent = path + BUILDING, filesystem.parent(path)
    old, found = _names(path, _last_number(filesystem, path))
    if filesystem.kind(old) == "missing" or filesystem.kind(building) != "directory":
        raise error(ENOENT, "there is no store here", path)
    report = Report(path, old)
    lock = WriterLock(filesystem, building)
    try:
        version = load(filesystem, building)
        if not any(line.startswith(f"{DONE} ") for line in version.extra):
            raise error(ENOENT, f"there is no store here, and {building} is not complete", path)
        check(filesystem, building)
        if filesystem.kind(building + LINES) == "file":
            filesystem.rename(building + LINES, found)
            filesystem.sync_directory(parent)
        filesystem.rename(building, path)
        filesystem.sync_directory(parent)
    finally:
        lock.release()
    report.saved = version.live or 0
    if filesystem.kind(found) == "file":
        report.handed_over = found
        report.found, report.doubtful = count_lines(filesystem, found)
    meaning = "a repair was cut short and is complete now; what it has lost is not known any more"
    report.losses.append(Loss(old, 0, 0, meaning))
    return report


def _names(path: str, number: int) -> tuple[str, str]:
    """Return what a damaged store at ``path`` is called, and what was found in it."""
    numbered = f"-{number}" if number > 1 else ""
    return path + DAMAGED + numbered, path + FOUND + numbered + LINES


def _last_number(filesystem: FileSystem, path: str) -> int:
    """Return the highest number of what ``_names`` returns that is there, 0 where nothing is."""
    parent, last = filesystem.parent(path), 0
    for name in filesystem.list(parent) if filesystem.kind(parent) == "directory" else ():
        beside = filesystem.join(parent, name)
        for begin, end in ((path + DAMAGED, ""), (path + FOUND, LINES)):
            if beside.startswith(begin) and beside.endswith(end):
                rest = beside[len(begin) : len(beside) - len(end)]
                if rest[:1] == "-" and rest[1:].isdecimal():
                    last = max(last, int(rest[1:]))
                elif not rest:
                    last = max(last, 1)
    return last
