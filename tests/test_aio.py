"""The asyncio face: its methods, its order, and that the loop goes on all the while."""

from __future__ import annotations

import asyncio
import copy
import errno
import gc
import os
import pickle
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

import oblivion_dbm
from oblivion_dbm import ConflictError, CorruptionError, Database, aio, error
from oblivion_dbm.engine.filesystem import FileSystem

T = TypeVar("T")

TINY: dict[str, Any] = {"memtable_limit": 20_000, "fan_in": 2}


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    """Fail a test after which a thread of ours is left."""
    yield
    assert ours() == []


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def ours() -> list[str]:
    """Return the names of the threads that handles have started."""
    return [thread.name for thread in threading.enumerate() if "oblivion" in thread.name]


def run(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine in a loop that tells of whatever nobody looked after."""

    async def watched() -> T:
        asyncio.get_running_loop().set_exception_handler(note)
        result = await main()
        gc.collect()
        return result

    noted: list[dict[str, Any]] = []

    def note(_: object, context: dict[str, Any]) -> None:
        noted.append(context)

    result = asyncio.run(watched())
    assert noted == []
    return result


async def collected(walk: aio.Walk[T]) -> list[T]:
    """Return all items of a walk."""
    return [item async for item in walk]


class Gate:
    """Holds threads up until the loop has turned while they wait.

    Where the loop itself came here it could not turn, and the test would fail.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.passed = 0

    def hold_up(self) -> None:
        """Wait until the loop has made a call that is asked of it now."""
        turned = threading.Event()
        self._loop.call_soon_threadsafe(turned.set)
        assert turned.wait(20), "the event loop was blocked"
        self.passed += 1


def held_up(monkeypatch: pytest.MonkeyPatch, gate: Gate, *names: str) -> None:
    """Let every call of these methods of the file system wait for the loop to turn."""

    def slow(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        gate.hold_up()
        return call(*args, **kwargs)

    for name in names:
        original = getattr(FileSystem, name)
        monkeypatch.setattr(FileSystem, name, lambda *a, _call=original, **k: slow(_call, *a, **k))


SYNCS = ("sync", "sync_directory")
CHANGES = (*SYNCS, "create", "allocate", "rename", "remove")


# What the methods do.


def test_put_get_delete(store: Path) -> None:
    async def main() -> None:
        async with aio.open(store, "c") as db:
            await db.put("colour", "blue")
            assert await db.get(b"colour") == b"blue"
            assert await db.contains("colour")
            await db.delete("colour")
            await db.delete("colour")
            assert await db.get("colour") is None
            assert await db.get("colour", 5) == 5
            assert not await db.contains("colour")
            assert not db.closed
            assert not db.readonly
            assert db.path == str(store)
        assert db.closed

    run(main)


def test_it_can_be_awaited_and_closed(store: Path) -> None:
    async def main() -> None:
        db = await aio.Database(store)
        assert await db is db
        async with db:
            await db.put("a", "1")
        await db.close()

    run(main)
    with oblivion_dbm.open(store) as db:
        assert dict(db) == {b"a": b"1"}


def test_many_at_once(store: Path) -> None:
    async def main() -> None:
        async with aio.Database(store) as db:
            await db.put_many({"a": "1", "b": "2"})
            await db.put_many([("c", bytearray(b"3"))])
            await db.put_many([])
            async with db.batch() as batch:
                del batch["a"]
                batch["d"] = "4"
                assert await db.get("d") is None
            assert await db.get_many(iter(["a", "b", "d"]), 0) == [0, b"2", b"4"]
            assert await db.count() == 3
            async with db.batch() as batch:
                batch["x"] = "gone"
                batch.clear()
                batch["e"] = "5"
                del batch["f"]
            assert await collected(db.items()) == [(b"e", b"5")]

            async def fail() -> None:
                async with db.batch() as batch:
                    batch["g"] = "7"
                    raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                await fail()
            assert await db.get("g") is None

    run(main)


def test_in_order(store: Path) -> None:
    pairs = [(b"%04d" % i, b"v%d" % i) for i in range(2000)]

    async def main() -> None:
        async with aio.Database(store) as db:
            with pytest.raises(KeyError):
                await db.first()
            await db.put_many(pairs)
            assert await collected(db.scan()) == pairs
            assert await collected(db.scan(reverse=True)) == pairs[::-1]
            assert await collected(db.scan(start="0005", stop="0008")) == pairs[5:8]
            assert await collected(db.scan(prefix="01")) == pairs[100:200]
            assert await collected(db.keys()) == [key for key, _ in pairs]
            assert await collected(db.values()) == [value for _, value in pairs]
            assert [key async for key in db] == [key for key, _ in pairs]
            assert (await db.first(), await db.last()) == (pairs[0], pairs[-1])
            await db.delete_range("0001", "1999")
            assert await collected(db.items()) == [pairs[0], pairs[-1]]
            assert await db.pop("0000") == b"v0"
            assert await db.pop("0000", None) is None
            with pytest.raises(KeyError):
                await db.pop("0000")
            await db.clear()
            assert await db.count() == 0

    run(main)


def test_what_was_flushed_is_found(store: Path) -> None:
    async def main() -> None:
        async with aio.Database(store) as db:
            await db.put("a", "1")
            await db.flush()
            await db.put("b", "2")
            await db.delete("a")
            assert await db.get_many(["a", "b"]) == [None, b"2"]
            assert (await db.get("a"), await db.get("b")) == (None, b"2")
            await db.compact()
            await db.sync()
            assert (await db.get("a"), await db.get("b")) == (None, b"2")
            assert await db.verify() == []
            assert (await db.stats())["memtable_records"] == 0
            assert await db.sequence() > 0
            await db.refresh()

    run(main)


def test_walks_show_the_state_of_their_first_item(store: Path) -> None:
    async def main() -> None:
        async with aio.Database(store) as db:
            await db.put_many((b"%04d" % i, b"") for i in range(1000))
            count = 0
            async for key in db.keys():
                await db.delete(key)
                await db.put(b"1" + key, b"")
                count += 1
            assert count == 1000
            assert await db.count() == 1000

    run(main)


def test_long_values_are_fetched_few_at_a_time(store: Path) -> None:
    async def main() -> None:
        async with aio.Database(store) as db:
            value = bytes(400_000)
            for i in range(20):
                await db.put(b"%02d" % i, value)
            walk = db.scan()
            await walk.__anext__()
            assert len(list(walk._chunk)) < 5

    run(main)


def test_snapshots(store: Path) -> None:
    async def main() -> None:
        async with aio.Database(store) as db:
            await db.put_many({"a": "1", "b": "2"})
            async with db.snapshot() as before:
                await db.clear()
                assert await collected(before.scan()) == [(b"a", b"1"), (b"b", b"2")]
                assert await before.get("a") == b"1"
                assert await before.count() == 2
                assert before.sequence < await db.sequence()
            with pytest.raises(error, match="snapshot has been closed"):
                await before.get("a")
            snapshot = await db.snapshot()
            assert await snapshot.count() == 0
            await snapshot.close()
            await snapshot.close()
            with pytest.raises(RuntimeError, match="async with"):
                await db.snapshot().get("a")

    run(main)


def test_transactions(store: Path) -> None:
    async def main() -> None:
        async with aio.Database(store) as db:
            await db.put_many({"a": "1", "b": "2"})
            async with db.transaction() as step:
                await step.put("a", await step.get("b"))
                await step.delete("b")
                await step.delete("absent")
                assert await step.pop("a") == b"2"
                assert await step.pop("a", None) is None
                await asyncio.gather(step.put("c", "3"), step.get("c"), step.put("d", "4"))
                assert await collected(step.scan()) == [(b"c", b"3"), (b"d", b"4")]
                assert await db.get("c") is None
            assert await collected(db.keys()) == [b"c", b"d"]

            async def fail() -> None:
                async with db.transaction() as step:
                    await step.clear()
                    raise ZeroDivisionError

            async def collide() -> None:
                async with db.transaction() as step:
                    await step.put("x", await step.get("c"))
                    await db.put("c", "5")

            with pytest.raises(ZeroDivisionError):
                await fail()
            with pytest.raises(ConflictError) as conflict:
                await collide()
            assert conflict.value.key == b"c"
            assert await collected(db.keys()) == [b"c", b"d"]
            with pytest.raises(ValueError, match="ended"):
                await step.get("c")
            with pytest.raises(RuntimeError, match="already"):
                await step.__aenter__()
            with pytest.raises(RuntimeError, match="async with"):
                await db.transaction().get("a")

    run(main)


def test_a_reader_follows_the_writer(store: Path) -> None:
    async def main() -> None:
        async with aio.Database(store) as db, aio.open(store) as reader:
            assert reader.readonly
            for i in range(5):
                await db.put("a", str(i))
                assert await reader.get("a") == b"%d" % i
                assert await reader.get("a") == b"%d" % i
            await db.flush()
            assert await reader.get("a") == b"4"
            assert await reader.get("b") is None
            for write in (
                partial(reader.put, "a", "1"),
                partial(reader.put, "a", bytes(100_000)),
                partial(reader.delete, "absent"),
                partial(reader.put_many, {"a": "1"}),
                partial(reader.put_many, {}),
                partial(reader.pop, "a"),
                reader.clear,
                partial(reader.delete_range, "a"),
                reader.flush,
            ):
                with pytest.raises(error) as refusal:
                    await write()
                assert refusal.value.errno == errno.EROFS
            with pytest.raises(error, match="reading only"):
                reader.batch()

    run(main)


# Order, and what an awaited write means.


@pytest.mark.parametrize("queue_limit", [1, 1000, 16 << 20])
def test_writes_happen_in_the_order_in_which_they_were_asked_for(
    store: Path, queue_limit: int
) -> None:
    async def main() -> None:
        async with aio.Database(store, queue_limit=queue_limit) as db:
            large = bytes(100_000)
            await asyncio.gather(*(db.put("a", str(i)) for i in range(200)))
            assert await db.get("a") == b"199"
            await asyncio.gather(db.put("b", large), db.put("b", "2"))
            assert await db.get("b") == b"2"
            await asyncio.gather(db.put("b", "3"), db.clear(), db.put("c", "4"))
            assert await collected(db.items()) == [(b"c", b"4")]
            await asyncio.gather(db.put_many({"d": large}), db.delete("d"), db.put("e", "5"))
            assert await collected(db.keys()) == [b"c", b"e"]
            popped = await asyncio.gather(db.put("e", "6"), db.pop("e"), db.put("e", "7"))
            assert popped[1] == b"6"
            await asyncio.gather(db.put("f", "8"), db.delete_range("d"), db.put("g", "9"))
            assert await collected(db.keys()) == [b"c", b"g"]

    run(main)


def test_a_queue_without_room_is_waited_for_off_the_loop(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        gate = Gate()
        async with aio.Database(store, "cs", queue_limit=1000) as db:
            held_up(monkeypatch, gate, *SYNCS)
            puts = [asyncio.ensure_future(db.put(b"%d" % i, bytes(300))) for i in range(30)]
            await asyncio.gather(*puts)
            assert gate.passed
            monkeypatch.undo()
            assert await db.count() == 30

    run(main)


def test_puts_that_are_awaited_together_share_syncs(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        gate = Gate()
        async with aio.Database(store, sync="full") as db:
            await db.put("a", "1")
            held_up(monkeypatch, gate, "sync")
            await asyncio.gather(*(db.put(b"%d" % i, b"1") for i in range(400)))
            assert 0 < gate.passed < 40
            monkeypatch.undo()

    run(main)


def test_an_error_goes_to_its_own_write(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with aio.Database(store) as db:
            with pytest.raises(TypeError):
                await db.put("a", 5)  # type: ignore[arg-type]  # on purpose
            with pytest.raises(TypeError):
                await db.get(5)  # type: ignore[arg-type]  # on purpose
            with pytest.raises(TypeError):
                await db.put_many({"a": None})  # type: ignore[arg-type]  # on purpose
            await db.put("a", "1")

            def fail(*_: object) -> None:
                raise error(errno.EIO, "as asked")

            monkeypatch.setattr(FileSystem, "sync", fail)
            with pytest.raises(error, match="as asked"):
                await db.sync()
            monkeypatch.undo()
            with pytest.raises(error, match="writing stopped"):
                await db.put("a", "2")
            assert await db.get("a") == b"1"

    run(main)


def test_damage_is_told_of(store: Path) -> None:
    with oblivion_dbm.Database(store) as db:
        db["a"] = bytes(1000)
        db.flush()
    (table,) = store.glob("*.sst")
    data = bytearray(table.read_bytes())
    data[500] ^= 1
    table.write_bytes(data)

    async def main() -> None:
        async with aio.open(store) as db:
            with pytest.raises(CorruptionError):
                await db.get("a")
            walk = db.scan()
            with pytest.raises(CorruptionError):
                await walk.__anext__()
            with pytest.raises(RuntimeError, match="ended by CorruptionError"):
                await walk.__anext__()

    run(main)


# The loop goes on.


@pytest.mark.parametrize("sync", ["full", "normal", 0.001])
def test_the_loop_turns_during_every_sync(
    store: Path, monkeypatch: pytest.MonkeyPatch, sync: str | float
) -> None:
    async def main() -> None:
        gate = Gate()
        held_up(monkeypatch, gate, *CHANGES)
        async with aio.Database(store, sync=sync, **TINY) as db:
            before = gate.passed
            await db.put("first", "write: it begins the log")
            assert gate.passed > before
            for i in range(30):
                await db.put(b"%d" % (i % 10), bytes(2000))
                await db.get("absent")
            await db.put("large", bytes(100_000))
            async with db.batch() as batch:
                batch["b"] = "1"
            async with db.transaction() as step:
                await step.put("t", "1")
            await db.delete_range("8", "9")
            await db.pop("b")
            await db.flush()
            await db.compact()
            await db.clear()
            await db.sync()
            await db.verify()
        assert gate.passed > 10
        monkeypatch.undo()

    run(main)


def test_no_call_on_the_loop_waits_for_the_handle_s_lock(store: Path) -> None:
    """The first write of a handle does all its syncs with the lock held."""

    async def main() -> None:
        async with aio.Database(store) as db:
            await db.put("a", "1")
            lock = db._store._engine.lock  # type: ignore[union-attr]  # it is open
            held, free = threading.Event(), threading.Event()

            def hold() -> None:
                with lock:
                    held.set()
                    free.wait()

            holder = threading.Thread(target=hold)
            holder.start()
            held.wait()
            snapshot, step = db.snapshot(), db.transaction()
            calls: list[Callable[[], Awaitable[Any]]] = [
                partial(db.put, "b", "2"), partial(db.delete, "c"), partial(db.pop, "d", None),
                partial(db.put_many, {"e": "3"}), partial(db.get_many, ["a"]), db.first, db.last,
                db.count, db.scan().__anext__, db.keys().__anext__, db.sync, db.stats, db.flush,
                db.sequence, db.refresh, partial(db.contains, "absent"), snapshot.__aenter__,
                step.__aenter__, db.verify,
            ]  # fmt: skip
            tasks = [asyncio.ensure_future(call()) for call in calls]
            assert await db.get("a") == b"1"
            for _ in range(100):
                await asyncio.sleep(0)
            free.set()
            await asyncio.gather(*tasks)
            holder.join()
            await snapshot.close()
            await step.__aexit__(None, None, None)

    run(main)


def test_opening_and_closing_leave_the_loop_alone(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        gate = Gate()
        held_up(monkeypatch, gate, *CHANGES, "open", "map", "read", "lock", "size")
        for _ in range(3):
            async with aio.Database(store) as db:
                await db.put("a", bytes(2_000_000))
            async with aio.open(store) as db:
                assert len(await db.get("a")) == 2_000_000
        monkeypatch.undo()

    run(main)


def test_memory_is_read_without_a_thread(store: Path) -> None:
    async def main() -> None:
        async with aio.Database(store) as db:
            await db.put("a", "1")
            for _ in range(10):
                assert await db.get("a") == b"1"
                assert await db.get("absent") is None
            assert not [name for name in ours() if "read" in name]

    run(main)


# Cancellation, and the end.


async def cancelled(task: asyncio.Future[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_cancelled_put_happens_whole_or_not_at_all(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with aio.Database(store, "cs", queue_limit=10_000) as db:
            for turns in range(40):
                key, value = b"%d" % turns, bytes(100 + 4000 * (turns % 4))
                puts = [asyncio.ensure_future(db.put(key + b"-%d" % i, value)) for i in range(4)]
                many = asyncio.ensure_future(db.put_many({key + b"x": value, key + b"y": value}))
                for _ in range(turns):
                    await asyncio.sleep(0)
                for task in (*puts, many):
                    task.cancel()
                await asyncio.gather(*puts, many, return_exceptions=True)
                await db.put("last", key)
                assert await db.get("last") == key
            for turns in range(40):
                key, value = b"%d" % turns, bytes(100 + 4000 * (turns % 4))
                for i in range(4):
                    assert await db.get(key + b"-%d" % i) in (None, value)
                assert await db.contains(key + b"x") == await db.contains(key + b"y")

    run(main)


def test_a_cancelled_write_keeps_its_place(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with aio.Database(store) as db:
            await db.put("a", "0")
            inside, go_on = threading.Event(), threading.Event()
            original = oblivion_dbm.Database.put_async

            def late(*args: Any) -> Future[None]:
                inside.set()
                go_on.wait()
                return original(*args)

            monkeypatch.setattr(oblivion_dbm.Database, "put_async", late)
            first = asyncio.ensure_future(db.put("a", bytes(100_000)))
            while not inside.is_set():
                await asyncio.sleep(0)
            monkeypatch.undo()
            await cancelled(first)
            second = asyncio.ensure_future(db.put("a", "2"))
            for _ in range(10):
                await asyncio.sleep(0)
            go_on.set()
            await second
            assert await db.get("a") == b"2"

    run(main)


def test_a_walk_that_is_given_up_lets_go_of_its_state(store: Path) -> None:
    async def main() -> None:
        async with aio.Database(store) as db:
            await db.put_many((b"%04d" % i, b"") for i in range(2000))
            engine = db._store._engine  # type: ignore[union-attr]  # it is open

            def held() -> int:
                gc.collect()
                return len(engine.tree._dependents._references)

            walk = db.scan()
            await walk.__anext__()
            assert held() == 1
            await walk.aclose()
            assert held() == 0
            with pytest.raises(StopAsyncIteration):
                await walk.__anext__()
            async for _ in db.scan():
                break
            assert held() == 0
            walk = db.scan()
            await walk.__anext__()
            walk._chunk = iter(())
            task = asyncio.ensure_future(walk.__anext__())
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="another task"):
                await walk.__anext__()
            await cancelled(task)
            with pytest.raises(RuntimeError, match="ended by CancelledError"):
                await walk.__anext__()
            while held():
                await asyncio.sleep(0)

    run(main)


def test_cancelled_snapshots_and_transactions_are_given_back(store: Path) -> None:
    async def main() -> None:
        async with aio.Database(store) as db:
            await db.put("a", "1")
            for turns in range(8):
                begins: list[Any] = [db.snapshot().__aenter__, db.transaction().__aenter__]
                for begin in begins:
                    task: asyncio.Future[Any] = asyncio.ensure_future(begin())
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    task.cancel()
                    results: Any = await asyncio.gather(task, return_exceptions=True)
                    if not isinstance(results[0], BaseException):
                        await results[0].__aexit__(None, None, None)

    run(main)


def test_a_cancelled_transaction_happens_whole_or_not_at_all(store: Path) -> None:
    async def main() -> None:
        async with aio.Database(store, "cs") as db:

            async def step(i: int) -> None:
                async with db.transaction() as step:
                    await step.put(b"%dx" % i, "1")
                    await step.put(b"%dy" % i, "1")

            for turns in range(60):
                task = asyncio.ensure_future(step(turns))
                for _ in range(turns // 2):
                    await asyncio.sleep(0.0001)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            await db.sync()
            for i in range(60):
                assert await db.contains(b"%dx" % i) == await db.contains(b"%dy" % i)

    run(main)


def test_close_writes_what_was_asked_for_before(store: Path) -> None:
    async def main() -> None:
        db = await aio.Database(store, queue_limit=100)
        puts = [asyncio.ensure_future(db.put(b"%d" % i, bytes(200))) for i in range(50)]
        await asyncio.sleep(0)
        closing = [asyncio.ensure_future(db.close()) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(error, match="closed"):
            await db.put("late", "")
        await asyncio.gather(*closing, *puts)
        assert ours() == []

    run(main)
    with oblivion_dbm.open(store) as db:
        assert len(db) == 50


@pytest.mark.parametrize("turns", range(6))
def test_a_cancelled_close_goes_on(store: Path, turns: int) -> None:
    async def main() -> None:
        db = await aio.Database(store)
        put = asyncio.ensure_future(db.put("a", bytes(100_000)))
        await asyncio.sleep(0)
        task = asyncio.ensure_future(db.close())
        for _ in range(turns + 1):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, put, return_exceptions=True)
        await db.close()
        assert db.closed
        async with aio.Database(store):
            pass

    run(main)


@pytest.mark.parametrize("turns", range(6))
def test_a_cancelled_open_leaves_the_store_free(store: Path, turns: int) -> None:
    async def main() -> None:
        task = asyncio.ensure_future(aio.Database(store).__aenter__())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        (result,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(result, aio.Database):
            await result.close()
        async with aio.Database(store, lock_timeout=20) as db:
            await db.put("a", "1")

    run(main)


def test_an_error_of_opening_is_the_database_s(store: Path) -> None:
    async def main() -> None:
        with pytest.raises(error) as missing:
            await aio.open(store)
        assert missing.value.errno == errno.ENOENT
        assert ours() == []
        with pytest.raises(ValueError, match="flag"):
            await aio.open(store, "x")
        with pytest.raises(TypeError, match="unknown option"):
            await aio.open(store, "c", speed=9)
        db = aio.Database(store)
        with pytest.raises(RuntimeError, match="async with"):
            await db.get("a")
        assert db.closed
        await db.close()
        first = asyncio.ensure_future(db.__aenter__())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="being opened"):
            await db
        async with await first:
            with pytest.raises(error) as taken:
                await aio.Database(store)
            assert taken.value.errno == errno.EAGAIN

    run(main)


def test_after_close_every_call_raises(store: Path) -> None:
    async def main() -> None:
        async with aio.Database(store) as db:
            walk = db.scan()
            await db.put("a", "1")
        for call in (
            partial(db.get, "a"), partial(db.put, "a", "1"), db.sync, db.count, db.stats,
            walk.__anext__, db._begin,
        ):  # fmt: skip
            with pytest.raises(error, match="closed"):
                await call()
        for plain in (db.scan, db.batch, db.snapshot, db.transaction):
            with pytest.raises(error, match="closed"):
                plain()

    run(main)


def test_a_handle_belongs_to_one_loop(store: Path) -> None:
    loop = asyncio.new_event_loop()
    db = loop.run_until_complete(aio.Database(store)._begin())

    async def other() -> None:
        for call in (partial(db.get, "a"), partial(db.put, "a", "1"), db.close):
            with pytest.raises(RuntimeError, match="another event loop"):
                await call()

    asyncio.run(other())
    loop.run_until_complete(db.close())
    loop.close()


def test_a_handle_that_is_forgotten_is_closed_with_a_warning(store: Path) -> None:
    async def main() -> None:
        db = await aio.Database(store)
        await db.put("a", "1")
        await db.get("a")
        handles = [db]
        del db
        with pytest.warns(ResourceWarning, match="never closed"):
            handles.clear()
        # The thread that has done the last call may hold the store for a moment.
        async with aio.Database(store, lock_timeout=10) as db:
            assert await db.get("a") == b"1"

    run(main)
    wait_for_threads()


def wait_for_threads() -> None:
    """Wait for threads that nobody is there to wait for."""
    while ours():
        time.sleep(0.001)


def test_a_loop_that_ends_in_the_middle_ends_in_peace(
    store: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        db = await aio.Database(store, "cs", queue_limit=1000)

        async def use() -> None:
            for i in range(10_000):
                await db.put(b"%d" % i, bytes(300))
                await db.contains("absent")
                await db.sync()

        tasks = [asyncio.ensure_future(use()) for _ in range(10)]
        await asyncio.sleep(0.05)
        tasks.append(asyncio.ensure_future(db.close()))
        await asyncio.sleep(0)
        assert not any(task.done() for task in tasks)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(main())
    wait_for_threads()
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")
    with oblivion_dbm.Database(store) as db:
        assert db.verify() == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_handle_in_a_forked_child_raises(store: Path) -> None:
    async def main() -> None:
        async with aio.Database(store) as db:
            await db.put("a", "1")
            task: list[int] = []
            read, write = os.pipe()
            child = os.fork()
            if not child:  # pragma: no cover - the child
                seen = "nothing"
                try:
                    asyncio.events._set_running_loop(db._off_loop.loop)
                    db.get("a").send(None)
                except error as problem:
                    seen = str(problem)
                finally:
                    os.write(write, seen.encode())
                    os._exit(0)
            task.append(child)
            os.close(write)
            assert b"fork" in os.read(read, 1000)
            os.close(read)
            os.waitpid(child, 0)
            assert await db.get("a") == b"1"

    run(main)


def test_handles_are_not_copied_or_pickled(tmp_path: Path) -> None:
    async def main() -> None:
        async with aio.open(tmp_path / "store", "c") as db, db.snapshot() as snapshot:
            for handle in (db, snapshot):
                for refuse in (copy.copy, copy.deepcopy, pickle.dumps):
                    with pytest.raises(TypeError, match="cannot be"):
                        refuse(handle)

    asyncio.run(main())


def test_a_walk_ends_with_what_it_walks_over(tmp_path: Path) -> None:
    async def main() -> None:
        async with aio.open(tmp_path / "store", "c") as db:
            await db.put_many({b"%03d" % number: b"" for number in range(100)})
            async with db.snapshot() as snapshot:
                walk = snapshot.scan()
                assert (await walk.__anext__())[0] == b"000"
            with pytest.raises(error):
                await walk.__anext__()

    asyncio.run(main())


def test_an_open_that_is_given_up_does_not_wait_for_the_other_writer(tmp_path: Path) -> None:
    async def main() -> None:
        with Database(tmp_path / "store"):
            waiting = aio.open(tmp_path / "store", "c", lock_timeout=5)
            opening = asyncio.ensure_future(waiting._begin())
            await asyncio.sleep(0.05)
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
        while any(thread.name.startswith("oblivion_dbm") for thread in threading.enumerate()):
            await asyncio.sleep(0.01)

    asyncio.run(main())


def test_a_close_that_is_cancelled_lets_no_write_wait_for_ever(store: Path) -> None:
    async def main() -> None:
        db = await aio.open(store, "c")
        large = [asyncio.ensure_future(db.put("large", bytes(100_000)))]
        writes = large + [asyncio.ensure_future(db.put(str(n), b"1")) for n in range(6)]
        await asyncio.sleep(0)
        close = asyncio.ensure_future(db.close())
        await asyncio.sleep(0)
        close.cancel()
        await asyncio.sleep(0)
        time.sleep(0.3)  # the loop is busy, and the close goes on by itself
        done, waiting = await asyncio.wait(writes, timeout=20)
        assert waiting == set()
        assert {type(write.exception()) for write in done} <= {type(None), error}
        await db.close()

    run(main)
