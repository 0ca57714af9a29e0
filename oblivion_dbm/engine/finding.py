"""A Finding: one thing that is wrong with a store, for whoever has to look after it."""

from __future__ import annotations

from errno import EACCES, EMFILE, ENFILE, ENOMEM, EPERM

from oblivion_dbm.errors import CorruptionError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oblivion_dbm.errors import error


#: What tells of the process that looks, and of nothing that it looks at.
_OF_THE_PROCESS = {EACCES, EMFILE, ENFILE, ENOMEM, EPERM}


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
    """Return what an error tells of the store, which was raised at work on ``path``.

    Raises it where it tells nothing: there are no descriptors left, say, or the user
    may not read this.
    """
    if problem.errno in _OF_THE_PROCESS:
        raise problem
    if isinstance(problem, CorruptionError):
        return Finding(problem.filename, problem.offset, problem.meaning)
    return Finding(str(problem.filename or path), 0, problem.strerror or str(problem))
