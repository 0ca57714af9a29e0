"""What put_async returns: a Future, with a condition that an interrupt leaves usable."""

from __future__ import annotations

import asyncio
import concurrent.futures
import signal
import threading
import time
from pathlib import Path

import pytest

from oblivion_dbm import Database
from oblivion_dbm.engine.future import Condition, WriteFuture


class Interrupt(BaseException):
    """What a signal handler raises."""


def test_it_is_a_future_in_every_way(tmp_path: Path) -> None:
    with Database(tmp_path / "store") as db:
        futures = [db.put_async(b"%d" % number, b"") for number in range(50)]
        done, waiting = concurrent.futures.wait(futures, timeout=20)
        assert (len(done), len(waiting)) == (50, 0)
        assert set(concurrent.futures.as_completed(futures)) == set(futures)

        async def awaited() -> None:
            await asyncio.gather(*map(asyncio.wrap_future, [db.put_async(b"x", b"y")]))

        asyncio.run(awaited())
        assert len(db) == 51


def test_waiting_ends_with_the_result_or_the_time() -> None:
    future = WriteFuture()
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(0.01)
    threading.Timer(0.05, future.set_result, [None]).start()
    waits = [threading.Thread(target=future.result, args=(20,)) for _ in range(4)]
    for wait in waits:
        wait.start()
    for wait in waits:
        wait.join(20)
        assert not wait.is_alive()
    assert future.done()


def test_a_condition_forgets_who_has_waited_long_enough() -> None:
    condition = Condition()
    with condition:
        assert not condition.wait(0.001)
        condition.notify_all()
    assert not condition._waiters


@pytest.mark.skipif(
    threading.gettrace() is not None,
    reason="an interrupt in the tracer of coverage.py leaves its lock taken",
)
def test_interrupted_waits_leave_the_queue_to_all_others(tmp_path: Path) -> None:
    armed = False

    def raise_it(*_: object) -> None:
        nonlocal armed
        if armed:
            armed = False
            raise Interrupt

    before = signal.signal(signal.SIGALRM, raise_it)
    signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
    interrupted = 0
    try:
        with Database(tmp_path / "store") as db:
            db.put_async(b"first", b"").result(20)
            end = time.monotonic() + 3
            while time.monotonic() < end:
                future = db.put_async(b"key", b"")
                try:
                    armed = True
                    future.result(20)
                    armed = False
                except (Interrupt, RuntimeError):  # what a Condition makes of it at times
                    interrupted += 1
            armed = False
            db.put_async(b"last", b"").result(20)
            assert interrupted > 100
            assert db[b"last"] == b""
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_who_answers_does_not_wait_for_a_handler_that_waits_for_the_answer() -> None:
    future, answers = WriteFuture(), list[bool]()

    def answer() -> None:
        answers.extend([future.begin(), future.answer(None)])

    def in_another_thread() -> None:
        thread = threading.Thread(target=answer)
        thread.start()
        thread.join(20)

    with future._condition:
        in_another_thread()
    assert (answers, future.done()) == ([True, False], False)
    in_another_thread()
    assert (answers[2:], future.done()) == ([True, True], True)
