"""A plot of what ``peers.py`` measured: one panel for each figure, one row for each store."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, log10
from pathlib import Path
from typing import Any

from report import MILLISECONDS, NANOSECONDS, Column, Medians, Sample

PANELS = (*NANOSECONDS, *MILLISECONDS)
ACROSS = 4
#: For the base and for its peers, from the smallest number of records to the largest.
BASE_SHADES = ("#f4b183", "#d9541e", "#8c2d04")
PEER_SHADES = ("#c9d3df", "#7f93a8", "#3d4f63")


def plot(samples: Sequence[Sample], base: str, path: Path) -> None:
    """Draw the medians into an SVG file, or whatever the ending of the path says."""
    from matplotlib.figure import Figure

    medians = [Medians(samples, records) for records in sorted({one.records for one in samples})]
    panels = [column for column in PANELS if any(_measured(each, column) for each in medians)]
    down = -(-len(panels) // ACROSS)
    bars = sum(len(each.engines) for each in medians)
    figure = Figure(figsize=(4 * ACROSS, down * (0.9 + 0.22 * bars)))
    grid = figure.subplots(down, ACROSS, squeeze=False)
    for axes, column in zip(grid.flat, panels, strict=False):
        _panel(axes, column, medians, base)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    sizes = ", ".join(f"{each.records:,}" for each in medians)
    figure.suptitle(f"Stores of {sizes} records (the darker, the more); further left is better")
    figure.tight_layout()
    figure.savefig(path)


def _measured(medians: Medians, column: Column) -> list[str]:
    return [name for name in medians.engines if medians.value(name, column.name) is not None]


def _panel(axes: Any, column: Column, medians: Sequence[Medians], base: str) -> None:
    names = list(dict.fromkeys(name for each in medians for name in _measured(each, column)))
    for number, each in enumerate(medians):
        # Side by side in the row of the store, the smallest number of records on top.
        shift = (number - (len(medians) - 1) / 2) * 0.8 / len(medians)
        for name in _measured(each, column):
            value = (each.value(name, column.name) or 0) / column.unit
            shades = BASE_SHADES if name == base else PEER_SHADES
            where = names.index(name) + shift
            axes.plot(value, where, "o", color=shades[number % len(shades)], markersize=6)
            text = f"{value:,.{column.digits}f}"
            beside = {"xytext": (6, 0), "textcoords": "offset points"}
            axes.annotate(text, (value, where), va="center", fontsize=7, **beside)
    axes.set_xscale("log")
    axes.set_xlim(*_decades(axes.get_xlim()))
    axes.tick_params(axis="x", which="minor", labelbottom=False)
    axes.grid(axis="x", color="#dddddd")
    axes.set_axisbelow(True)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), [_label(name, medians[-1]) for name in names], fontsize=8)
    axes.set_title(f"{column.name}, {'ns' if column in NANOSECONDS else 'ms'}", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)


def _decades(limits: tuple[float, float]) -> tuple[float, float]:
    """Widen the limits of an axis to powers of ten, with room for a label on the right."""
    low, high = floor(log10(limits[0])), ceil(log10(limits[1] * 1.5))
    return 10.0**low, 10.0**high


def _label(name: str, medians: Medians) -> str:
    """Mark the stores that were asked to hold fewer records than the others."""
    held = medians.held(name)
    return name if held == medians.records else f"{name} ({held:,})"
