"""Files in memory, behind the interface of the file system."""

from __future__ import annotations

from errno import EEXIST, ENOENT

from oblivion_dbm import error
from oblivion_dbm.engine.filesystem import File, FileSystem


class Mapped(bytes):
    """The bytes of a map."""

    def close(self) -> None:
        """Let go of nothing."""


class Memory(FileSystem):
    """A directory of files; what is at a path is found by its last part."""

    def __init__(self, files: dict[str, bytes], boot: bytes = bytes(16)) -> None:
        self.files = {name: bytearray(data) for name, data in files.items()}
        self._boot = boot

    def _of(self, path: str) -> bytearray:
        try:
            return self.files[path.rpartition("/")[2]]
        except KeyError:
            raise error(ENOENT, "no such file", path) from None

    def create(self, path: str, mode: int = 0o666) -> File:
        name = path.rpartition("/")[2]
        if name in self.files:
            raise error(EEXIST, "there is such a file", path)
        self.files[name] = bytearray()
        return File(-1, path)

    def open(self, path: str, writable: bool = False) -> File:
        self._of(path)
        return File(-1, path)

    def close(self, file: File) -> None:
        """Let go of nothing."""

    def size(self, file: File) -> int:
        return len(self._of(file.path))

    def read(self, file: File, offset: int, length: int) -> bytes:
        return bytes(self._of(file.path)[offset : offset + length])

    def write(self, file: File, offset: int, data: bytes | memoryview) -> None:
        target = self._of(file.path)
        target.extend(bytes(max(0, offset + len(data) - len(target))))
        target[offset : offset + len(data)] = data

    def sync(self, file: File) -> None:
        """Sync nothing."""

    def map(self, file: File, length: int, writable: bool = False) -> Mapped:  # type: ignore[override]  # it is read as a map is
        return Mapped(self._of(file.path)[:length])

    def words(self, mapped: Mapped, offset: int, count: int) -> memoryview:  # type: ignore[override]  # as above
        return memoryview(mapped)[offset : offset + 8 * count].cast("Q")

    def remove(self, path: str) -> None:
        self._of(path)
        del self.files[path.rpartition("/")[2]]

    def list(self, path: str) -> list[str]:
        return sorted(self.files)

    def kind(self, path: str) -> str:
        if "/" not in path:
            return "directory"
        return "file" if path.rpartition("/")[2] in self.files else "missing"

    def exists(self, path: str) -> bool:
        return path.rpartition("/")[2] in self.files

    def boot(self) -> bytes:
        return self._boot

    def sleep(self, seconds: float) -> None:
        """Nobody else is at work."""
