"""A Finding: one thing that is wrong with a store, for whoever has to look after it."""

from __future__ import annotations

from oblivion_dbm.errors import CorruptionError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oblivion_dbm.errors import error


class Finding:
    """Something that is wrong: ``file``, ``offset`` in it, and what it means.

    ``leftover`` tells of a file that a crash has left behind: nothing is lost, and
    the next writer removes it.
    """

    __slots__ = ("file", "leftover", "meaning", "offset")

    def __init__(self, file: str, offset: int, meaning: str, *, leftover: bool = False) -> None:
        self.file = file
        self.offset = offset
        self.meaning = meaning
        self.leftover = leftover

    def __repr__(self) -> str:
        return f"{self.file}: byte {self.offset}: {self.meaning}"


def found(problem: error, path: str) -> Finding:
    """Return what an error tells of, which was raised at work on ``path``."""
    if isinstance(problem, CorruptionError):
        return Finding(problem.filename, problem.offset, problem.meaning)
    return Finding(str(problem.filename or path), 0, problem.strerror or str(problem))
