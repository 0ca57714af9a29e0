"""The errors of this package; every one of them is an ``OSError``.

::

    OSError
    └── error              anything the store refuses or cannot do
        ├── CorruptionError    bytes on disk that do not check
        └── ConflictError      what a transaction has read or written has changed

``error`` carries ``errno``, ``strerror`` and ``filename`` where there is a
file to name, as ``dbm.gnu.error`` does.
"""

from __future__ import annotations

from errno import EAGAIN, EIO

#: Bytes of a key that a message shows.
LONGEST_SHOWN = 60


class error(OSError):  # noqa: N801 - the name every dbm module gives its error class
    """What a store raises; catch this one to catch them all."""


class CorruptionError(error):
    """Bytes of ``filename`` that do not check, found at ``offset``.

    ``meaning`` says what was expected there and what was found.  A read that
    meets damage raises this, never ``KeyError`` and never a wrong value.
    """

    def __init__(self, filename: str, offset: int, meaning: str) -> None:
        super().__init__(EIO, f"damaged at byte {offset}: {meaning}", filename)
        self.offset = offset
        self.meaning = meaning

    def __reduce__(self) -> tuple[type[CorruptionError], tuple[str, int, str]]:
        return CorruptionError, (self.filename, self.offset, self.meaning)


class ConflictError(error):
    """A transaction was not committed: another write came in between.

    ``key`` no longer holds what it held when the transaction began; it is None
    where the transaction knows no more than the number of keys, by ``len``, and
    that has changed.  Nothing was written: run the transaction again, from its
    first read on.
    """

    def __init__(self, key: bytes | None) -> None:
        what = "the number of keys" if key is None else f"key {_short(key)}"
        super().__init__(
            EAGAIN, f"{what} has changed since the transaction began; run the transaction again"
        )
        self.key = key

    def __reduce__(self) -> tuple[type[ConflictError], tuple[bytes | None]]:
        return ConflictError, (self.key,)


def _short(key: bytes) -> str:
    return repr(key) if len(key) <= LONGEST_SHOWN else f"{key[:LONGEST_SHOWN]!r}..."
