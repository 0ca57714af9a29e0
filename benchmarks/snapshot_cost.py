"""What a snapshot costs: with a full MemTable, and one after the other.

``python benchmarks/snapshot_cost.py`` fills the MemTable with 130,000 records
between two snapshots, so that the first one finds a full layer and cold caches;
``again`` is the one after a single write.  Medians, in microseconds.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator

from oblivion_dbm import Database

RECORDS, ROUNDS, WINDOW = 130_000, 9, 3


def cost(db: Database) -> float:
    """Return the seconds that a snapshot takes to make."""
    began = time.perf_counter()
    snapshot = db.snapshot()
    taken = time.perf_counter() - began
    snapshot.close()
    return taken


def full_memtables(db: Database) -> Iterator[tuple[float, float]]:
    """Yield what the first and the second snapshot cost after each fill."""
    for _ in range(ROUNDS):
        for number in range(RECORDS):
            db[b"%016d" % (number * 7919 % RECORDS)] = bytes(100)
        first = cost(db)
        db[b"one more"] = b""
        yield first, cost(db)
        db.clear()


def sliding_window(db: Database) -> Iterator[float]:
    """Yield what each of many snapshots costs of which the last few are kept."""
    held = []
    for number in range(3000):
        db[b"%d" % number] = bytes(100)
        began = time.perf_counter()
        held.append(db.snapshot())
        yield time.perf_counter() - began
        if len(held) > WINDOW:
            held.pop(0).close()
    for snapshot in held:
        snapshot.close()


def main() -> None:
    """Measure and print."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Database(folder + "/store", memtable_limit=1 << 30, sync="off") as db,
    ):
        first, again = zip(*full_memtables(db))
        window = list(sliding_window(db))
    for name, seconds in (("full", first), ("again", again), ("window", window)):
        median, worst = statistics.median(seconds) * 1e6, max(seconds) * 1e6
        print(f"{name:8} median {median:6.1f}  worst {worst:8.1f}")


if __name__ == "__main__":
    main()
