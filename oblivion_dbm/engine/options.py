"""What a user may set when opening a store, checked before anything is touched."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FULL, NORMAL, OFF = SYNC_MODES = ("full", "normal", "off")
BACK_ENDS = ("auto", "mapped", "pwrite")

MEBIBYTE = 1 << 20
#: Seconds until a sync: some thirty years.
LONGEST_SYNC = 10**9


class Options:
    """The settings of one handle.  All sizes are bytes.

    =================  =========  ================================================
    name               default    meaning
    =================  =========  ================================================
    ``sync``           "normal"   "full", "normal", "off" or a number of seconds:
                                  what a crash of the machine may cost; see the README
    ``memtable_limit`` 40 MiB     memory of the MemTable (estimated, overhead
                                  included) at which it becomes a table
    ``table_limit``    256 MiB    records a table holds before a run gets a new part
    ``fan_in``         8          runs of one level that are merged into one
    ``space_ratio``    2.0        merge everything once the tables take 1 + this many
                                  times what is alive in the oldest run
    ``slow_runs``      40         runs from which on writers pause while a merge
                                  is under way
    ``stop_runs``      80         runs from which on they wait for it
    ``queue_limit``    16 MiB     records that may wait for ``put_async`` and its like
    ``background``     True       flush and merge in a thread of the store's own;
                                  False: in the writes that cause them
    ``read_ahead``     False      read what a look-up or a walk touches of a table before it
                                  does, so that no other thread stops while the disk is
                                  waited for; the default of ``aio``
    ``log_back_end``   "auto"     "mapped", "pwrite", or whichever works here
    ``lock_timeout``   0.0        seconds to wait for another writer to leave
    =================  =========  ================================================

    Raises TypeError for an unknown name and ValueError for an impossible value.
    """

    __slots__ = (
        "background",
        "fan_in",
        "lock_timeout",
        "log_back_end",
        "memtable_limit",
        "queue_limit",
        "read_ahead",
        "slow_runs",
        "space_ratio",
        "stop_runs",
        "sync",
        "table_limit",
    )

    def __init__(self, **settings: Any) -> None:
        self.sync: str | float = settings.pop("sync", NORMAL)
        self.memtable_limit: int = settings.pop("memtable_limit", 40 * MEBIBYTE)
        self.table_limit: int = settings.pop("table_limit", 256 * MEBIBYTE)
        self.fan_in: int = settings.pop("fan_in", 8)
        self.space_ratio: float = settings.pop("space_ratio", 2.0)
        self.slow_runs: int = settings.pop("slow_runs", 40)
        self.stop_runs: int = settings.pop("stop_runs", 80)
        self.queue_limit: int = settings.pop("queue_limit", 16 * MEBIBYTE)
        self.background: bool = settings.pop("background", True)
        self.read_ahead: bool = settings.pop("read_ahead", False)
        self.log_back_end: str = settings.pop("log_back_end", "auto")
        self.lock_timeout: float = settings.pop("lock_timeout", 0.0)
        if settings:
            known = ", ".join(self.__slots__)
            raise TypeError(f"unknown option {min(settings)!r}; there are: {known}")
        self._check()

    def _check(self) -> None:
        if isinstance(self.sync, (int, float)) and not isinstance(self.sync, bool):
            self._check_number("sync")
            if self.sync > LONGEST_SYNC:
                raise ValueError(f"sync must be at most {LONGEST_SYNC} seconds, not {self.sync!r}")
        else:
            self._check_choice("sync", SYNC_MODES, " or a number of seconds")
        self._check_choice("log_back_end", BACK_ENDS)
        for name, least in (
            ("memtable_limit", 1),
            ("table_limit", 1),
            ("fan_in", 2),
            ("slow_runs", 2),
            ("stop_runs", 2),
            ("queue_limit", 1),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be a whole number >= {least}, not {value!r}")
        self._check_number("space_ratio")
        self._check_number("lock_timeout")
        for name in ("background", "read_ahead"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, not {getattr(self, name)!r}")

    def _check_choice(self, name: str, choices: tuple[str, ...], more: str = "") -> None:
        if getattr(self, name) not in choices:
            raise ValueError(f"{name} must be one of {choices}{more}, not {getattr(self, name)!r}")

    def _check_number(self, name: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not value >= 0:
            raise ValueError(f"{name} must be a number >= 0, not {value!r}")
