"""The LOCK file: who writes, and the generation word that readers watch.

::

    generation u64 | process id of the writer, 0 once it has closed, u32 | its space u32

The file is never unlinked while the store exists.  ``flock`` on it is held by
the one writer; it is by inode, so it holds for every path to the directory and
within one process too, and it is free as soon as the writer is dead.  A writer
that was killed leaves its process id, which counts only while ``flock`` is held.
The *space* tells where that number means something: not in another container.
"""

from __future__ import annotations

from contextlib import suppress
from errno import EAGAIN, EEXIST
from struct import Struct

from oblivion_dbm.engine.filenames import LOCK
from oblivion_dbm.engine.filesystem import after_fork, no_fork
from oblivion_dbm.errors import error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from oblivion_dbm.engine.filesystem import File, FileSystem

_WORDS = Struct("<QII")
#: Bytes of the file.
SIZE = _WORDS.size
_HOLDER_AT = 8
_PAUSE = 0.01


class _Held:
    """The locks that this process holds, by inode: thread-safe, and forgotten in a child.

    Some network file systems emulate ``flock`` by locks of the whole process,
    so there it alone keeps a second writer of the same process out.
    """

    def __init__(self) -> None:
        # Only calls that are one step: no lock that a fork could leave taken.
        self._locks: dict[tuple[int, int], WriterLock] = {}
        after_fork(self)

    def add(self, inode: tuple[int, int], lock: WriterLock) -> bool:
        """Note that ``lock`` has a file, or is about to; False where another one has it."""
        return self._locks.setdefault(inode, lock) is lock

    def remove(self, inode: tuple[int, int]) -> None:
        """Note that nobody here has a file."""
        self._locks.pop(inode, None)

    def forked(self) -> None:
        """Let go of all that the parent holds: a child must not keep it locked."""
        for lock in list(self._locks.values()):
            lock.abandon()


_held = _Held()


class WriterLock:
    """The writer's lock on a store, held from construction to ``release``.

    Raises ``error`` with EAGAIN that names the holder when it is not free
    within ``timeout`` seconds; ``busy`` says what the holder may be doing.  Unless it
    is ``writable`` the file must be there, and nothing is written to it: so whoever may
    only read can keep writers out, too.
    """

    def __init__(
        self,
        filesystem: FileSystem,
        directory: str,
        timeout: float = 0.0,
        mode: int = 0o666,
        busy: str = "the store is open for writing",
        *,
        writable: bool = True,
    ) -> None:
        self._filesystem = filesystem
        self._busy = busy
        self._path = filesystem.join(directory, LOCK)
        self._inode: tuple[int, int] | None = None
        self._file: File | None = None
        self._claimed = False
        self._writable = writable
        try:
            self._acquire(directory, timeout, mode)
            if writable and filesystem.size(self._open_file()) < _WORDS.size:
                filesystem.write(self._open_file(), 0, bytes(_WORDS.size))
            self.generation = self._read()[0]
            if writable:
                self.claim()
        except BaseException:
            self.release()
            raise

    def _acquire(self, directory: str, timeout: float, mode: int) -> None:
        filesystem, waited = self._filesystem, 0.0
        while True:
            holder = self._take(mode)
            if not holder:
                inode = filesystem.inode(self._path)
                if inode == self._inode and filesystem.is_at(self._open_file(), self._path):
                    return
                # The store was removed, and perhaps made anew, in between.
                self.release()
            elif waited >= timeout:
                raise error(EAGAIN, f"{self._busy} in {holder}", directory)
            else:
                filesystem.sleep(_PAUSE)
                waited += _PAUSE

    def _take(self, mode: int) -> str:
        """Take the lock without waiting; return who has it, "" where it is this one."""
        filesystem = self._filesystem
        if self._writable and filesystem.kind(self._path) == "missing":
            try:
                filesystem.close(filesystem.create(self._path, mode))
            except error as problem:
                if problem.errno != EEXIST:  # else another process was faster
                    raise
        inode = filesystem.inode(self._path)
        if not _held.add(inode, self):
            return f"process {filesystem.process()}, this one"
        self._inode = inode
        with no_fork():  # else a child might keep a descriptor that nobody knows of
            self._file = filesystem.open(self._path, self._writable)
        if filesystem.lock(self._file):
            return ""
        _, process, space = self._read()
        self.abandon()
        here = space in (0, filesystem.process_space())
        if process and here and filesystem.is_running(process):
            return f"process {process}"
        return "another process"

    def _open_file(self) -> File:
        assert self._file is not None
        return self._file

    def _read(self) -> tuple[int, int, int]:
        data = self._filesystem.read(self._open_file(), 0, _WORDS.size)
        return _WORDS.unpack(data.ljust(_WORDS.size, b"\0"))

    def claim(self) -> None:
        """Write down which process holds the lock."""
        self._claimed = True
        filesystem = self._filesystem
        words = _WORDS.pack(self.generation, filesystem.process(), filesystem.process_space())
        self._filesystem.write(self._open_file(), 0, words)

    def bump(self) -> None:
        """Tell readers that the MANIFEST has changed."""
        self.generation = (self.generation + 1) & 0xFFFF_FFFF_FFFF_FFFF
        self.claim()

    def release(self) -> None:
        """Unlock, also for children that inherited the descriptor, and close."""
        try:
            if self._file is not None:
                if self._claimed:  # this process may live on, and holds it no more
                    with suppress(error):
                        self._filesystem.write(self._file, _HOLDER_AT, bytes(8))
                self._filesystem.unlock(self._file)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close without unlocking: what a forked child does with its copy.  Again is fine."""
        inode, self._inode = self._inode, None
        try:
            with no_fork():
                file, self._file = self._file, None
                if file is not None:
                    self._filesystem.close(file)
        finally:
            if inode is not None:
                _held.remove(inode)


def read_words(filesystem: FileSystem, directory: str) -> bytes:
    """Return all that the LOCK file holds, nothing where there is none."""
    path = filesystem.join(directory, LOCK)
    if filesystem.kind(path) != "file":
        return b""
    file = filesystem.open(path)
    try:
        return filesystem.read(file, 0, filesystem.size(file))
    finally:
        filesystem.close(file)


def may_have_a_writer(filesystem: FileSystem, directory: str) -> bool:
    """Tell whether there may be a writer; False where there is none for certain.

    To try the lock would tell it better, but for that instant it would keep a writer
    out.  So a writer that was killed counts as one where its number is another
    process's by now, and in another container.
    """
    words = read_words(filesystem, directory).ljust(SIZE, b"\0")
    _, process, space = _WORDS.unpack(words[:SIZE])
    elsewhere = space not in (0, filesystem.process_space())
    return process != 0 and (elsewhere or filesystem.is_running(process))


class GenerationWord:
    """A reader's view of the generation, in ``words[0]``; 0 where there is no LOCK file.

    Until there is one each look searches for it, which costs 0.5 µs: a store that
    was copied without it may get a writer, who makes it.
    """

    def __init__(self, filesystem: FileSystem, directory: str) -> None:
        self._filesystem = filesystem
        self._path = filesystem.join(directory, LOCK)
        self.words: Any = self
        self[0]

    def __getitem__(self, index: int) -> int:
        """Return the generation, after a search for the file."""
        if self._filesystem.exists(self._path):
            self._map()
        return 0 if self.words is self else int(self.words[index])

    def _map(self) -> None:
        file = self._filesystem.open(self._path)
        try:
            if self._filesystem.size(file) >= _WORDS.size:
                mapped = self._filesystem.map(file, _WORDS.size)
                self.words = self._filesystem.words(mapped, 0, 1)
        finally:
            self._filesystem.close(file)

    def close(self) -> None:
        """Let go of the map; not by force, as another thread may be looking at the word."""
        self.words = (0,)
