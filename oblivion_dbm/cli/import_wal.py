"""``oblivion-dbm import-wal``: the write-ahead log of the seeds, into a store."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from oblivion_dbm.cli.command import FAILED, OK, Command
from oblivion_dbm.cli.words import counted
from oblivion_dbm.convert import import_wal, open_regular
from oblivion_dbm.database import Database

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="the log")
    parser.add_argument("store", metavar="STORE", help="the store; made if it is not there")


def _run(arguments: Namespace) -> int:
    # Looked at first, so that a log that cannot be read leaves no new store behind.
    open_regular(arguments.file).close()
    with Database(arguments.store, "c") as database:
        result = import_wal(arguments.file, database)
        records = len(database)
    print(
        f"{arguments.store}: {counted(result.puts, 'put')} and "
        f"{counted(result.deletes, 'delete')} from {counted(result.bytes_read, 'byte')}; "
        f"{counted(records, 'record')} now"
    )
    if result.damage is None:
        return OK
    print(f"oblivion-dbm: {result.damage}", file=sys.stderr)
    return FAILED


COMMAND = Command(
    name="import-wal",
    summary="read a write-ahead log of the prototypes into a store",
    description=(
        "Apply the entries of a log without a header (op, key, value, CRC-32) to a store, in\n"
        "order. Stops at the first damaged entry: what precedes it is in the store then, and\n"
        "the exit code is 1."
    ),
    example="oblivion-dbm import-wal old/oblivion.wal new-store",
    arguments=_arguments,
    run=_run,
)
