"""The LOCK file: who writes, and the generation word that readers watch.

::

    generation u64 | process id of the writer u64

The file is never unlinked while the store exists.  ``flock`` on it is held by
the one writer; it is by inode, so it holds for every path to the directory and
within one process too, and it is free as soon as the writer is dead.
"""

from __future__ import annotations

from contextlib import suppress
from errno import EAGAIN
from struct import Struct

from oblivion_dbm.engine.filenames import LOCK
from oblivion_dbm.errors import error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from oblivion_dbm.engine.filesystem import FileSystem

_WORDS = Struct("<QQ")
_PAUSE = 0.01


class WriterLock:
    """The writer's lock on a store, held from construction to ``release``.

    Raises ``error`` with EAGAIN that names the holder when it is not free
    within ``timeout`` seconds.
    """

    def __init__(
        self, filesystem: FileSystem, directory: str, timeout: float = 0.0, mode: int = 0o666
    ) -> None:
        self._filesystem = filesystem
        path = filesystem.join(directory, LOCK)
        while True:
            if filesystem.kind(path) == "missing":
                with suppress(error):  # another process was faster
                    filesystem.close(filesystem.create(path, mode))
            self._file = filesystem.open(path, writable=True)
            try:
                self._acquire(directory, timeout)
                if filesystem.is_at(self._file, path):
                    break
            except BaseException:
                filesystem.close(self._file)
                raise
            # The store was removed, and perhaps made anew, while this one waited.
            filesystem.close(self._file)
        try:
            if filesystem.size(self._file) < _WORDS.size:
                filesystem.write(self._file, 0, bytes(_WORDS.size))
            self.generation = self._read()[0]
        except BaseException:
            filesystem.close(self._file)
            raise

    def _acquire(self, directory: str, timeout: float) -> None:
        waited = 0.0
        while not self._filesystem.lock(self._file):
            if waited >= timeout:
                holder = self._read()[1]
                who = f"process {holder}" if holder else "another opener"
                raise error(EAGAIN, f"the store is open for writing in {who}", directory)
            self._filesystem.sleep(_PAUSE)
            waited += _PAUSE

    def _read(self) -> tuple[int, int]:
        data = self._filesystem.read(self._file, 0, _WORDS.size)
        return _WORDS.unpack(data.ljust(_WORDS.size, b"\0"))

    def claim(self) -> None:
        """Write down which process holds the lock."""
        self._filesystem.write(
            self._file, 0, _WORDS.pack(self.generation, self._filesystem.process())
        )

    def bump(self) -> None:
        """Tell readers that the MANIFEST has changed."""
        self.generation += 1
        self.claim()

    def release(self) -> None:
        """Unlock, also for children that inherited the descriptor, and close."""
        self._filesystem.unlock(self._file)
        self._filesystem.close(self._file)

    def abandon(self) -> None:
        """Close without unlocking: what a forked child does with its copy."""
        self._filesystem.close(self._file)


class GenerationWord:
    """A reader's view of the generation; constant where there is no LOCK file."""

    def __init__(self, filesystem: FileSystem, directory: str) -> None:
        path = filesystem.join(directory, LOCK)
        self.words: Any = (0,)
        if filesystem.kind(path) == "missing":
            return
        file = filesystem.open(path)
        try:
            if filesystem.size(file) >= _WORDS.size:
                self.words = filesystem.words(filesystem.map(file, _WORDS.size), 0, 1)
        finally:
            filesystem.close(file)

    def close(self) -> None:
        """Let go of the map; not by force, as another thread may be looking at the word."""
        self.words = (0,)
