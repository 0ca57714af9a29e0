"""The process that the tour kills: it makes changes and says which have returned.

It reads pickled lists of changes from its standard input, carries them out on
the store named by its argument, and after each one that has returned writes
an acknowledgement to its standard output: the number of changes so far, padded
to 64 bytes.  An acknowledgement is written whole or not at all.  A pipe holds
some 64 KiB, so this process is never more than about 1,024 changes ahead of
one that reads them, and cannot be through before it is killed.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO

from oblivion_dbm.cli.tour_records import Change, apply
from oblivion_dbm.database import Database

if TYPE_CHECKING:
    from collections.abc import Iterator

ACKNOWLEDGEMENT = 64
"""Bytes of one; at most the 512 that POSIX promises to write to a pipe at once."""


def changes_in(file: BinaryIO) -> Iterator[Change]:
    """The changes in a file of pickled lists of them, from where it stands."""
    with suppress(EOFError):
        while True:
            yield from pickle.load(file)


def main() -> None:
    """Write until killed; ends by itself only if nobody kills it or listens."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    with Database(sys.argv[1], "w") as database:
        acknowledge = sys.stdout.fileno()
        for number, change in enumerate(changes_in(sys.stdin.buffer), start=1):
            apply(database, change)
            try:
                os.write(acknowledge, b"%-63d\n" % number)
            except BrokenPipeError:
                return
        time.sleep(60)
