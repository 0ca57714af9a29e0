"""The MANIFEST: the current Version as a small, readable, self-checking text.

::

    oblivion-manifest 1
    store 8f0c…              store id, 16 bytes in hex
    seed 1234567890          of the hash of keys
    epoch 1
    next 14                  the next file number; numbers from next + RESERVE on cannot exist
    live 1000                keys in the tables, or "unknown"
    log 12                   log segments, oldest first
    run 1 2                  level and number of tables, newest run first …
    table 9 4096 d98c1dd4 30 2     … its tables: number, size, footer crc, puts, tombstones
    crc 5be60fee             CRC-32C of all lines above

The first line's number is the format.  A line that begins with ``?`` is a
field of a later version that may be ignored: it is kept and written again.  Any
other unknown line is refused.

The order that keeps data safe is in ``Manifest.install``, and only there.
"""

from __future__ import annotations

from contextlib import suppress
from errno import EIO, ENOENT, ENOTSUP, ESTALE

from oblivion_dbm.engine import filenames
from oblivion_dbm.engine.record import crc32c
from oblivion_dbm.engine.version import Run, TableInfo, Version
from oblivion_dbm.errors import CorruptionError, error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oblivion_dbm.engine.filesystem import FileSystem

FIRST_WORD = "oblivion-manifest"
FORMAT = 1
#: File numbers a writer may use before it must write another MANIFEST.
RESERVE = 1024


def render(version: Version) -> bytes:
    """Return the bytes of a MANIFEST.

    >>> print(render(Version("00" * 16, 7, logs=(1,), next_file=2)).decode(), end="")
    oblivion-manifest 1
    store 00000000000000000000000000000000
    seed 7
    epoch 1
    next 2
    live 0
    log 1
    crc 76b1f4c1
    """
    lines = [
        f"{FIRST_WORD} {FORMAT}",
        f"store {version.store_id}",
        f"seed {version.seed}",
        f"epoch {version.epoch}",
        f"next {version.next_file}",
        f"live {'unknown' if version.live is None else version.live}",
        *(f"log {number}" for number in version.logs),
    ]
    for run in version.runs:
        lines.append(f"run {run.level} {len(run.tables)}")
        lines += [
            f"table {table.number} {table.size} {table.footer_crc:08x} "
            f"{table.puts} {table.tombstones}"
            for table in run.tables
        ]
    lines += version.extra
    body = "".join(line + "\n" for line in lines).encode("ascii")
    return body + f"crc {crc32c(body):08x}\n".encode("ascii")


def parse(data: bytes, path: str) -> Version:
    """Return the Version that ``data`` renders.

    Raises CorruptionError where it does not check, and ``error`` for a newer
    format, or something that was never a MANIFEST.
    """
    first = data.split(b"\n", 1)[0].split(b" ")
    if first[0] != FIRST_WORD.encode():
        raise CorruptionError(path, 0, f"expected a MANIFEST, found {bytes(data[:24])!r}")
    body_end = data.rfind(b"crc ")
    expected = f"crc {crc32c(data[: max(body_end, 0)]):08x}\n".encode("ascii")
    if data[:body_end][-1:] != b"\n" or data[body_end:] != expected:
        raise CorruptionError(path, max(body_end, 0), "the MANIFEST's crc does not match")
    if first[1:] != [str(FORMAT).encode()]:
        found = b" ".join(first[1:]).decode("ascii", "replace")
        meaning = f"expected store format {FORMAT}, found {found}: a newer oblivion_dbm wrote it"
        raise error(ENOTSUP, meaning, path)
    try:
        return _parse_fields(data[: body_end - 1].decode("ascii").split("\n")[1:])
    except (ValueError, KeyError, IndexError) as problem:
        raise CorruptionError(path, 0, f"a field that cannot be: {problem!r}") from problem


def _parse_fields(lines: list[str]) -> Version:
    single: dict[str, str] = {}
    logs: list[int] = []
    runs: list[tuple[int, int, list[TableInfo]]] = []
    extra: list[str] = []
    for line in lines:
        name, _, value = line.partition(" ")
        if name == "log":
            logs.append(_number(value))
        elif name == "run":
            level, count = map(_number, value.split(" "))
            runs.append((level, count, []))
        elif name == "table":
            number, size, footer_crc, puts, tombstones = value.split(" ")
            table = map(_number, (number, size, puts, tombstones))
            runs[-1][2].append(_table_info(footer_crc, *table))
        elif name.startswith("?"):
            extra.append(line)
        elif name in ("store", "seed", "epoch", "next", "live") and name not in single:
            single[name] = value
        else:
            raise ValueError(f"line {line!r}")
    if any(len(tables) != count or not tables for _, count, tables in runs):
        raise ValueError("a run without all its tables")
    version = Version(
        _hex(single["store"], 16),
        _number(single["seed"], 1 << 64),
        epoch=_number(single["epoch"]),
        next_file=_number(single["next"], (1 << 63) + 1),
        logs=tuple(logs),
        runs=tuple(Run(level, tuple(tables)) for level, _, tables in runs),
        live=None if single["live"] == "unknown" else _number(single["live"]),
        extra=tuple(extra),
    )
    _check_numbers(version)
    return version


def _table_info(footer_crc: str, number: int, size: int, puts: int, tombstones: int) -> TableInfo:
    return TableInfo(number, size, int(_hex(footer_crc, 4), 16), puts, tombstones)


def _number(text: str, limit: int = 1 << 63) -> int:
    """Return the number that ``text`` is, written as ``render`` writes it."""
    if not text.isdigit() or str(int(text)) != text or int(text) >= limit:
        raise ValueError(f"expected a number below {limit}, found {text!r}")
    return int(text)


def _hex(text: str, length: int) -> str:
    """Return ``text``, which must be ``length`` bytes in hex."""
    if bytes.fromhex(text).hex() != text or len(text) != 2 * length:
        raise ValueError(f"expected {length} bytes in hex, found {text!r}")
    return text


def _check_numbers(version: Version) -> None:
    """Raise ValueError for file numbers that no store could have given."""
    numbers = [*version.logs, *(table.number for run in version.runs for table in run.tables)]
    newest = max(numbers, default=-1)
    if len(set(numbers)) != len(numbers) or list(version.logs) != sorted(version.logs):
        raise ValueError("files named twice, or logs that are not in order")
    if newest >= version.next_file:
        raise ValueError(f"expected file numbers below {version.next_file}, found {newest}")


def load(filesystem: FileSystem, directory: str) -> Version:
    """Return the current Version of the store in ``directory``; changes nothing."""
    path = filesystem.join(directory, filenames.MANIFEST)
    file = filesystem.open(path)
    try:
        return parse(filesystem.read(file, 0, filesystem.size(file)), path)
    finally:
        filesystem.close(file)


def begins_as_one(filesystem: FileSystem, directory: str) -> bool:
    """Tell whether the MANIFEST in ``directory`` begins as one of ours does."""
    path = filesystem.join(directory, filenames.MANIFEST)
    if filesystem.kind(path) != "file":
        return False
    file = filesystem.open(path)
    try:
        return filesystem.read(file, 0, len(FIRST_WORD) + 1) == f"{FIRST_WORD} ".encode()
    finally:
        filesystem.close(file)


def remove_mark(filesystem: FileSystem, directory: str) -> None:
    """Remove what says that a store is not finished, where a kill has left it beside a MANIFEST."""
    mark = filesystem.join(directory, filenames.UNFINISHED)
    with suppress(error):
        if filesystem.exists(mark):
            filesystem.remove(mark)


def missing_is_damage(problem: error) -> error:
    """Return what to raise for a file that the MANIFEST names and that does not open."""
    if problem.errno == ENOENT and isinstance(problem.filename, str):
        return CorruptionError(problem.filename, 0, "the MANIFEST names this file; it is missing")
    return problem


class Manifest:
    """The writer's hold on the current Version: file numbers, and the one way to change it.

    ``failed`` holds the error of an install that may or may not have happened
    on disk; after it nothing is written or removed any more.
    """

    def __init__(
        self, filesystem: FileSystem, directory: str, version: Version, mode: int = 0o666
    ) -> None:
        self._filesystem = filesystem
        self.directory = directory
        self.version = version
        self._mode = mode
        self._next = version.next_file
        self._limit = version.next_file + RESERVE
        self.failed: BaseException | None = None
        #: Numbers of files that are being written; no sweep takes them.
        self._pending: set[int] = set()
        #: Numbers of files that the MANIFEST on disk may name, since an interrupt
        #: came between its rename and the end of ``install``.
        self._uncertain: set[int] = set()
        for name in filesystem.list(directory):
            parsed = filenames.parse(name)
            if parsed is not None:
                self._claim(name, parsed[1])

    def _claim(self, name: str, number: int) -> None:
        if number >= self._limit:
            path = self._filesystem.join(self.directory, name)
            meaning = (
                f"expected file numbers below {self._limit}, found {number}: "
                "the MANIFEST is older than this file"
            )
            raise error(ESTALE, meaning, path)
        self._next = max(self._next, number + 1)

    def new_number(self) -> int:
        """Return a file number that no file ever had.

        Its file is safe from the sweep until a Version names it or ``forget``
        is called.
        """
        if self._next >= self._limit:
            self.install(self.version, lambda: None)
        number = self._next
        self._next += 1
        self._pending.add(number)
        return number

    def may_name(self, number: int) -> bool:
        """Tell whether the MANIFEST on disk names a file, or may do so."""
        return (
            self.failed is not None or number in self.version.numbers() or number in self._uncertain
        )

    def forget(self, number: int) -> None:
        """Say that the file of this number will not be installed."""
        self._pending.discard(number)

    def discard(self, number: int, path: str) -> None:
        """Remove a file that was not installed, unless the MANIFEST on disk may name it.

        Where it cannot be removed now the next sweep does it.
        """
        if not self.may_name(number):
            self.forget(number)
            with suppress(error):
                self._filesystem.remove(path)

    def install(self, version: Version, publish: Callable[[], None]) -> None:
        """Make ``version`` the current one.

        New files are written and synced already; their directory entries and
        the MANIFEST become durable here, then ``publish`` shows the Version to
        readers, then files that it does not name are removed.  Once the rename
        has been tried nothing is deleted any more if anything fails.
        """
        if self.failed is not None:
            raise error(EIO, f"writing stopped: {self.failed}", self.directory) from self.failed
        filesystem, directory = self._filesystem, self.directory
        version = version.replace(next_file=self._next)
        new = filesystem.join(directory, filenames.MANIFEST_NEW)
        self._sync_directory()
        self._write(new, render(version))
        try:
            filesystem.rename(new, filesystem.join(directory, filenames.MANIFEST))
            filesystem.sync_directory(directory)
            self.version = version
            self._limit = version.next_file + RESERVE
            publish()
        except BaseException as problem:
            if isinstance(problem, OSError) or isinstance(problem.__context__, OSError):
                self.failed = problem
            # An interrupt leaves either MANIFEST on disk.  The files of both stay
            # until the next one is there, which is made of what is in memory.
            self._uncertain |= version.numbers()
            raise
        self._pending -= self._uncertain
        self._uncertain.clear()
        self._sweep()

    def _write(self, path: str, data: bytes) -> None:
        filesystem = self._filesystem
        if filesystem.kind(path) != "missing":
            filesystem.remove(path)
        file = filesystem.create(path, self._mode)
        try:
            filesystem.write(file, 0, data)
            filesystem.sync(file)
        finally:
            filesystem.close(file)

    def _sync_directory(self) -> None:
        """Make the names of new files durable.

        A failure is final: the system tells of it once, and a sync that is tried again
        may claim success without them.  A file that fails is made anew, under another inode.
        """
        try:
            self._filesystem.sync_directory(self.directory)
        except BaseException as problem:
            if isinstance(problem, OSError) or isinstance(problem.__context__, OSError):
                self.failed = problem
            raise

    def _sweep(self) -> None:
        """Remove logs and tables that the Version does not name.

        What recovery kept aside, and names that are not ours, stay.
        """
        named = self.version.numbers()
        self._pending -= named
        names: list[str] = []
        with suppress(error):
            names = self._filesystem.list(self.directory)
        for name in names:
            parsed = filenames.parse(name)
            if parsed is None or parsed[0] == filenames.LOST_KIND:
                continue
            if parsed[1] not in named and parsed[1] not in self._pending:
                # What cannot be removed now does no harm and is tried again
                # after the next install; this one has succeeded.
                with suppress(error):
                    self._filesystem.remove(self._filesystem.join(self.directory, name))
