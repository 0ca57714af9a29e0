"""A Worker: its thread is there while there is work, and no wake is ever lost."""

from __future__ import annotations

import _thread
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from oblivion_dbm import error
from oblivion_dbm.engine import worker as module
from oblivion_dbm.engine.worker import Worker


@pytest.fixture
def switching() -> Iterator[None]:
    """Let threads change places as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Starts:
    """Stands for ``start_new_thread``: counts, and fails the calls that ``fails`` names."""

    def __init__(self, patch: pytest.MonkeyPatch, fails: Callable[[int], bool]) -> None:
        self.count = 0
        self._start = _thread.start_new_thread
        self._fails = fails
        patch.setattr(module, "start_new_thread", self)

    def __call__(self, call: Callable[[], object], args: tuple[()]) -> int:
        self.count += 1
        if self._fails(self.count):
            raise RuntimeError("can't start new thread")
        return self._start(call, args)


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until ``condition`` holds, and fail where it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.001)


def alive(worker: Worker) -> bool:
    return worker._life.locked()


# The thread.


def test_no_thread_before_there_is_work_and_none_after_it() -> None:
    steps: list[int] = []
    before = _thread._count()
    worker = Worker(lambda: steps.append(threading.get_ident()))
    assert not alive(worker)
    worker.wake()
    until(lambda: steps and not alive(worker))
    assert steps[0] != threading.get_ident()
    worker.wake()
    until(lambda: len(steps) == 2 and not alive(worker))
    worker.close()
    worker.wake()
    time.sleep(0.02)
    assert len(steps) == 2
    assert not alive(worker)
    until(lambda: _thread._count() == before)


def test_a_step_that_asks_for_it_is_called_again_after_the_pause() -> None:
    pauses: list[float | None] = [0.03, 0.0, None]
    times: list[float] = []

    def step() -> float | None:
        times.append(time.monotonic())
        return pauses[len(times) - 1]

    worker = Worker(step)
    worker._bell.acquire()
    worker.wake()
    until(lambda: len(times) == 3 and not alive(worker))
    worker.close()


def test_a_wake_ends_a_pause() -> None:
    steps: list[float] = []

    def step() -> float | None:
        steps.append(0)
        return 3600.0 if len(steps) < 4 else None

    def reached(count: int) -> bool:
        return len(steps) >= count

    worker = Worker(step)
    for count in range(1, 5):
        worker.wake()
        until(partial(reached, count))
    until(lambda: not alive(worker))
    worker.close()


def test_close_ends_a_pause_and_waits_for_a_step() -> None:
    going, ended = threading.Event(), threading.Event()

    def step() -> float:
        going.set()
        time.sleep(0.05)
        ended.set()
        return 3600.0

    worker = Worker(step)
    worker.wake()
    going.wait()
    worker.close()
    assert ended.is_set()
    assert not alive(worker)
    began = time.monotonic()
    worker.close()
    assert time.monotonic() - began < 1


def test_no_wake_is_lost_in_the_last_moments_of_a_thread(switching: None) -> None:
    # Each thread asks for one step and waits for it before it asks for the next.
    seen = 0
    asked = 0

    def step() -> None:
        nonlocal seen
        seen = asked

    worker = Worker(step)
    for number in range(1, 5001):
        asked = number
        worker.wake()
        deadline = time.monotonic() + 10
        while seen < number:
            assert time.monotonic() < deadline, f"wake {number} was lost"
            time.sleep(0)
    worker.close()


class LastMoment:
    """A lock that does something once, just before it is released."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._lock = _thread.allocate_lock()
        self._acts = [act]
        self.acquire, self.locked = self._lock.acquire, self._lock.locked

    def release(self) -> None:
        while self._acts:
            self._acts.pop()()
        self._lock.release()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_a_wake_in_the_very_last_moment_of_a_thread_is_not_lost() -> None:
    steps: list[int] = []
    worker = Worker(lambda: steps.append(1))
    worker._life = LastMoment(worker.wake)  # type: ignore[assignment]
    worker.wake()
    until(lambda: len(steps) == 2 and not alive(worker))
    worker.close()


def test_no_wake_of_many_threads_is_lost(switching: None) -> None:
    todo: list[int] = []
    done: list[int] = []

    def step() -> None:
        while todo:
            done.append(todo.pop())

    worker = Worker(step)

    def ask(name: int) -> None:
        for number in range(1500):
            todo.append(name * 10_000 + number)
            worker.wake()
            if number % 3 == 0:
                time.sleep(0)

    threads = [threading.Thread(target=ask, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: not todo and not alive(worker))
    worker.close()
    assert len(set(done)) == len(done) == 6000


def test_a_burst_of_wakes_starts_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    starts = Starts(monkeypatch, lambda _: False)
    before = sys.getswitchinterval()
    sys.setswitchinterval(5.0)  # no thread begins before this one waits
    try:
        worker = Worker(lambda: None)
        for _ in range(1000):
            worker.wake()
        assert starts.count == 1
    finally:
        sys.setswitchinterval(before)
    until(lambda: not worker._coming and not alive(worker))
    worker.close()


# Jobs.


def test_a_call_runs_in_the_thread_and_raises_what_it_raised() -> None:
    worker = Worker(lambda: None)
    where: list[int] = []
    worker.call(lambda: where.append(threading.get_ident()))
    assert where[0] != threading.get_ident()

    def fail() -> None:
        raise KeyError("what it raised")

    with pytest.raises(KeyError, match="what it raised"):
        worker.call(fail)
    worker.call(lambda: where.append(1))
    assert len(where) == 2
    worker.close()


def test_calls_of_many_threads_are_each_done_once(switching: None) -> None:
    worker = Worker(lambda: None)
    inside = 0
    done: list[tuple[int, int]] = []

    def job(name: int, number: int) -> None:
        nonlocal inside
        inside += 1
        assert inside == 1, "two at a time"
        done.append((name, number))
        inside -= 1

    def ask(name: int) -> None:
        for number in range(300):
            worker.call(partial(job, name, number))

    threads = [threading.Thread(target=ask, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    worker.close()
    assert sorted(done) == [(name, number) for name in range(4) for number in range(300)]


@pytest.mark.parametrize("threaded", [True, False])
def test_a_call_inside_a_call_is_refused_and_no_hang(threaded: bool) -> None:
    worker = Worker(lambda: None, threaded)
    with pytest.raises(error, match="in the middle"):
        worker.call(lambda: worker.call(lambda: None))
    worker.close()


def test_a_call_that_nobody_will_do_raises_once_the_worker_is_closed() -> None:
    going, go_on = threading.Event(), threading.Event()

    def step() -> None:
        going.set()
        go_on.wait()

    worker = Worker(step)
    worker.wake()
    going.wait()
    problems: list[BaseException] = []

    def ask() -> None:
        try:
            worker.call(lambda: None)
        except error as problem:
            problems.append(problem)

    asking = threading.Thread(target=ask)
    asking.start()
    until(lambda: worker._jobs)
    closing = threading.Thread(target=worker.close)
    closing.start()
    until(lambda: worker.closed)
    go_on.set()
    closing.join()
    asking.join()
    assert "closed before this was done" in str(problems[0])
    with pytest.raises(error, match="closed before this was done"):
        worker.call(lambda: None)


# Without a thread.


def test_here_means_that_the_caller_does_it() -> None:
    steps: list[int] = []
    worker = Worker(lambda: steps.append(1), threaded=False)
    worker.wake()
    assert steps == []
    where: list[int] = []
    worker.call(lambda: where.append(threading.get_ident()))
    assert where == [threading.get_ident()]
    with pytest.raises(ZeroDivisionError):
        worker.call(lambda: 1 / 0)
    worker.close()


def test_here_two_callers_wait_for_each_other_and_close_for_both(switching: None) -> None:
    worker = Worker(lambda: None, threaded=False)
    inside = most = count = 0

    def job() -> None:
        nonlocal inside, most, count
        inside += 1
        most = max(most, inside)
        time.sleep(0.0001)
        count += 1
        inside -= 1

    def ask() -> None:
        try:
            while True:
                worker.call(job)
        except error:
            pass

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: count > 100)
    worker.close()
    assert inside == 0
    after = count
    for thread in threads:
        thread.join()
    assert most == 1
    assert count == after


def test_where_the_system_gives_no_thread_the_caller_does_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Starts(monkeypatch, lambda _: True)
    worker = Worker(lambda: None)
    worker.wake()
    assert worker.here
    where: list[int] = []
    worker.call(lambda: where.append(threading.get_ident()))
    assert where == [threading.get_ident()]
    worker.close()


@pytest.mark.parametrize("fatal", [1, 2, 3, 4, 5])
def test_a_thread_that_came_before_the_system_gave_no_more_is_not_disturbed(
    monkeypatch: pytest.MonkeyPatch, switching: None, fatal: int
) -> None:
    # Whoever works, nobody else does meanwhile, and nobody waits in vain.
    Starts(monkeypatch, lambda number: number >= fatal)
    inside = most = 0

    def job() -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0)
        inside -= 1

    worker = Worker(job)

    def ask() -> None:
        for _ in range(100):
            worker.wake()
            worker.call(job)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    worker.close()
    assert most == 1


def test_an_interrupt_while_a_thread_is_started_leaves_a_worker_that_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Interrupt(BaseException):
        pass

    def interrupted(call: Callable[[], object], args: tuple[()]) -> int:
        raise Interrupt

    steps: list[int] = []
    worker = Worker(lambda: steps.append(1))
    with monkeypatch.context() as patch:
        patch.setattr(module, "start_new_thread", interrupted)
        with pytest.raises(Interrupt):
            worker.wake()
    assert not worker.here
    worker.wake()
    until(lambda: steps)
    worker.close()


@pytest.mark.parametrize("name", ["close", "stop"])
def test_the_thread_itself_may_end_it(name: str) -> None:
    steps: list[int] = []
    worker = Worker(lambda: steps.append(1))
    worker.call(getattr(worker, name))
    until(lambda: not alive(worker))
    worker.wake()
    assert not alive(worker)
    if name == "stop":
        worker.call(lambda: steps.append(2))
        assert 2 in steps
    worker.close()
