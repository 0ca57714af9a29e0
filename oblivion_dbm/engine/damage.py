"""What is known of damaged bytes: losses, gaps in a run, and records that searching finds.

A disk that fails often cannot read some blocks of a file.  A map of such a block
kills the process, so nothing is mapped here, and what cannot be read counts as
zeros, which no crc takes for anything.
"""

from __future__ import annotations

import re
from contextlib import suppress
from errno import EIO, ENOTSUP
from itertools import pairwise
from typing import NamedTuple

from oblivion_dbm.engine.record import HEAD, OVERHEAD, RESIDUE, crc32c, unpack_length
from oblivion_dbm.errors import error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from oblivion_dbm.engine.filesystem import File, FileSystem
    from oblivion_dbm.engine.ranges import Range

    #: Gives the bytes from an offset on, so many of them.
    Piece = Callable[[int, int], bytes]

#: What a loss of certainty may mean.
BACK = "deleted keys and old values may be back"
#: What is read at once of a file that may not be readable, and the unit that fails.
_PIECE, _BLOCK = 1 << 20, 4096
#: Bytes that a search checks, of records up to ``_LONG`` and of longer ones: so many
#: times those that it was given.  Apart, as random bytes claim long records only.
_EFFORT, _LONG = 16, 1 << 16


class Loss(NamedTuple):
    """Bytes of ``file`` that could not be saved, and what they were."""

    file: str
    offset: int
    length: int
    meaning: str

    def __repr__(self) -> str:
        return f"{self.file}: {self.length} bytes from byte {self.offset} on: {self.meaning}"


class Damage(NamedTuple):
    """A part of a table that does not check; it may have hidden any key in [start, stop).

    With ``search`` there may be records in it whose places nobody knows.
    """

    file: str
    offset: int
    length: int
    meaning: str
    start: bytes = b""
    stop: bytes | None = None
    search: bool = False

    @property
    def range(self) -> Range:
        """The keys that it may have hidden."""
        return self.start, self.stop

    def to(self, later: Damage) -> Damage:
        """Return one damage from here up to the end of a later one of the same file."""
        length = later.offset + later.length - self.offset
        return self._replace(length=length, stop=later.stop, search=True)


class PatientFiles:
    """A FileSystem for reading what is damaged: it maps nothing and goes on past bad blocks.

    Blocks that the system cannot read (EIO) come as zeros; ``unreadable`` holds
    their (path, offset).  All else is as in the FileSystem behind it.
    """

    def __init__(self, filesystem: FileSystem) -> None:
        self._filesystem = filesystem
        self.unreadable: dict[tuple[str, int], None] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._filesystem, name)

    def map(self, file: File, length: int, writable: bool = False) -> Any:
        """Refuse: to touch a block that cannot be read would kill the process."""
        how = "written" if writable else "read"
        raise error(ENOTSUP, f"{length} bytes are to be {how}, not mapped", file.path)

    def read(self, file: File, offset: int, length: int) -> bytes:
        """Return up to ``length`` bytes; fewer only at the end of the file."""
        length = max(0, min(length, self._filesystem.size(file) - offset))
        return b"".join(
            self._read(file, at, min(_PIECE, offset + length - at))
            for at in range(offset, offset + length, _PIECE)
        )

    def _read(self, file: File, offset: int, length: int) -> bytes:
        try:
            return self._filesystem.read(file, offset, length)
        except error as problem:
            if problem.errno != EIO:
                raise
        end = offset + length
        cuts = [offset, *range(offset - offset % _BLOCK + _BLOCK, end, _BLOCK), end]
        return b"".join(self._read_block(file, at, to - at) for at, to in pairwise(cuts))

    def _read_block(self, file: File, offset: int, length: int) -> bytes:
        try:
            return self._filesystem.read(file, offset, length)
        except error as problem:
            if problem.errno != EIO:
                raise
        self.unreadable[file.path, offset - offset % _BLOCK] = None
        return bytes(length)


class Reading:
    """A file that is open for reading within a ``with`` statement."""

    __slots__ = ("_file", "_files", "_path")

    def __init__(self, files: Any, path: str) -> None:
        self._files = files
        self._path = path

    def __enter__(self) -> Reading:
        self._file: File = self._files.open(self._path)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(error):  # what was only read has nothing to lose
            self._files.close(self._file)

    @property
    def size(self) -> int:
        """The file's length."""
        return int(self._files.size(self._file))

    def piece(self, offset: int, length: int) -> bytes:
        """Return up to ``length`` bytes; fewer only at the end of the file."""
        data: bytes = self._files.read(self._file, offset, length)
        return data


def search(piece: Piece, start: int, end: int, kinds: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, record) of what looks like sound records of ``kinds`` in [start, end).

    They may be bytes inside a value.  Where one is found the search goes on
    behind it.  O(bytes): where so many of them pretend to be records that it
    would take longer, it passes over what it would find.  So it does over keys
    of 16 MiB and more.
    """
    head = re.compile(b"(?=[" + re.escape(kinds) + rb"]...\0)", re.DOTALL)
    efforts = [_EFFORT * (end - start) + _LONG] * 2
    at = start
    while at + OVERHEAD <= end:
        data = piece(at, min(_PIECE, end - at))
        place = 0
        while match := head.search(data, place):
            place = match.start() + 1
            length = _claimed(piece, at + match.start(), end)
            kind = length > _LONG
            if length > efforts[kind]:
                continue
            efforts[kind] -= length
            record = data[match.start() : match.start() + length]
            if len(record) < length:
                record = piece(at + match.start(), length)
            if length and crc32c(record) == RESIDUE:
                yield at + match.start(), record
                place = match.start() + length
        at += max(len(data) - HEAD.size + 1, place)


def _claimed(piece: Piece, offset: int, end: int) -> int:
    """Return the length that a record at ``offset`` would have, 0 where it would not fit."""
    _, key_length = HEAD.unpack(piece(offset, HEAD.size))
    value_at = offset + HEAD.size + key_length
    if value_at + 8 > end:
        return 0
    length = int(value_at + 8 + unpack_length(piece(value_at, 4))[0] - offset)
    return length if offset + length <= end else 0


def shown(key: bytes) -> str:
    """Return a key as text for people, shortened where it is long."""
    return repr(key) if len(key) <= 40 else f"{key[:40]!r}..."


def between(start: bytes, stop: bytes | None) -> str:
    r"""Return a range of keys as text for people.

    >>> between(b"a\0", b"c"), between(b"", None)
    ("keys from b'a\\x00' up to b'c'", 'all keys')
    """
    if not start and stop is None:
        return "all keys"
    return f"keys from {shown(start)}" + ("" if stop is None else f" up to {shown(stop)}")
