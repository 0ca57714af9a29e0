"""The errors of this package; every one of them is an ``OSError``.

::

    OSError
    └── error              anything the store refuses or cannot do
        └── CorruptionError    bytes on disk that do not check

``error`` carries ``errno``, ``strerror`` and ``filename`` where there is a
file to name, as ``dbm.gnu.error`` does.
"""

from __future__ import annotations

from errno import EIO


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
