"""What a repair has saved, and what it has not."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from oblivion_dbm.engine.damage import Loss


class Report:
    """What became of a damaged store; its ``repr`` is text for people.

    ===============  ============================================================
    ``path``         the repaired store
    ``old``          the damaged one, as it was
    ``saved``        records in the repaired store
    ``taken``        names of the files that it was made of
    ``dropped``      (name, reason) of files that were not used
    ``losses``       what could not be saved: a list of Loss (file, offset,
                     length, meaning); [] where nothing was lost
    ``notes``        damage that has cost nothing by itself: a list of Loss
    ``tails``        ends of logs that were never synced, which recovery would have
                     dropped too: a list of Loss; they are in ``.lost`` files of ``path``
    ``found``        records that were found by searching and handed over
    ``doubtful``     records that may be old or deleted: handed over, or merged
    ``merged``       how many doubtful ones were merged
    ``handed_over``  the file of those that were handed over, None where there are none
    ===============  ============================================================
    """

    __slots__ = (
        "doubtful", "dropped", "found", "handed_over", "losses", "merged", "notes", "old", "path",
        "saved", "tails", "taken",
    )  # fmt: skip

    def __init__(self, path: str, old: str) -> None:
        self.path = path
        self.old = old
        self.saved = 0
        self.taken: list[str] = []
        self.dropped: list[tuple[str, str]] = []
        self.losses: list[Loss] = []
        self.notes: list[Loss] = []
        self.tails: list[Loss] = []
        self.found = self.doubtful = self.merged = 0
        self.handed_over: str | None = None

    def move(self, old: str) -> None:
        """Say that the damaged store is at ``old`` now."""
        for name in ("losses", "notes", "tails"):
            moved = [
                each._replace(file=old + each.file[len(self.old) :]) for each in getattr(self, name)
            ]
            setattr(self, name, moved)
        self.old = old

    def lines(self) -> Iterator[str]:
        """Yield the report as lines for people."""
        yield f"repaired store: {self.path}, records: {self.saved:,}"
        yield f"damaged store, as it was: {self.old}"
        if self.taken:
            yield f"made of: {', '.join(self.taken)}"
        yield from (f"not used: {name}: {why}" for name, why in self.dropped)
        yield from (f"damaged, at no cost: {note!r}" for note in self.notes)
        yield from (f"never synced, kept aside: {tail!r}" for tail in self.tails)
        yield from (f"lost: {loss!r}" for loss in self.losses)
        if self.merged:
            yield f"merged though they may be old or deleted: {self.merged:,} records"
        if self.handed_over is not None:
            doubtful = self.doubtful - self.merged
            yield (
                f"handed over in {self.handed_over}: {self.found:,} records that were found by "
                f"searching, {doubtful:,} that may be old or deleted"
            )
        if not self.losses:
            yield "nothing was lost"

    def __repr__(self) -> str:
        return "\n".join(self.lines())
