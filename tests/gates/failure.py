"""The n-th operation of the file system fails, for every n: once, or from then on for ever.

Whatever returned before is there afterwards, the operation that raised is whole or absent,
reads go on, nothing but ``error`` is raised, and no descriptor is left.  Once the failures
are over, opening again is all it takes.

A trial is a number: it chooses a workload, a way to fail, and n.  A write that fails has
stored the first half; one that fails *late* has happened all the same.
"""

from __future__ import annotations

import errno
import gc
import os
import random
import shutil
from collections.abc import Callable
from functools import cache
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from gates.disk import Restarted
from gates.history import History, Model
from oblivion_dbm.engine.filesystem import FileSystem
from oblivion_dbm.engine.options import Options
from oblivion_dbm.engine.storage_engine import StorageEngine, open_store
from oblivion_dbm.engine.verify import verify
from oblivion_dbm.errors import error

#: What can fail, and how.
FAILURES = {
    "create": errno.ENOSPC, "open": errno.EMFILE, "size": errno.EIO, "read": errno.EIO,
    "write": errno.ENOSPC, "sync": errno.EIO, "sync_directory": errno.EIO,
    "allocate": errno.ENOSPC, "map": errno.ENOMEM, "rename": errno.EIO, "remove": errno.EIO,
    "make_directory": errno.ENOSPC, "list": errno.EIO, "inode": errno.EIO, "close": errno.EIO,
    "mode": errno.EIO, "link": errno.EIO, "remove_directory": errno.EIO,
    "lock": errno.ENOLCK, "unlock": errno.EIO, "is_at": errno.EIO,
}  # fmt: skip
LATE = ("sync", "sync_directory", "rename", "remove", "close")
WAYS = ("once", "for ever", "late")
SYNCS: list[str | float] = ["normal", "full", "off", 0.01]
#: Operations of a workload, and how often the store is opened anew in between.
OPERATIONS, REOPENED = 30, 10


class Failing(FileSystem):
    """The ``number``-th operation fails, in one of the WAYS; none while it is negative."""

    def __init__(self, number: int = -1, way: str = "once") -> None:
        self.number = number
        self.way = way
        #: What was done or tried, and the first of it that has failed.
        self.done: list[str] = []
        self.failed = ""

    def fails(self, what: str) -> bool:
        """Tell whether the next operation, ``what``, is to fail."""
        place = len(self.done)
        self.done.append(what)
        late = self.way == "for ever" and 0 <= self.number < place
        if late or place == self.number:
            self.failed = self.failed or what
            return True
        return False


def _failing(name: str) -> Callable[..., Any]:
    does = getattr(FileSystem, name)

    def call(self: Failing, *arguments: Any, **more: Any) -> Any:
        path = getattr(arguments[0], "path", arguments[0])
        if not self.fails(f"{name} {os.path.basename(path)}"):
            return does(self, *arguments, **more)
        if name == "write":
            file, offset, data = arguments
            does(self, file, offset, data[: len(data) // 2])
        elif name in ("close", "unlock") or (self.way == "late" and name in LATE):
            does(self, *arguments, **more)
        raise error(FAILURES[name], f"{name} was told to fail", path)

    return call


for _name in FAILURES:
    setattr(Failing, _name, _failing(_name))


class Workload(NamedTuple):
    """Random operations, always the same ones."""

    seed: int
    sync: str | float

    def run(self, directory: str, system: Failing) -> list[Model]:
        """Work; return what must be there: one of these."""
        work = Work(directory, system, random.Random(self.seed), self.sync)
        for number in range(OPERATIONS):
            if number % REOPENED == 0:
                work.open_anew()
            work.step()
        work.close()
        return [work.model, *work.maybe]


class Work:
    """A store on a file system that fails, and the dict that it must equal."""

    def __init__(
        self, directory: str, system: Failing, dice: random.Random, sync: str | float
    ) -> None:
        self.directory = directory
        self.system = system
        self.history = History(dice, sync)
        self.engine: StorageEngine | None = None
        self.model: Model = {}
        #: What is there if one that has raised since the last write has happened after all.
        self.maybe: list[Model] = []

    def open_anew(self) -> None:
        """Close and open, twice where that fails; what is found is what was there."""
        self.close()
        options = self.history.options(background=False)
        for _ in range(2):
            try:
                self.engine = open_store(self.directory, "c", options, filesystem=self.system)
                break
            except error:
                assert self.system.failed
        else:
            assert self.system.way == "for ever", "one failure, and it does not open again"
            return
        found = self.contents()
        assert found in [self.model, *self.maybe], f"not what was there: {len(found)} keys"
        self.model, self.maybe = found, []

    def step(self) -> None:
        """Do the next operation; one that raises is whole or absent."""
        self.history.states = [self.model]
        # The same operations whether the store could be opened or not.
        engine = self.engine or _NOBODY
        act, after = self.history.next(engine)
        if self.engine is None:
            return
        try:
            act()
            if after not in (None, self.model):
                self.model, self.maybe = after or {}, []
            self.check()
        except error:
            assert self.system.failed, "an error, and nothing has failed"
            found, before = self.contents(), self.model
            whole = before if after is None else after
            assert found in (before, whole), f"neither whole nor absent: {len(found)} keys"
            self.model = found
            # In mode "full" the handle may show what readers, and a crash, do not.
            self.maybe += [before, whole]

    def contents(self) -> Model:
        assert self.engine is not None
        return dict(self.engine.scan("pairs", None, None, False))

    def check(self) -> None:
        if self.engine is not None:
            assert self.contents() == self.model

    def close(self) -> None:
        if self.engine is not None:
            try:
                self.engine.close()
            except error:
                assert self.system.failed, "an error, and nothing has failed"
            self.engine.close()
            self.engine = None


class _Nobody(StorageEngine):
    """Has the methods of a store, none of which is called."""

    readonly = True

    def __init__(self) -> None:
        self.put = self.value = self.delete  # type: ignore[assignment]  # never called


_NOBODY = _Nobody()


def descriptors() -> int:
    """Return how many descriptors are open, those of forgotten handles left out."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def after_failures(directory: str, allowed: list[Model]) -> None:
    """Check, without failures, what is left: in this boot, and after another one."""
    if not os.path.exists(directory + "/MANIFEST"):
        assert {} in allowed
        return
    copy = directory + "-restarted"
    shutil.copytree(directory, copy)
    for where, system in ((directory, FileSystem()), (copy, Restarted(1))):
        reader = open_store(where, "r", Options(), filesystem=system)
        seen = dict(reader.scan("pairs", None, None, False))
        assert seen in allowed
        assert reader.count() == len(seen)
        reader.close()
        writer = open_store(where, "w", Options(), filesystem=system)
        # It keeps a record that is whole and was not published; a reader does not show that.
        model = dict(writer.scan("pairs", None, None, False))
        assert model in allowed
        writer.put(b"after", b"the failures")
        writer.close()
        again = open_store(where, "r", Options(), filesystem=system)
        found = dict(again.scan("pairs", None, None, False))
        assert found == model | {b"after": b"the failures"}
        again.close()
        assert verify(where, system) == []


@cache
def operations_of(workload: Workload) -> list[str]:
    """Return the operations of the file system that a workload takes."""
    with TemporaryDirectory() as folder:
        system = Failing()
        workload.run(folder + "/store", system)
        return system.done


def workloads(size: str) -> list[Workload]:
    """Return the core workload, or all of them."""
    if size == "change":
        return [Workload(1, "normal")]
    return [Workload(seed, sync) for sync in SYNCS for seed in range(2)]


@cache
def trials(size: str) -> list[tuple[Workload, str, int]]:
    """Return all trials of a size."""
    return [
        (workload, way, number)
        for workload in workloads(size)
        for way in WAYS
        for number in range(len(operations_of(workload)))
    ]


def trial(number: int, folder: str, size: str = "long") -> int:
    """Let one operation of one workload fail; return 1."""
    workload, way, place = trials(size)[number]
    run(workload, way, place, folder)
    return 1


def run(workload: Workload, way: str, place: int, folder: str) -> str:
    """Return what has failed, "" where there was no such operation."""
    before = descriptors()
    system = Failing(place, way)
    try:
        allowed = workload.run(folder + "/store", system)
        system.number = -1
        after_failures(folder + "/store", allowed)
        assert descriptors() == before, "a descriptor is left open"
    except BaseException as problem:
        problem.args = (f"{workload}, {way}, {place}: {system.failed}: {problem}",)
        raise
    return system.failed
