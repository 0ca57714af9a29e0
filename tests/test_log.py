"""The log's rounds of syncing: counted, so that no disk decides."""

from __future__ import annotations

import threading
from pathlib import Path
from time import sleep

from oblivion_dbm.engine.filesystem import File, FileSystem
from oblivion_dbm.engine.options import Options
from oblivion_dbm.engine.storage_engine import StorageEngine, open_store

THREADS = 8
#: What a sync takes here.
SECONDS = 0.002


class Disk(FileSystem):
    """Counts syncs of files, which take their time, and the sleeps of whoever waits."""

    def __init__(self) -> None:
        self.syncs = self.sleeps = 0

    def sync(self, file: File) -> None:
        self.syncs += 1
        sleep(SECONDS)

    def sleep(self, seconds: float) -> None:
        self.sleeps += 1
        sleep(seconds)


def full_store(folder: Path, disk: Disk) -> StorageEngine:
    store = open_store(str(folder / "store"), "c", Options(sync="full"), filesystem=disk)
    store.put(b"first", b"")  # begins the log
    return store


def write_from_threads(store: StorageEngine, puts: int) -> None:
    """Put so many records from each of THREADS threads, all at the same time."""
    together = threading.Barrier(THREADS)

    def work(number: int) -> None:
        together.wait()
        for turn in range(puts):
            store.put(b"%d %d" % (number, turn), b"value")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_threads_share_syncs(tmp_path: Path) -> None:
    disk = Disk()
    store = full_store(tmp_path, disk)
    before = disk.syncs
    write_from_threads(store, 50)
    assert disk.syncs - before <= THREADS * 50 / 4
    store.close()
    with_all = open_store(str(tmp_path / "store"), "r", Options())
    assert with_all.count() == THREADS * 50 + 1
    with_all.close()


def test_one_thread_syncs_each_put_and_waits_for_nobody(tmp_path: Path) -> None:
    disk = Disk()
    store = full_store(tmp_path, disk)
    syncs, sleeps = disk.syncs, disk.sleeps
    for number in range(20):
        store.put(b"%d" % number, b"value")
    assert (disk.syncs - syncs, disk.sleeps - sleeps) == (20, 0)
    store.close()


def test_who_is_left_alone_waits_for_the_others_once(tmp_path: Path) -> None:
    disk = Disk()
    store = full_store(tmp_path, disk)
    write_from_threads(store, 5)
    store.put(b"alone", b"value")
    sleeps = disk.sleeps
    for number in range(5):
        store.put(b"%d" % number, b"value")
    assert disk.sleeps == sleeps
    store.close()
