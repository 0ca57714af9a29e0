"""Backups and restores that fail or lose power at any point leave what was, or what was to be.

The n-th operation fails, for every n; and a ``Disk``, which remembers what has been
synced, tells what a crash of the machine may leave: for each file each page since its
last sync as it was, as it is or torn, each change of a directory since its last sync
done or not.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from gates.failure import Failing, descriptors
from oblivion_dbm import error
from oblivion_dbm.engine.backup import backup, restore
from oblivion_dbm.engine.filesystem import File, FileSystem
from oblivion_dbm.engine.manifest import load
from oblivion_dbm.engine.options import Options
from oblivion_dbm.engine.storage_engine import StorageEngine, Writer, open_store
from oblivion_dbm.engine.verify import verify

SYSTEM = FileSystem()
STATES = int(os.environ.get("OBLIVION_DBM_CRASH_STATES", "400"))
PAGE, SECTOR = 4096, 512
Contents = dict[bytes, bytes]


class OtherBoot(FileSystem):
    """The machine has started anew."""

    def boot(self) -> bytes:
        return b"another boot 16b"


OTHER_BOOT = OtherBoot()


def contents(path: Path, filesystem: FileSystem = SYSTEM) -> Contents:
    engine = open_store(str(path), "r", Options(), filesystem=filesystem)
    found = dict(engine.scan("pairs", None, None, False))
    engine.close()
    return found


class Source:
    """A store with tables and a log, an earlier backup of it, and what it was since."""

    def __init__(self, folder: Path, change: str) -> None:
        self.path, self.earlier = folder / "source", folder / "earlier"
        options = Options(background=False, table_limit=2000, fan_in=100, space_ratio=1e9)
        engine = open_store(str(self.path), "c", options)
        assert isinstance(engine, Writer)
        self.engine = engine
        self.history: list[Contents] = []
        for part in range(2):
            for number in range(40):
                engine.put(b"%d" % (number * part), b"part %d " % part * 20)
            engine.flush()
        self.put(b"last of the earlier backup", b"x" * 5000)
        backup(str(self.path), str(self.earlier))
        self.history = self.history[-1:]
        getattr(self, change)()
        engine.sync()
        self.files = {file.name: file.read_bytes() for file in self.path.iterdir()}

    def put(self, key: bytes, value: bytes) -> None:
        with self.engine.lock:  # so that nothing is flushed before
            self.engine.put(key, value)
        self.history.append(dict(self.engine.scan("pairs", None, None, False)))

    def nothing(self) -> None:
        """Leave everything as it is."""

    def grown(self) -> None:
        """Let the log that the earlier backup ends with go on."""
        for number in range(3):
            self.put(b"grown %d" % number, b"y" * 3000)

    def chained(self) -> None:
        """Let it go on and end, and the next one begin."""
        self.grown()
        self.engine._path.maintenance.rotate()
        for number in range(3):
            self.put(b"chained %d" % number, b"z" * 3000)

    def flushed(self) -> None:
        """Let it become a table, and another one begin."""
        self.grown()
        self.engine.flush()
        self.put(b"after", b"all")

    def merged(self) -> None:
        """Let all tables become one."""
        self.grown()
        self.engine.compact()

    def check(self) -> None:
        """Check that nobody has changed it."""
        assert {file.name: file.read_bytes() for file in self.path.iterdir()} == self.files
        assert contents(self.earlier) == self.history[0]
        assert verify(str(self.earlier)) == []


@pytest.fixture
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Source]:
    made = Source(tmp_path, request.param)
    yield made
    made.check()
    made.engine.close()


CHANGES = pytest.mark.parametrize(
    "source", ["nothing", "grown", "chained", "flushed", "merged"], indirect=True
)


def begin_with(earlier: Path, place: Path) -> None:
    """Make ``place`` the earlier backup, by links: nothing may be changed in its files."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(earlier, place, copy_function=os.link)
    (place / "LOCK").unlink()  # but this one is
    shutil.copy(earlier / "LOCK", place)


def check_left(place: Path, allowed: list[Contents], filesystem: FileSystem = SYSTEM) -> None:
    """Check that a backup holds one of the states that it may hold, and check every byte."""
    assert contents(place, filesystem) in allowed
    # What a later backup has left unfinished is used or removed by the next one.
    assert [found for found in verify(str(place), filesystem) if not found.leftover] == []


def check_no_store(place: Path) -> None:
    """Check that nobody takes for a store what is none, and that nobody makes one of it."""
    if place.exists() and set(os.listdir(place)) - {"LOCK", "MANIFEST.new"}:
        for flag in "rwcn":
            with pytest.raises(error):
                open_store(str(place), flag, Options())
    with pytest.raises(error):
        open_store(str(place), "r", Options())


def check_whole(place: Path, expected: Contents, filesystem: FileSystem = SYSTEM) -> None:
    """Check that a backup or a restored store is complete, and that nothing else is there."""
    check_left(place, [expected], filesystem)
    assert verify(str(place), filesystem) == []
    named = {f"{number:06d}" for number in load(SYSTEM, str(place)).numbers()}
    assert {name.partition(".")[0] for name in os.listdir(place)} == named | {"LOCK", "MANIFEST"}


# The n-th failure.


def each_failure(act: Callable[[FileSystem], object], for_ever: bool) -> Iterator[bool]:
    """Let ``act`` fail at each operation in turn; yield whether it has raised."""
    before = descriptors()
    for number in count():
        system = Failing(number, "for ever" if for_ever else "once")
        raised = False
        try:
            act(system)
        except error:
            raised = True
        if not system.failed:
            assert not raised
            assert number > 50
            assert descriptors() == before
            return
        yield raised


def put_back(source: Source, place: Path, first: bool, act: Callable[[FileSystem], Any]) -> Any:
    """Return ``act`` on a ``place`` that is as it was before it."""

    def again(system: FileSystem) -> None:
        if first:
            shutil.rmtree(place, ignore_errors=True)
        else:
            begin_with(source.earlier, place)
        act(system)

    return again


@CHANGES
@pytest.mark.parametrize("for_ever", [False, True], ids=["once", "for ever"])
@pytest.mark.parametrize("copy", [False, True], ids=["link", "copy"])
def test_an_incremental_backup_that_fails_leaves_the_earlier_or_the_new_one(
    source: Source, tmp_path: Path, copy: bool, for_ever: bool
) -> None:
    place = tmp_path / "place"
    act = partial(backup, str(source.path), str(place), copy=copy)
    again = put_back(source, place, False, lambda system: act(filesystem=system))
    for raised in each_failure(again, for_ever):
        check_left(place, source.history if raised else source.history[-1:])
        act()
        check_whole(place, source.history[-1])


@pytest.mark.parametrize("source", ["chained"], indirect=True)
@pytest.mark.parametrize("for_ever", [False, True], ids=["once", "for ever"])
@pytest.mark.parametrize("copy", [False, True], ids=["link", "copy"])
def test_a_first_backup_that_fails_leaves_no_store_and_the_next_try_completes_it(
    source: Source, tmp_path: Path, copy: bool, for_ever: bool
) -> None:
    place = tmp_path / "place"
    act = partial(backup, str(source.path), str(place), copy=copy)
    again = put_back(source, place, True, lambda system: act(filesystem=system))
    for raised in each_failure(again, for_ever):
        if (place / "MANIFEST").exists():
            check_left(place, source.history[-1:])
        else:
            assert raised
            check_no_store(place)
        act()
        check_whole(place, source.history[-1])


@pytest.mark.parametrize("source", ["nothing"], indirect=True)
@pytest.mark.parametrize("for_ever", [False, True], ids=["once", "for ever"])
@pytest.mark.parametrize("link", [False, True], ids=["copy", "link"])
def test_a_restore_that_fails_leaves_nothing_or_a_whole_store(
    source: Source, tmp_path: Path, link: bool, for_ever: bool
) -> None:
    place = tmp_path / "place"
    act = partial(restore, str(source.earlier), str(place), link=link)
    again = put_back(source, place, True, lambda system: act(filesystem=system))
    for raised in each_failure(again, for_ever):
        if place.exists():
            check_left(place, source.history[:1])
            shutil.rmtree(place)
        else:
            assert raised
        act()
        check_whole(place, source.history[0])
        assert not place.with_name("place.restoring").exists()


# Crashes of the machine.


class Node:
    """A file, of which ``durable`` is what the disk has of it; or a directory."""

    def __init__(self, path: str, durable: bytes = b"") -> None:
        self.is_directory = os.path.isdir(path)
        self.descriptor = os.open(path, os.O_RDONLY)
        self.durable = durable
        self.names: dict[str, Node] = {}
        self.durable_names: dict[str, Node] = {}
        self.pending: list[tuple[str, Node | None]] = []

    def now(self) -> bytes:
        return os.pread(self.descriptor, os.fstat(self.descriptor).st_size, 0)

    def set(self, name: str, node: Node | None) -> None:
        _apply(self.names, name, node)
        self.pending.append((name, node))


def _apply(names: dict[str, Node], name: str, node: Node | None) -> None:
    if node is None:
        names.pop(name, None)
    else:
        names[name] = node


Left = dict[str, Any]


class Disk(FileSystem):
    """Real files below one directory, and a memory of what the disk itself has of them."""

    def __init__(self, root: Path, dice: random.Random, watch: Callable[[Left], None]) -> None:
        self.dice = dice
        self.watch = watch
        self.root = str(root)
        self.nodes: list[Node] = []
        self.top = self._found(self.root)

    def _found(self, path: str) -> Node:
        """Take what is there for durable."""
        node = Node(path)
        self.nodes.append(node)
        if node.is_directory:
            node.names = {name: self._found(os.path.join(path, name)) for name in os.listdir(path)}
            node.durable_names = dict(node.names)
        else:
            node.durable = node.now()
        return node

    def _node(self, path: str) -> Node | None:
        """Return what is at a path, None for one that is not below the root."""
        if path == self.root:
            return self.top
        if not path.startswith(self.root + os.sep):
            return None
        node = self.top
        for name in os.path.relpath(path, self.root).split(os.sep):
            node = node.names[name]
        return node

    def _set(self, path: str, node: Node | None) -> None:
        folder = self._node(os.path.dirname(path))
        assert folder is not None
        folder.set(os.path.basename(path), node)

    def _look(self) -> None:
        self.watch(self.crash())

    def create(self, path: str, mode: int = 0o666) -> File:
        file = super().create(path, mode)
        node = Node(path)
        self.nodes.append(node)
        self._set(path, node)
        return file

    def make_directory(self, path: str, mode: int) -> None:
        super().make_directory(path, mode)
        node = Node(path)
        self.nodes.append(node)
        self._set(path, node)
        self._look()

    def link(self, source: str, destination: str) -> None:
        super().link(source, destination)
        self._set(destination, self._found(destination))
        self._look()

    def write(self, file: File, offset: int, data: bytes | memoryview) -> None:
        super().write(file, offset, data)
        self._look()

    def rename(self, source: str, destination: str) -> None:
        self._look()
        node = self._node(source)
        super().rename(source, destination)
        self._set(source, None)
        self._set(destination, node)
        self._look()

    def remove(self, path: str) -> None:
        super().remove(path)
        self._set(path, None)
        self._look()

    def sync(self, file: File) -> None:
        node = self._node(file.path)
        super().sync(file)
        if node is not None:
            node.durable = node.now()
        self._look()

    def sync_directory(self, path: str) -> None:
        self._look()
        super().sync_directory(path)
        node = self._node(path)
        if node is not None:
            for name, changed in node.pending:
                _apply(node.durable_names, name, changed)
            node.pending.clear()
        self._look()

    def crash(self) -> Left:
        """Return what may be left below the root if the power goes now."""
        return self._left_of(self.top)

    def _left_of(self, folder: Node) -> Left:
        names = dict(folder.durable_names)
        for name, node in folder.pending:
            if self.dice.random() < 0.6:
                _apply(names, name, node)
        return {
            name: self._left_of(node) if node.is_directory else self._torn(node)
            for name, node in names.items()
        }

    def _torn(self, node: Node) -> bytes:
        old, new = node.durable, node.now()
        if old == new:
            return new
        length = self.dice.choice([len(old), len(new)])
        kept = bytearray()
        share = self.dice.random()
        for start in range(0, length, SECTOR if self.dice.random() < 0.2 else PAGE):
            size = min(PAGE, length - start)
            source = new if self.dice.random() < share else old
            kept[start : start + size] = source[start : start + size].ljust(size, b"\0")
        return bytes(kept[:length])

    def end(self) -> None:
        for node in self.nodes:
            os.close(node.descriptor)


def lay_out(left: Left, path: Path) -> None:
    """Make the directory that a crash has left."""
    path.mkdir()
    for name, content in left.items():
        if isinstance(content, bytes):
            (path / name).write_bytes(content)
        else:
            lay_out(content, path / name)


def crashes(
    root: Path, seed: int, act: Callable[[FileSystem], object]
) -> tuple[list[Left], list[Left]]:
    """Return what crashes during ``act`` may leave below ``root``, and what ones after it may."""
    states: list[Left] = []
    disk = Disk(root, random.Random(seed), states.append)
    act(disk)
    after = [disk.crash() for _ in range(5)]
    disk.end()
    return states, after


def seeds() -> Iterator[int]:
    seed = int(os.environ.get("OBLIVION_DBM_SEED", random.randrange(1 << 32)))
    print(f"OBLIVION_DBM_SEED={seed}")
    while True:
        yield seed
        seed += 1


def each_crash(
    tmp_path: Path,
    earlier: Path | None,
    states: int,
    act: Callable[[Path, FileSystem], object],
) -> Iterator[tuple[Path, bool]]:
    """Lay out what crashes may leave; yield where, and whether they came after the end."""
    done = 0
    for seed in seeds():
        root = tmp_path / "disk"
        root.mkdir()
        if earlier is not None:
            begin_with(earlier, root / "place")
        during, after = crashes(root, seed, partial(act, root / "place"))
        assert len(during) > 10
        for left, is_after in [*((one, False) for one in during), *((one, True) for one in after)]:
            lay_out(left, tmp_path / "left")
            yield tmp_path / "left" / "place", is_after
            shutil.rmtree(tmp_path / "left")
        shutil.rmtree(root)
        done += len(during)
        if done >= states:
            print(f"{done} states")
            return


@CHANGES
@pytest.mark.parametrize("copy", [False, True], ids=["link", "copy"])
def test_an_incremental_backup_that_loses_power_leaves_the_earlier_or_the_new_one(
    source: Source, tmp_path: Path, copy: bool
) -> None:
    def act(place: Path, system: FileSystem) -> None:
        backup(str(source.path), str(place), copy=copy, filesystem=system)

    for place, after in each_crash(tmp_path, source.earlier, STATES // 10, act):
        check_left(place, source.history[-1:] if after else source.history, OTHER_BOOT)
        act(place, OTHER_BOOT)
        check_whole(place, source.history[-1], OTHER_BOOT)


@pytest.mark.parametrize("source", ["chained"], indirect=True)
@pytest.mark.parametrize("copy", [False, True], ids=["link", "copy"])
def test_a_first_backup_that_loses_power_leaves_no_store_or_a_whole_one(
    source: Source, tmp_path: Path, copy: bool
) -> None:
    def act(place: Path, system: FileSystem) -> None:
        backup(str(source.path), str(place), copy=copy, filesystem=system)

    for place, after in each_crash(tmp_path, None, STATES // 4, act):
        if after or (place / "MANIFEST").exists():
            check_left(place, source.history[-1:], OTHER_BOOT)
        else:
            check_no_store(place)
        act(place, OTHER_BOOT)
        check_whole(place, source.history[-1], OTHER_BOOT)


@pytest.mark.parametrize("source", ["nothing"], indirect=True)
@pytest.mark.parametrize("link", [False, True], ids=["copy", "link"])
def test_a_restore_that_loses_power_leaves_nothing_or_a_whole_store(
    source: Source, tmp_path: Path, link: bool
) -> None:
    def act(place: Path, system: FileSystem) -> None:
        restore(str(source.earlier), str(place), link=link, filesystem=system)

    for place, after in each_crash(tmp_path, None, STATES // 4, act):
        if place.exists():
            check_left(place, source.history[:1], OTHER_BOOT)
            go_on_writing(place, source.history[0])
            continue
        assert not after
        act(place, OTHER_BOOT)
        check_whole(place, source.history[0], OTHER_BOOT)
        assert not place.with_name("place.restoring").exists()


def go_on_writing(place: Path, expected: Contents) -> None:
    engine: StorageEngine = open_store(str(place), "w", Options(), filesystem=OTHER_BOOT)
    engine.put(b"after", b"the crash")
    engine.close()
    assert contents(place, OTHER_BOOT) == expected | {b"after": b"the crash"}
