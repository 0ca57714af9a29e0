"""What of a table that may be damaged tells about its records: the footer, and sound blocks."""

from __future__ import annotations

from oblivion_dbm.engine.kernel import PROBE_LIMIT, SLOTS_PER_PAIR
from oblivion_dbm.engine.record import crc32c
from oblivion_dbm.engine.sstable import (
    BLOCK,
    FOOTER,
    GROUP,
    LENGTHS,
    LONGEST_TABLE,
    RECORDS_AT,
    SUMS,
    WIDTHS,
    block_seed,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from oblivion_dbm.engine.damage import Piece

    #: By section and number, the bytes of blocks that check.
    Blocks = dict[tuple[int, int], bytes | None]

#: Blocks that are kept: 4 MiB.  Keys in order lead to the index in no order.
_MOST_BLOCKS = 1024


class Layout:
    """Where the parts of a table of ``count`` records begin, and what they are checked with.

    It follows from where the records end, and from the longest of them.
    """

    __slots__ = ("begins", "count", "crcs_at", "number", "records_end", "sizes", "width")

    def __init__(self, number: int, count: int, records_end: int, longest: int) -> None:
        self.number = number
        self.count = count
        self.records_end = records_end
        self.width = next(width for width in sorted(WIDTHS) if longest >> 8 * width == 0)
        pairs = -(-3 * count // 32)
        self.sizes = sizes_of(count, self.width, pairs)
        self.begins: list[int] = []
        end = records_end
        for size in self.sizes:
            self.begins.append(-(-end // 8) * 8)
            end = self.begins[-1] + size
        self.crcs_at = -(-end // 8) * 8


class Footer:
    """What a table's footer says; it has checked."""

    __slots__ = (
        "begins", "count", "crc", "crcs_at", "first", "first_key", "last", "last_key", "level",
        "number", "part", "parts", "records_end", "seed", "sizes", "slot_count", "store_id",
        "width",
    )  # fmt: skip

    def __init__(self, data: bytes, crc: int) -> None:
        self.crc = crc
        keys = len(data) - FOOTER.size
        (
            _, self.store_id, self.number, puts, tombstones, self.first, self.last, self.level,
            self.part, self.parts, self.width, _, self.records_end, *begins, self.crcs_at, _,
            pairs, self.seed, _, _, first, last,
        ) = FOOTER.unpack(data[keys:])  # fmt: skip
        self.first_key, self.last_key = data[:first], data[first : first + last]
        self.count: int = puts + tombstones
        self.slot_count: int = SLOTS_PER_PAIR * pairs
        self.begins: list[int] = begins
        self.sizes = sizes_of(self.count, self.width, pairs)

    @property
    def is_possible(self) -> bool:
        """Whether its fields agree with each other."""
        ends = [begin + size for begin, size in zip(self.begins, self.sizes)]
        return (
            self.width in WIDTHS
            and 0 < self.count < LONGEST_TABLE
            and self.slot_count > 0
            and self.part < self.parts
            and self.first <= self.last
            and self.first_key <= self.last_key
            and RECORDS_AT < self.records_end <= self.begins[LENGTHS]
            and all(end <= begin for end, begin in zip(ends, [*self.begins[1:], self.crcs_at]))
        )


def sizes_of(count: int, width: int, pairs: int) -> list[int]:
    """Return the sizes of the five sections."""
    groups = -(-count // GROUP)
    slots = 8 * (SLOTS_PER_PAIR * pairs + PROBE_LIMIT)
    return [count * width, 8 * groups, 8 * groups, slots, 16 * pairs]


class Sections:
    """The sections of a table that is open; it keeps some blocks of them in ``blocks``."""

    def __init__(
        self, layout: Footer | Layout | None, piece: Piece, blocks: Blocks | None = None
    ) -> None:
        self._layout = layout
        self._piece = piece
        self._blocks: Blocks = {} if blocks is None else blocks

    def items(self, section: int, start: int, stop: int, width: int) -> list[int] | None:
        """Return items [start, stop) of a section, all in one block; None if it does not check."""
        if self._layout is None:
            return None
        number = start * width // BLOCK
        if (section, number) not in self._blocks:
            if len(self._blocks) >= _MOST_BLOCKS:
                self._blocks.clear()
            self._blocks[section, number] = self._checked(self._layout, section, number)
        data = self._blocks[section, number]
        if data is None:
            return None
        begin = start * width - number * BLOCK
        items: Any = memoryview(data)[begin : begin + (stop - start) * width]
        numbers: list[int] = items.cast(WIDTHS[width]).tolist()
        return numbers

    def sum_of(self, group: int) -> int | None:
        """Return the sum of a group as it stands there, also where its block does not check.

        Nothing but the very bytes of the group has it, so it proves itself.
        """
        if self._layout is None:
            return None
        found = self._piece(self._layout.begins[SUMS] + 8 * group, 8)
        return int.from_bytes(found, "little") if len(found) == 8 else None

    def _checked(self, layout: Footer | Layout, section: int, block: int) -> bytes | None:
        sizes, at = layout.sizes, block * BLOCK
        place = block + sum(-(-size // BLOCK) for size in sizes[:section])
        data = self._piece(layout.begins[section] + at, min(BLOCK, sizes[section] - at))
        seed = block_seed(layout.number, section, block)
        crc = self._piece(layout.crcs_at + 4 * place, 4)
        return data if crc32c(data, seed).to_bytes(4, "little") == crc else None
