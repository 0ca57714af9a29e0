"""How long single calls take while the store flushes and merges behind them.

    python benchmarks/latency.py --plot latency.svg

Fills a store, then puts another value under each of its keys, in random order, and times
each put, and a get of a random key after every fourth. Beside them stands the same loop,
for the same time, where a put makes its record and stores it nowhere: what is slow there
is the machine, or the interpreter's switching between threads. README.md beside this file
says how to read it.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import tempfile
import threading
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import pairwise
from math import ceil, log10
from pathlib import Path
from random import Random
from time import perf_counter, perf_counter_ns, sleep
from typing import NamedTuple

from measurements import KEY_BYTES, VALUE_BYTES

from oblivion_dbm import Database
from oblivion_dbm.engine.record import PUT, encode

#: Values to choose from; more of them would tell no more.
VALUES = 4096
#: What the thread beside the control does: it computes so many seconds, then sleeps so many.
BURST, BREATH = 0.0015, 0.00005
PERCENTILES = (50.0, 90.0, 99.0, 99.9, 99.99, 99.999)
#: Upper ends of the rows of a histogram, in ns: 1, 2 and 5 of each decade.
ENDS = [mantissa * 10**decade for decade in range(2, 10) for mantissa in (1, 2, 5)]
BAR = 30


class Latencies(NamedTuple):
    """Nanoseconds that calls took, one after the other."""

    name: str
    times: array[int]

    def summary(self) -> dict[str, float]:
        """Return percentiles, the longest and the mean, in µs."""
        ordered = sorted(self.times)
        figures = {
            f"{percent:g}%": ordered[ceil(len(ordered) * percent / 100) - 1] / 1e3
            for percent in PERCENTILES
        }
        figures["longest"] = ordered[-1] / 1e3
        figures["mean"] = sum(ordered) / len(ordered) / 1e3
        return figures

    def histogram(self) -> list[int]:
        """Return how many calls took up to each of ENDS, and longer than the one before."""
        ordered = sorted(self.times)
        places = [0, *(bisect_right(ordered, end) for end in ENDS)]
        return [end - begin for begin, end in pairwise(places)]


class Records:
    """Keys and values, cut out of a few long strings.

    Objects by the million would keep the garbage collector busy, and the processor's caches.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self._random = Random(seed)
        self._keys = self._random.randbytes(KEY_BYTES * count)
        self.values = [self._random.randbytes(VALUE_BYTES) for _ in range(VALUES)]

    def keys(self) -> Iterator[bytes]:
        """Yield every key once, in an order that is another one each time."""
        order = array("I", range(self.count))
        self._random.shuffle(order)
        keys = self._keys
        for number in order:
            yield keys[KEY_BYTES * number : KEY_BYTES * (number + 1)]


class Control:
    """Makes the record of every put, and remembers none."""

    def __setitem__(self, key: bytes, value: bytes) -> None:
        encode(PUT, key, value)

    def __getitem__(self, key: bytes) -> None:
        pass


def fill(db: Database, records: Records) -> float:
    """Put every record; return the seconds it took."""
    begin = perf_counter()
    values = records.values
    for number, key in enumerate(records.keys()):
        db[key] = values[number % VALUES]
    return perf_counter() - begin


def overwrite(
    db: Database | Control, records: Records, every: int
) -> tuple[array[int], array[int]]:
    """Put another value under each key; return the ns of each put, and of each get between."""
    puts, gets = _zeros(records.count), _zeros(records.count // every)
    values, now = records.values, perf_counter_ns
    others = records.keys()
    for number, key in enumerate(records.keys()):
        value = values[-number % VALUES]
        begin = now()
        db[key] = value
        puts[number] = now() - begin
        if number % every == every - 1:
            other = next(others)
            begin = now()
            db[other]
            gets[number // every] = now() - begin
    return puts, gets


def _zeros(count: int) -> array[int]:
    return array("Q", bytes(8 * count))


def control(records: Records, every: int, seconds: float) -> array[int]:
    """Return the ns of puts that reach no store, as many rounds of them as take ``seconds``."""
    times, end = array("Q"), perf_counter() + seconds
    while perf_counter() < end:
        times.extend(overwrite(Control(), records, every)[0])
    return times


def beside_a_thread(call: Callable[[], array[int]]) -> array[int]:
    """Call while a thread computes that lets go of the interpreter as the store's own does."""
    ended = threading.Event()

    def compute() -> None:
        while not ended.is_set():
            end = perf_counter() + BURST
            while perf_counter() < end:
                pass
            sleep(BREATH)

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        return call()
    finally:
        ended.set()
        thread.join()


def measure(records: Records, folder: Path, options: argparse.Namespace) -> list[Latencies]:
    """Return the latencies of one round."""
    with Database(folder / "store", sync=options.sync) as db:
        filled = fill(db, records)
        if options.rest:
            db.flush()
        begin = perf_counter()
        puts, gets = overwrite(db, records, options.get_every)
        seconds = perf_counter() - begin
        begin = perf_counter()
    closed = perf_counter() - begin
    times = f"fill {filled:.2f} s, overwrite {seconds:.2f} s, close {closed:.2f} s"
    print(times, file=sys.stderr)

    def alone() -> array[int]:
        return control(records, options.get_every, seconds / 2)

    return [
        Latencies("put", puts),
        Latencies("get", gets),
        Latencies("no store", alone()),
        Latencies("no store, a busy thread", beside_a_thread(alone)),
    ]


def text_of(found: list[Latencies]) -> str:
    """Return the percentiles as a table, and a histogram of each kind of call."""
    summaries = [each.summary() for each in found]
    rows = [["µs", *summaries[0]]]
    for each, summary in zip(found, summaries, strict=True):
        rows.append([each.name, *(f"{value:,.1f}" for value in summary.values())])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_line(row, widths) for row in rows]
    lines.insert(1, "|".join(["", *("-" * (width + 1) + ":" for width in widths), ""]))
    return "\n".join([*lines, *(_bars(each) for each in found)])


def _line(cells: list[str], widths: list[int]) -> str:
    name, *figures = map(str.rjust, cells, widths)
    return f"| {' | '.join([name.strip().ljust(widths[0]), *figures])} |"


def _bars(latencies: Latencies) -> str:
    """Return a histogram; bars grow with the logarithm, or the few slow calls would not show."""
    counts = latencies.histogram()
    used = [place for place, count in enumerate(counts) if count]
    most = log10(max(counts)) + 1
    lines = ["", f"{latencies.name}: {len(latencies.times):,} calls"]
    for place in range(used[0], used[-1] + 1):
        count = counts[place]
        bar = "#" * ceil(BAR * (log10(count) + 1) / most) if count else ""
        lines.append(f"  up to {_duration(ENDS[place]):>7} {count:>10,} {bar}")
    return "\n".join(lines)


def _duration(ns: int) -> str:
    for unit, size in (("s", 10**9), ("ms", 10**6), ("µs", 10**3)):
        if ns >= size:
            return f"{ns // size} {unit}"
    return f"{ns} ns"


def plot(found: list[Latencies], path: Path) -> None:
    """Draw the histograms into an SVG file, or whatever the ending of the path says."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.2 * len(found)))
    panels = figure.subplots(len(found), 1, sharex=True, squeeze=False)
    for axes, each in zip(panels.flat, found, strict=True):
        axes.stairs(each.histogram(), [50, *ENDS], fill=True, color="#d9541e")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.5)
        summary = each.summary()
        for name in ("50%", "99.99%", "longest"):
            axes.axvline(summary[name] * 1e3, color="#3d4f63", linewidth=0.8)
        figures = ", ".join(f"{name} {value:,.1f} µs" for name, value in summary.items())
        axes.set_title(f"{each.name}: {figures}", fontsize=8, loc="left")
        axes.set_ylabel("calls")
        axes.spines[["top", "right"]].set_visible(False)
    shown = [mark for mark in ENDS if str(mark)[0] == "1"]
    axes.set_xticks(shown, [_duration(mark) for mark in shown])
    figure.tight_layout()
    figure.savefig(path)


def pooled(rounds: list[list[Latencies]]) -> list[Latencies]:
    """Put the calls of all rounds together."""
    found = []
    for same in zip(*rounds, strict=True):
        times = array("Q")
        for each in same:
            times.extend(each.times)
        found.append(Latencies(same[0].name, times))
    return found


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--records", type=int, default=1_000_000, metavar="N")
    add("--rounds", type=int, default=1, metavar="N", help="each with a new store; pooled")
    add("--get-every", type=int, default=4, metavar="N", help="puts between two gets")
    add("--rest", action="store_true", help="flush and merge before the overwriting begins")
    add("--sync", default="normal", choices=["normal", "off"])
    add("--seed", type=int, default=1)
    add("--directory", type=Path, help="where the store is made, and removed again")
    add("--json", type=Path, metavar="FILE", help="write percentiles, and histograms by ENDS")
    add("--plot", type=Path, metavar="FILE.svg", help="draw the histograms (wants matplotlib)")
    return parser.parse_args(arguments)


def main() -> None:
    """Measure what the command line asks for, and report."""
    options = parse()
    rounds = []
    for number in range(options.rounds):
        folder = Path(tempfile.mkdtemp(prefix="latency-", dir=options.directory))
        try:
            rounds.append(measure(Records(options.records, options.seed + number), folder, options))
        finally:
            shutil.rmtree(folder)
    found = pooled(rounds)
    system = f"{platform.python_implementation()} {platform.python_version()}, {platform.system()}"
    print(f"{system}; {options.records:,} records, {options.rounds} rounds\n")
    print(text_of(found))
    if options.json:
        figures = {
            each.name: {
                "µs": each.summary(),
                "calls up to ns": dict(zip(ENDS, each.histogram(), strict=True)),
            }
            for each in found
        }
        options.json.write_text(json.dumps(figures, indent=1, ensure_ascii=False))
    if options.plot:
        plot(found, options.plot)


if __name__ == "__main__":
    main()
