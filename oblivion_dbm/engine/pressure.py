"""Pressure: how far writers may get ahead of flushes and merges.

Writers that never rest fill a MemTable as fast as the one before it is flushed.
So each flush would be due when the last one ends, merges would wait for ever, and
runs would pile up.  Therefore merges have their *share* of the time between two
flushes, the larger the more runs there are, and writers are slowed down, pause by
pause, to the pace at which flush and share go on::

    flush ........ share of merges ........ flush ........ share of merges ...
    MemTable fills ................. sealed, the next one fills ...
"""

from __future__ import annotations

from oblivion_dbm.engine.header_page import DATA_AT
from oblivion_dbm.engine.kernel import BUSY
from oblivion_dbm.engine.memtable import OVERHEAD as KEY_OVERHEAD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oblivion_dbm.engine.kernel import Appender
    from oblivion_dbm.engine.options import Options
    from oblivion_dbm.engine.tree import Tree

#: How much fuller than it should be the MemTable gets before writers have to wait.
OVERFULL = 1.25
#: Bytes of log between two looks at the MemTable's size: when nothing is under
#: way, when a flush or a merge is, and when writers are ahead of it.
STRIDE, FLUSH_STRIDE, PRESSED_STRIDE = 1 << 20, 1 << 18, 1 << 15
#: Memory that a byte of the log takes at most: a record has 13 bytes and its key.
MEMORY_PER_BYTE = 1 + KEY_OVERHEAD / 13
#: How full the MemTable may be when a flush begins, and how much fuller it may get
#: while that and the share of merges go on: full somewhat before their end.
ALLOWED_AT_FIRST, ALLOWED_MORE = 0.5, 0.6
#: Seconds that a writer pauses who is ahead of them, and how many times longer that
#: gets for each MemTable that it is ahead.
PAUSE, STEEPNESS = 0.002, 20


class Pressure:
    """What writers have filled, and what maintenance has done in the meantime.

    Maintenance, which calls ``flush_begins`` and all below it, is one thread;
    writers look on.  ``merging`` is set while a merge is under way.
    """

    def __init__(self, options: Options, tree: Tree, appender: Appender) -> None:
        self._options = options
        self._tree = tree
        self._appender = appender
        self.merging = False
        self.flushing = False
        #: Records of the present flush, and those of them that are written.
        self._records, self._written = 1, 0
        #: The share of merges: as a multiple of the flush, in pieces of work like those
        #: of which the flush was made, and the pieces that are missing.
        self._ratio, self._share, self._missing = 0.0, 0, 0

    # What writers ask.

    def fill(self) -> float:
        """Return how full the MemTable that takes writes is; 1.0 is its limit."""
        records = len(self._tree.memtables[0])
        logged = (self._appender.position & (BUSY - 1)) - DATA_AT
        memory = logged + KEY_OVERHEAD * records
        return memory / self._options.memtable_limit if records else 0.0

    def stride(self) -> int:
        """Return the bytes of log that may be written until somebody looks again.

        However small the records are, the MemTable is not overfull after them.
        """
        memory = (OVERFULL - self.fill()) * self._options.memtable_limit
        room = max(0, int(memory / MEMORY_PER_BYTE))
        if self.pause() != 0:
            return min(room, PRESSED_STRIDE)
        ahead = self.share_is_due or len(self._tree.memtables) > 1
        return min(room, FLUSH_STRIDE if ahead else STRIDE)

    def pause(self) -> float | None:
        """Return the seconds a writer should pause now, None: until this has changed.

        Who is further ahead pauses longer, so hardly anybody is ever stopped.
        """
        fill, options = self.fill(), self._options
        runs = len(self._tree.version.runs)
        if fill >= OVERFULL or (self.merging and runs >= options.stop_runs):
            return None
        ahead = fill - self._allowed()
        if ahead > 0:
            return PAUSE * (1 + STEEPNESS * ahead)
        return PAUSE if self.merging and runs >= options.slow_runs else 0.0

    def _allowed(self) -> float:
        """Return how full the MemTable may be now."""
        if self.flushing:
            done = self._written / self._records / (1 + self._ratio)
        elif self.share_is_due:
            missing = self._missing / max(1, self._share)
            done = 1 - missing * self._ratio / (1 + self._ratio)
        else:
            done = 0.0 if len(self._tree.memtables) > 1 else 1.0
        return min(1.0, ALLOWED_AT_FIRST + ALLOWED_MORE * done)

    # What maintenance tells.

    @property
    def share_is_due(self) -> bool:
        """Whether merges are to go on before the next flush begins."""
        return self._missing > 0

    def flush_begins(self, records: int, merges_wait: bool) -> None:
        """Begin to count a flush of so many records."""
        runs = len(self._tree.version.runs)
        self._ratio = runs / self._options.fan_in if merges_wait else 0.0
        self._records, self._written, self._share = max(1, records), 0, 0
        self.flushing = True

    def flush_ends(self) -> None:
        """Begin the share of merges."""
        self.flushing = False
        self._share = self._missing = int(self._ratio * self._share)

    def piece_is_done(self, records: int) -> None:
        """Count a piece of work, of a flush with the records that it has written."""
        if self.flushing:
            self._written += records
            self._share += 1
        else:
            self._missing -= 1

    def end_share(self) -> None:
        """Let the next flush begin: there is nothing to merge, or merging has failed."""
        self._missing = 0
