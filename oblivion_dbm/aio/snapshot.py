"""A Snapshot for asyncio."""

from __future__ import annotations

from oblivion_dbm.aio.reads import Reads
from oblivion_dbm.snapshot import Snapshot as SnapshotMapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import TracebackType
    from typing import Any

    from oblivion_dbm.aio.off_loop import OffLoop


class Snapshot(Reads):
    """The store as it was at one moment: all methods that read.  ``async with``, or ``close``."""

    def __init__(self, off_loop: OffLoop, make: Callable[[], SnapshotMapping]) -> None:
        self._off_loop = off_loop
        self._make = make
        self._snapshot: SnapshotMapping | None = None

    def _mapping(self) -> SnapshotMapping:
        self._off_loop.check()
        if self._snapshot is None:
            raise RuntimeError("a snapshot is made by `async with` or `await`")
        return self._snapshot

    async def _begin(self) -> Snapshot:
        self._off_loop.check()
        if self._snapshot is None:
            self._snapshot = await self._off_loop.acquire(self._make, SnapshotMapping.close)
        return self

    def __await__(self) -> Generator[Any, None, Snapshot]:
        return self._begin().__await__()

    @property
    def sequence(self) -> int:
        """The ``sequence`` that the store had when this was made."""
        return self._mapping().sequence

    async def close(self) -> None:
        """Let go of the state; a second time is fine.  Walks raise from then on."""
        snapshot = self._mapping()
        try:
            await self._read(snapshot.close)  # what it held last may take its time to go
        finally:
            snapshot.close()

    async def __aenter__(self) -> Snapshot:
        return await self._begin()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
