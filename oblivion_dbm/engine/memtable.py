"""The MemTable: what was written since the last flush, in memory.

A ``Layer`` is a dict of key -> record; order is brought up to date only when
somebody asks for it, since a dict insert costs a tenth of an ordered one.  A
``MemTable`` is a stack of layers and covers exactly whole log segments.  A
snapshot *freezes* the top layer and puts an empty one on it.

A layer that a live border holds is never changed.  Where nobody needs a border
any more the layers on its two sides are joined: the younger is *poured* into
the older where no border above holds that either, else a new layer takes the
place of both.  Few records are moved at a time, so that freezing stays cheap,
until there are many layers.
"""

from __future__ import annotations

from _thread import RLock
from _weakref import ref
from itertools import chain, islice

from oblivion_dbm.engine.merge import in_order
from oblivion_dbm.engine.record import PUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sortedcontainers import SortedList

    #: Gives the border on top of a layer, None once nobody holds it.
    BorderOf = Callable[[], "Border | None"]
    Stack = tuple[tuple["Layer", ...], tuple[BorderOf, ...], bool]

#: Estimated bytes that a key and a record cost beyond the record's own length:
#: two object headers, the key's copy and the dict's slot.
OVERHEAD = 200
#: Records that freezing moves from layer to layer, and looks at, while there are
#: no more than MANY layers to join; for a scan, which is faster over fewer layers,
#: it is SOME: what moves in a millisecond.
FEW, SOME, MANY = 256, 1 << 14, 8
#: Records that are copied, or keys that are listed, in one step of C code: others
#: who want the interpreter get it in between.
SLICE = 4096


class Layer:
    """Records by key.  Keys are added and replaced, never removed.

    So the dict's order of insertion tells which keys are new since the order
    was last asked for, and since the keys were last classified.
    """

    __slots__ = ("_classified", "_ordering", "ordered", "records", "tombstones")

    def __init__(self) -> None:
        self.records: dict[bytes, bytes] = {}
        self.tombstones: set[bytes] = set()
        self.ordered: SortedList[bytes] | None = None
        #: Held by whoever brings the order up to date.
        self._ordering = RLock()
        #: How many keys, in their order of insertion, were looked up below, and
        #: how many of them have a value there.  Replaced as one.
        self._classified = (0, 0)

    def order(self) -> SortedList[bytes]:
        """Return the keys in order.  O(n log n) the first time, then O(new keys).

        For a layer that takes no writes any more it needs no lock of the handle.
        It takes in new keys only while nobody walks it: whoever does, holds a
        border, and a layer that a border holds gets none.
        """
        from sortedcontainers import SortedList

        with self._ordering:
            # Taken away meanwhile: what an interrupt leaves half done is never seen,
            # and a signal handler inside this puts a list of its own in order.
            ordered, self.ordered = self.ordered, None
            if ordered is None:
                ordered = SortedList()
            if new := len(self.records) - len(ordered):
                keys = islice(reversed(self.records), new)
                ordered.update(chain.from_iterable(in_order(keys, lambda _: None)))
            if ordered:
                # The list makes its index of positions at the first read that wants one,
                # and two threads that make it at once spoil it: so it is made here.
                ordered.bisect_left(ordered[-1])
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

    def joined(self, younger: Layer) -> Layer:
        """Return a new layer that holds what both hold.  O(n)."""
        whole = Layer()
        whole.records = self.records.copy()
        whole.tombstones = self.tombstones.copy()
        whole._classified = self._classified
        whole.pour(younger)
        return whole

    def live_change(self, value: Callable[[bytes], bytes | None]) -> int:
        """Return how many keys this layer adds to what lies below it.

        ``value(key)`` gives the value that a key has below; it is asked once
        for each key, the first time a count is wanted after it came.  A look-up
        that raises leaves the others right.  For a layer that takes no writes
        any more it needs no lock.
        """
        classified, live_below = self._classified
        while new := len(self.records) - classified:
            keys = list(islice(reversed(self.records), new))
            if new != len(self.records) - classified:
                continue  # a signal handler has just written
            while keys:
                part = keys[-SLICE:]
                del keys[-SLICE:]
                live_below += sum(value(key) is not None for key in part)
                classified += len(part)
                self._classified = classified, live_below
        return len(self.records) - len(self.tombstones) - live_below

    def chunks(
        self, start: bytes | None, stop: bytes | None, reverse: bool, sizes: Iterator[int]
    ) -> Iterator[tuple[list[bytes], list[bytes]]]:
        """Yield (keys, records) of a frozen layer, which is put in order first.

        ``sizes`` gives the sizes of the chunks.  Each chunk ascends; in reverse
        the chunks descend.
        """
        keys = self.order()
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
    Guarded by the engine's lock; readers use the layers through a view.  Once
    it is sealed nothing changes it, and no lock is needed.
    """

    __slots__ = ("_stack", "cleared", "floor", "last_sequence", "log", "sealed")

    def __init__(self, floor: bytes | None = None) -> None:
        #: The log segment that holds the same records, and the sequence number
        #: at its end once it is sealed.
        self.log = 0
        self.last_sequence = 0
        self.sealed = False
        #: No key below it has a value, here or in what lies below; the top
        #: layer apart.  Spares a loop of ``popitem`` the tombstones it leaves.
        self.floor = floor
        self.reset(cleared=False)

    def reset(self, cleared: bool) -> None:
        """Empty it; ``cleared`` tells that everything older is gone too."""
        self.cleared = cleared
        if cleared:
            self.floor = None
        #: The layers, for each a weak reference to the border on top of it, and
        #: whether pouring was begun that may not have come to its end.  Replaced
        #: as one, so that an interrupt finds the old or the new stack.
        self._stack: Stack = (Layer(),), (_nobody,), False

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, the newest first."""
        return self._stack[0]

    def lower_floor(self) -> None:
        """Take the puts of the top layer into account, or give the floor up if they are many."""
        if len(self.top.records) > FEW:
            self.floor = None
        elif self.floor is not None:
            puts = self.top.records.keys() - self.top.tombstones
            self.floor = min(puts | {self.floor})

    @property
    def top(self) -> Layer:
        """The layer that takes writes."""
        return self._stack[0][0]

    def __len__(self) -> int:
        return sum(len(layer.records) for layer in self.layers)

    def seal(self) -> None:
        """Take no more writes: from now on the layers stay as they are."""
        self.lower_floor()
        self.mend()
        self.sealed = True

    def freeze(self, most: int = FEW) -> Border:
        """Return a border under which nothing changes any more.

        O(1) but for what ``settle`` does.
        """
        if self.sealed:
            return Border(self.layers)
        layers, borders, unfinished = self._stack
        if layers[0].records or unfinished or len(layers) == 1:
            if self.floor is not None:
                self.lower_floor()
            self.settle(most)
            layers, borders, _ = self._stack
            layers, borders = (Layer(), *layers), (_nobody, *borders)
            self._stack = layers, borders, False
        border = borders[1]()
        if border is None:
            border = Border(layers[1:])
            self._stack = layers, (_nobody, ref(border), *borders[2:]), False
        return border

    def mend(self) -> None:
        """Bring pouring to its end that an exception has interrupted."""
        if self._stack[2]:
            self.settle()

    def settle(self, most: int = FEW) -> None:
        """Join layers where nobody needs the border between them.

        Moves ``most`` records at most, unless there are many layers to join.  Every
        record is moved O(log n) times, and what is left is that many layers and
        those that live borders hold.
        """
        layers, borders, _ = self._stack
        if len(layers) == 1:
            return
        held = next((i for i, border in enumerate(borders) if border() is not None), len(layers))
        poured = self._poured(layers[:held], most)
        joined, joined_borders = _joined(layers[held:], borders[held:], most)
        self._stack = (*poured, *joined), (*(_nobody for _ in poured), *joined_borders), False

    def _poured(self, layers: tuple[Layer, ...], most: int) -> list[Layer]:
        """Pour layers that no border holds each into an older one; return what is left of them."""
        if len(layers) < 2:
            return list(layers)
        every, borders, unfinished = self._stack
        budget = most if len(layers) <= MANY and not unfinished else len(self)
        self._stack = every, borders, True
        left = [layers[-1]]
        for layer in layers[-2::-1]:
            size = len(layer.records)
            if size <= budget:
                budget -= size
                left[0].pour(layer)
            else:
                left.insert(0, layer)
        return left

    def merged(self) -> dict[bytes, bytes]:
        """Return key -> record over all layers, in steps that each take little time."""
        filled = [layer for layer in self.layers if layer.records]
        if len(filled) < 2:
            return filled[0].records if filled else {}
        records: dict[bytes, bytes] = {}
        for layer in reversed(filled):
            items = iter(layer.records.items())
            while part := dict(islice(items, SLICE)):
                records.update(part)
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
            ordered = list(layer.ordered or ())
            if sorted(islice(layer.records, len(ordered))) != ordered:
                wrong.append("the order does not hold the oldest keys")
        return wrong


def _nobody() -> None:
    """Stand for a border that nobody holds."""


def _joined(
    layers: tuple[Layer, ...], borders: tuple[BorderOf, ...], most: int
) -> tuple[list[Layer], list[BorderOf]]:
    """Return layers and borders, those joined whose border is dead and whose sizes are alike.

    These layers may be held, so a new one takes the place of two.  One that is
    more than twice as large as what is above it is left alone (size tiers): what
    is left grows from layer to layer, so there are few.
    """
    dead = sum(border() is None for border in borders[1:])
    budget = most if dead <= MANY else len(layers) * sum(len(layer.records) for layer in layers)
    left, left_borders = list(layers[:1]), list(borders[:1])
    for layer, border in zip(layers[1:], borders[1:]):
        older, younger = len(layer.records), len(left[-1].records)
        if border() is None and older <= 2 * younger and older + younger <= budget:
            budget -= older + younger
            left[-1] = layer.joined(left[-1])
        else:
            left.append(layer)
            left_borders.append(border)
    return left, left_borders
