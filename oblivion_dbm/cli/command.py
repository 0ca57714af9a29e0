"""What a command of ``oblivion-dbm`` is, and the exit codes all of them share.

====  =============  ==========================================================
code  name           meaning
====  =============  ==========================================================
0     ``OK``         what was asked for was done, and nothing was found wrong
1     ``FAILED``     it could not be done, or a check found something
2     ``USAGE``      the command line makes no sense; nothing was touched
130   ``INTERRUPT``  Ctrl-C
====  =============  ==========================================================
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable

OK, FAILED, USAGE, INTERRUPT = 0, 1, 2, 130


class Command(NamedTuple):
    """One word of the command line.

    ``summary`` is the line in the list of commands, ``description`` and
    ``example`` go into the command's own help.  ``arguments`` declares the
    command's arguments; ``run`` does the work and returns the exit code.
    ``run`` may raise any OSError (``error`` of this package is one), which
    becomes one line on stderr and ``FAILED``.
    """

    name: str
    summary: str
    description: str
    example: str
    arguments: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], int]


def version() -> str:
    """The package's version."""
    # Asked for when needed, since the package's own module stands above this one.
    return str(import_module("oblivion_dbm").__version__)
