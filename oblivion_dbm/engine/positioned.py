"""A file that looks like a map, over ``pread`` and ``pwrite``.

For file systems where a log cannot be mapped, or where preallocation does not
promise room; and to test the map against.
"""

from __future__ import annotations

from errno import EIO

from oblivion_dbm.errors import error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oblivion_dbm.engine.filesystem import File, FileSystem


class PositionedFile:
    """Looks like a map for as much as the log needs, over ``pwrite``.

    A failed store leaves zeros behind (or, in the header, what was there) and,
    if even that cannot be written, refuses every later one.  ``header`` is
    where the header ends.
    """

    def __init__(self, filesystem: FileSystem, file: File, header: int) -> None:
        self._filesystem = filesystem
        self._header = header
        self._file = file
        self._broken = False

    def __setitem__(self, place: slice, data: bytes) -> None:
        if self._broken:
            meaning = "an earlier write failed half way and could not be undone"
            raise error(EIO, meaning, self._file.path)
        before = self[place] if place.stop <= self._header else b""
        try:
            self._filesystem.write(self._file, place.start, data)
        except BaseException:
            self._broken = True
            size = self._filesystem.size(self._file)
            left = max(0, min(place.stop, size) - place.start)
            self._filesystem.write(self._file, place.start, before or bytes(left))
            self._broken = False
            raise

    def __getitem__(self, place: slice) -> bytes:
        return self._filesystem.read(self._file, place.start, place.stop - place.start)

    def __len__(self) -> int:
        return self._filesystem.size(self._file)

    def close(self) -> None:
        """Do nothing: the file is closed by who opened it."""


class PositionedWord:
    """Looks like a view of the one word (u64) at ``place``, over ``pwrite``."""

    def __init__(self, target: PositionedFile, place: int) -> None:
        self._target = target
        self._place = slice(place, place + 8)
        self._value = int.from_bytes(target[self._place], "little")

    def __setitem__(self, index: int, value: int) -> None:
        self._target[self._place] = value.to_bytes(8, "little")
        self._value = value

    def __getitem__(self, index: int) -> int:
        return self._value

    def release(self) -> None:
        """Do nothing: there is no map to let go."""
