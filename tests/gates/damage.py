"""Whatever happens to the bytes of a store, what it says is right, or it is an error.

A trial copies a prepared store, damages one thing (a byte, a block, a length, a whole
file), and then asks for everything in every way: by key, by range, backwards, by count,
after a compaction, and once more after that.  Each answer is the right one or an ``error``;
all answers of a handle are those of one state.  Trials run in a forked child with a limit
on memory and time, so that a crash or a hang is the failure of one seed.

``python tests/gates/damage.py SEED ...`` repeats trials.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from operator import methodcaller
from pathlib import Path
from typing import Any

from oblivion_dbm import CorruptionError, error
from oblivion_dbm.engine.filesystem import FileSystem
from oblivion_dbm.engine.options import Options
from oblivion_dbm.engine.storage_engine import StorageEngine, Writer, open_store
from oblivion_dbm.engine.verify import verify

#: What a trial may take: seconds, and bytes beyond what the process has already.
SECONDS, MEMORY = 20, 1 << 29
#: Trials in one child of a gate: the stores are made once for all of them.
BATCH = 50
BLOCK = 4096

State = dict[bytes, bytes]
Files = dict[str, bytes]


class Boot(FileSystem):
    """The real file system, in a boot of its own."""

    def __init__(self, number: int) -> None:
        self._boot = number.to_bytes(16, "little")

    def boot(self) -> bytes:
        return self._boot


#: The boot that wrote the stores, and the next one.
WRITTEN, LATER = Boot(1), Boot(2)


# The stores.


class Life:
    """A store that is being written, and what it held at each moment."""

    def __init__(self, path: str, **options: Any) -> None:
        self.path = path
        self.options: dict[str, Any] = {
            "background": False, "fan_in": 2, "space_ratio": 50.0, "table_limit": 3000,
            "log_back_end": "pwrite", **options,
        }  # fmt: skip
        self.states: list[State] = [{}]
        #: All files, and which state they held.
        self.captures: list[tuple[Files, int]] = []
        self.synced = 0
        self.begin("n")

    def begin(self, flag: str = "w") -> None:
        engine = open_store(self.path, flag, Options(**self.options), 0o666, WRITTEN)
        assert isinstance(engine, Writer)
        self.engine = engine

    @property
    def now(self) -> State:
        return self.states[-1]

    def put(self, key: bytes, value: bytes) -> None:
        self.engine.put(key, value)
        self.states.append({**self.now, key: value})

    def delete(self, key: bytes) -> None:
        self.engine.delete(key)
        self.states.append({k: v for k, v in self.now.items() if k != key})

    def write(self, changes: dict[bytes, bytes | None], cleared: bool = False) -> None:
        self.engine.write(changes, cleared)
        state = {} if cleared else dict(self.now)
        state.update({key: value for key, value in changes.items() if value is not None})
        self.states.append({k: v for k, v in state.items() if changes.get(k, b"") is not None})

    def rotate(self) -> None:
        """Go on in another segment, without a table of the first."""
        self.engine._path.maintenance.rotate()
        self.engine._path.appender.limit = 1 << 15
        self.capture()

    def flush(self) -> None:
        self.engine.flush()
        self.capture()

    def sync(self) -> None:
        self.engine.sync()
        self.synced = len(self.states) - 1

    def capture(self) -> Files:
        files = {path.name: path.read_bytes() for path in Path(self.path).iterdir()}
        self.captures.append((files, len(self.states) - 1))
        return files

    def end(self) -> Files:
        self.engine.close()
        if self.options.get("sync") != "off":
            self.synced = len(self.states) - 1
        return self.capture()


class Prepared:
    """A store to be damaged: its files, and what it may be found to hold."""

    def __init__(self, name: str, life: Life, files: Files) -> None:
        self.name = name
        self.files = files
        self.states = life.states
        self.synced = life.synced
        self.captures = life.captures
        self.keys = sorted({key for state in life.states for key in state})
        live = life.engine._path.log.live
        assert live is not None
        self.live_log = Path(live.path).name
        #: The files that hold records which were never synced.
        self.unsynced = self.synced < len(self.states) - 1


def key(number: int) -> bytes:
    return b"key-%03d" % number


def make_levels(path: str) -> Prepared:
    """Make a store of three levels, sealed and live logs, a prelude; all kinds of records."""
    life = Life(path)
    dice = random.Random(5)
    for number in range(700):
        life.put(key(number), b"first %d" % number)
    for flush in range(10):
        life.flush()
        for number in dice.sample(range(700), 25):
            life.put(key(number), b"%d of flush %d" % (number, flush) + b"." * (number % 50))
        for number in dice.sample(range(700), 6):
            life.delete(key(number))
    life.put(b"long" * 40, b"0123456789" * 1000)
    life.flush()
    life.put(b"left in the log", b"when the first process ended")
    life.delete(key(1))
    life.end()
    life.begin()
    life.put(b"", b"of the empty key")
    life.write({key(2): None, key(0): b"of a batch", b"never there": None, b"new": b"too"})
    life.rotate()
    life.put(b"empty value", b"")
    life.delete(key(4))
    return Prepared("levels", life, life.end())


def make_aligned(path: str, sync: str) -> Prepared:
    """Make a store whose records fill blocks exactly: blocks may change places unseen."""
    life = Life(path, sync=sync, log_back_end="auto")
    for number in range(1200):
        life.put(number.to_bytes(2, "big"), b"%d" % (number % 10))
    life.flush()
    for turn in range(4):
        for number in range(64):
            life.put(b"aligned key %04d" % number, b"turn %d of " % turn + b"%024d" % number)
    return Prepared(f"aligned, {sync}", life, life.end())


def make_logs(path: str) -> Prepared:
    """Make a store without tables: sealed, live and waiting segments, clears among the records."""
    life = Life(path, log_back_end="auto")
    for number in range(20):
        life.put(key(number), b"gone with the first clear")
    life.write({}, cleared=True)
    for number in range(20):
        life.put(key(number), b"value %d" % number)
    life.capture()
    life.rotate()
    life.write({b"colour": b"blue", b"size": b"12"}, cleared=True)
    life.put(b"size", b"13")
    life.sync()
    life.capture()
    life.rotate()
    for number in range(5):
        life.put(key(number), b"last %d" % number)
    life.engine._path.maintenance._prepare()
    life.engine._path.appender.limit = 1 << 15
    life.put(b"shape", b"round")
    return Prepared("logs", life, life.end())


def make_killed(path: str) -> Prepared:
    """Make a store whose writer was killed; the end of its log was never synced."""
    life = Life(path)
    for number in range(60):
        life.put(key(number), b"first %d" % number)
    life.flush()
    for number in range(0, 60, 3):
        life.delete(key(number))
    life.sync()
    for number in range(0, 60, 2):
        life.put(key(number), b"second %d" % number)
    killed = Prepared("killed", life, life.capture())
    life.engine.close()
    return killed


MAKERS: list[Callable[[str], Prepared]] = [
    make_levels,
    lambda path: make_aligned(path, "normal"),
    lambda path: make_aligned(path, "full"),
    lambda path: make_aligned(path, "off"),
    make_logs,
    make_killed,
]


@cache
def prepared(number: int) -> Prepared:
    """Return one of the stores, made once in a process."""
    with tempfile.TemporaryDirectory() as folder:
        return MAKERS[number](folder + "/store")


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
    one, other = (at * BLOCK for at in dice.sample(range(-(-len(data) // BLOCK)), 2))
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
            pairs = sorted(state.items(), reverse=reverse)
            return [
                (key, value)
                for key, value in pairs
                if (start is None or start <= key) and (stop is None or key < stop)
            ]

        self.ask(
            f"scan from {start!r:.60} to {stop!r:.60}",
            lambda: list(engine.scan("pairs", start, stop, reverse)),
            right,
        )


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
        read_all(engine, oracle, keys, dice)
        engine.close()


def describe(damaged: Damaged) -> str:
    """Say which store was damaged how, and when it is opened."""
    boot = "the boot that wrote it" if damaged.system is WRITTEN else "another boot"
    return f"{damaged.store.name}, opened in {boot}; {damaged.what}"


def trial(seed: int, folder: str) -> int:
    """Damage a store in ``folder`` and read it in every way; return 1, the number of damages.

    Raises whatever an engine must not raise, and AssertionError for a wrong answer.
    """
    damaged, dice = damage(seed), random.Random(~seed)
    try:
        for check in (check_reading, check_writing):
            path = f"{folder}/{seed}-{check.__name__}"
            write_files(path, damaged.files)
            check(path, damaged, dice)
            shutil.rmtree(path)
    except BaseException as problem:
        raise AssertionError(f"{describe(damaged)}: {problem!r}") from problem
    return 1


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
        for new in sorted({whole[at] ^ 1 << at % 8, 0, at * 0x9D & 0xFF} - {whole[at]}):
            with open(file, "r+b") as changed:
                changed.seek(at)
                changed.write(bytes([new]))
            if not any(finding.file == file for finding in verify(path, system)):
                missed.append(f"{name}: byte {at}, {whole[at]} changed to {new}")
        with open(file, "r+b") as changed:
            changed.seek(at)
            changed.write(whole[at : at + 1])
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


def child(seeds: list[int], folder: str, pipe: int) -> None:
    """Run trials one after the other; say after each that it is done, or what went wrong."""
    limit_memory()
    for seed in seeds:
        signal.alarm(SECONDS)
        text = ""
        try:
            trial(seed, folder)
        except BaseException:  # noqa: BLE001 - that is what is being looked for
            text = traceback.format_exc()[-3000:]
        os.write(pipe, f"{seed}\0{text}\0".encode())


def run(seeds: Iterable[int], folder: str) -> Iterator[tuple[int, str]]:
    """Run the trials of ``seeds``; yield (seed, what went wrong) of those that fail."""
    left = list(seeds)
    for number in range(len(MAKERS)):
        prepared(number)
    while left:
        reading, writing = os.pipe()
        process = os.fork()
        if process == 0:
            os.close(reading)
            try:
                child(left, folder, writing)
            finally:
                os._exit(0)
        os.close(writing)
        with open(reading, "rb") as pipe:
            words = pipe.read().decode().split("\0")[:-1]
        status = os.waitpid(process, 0)[1]
        for seed, text in zip(words[::2], words[1::2]):
            if text:
                yield int(seed), text
        left = left[len(words) // 2 :]
        if left:
            yield left.pop(0), f"the process ended with status {status}: a crash, or a hang"


def batch(number: int, folder: str, _: str) -> int:
    """Run a batch of trials in this process, which is a child; return how many there were."""
    limit_memory()
    for seed in range(number * BATCH, (number + 1) * BATCH):
        signal.alarm(SECONDS)
        try:
            trial(seed, folder)
        except BaseException as problem:
            raise AssertionError(f"python tests/gates/damage.py {seed}") from problem
    return BATCH


def main(seeds: Iterable[str]) -> None:
    """Repeat trials in this process, and say what each of them does."""
    for seed in map(int, seeds):
        print(seed, describe(damage(seed)))
        with tempfile.TemporaryDirectory() as folder:
            trial(seed, folder)


if __name__ == "__main__":
    main(sys.argv[1:])
