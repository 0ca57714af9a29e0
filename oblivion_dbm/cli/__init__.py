"""The program ``oblivion-dbm``: words, tables, exit codes.

Each command is a module of this package that defines ``COMMAND``; to add one,
write the module and put it into ``_COMMANDS``.  Output goes to stdout, every
complaint to stderr as one line; the exit codes are in :mod:`.command`.
"""

from __future__ import annotations

import io
import os
import sys
from argparse import SUPPRESS, ArgumentParser, RawDescriptionHelpFormatter
from typing import TYPE_CHECKING

from oblivion_dbm.cli import backup, import_wal, repair, restore, run, stats, tour, verify
from oblivion_dbm.cli.command import FAILED, INTERRUPT, Command, version

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

PROGRAM = "oblivion-dbm"

_COMMANDS: tuple[Command, ...] = (
    tour.COMMAND,
    run.COMMAND,
    import_wal.COMMAND,
    verify.COMMAND,
    repair.COMMAND,
    backup.COMMAND,
    restore.COMMAND,
    stats.COMMAND,
)

_EXIT_CODES = """\
exit codes:
  0    done, and nothing was found wrong
  1    it could not be done, or a check found something
  2    the command line makes no sense; nothing was touched
  130  interrupted

`oblivion-dbm COMMAND --help` shows a command's arguments and an example."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (without the program's name) and return its exit code.

    ``argv`` is ``sys.argv[1:]`` by default.  Raises SystemExit for usage
    errors, ``--help`` and ``--version``, as argparse does.  The command
    ``run`` lets everything through that its script raises.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if run.is_script(words):
        return run.start(words[1:])
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A path need not be text; stderr escapes what it cannot encode by itself.
        sys.stdout.reconfigure(errors="backslashreplace")
    arguments = _parser().parse_args(words)
    try:
        status: int = arguments.command.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has left; Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        _complain("interrupted")
        return INTERRUPT
    except OSError as failure:
        _complain(_one_line(failure))
        return FAILED
    return status


def _parser() -> ArgumentParser:
    # The commands are listed here, since argparse breaks the lines of the longer words.
    width = max(len(command.name) for command in _COMMANDS)
    lines = [f"  {command.name:<{width}}  {command.summary}" for command in _COMMANDS]
    parser = ArgumentParser(
        prog=PROGRAM,
        usage=f"{PROGRAM} [-h] [--version] COMMAND ...",
        description="An embedded, ordered key-value store: try it, look at it, move into it.",
        epilog="\n".join(["commands:", *lines, "", _EXIT_CODES]),
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {version()}")
    words = parser.add_subparsers(prog=PROGRAM, metavar="COMMAND", required=True, help=SUPPRESS)
    for command in _COMMANDS:
        word = words.add_parser(
            command.name,
            description=command.description,
            epilog=f"example:\n  {command.example}",
            formatter_class=RawDescriptionHelpFormatter,
        )
        command.arguments(word)
        word.set_defaults(command=command)
    return parser


def _one_line(failure: OSError) -> str:
    if failure.strerror and failure.filename is not None:
        text = f"{os.fsdecode(failure.filename)}: {failure.strerror}"
    else:
        text = str(failure)
    return " ".join(text.split())


def _complain(text: str) -> None:
    print(f"{PROGRAM}: {text}", file=sys.stderr)
