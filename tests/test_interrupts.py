"""An exception out of a signal handler leaves each call whole or absent, and the store usable.

The interpreter may run a handler between any two instructions; here an
exception is raised at each instruction of the package that a call runs, one
after the other.  Left out are the instructions that leave a ``with`` block,
where the interpreter runs no handler, and the modules in ``LEFT_OUT``.  Then
handlers are run that raise nothing but call the store themselves.

Of each call but the put that fits some instructions are taken, as many as
OBLIVION_DBM_INTERRUPTS says; 0 leaves none out, and takes minutes.
"""

from __future__ import annotations

import dis
import os
import shutil
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from errno import EDEADLK
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

import oblivion_dbm
from gates.failure import descriptors
from oblivion_dbm import Database, error
from oblivion_dbm.engine.kernel import Appender
from oblivion_dbm.engine.record import PUT, encode

PACKAGE = str(Path(oblivion_dbm.__file__).parent)
LEFT_OUT = ("filesystem.py", "wal.py", "positioned.py", "lock.py")
PLACES = int(os.environ.get("OBLIVION_DBM_INTERRUPTS", "20"))

# A snapshot or a transaction that was interrupted before its ``with`` is forgotten.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

Model = dict[bytes, bytes]
Call = Callable[[Database], object]


class Interrupt(BaseException):
    """What a signal handler raises."""


# Where to raise.


@cache
def exits(code: CodeType) -> frozenset[int]:
    """Return the offsets of the instructions that leave ``with`` blocks, or a generator."""
    found: set[int] = set()
    steps = list(dis.get_instructions(code))
    names = [step.opname for step in steps]
    for place, name in enumerate(names):
        if name == "NOP":
            # Python 3.11 forgets them in its table of handlers; nothing is delivered there.
            found.add(steps[place].offset)
        elif name == "CALL_INTRINSIC_1" and names[place + 1 : place + 2] == ["RERAISE"]:
            # How a generator that is forgotten ends since Python 3.12.
            found.update(step.offset for step in steps[place : place + 2])
        elif name in ("WITH_EXCEPT_START", "PUSH_EXC_INFO"):
            if name == "WITH_EXCEPT_START" or names[place + 1 : place + 2] == ["WITH_EXCEPT_START"]:
                found.add(steps[place].offset)
        elif name in ("CALL", "CALL_FUNCTION") and steps[place].arg == (2 if name == "CALL" else 3):
            first = place - 3 - (names[place - 1] == "PRECALL")
            nones = names[first : first + 3]
            if nones not in (["LOAD_CONST"] * 3, ["LOAD_CONST", "DUP_TOP", "DUP_TOP"]):
                continue
            if any(s.opname == "LOAD_CONST" and s.argval is not None for s in steps[first:place]):
                continue
            while names[first - 1] in ("SWAP", "ROT_TWO", "POP_BLOCK", "NOP"):
                first -= 1
            found.update(step.offset for step in steps[first : place + 1])
    return frozenset(found)


@cache
def polls(code: CodeType) -> frozenset[int]:
    """Return the offsets of the instructions before which signal handlers may run.

    The interpreter looks for signals after calls and jumps, and where a function begins.
    """
    found = {0}
    steps = list(dis.get_instructions(code))
    for step, following in pairwise(steps):
        if step.opname.startswith("CALL") or step.opname == "RESUME":
            found.add(following.offset)
        elif "JUMP" in step.opname and (sys.version_info < (3, 11) or "BACKWARD" in step.opname):
            found.add(step.argval)
    return frozenset(found)


def in_finaliser(frame: FrameType | None) -> bool:
    """Tell whether what is raised in a frame would be lost, as it would be in real life."""
    while frame is not None:
        code = frame.f_code
        finaliser = code.co_name == "<lambda>" and code.co_filename.endswith("snapshot.py")
        if finaliser or code.co_name in ("__del__", "_forget"):
            return True
        frame = frame.f_back
    return False


class Interrupter:
    """Does ``what`` at the ``place``-th instruction of the files whose names end so.

    ``where`` says which one that was.  Without ``what`` it raises Interrupt.
    ``only`` gives the offsets that count in a function, where not all do.
    """

    def __init__(
        self,
        place: int,
        files: str | tuple[str, ...] = ".py",
        what: Callable[[], object] | None = None,
        only: Callable[[CodeType], frozenset[int]] | None = None,
    ) -> None:
        self.left = place
        self.files = files
        self.what = what
        self.only = only
        self.where = "nowhere"

    def trace(self, frame: FrameType, event: str, _: Any) -> Any:
        code = frame.f_code
        file = code.co_filename
        if not file.startswith(PACKAGE) or not file.endswith(self.files):
            return None
        if file.endswith(LEFT_OUT):
            return None
        frame.f_trace_opcodes = True
        counts = self.only is None or frame.f_lasti in self.only(code)
        if event == "opcode" and counts and frame.f_lasti not in exits(code):
            self.left -= 1
            if self.left == 0 and in_finaliser(frame):
                self.left = 1
            elif self.left == 0:
                self.where = f"{file}:{frame.f_lineno} ({code.co_name})"
                self.interrupt()
        return self.trace

    def interrupt(self) -> None:
        if self.what is None:
            raise Interrupt
        self.what()

    def call(self, call: Callable[[], object]) -> bool:
        """Call; return whether that was interrupted."""
        before = sys.gettrace()
        sys.settrace(self.trace)
        try:
            call()
        except Interrupt:
            return True
        finally:
            sys.settrace(before)
        return False

    @property
    def passed(self) -> int:
        """At how many places something could have been done, after a call with ``sys.maxsize``."""
        return sys.maxsize - self.left


def chosen(total: int, places: int = PLACES) -> list[int]:
    """Return which of ``total`` places are tried."""
    return list(range(1, total + 1, max(1, total // places if places else 1)))


# What is interrupted.


class Case:
    """A call, on a store that ``prepare`` has made ready for it, and what it changes.

    ``options`` are the handle's.  A call that ``ends`` the handle may be called
    again instead of going on with it.
    """

    def __init__(
        self,
        call: Call,
        change: Callable[[Model], object] = bool,
        prepare: Call = bool,
        ends: bool = False,
        **options: Any,
    ) -> None:
        self.call = call
        self.change = change
        self.prepare = prepare
        self.ends = ends
        self.options = options


def put(db: Database) -> None:
    db[b"key"] = b"new"


def is_put(model: Model) -> None:
    model[b"key"] = b"new"


def put_big(db: Database) -> None:
    db[b"key"] = bytes(100_000)


def is_put_big(model: Model) -> None:
    model[b"key"] = bytes(100_000)


def transaction(db: Database) -> None:
    with db.transaction() as changes:
        assert changes[b"k1"]
        changes[b"key"] = b"new"


def read_snapshot(db: Database) -> None:
    with db.snapshot() as snapshot:
        assert list(snapshot.scan())


def fit(db: Database) -> None:
    """Leave room for a record."""
    db[b"first"] = b""
    db[b"second"] = b""


def write_first(db: Database) -> None:
    db[b"first"] = b""


def fill(db: Database) -> None:
    """Write until the MemTable is full, with a flush behind."""
    for number in range(20):
        db[b"fill %d" % number] = bytes(500)


def pop_key(model: Model) -> None:
    model.pop(b"key", None)


def batch(db: Database) -> None:
    with db.batch() as changes:
        changes[b"key"] = b"new"
        changes[b"other"] = b"new"
        del changes[b"k1"]


def is_batch(model: Model) -> None:
    model.update({b"key": b"new", b"other": b"new"})
    model.pop(b"k1", None)


def seal(db: Database) -> None:
    """Leave records in memory and tombstones over tables."""
    db.flush()
    db[b"k1"] = b"again"
    del db[b"k2"]
    db[b"k3"] = b"again"


TINY: dict[str, Any] = {"memtable_limit": 6000, "table_limit": 2000, "fan_in": 2}

CASES = {
    "put that fits": Case(put, is_put, fit),
    "put": Case(put, is_put, write_first),
    "put, with a longer segment": Case(put_big, is_put_big, write_first),
    "put, over pwrite": Case(put, is_put, write_first, log_back_end="pwrite"),
    "put, with maintenance in the call": Case(put, is_put, fill, background=False, **TINY),
    "put, after maintenance": Case(put, is_put, fill, **TINY),
    "put, to the disk": Case(put, is_put, write_first, sync="full"),
    "put, to the disk within seconds": Case(put, is_put, write_first, sync=1000.0),
    "delete": Case(lambda db: db.__delitem__(b"key"), pop_key, write_first),
    "pop": Case(lambda db: db.pop(b"key", None), pop_key, write_first),
    "popitem": Case(Database.popitem, lambda model: model.pop(min(model)), write_first),
    "setdefault": Case(
        lambda db: db.setdefault(b"none", b"1"),
        lambda model: model.setdefault(b"none", b"1"),
        write_first,
    ),
    "batch": Case(batch, is_batch, write_first),
    "transaction": Case(transaction, is_put, write_first),
    "clear": Case(Database.clear, dict.clear, seal),
    "clear, with maintenance in the call": Case(Database.clear, dict.clear, seal, background=False),
    "flush": Case(Database.flush, prepare=seal),
    "compact": Case(Database.compact, prepare=seal),
    "sync": Case(Database.sync, prepare=write_first),
    "close": Case(Database.close, prepare=seal, ends=True),
    "close, of a handle that wrote nothing": Case(Database.close, ends=True),
    "close, with maintenance in the call": Case(
        Database.close, prepare=fill, ends=True, background=False, **TINY
    ),
    "put_async": Case(lambda db: db.put_async(b"key", b"new").result(10), is_put, write_first),
    "put_async, to the disk": Case(
        lambda db: db.put_async(b"key", b"new").result(10), is_put, write_first, sync="full"
    ),
    "snapshot": Case(read_snapshot, prepare=seal),
    "scan": Case(lambda db: list(db.scan()), prepare=seal),
    "len": Case(len, prepare=seal),
}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Model]:
    """Make a store to copy: a table, and records in the log."""
    path = tmp_path_factory.mktemp("interrupts") / "template"
    model = {b"k%d" % number: b"%d" % number * 50 for number in range(30)}
    model[b"key"] = b"old"
    with Database(path) as db:
        db.put_many(dict(list(model.items())[:20]))
        db.flush()
        db.put_many(dict(list(model.items())[20:]))
    return path, model


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the disk: what is on it makes no difference here.  And warm the trace up."""
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: None)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    # Python 3.12 traces instructions only from the second time on that it is asked to.
    Interrupter(sys.maxsize).call(lambda: encode(PUT, b"", b""))


def contents(db: Database) -> Model:
    """Return what is in the store, seen in each way there is to look."""
    found = dict(db.scan())
    assert {key: db[key] for key in found} == found
    assert len(db) == len(found)
    return found


#: What comes next after an interrupt; each must work, whatever was interrupted.
NEXT: list[tuple[str, Call, Callable[[Model], object]]] = [
    ("put", lambda db: db.__setitem__(b"next", b"1"), lambda model: model.update({b"next": b"1"})),
    ("delete", lambda db: db.pop(b"k5", b""), lambda model: model.pop(b"k5", b"")),
    ("popitem", lambda db: db and db.popitem(), lambda model: model and model.pop(min(model))),
    ("setdefault", lambda db: db.setdefault(b"n"), lambda model: model.update({b"n": b""})),
    ("put_many", lambda db: db.put_many({b"n": b""}), lambda model: model.update({b"n": b""})),
    ("flush", Database.flush, bool),
    ("compact", Database.compact, bool),
    ("sync", Database.sync, bool),
    ("clear", Database.clear, dict.clear),
    ("put_async", lambda db: db.put_async(b"n", b"").result(10), lambda m: m.update({b"n": b""})),
]


def in_thread(call: Callable[[], object]) -> None:
    """Call in another thread, which must come to an end."""
    problems: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as problem:  # noqa: BLE001 - it is raised below
            problems.append(problem)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "a lock was left held"
    if problems:
        raise problems[0]


def go_on(db: Database, place: int, models: list[Model]) -> Model:
    """Check a handle on which a call was interrupted, and use it; return what it must hold."""
    db.delete_async(b"absent").result(10)  # what was queued has come to its end then
    model = contents(db)
    assert model in models
    if db._engine.options.sync != "full":
        with Database(db.path, "r") as reader:
            assert contents(reader) == model
    name, call, change = NEXT[place % len(NEXT)]
    call(db)
    change(model)
    in_thread(lambda: db.update({b"from a thread": b"%d" % place}))
    model[b"from a thread"] = b"%d" % place
    assert contents(db) == model, name
    return model


def made_ready(case: Case, source: Path, path: Path) -> tuple[Database, Model, Model]:
    """Return a handle on a copy of the store at ``source``; what it holds, and is to hold."""
    shutil.copytree(source, path)
    db = Database(path, **case.options)
    case.prepare(db)
    before = contents(db)
    if case.prepare is fit:
        fit(db)  # a scan sends the next write the long way
    after = before.copy()
    case.change(after)
    return db, before, after


def interrupt(
    case: Case, source: Path, path: Path, interrupter: Interrupter, number: int = 0
) -> bool:
    """Interrupt a call, and check all that must hold then; False where it came to its end."""
    db, before, after = made_ready(case, source, path)
    try:
        if not interrupter.call(lambda: case.call(db)):
            assert case.ends or contents(db) == after
            return False
        model = before
        if not case.ends:
            model = go_on(db, number, [before, after])
        db.close()
        with Database(path) as db:
            assert contents(db) == model
            assert number % 7 or db.verify() == []
        assert threading.active_count() == 1
    except BaseException as problem:
        where = f"interrupted at {interrupter.where}: {problem!r}"
        raise AssertionError(where) from problem
    finally:
        db.close()
        shutil.rmtree(path)
    return True


@pytest.mark.parametrize("name", CASES)
def test_an_interrupted_call_is_whole_or_absent(
    template: tuple[Path, Model], tmp_path: Path, name: str
) -> None:
    case, path = CASES[name], tmp_path / "store"
    fits = case.prepare is fit
    files = "append.py" if fits else ".py"
    counter = Interrupter(sys.maxsize, files)
    interrupt(case, template[0], path, counter)
    opened = descriptors()
    for number, place in enumerate(chosen(counter.passed, 0 if fits else PLACES)):
        interrupt(case, template[0], path, Interrupter(place, files), number)
    assert descriptors() == opened


@pytest.mark.parametrize("read", ["first", "keys", "count", "snapshot"])
def test_an_interrupted_read_loses_nothing(tmp_path: Path, read: str) -> None:
    path = tmp_path / "store"
    db = Database(path)
    calls: dict[str, Callable[[], object]] = {
        "first": db.first,
        "keys": db.keys,
        "count": db.__len__,
        "snapshot": lambda: db.snapshot().close(),
    }
    model: Model = {}
    place = 1
    while True:
        keys = [b"%d" % ((place * 7 + number) % 50) for number in range(3)]
        for key in keys:
            db[key] = model[key] = b"%d" % place
        del db[keys[-1]]
        del model[keys[-1]]
        if not Interrupter(place, ("tree.py", "memtable.py")).call(calls[read]):
            break
        key = b"new %d" % (place % 10)
        db[key] = model[key] = b"%d" % place
        if place % 5 == 0:
            db.flush()
        assert db.keys() == sorted(model)
        assert len(db) == len(model)
        assert db.first()[0] == min(model)
        place += 1
    assert place > 50
    db.close()
    with Database(path) as db:
        assert contents(db) == model
        assert db.verify() == []


@pytest.mark.parametrize("back_end", ["mapped", "pwrite"])
def test_what_is_interrupted_again_while_it_is_put_right_is_put_right_by_the_next_call(
    template: tuple[Path, Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, back_end: str
) -> None:
    settle = Appender.settle
    second = Interrupter(0)

    def interrupted(appender: Appender, start: int, end: int) -> None:
        # A trace function that raises is removed; this one is for what comes now.
        sys.settrace(second.trace)
        settle(appender, start, end)

    monkeypatch.setattr(Appender, "settle", interrupted)
    path = tmp_path / "store"
    case = Case(put, is_put, fit, log_back_end=back_end)
    counter = Interrupter(sys.maxsize, "append.py")
    interrupt(case, template[0], path, counter)
    number = 0
    for first in chosen(counter.passed, PLACES and 30):
        second = Interrupter(sys.maxsize)
        interrupt(case, template[0], path, Interrupter(first, "append.py"))
        for place in chosen(second.passed, PLACES and 5):
            second = Interrupter(place)
            interrupt(case, template[0], path, Interrupter(first, "append.py"), number)
            number += 1
    assert number > 50


SEES: dict[str, Callable[[Database], object]] = {
    "snapshot": lambda db: dict(db.snapshot()),
    "transaction": lambda db: dict(db.transaction()),
    "scan": lambda db: dict(db.scan()),
    "reverse": lambda db: dict(reversed(list(db.scan(reverse=True)))),
    "pop": lambda db: {b"key": db.pop(b"key")},
    "first": lambda db: dict([db.first()]),
}


@pytest.mark.parametrize("sees", SEES)
def test_the_next_call_of_any_kind_puts_right_what_was_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sees: str
) -> None:
    with Database(tmp_path / "store") as db:
        db[b"key"] = b"old"
        settle, published = Appender.settle, db._engine.tree.lookup

        class Twice(dict[bytes, bytes]):
            """Interrupts the insertion, and, once more, what puts it right."""

            def __setitem__(self, key: bytes, record: bytes) -> None:
                monkeypatch.setattr(Appender, "settle", interrupted)
                raise Interrupt

        def interrupted(appender: Appender, start: int, end: int) -> None:
            monkeypatch.setattr(Appender, "settle", settle)
            db._engine.tree.memtables[0].top.records = records
            appender.active = records
            raise Interrupt

        records = db._engine.tree.memtables[0].top.records
        assert published.view[0] is records
        db._engine._path.appender.active = Twice(records)  # type: ignore[attr-defined]  # a Writer
        with pytest.raises(Interrupt):
            db[b"key"] = b"new"
        assert SEES[sees](db) == {b"key": b"new"}


# Handlers that call the store themselves.

HANDLERS: dict[str, tuple[Call, Callable[[Model], object]]] = {
    "get": (lambda db: db.get(b"key"), bool),
    "put": (lambda db: db.__setitem__(b"by", b"1"), lambda model: model.update({b"by": b"1"})),
    "put big": (
        lambda db: db.__setitem__(b"by", bytes(70_000)),
        lambda model: model.update({b"by": bytes(70_000)}),
    ),
    "delete": (lambda db: db.pop(b"k7", None), lambda model: model.pop(b"k7", None)),
    "put_many": (lambda db: db.put_many({b"by": b"1"}), lambda m: m.update({b"by": b"1"})),
    "put_async": (lambda db: db.put_async(b"by", b"1"), lambda m: m.update({b"by": b"1"})),
    "scan": (lambda db: list(db.scan()), bool),
    "len": (len, bool),
    "flush": (Database.flush, bool),
    "compact": (Database.compact, bool),
    "sync": (Database.sync, bool),
    "clear": (Database.clear, dict.clear),
    "close": (Database.close, bool),
}
INSIDE = [
    *("put that fits", "put", "put, with a longer segment", "put, with maintenance in the call"),
    *("put, to the disk", "put, to the disk within seconds", "pop", "batch", "clear", "flush"),
    *("sync", "close", "scan", "put_async"),
]


def orders(before: Model, *changes: Callable[[Model], object]) -> list[Model]:
    """Return what may be there after two changes, in either order, each whole or absent."""
    found = []
    for steps in (changes[:0], changes[:1], changes[1:], changes, changes[::-1]):
        model = before.copy()
        for change in steps:
            change(model)
        found.append(model)
    return found


def is_refusal(problem: error) -> bool:
    """Tell whether a call was refused because of another of the same thread."""
    return problem.errno == EDEADLK or "closed" in str(problem) or "ended" in str(problem)


def call_inside(case: Case, source: Path, path: Path, inner: str, place: int) -> Interrupter:
    """Have a signal handler call the store in the middle of a call; check what that leaves."""
    db, before, _ = made_ready(case, source, path)
    call, change = HANDLERS[inner]

    def handle() -> None:
        try:
            call(db)
        except error as problem:
            if not is_refusal(problem):
                raise

    interrupter = Interrupter(place, what=handle, only=polls)
    try:
        try:
            interrupter.call(lambda: case.call(db))
        except error as problem:
            if not is_refusal(problem):
                raise
        except KeyError:  # a key to pop, say, that was cleared just before
            if inner != "clear":
                raise
        db.close()
        with Database(path) as db:
            assert contents(db) in orders(before, case.change, change)
            assert db.verify() == []
    except BaseException as problem:
        where = f"{inner} called at {place}, {interrupter.where}: {problem!r}"
        raise AssertionError(where) from problem
    finally:
        db.close()
        shutil.rmtree(path)
    return interrupter


@pytest.mark.parametrize("outer", INSIDE)
def test_a_signal_handler_may_call_the_store_anywhere(
    template: tuple[Path, Model], tmp_path: Path, outer: str
) -> None:
    case, path = CASES[outer], tmp_path / "store"
    total = call_inside(case, template[0], path, "get", sys.maxsize).passed
    names = list(HANDLERS)
    for number, place in enumerate(chosen(total)):
        for inner in names if PLACES == 0 else [names[number % len(names)]]:
            call_inside(case, template[0], path, inner, place)


def time_out() -> None:
    raise TimeoutError("by a signal handler")


@pytest.mark.parametrize("raises", [None, time_out])
def test_no_exception_but_the_disk_s_stops_writing(
    tmp_path: Path, raises: Callable[[], object] | None
) -> None:
    with Database(tmp_path / "store") as db:
        counter = Interrupter(sys.maxsize, "log.py")
        db[b"key"] = b"value"
        counter.call(db.sync)
        assert counter.passed > 100
        for place in chosen(counter.passed, PLACES and 60):
            db[b"key"] = b"%d" % place
            interrupter = Interrupter(place, "log.py", raises)
            with suppress(TimeoutError):
                try:
                    raise OSError("the caller's own")
                except OSError:
                    interrupter.call(db.sync)
            db[b"another"] = b"%d" % place
            db.sync()


def test_no_handler_runs_between_reading_the_position_and_marking_it() -> None:
    for function in (Appender.put, Appender.write, Appender.reserve):
        code: CodeType = function.__code__
        steps = list(dis.get_instructions(code))
        touches = [(step.offset, step.opname[:5]) for step in steps if step.argval == "position"]
        marks = [place for place, (_, name) in enumerate(touches) if name == "STORE"]
        assert marks
        for place in marks:
            read = touches[place - 1]
            if read[1] == "LOAD_":
                between = set(range(read[0] + 1, touches[place][0] + 1))
                assert not between & polls(code), dis.code_info(code)
