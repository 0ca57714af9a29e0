"""``oblivion-dbm run``: a script that cannot be changed, on our stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oblivion_dbm.cli.command import OK, Command

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Sequence


def is_script(words: Sequence[str]) -> bool:
    """Whether a command line is ``run`` with a script or module to run.

    Such a line is not for argparse, since what follows the script is the
    script's as it stands, ``--`` and ``--help`` included.
    """
    return words[:1] == [COMMAND.name] and any(
        not word.startswith("-") or word == "-m" for word in words[1:2]
    )


def start(words: Sequence[str]) -> int:
    """Run ``[SCRIPT, ARG, ...]`` or ``["-m", MODULE, ARG, ...]``; OK once it has ended.

    Whatever the script raises comes through, SystemExit included, so it ends
    with the exit code and the traceback it would have had without us.
    """
    from oblivion_dbm.stdlib import run_script

    run_script(words)
    return OK


def _arguments(parser: ArgumentParser) -> None:
    parser.usage = "oblivion-dbm run [-h] (SCRIPT | -m MODULE) [ARG ...]"
    parser.add_argument("script", metavar="SCRIPT", help="a Python file; ARGs go to it as they are")


def _run(arguments: Namespace) -> int:
    return start([arguments.script])


COMMAND = Command(
    name="run",
    summary="run a Python script with our stores behind dbm and shelve",
    description=(
        "Run a Python script, unchanged, so that its dbm.open and shelve.open make and open\n"
        "our stores. Files that it has from other dbm modules still open with these."
    ),
    example="oblivion-dbm run report.py --month 3",
    arguments=_arguments,
    run=_run,
)
