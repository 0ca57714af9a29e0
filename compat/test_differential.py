"""The same operations through us and through every standard backend of this Python.

Hypothesis writes the programs.  Results and exceptions must be equal, unless
``differences.md`` has a row for it; every row has a small program of its own
that must show exactly the difference it claims, so a row that has lost its
reason fails.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import itertools
import pickle
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

import oblivion_dbm

TABLE = Path(__file__).parent / "differences.md"
COLUMNS = ["backends", "operation", "given", "ours", "theirs", "why", "shown by"]
ANY = "any"
OTHER = " and other content"
MANY = 200  # more records than any of the programs makes


class NoEnd(Exception):  # noqa: N818 - it is a result, and named in the table
    """A loop over a small store went on and on."""


@dataclass(frozen=True)
class Operation:
    """A call: its name in ``Store`` and its arguments."""

    name: str
    arguments: tuple[Any, ...] = ()

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(map(repr, self.arguments))})"


@dataclass(frozen=True)
class Outcome:
    """What a call did: ``label`` is the kind of it, as in the table, ``value`` all of it."""

    label: str
    value: object = None


@dataclass(frozen=True)
class Difference:
    """A row of the table."""

    backends: frozenset[str]
    operations: frozenset[str]
    given: frozenset[str]
    ours: str
    theirs: str
    programs: str

    def excuses(self, backend: str, name: str, tags: set[str], ours: str, theirs: str) -> bool:
        return (
            backend in self.backends
            and name in self.operations
            and self.given <= tags
            and self.ours in (ANY, ours)
            and self.theirs in (ANY, theirs, ANY + OTHER if theirs.endswith(OTHER) else ANY)
        )


def words(cell: str) -> frozenset[str]:
    return frozenset(word.strip() for word in cell.split(",")) - {"", ANY}


def backends_of(cell: str) -> frozenset[str]:
    """``gnu (to 3.12)`` is about that backend up to that version of Python."""
    found = set()
    for name, _, until in (word.partition(" (to ") for word in words(cell)):
        limit = tuple(map(int, until.rstrip(")").split("."))) if until else (4,)
        if sys.version_info[:2] <= limit:
            found.add(name)
    return frozenset(found)


def read_table() -> list[Difference]:
    rows = [
        [cell.strip().replace("`", "") for cell in line.strip().strip("|").split("|")]
        for line in TABLE.read_text().splitlines()
        if line.startswith("|")
    ]
    assert rows[0] == COLUMNS
    return [
        Difference(backends_of(row[0]), words(row[1]), words(row[2]), row[3], row[4], row[6])
        for row in rows[2:]
    ]


DIFFERENCES = read_table()


class Store:
    """One side: a path, a module, and the handle that is open now, if any."""

    def __init__(self, module: ModuleType, path: Path) -> None:
        self.module = module
        self.path = str(path)
        self.db: Any = None
        self.flag: Any = None

    def run(self, operation: Operation) -> Outcome:
        key = operation.arguments[0] if operation.arguments else None
        try:
            value = getattr(self, operation.name)(*operation.arguments)
        except KeyError as raised:
            as_given = raised.args and type(raised.args[0]) is type(key) and raised.args[0] == key
            return Outcome("KeyError" if as_given else "KeyError of another key")
        except self.module.error:
            return Outcome("error")
        except Exception as raised:  # noqa: BLE001 - its type is the result
            return Outcome(type(raised).__name__)
        if value is None or isinstance(value, bool):
            return Outcome(repr(value))
        return Outcome(type(value).__name__, value)

    def state(self) -> object:
        """Everything that a handle shows, to see whether two sides have parted."""
        if self.db is None:
            return "not open"
        try:
            return sorted((key, self.db.get(key)) for key in self.db.keys())  # noqa: SIM118 - gdbm
        except self.module.error:
            return "closed"

    # The operations.

    def open(self, flag: Any) -> None:
        self.close()
        self.db = None
        self.db, self.flag = self.module.open(self.path, flag), flag

    def close(self) -> None:
        if self.db is not None:
            self.db.close()

    def get_item(self, key: Any) -> Any:
        return self.db[key]

    def set_item(self, key: Any, value: Any) -> None:
        self.db[key] = value

    def del_item(self, key: Any) -> None:
        del self.db[key]

    def contains(self, key: Any) -> Any:
        return key in self.db

    def length(self) -> Any:
        return len(self.db)

    def truth(self) -> Any:
        return bool(self.db)

    def keys(self) -> Any:
        keys = self.db.keys()
        assert isinstance(keys, list)
        return sorted(keys)

    def iterate(self) -> Any:
        return sorted(self.db)

    def items(self) -> Any:
        return sorted(self.db.items())

    def values(self) -> Any:
        return sorted(self.db.values())

    def get(self, *arguments: Any) -> Any:
        return self.db.get(*arguments)

    def pop(self, *arguments: Any) -> Any:
        return self.db.pop(*arguments)

    def drain(self) -> Any:
        """popitem() until nothing is left, since which item it gives is open."""
        items = []
        with contextlib.suppress(KeyError):
            while len(items) < MANY:
                items.append(self.db.popitem())
            raise NoEnd
        return sorted(items)

    def setdefault(self, *arguments: Any) -> Any:
        return self.db.setdefault(*arguments)

    def update(self, pairs: Any) -> None:
        self.db.update(pairs)

    def clear(self) -> None:
        self.db.clear()

    def sync(self) -> Any:
        return self.db.sync()

    def reorganize(self) -> Any:
        return self.db.reorganize()

    def walk(self) -> Any:
        """All keys by firstkey() and nextkey()."""
        keys = []
        key = self.db.firstkey()
        while key is not None:
            keys.append(key)
            key = self.db.nextkey(key)
        return sorted(keys)

    def equals_its_items(self) -> Any:
        return self.db == {key: self.db[key] for key in self.db.keys()}  # noqa: SIM118

    def enter(self) -> None:
        """A with statement, which closes."""
        with self.db as entered:
            assert entered is self.db

    def add_while_iterating(self) -> Any:
        """Add a key at each step; how many steps that was."""
        steps = 0
        for key in self.db:
            self.db[key + b"+%d" % steps] = b"added"
            steps += 1
            if steps == MANY:
                raise NoEnd
        return steps

    def delete_while_iterating(self) -> None:
        for key in self.db:
            del self.db[key]

    def iterate_after_close(self) -> Any:
        iterator = iter(self.db)
        self.db.close()
        return next(iterator, None) is not None

    def copy(self) -> None:
        copy.copy(self.db)

    def pickle(self) -> None:
        pickle.dumps(self.db)

    def second_writer(self) -> None:
        """Open it for writing while this handle is open."""
        self.module.open(self.path, "w").close()


def describe(operation: Operation, ours: Store, before: object) -> set[str]:
    """Words for what an operation is given, as the table uses them."""
    tags = {f"{role} {kind}" for role, value in roles(operation) for kind in kinds_of(value)}
    if any(tag.endswith(("of another type", "lone surrogate")) for tag in tags):
        tags.add("cannot be stored")
    if operation.name == "setdefault" and len(operation.arguments) == 1:
        tags.add("no default")
    if operation.name == "update" and not operation.arguments[0]:
        tags.add("nothing to write")
    if operation.name == "open":
        tags.add(f"flag {operation.arguments[0]}")
        tags.add(f"flag {kind_of_flag(operation.arguments[0])}")
        tags.add("nothing there" if not Path(ours.path).exists() else "something there")
    if before == "closed":
        tags.add("closed")
    elif isinstance(before, list):
        tags.add("empty" if not before else "not empty")
        tags.add("read-only" if ours.db.readonly else "writable")
        tags.add("without lock" if "u" in ours.flag else "with lock")
        if any(role == "key" for role, _ in roles(operation)):
            encoded = key_bytes(operation.arguments[0])
            tags.add("present" if encoded in dict(before) else "absent")
    return tags


def roles(operation: Operation) -> list[tuple[str, object]]:
    """The arguments of an operation, each with what it is."""
    name, arguments = operation.name, operation.arguments
    if name == "update":
        pairs = arguments[0].items() if isinstance(arguments[0], dict) else arguments[0]
        return [
            (role, part)
            for pair in pairs
            for role, part in zip(("key", "value"), pair, strict=True)
        ]
    if name == "open":
        return []
    meaning = ("key", "default" if name in ("get", "pop") else "value")
    return list(zip(meaning, arguments, strict=False))


def kinds_of(value: object) -> set[str]:
    if value in ("", b""):
        return {type(value).__name__, "empty"}
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return {"with a lone surrogate"}
        return {"str"}
    if isinstance(value, bytes):
        return {"bytes"}
    group = "buffer" if isinstance(value, (bytearray, memoryview)) else "of another type"
    return {type(value).__name__, group}


def kind_of_flag(flag: object) -> str:
    if not isinstance(flag, str):
        return "of another type"
    if flag[:1] in {"r", "w", "c", "n"} and set(flag[1:]) <= set("sfu"):
        return "with letters" if flag[1:] else "of one letter"
    return "unknown"


def key_bytes(key: object) -> bytes | None:
    if isinstance(key, str):
        return key.encode("utf-8", "surrogatepass")
    return bytes(key) if isinstance(key, (bytes, bytearray, memoryview)) else None


def standard_backends() -> dict[str, ModuleType]:
    found = {}
    for name in ("dumb", "gnu", "ndbm", "sqlite3"):
        with contextlib.suppress(ImportError):
            found[name] = importlib.import_module(f"dbm.{name}")
    return found


BACKENDS = standard_backends()


@dataclass(frozen=True)
class Step:
    """What one operation did on both sides."""

    operation: Operation
    tags: set[str]
    ours: Outcome
    theirs: Outcome
    excuses: list[Difference]
    parted: bool


def steps(backend: str, program: list[Operation], folder: Path) -> Iterator[Step]:
    """Run a program on both sides, until they have come to differ in what they hold."""
    (folder / "ours").mkdir()
    (folder / "theirs").mkdir()
    ours = Store(oblivion_dbm, folder / "ours" / "db")
    theirs = Store(BACKENDS[backend], folder / "theirs" / "db")
    try:
        for operation in program:
            before = ours.state()
            if before == "not open" and operation.name != "open":
                continue
            tags = describe(operation, ours, before)
            one, other = ours.run(operation), theirs.run(operation)
            parted = ours.state() != theirs.state()
            if parted and one == other:
                other = Outcome(other.label + OTHER, theirs.state())
            excuses = []
            if one != other:
                key = (backend, operation.name, tags, one.label, other.label)
                excuses = [row for row in DIFFERENCES if row.excuses(*key)]
            yield Step(operation, tags, one, other, excuses, parted)
            if parted:
                break
    finally:
        for store in (ours, theirs):
            with contextlib.suppress(Exception):
                store.close()


def explain(backend: str, step: Step) -> str:
    tags = ", ".join(sorted(step.tags))
    return f"{step.operation} ({tags}): ours {step.ours}, {backend} {step.theirs}"


def compare(backend: str, program: list[Operation]) -> None:
    """Fail at the first difference that no row of the table excuses."""
    with tempfile.TemporaryDirectory() as folder:
        for step in steps(backend, program, Path(folder)):
            assert step.ours == step.theirs or step.excuses, explain(backend, step)


KEYS = ["a", b"a", "b", b"b", "ä", b"\xc3\xa4", "", b"\0", b"\xff" * 40]
VALUES = ["x", b"y", "ß", b"", "", b"\0\xff", b"long " * 200]
ODD = [5, None, 1.5, "\ud800", bytearray(b"a"), memoryview(b"b"), (b"a",), True, [b"a"]]
FLAGS = ["r", "w", "c", "n", "c", "w"]
ODD_FLAGS = ["rw", "cf", "ns", "ru", "nfu", "x", "", "cx", "R", None, 5]

A_KEY = st.sampled_from(KEYS * 5 + ODD)
A_VALUE = st.sampled_from(VALUES * 7 + ODD)
PAIRS = st.lists(st.tuples(A_KEY, A_VALUE), max_size=3)
MAPPING = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), max_size=3)

# The calls that programs make: each with its arguments, and as often as it is named.
CALLS: list[tuple[str, list[st.SearchStrategy[Any]]]] = [
    ("open", [st.sampled_from(FLAGS * 3 + ODD_FLAGS)]),
    ("open", [st.sampled_from(FLAGS)]),
    ("get_item", [A_KEY]),
    *[("set_item", [A_KEY, A_VALUE])] * 6,
    *[("del_item", [A_KEY])] * 2,
    ("contains", [A_KEY]),
    ("get", [A_KEY]),
    ("get", [A_KEY, A_VALUE]),
    ("pop", [A_KEY]),
    ("pop", [A_KEY, A_VALUE]),
    ("setdefault", [A_KEY]),
    ("setdefault", [A_KEY, A_VALUE]),
    ("update", [PAIRS]),
    ("update", [MAPPING]),
    *[
        (name, [])
        for name in (
            *("length", "truth", "keys", "iterate", "items", "values", "drain", "clear", "sync"),
            *("reorganize", "walk", "equals_its_items", "enter", "close", "copy", "pickle"),
            *("add_while_iterating", "delete_while_iterating", "iterate_after_close"),
            "second_writer",
        )
    ],
]


def absent_from(backend: str) -> set[str]:
    """What a backend does not have at all: a row for it holds whatever it is given."""
    return {
        operation
        for row in DIFFERENCES
        for operation in row.operations
        if backend in row.backends and not row.given and row.ours == ANY
    }


def operations(backend: str) -> st.SearchStrategy[Operation]:
    absent = absent_from(backend)
    possible = [call for call in CALLS if call[0] not in absent]
    return st.sampled_from(possible).flatmap(
        lambda call: st.builds(Operation, st.just(call[0]), st.tuples(*call[1]))
    )


def is_sound(backend: str, operation: Operation) -> bool:
    """Whether what follows can be compared.

    Berkeley DB, which Debian's ndbm is made of, keeps empty keys and values at
    times and at times does not; the table has rows for that.
    """
    if backend != "ndbm":
        return True
    made_empty = operation.name == "setdefault" and len(operation.arguments) == 1
    return not made_empty and not any("empty" in kinds_of(part) for _, part in roles(operation))


def programs(backend: str) -> st.SearchStrategy[list[Operation]]:
    first = st.builds(Operation, st.just("open"), st.tuples(st.sampled_from(["c", "n", "c", "r"])))
    sound = operations(backend).filter(lambda operation: is_sound(backend, operation))
    rest = st.lists(sound, max_size=30)
    last = [Operation("open", ("r",)), Operation("keys")]
    return st.builds(lambda head, body: [head, *body, *last], first, rest)


@pytest.mark.parametrize("backend", sorted(BACKENDS))
@hypothesis.given(data=st.data())
def test_we_do_what_the_standard_backend_does(backend: str, data: st.DataObject) -> None:
    compare(backend, data.draw(programs(backend)))


def parse(program: str) -> list[Operation]:
    """Read a program of the table: calls of operations, with ``;`` between them."""
    names = {name: (lambda *arguments, name=name: Operation(name, arguments)) for name, _ in CALLS}
    return [eval(call, dict(names)) for call in program.split(";")]


ROWS_FOR_THIS_PYTHON = [row for row in DIFFERENCES if row.backends & set(BACKENDS)]


@pytest.mark.parametrize("row", ROWS_FOR_THIS_PYTHON, ids=lambda row: row.programs)
def test_a_row_of_the_table_is_true(row: Difference) -> None:
    here = sorted(row.backends & set(BACKENDS))
    programs = [parse(program) for program in row.programs.split("//")]
    for backend, program in itertools.product(here, programs):
        with tempfile.TemporaryDirectory() as folder:
            *earlier, last = steps(backend, program, Path(folder))
        assert last.operation == program[-1], explain(backend, last)
        assert all(step.ours == step.theirs for step in earlier)
        assert last.ours != last.theirs, f"{backend} does the same by now: {last}"
        assert last.excuses == [row], explain(backend, last)


@pytest.mark.parametrize("row", DIFFERENCES, ids=lambda row: row.programs)
def test_a_row_shows_each_of_its_operations(row: Difference) -> None:
    assert row.backends <= {"dumb", "gnu", "ndbm", "sqlite3"}
    programs = [parse(program) for program in row.programs.split("//")]
    assert {program[-1].name for program in programs} == row.operations
