"""Each store behind the same few methods, used as its own documentation uses it.

The loops over the operations stand in the engines, so that what is timed is the
store's own call (``db[key]``, ``db.get(key)``) and no method of ours around it.

Durability is the same for all as far as their options go: what a put wrote survives
the end of the process, and nothing is synced to the disk. ``note`` says where a
store does something else.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar


class Engine:
    """A store whose handle is a mapping of bytes to bytes."""

    name: ClassVar[str]
    #: The module that has to be there, if it is not called like the engine.
    module: ClassVar[str] = ""
    #: The most records that it is asked to hold; None: any number.
    limit: ClassVar[int | None] = None
    note: ClassVar[str] = ""
    #: Whether it has something like `compact`.
    compacts: ClassVar[bool] = False
    #: A program that opens the store at {path}, reads {key} and ends.
    program: ClassVar[str]

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.library: Any = importlib.import_module(self.module or self.name)
        self.db: Any = None

    @classmethod
    def available(cls) -> bool:
        """Tell whether this interpreter has the store."""
        try:
            importlib.import_module(cls.module or cls.name)
        except ImportError:
            return False
        return True

    def open(self) -> None:
        """Open the store for reading and writing; make it if there is none."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the store, so that everything is in its files."""
        self.db.close()

    def put_all(self, keys: Iterable[bytes], values: Iterable[bytes]) -> None:
        """Write the records one by one."""
        db = self.db
        for key, value in zip(keys, values, strict=True):
            db[key] = value

    def get_all(self, keys: Iterable[bytes]) -> None:
        """Read keys that are there."""
        db = self.db
        for key in keys:
            db[key]

    def miss_all(self, keys: Iterable[bytes]) -> None:
        """Ask for keys that are not there."""
        get = self.db.get
        for key in keys:
            get(key)

    def get(self, key: bytes) -> bytes | None:
        """Read one key, to check what the loops do not."""
        value: bytes | None = self.db.get(key)
        return value

    def scan(self) -> int:
        """Read every record, in the store's own order; return how many there are."""
        count = 0
        for _key, _value in self.pairs():
            count += 1
        return count

    def pairs(self) -> Iterable[tuple[bytes, bytes]]:
        """Return all records in the store's own order."""
        pairs: Iterable[tuple[bytes, bytes]] = self.db.items()
        return pairs

    def settle(self) -> None:
        """Bring what is in memory into tables; for most, closing does that."""

    def compact(self) -> None:
        """Bring the files into their best form."""
        raise NotImplementedError


class OblivionDbm(Engine):
    name = "oblivion_dbm"
    compacts = True
    program = "import oblivion_dbm\nwith oblivion_dbm.open({path!r}, 'r') as db: db[{key!r}]"

    def open(self) -> None:
        self.db = self.library.Database(self.path, "c")

    def pairs(self) -> Iterable[tuple[bytes, bytes]]:
        pairs: Iterable[tuple[bytes, bytes]] = self.db.scan()
        return pairs

    def settle(self) -> None:
        self.db.flush()

    def compact(self) -> None:
        self.db.compact()


class StandardDbm(Engine):
    """A backend of the standard library's ``dbm``."""

    program = "import {module}\nwith {module}.open({path!r}, 'r') as db: db[{key!r}]"

    def open(self) -> None:
        self.db = self.library.open(self.path, "c")

    def pairs(self) -> Iterable[tuple[bytes, bytes]]:
        db = self.db
        for key in db.keys():  # noqa: SIM118 - not every handle is iterable
            yield key, db[key]


class GnuDbm(StandardDbm):
    name = "dbm.gnu"
    compacts = True

    def pairs(self) -> Iterable[tuple[bytes, bytes]]:
        db = self.db
        key = db.firstkey()
        while key is not None:
            yield key, db[key]
            key = db.nextkey(key)

    def compact(self) -> None:
        self.db.reorganize()


class NewDbm(StandardDbm):
    name = "dbm.ndbm"


class DumbDbm(StandardDbm):
    name = "dbm.dumb"
    limit = 100_000
    note = "all keys in memory; opens a file for each put, and writes its index when it is closed"


class Sqlite3Dbm(StandardDbm):
    name = "dbm.sqlite3"
    limit = 20_000
    note = "a transaction for each put, synced to the disk"

    def pairs(self) -> Iterable[tuple[bytes, bytes]]:
        return Engine.pairs(self)


class Semidbm(Engine):
    name = "semidbm"
    note = "all keys in memory"
    compacts = True
    program = "import semidbm\ndb = semidbm.open({path!r}, 'r'); db[{key!r}]; db.close()"

    def open(self) -> None:
        self.db = self.library.open(self.path, "c")

    def miss_all(self, keys: Iterable[bytes]) -> None:
        db = self.db
        for key in keys:
            key in db  # noqa: B015 - the look-up is what is timed; there is no `get`

    def get(self, key: bytes) -> bytes | None:
        value: bytes | None = self.db[key] if key in self.db else None  # noqa: SIM401 - as above
        return value

    def pairs(self) -> Iterable[tuple[bytes, bytes]]:
        db = self.db
        for key in db.keys():  # noqa: SIM118 - not every handle is iterable
            yield key, db[key]

    def compact(self) -> None:
        self.db.compact()


class Plyvel(Engine):
    name = "plyvel"
    note = "LevelDB; writes tables and compacts in a thread of its own"
    compacts = True
    program = "import plyvel\ndb = plyvel.DB({path!r}); db.get({key!r}); db.close()"

    def open(self) -> None:
        self.db = self.library.DB(self.path, create_if_missing=True)

    def put_all(self, keys: Iterable[bytes], values: Iterable[bytes]) -> None:
        put = self.db.put
        for key, value in zip(keys, values, strict=True):
            put(key, value)

    def get_all(self, keys: Iterable[bytes]) -> None:
        get = self.db.get
        for key in keys:
            get(key)

    def pairs(self) -> Iterable[tuple[bytes, bytes]]:
        pairs: Iterable[tuple[bytes, bytes]] = self.db.iterator()
        return pairs

    def compact(self) -> None:
        self.db.compact_range()


class RocksDict(Engine):
    name = "rocksdict"
    note = "RocksDB, in raw mode; writes tables and compacts in threads of its own"
    compacts = True
    program = (
        "import rocksdict\n"
        "db = rocksdict.Rdict({path!r}, rocksdict.Options(raw_mode=True)); "
        "db[{key!r}]; db.close()"
    )

    def open(self) -> None:
        self.db = self.library.Rdict(self.path, self.library.Options(raw_mode=True))

    def compact(self) -> None:
        self.db.compact_range(None, None)


class Lmdb(Engine):
    name = "lmdb"
    note = "a transaction for each call, not synced"
    program = (
        "import lmdb\n"
        "env = lmdb.open({path!r}, readonly=True)\n"
        "with env.begin() as transaction: transaction.get({key!r})\n"
        "env.close()"
    )

    def open(self) -> None:
        self.db = self.library.open(self.path, map_size=1 << 35, sync=False)

    def put_all(self, keys: Iterable[bytes], values: Iterable[bytes]) -> None:
        begin = self.db.begin
        for key, value in zip(keys, values, strict=True):
            with begin(write=True) as transaction:
                transaction.put(key, value)

    def get_all(self, keys: Iterable[bytes]) -> None:
        begin = self.db.begin
        for key in keys:
            with begin() as transaction:
                transaction.get(key)

    def miss_all(self, keys: Iterable[bytes]) -> None:
        self.get_all(keys)

    def get(self, key: bytes) -> bytes | None:
        with self.db.begin() as transaction:
            value: bytes | None = transaction.get(key)
        return value

    def pairs(self) -> Iterable[tuple[bytes, bytes]]:
        with self.db.begin() as transaction:
            yield from transaction.cursor()


ENGINES: Sequence[type[Engine]] = (
    OblivionDbm,
    GnuDbm,
    NewDbm,
    DumbDbm,
    Sqlite3Dbm,
    Plyvel,
    RocksDict,
    Lmdb,
    Semidbm,
)


def by_name(name: str) -> type[Engine]:
    """Return the engine of that name; KeyError if there is none."""
    return {engine.name: engine for engine in ENGINES}[name]
