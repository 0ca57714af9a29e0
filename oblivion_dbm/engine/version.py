"""A Version: which logs and tables make up the store, as an immutable value.

Runs stand newest first.  Records carry no sequence number, so **age is the
position in the Version**: a merge takes neighbours in age and its output
takes their place.  Each method returns a new Version and refuses what would
break that rule.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _Value:
    """Fields that are set once; equal when they are equal."""

    __slots__: tuple[str, ...] = ()

    def _fields(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._fields() == other._fields()

    def __hash__(self) -> int:
        return hash(self._fields())

    def __repr__(self) -> str:
        pairs = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"{type(self).__name__}({pairs})"


class TableInfo(_Value):
    """What the MANIFEST says of a table: enough to find, check and weigh it."""

    __slots__ = ("footer_crc", "number", "puts", "size", "tombstones")

    def __init__(self, number: int, size: int, footer_crc: int, puts: int, tombstones: int) -> None:
        self.number = number
        self.size = size
        self.footer_crc = footer_crc
        self.puts = puts
        self.tombstones = tombstones


class Run(_Value):
    """Tables in key order whose ranges do not overlap, made by one flush or merge.

    ``level`` is 0 for a flush, and one more than its inputs' for a merge.
    """

    __slots__ = ("level", "tables")

    def __init__(self, level: int, tables: tuple[TableInfo, ...]) -> None:
        self.level = level
        self.tables = tables

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(table.size for table in self.tables)

    @property
    def puts(self) -> int:
        """Records that are not tombstones."""
        return sum(table.puts for table in self.tables)

    @property
    def tombstones(self) -> int:
        """Records that are tombstones."""
        return sum(table.tombstones for table in self.tables)


class Version(_Value):
    """The state of a store on disk, as its MANIFEST names it.

    ``logs`` stand oldest first, ``runs`` newest first.  ``live`` is the number
    of keys in ``runs``, or None when nobody has counted.  ``extra`` holds
    fields of later versions that may be ignored but must be kept.
    """

    __slots__ = ("epoch", "extra", "live", "logs", "next_file", "runs", "seed", "store_id")

    def __init__(
        self,
        store_id: str,
        seed: int,
        *,
        epoch: int = 1,
        next_file: int = 1,
        logs: tuple[int, ...] = (),
        runs: tuple[Run, ...] = (),
        live: int | None = 0,
        extra: tuple[str, ...] = (),
    ) -> None:
        self.store_id = store_id
        self.seed = seed
        self.epoch = epoch
        self.next_file = next_file
        self.logs = logs
        self.runs = runs
        self.live = live
        self.extra = extra

    def replace(self, **changes: Any) -> Version:
        """Return this Version with some fields changed."""
        fields = {name: getattr(self, name) for name in self.__slots__} | changes
        return Version(fields.pop("store_id"), fields.pop("seed"), **fields)

    def numbers(self) -> set[int]:
        """Return the numbers of all files it names."""
        return {*self.logs, *(table.number for run in self.runs for table in run.tables)}

    def with_log(self, number: int) -> Version:
        """Return it with a new, youngest log segment."""
        if self.logs and number <= self.logs[-1]:
            raise ValueError(f"log {number} is not newer than log {self.logs[-1]}")
        return self.replace(logs=(*self.logs, number))

    def with_flush(self, run: Run | None, logs: tuple[int, ...], live: int | None) -> Version:
        """Return it with ``run`` (None: nothing to keep) as the newest.

        The run replaces ``logs``, which must be the oldest ones.
        """
        if self.logs[: len(logs)] != logs:
            raise ValueError(f"a flush of logs {logs} must begin with the oldest of {self.logs}")
        runs = self.runs if run is None else (run, *self.runs)
        return self.replace(runs=runs, logs=self.logs[len(logs) :], live=live)

    def with_merge(self, inputs: tuple[Run, ...], output: Run | None) -> Version:
        """Return it with ``output`` in the place of ``inputs``, neighbours in age."""
        for start in range(len(self.runs)):
            if inputs and self.runs[start : start + len(inputs)] == inputs:
                place = () if output is None else (output,)
                runs = self.runs[:start] + place + self.runs[start + len(inputs) :]
                live = runs[0].puts if len(runs) == 1 and not runs[0].tombstones else self.live
                return self.replace(runs=runs, live=live if runs else 0)
        raise ValueError("a merge must take runs that are neighbours in age, newest first")

    def cleared(self, logs: tuple[int, ...]) -> Version:
        """Return it without any run and without ``logs``, the oldest ones."""
        return self.with_flush(None, logs, 0).replace(runs=())
