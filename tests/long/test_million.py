"""A million records: all there after reopening, after compaction, and after a kill.

Run by hand: ``pytest tests/long/test_million.py -s``.  OBLIVION_DBM_SEED repeats
the same kills; OBLIVION_DBM_KILLS says how many.
"""

from __future__ import annotations

import os
import random
import signal
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from oblivion_dbm import Database

RECORDS = int(os.environ.get("OBLIVION_DBM_RECORDS", "1000000"))
KILLS = int(os.environ.get("OBLIVION_DBM_KILLS", "10"))
SEED = int(os.environ.get("OBLIVION_DBM_SEED", str(random.randrange(1 << 32))))
#: Records between two acknowledgements of the child.
STEP = 100
LIMIT = 150 << 20


def record(number: int) -> tuple[bytes, bytes]:
    """Return a key of 16 and a value of 100 bytes that look random."""
    dice = random.Random(number ^ SEED << 32)
    return dice.randbytes(16), dice.randbytes(100)


def records(start: int = 0, stop: int = RECORDS) -> Iterator[tuple[bytes, bytes]]:
    """Yield records one by one, so that the test itself needs no memory."""
    return map(record, range(start, stop))


def anonymous_memory(process: int) -> int:
    """Return the anonymous memory of a process, in bytes."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) << 10
    return 0


def check(path: str, count: int) -> None:
    """Every one of the first ``count`` records, and nothing else but one group in progress."""
    with Database(path, "r") as db:
        for key, value in records(0, count):
            assert db[key] == value
        found = len(db)
        assert count <= found <= count + STEP
        for key, value in records(count, found):
            assert db[key] == value
        before = b""
        for key in db:
            assert key > before
            before = key


def fill(path: str, start: int, pipe: int) -> None:
    """Write from record ``start`` on, and say how far after each step."""
    db = Database(path, "c")
    for number in range(start, RECORDS):
        key, value = record(number)
        db[key] = value
        if (number + 1) % STEP == 0:
            os.write(pipe, struct.pack("<Q", number + 1))
    os.write(pipe, struct.pack("<Q", RECORDS))
    db.close()


def fill_in_a_child(path: str, start: int, seconds: float) -> tuple[int, int, bool]:
    """Return (acknowledged, peak of anonymous memory, whether it ended by itself)."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        code = 1
        try:
            fill(path, start, writing)
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    os.set_blocking(reading, False)
    acknowledged, peak, end = start, 0, time.monotonic() + seconds
    status: int | None = None
    while status is None:
        peak = max(peak, anonymous_memory(child))
        time.sleep(0.01)
        acknowledged = last_word(reading, acknowledged)
        done, code = os.waitpid(child, os.WNOHANG)
        if done:
            status = code
        elif time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
    acknowledged = last_word(reading, acknowledged)
    os.close(reading)
    assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL
    return acknowledged, peak, status == 0


def last_word(pipe: int, before: int) -> int:
    """Return the last number in a pipe, ``before`` where there is none."""
    try:
        data = os.read(pipe, 1 << 20)
    except BlockingIOError:
        return before
    return struct.unpack("<Q", data[-8:])[0] if data else before


def test_a_million_records_are_read_back(tmp_path: Path) -> None:
    path = str(tmp_path / "store")
    acknowledged, peak, whole = fill_in_a_child(path, 0, 3600)
    assert whole
    assert acknowledged == RECORDS
    print(f"anonymous memory while filling: {peak / 1e6:.0f} MB at most")
    assert peak < LIMIT
    check(path, RECORDS)
    with Database(path, "w") as db:
        db.compact()
        assert len(db.stats()["runs"]) == 1
        assert db.verify() == []
    size = sum(file.stat().st_blocks * 512 for file in Path(path).iterdir())
    print(f"on disk after compaction: {size / (116 * RECORDS):.3f} x keys and values")
    assert size <= 1.4 * 116 * RECORDS
    check(path, RECORDS)


def test_a_kill_at_any_time_loses_nothing(tmp_path: Path) -> None:
    print(f"OBLIVION_DBM_SEED={SEED}")
    path = str(tmp_path / "store")
    dice = random.Random(SEED)
    acknowledged, kills, whole = 0, 0, False
    while not whole:
        seconds = dice.uniform(0.05, 1.5) if kills < KILLS else 3600
        acknowledged, _, whole = fill_in_a_child(path, acknowledged, seconds)
        kills += not whole
        if os.path.exists(path + "/MANIFEST"):
            check(path, acknowledged)
        print(f"after kill {kills}: {acknowledged:,} records")
    check(path, RECORDS)
