"""``oblivion-dbm stats``: what a store counts about itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from oblivion_dbm.cli.command import OK, Command
from oblivion_dbm.database import Database

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("store", metavar="STORE", help="the store's directory")
    parser.add_argument("--json", action="store_true", help="one JSON object, for programs")


def _run(arguments: Namespace) -> int:
    with Database(arguments.store, "r") as database:
        figures = database.stats()
    if arguments.json:
        import json

        print(json.dumps(figures, indent=2, default=_text))
        return OK
    rows = list(_rows("", figures))
    width = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        print(f"{name:<{width}}  {text}")
    return OK


def _rows(name: str, value: object) -> Iterator[tuple[str, str]]:
    """(dotted name, text) for every figure below ``value``, in its own order."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _rows(f"{name}.{key}" if name else str(key), part)
    elif isinstance(value, (list, tuple)) and any(isinstance(part, Mapping) for part in value):
        for number, part in enumerate(value):
            yield from _rows(f"{name}.{number}", part)
    else:
        yield name, _text(value)


def _text(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, bytes):
        return repr(value)[2:-1]
    return str(value)


COMMAND = Command(
    name="stats",
    summary="show what a store counts about itself",
    description="Print a store's figures: one a line, or as JSON.",
    example="oblivion-dbm stats store --json",
    arguments=_arguments,
    run=_run,
)
