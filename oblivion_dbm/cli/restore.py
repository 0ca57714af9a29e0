"""``oblivion-dbm restore``: a store out of a backup."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oblivion_dbm.cli.backup import in_words
from oblivion_dbm.cli.command import OK, Command
from oblivion_dbm.database import restore

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("backup", metavar="BACKUP", help="the backup's directory")
    parser.add_argument("path", metavar="PATH", help="where the store is to be: nothing is there")
    parser.add_argument("--link", action="store_true", help="make hard links of tables")


def _run(arguments: Namespace) -> int:
    report = restore(arguments.backup, arguments.path, link=arguments.link)
    print(f"{arguments.path}: {in_words(report)}; every byte checked, nothing wrong")
    return OK


COMMAND = Command(
    name="restore",
    summary="make a store out of a backup",
    description=(
        "Check every byte of a backup, copy it, and check the copy. PATH gets the store once it\n"
        "is whole. Nothing is made of a damaged backup; the exit code is 1 then."
    ),
    example="oblivion-dbm restore /mnt/backups/store store",
    arguments=_arguments,
    run=_run,
)
