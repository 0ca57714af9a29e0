"""A program may end at any moment without closing anything: it ends, says nothing, loses nothing.

While the interpreter ends, threads are frozen where they are, with the locks that
they hold, and what is called after that must not wait for them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import oblivion_dbm
from oblivion_dbm import Database

PROGRAMS = {
    "a shelf that is forgotten": """
        shelf = shelve.open(path, **options)
        for number in range(4000):
            shelf[str(number)] = "value of %d" % number
    """,
    "a shelf that writes back": """
        shelf = shelve.open(path, writeback=True, **options)
        for number in range(4000):
            shelf[str(number)] = "value of %d" % number
    """,
    "a generator that is suspended": """
        def walk():
            with Database(path, **options) as db:
                for number in range(4000):
                    db[str(number)] = "value of %d" % number
                yield
        walking = walk()
        next(walking)
    """,
    "an object that closes in its finalizer, with writes queued": """
        class Holder:
            def __init__(self):
                self.db = Database(path, **options)
            def __del__(self):
                self.db[b"last"] = pickle.dumps("written at the end")
                self.db.close()
        holder = Holder()
        for number in range(4000):
            last = holder.db.put_async(b"%d" % number, pickle.dumps("value of %d" % number))
        last.result()
    """,
    "an object that writes in its finalizer, when most is gone, first of all": """
        import builtins
        class Holder:
            def __init__(self):
                self.db = Database(path, **options)
            def __del__(self, numbers=range(4000)):
                for number in numbers:
                    self.db[b"%d" % number] = b"written at the end"
                self.db.close()
        builtins.holder = Holder()
    """,
}

OPTIONS = {
    "busy": {"memtable_limit": 20_000, "fan_in": 2},
    "in time": {"sync": 0.05, "memtable_limit": 200_000},
    "inline": {"background": False, "memtable_limit": 20_000},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_that_closes_nothing_ends_and_loses_nothing(
    tmp_path: Path, program: str, options: str
) -> None:
    path = str(tmp_path / "store")
    lines = PROGRAMS[program].replace("\n        ", "\n")
    source = (
        "import pickle\nfrom oblivion_dbm import Database, shelve\n"
        f"path, options = {path!r}, {OPTIONS[options]!r}\n{lines}"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(oblivion_dbm.__file__).parent.parent)}
    ended = subprocess.run(
        [sys.executable, "-c", source],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    with Database(path, "w") as db:
        assert {b"%d" % number for number in range(4000)} <= set(db)
        assert db.verify() == []
