"""A store for asyncio programs: ``Database`` and ``open``, to be awaited.

>>> import asyncio, tempfile
>>> from oblivion_dbm import aio
>>> async def main(path):
...     async with aio.open(path, "c") as db:
...         await db.put("colour", "blue")
...         await asyncio.gather(db.put("a", "1"), db.put("b", "2"))
...         async for key, value in db.scan(start="b"):
...             print(key, value)
...         return await db.get("colour")
>>> asyncio.run(main(tempfile.mkdtemp() + "/store"))
b'b' b'2'
b'colour' b'blue'
b'blue'

Nothing here makes the event loop wait for the disk or for a lock:

* A write goes into the store's queue, whose thread makes it durable; what is
  queued together shares one sync.  Where the queue is full, and for values of
  more than 64 KiB, a thread of the handle's queues it.
* A read that memory can answer (what was written since the last flush) is
  answered at once, without a change of threads, which costs a hundred times as
  much.  Any other read is made in a thread, and reads the parts of a table's file
  that it needs before it touches the map: to wait for a cold page of a map would
  stop the whole interpreter, the loop included (option ``read_ahead``).
* A walk is made a chunk at a time.

Threads start when they are needed, and are gone after ``close()``.
"""

from __future__ import annotations

from oblivion_dbm.aio.database import Database, open
from oblivion_dbm.aio.reads import Walk
from oblivion_dbm.aio.snapshot import Snapshot
from oblivion_dbm.aio.transaction import Transaction

__all__ = ["Database", "Snapshot", "Transaction", "Walk", "open"]
