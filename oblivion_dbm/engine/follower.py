"""The Follower: what a handle opened for reading keeps up with.

It holds no lock and blocks nobody.  Two words tell it that there is something
new: the generation in the LOCK file (the MANIFEST has changed) and
appended-up-to in the live log segment; each look costs some 30 ns.
"""

from __future__ import annotations

from oblivion_dbm.engine.filesystem import close_all
from oblivion_dbm.engine.lock import GenerationWord
from oblivion_dbm.engine.manifest import load, missing_is_damage
from oblivion_dbm.engine.memtable import MemTable
from oblivion_dbm.engine.recovery import Recovery, places
from oblivion_dbm.engine.tree import Tree
from oblivion_dbm.errors import error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import RLock
    from collections.abc import Sequence

    from oblivion_dbm.engine.filesystem import FileSystem
    from oblivion_dbm.engine.recovery import ReplayedLog
    from oblivion_dbm.engine.version import Version


class Follower:
    """A tree that follows a store on disk, whoever writes it, or nobody.

    ``sequence`` is the sequence number of the end of what was applied.  Raises
    CorruptionError for damage, and ``error`` for a store of a newer format.  It
    changes nothing on disk.
    """

    def __init__(
        self, filesystem: FileSystem, directory: str, lock: RLock, read_ahead: bool = False
    ) -> None:
        self._filesystem = filesystem
        self._directory = directory
        self._lock = lock
        self._word = GenerationWord(filesystem, directory)
        self._logs: list[ReplayedLog] = []
        self._ended = False
        #: The generation that was read: -1 makes the next look begin anew.
        self._loaded = -1
        # What the two words were when all there was had been applied.  Set when
        # that is shown, and not before: until then other threads come and wait.
        self._generation = -1
        self._appended = -1
        self._watched: Sequence[int] = (-1,)
        self.sequence = 0
        try:
            version = load(filesystem, directory)
            self.tree = Tree(filesystem, directory, version.replace(runs=()), read_ahead)
            self.refresh()
        except BaseException:
            self.close()
            raise

    def value(self, key: bytes) -> bytes | None:
        """Return the value of ``key`` as of now, None where it has none."""
        if self.moved():
            self.refresh()
        return self.tree.lookup.value(key)

    def moved(self) -> bool:
        """Tell whether there is something new.  Two looks at memory."""
        return bool(self._word.words[0] != self._generation or self._watched[0] != self._appended)

    def refresh(self) -> None:
        """Take over what was written since the last look.  O(what is new)."""
        with self._lock:
            if not self._ended and self.moved():
                self.tree.apart(self._lock, self._look)

    def _look(self) -> None:
        generation = self._word.words[0]
        loaded, self._loaded = self._loaded, -1  # if this is left half done
        if generation != loaded:
            self._reload(() if loaded == -1 else self._logs)
        self._advance()
        self._loaded = self._generation = generation

    def _reload(self, known: Sequence[ReplayedLog]) -> None:
        """Read the MANIFEST and open all it names before using any of it.

        A log that is ``known`` is kept with all that was applied, as no other
        ever has its number, but for longer copies of it in a backup: a flush that
        drops older logs, or a merge, costs the tables it made and no replay.
        """
        filesystem, directory = self._filesystem, self._directory
        while True:
            version = load(filesystem, directory)
            there = places(filesystem, directory, version)
            current = [log for log in known if log.begun and log.segment.is_current()]
            try:
                self._open(version, current)
                break
            except error as problem:
                same = load(filesystem, directory) == version
                if same and places(filesystem, directory, version) == there:
                    raise missing_is_damage(problem) from problem

    def _open(self, version: Version, known: Sequence[ReplayedLog]) -> None:
        recovery = Recovery(
            self._filesystem, self._directory, version, readable_only=True, known=known
        )
        try:
            self.tree.adopt(version, self.tree.open_tables(version))
        except BaseException:
            recovery.close()
            raise
        old, self._logs = self._logs, recovery.logs
        self.tree.memtables = [log.memtable for log in reversed(self._logs)] or [MemTable()]
        self.tree.show()
        close_all(log.segment for log in old if log not in self._logs)

    def _advance(self) -> None:
        """Apply what the logs hold beyond what was read, and watch where that ends.

        Only a segment of this boot can be live; an older one was read whole.
        """
        watched: Sequence[int] = (-1,)
        appended, sequence = -1, 0
        before = None
        for log in self._logs:
            if log.live and not log.sealed:
                watched, appended = log.segment.words, self._read_on(before, log)
            if log.begun:
                sequence = log.sequence
            if not log.sealed:
                break
            before = log
        self._watched, self._appended = watched, appended
        self.sequence = max(sequence, self.tree.flushed_up_to)

    def _read_on(self, before: ReplayedLog | None, log: ReplayedLog) -> int:
        """Apply what was published in one segment since the last look.

        Returns what appended-up-to was, -1 where not all below it is shown yet.
        """
        segment = log.segment
        appended = segment.appended
        if not log.begun:
            assert before is not None
            log.look(to_readers=True)
            if not log.follows(before):
                if log.filled:
                    raise log.misfit(before)
                return appended
            log.begin(before)
        shown = log.published(to_readers=True)
        segment.reach(shown)  # after the look: both go on while this goes on
        log.replay(shown)
        if log.end < shown and not log.sealed:
            raise segment.explain(log.end, shown)
        self.tree.memtables[0].floor = None  # it knows of writes to its own layers only
        # A thread that looks now may see this log's records but not its CLEAR;
        # it must not see those of the next log before that.
        self.tree.show()
        return appended if log.end >= appended else -1

    def forget(self, lock: RLock) -> None:
        """Follow no more: what a forked child does, whose parent may hold the old lock."""
        self._lock = lock
        self._ended = True
        self._logs = []

    def close(self) -> None:
        """Let go of all files.  Again is fine, also from several threads at once."""
        with self._lock:
            self._ended = True
            self._watched = (-1,)
            logs, self._logs = self._logs, []
            try:
                self._word.close()
            finally:
                close_all(log.segment for log in logs)
