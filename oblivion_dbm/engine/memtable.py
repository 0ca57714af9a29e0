"""The MemTable: what was written since the last flush, in memory.

A ``Layer`` is a dict of key -> record; order is brought up to date only when
somebody asks for it, since a dict insert costs a tenth of an ordered one.  A
``MemTable`` is a stack of layers and covers exactly whole log segments.  A
snapshot *freezes* the top layer and puts an empty one on it; when nobody needs
that border any more, the younger layer is *poured* into the older.
"""

from __future__ import annotations

from itertools import islice

from oblivion_dbm.engine.record import PUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sortedcontainers import SortedList

    Stack = tuple[tuple["Layer", ...], tuple[Callable[[], "Border | None"], ...]]

#: Estimated bytes that a key and a record cost beyond the record's own length:
#: two object headers, the key's copy and the dict's slot.
OVERHEAD = 200


class Layer:
    """Records by key.  Keys are added and replaced, never removed.

    So the dict's order of insertion tells which keys are new since the order
    was last asked for, and since the keys were last classified.
    """

    __slots__ = ("_classified", "ordered", "records", "tombstones")

    def __init__(self) -> None:
        self.records: dict[bytes, bytes] = {}
        self.tombstones: set[bytes] = set()
        self.ordered: SortedList[bytes] | None = None
        #: How many keys, in their order of insertion, were looked up below, and
        #: how many of them have a value there.  Replaced as one.
        self._classified = (0, 0)

    def order(self) -> SortedList[bytes]:
        """Return the keys in order.  O(n log n) the first time, then O(new keys)."""
        from sortedcontainers import SortedList

        ordered = SortedList() if self.ordered is None else self.ordered
        new = len(self.records) - len(ordered)
        if new:
            self.ordered = None  # an interrupt would leave it half done
            ordered.update(list(islice(reversed(self.records), new)))
        self.ordered = ordered
        return ordered

    def pour(self, younger: Layer) -> None:
        """Take over what a younger layer holds.  O(len(younger)).

        A key that is new here is classified again when somebody counts.
        """
        self.records.update(younger.records)
        if self.tombstones:
            self.tombstones.difference_update(younger.records)
        self.tombstones.update(younger.tombstones)

    def live_change(self, value: Callable[[bytes], bytes | None]) -> int:
        """Return how many keys this layer adds to what lies below it.

        ``value(key)`` gives the value that a key has below; it is asked once
        for each key, the first time a count is wanted after it came.
        """
        classified, live_below = self._classified
        new = len(self.records) - classified
        keys = list(islice(reversed(self.records), new))
        # A look-up may raise; then all of them are asked again.
        live_below += sum(value(key) is not None for key in keys)
        self._classified = classified + new, live_below
        return len(self.records) - len(self.tombstones) - live_below

    def chunks(
        self, start: bytes | None, stop: bytes | None, reverse: bool, sizes: Iterator[int]
    ) -> Iterator[tuple[list[bytes], list[bytes]]]:
        """Yield (keys, records) of a frozen layer that was put in order.

        ``sizes`` gives the sizes of the chunks.  Each chunk ascends; in reverse the chunks descend.
        """
        keys = self.ordered
        if keys is None:
            return
        low = 0 if start is None else keys.bisect_left(start)
        high = len(keys) if stop is None else keys.bisect_left(stop)
        while low < high:
            size = next(sizes)
            if reverse:
                part = list(keys[max(low, high - size) : high])
                high -= size
            else:
                part = list(keys[low : min(high, low + size)])
                low += size
            yield part, [self.records[key] for key in part]


class Border:
    """A frozen border between layers; whoever needs it holds it.

    It is let go by forgetting it: the MemTable keeps only a weak reference.
    """

    __slots__ = ("__weakref__", "layers")

    def __init__(self, layers: tuple[Layer, ...]) -> None:
        self.layers = layers


class MemTable:
    """A stack of layers, the newest first, over the tables.

    ``cleared`` tells that everything older than this MemTable is gone.
    Guarded by the engine's lock; readers use the layers through a view.
    """

    __slots__ = ("_stack", "cleared", "floor", "last_sequence", "log")

    def __init__(self, floor: bytes | None = None) -> None:
        #: The log segment that holds the same records, and the sequence number
        #: at its end once it is sealed.
        self.log = 0
        self.last_sequence = 0
        #: No key below it has a value, here or in what lies below; the top
        #: layer apart.  Spares a loop of ``popitem`` the tombstones it leaves.
        self.floor = floor
        self.reset(cleared=False)

    def reset(self, cleared: bool) -> None:
        """Empty it; ``cleared`` tells that everything older is gone too."""
        self.cleared = cleared
        if cleared:
            self.floor = None
        #: The layers, and for each a weak reference to the border on top of it.
        #: Replaced as one, so that an interrupt finds the old or the new stack.
        self._stack: Stack = (Layer(),), (_nobody,)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, the newest first."""
        return self._stack[0]

    def lower_floor(self) -> None:
        """Take the puts of the top layer into account.  O(top layer)."""
        if self.floor is not None:
            puts = self.top.records.keys() - self.top.tombstones
            self.floor = min(puts | {self.floor})

    @property
    def top(self) -> Layer:
        """The layer that takes writes."""
        return self._stack[0][0]

    def __len__(self) -> int:
        return sum(len(layer.records) for layer in self.layers)

    def freeze(self) -> Border:
        """Return a border under which nothing changes any more.

        O(1), and pouring what lies between borders that nobody needs.
        """
        from _weakref import ref

        if not self.top.records and len(self.layers) > 1:
            border = self._stack[1][1]()
            if border is not None:
                return border
        self.lower_floor()
        self.settle()
        layers, borders = self._stack
        border = Border(layers)
        self._stack = (Layer(), *layers), (_nobody, ref(border), *borders[1:])
        return border

    def settle(self) -> None:
        """Pour each layer into the one below it where nobody needs the border."""
        old_layers, old_borders = self._stack
        layers, borders = [old_layers[-1]], [old_borders[-1]]
        for layer, border in zip(old_layers[-2::-1], old_borders[-2::-1]):
            if borders[0]() is None and layers[0] is not layer:
                layers[0].pour(layer)
                borders[0] = border
            else:
                layers.insert(0, layer)
                borders.insert(0, border)
        self._stack = tuple(layers), tuple(borders)

    def merged(self) -> dict[bytes, bytes]:
        """Return key -> record over all layers."""
        if len(self.layers) == 1:
            return self.top.records
        records: dict[bytes, bytes] = {}
        for layer in reversed(self.layers):
            records.update(layer.records)
        return records

    def get(self, key: bytes) -> bytes | None:
        """Return the newest record of ``key``, None if there is none here."""
        for layer in self.layers:
            record = layer.records.get(key)
            if record is not None:
                return record
        return None

    def check(self) -> list[str]:
        """Return what is wrong with the invariants, for tests: nothing."""
        wrong = []
        for layer in self.layers:
            buried = {key for key, record in layer.records.items() if record[0] != PUT}
            if buried != layer.tombstones:
                wrong.append(f"tombstones {layer.tombstones ^ buried!r}")
            if layer.ordered is not None:
                old = list(layer.records)[: len(layer.ordered)]
                if sorted(old) != list(layer.ordered):
                    wrong.append("the order does not hold the oldest keys")
        return wrong


def _nobody() -> None:
    """Stand for a border that nobody holds."""
