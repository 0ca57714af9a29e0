"""Figures in words, the same in all commands."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """A number of things whose plural ends in s.

    >>> counted(1, "record"), counted(1_234, "put")
    ('1 record', '1,234 puts')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def megabytes(count: int) -> str:
    """Bytes as text, in MB of 1,000,000 bytes.

    >>> megabytes(31_525_224)
    '31.5 MB'
    """
    return f"{count / 1e6:,.1f} MB"
