"""``oblivion-dbm verify``: read and check every byte of a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oblivion_dbm.cli.command import FAILED, OK, Command
from oblivion_dbm.cli.words import counted
from oblivion_dbm.database import Database
from oblivion_dbm.engine.verify import verify

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("store", metavar="STORE", help="the store's directory")


def _run(arguments: Namespace) -> int:
    findings = verify(arguments.store)
    for finding in findings:
        print(finding)
    if findings:
        return FAILED
    with Database(arguments.store, "r") as database:
        records = counted(len(database), "record")
        print(f"{arguments.store}: {records}, every byte checked, nothing wrong")
    return OK


COMMAND = Command(
    name="verify",
    summary="check every byte of a store",
    description=(
        "Read everything in a store and check it against its checksums and its order. Changes\n"
        "nothing. One line for each finding; the exit code is 1 if there is one."
    ),
    example="oblivion-dbm verify store",
    arguments=_arguments,
    run=_run,
)
