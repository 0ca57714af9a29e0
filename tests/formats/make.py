"""Makes the stores that every later version must be able to open.

    python tests/formats/make.py FOLDER

Run once for each format version, into a new folder of that number beside this file; what
it wrote is committed and never made again. A change of the code that this script would
write differently is fine, as long as ``tests/test_formats.py`` still passes on the old
files. A change of format gets a new number and a new folder.

What the system gives by chance (store id, hash seed, boot id, process id) is fixed here,
so the bytes are the same on every machine, and no machine is in the boot that wrote them:
a store is recovered by what it had synced.

============  =================================================================
``tables/``   two runs of tables: an old one in several parts, and a younger
              one with tombstones and lengths of 32 bits; a log in two
              segments, the first with a prelude, a batch and a SEAL, the
              second going on from there
``log/``      no table; a log without preallocation that holds puts, a CLEAR,
              and a batch that begins with one
``ahead/``    no table; three segments: one sealed, one live, one made ahead
``closed/``   no table; a log that tells its sums and where the writer ended,
              as it does since these were added
``backup/``   a backup of a store with a table and a log
============  =================================================================

Beside each store stands ``<store>.json``: its keys and values in hex, in key order.
"""

from __future__ import annotations

import json
import sys
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from oblivion_dbm.engine.backup import backup
from oblivion_dbm.engine.filesystem import FileSystem
from oblivion_dbm.engine.options import Options
from oblivion_dbm.engine.storage_engine import Writer, open_store

#: Enough for several tables in a run: a table ends with a chunk of 512 records.
KEYS = 1_600
OPTIONS = {"table_limit": 8192}

Expected = dict[bytes, bytes]


class Fixed(FileSystem):
    """The real file system, but for what is different each time."""

    def __init__(self, name: str) -> None:
        self._name = name.encode("ascii")

    def random(self, length: int) -> bytes:
        """Return bytes that look random, the same for the same store and length."""
        return sha256(b"%s %d" % (self._name, length)).digest()[:length]

    def boot(self) -> bytes:
        """Return the id of a boot that never was."""
        return bytes(range(1, 17))

    def process(self) -> int:
        """Return the number of a process."""
        return 1

    def process_space(self) -> int:
        """Say nothing of where that means something."""
        return 0


def open_writer(folder: Path, flag: str, **options: object) -> Writer:
    """Open the store in ``folder``, named as that folder is."""
    engine = open_store(str(folder), flag, Options(**options), 0o666, Fixed(folder.name))
    assert isinstance(engine, Writer)
    return engine


def key(number: int) -> bytes:
    """Return one of many keys of one length."""
    return b"key-%04d" % number


def put(engine: Writer, expected: Expected, name: bytes, value: bytes) -> None:
    """Put a value into the store, and into what is expected of it."""
    engine.put(name, value)
    expected[name] = value


def delete(engine: Writer, expected: Expected, name: bytes) -> None:
    """Delete a key that is there."""
    assert engine.delete(name)
    del expected[name]


def write(
    engine: Writer, expected: Expected, changes: dict[bytes, bytes | None], cleared: bool = False
) -> None:
    """Apply a batch."""
    engine.write(changes, cleared)
    if cleared:
        expected.clear()
    for name, value in changes.items():
        if value is None:
            expected.pop(name, None)
        else:
            expected[name] = value


def make_tables(folder: Path) -> Expected:
    """Make the store with tables."""
    expected: Expected = {}
    engine = open_writer(folder, "n", **OPTIONS)
    for half in (0, 1):
        for number in range(half, KEYS, 2):
            put(engine, expected, key(number), b"first %d" % number)
        engine.flush()
    engine.compact()
    for number in range(0, KEYS, 3):
        delete(engine, expected, key(number))
    for number in range(1, KEYS, 3):
        put(engine, expected, key(number), b"second %d " % number + b"." * (number % 40))
    for number in range(20):
        put(engine, expected, bytes([number]) * number, bytes([255 - number]) * number)
    put(engine, expected, b"long" * 100, b"0123456789" * 7_000)
    engine.flush()
    put(engine, expected, b"left in the log", b"when the first process ended")
    delete(engine, expected, key(1))
    engine.close()

    engine = open_writer(folder, "w", **OPTIONS)
    put(engine, expected, "\N{GREEK SMALL LETTER ALPHA}".encode(), b"by the second process")
    write(engine, expected, {key(2): None, key(0): b"third 0", b"never there": None, b"": b"empty"})
    engine._path.maintenance.rotate()
    engine._path.appender.limit = (
        1 << 15
    )  # else the next put has a table made of the sealed segment
    put(engine, expected, b"empty value", b"")
    delete(engine, expected, key(4))
    engine.close()
    return expected


def make_log(folder: Path) -> Expected:
    """Make the store without tables."""
    expected: Expected = {}
    engine = open_writer(folder, "n", log_back_end="pwrite")
    put(engine, expected, b"gone", b"with the first clear")
    engine.clear()
    expected.clear()
    put(engine, expected, b"also gone", b"with the second")
    write(engine, expected, {b"colour": b"blue", b"size": b"12"}, cleared=True)
    put(engine, expected, b"shape", b"round")
    delete(engine, expected, b"size")
    engine.close()
    return expected


def make_ahead(folder: Path) -> Expected:
    """Make a store of logs only: one sealed, one live, and one made ahead of its time."""
    expected: Expected = {}
    engine = open_writer(folder, "n", log_back_end="pwrite", background=False)
    put(engine, expected, b"colour", b"blue")
    put(engine, expected, b"size", b"12")
    engine._path.maintenance._prepare()
    put(engine, expected, b"shape", b"round")
    engine._path.maintenance.rotate()
    engine._path.maintenance._prepare()
    engine._path.appender.limit = 1 << 15
    put(engine, expected, b"colour", b"red")
    delete(engine, expected, b"size")
    engine.close()
    return expected


def make_closed(folder: Path) -> Expected:
    """Make a store whose log tells its sums, and where the writer ended."""
    expected: Expected = {}
    engine = open_writer(folder, "n", log_back_end="pwrite", background=False)
    put(engine, expected, b"colour", b"blue")
    engine._path.maintenance.rotate()
    engine._path.appender.limit = 1 << 15
    put(engine, expected, b"size", b"12")
    engine.sync()
    put(engine, expected, b"shape", b"round")
    engine.close()
    return expected


def make_backup(folder: Path) -> Expected:
    """Make a backup of a store that is open."""
    expected: Expected = {}
    with TemporaryDirectory() as elsewhere:
        engine = open_writer(Path(elsewhere, folder.name), "n")
        put(engine, expected, b"colour", b"blue")
        engine.flush()
        put(engine, expected, b"shape", b"round")
        backup(engine.directory, str(folder), copy=True, filesystem=Fixed(folder.name))
        engine.close()
    return expected


STORES = {"tables": make_tables, "log": make_log, "ahead": make_ahead, "closed": make_closed}
STORES["backup"] = make_backup


def main(folder: Path) -> None:
    """Make all stores in ``folder``, which must be new or empty."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in STORES.items():
        if (folder / name).exists():
            print(f"{name} is there; the stores of a format are made once")
            continue
        expected = {k.hex(): v.hex() for k, v in sorted(make(folder / name).items())}
        (folder / f"{name}.json").write_text(json.dumps(expected, indent=0) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
