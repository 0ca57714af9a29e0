"""Transactions: each is one step, or it conflicts and is none."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import oblivion_dbm
from oblivion_dbm import ConflictError, Database, error
from oblivion_dbm.mapping import OrderedMapping
from oblivion_dbm.transaction import Transaction


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    with Database(tmp_path / "store") as db:
        db.update({b"%02d" % number: b"old" for number in range(0, 20, 2)})
        yield db


def in_one(db: Any, *calls: Callable[[Any], object]) -> None:
    with db.transaction() as t:
        for call in calls:
            call(t)


# Writing and seeing.


def test_nothing_shows_before_the_end_and_all_of_it_after(db: Database) -> None:
    before = dict(db)
    with db.transaction() as t:
        t["00"] = "new"
        t["01"] = "new"
        del t["02"]
        expected = {**before, b"00": b"new", b"01": b"new"}
        del expected[b"02"]
        assert dict(t) == expected
        assert (t["00"], t.get("02"), "01" in t, "02" in t) == (b"new", None, True, False)
        assert len(t) == len(expected)
        assert (t.first(), t.last()) == ((b"00", b"new"), (b"18", b"old"))
        assert t.keys() == sorted(expected)
        assert list(t.values()) == [value for _, value in sorted(expected.items())]
        assert list(t.scan(reverse=True)) == sorted(expected.items(), reverse=True)
        assert list(t["01":"05"]) == [(b"01", b"new"), (b"04", b"old")]
        assert t.nextkey("01") == b"04"
        assert t.get_many(["00", "02"]) == [b"new", None]
        assert dict(db) == before
    assert dict(db) == expected


def test_the_whole_of_it_is_one_record(db: Database) -> None:
    before = db.sequence
    with db.transaction() as t:
        t["a"] = "1"
    one = db.sequence - before
    with db.transaction() as t:
        t["a"], t["b"] = "1", "2"
    assert db.sequence - before < 3 * one


def test_all_that_a_mapping_can_do_works_inside(db: Database) -> None:
    with db.transaction() as t:
        assert t.pop("00") == b"old"
        assert t.pop("00", None) is None
        with pytest.raises(KeyError) as caught:
            t.pop("00")
        assert caught.value.args == ("00",)
        with pytest.raises(KeyError):
            del t["00"]
        assert t.setdefault("00", "default") == b"default"
        assert t.popitem() == (b"00", b"default")
        t.update(zip("abc", "123"))
        with t.batch() as batch:
            batch["d"] = "4"
            del batch["a"]
            assert "d" not in t
        t.load([("e", "5")])
        del t["02":"16"]
        with pytest.raises(TypeError, match="range"):
            t["a":"b"] = "x"
        wrong: Any
        for wrong in (5, None):
            with pytest.raises(TypeError):
                t[wrong] = "x"
            with pytest.raises(TypeError):
                t["x"] = wrong
        view = t.prefixed("1")
        assert dict(view) == {b"6": b"old", b"8": b"old"}
        view.clear()
        view["7"] = "new"
    assert dict(db) == {b"b": b"2", b"c": b"3", b"d": b"4", b"e": b"5", b"17": b"new"}


def test_a_clear_drops_all_that_was_there_and_is_one_step_with_what_follows(db: Database) -> None:
    with db.transaction() as t:
        t["dropped"] = "1"
        t.clear()
        assert (len(t), list(t), t.get("00"), bool(t)) == (0, [], None, False)
        t["kept"] = "2"
        assert dict(t) == {b"kept": b"2"}
        assert len(t) == 1
        assert len(db) == 10
    assert dict(db) == {b"kept": b"2"}


def test_iterators_show_the_state_at_their_start(db: Database) -> None:
    with db.transaction() as t:
        t["01"] = "new"
        begun = t.scan()
        first = next(begun)
        for key in t:
            del t[key]
        t["03"] = "new"
        assert [first, *begun] == [
            (b"00", b"old"),
            (b"01", b"new"),
            *[(b"%02d" % n, b"old") for n in range(2, 20, 2)],
        ]
        assert dict(t) == {b"03": b"new"}
    assert dict(db) == {b"03": b"new"}


# The end.


def test_an_exception_rolls_back(db: Database) -> None:
    before = dict(db)
    begun: list[Transaction] = []

    def clear_and_raise(t: Transaction) -> None:
        begun.append(t)
        t.clear()
        raise InterruptedError

    with pytest.raises(InterruptedError):
        in_one(db, clear_and_raise)
    assert dict(db) == before
    assert begun[0].closed


def test_commit_and_rollback_may_be_called_inside_the_block(db: Database) -> None:
    with db.transaction() as t:
        t["a"] = "1"
        t.commit()
        assert db["a"] == b"1"
    with db.transaction() as t:
        t["a"] = "2"
        t.rollback()
        t.rollback()
    assert db["a"] == b"1"


def test_commit_and_rollback_work_without_a_block(db: Database) -> None:
    t = db.transaction()
    t["a"] = "1"
    t.commit()
    assert db["a"] == b"1"
    t = db.transaction()
    t["a"] = "2"
    t.rollback()
    assert db["a"] == b"1"


USES: dict[str, Callable[[Any], object]] = {
    "read": lambda t: t["a"],
    "get": lambda t: t.get("own"),
    "in": lambda t: "a" in t,
    "len": len,
    "put": lambda t: t.__setitem__("a", "1"),
    "delete": lambda t: t.__delitem__("a"),
    "delete a range": lambda t: t.__delitem__(slice("a", "b")),
    "scan": lambda t: list(t.scan()),
    "keys": lambda t: t.keys(),
    "values": lambda t: list(t.values()),
    "first": lambda t: t.first(),
    "bool": bool,
    "clear": lambda t: t.clear(),
    "batch": lambda t: t.batch(),
    "commit": lambda t: t.commit(),
    "enter": lambda t: t.__enter__(),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_after_its_end_every_use_raises_value_error(db: Database, use: str, end: str) -> None:
    t = db.transaction()
    t["own"] = "1"
    begun = t.scan()
    next(begun)
    assert repr(t) == f"<Transaction on {db!r}>"
    getattr(t, end)()
    assert "ended" in repr(t)
    with pytest.raises(ValueError, match="ended"):
        next(begun)
    with pytest.raises(ValueError, match="ended"):
        USES[use](t)


@pytest.mark.parametrize("use", USES)
def test_after_the_end_of_the_database_every_use_raises_error(db: Database, use: str) -> None:
    t = db.transaction()
    t["own"] = "1"
    begun = t.scan()
    next(begun)
    db.close()
    with pytest.raises(error, match="closed"):
        next(begun)
    with pytest.raises(error, match="closed"):
        USES[use](t)
    assert t.closed


def test_a_transaction_cannot_be_copied_nested_or_frozen(db: Database) -> None:
    with db.transaction() as t:
        for function in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="Transaction"):
                function(t)
        with pytest.raises(TypeError, match="Transaction"):
            t.transaction()
        with pytest.raises(TypeError, match="Transaction"):
            t.snapshot()


def test_a_prefixed_view_has_transactions_of_its_own(db: Database) -> None:
    names = db.prefixed("names/").prefixed("first/")
    with names.transaction() as t:
        t["a"] = "1"
        assert dict(t) == {b"a": b"1"}
        assert len(names) == 0
    assert db["names/first/a"] == b"1"
    with pytest.raises(ConflictError):
        in_one(names, lambda _: names.update({"a": "2"}), lambda t: t.update({"a": "3"}))
    assert names["a"] == b"2"


def forget(held: list[Transaction]) -> None:
    held.clear()
    gc.collect()


def test_a_forgotten_transaction_is_rolled_back_and_says_so(db: Database) -> None:
    held = [db.transaction()]
    held[0]["a"] = "1"
    with pytest.warns(ResourceWarning, match="neither committed nor rolled back"):
        forget(held)
    assert "a" not in db


def test_a_reader_s_transaction_reads_and_refuses_to_commit_a_write(db: Database) -> None:
    with Database(db.path, "r") as reader:
        with reader.transaction() as t:
            db["00"] = "changed"
            assert t["00"] == b"old"
            assert reader["00"] == b"changed"
        with pytest.raises(error, match="reading only"):
            in_one(reader, lambda t: t.update({"00": "x"}))


# Conflicts.

READS: dict[str, tuple[Callable[[Transaction], object], set[bytes], set[bytes]]] = {
    # what is read, keys whose change is a conflict, keys whose change is none
    "get": (lambda t: t.get("04"), {b"04"}, {b"03", b"05"}),
    "absent": (lambda t: "05" in t, {b"05"}, {b"04", b"06"}),
    "first": (lambda t: t.first(), {b"", b"00"}, {b"01", b"02"}),
    "last": (lambda t: t.last(), {b"18", b"19"}, {b"17", b"16"}),
    "slice": (lambda t: list(t["04":"08"]), {b"04", b"05", b"07"}, {b"03", b"08", b"09"}),
    "part": (lambda t: list(islice(t["04":], 2)), {b"04", b"05", b"06"}, {b"03", b"07", b"08"}),
    "part, reverse": (
        lambda t: list(islice(t.scan(stop="08", reverse=True), 2)),
        {b"04", b"05", b"07"},
        {b"03", b"02", b"08", b"09"},
    ),
    "nextkey": (lambda t: t.nextkey("04"), {b"04", b"05", b"06"}, {b"03", b"07"}),
    "all": (dict, {b"", b"04", b"05", b"99"}, set()),
    "begun": (lambda t: t.scan(), set(), {b"00", b"04"}),
    "nothing": (lambda t: list(t["05":"06"]), {b"05"}, {b"04", b"06"}),
    "len": (len, {b"05"}, {b"04"}),
    "put": (lambda t: t.put_many({"04": "x"}), {b"04"}, {b"03", b"05"}),
    "clear": (lambda t: t.clear(), {b"", b"04", b"99"}, set()),
    "delete a range": (lambda t: t.__delitem__(slice("04", "08")), {b"04", b"05"}, {b"08"}),
}


def change(db: Database, key: bytes) -> None:
    """Change a key, from a table too, so that no path is spared."""
    db[key] = b"changed by another"
    db.flush()


@pytest.mark.parametrize("how", READS)
@pytest.mark.parametrize("conflicts", [True, False])
def test_what_was_read_or_written_conflicts_and_nothing_else(
    db: Database, how: str, conflicts: bool
) -> None:
    read, touching, apart = READS[how]
    for key in touching if conflicts else apart:
        t = db.transaction()
        kept = read(t)
        t["written"] = b"by " + key
        change(db, key)
        if conflicts:
            with pytest.raises(ConflictError, match="again") as caught:
                t.commit()
            assert caught.value.key == (None if how == "len" else key)
            assert "written" not in db
        else:
            t.commit()
            assert db["written"] == b"by " + key
        assert t.closed
        del kept, db[b"written":b"written\0"], db[b"":b"\0"]
        db.clear()
        db.update({b"%02d" % number: b"old" for number in range(0, 20, 2)})


def test_a_key_that_was_deleted_conflicts(db: Database) -> None:
    with pytest.raises(ConflictError) as caught:
        in_one(db, lambda t: t.update({"a": t["04"]}), lambda _: db.pop("04"))
    assert caught.value.key == b"04"
    assert repr(b"04") in str(caught.value)


def test_a_value_that_was_put_back_is_no_conflict(db: Database) -> None:
    with db.transaction() as t:
        t["a"] = t["04"]
        list(t.scan())
        len(t)
        db["04"] = "changed"
        db["05"] = "new"
        del db["05"]
        db["04"] = "old"
    assert db["a"] == b"old"


def test_reading_alone_never_conflicts_and_writes_nothing(db: Database) -> None:
    with db.transaction() as t:
        before = dict(t)
        db.clear()
        sequence = db.sequence
        assert dict(t) == before
    assert db.sequence == sequence


def test_what_a_transaction_wrote_itself_is_not_read_from_the_store(db: Database) -> None:
    with db.transaction() as t:
        t.clear()
        t["a"] = "1"
        list(t.scan())
        len(t)
        assert t.get("04") is None
    with pytest.raises(ConflictError):
        in_one(db, lambda t: t.update({"a": "2"}), lambda _: db.update({"a": "3"}))
    assert db["a"] == b"3"


def test_many_small_walks_are_remembered_as_few_ranges(db: Database) -> None:
    db.update({b"%05d" % number: b"" for number in range(1000)})
    with db.transaction() as t:
        for _ in range(900):
            t.popitem()
        assert len(t._overlay._ranges) < 200
        db["00950"] = "not reached"
    assert "00950" in db
    with pytest.raises(ConflictError):
        in_one(
            db,
            lambda t: [t.popitem() for _ in range(50)],
            lambda _: db.update({"009": "in the midst"}),
        )


def test_a_large_key_is_not_shown_whole() -> None:
    assert len(str(ConflictError(bytes(10**6)))) < 1000
    twin = pickle.loads(pickle.dumps(ConflictError(b"key")))
    assert (twin.key, str(twin)) == (b"key", str(ConflictError(b"key")))
    assert "number of keys" in str(ConflictError(None))
    assert oblivion_dbm.ConflictError is ConflictError
    assert issubclass(ConflictError, error)


def test_transfers_between_threads_lose_nothing(db: Database) -> None:
    accounts = [b"a", b"b", b"c"]
    db.update(dict.fromkeys(accounts, b"100"))
    conflicts: list[ConflictError] = []

    def transfer(number: int) -> None:
        source, target = accounts[number % 3], accounts[(number + 1) % 3]
        for amount in range(40):
            while True:
                try:
                    with db.transaction() as t:
                        t[source] = b"%d" % (int(t[source]) - amount)
                        t[target] = b"%d" % (int(t[target]) + amount)
                    break
                except ConflictError as problem:
                    conflicts.append(problem)

    threads = [threading.Thread(target=transfer, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(int(db[account]) for account in accounts) == 300


# Transactions against a serial model.

KEYS = st.integers(0, 4).map(lambda number: b"%d" % number)
BOUNDS = st.one_of(st.none(), KEYS)
OPERATIONS = st.one_of(
    st.tuples(st.just("get"), KEYS),
    st.tuples(st.just("put"), KEYS, st.sampled_from([b"x", b"y"])),
    st.tuples(st.just("discard"), KEYS),
    st.tuples(st.just("scan"), BOUNDS, BOUNDS, st.booleans(), st.integers(1, 9)),
    st.tuples(st.just("delete range"), BOUNDS, BOUNDS),
    st.tuples(st.just("popitem")),
    st.tuples(st.just("len")),
    st.tuples(st.just("clear")),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.integers(0, 1), OPERATIONS),
        st.tuples(st.integers(0, 1), OPERATIONS),
        st.tuples(st.integers(0, 1), st.sampled_from(["commit", "write and commit", "rollback"])),
        st.tuples(st.none(), KEYS, st.sampled_from([None, b"x", b"y"])),
        st.sampled_from(["flush", "clear"]),
    ),
    max_size=30,
)
Model = dict[bytes, bytes]


def on_store(t: OrderedMapping, operation: tuple[Any, ...]) -> object:
    """Do one operation in a transaction and return what it lets one see."""
    name, *given = operation
    if name == "get":
        return t.get(given[0])
    if name == "put":
        t[given[0]] = given[1]
    elif name == "discard":
        return t.pop(given[0], None)
    elif name == "scan":
        start, stop, reverse, count = given
        return list(islice(t.scan(start=start, stop=stop, reverse=reverse), count))
    elif name == "delete range":
        del t[given[0] : given[1]]
    elif name == "popitem":
        with suppress(KeyError):
            return t.popitem()
    elif name == "len":
        return len(t)
    else:
        t.clear()
    return None


def on_model(model: Model, operation: tuple[Any, ...], written: set[bytes]) -> object:
    """Do the same on a dict; add the keys that are written."""
    name, *given = operation
    seen: object = None
    before = dict(model)
    if name == "get":
        return model.get(given[0])
    if name == "put":
        written.add(given[0])
        model[given[0]] = given[1]
        return None
    if name == "discard":
        seen = model.pop(given[0], None)
    elif name == "scan":
        start, stop, reverse, count = given
        return sorted(inside(model, start, stop).items(), reverse=reverse)[:count]
    elif name == "delete range":
        for key in inside(model, *given):
            del model[key]
        seen = sorted(inside(before, *given).items())
    elif name == "popitem" and model:
        key = min(model)
        seen = key, model.pop(key)
    elif name == "len":
        return len(model)
    elif name == "clear":
        model.clear()
        return None
    written.update(before.keys() - model.keys())
    return seen


def inside(model: Model, start: bytes | None, stop: bytes | None) -> Model:
    return {k: v for k, v in model.items() if (start or b"") <= k and (stop is None or k < stop)}


class Serial:
    """What a transaction does, written down, to be done again at its commit."""

    def __init__(self, t: Transaction, base: Model) -> None:
        self.t = t
        self.base = base
        self.own = dict(base)
        self.written: set[bytes] = set()
        self.cleared = False
        self.log: list[tuple[tuple[Any, ...], object]] = []

    def do(self, operation: tuple[Any, ...]) -> None:
        seen = on_model(self.own, operation, self.written)
        found = on_store(self.t, operation)
        assert operation[0] == "delete range" or found == seen
        self.cleared = self.cleared or operation[0] == "clear"
        self.log.append((operation, seen))

    def conflicts_with(self, now: Model) -> bool:
        """Tell whether it would have seen something else now, or writes over something else."""
        if not self.written and not self.cleared:
            return False
        if self.cleared and now != self.base:
            return True
        again = dict(now)
        return any(now.get(key) != self.base.get(key) for key in self.written) or any(
            on_model(again, operation, set()) != seen for operation, seen in self.log
        )


class Interleaving:
    """A store, the dict it must equal, and the transactions that are open."""

    def __init__(self, db: Database, model: Model) -> None:
        self.db = db
        self.model = model
        self.open: dict[int, Serial] = {}
        db.update(model)

    def step(self, who: Any, *what: Any) -> None:
        if who == "clear":
            self.db.clear()
            self.model.clear()
        elif who == "flush":
            self.db.flush()
        elif who is None:
            self.write(*what)
        elif what == ("rollback",):
            if who in self.open:
                self.open.pop(who).t.rollback()
        elif "commit" in what[0]:
            if who in self.open:
                self.commit(self.open.pop(who), *what)
        else:
            if who not in self.open:
                self.open[who] = Serial(self.db.transaction(), dict(self.model))
            self.open[who].do(what[0])

    def write(self, key: bytes, value: bytes | None) -> None:
        if value is None:
            self.db.pop(key, None)
            self.model.pop(key, None)
        else:
            self.db[key] = self.model[key] = value

    def commit(self, serial: Serial, how: str) -> None:
        if how == "write and commit":
            serial.do(("put", b"written", b"x"))
        if serial.conflicts_with(self.model):
            with pytest.raises(ConflictError):
                serial.t.commit()
            return
        serial.t.commit()
        if serial.cleared:
            self.model.clear()
        for key in serial.written:
            self.model.pop(key, None)
        own = ((key, serial.own.get(key)) for key in serial.written)
        self.model.update((key, value) for key, value in own if value is not None)


@given(st.dictionaries(KEYS, st.sampled_from([b"x", b"y"])), STEPS)
@example(
    {b"1": b"x"},
    [
        (0, ("scan", None, None, False, 9)),
        (0, ("put", b"2", b"y")),
        (None, b"3", b"x"),
        (0, "commit"),
    ],
)
def test_interleaved_transactions_are_serial_and_conflict_when_they_must(
    tmp_path_factory: pytest.TempPathFactory, model: Model, steps: list[Any]
) -> None:
    with Database(tmp_path_factory.mktemp("store"), sync="off") as db:
        interleaving = Interleaving(db, model)
        for step in steps:
            interleaving.step(*step if isinstance(step, tuple) else (step,))
            assert dict(db) == model
        for serial in interleaving.open.values():
            serial.t.rollback()
