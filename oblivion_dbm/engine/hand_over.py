"""Records that are found and not merged, as a file for people and programs.

One JSON object a line: ``file`` and ``offset`` say where it was found, ``op`` is
"put", "delete" or "clear", ``key`` and ``value`` are text where they are UTF-8;
else ``key64`` and ``value64`` are base64.  ``why`` is "found" for a record that may
be bytes inside a value, and "doubtful" for one that may be old or deleted.

>>> from oblivion_dbm.engine.record import encode
>>> line("000009.sst", 16, encode(PUT, b"sky", b"blue"), "found")
'{"file": "000009.sst", "offset": 16, "op": "put", "key": "sky", "value": "blue", "why": "found"}'
"""

from __future__ import annotations

import json
from binascii import b2a_base64

from oblivion_dbm.engine.damage import search
from oblivion_dbm.engine.record import BATCH, CLEAR, DELETE, PUT, BadRecord, read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from oblivion_dbm.engine.damage import Damage, Piece
    from oblivion_dbm.engine.filesystem import File, FileSystem

FOUND, DOUBTFUL = "found", "doubtful"
#: How the name of the file ends.
LINES = ".jsonl"
_OPS = {PUT: "put", DELETE: "delete", CLEAR: "clear"}
#: Bytes that are gathered before they are written, and that are read at once.
_WRITE_SIZE = 1 << 16


def line(file: str, offset: int, record: bytes, why: str) -> str:
    """Return the line of one sound record, without its end."""
    op, key, value, _ = read(record, 0, len(record))
    fields: dict[str, object] = {"file": file, "offset": offset, "op": _OPS[op]}
    if op != CLEAR:
        fields.update([_text("key", key)])
    if op == PUT:
        fields.update([_text("value", value)])
    return json.dumps({**fields, "why": why})


def _text(name: str, data: bytes) -> tuple[str, str]:
    try:
        return name, data.decode()
    except UnicodeDecodeError:
        return f"{name}64", b2a_base64(data, newline=False).decode()


class HandOver:
    """The file at ``path`` that takes what is handed over; it is made with the first record.

    ``counts`` says how many there are of each kind.
    """

    def __init__(self, filesystem: FileSystem, path: str, mode: int) -> None:
        self._filesystem = filesystem
        self.path = path
        self._mode = mode
        self._file: File | None = None
        self._pending: list[bytes] = []
        self._size = self._written = 0
        self.counts = {FOUND: 0, DOUBTFUL: 0}

    def __len__(self) -> int:
        return sum(self.counts.values())

    def add(self, file: str, offset: int, record: bytes, why: str) -> None:
        """Hand over a sound record."""
        self.counts[why] += 1
        data = line(file, offset, record, why).encode() + b"\n"
        self._pending.append(data)
        self._size += len(data)
        if self._size >= _WRITE_SIZE:
            self._drain()

    def add_of_table(self, piece: Piece, damage: Damage) -> None:
        """Search the damaged part of a table and hand over what may belong there."""
        end = damage.offset + damage.length
        for offset, record in search(piece, damage.offset, end, bytes([PUT, DELETE])):
            key = read(record, 0, len(record))[1]
            if damage.start <= key and (damage.stop is None or key < damage.stop):
                self.add(damage.file, offset, record, FOUND)

    def add_of_log(self, file: str, piece: Piece, start: int, end: int) -> None:
        """Search a part of a log and hand over what is there; of a batch each record."""
        for offset, record in search(piece, start, end, bytes([PUT, DELETE, BATCH, CLEAR])):
            for place, each in _unpacked(record):
                self.add(file, offset + place, each, FOUND)

    def _drain(self) -> None:
        if self._file is None:
            self._file = self._filesystem.create(self.path, self._mode)
        self._filesystem.write(self._file, self._written, b"".join(self._pending))
        self._written += self._size
        self._pending, self._size = [], 0

    def finish(self) -> bool:
        """Sync and close; tell whether there is a file.  Its directory is the caller's to sync."""
        if len(self):
            self._drain()
            assert self._file is not None
            self._filesystem.sync(self._file)
        self.close()
        return bool(len(self))

    def close(self) -> None:
        """Close the file, if there is one.  Again is fine."""
        file, self._file = self._file, None
        if file is not None:
            self._filesystem.close(file)


def count_lines(filesystem: FileSystem, path: str) -> tuple[int, int]:
    """Return how many records of each kind, found and doubtful, were handed over at ``path``."""
    ends = [f'"why": "{why}"}}\n'.encode() for why in (FOUND, DOUBTFUL)]
    counts, rest, at = [0, 0], b"", 0
    file = filesystem.open(path)
    try:
        while data := filesystem.read(file, at, _WRITE_SIZE):
            rest, at = rest + data, at + len(data)
            last = rest.rfind(b"\n") + 1
            counts = [n + rest.count(end, 0, last) for n, end in zip(counts, ends)]
            rest = rest[last:]
    finally:
        filesystem.close(file)
    return counts[0], counts[1]


def _unpacked(record: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (place, record) of what a record holds: itself, or those of a batch."""
    op, _, value, _ = read(record, 0, len(record))
    if op != BATCH:
        yield 0, record
        return
    place, found = 0, []
    try:
        while place < len(value):
            inner, _, _, after = read(value, place, len(value))
            if inner not in _OPS:
                return
            found.append((9 + place, value[place:after]))
            place = after
    except BadRecord:
        return
    yield from found
