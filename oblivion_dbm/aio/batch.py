"""A batch for asyncio: gathered by plain statements, written by its end."""

from __future__ import annotations

from oblivion_dbm.batch import Batch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any


class GatheredBatch:
    """Changes made as one at the end of ``async with``, or not at all if that raises.

    Inside, ``b[key] = value``, ``del b[key]`` and ``b.clear()`` are plain
    statements: they only gather.
    """

    def __init__(self, write: Callable[[dict[bytes, bytes | None], bool], Any]) -> None:
        self._write = write
        self._gathered: list[tuple[dict[bytes, bytes | None], bool]] = []
        self._batch = Batch(lambda changes, cleared: self._gathered.append((changes, cleared)))

    async def __aenter__(self) -> Batch:
        return self._batch.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._batch.__exit__(kind, problem, trace)
        while self._gathered:
            await self._write(*self._gathered.pop())
