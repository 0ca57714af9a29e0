"""``oblivion-dbm backup``: a store as it is now, into another directory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oblivion_dbm.cli.command import OK, Command
from oblivion_dbm.cli.words import counted, megabytes
from oblivion_dbm.database import backup

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from oblivion_dbm.engine.backup import Report


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("store", metavar="PATH", help="the store's directory")
    parser.add_argument(
        "destination",
        metavar="DESTINATION",
        help="an earlier backup of this store, an empty directory or a new one",
    )
    parser.add_argument("--copy", action="store_true", help="make no hard links")


def _run(arguments: Namespace) -> int:
    report = backup(arguments.store, arguments.destination, copy=arguments.copy)
    print(f"{arguments.destination}: {in_words(report)}")
    return OK


def in_words(report: Report) -> str:
    """Say what a backup or a restore has done."""
    tables = report.linked + report.copied + report.kept
    return (
        f"{counted(tables, 'table')} of {megabytes(report.bytes)} "
        f"({report.linked:,} linked, {report.copied:,} copied, {report.kept:,} kept), "
        f"{megabytes(report.log_bytes)} of log; {megabytes(report.bytes_copied)} copied; "
        f"sequence number {report.sequence:,}"
    )


COMMAND = Command(
    name="backup",
    summary="make a backup of a store, or bring one up to date",
    description=(
        "Make a backup of a store as it is now, whoever writes to it meanwhile. A backup is a\n"
        "store that can be read like any other. Tables are hard links where that is possible,\n"
        "which share the disk and what befalls it; --copy makes copies."
    ),
    example="oblivion-dbm backup store /mnt/backups/store",
    arguments=_arguments,
    run=_run,
)
