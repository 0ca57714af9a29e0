"""Tables of what ``peers.py`` measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import NamedTuple

from engines import ENGINES
from measurements import KEY_BYTES, VALUE_BYTES


class Sample(NamedTuple):
    """One figure of one store in one round."""

    engine: str
    name: str
    records: int
    round: int
    value: float


class Column(NamedTuple):
    """A figure as a table shows it."""

    name: str
    unit: float = 1
    digits: int = 0


NANOSECONDS = (
    Column("fill"),
    Column("fill, closed"),
    Column("read"),
    Column("absent"),
    Column("scan"),
    Column("overwrite"),
    Column("overwrite, closed"),
    Column("read overwritten"),
    Column("scan overwritten"),
    Column("compact"),
    Column("read compacted"),
    Column("scan compacted"),
)
MILLISECONDS = (
    Column("open", 1e6, 2),
    Column("open, get, close", 1e6, 2),
    Column("process", 1e6, 1),
)
BYTES = (
    Column("bytes after fill"),
    Column("bytes after overwrite"),
    Column("bytes after compact"),
)
MEMORY = (
    Column("memory before fill", 1e6, 1),
    Column("memory peak", 1e6, 1),
)


class Medians:
    """The medians over all rounds for one number of records."""

    def __init__(self, samples: Iterable[Sample], records: int) -> None:
        self.records = records
        self._values: dict[tuple[str, str], dict[int, float]] = {}
        for sample in samples:
            if sample.records == records:
                rounds = self._values.setdefault((sample.engine, sample.name), {})
                rounds[sample.round] = sample.value
        measured = {engine for engine, _ in self._values}
        known = [engine.name for engine in ENGINES if engine.name in measured]
        self.engines = known + sorted(measured - set(known))

    def value(self, engine: str, name: str) -> float | None:
        """Return the median of a figure; None if the engine has no such figure."""
        values = self._values.get((engine, name))
        return median(values.values()) if values else None

    def ratio(self, base: str, engine: str, name: str) -> float | None:
        """Return the median of base / engine within each round."""
        ours = self._values.get((base, name), {})
        theirs = self._values.get((engine, name), {})
        ratios = [ours[number] / theirs[number] for number in ours.keys() & theirs.keys()]
        return median(ratios) if ratios else None

    def held(self, engine: str) -> int:
        """Return how many records the engine was asked to hold."""
        limits = {known.name: known.limit for known in ENGINES}
        return min(self.records, limits.get(engine) or self.records)


def report(samples: Sequence[Sample], base: str) -> str:
    """Return all tables, for each number of records, and the notes under them."""
    parts = []
    for records in sorted({sample.records for sample in samples}):
        medians = Medians(samples, records)
        parts += [f"## {records:,} records of {KEY_BYTES} + {VALUE_BYTES} bytes", *notes(medians)]
        parts += [times("Time of a call, ns", medians, NANOSECONDS)]
        parts += [times("Time of the whole, ms", medians, MILLISECONDS)]
        if base in medians.engines:
            parts += [ratios(medians, base)]
        parts += [sizes(medians), times("Anonymous memory of the process, MB", medians, MEMORY)]
    return "\n\n".join(filter(None, parts)) + "\n"


def notes(medians: Medians) -> list[str]:
    """Say what a reader has to know about each store."""
    lines = []
    for engine in ENGINES:
        if engine.name in medians.engines:
            bounded = medians.held(engine.name) < medians.records
            only = [f"**{medians.held(engine.name):,} records only**"] if bounded else []
            text = "; ".join([*only, *filter(None, [engine.note])])
            lines += [f"* {engine.name}: {text}"] if text else []
    return ["\n".join(lines)] if lines else []


def times(title: str, medians: Medians, columns: Sequence[Column]) -> str:
    """Return the medians of the columns that were measured; no columns, no table."""

    def cell(engine: str, column: Column) -> str:
        value = medians.value(engine, column.name)
        return "" if value is None else f"{value / column.unit:,.{column.digits}f}"

    return table(title, medians, columns, cell)


def ratios(medians: Medians, base: str) -> str:
    """Return how long the base takes as a multiple of each peer."""

    def cell(engine: str, column: Column) -> str:
        ratio = medians.ratio(base, engine, column.name)
        return "" if ratio is None or engine == base else f"{ratio:.2f}"

    title = f"Time of {base} / time of the peer (below 1: {base} is faster)"
    return table(title, medians, [*NANOSECONDS, *MILLISECONDS], cell)


def sizes(medians: Medians) -> str:
    """Return the bytes on disk, and what multiple of the keys and values they are."""

    def cell(engine: str, column: Column) -> str:
        value = medians.value(engine, column.name)
        if value is None:
            return ""
        payload = medians.held(engine) * (KEY_BYTES + VALUE_BYTES)
        return f"{value:,.0f} ({value / payload:.2f}x)"

    return table("Bytes on disk (multiple of keys and values)", medians, BYTES, cell)


def table(
    title: str,
    medians: Medians,
    columns: Sequence[Column],
    cell: Callable[[str, Column], str],
) -> str:
    """Return a Markdown table without the rows and columns that would be empty."""
    used = [column for column in columns if any(cell(engine, column) for engine in medians.engines)]
    rows = [["", *(column.name.removeprefix("bytes ") for column in used)]]
    rows += [[engine, *(cell(engine, column) for column in used)] for engine in medians.engines]
    rows = [row for row in rows if any(row[1:])]
    if not rows:
        return ""
    widths = [max(map(len, parts)) for parts in zip(*rows, strict=True)]
    lines = [_line([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    rule = _line(["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    return "\n".join([f"### {title}", "", lines[0], rule, *lines[1:]])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
