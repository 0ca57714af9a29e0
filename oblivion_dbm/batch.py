"""A Batch: changes that are gathered first and then applied as one."""

from __future__ import annotations

from oblivion_dbm.bytes_like import to_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from oblivion_dbm.bytes_like import Bytes


class Batch:
    """Changes that are gathered, checked as they come, and applied as one.

    Nothing is visible before the ``with`` block ends, all of it after, and
    nothing if it ends by an exception.  Deleting an absent key is no error.
    """

    __slots__ = ("_changes", "_cleared", "_ended", "_write")

    def __init__(self, write: Callable[[dict[bytes, bytes | None], bool], None]) -> None:
        self._write = write
        self._changes: dict[bytes, bytes | None] = {}
        self._cleared = False
        self._ended = False

    def _check_open(self) -> None:
        if self._ended:
            raise ValueError("this batch has ended with its with block")

    def __setitem__(self, key: Bytes, value: Bytes) -> None:
        self._check_open()
        self._changes[to_bytes(key, "key")] = to_bytes(value, "value")

    def __delitem__(self, key: Bytes) -> None:
        self._check_open()
        self._changes[to_bytes(key, "key")] = None

    def clear(self) -> None:
        """Remove everything, the changes gathered so far included."""
        self._check_open()
        self._changes.clear()
        self._cleared = True

    def __enter__(self) -> Batch:
        self._ended = False
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended = True
        changes, self._changes = self._changes, {}
        cleared, self._cleared = self._cleared, False
        if kind is None and (changes or cleared):
            self._write(changes, cleared)
