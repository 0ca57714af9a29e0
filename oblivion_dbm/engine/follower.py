"""The Follower: what a handle opened for reading keeps up with.

It holds no lock and blocks nobody.  Two words tell it that there is something
new: the generation in the LOCK file (the MANIFEST has changed) and
appended-up-to in the live log segment; each look costs some 30 ns.
"""

from __future__ import annotations

from oblivion_dbm.engine.lock import GenerationWord
from oblivion_dbm.engine.manifest import load, missing_is_damage
from oblivion_dbm.engine.memtable import MemTable
from oblivion_dbm.engine.recovery import Recovery, replay_into
from oblivion_dbm.engine.tree import Tree
from oblivion_dbm.errors import error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import RLock
    from collections.abc import Sequence

    from oblivion_dbm.engine.filesystem import FileSystem
    from oblivion_dbm.engine.version import Version
    from oblivion_dbm.engine.wal import Segment


class Follower:
    """A tree that follows a store on disk, whoever writes it, or nobody.

    Raises CorruptionError for damage, and ``error`` for a store of a newer
    format.  It changes nothing on disk.
    """

    def __init__(self, filesystem: FileSystem, directory: str, lock: RLock) -> None:
        self._filesystem = filesystem
        self._directory = directory
        self._lock = lock
        self._word = GenerationWord(filesystem, directory)
        self._recovery: Recovery | None = None
        self._current = 0
        self._generation = -1
        self._appended = -1
        self._watched: Sequence[int] = (-1,)
        try:
            generation = self._word.words[0]
            version = load(filesystem, directory)
            self.tree = Tree(filesystem, directory, version.replace(runs=()))
            self._reload(generation)
        except BaseException:
            self.close()
            raise

    def value(self, key: bytes) -> bytes | None:
        """Return the value of ``key`` as of now, None where it has none."""
        if self._moved():
            self.refresh()
        return self.tree.lookup.value(key)

    def _moved(self) -> bool:
        return bool(self._word.words[0] != self._generation or self._watched[0] != self._appended)

    def refresh(self) -> None:
        """Take over what was written since the last look.  O(what is new)."""
        with self._lock:
            if self._recovery is None:
                return
            try:
                generation = self._word.words[0]
                if generation != self._generation:
                    self._reload(generation)
                else:
                    self._advance()
            except BaseException:
                self._generation = -1  # half done: the next look begins anew
                raise

    def _reload(self, generation: int) -> None:
        """Read the MANIFEST and open all it names before using any of it."""
        while True:
            version = load(self._filesystem, self._directory)
            try:
                self._open(version)
                break
            except error as problem:
                if load(self._filesystem, self._directory) == version:
                    raise missing_is_damage(problem) from problem
        self._generation = generation
        self._advance()

    def _open(self, version: Version) -> None:
        recovery = Recovery(self._filesystem, self._directory, version, readable_only=True)
        try:
            self.tree.adopt(version, self.tree.open_tables(version))
        except BaseException:
            recovery.close()
            raise
        self._watched, self._appended = (-1,), -1
        if self._recovery is not None:
            self._recovery.close()
        self._recovery = recovery
        self._current = 0
        self.tree.memtables = recovery.memtables[::-1] or [MemTable()]

    def _advance(self) -> None:
        """Apply what the log holds beyond what was read.

        Only a segment of this boot can be live; an older one was read whole.
        """
        recovery = self._recovery
        assert recovery is not None
        segments = recovery.segments
        while self._current < len(segments):
            place, segment = self._current, segments[self._current]
            self._watched = (-1,)
            if segment.boot == recovery.boot and not recovery.sealed[place]:
                self._read_on(recovery, place, segment)
            if not recovery.sealed[place] or place + 1 == len(segments):
                break
            self._current += 1
        if self._watched == (-1,):
            self._appended = -1
        self.tree.show()

    def _read_on(self, recovery: Recovery, place: int, segment: Segment) -> None:
        """Apply what was published in one segment since the last look."""
        appended = segment.appended
        visible = segment.synced()[0] if segment.synced_only else appended
        segment.reach(visible)  # after the look: both go on while this goes on
        memtable, start = recovery.memtables[place], recovery.ends[place]
        end, sealed = replay_into(memtable, segment.buffer, start, visible)
        if end < visible and not sealed:
            raise segment.explain(end)
        recovery.ends[place], recovery.sealed[place] = end, sealed
        self.tree.memtables[0].floor = None  # it knows of writes to its own layers only
        self._watched = segment.words
        self._appended = appended if end >= appended else -1

    def forget(self, lock: RLock) -> None:
        """Follow no more: what a forked child does, whose parent may hold the old lock."""
        self._lock = lock
        self._recovery = None

    def close(self) -> None:
        """Let go of all files."""
        self._watched = (-1,)
        self._word.close()
        if self._recovery is not None:
            self._recovery.close()
            self._recovery = None
