"""``oblivion-dbm repair``: a new store out of what still checks of a damaged one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oblivion_dbm.cli.command import FAILED, OK, Command
from oblivion_dbm.database import repair

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("store", metavar="STORE", help="the store's directory")
    parser.add_argument(
        "--to",
        metavar="DIRECTORY",
        help="make the new store there, and leave the old one where it is",
    )
    parser.add_argument(
        "--take-doubtful",
        action="store_true",
        help="merge records too that may be old or deleted, where nothing newer is known",
    )


def _run(arguments: Namespace) -> int:
    report = repair(arguments.store, destination=arguments.to, doubtful=arguments.take_doubtful)
    for line in report.lines():
        print(line)
    return FAILED if report.losses else OK


COMMAND = Command(
    name="repair",
    summary="make a new store of what still checks of a damaged one",
    description=(
        "Rebuild a store from whatever still checks. The damaged one stays, beside the new one,\n"
        "with .damaged behind its name. Says what was saved and what was not; the exit code is\n"
        "1 if anything was lost."
    ),
    example="oblivion-dbm repair store",
    arguments=_arguments,
    run=_run,
)
