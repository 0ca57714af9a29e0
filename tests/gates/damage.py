"""Whatever happens to the bytes of a store, what it says is right, or it is an error.

A trial copies a prepared store, damages one thing (a byte, a block, a length, a whole
file), and then asks for everything in every way: by key, by range, backwards, by count,
after a compaction, and once more after that.  Each answer is the right one or an ``error``;
all answers of a handle are those of one state.  Trials limit the memory and the time of
their process, so that a crash or a hang is the failure of one of them.

``python tests/gates/damage.py NUMBER ...`` repeats single damages.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import sys
import tempfile
from bisect import bisect_left
from collections.abc import Callable, Iterable
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gates.prepared import LATER, MAKERS, SMALL, WRITTEN, Files, Prepared, State, prepared
from oblivion_dbm import CorruptionError, error
from oblivion_dbm.engine.filesystem import FileSystem
from oblivion_dbm.engine.options import Options
from oblivion_dbm.engine.storage_engine import StorageEngine, open_store
from oblivion_dbm.engine.verify import verify

#: What a damage may take: seconds, and bytes beyond what the process has already.
SECONDS, MEMORY = 20, 1 << 29
#: Damages of a trial.
BATCH = 50
BLOCK = 4096

# The damage.


class Damaged:
    """Files with one thing wrong; the states that may be read; what was done."""

    def __init__(self, store: Prepared, system: FileSystem) -> None:
        self.store = store
        self.system = system
        self.files: Files = dict(store.files)
        self.states = [store.states[-1]]
        if store.unsynced and system is LATER:
            # What was not synced may end anywhere once the machine has started anew.
            self.states = store.states[store.synced :]
        self.what = "nothing"

    def replace(self, name: str, data: bytes, what: str) -> None:
        self.files[name] = data
        self.what = f"{name}: {what}"


def change_byte(damaged: Damaged, dice: random.Random) -> None:
    name = dice.choice(sorted(damaged.files))
    data = damaged.files[name]
    if not data:
        return
    at = dice.randrange(len(data))
    if dice.random() < 0.5:  # not among the zeros that fill most of some files
        used = [place for place, byte in enumerate(data) if byte]
        at = dice.choice(used or [at])
    how = dice.choice(["flipped", "zeroed", "random"])
    new = {"flipped": data[at] ^ 1 << dice.randrange(8), "zeroed": 0}.get(how, dice.randrange(256))
    damaged.replace(name, data[:at] + bytes([new]) + data[at + 1 :], f"byte {at} {how}: {new}")


def truncate(damaged: Damaged, dice: random.Random) -> None:
    name = dice.choice(sorted(damaged.files))
    length = dice.randrange(len(damaged.files[name]) + 1)
    damaged.replace(name, damaged.files[name][:length], f"cut to {length} bytes")


def extend(damaged: Damaged, dice: random.Random) -> None:
    name = dice.choice(sorted(damaged.files))
    more = dice.randbytes(dice.randrange(1, 3 * BLOCK))
    if dice.random() < 0.5:
        more = bytes(len(more))
    damaged.replace(name, damaged.files[name] + more, f"{len(more)} bytes more")


def change_block(damaged: Damaged, dice: random.Random) -> None:
    names = [name for name, data in damaged.files.items() if len(data) > BLOCK]
    name = dice.choice(sorted(names))
    data = bytearray(damaged.files[name])
    blocks = range(-(-len(data) // BLOCK))
    used = [at for at in blocks if any(data[at * BLOCK : (at + 1) * BLOCK])]
    if dice.random() < 0.7 and len(used) > 1:  # and not among the zeros behind a log
        blocks = blocks[: used[-1] + 2]
    one, other = (at * BLOCK for at in dice.sample(blocks, 2))
    first, second = bytes(data[one : one + BLOCK]), bytes(data[other : other + BLOCK])
    how = dice.choice(["zeroed", "swapped", "doubled"])
    if how == "zeroed":
        data[one : one + BLOCK] = bytes(len(first))
    else:
        data[other : other + BLOCK] = first[: len(second)]
    if how == "swapped":
        data[one : one + BLOCK] = second[: len(first)].ljust(len(first), b"\0")
    damaged.replace(name, bytes(data), f"block at {one} {how} (with that at {other})")


def exchange(damaged: Damaged, dice: random.Random) -> None:
    one, other = dice.sample(sorted(damaged.files), 2)
    files = damaged.files
    files[one], files[other] = files[other], files[one]
    damaged.what = f"{one} and {other} exchanged"


def lose(damaged: Damaged, dice: random.Random) -> None:
    name = dice.choice(sorted(damaged.files))
    del damaged.files[name]
    damaged.what = f"{name} missing"


def put_back(damaged: Damaged, dice: random.Random) -> None:
    """Replace a file by what it was earlier; a log alone tells how long it is."""
    store = damaged.store
    older = [
        (name, files[name], state)
        for files, state in store.captures
        for name in sorted(store.files)
        if files.get(name, store.files[name]) != store.files[name]
    ]
    if older:
        name, data, state = dice.choice(older)
        damaged.replace(name, data, f"as it was in state {state}")
        if name == store.live_log:
            damaged.states = [*damaged.states, *store.states[state : state + 1]]


KINDS: list[tuple[Callable[[Damaged, random.Random], None], int]] = [
    (change_byte, 10),
    (truncate, 3),
    (extend, 1),
    (change_block, 5),
    (exchange, 2),
    (lose, 1),
    (put_back, 5),
]


def damage(seed: int) -> Damaged:
    """Return what one seed makes."""
    dice = random.Random(seed)
    store = prepared(dice.randrange(len(MAKERS)))
    damaged = Damaged(store, dice.choice([WRITTEN, LATER]))
    kinds, weights = zip(*KINDS)
    dice.choices(kinds, weights)[0](damaged, dice)
    return damaged


# What is asked.


class Oracle:
    """Compares answers with the states that are allowed, of which fewer and fewer are left."""

    def __init__(self, states: Iterable[State]) -> None:
        self.states = list(states)
        self.errors: list[error] = []

    def ask(self, question: str, call: Callable[[], Any], right: Callable[[State], Any]) -> None:
        """Ask a question; note the error, or keep the states that it is the answer of."""
        try:
            answer = call()
        except error as problem:
            self.errors.append(problem)
            return
        left = [state for state in self.states if right(state) == answer]
        if not left:
            expected = [right(state) for state in self.states[-1:]]
            raise AssertionError(f"{question}: found {answer!r:.300}, expected {expected!r:.300}")
        self.states = left

    def ask_for_keys(self, engine: StorageEngine, keys: Iterable[bytes]) -> None:
        for key in keys:
            self.ask(f"get {key!r:.60}", partial(engine.value, key), methodcaller("get", key))

    def ask_for_range(
        self, engine: StorageEngine, start: bytes | None, stop: bytes | None, reverse: bool
    ) -> None:
        def right(state: State) -> list[tuple[bytes, bytes]]:
            keys = in_order(state)
            low = 0 if start is None else bisect_left(keys, start)
            high = len(keys) if stop is None else bisect_left(keys, stop)
            part = keys[low:high]
            return [(key, state[key]) for key in (reversed(part) if reverse else part)]

        self.ask(
            f"scan from {start!r:.60} to {stop!r:.60}",
            lambda: list(engine.scan("pairs", start, stop, reverse)),
            right,
        )


def in_order(state: State) -> list[bytes]:
    """Return the keys of a state, sorted once only."""
    kept, keys = _sorted.get(id(state), (None, []))
    if kept is not state:
        keys = sorted(state)
        _sorted[id(state)] = state, keys
    return keys


_sorted: dict[int, tuple[State, list[bytes]]] = {}


def absent(keys: list[bytes]) -> list[bytes]:
    """Return keys that never were, near those that are."""
    return [
        b"\0",
        b"zzz",
        *(key + b"\0" for key in keys[::7]),
        *(key[:-1] + b"~" for key in keys[::9]),
    ]


def read_all(engine: StorageEngine, oracle: Oracle, keys: list[bytes], dice: random.Random) -> None:
    """Ask for everything, in an order that differs from seed to seed."""
    bounds = sorted(dice.sample(keys, 2))
    ways: list[Callable[[], None]] = [
        lambda: oracle.ask_for_keys(engine, keys),
        lambda: oracle.ask_for_keys(engine, absent(keys)),
        lambda: oracle.ask("len", engine.count, len),
        lambda: oracle.ask("first", engine.first, lambda state: min(state, default=None)),
    ]
    for start, stop in ((None, None), bounds, (bounds[0], None), (None, bounds[1])):
        ways += [partial(oracle.ask_for_range, engine, start, stop, way) for way in (False, True)]
    dice.shuffle(ways)
    if len(oracle.states) > 2:  # one answer tells most of them from the right one
        oracle.ask_for_range(engine, None, None, False)
    for way in ways:
        way()


def reopen(
    path: str, flag: str, damaged: Damaged, oracle: Oracle, **options: Any
) -> StorageEngine | None:
    """Return the store opened, or note the error."""
    settings = Options(background=False, **options)
    try:
        return open_store(path, flag, settings, 0o666, damaged.system)
    except error as problem:
        oracle.errors.append(problem)
        return None


def check_reading(path: str, damaged: Damaged, dice: random.Random) -> None:
    """Open for reading and ask for everything; ``verify`` tells of damage that reading finds."""
    oracle = Oracle(damaged.states)
    findings = verify(path, damaged.system) if os.path.exists(path + "/MANIFEST") else []
    engine = reopen(path, "r", damaged, oracle, read_ahead=dice.random() < 0.3)
    if engine is not None:
        read_all(engine, oracle, damaged.store.keys, dice)
        engine.close()
    if any(isinstance(problem, CorruptionError) for problem in oracle.errors):
        assert findings, f"verify finds nothing where reading does: {oracle.errors}"


def check_writing(path: str, damaged: Damaged, dice: random.Random) -> None:
    """Open for writing, write, merge; ask for everything before and after."""
    oracle = Oracle(damaged.states)
    engine = reopen(path, "w", damaged, oracle, log_back_end="pwrite")
    if engine is None:
        return
    keys = damaged.store.keys
    if dice.random() < 0.5:
        read_all(engine, oracle, keys, dice)
    try:
        engine.put(b"written later", b"value")
        oracle.states = [{**state, b"written later": b"value"} for state in oracle.states]
    except error as problem:
        oracle.errors.append(problem)
        engine.close()
        return
    oracle.ask("compact", engine.compact, lambda _: None)
    read_all(engine, oracle, keys, dice)
    engine.close()
    if not oracle.errors:
        # Nobody makes a LOCK shorter that somebody else has made longer.
        left = [finding for finding in verify(path, damaged.system) if "LOCK" not in finding.file]
        assert left == []
    engine = reopen(path, "r", damaged, oracle)
    if engine is not None:
        oracle.ask_for_range(engine, None, None, False)
        oracle.ask("len", engine.count, len)
        engine.close()


def describe(damaged: Damaged) -> str:
    """Say which store was damaged how, and when it is opened."""
    boot = "the boot that wrote it" if damaged.system is WRITTEN else "another boot"
    return f"{damaged.store.name}, opened in {boot}; {damaged.what}"


def check(seed: int, folder: str) -> None:
    """Damage a store in ``folder`` and read it in every way.

    Raises whatever an engine must not raise, and AssertionError for a wrong answer.
    """
    damaged, dice = damage(seed), random.Random(~seed)
    try:
        for number, look in enumerate((check_reading, check_writing)):
            path = f"{folder}/{seed}-{number}"
            write_files(path, damaged.files)
            look(path, damaged, dice)
            shutil.rmtree(path)
    except BaseException as problem:
        raise AssertionError(f"damage {seed}: {describe(damaged)}: {problem!r}") from problem


def trial(seed: int, folder: str, size: str) -> int:
    """Make some damages, each of a number of its own; return how many.

    Memory and time of this process are limited, so a hang or a crash is its end.
    """
    for number in range(len(MAKERS)):
        prepared(number)
    limit_memory()
    for number in range(BATCH * seed, BATCH * (seed + 1)):
        print("damage", number, flush=True)
        signal.alarm(SECONDS)
        check(number, folder)
    signal.alarm(0)
    return BATCH


def trial_of_bytes(seed: int, folder: str, size: str) -> int:
    """Change some of the bytes of a store of three levels three ways each, and read all of it.

    Each seed has its share of all bytes, one here and one there; returns how many changes.
    """
    store = prepared(SMALL)
    places = [(name, at) for name in sorted(store.files) for at in range(len(store.files[name]))]
    limit_memory()
    changes = 0
    for name, at in places[seed :: byte_seeds()]:
        for new in changed(store.files[name], at):
            data = store.files[name]
            damaged = Damaged(store, (WRITTEN, LATER)[at % 2])
            damaged.replace(name, data[:at] + bytes([new]) + data[at + 1 :], f"byte {at}: {new}")
            signal.alarm(SECONDS)
            try:
                check_byte(f"{folder}/{changes}", damaged, name)
            except BaseException as problem:
                raise AssertionError(f"{describe(damaged)}: {problem!r}") from problem
            changes += 1
    signal.alarm(0)
    return changes


def byte_seeds() -> int:
    """Return how many trials change all bytes, some 30 each."""
    return sum(map(len, prepared(SMALL).files.values())) // 30


def changed(data: bytes, at: int) -> list[int]:
    """Return what a byte is changed to."""
    return sorted({data[at] ^ 1 << at % 8, 0, at * 0x9D & 0xFF} - {data[at]})


def check_byte(path: str, damaged: Damaged, name: str) -> None:
    """Check that verify finds a changed byte, and that every answer is right or an error."""
    write_files(path, damaged.files)
    if name != "LOCK":  # which nothing depends on
        findings = verify(path, damaged.system)
        assert any(finding.file == f"{path}/{name}" for finding in findings), "verify misses it"
    dice = random.Random(path)
    check_reading(path, damaged, dice)
    check_writing(path, damaged, dice)
    shutil.rmtree(path)


def synced_files(store: Prepared, system: FileSystem) -> list[str]:
    """Return the names of the files every byte of which must be as it was written.

    Nothing depends on LOCK, and what was not synced may be lost with the machine.
    """
    lost = {store.live_log} if store.unsynced and system is LATER else set()
    return sorted(set(store.files) - lost - {"LOCK"})


def missed_bytes(
    path: str, whole: bytes, name: str, places: Iterable[int], system: FileSystem
) -> list[str]:
    """Change bytes of one file three ways, one at a time; return what ``verify`` does not find."""
    missed = []
    file = f"{path}/{name}"
    for at in places:
        for new in changed(whole, at):
            with open(file, "r+b") as damaged:
                damaged.seek(at)
                damaged.write(bytes([new]))
            if not any(finding.file == file for finding in verify(path, system)):
                missed.append(f"{name}: byte {at}, {whole[at]} changed to {new}")
        with open(file, "r+b") as damaged:
            damaged.seek(at)
            damaged.write(whole[at : at + 1])
    return missed


def write_files(path: str, files: Files) -> None:
    os.mkdir(path)
    for name, data in files.items():
        with open(f"{path}/{name}", "wb") as file:
            file.write(data)


# Many trials, in children.


def limit_memory() -> None:
    """Let an allocation that is out of all proportion fail."""
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))


def main(seeds: Iterable[str]) -> None:
    """Repeat damages in this process, and say what each of them is."""
    for seed in map(int, seeds):
        print(seed, describe(damage(seed)))
        with tempfile.TemporaryDirectory() as folder:
            check(seed, folder)


if __name__ == "__main__":
    main(sys.argv[1:])
