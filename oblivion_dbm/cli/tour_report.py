"""The tour's report: a line for each step, begun when the step begins.

>>> report = Report(clock=iter([0.0, 1.5]).__next__)
>>> with report.step("store") as say:
...     say("1,790 files")
...     say("569,883 uses of a word")
 1  store    1,790 files                                                  1.50 s
             569,883 uses of a word
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_INDENT = 13


class Report:
    """Prints numbered steps with what they did and the seconds they took.

    Plain text of at most 80 columns, flushed as it is written, so that it
    reads the same in a terminal, a pipe and a file.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._steps = 0

    @contextmanager
    def step(self, title: str) -> Iterator[Callable[[str], None]]:
        """A step of the tour; call what is given with each line of what it did.

        The title is printed at once, the lines and the time at the end.  A
        step that raises ends with ``FAILED``, and the exception goes on.
        """
        self._steps += 1
        print(f"{self._steps:>2}  {title:<{_INDENT - 4}}", end="", flush=True)
        lines: list[str] = []
        begin = self._clock()
        try:
            yield lines.append
        except BaseException as reason:
            print("FAILED" if isinstance(reason, Exception) else "stopped", flush=True)
            raise
        seconds = self._clock() - begin
        first, *others = lines or [""]
        print(f"{first:<58} {seconds:>6.2f} s", flush=True)
        for line in others:
            print(" " * _INDENT + line, flush=True)
