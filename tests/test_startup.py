"""Opening a store and reading one key loads only what it needs.

Many programs open a dbm, read one key and end; there, imports cost more than the
store. So the modules that such a program may load are listed here, and a new one has
to be worth its place: ``dataclasses``, ``typing``, ``pathlib``, ``json``, ``re`` and
``sortedcontainers`` cost more than everything in the list together.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import oblivion_dbm

OURS = {
    "oblivion_dbm",
    *(
        "oblivion_dbm." + name
        for name in "batch bytes_like database engine errors mapping snapshot".split()
    ),
    *(
        "oblivion_dbm.engine." + name
        for name in """
            record filenames filesystem options version
            kernel kernel.append kernel.pure kernel.scan kernel.tables
            header_page segment memtable sstable merge manifest lock recovery snapshot tree follower
            storage_engine
        """.split()
    ),
}

CHEAP = {
    # What `site` loads in most interpreters, or what is built in.
    *("__future__", "_abc", "_collections_abc", "_stat", "_struct", "_warnings", "abc", "errno"),
    *("fcntl", "genericpath", "mmap", "os", "os.path", "posixpath", "stat", "struct", "warnings"),
    # The kernel works on arrays; `array` itself loads `collections`, some 3 ms.
    *("array", "collections", "collections.abc", "_collections", "itertools", "keyword"),
    *("operator", "_operator", "reprlib", "_bisect", "bisect"),
    *("contextlib", "functools", "_functools", "types"),
    # To find the extension module of the package crc32c, without its costly `__init__`.
    *("importlib", "importlib._bootstrap", "importlib._bootstrap_external"),
    *("importlib.machinery", "_crc32c", "crc32c._crc32c"),
    *("xxhash", "xxhash._xxhash", "xxhash.version"),
}

READ_ONE_KEY = """
import sys
bare = set(sys.modules)
sys.path[:0] = {path!r}
import oblivion_dbm
with oblivion_dbm.open({store!r}, "r") as db:
    assert db[b"key"] == b"value"
assert len(sys._current_frames()) == 1, "a thread was started"
print(*sorted(set(sys.modules) - bare))
"""

COMPARE_CRC32C = """
import sys
sys.path[:0] = {path!r}
import {first}, {second}
from random import Random
ours = oblivion_dbm.engine.record.crc32c
theirs = crc32c.crc32c
assert ours(b"123456789") == 0xE3069283
random = Random(1)
for size in (*range(70), 4095, 4096, 100_000):
    data = random.randbytes(size)
    start = random.getrandbits(32)
    assert ours(data) == theirs(data)
    assert ours(memoryview(data), start) == theirs(data, start)
print("equal")
"""


PATH = [str(Path(oblivion_dbm.__file__).parent.parent), *filter(None, sys.path)]


def run(*arguments: str) -> str:
    """Return what a fresh interpreter prints."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("place", ["log", "table"])
def test_reading_one_key_loads_few_modules(tmp_path: Path, place: str) -> None:
    store = str(tmp_path / "store")
    with oblivion_dbm.Database(store, "c") as db:
        db[b"key"] = b"value"
        if place == "table":
            db.flush()
    # Without `site`, since what its .pth files load would hide what we load.
    loaded = set(run("-I", "-S", "-c", READ_ONE_KEY.format(path=PATH, store=store)).split())
    assert " ".join(sorted(loaded - OURS - CHEAP)) == ""
    assert "oblivion_dbm.database" in loaded


@pytest.mark.parametrize("first", ["oblivion_dbm.engine.record", "crc32c"])
def test_crc32c_is_the_function_of_its_package_in_either_order(first: str) -> None:
    second = "crc32c" if first != "crc32c" else "oblivion_dbm.engine.record"
    program = COMPARE_CRC32C.format(path=PATH, first=first, second=second)
    assert run("-I", "-c", program) == "equal\n"
