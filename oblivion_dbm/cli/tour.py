"""``oblivion-dbm tour``: the store at work on real data, killed half-way, and checked.

The tour puts the standard library's sources and the words in them into a
store (:mod:`.tour_records`), lets another process change it and kills that
process (:mod:`.tour_writer`), opens the store again, and compares it at every
stop with a plain dict that has seen the same changes (:mod:`.tour_checks`).

The data, the changes and their order are the same each time for the same
interpreter; where exactly the kill falls is not.
"""

from __future__ import annotations

import errno
import itertools
import os
import pickle
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections import Counter
from collections.abc import Callable, Iterator
from typing import BinaryIO

from oblivion_dbm.cli import tour_checks as checks
from oblivion_dbm.cli.command import FAILED, OK, Command, version
from oblivion_dbm.cli.tour_records import (
    WORD,
    Change,
    Library,
    apply,
    changing,
    filling,
    read_library,
)
from oblivion_dbm.cli.tour_report import Report
from oblivion_dbm.cli.tour_writer import ACKNOWLEDGEMENT, changes_in
from oblivion_dbm.cli.words import counted, megabytes
from oblivion_dbm.database import Database
from oblivion_dbm.errors import CorruptionError, error

_RECORDS, _FEWEST_RECORDS = 600_000, 1_000
_PREFIX = b"async"

BEFORE_THE_KILL = 0.5
"""The part of the changes that has been acknowledged when the writer is killed."""

Say = Callable[[str], None]


def tour(path: str, limit: int = _RECORDS) -> None:
    """Make a store at ``path``, new or an empty directory, and go through the whole tour.

    ``limit`` bounds the records that are stored first.  Prints the report.
    Raises Difference if the store is ever not what it should be, and whatever
    the store raises.
    """
    report = Report()
    expected = checks.Expected()
    with report.step("read") as say:
        library = _read(say, limit)
    with Database(path, "c") as database:
        with report.step("store") as say:
            _store(say, database, library, expected)
        with report.step("check") as say:
            _check(say, database, expected)
    with tempfile.TemporaryFile() as plan:
        with report.step("kill") as say:
            acknowledged = _kill_a_writer(say, path, plan, library)
        with report.step("recover") as say:
            database = _recover(say, path)
        with database:
            plan.seek(0)
            changes = changes_in(plan)
            with report.step("check") as say:
                rest = _check_the_kill(say, database, expected, changes, acknowledged)
            with report.step("go on") as say:
                _go_on(say, database, expected, rest)
            with report.step("scan") as say:
                _scan(say, database, expected)
            with report.step("compact") as say:
                _compact(say, database)
            with report.step("check") as say:
                _check_by_look_up(say, database, expected)
    with report.step("reopen") as say:
        _reopen(say, path, expected)


def _read(say: Say, limit: int) -> Library:
    library = read_library(limit)
    if not library.files:
        raise error("the standard library of this interpreter has no sources to store")
    size = sum(map(len, library.files.values()))
    say(f"{len(library.files):,} source files of the standard library, {megabytes(size)}")
    for count, why in (
        (library.beyond, f"since these give {limit:,} records"),
        (library.compiled_only, "which came compiled, without source"),
        (library.unreadable, "which could not be read"),
    ):
        if count:
            say(f"(without {counted(count, 'file')} more, {why})")
    return library


def _store(say: Say, database: Database, library: Library, expected: checks.Expected) -> None:
    for change in filling(library):
        apply(database, change)
        expected.apply(change)
    words = len(expected.records) - len(library.files)
    say(f"{len(library.files):,} files and {words:,} (word, file) counts,")
    say(f"{megabytes(expected.bytes())} of keys and values; a batch for each file")


def _check(say: Say, database: Database, expected: checks.Expected) -> None:
    count = checks.check_records(database, expected)
    say(f"{count:,} records scanned; keys, values, order, len: right")


def _kill_a_writer(say: Say, path: str, plan: BinaryIO, library: Library) -> int:
    """Write what is to change into ``plan``, have another process do it, and kill that.

    Returns the number of changes that it had acknowledged.
    """
    total = 0
    for changes in changing(library):
        pickle.dump(changes, plan)
        total += len(changes)
    plan.flush()
    plan.seek(0)
    acknowledged = _acknowledged_when_killed(path, plan, int(total * BEFORE_THE_KILL))
    say(f"another process makes {total:,} changes (it overwrites")
    say("and deletes, singly and in batches): SIGKILL as it writes,")
    say(f"after it has acknowledged {acknowledged:,} of them")
    return acknowledged


def _acknowledged_when_killed(path: str, plan: BinaryIO, enough: int) -> int:
    # With the very same sys.path, so that the same installed package is at work.
    program = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        "from oblivion_dbm.cli.tour_writer import main\n"
        "main()"
    )
    received = 0
    with subprocess.Popen(
        [sys.executable, "-c", program, path], stdin=plan, stdout=subprocess.PIPE, bufsize=0
    ) as writer:
        assert writer.stdout is not None
        try:
            while received < enough * ACKNOWLEDGEMENT:
                piece = writer.stdout.read(1 << 16)
                if not piece:
                    break
                received += len(piece)
        finally:
            writer.kill()
        while piece := writer.stdout.read(1 << 16):
            received += len(piece)
    if writer.returncode != -signal.SIGKILL:
        raise error(f"the writing process ended by itself, with exit code {writer.returncode}")
    return received // ACKNOWLEDGEMENT


def _recover(say: Say, path: str) -> Database:
    database = Database(path, "w")
    figures = database.stats()
    runs, records = len(figures["runs"]), figures["memtable_records"]
    say(f"{counted(runs, 'run')} of tables, {counted(records, 'record')} from the log")
    return database


def _check_the_kill(
    say: Say,
    database: Database,
    expected: checks.Expected,
    changes: Iterator[Change],
    acknowledged: int,
) -> Iterator[Change]:
    """Check that the store holds what was acknowledged and at most one change more.

    Returns the changes that have not happened.
    """
    for change in itertools.islice(changes, acknowledged):
        expected.apply(change)
    in_progress = next(changes, ())
    happened = checks.settle(database, expected, in_progress)
    count = checks.check_records(database, expected)
    lookups = checks.check_lookups(database, expected)
    say(f"{count:,} records: every acknowledged change is there,")
    say(f"the one in progress is {'there as a whole' if happened else 'not'}; nothing else")
    say(f"{lookups:,} look-ups: each record found, no deleted one")
    return itertools.chain([in_progress], changes) if in_progress and not happened else changes


def _go_on(say: Say, database: Database, expected: checks.Expected, rest: Iterator[Change]) -> None:
    count = 0
    for change in rest:
        apply(database, change)
        expected.apply(change)
        count += 1
    say(f"the other {count:,} changes; {len(expected.gone):,} keys are deleted by now")


def _scan(say: Say, database: Database, expected: checks.Expected) -> None:
    found = checks.check_prefix(database, expected, WORD, _PREFIX)
    words: Counter[str] = Counter()
    for key, value in found.items():
        words[key.split()[0].decode()] += int(value)
    say(f"{len(found):,} records of words that begin with {_PREFIX.decode()!r}:")
    say(", ".join(f"{word} {count:,}" for word, count in words.most_common(4)))


def _compact(say: Say, database: Database) -> None:
    before = _size(database.path), len(database.stats()["runs"])
    database.compact()
    after = _size(database.path), len(database.stats()["runs"])
    for when, (size, runs) in (("before", before), ("after", after)):
        say(f"{when + ':':<8}{megabytes(size):>9} on disk, {counted(runs, 'run')} of tables")


def _check_by_look_up(say: Say, database: Database, expected: checks.Expected) -> None:
    count = checks.check_records(database, expected)
    lookups = checks.check_lookups(database, expected)
    checks.check_verify(database)
    say(f"{count:,} records scanned, {lookups:,} look-ups,")
    say("and every byte by verify(): right")


def _reopen(say: Say, path: str, expected: checks.Expected) -> None:
    with Database(path, "r") as database:
        count = checks.check_records(database, expected)
    data, disk = expected.bytes(), _size(path)
    say(f"{count:,} records, as they should be; {megabytes(data)} of")
    say(f"keys and values in {megabytes(disk)} on disk ({disk / data:.2f} x)")


def _size(folder: str) -> int:
    with os.scandir(folder) as entries:
        return sum(entry.stat().st_size for entry in entries)


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "directory",
        metavar="DIRECTORY",
        nargs="?",
        help="where to make the store, and keep it: new, or empty (default: a temporary one)",
    )
    parser.add_argument(
        "--records",
        type=_records,
        default=_RECORDS,
        metavar="N",
        help=f"store no more files once they give N records (default: {_RECORDS:,})",
    )


def _records(text: str) -> int:
    count = int(text)
    if count < _FEWEST_RECORDS:
        raise ArgumentTypeError(f"at least {_FEWEST_RECORDS:,}, not {count:,}")
    return count


def _run(arguments: Namespace) -> int:
    folder = None
    path = arguments.directory
    if path is None:
        folder = tempfile.mkdtemp(prefix="oblivion-tour-")
        path = os.path.join(folder, "store")
    elif os.path.exists(path) and (not os.path.isdir(path) or os.listdir(path)):
        raise error(errno.EEXIST, "expected a new or an empty directory, found something", path)
    python = f"{platform.python_implementation()} {platform.python_version()}"
    print(f"oblivion-dbm {version()}, {python}: a tour in {path}", flush=True)
    try:
        tour(path, arguments.records)
    except (checks.Difference, CorruptionError) as found:
        folder = None  # the evidence stays
        print(f"oblivion-dbm: the store is not what it should be: {found}", file=sys.stderr)
        print(f"oblivion-dbm: it is left in {path}", file=sys.stderr)
        return FAILED
    finally:
        if folder is not None:
            shutil.rmtree(folder)
    if folder is None:
        print(f"All as it should be. Look at it: oblivion-dbm stats {path}")
    else:
        print("All as it should be. The temporary directory is removed.")
    return OK


COMMAND = Command(
    name="tour",
    summary="see a store at work: fill, kill, recover, scan, compact, check",
    description=(
        "Store the standard library's sources and the words in them, overwrite and delete,\n"
        "kill the writing process half-way, open the store again, scan and compact it, and\n"
        "check every record at each stop. The exit code is 1 if anything is not as it should\n"
        "be. Takes less than half a minute, some 150 MB of disk and 300 MB of memory."
    ),
    example="oblivion-dbm tour words",
    arguments=_arguments,
    run=_run,
)
