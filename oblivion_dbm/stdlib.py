"""Standing in for the standard library's ``dbm`` and ``shelve``.

For programs whose import lines cannot be changed.  After :func:`install`,
``dbm.open``, ``dbm.whichdb`` and with them ``shelve.open`` find and create our
stores, and existing gdbm, ndbm, dumb and sqlite3 files still open with their
own module.  ``python -m oblivion_dbm run SCRIPT`` does it for a script that
cannot be changed at all.
"""

from __future__ import annotations

import builtins
import dbm as stdlib_dbm
import errno
import os
import sys

from oblivion_dbm import database, errors

TYPE_CHECKING = False  # importing typing would cost more than all of this
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import CodeType, ModuleType
    from typing import Any, NoReturn, TypeAlias

    StrOrBytesPath: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]
    _StandardError = Exception
else:
    _StandardError = stdlib_dbm.error[0]

__all__ = ["install", "open", "run_script", "uninstall", "whichdb"]

OURS = "oblivion_dbm"
MANIFEST = "MANIFEST"
MANIFEST_BEGINS = b"oblivion-manifest "

# The modules that were changed, with the functions they had before.
_replaced: list[tuple[ModuleType, Callable[..., Any], Callable[..., Any]]] = []

# Kept from before install() puts ours in its place: ours calls this one.
_standard_whichdb = stdlib_dbm.whichdb


class _NotOpened(errors.error, _StandardError):
    """Raised before a module is chosen; both our ``error`` and ``dbm.error[0]``.

    Programs that catch the standard module's own class at this point keep
    working, and so do those that compare the text.
    """

    def __str__(self) -> str:
        return str(self.strerror) if self.errno is None else super().__str__()


def whichdb(filename: StrOrBytesPath) -> str | None:
    """The name of the module that opens ``filename``.

    ``"oblivion_dbm"`` for a store of ours, which is a directory with a MANIFEST
    of ours in it; for everything else the answer of the standard
    ``dbm.whichdb``: None if there is nothing to read, ``""`` if the kind is
    unknown.  Reads the first bytes of a few files and changes nothing.
    Takes str, bytes and path objects on every version of Python.
    """
    path = os.fsdecode(filename)
    try:
        with builtins.open(os.path.join(path, MANIFEST), "rb") as manifest:
            if manifest.read(len(MANIFEST_BEGINS)) == MANIFEST_BEGINS:
                return OURS
    except OSError:
        pass
    return _standard_whichdb(path)


def open(file: StrOrBytesPath, flag: str = "r", mode: int = 0o666, **options: Any) -> Any:
    """Open the database at ``file`` with the module it belongs to.

    ``flag`` and ``mode`` are those of the standard ``dbm.open``.  A store of
    ours, or nothing there yet and ``'c'``, or ``'n'`` in any case, is handed
    to :func:`oblivion_dbm.open` together with ``options`` (``sync=``,
    ``lock_timeout=`` and so on).  A file of another kind is opened with its
    own module; options for it are a ValueError.  Raises a member of
    :data:`error` for a missing database (errno ENOENT, with the path) and for
    one of an unknown kind.
    """
    kind = None if "n" in flag else whichdb(file)
    if kind == OURS:
        return _open_ours(file, flag, mode, options)
    if kind is not None:
        return _open_other(kind, file, flag, mode, options)
    if "c" not in flag and "n" not in flag and not os.path.lexists(file):
        meaning = "db file doesn't exist; use 'c' or 'n' flag to create a new db"
        raise _NotOpened(errno.ENOENT, meaning, os.fsdecode(file))
    return _open_ours(file, flag, mode, options)


def _open_ours(file: StrOrBytesPath, flag: str, mode: int, options: dict[str, Any]) -> Any:
    return database.open(file, flag, mode, **options)


def _open_other(
    kind: str, file: StrOrBytesPath, flag: str, mode: int, options: dict[str, Any]
) -> Any:
    """Open a file of one of the standard modules, named by ``kind``."""
    from importlib import import_module

    path = os.fsdecode(file)
    if not kind:
        raise _NotOpened(None, "db type could not be determined", path)
    if options:
        given = ", ".join(sorted(options))
        raise ValueError(f"{path}: a file of {kind}, which does not know the option {given}")
    try:
        module = import_module(kind)
    except ImportError as cause:
        meaning = f"db type is {kind}, but the module is not available"
        raise _NotOpened(None, meaning, path) from cause
    return module.open(path, flag, mode)


def install() -> None:
    """Make the standard ``dbm`` and ``shelve`` find and create our stores.

    Doing it twice is doing it once.  ``dbm.error`` stays what it is and
    catches our errors, which are OSErrors.  A module that did ``from dbm
    import open`` before keeps the function it took.  Processes started with
    multiprocessing's ``spawn`` have to install for themselves.
    """
    import dbm as current  # not always the one that was there when this module was loaded

    if current.open is open:
        return
    _replaced.append((current, current.open, current.whichdb))
    changed: Any = current
    changed.open, changed.whichdb = open, whichdb
    # For a standard open() that was taken before: it looks the name up here.
    getattr(current, "_modules", {})[OURS] = sys.modules[OURS]


def uninstall() -> None:
    """Give the standard modules back the functions they had before."""
    while _replaced:
        module, opened, which = _replaced.pop()
        changed: Any = module
        changed.open, changed.whichdb = opened, which
        getattr(module, "_modules", {}).pop(OURS, None)


def run_script(argv: Sequence[str]) -> None:
    """Run ``argv`` as Python would, with our stores installed.

    ``argv`` is ``[SCRIPT, ARG, …]``, where SCRIPT is a file, or a folder or
    zip file with a ``__main__.py``, or ``["-m", MODULE, ARG, …]``.  The
    program gets ``sys.argv``, ``sys.path[0]`` and ``__main__`` as it expects
    them.  Its exceptions and its SystemExit, so also its exit code, go up to
    the caller.  What cannot be found is reported on stderr and ends as Python
    itself does, with SystemExit and code 2.
    """
    if not argv or argv == ["-m"]:
        _stop("usage: run SCRIPT [ARG ...] | run -m MODULE [ARG ...]")
    install()
    arguments = list(argv[1:] if argv[0] == "-m" else argv)
    try:
        if argv[0] == "-m":
            main, code = _module(arguments[0], os.getcwd())
            arguments[0] = str(main.__file__)
        else:
            main, code = _script(arguments[0])
    except (ImportError, OSError) as cause:
        _stop(f"cannot run {' '.join(argv[: 1 + (argv[0] == '-m')])}: {cause}")
    sys.argv[:] = arguments
    # It stays there after the end: what the program leaves to be done at exit
    # (a shelf with writeback, pickled then) still finds its own classes.
    sys.modules["__main__"] = main
    exec(code, main.__dict__)


def _stop(meaning: str) -> NoReturn:
    print(meaning, file=sys.stderr)
    raise SystemExit(2)


def _script(path: str) -> tuple[ModuleType, CodeType]:
    """The code in the file ``path``, or in a folder or zip file, as ``__main__``."""
    from importlib.machinery import SourceFileLoader

    if _find("__main__", path) is not None:
        return _module("__main__", path)
    absolute = os.path.abspath(path)
    with builtins.open(absolute, "rb") as source:
        code = compile(source.read(), absolute, "exec", dont_inherit=True)
    _search_first(os.path.dirname(os.path.realpath(path)))
    return _main(__file__=absolute, __loader__=SourceFileLoader("__main__", absolute)), code


def _module(name: str, folder: str) -> tuple[ModuleType, CodeType]:
    """The module ``name``, or its ``__main__`` if it is a package, as ``__main__``."""
    _search_first(folder)
    spec = _find(name, folder)
    if spec is not None and spec.submodule_search_locations is not None:
        spec = _find(f"{name}.__main__", folder)
    get_code = getattr(spec.loader, "get_code", None) if spec is not None else None
    code = get_code(spec.name) if spec is not None and get_code is not None else None
    if spec is None or code is None:
        raise ImportError(f"no module named {name} that can be run")
    main = _main(
        __file__=spec.origin, __loader__=spec.loader, __package__=spec.parent, __spec__=spec
    )
    return main, code


def _main(**attributes: object) -> ModuleType:
    main = type(sys)("__main__")
    main.__dict__.update(attributes, __builtins__=builtins)
    return main


def _find(name: str, folder: str) -> ModuleSpec | None:
    from importlib.machinery import PathFinder
    from importlib.util import find_spec

    if name == "__main__":  # in sys.modules that is the caller's
        return PathFinder.find_spec(name, [folder])
    return find_spec(name)


def _search_first(folder: str) -> None:
    """Put ``folder`` where Python puts it: first, unless it was told not to."""
    if not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
        sys.path[0] = folder
