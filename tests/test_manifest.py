"""The MANIFEST: what is rendered parses back, and what was changed does not."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oblivion_dbm import CorruptionError, error
from oblivion_dbm.engine.filesystem import File, FileSystem
from oblivion_dbm.engine.manifest import RESERVE, Manifest, load, parse, render
from oblivion_dbm.engine.record import crc32c
from oblivion_dbm.engine.version import Run, TableInfo, Version

SYSTEM = FileSystem()

U64 = st.integers(0, 2**64 - 1)
NUMBER = st.integers(0, 2**62)
TABLES = st.builds(TableInfo, NUMBER, NUMBER, st.integers(0, 2**32 - 1), NUMBER, NUMBER)
RUNS = st.builds(Run, st.integers(0, 20), st.lists(TABLES, min_size=1, max_size=4).map(tuple))
TEXT = st.text(st.characters(min_codepoint=0, max_codepoint=127, exclude_characters="\n"))


@st.composite
def versions(draw: Any) -> Version:
    """Draw a Version whose files have numbers of their own, all below the next one."""
    runs = draw(st.lists(RUNS, max_size=4).map(tuple))
    logs = draw(st.sets(NUMBER, max_size=4))
    taken = set(logs)
    for table in [table for run in runs for table in run.tables]:
        while table.number in taken:
            table.number += 1
        taken.add(table.number)
    return Version(
        draw(st.binary(min_size=16, max_size=16)).hex(),
        draw(U64),
        epoch=draw(NUMBER),
        next_file=draw(st.integers(max(taken, default=-1) + 1, 2**63)),
        logs=tuple(sorted(logs)),
        runs=runs,
        live=draw(st.none() | NUMBER),
        extra=tuple("?" + text for text in draw(st.lists(TEXT, max_size=3))),
    )


SOME = Version(
    "8f" * 16,
    1234567890,
    next_file=14,
    logs=(12, 13),
    runs=(
        Run(0, (TableInfo(11, 4096, 7, 30, 2),)),
        Run(1, (TableInfo(9, 1, 2, 3, 0), TableInfo(10, 4, 5, 6, 0))),
    ),
    live=None,
    extra=("?mirror a b c",),
)


def with_crc(body: bytes) -> bytes:
    return body + b"crc %08x\n" % crc32c(body)


def body_of(version: Version) -> bytes:
    data = render(version)
    return data[: data.rindex(b"crc ")]


@given(versions())
def test_a_version_reads_back_as_it_was_written(version: Version) -> None:
    assert parse(render(version), "MANIFEST") == version


def test_it_is_a_text_that_people_can_read() -> None:
    assert render(SOME).decode("ascii").splitlines()[:-1] == [
        "oblivion-manifest 1",
        "store " + "8f" * 16,
        "seed 1234567890",
        "epoch 1",
        "next 14",
        "live unknown",
        "log 12",
        "log 13",
        "run 0 1",
        "table 11 4096 00000007 30 2",
        "run 1 2",
        "table 9 1 00000002 3 0",
        "table 10 4 00000005 6 0",
        "?mirror a b c",
    ]


def test_every_flip_of_every_bit_is_detected() -> None:
    whole = render(SOME)
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptionError):
            parse(bytes(damaged), "MANIFEST")


def test_every_truncation_and_every_addition_is_detected() -> None:
    whole = render(SOME)
    for length in range(len(whole)):
        with pytest.raises(CorruptionError):
            parse(whole[:length], "MANIFEST")
    for more in (b"\n", b"\0", b"?more\n", whole):
        with pytest.raises(CorruptionError):
            parse(whole + more, "MANIFEST")


@given(st.binary(max_size=80))
def test_garbage_is_corruption_and_nothing_else(garbage: bytes) -> None:
    for data in (garbage, b"oblivion-manifest 1\n" + garbage, with_crc(garbage)):
        with pytest.raises(CorruptionError):
            parse(data, "MANIFEST")


@pytest.mark.parametrize("found", [b"2", b"1 2", b"10", b"-1", b"", b"\xff"])
def test_a_newer_format_is_refused_by_an_error_that_says_so(found: bytes) -> None:
    body = body_of(SOME).replace(b"oblivion-manifest 1", b"oblivion-manifest " + found)
    with pytest.raises(error, match=r"expected store format 1, found .*newer") as caught:
        parse(with_crc(body), "/a/MANIFEST")
    assert not isinstance(caught.value, CorruptionError)
    assert "/a/MANIFEST" in str(caught.value)


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("next 14\n", ""),
        ("next 14\n", "next 14\nnext 15\n"),
        ("next 14\n", "next fourteen\n"),
        ("next 14\n", "next\n"),
        ("seed 1234567890\n", ""),
        ("live unknown\n", "live some\n"),
        ("store 8f", "store 8g"),
        ("log 12\n", "log 12 13\n"),
        ("log 12\n", "lock 12\n"),
        ("log 12\n", "\n"),
        ("run 1 2\n", "run 1 3\n"),
        ("run 1 2\n", "run 1\n"),
        ("run 1 2\n", ""),
        ("run 0 1\n", ""),
        ("table 9 1 00000002 3 0\n", ""),
        ("table 9 1 00000002 3 0\n", "table 9 1 00000002 3\n"),
        ("table 9 1 00000002 3 0\n", "table 9 1 xyz 3 0\n"),
        ("run 1 2\n", "run 7 0\nrun 1 2\n"),
        ("run 1 2\n", "run -1 2\n"),
        ("next 14\n", "next 13\n"),
        ("next 14\n", "next +14\n"),
        ("next 14\n", "next 014\n"),
        ("next 14\n", "next 1_4\n"),
        ("next 14\n", "next  14\n"),
        ("next 14\n", "next 14\r\n"),
        ("next 14\n", "next 9223372036854775809\n"),
        ("next 14\n", "next 1" + "0" * 5000 + "\n"),
        ("seed 1234567890\n", "seed 18446744073709551616\n"),
        ("seed 1234567890\n", "seed -1\n"),
        ("store 8f", "store "),
        ("store 8f", "store 8f8f"),
        ("store 8f", "store 8F"),
        ("store 8f8f", "store 8f 8f"),
        ("log 12\n", "log 13\n"),
        ("log 12\nlog 13\n", "log 13\nlog 12\n"),
        ("log 12\n", "log 11\n"),
        ("log 12\n", "log 12\x1clog 10\n"),
        ("table 9 1 00000002 3 0\n", "table 10 1 00000002 3 0\n"),
        ("table 9 1 00000002 3 0\n", "table 14 1 00000002 3 0\n"),
        ("table 9 1 00000002 3 0\n", "table 9 1 0000002 3 0\n"),
        ("table 9 1 00000002 3 0\n", "table 9 1 000000002 3 0\n"),
        ("?mirror a b c\n", "mirror a b c\n"),
        ("?mirror a b c\n", "?m\xff\n"),
    ],
)
def test_fields_that_cannot_be_are_refused_though_the_crc_matches(line: str, instead: str) -> None:
    body = body_of(SOME)
    assert line.encode() in body
    with pytest.raises(CorruptionError):
        parse(with_crc(body.replace(line.encode(), instead.encode("latin-1"))), "MANIFEST")


# The file.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    path.mkdir()
    return path


def open_manifest(folder: Path, version: Version, system: FileSystem = SYSTEM) -> Manifest:
    return Manifest(system, str(folder), version)


def nothing() -> None:
    pass


FRESH = Version("00" * 16, 7, next_file=5, extra=("?kept for ever",))


def test_what_is_installed_is_loaded_with_unknown_fields_kept(folder: Path) -> None:
    manifest = open_manifest(folder, FRESH)
    manifest.install(FRESH.with_log(3), nothing)
    assert load(SYSTEM, str(folder)) == manifest.version == FRESH.with_log(3)
    manifest.install(manifest.version.replace(live=9), nothing)
    assert load(SYSTEM, str(folder)).extra == ("?kept for ever",)
    assert [path.name for path in folder.iterdir()] == ["MANIFEST"]


def test_numbers_only_grow_and_pass_every_file_that_is_there(folder: Path) -> None:
    (folder / "000007.sst").touch()
    (folder / "000009.lost").touch()
    manifest = open_manifest(folder, FRESH)
    assert [manifest.new_number() for _ in range(3)] == [10, 11, 12]
    manifest.install(FRESH, nothing)
    assert load(SYSTEM, str(folder)).next_file == 13
    assert open_manifest(folder, load(SYSTEM, str(folder))).new_number() == 13


def test_a_file_beyond_every_possible_number_is_an_error_and_stays(folder: Path) -> None:
    possible = folder / f"{FRESH.next_file + RESERVE - 1:06d}.sst"
    possible.touch()
    open_manifest(folder, FRESH)
    impossible = folder / f"{FRESH.next_file + RESERVE:06d}.wal"
    impossible.touch()
    with pytest.raises(error, match="the MANIFEST is older than this file") as caught:
        open_manifest(folder, FRESH)
    assert impossible.name in str(caught.value)
    assert possible.exists()
    assert impossible.exists()


def test_a_manifest_is_written_before_the_reserve_of_numbers_runs_out(folder: Path) -> None:
    manifest = open_manifest(folder, FRESH)
    numbers = [manifest.new_number() for _ in range(RESERVE + 10)]
    assert numbers == list(range(5, 5 + RESERVE + 10))
    assert load(SYSTEM, str(folder)).next_file + RESERVE > numbers[-1]


class Recording(FileSystem):
    """Writes down what is done to files and directories, by name."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def _note(self, what: str, path: str) -> None:
        self.done.append(f"{what} {Path(path).name}")

    def create(self, path: str, mode: int = 0o666) -> File:
        self._note("create", path)
        return super().create(path, mode)

    def write(self, file: File, offset: int, data: bytes | memoryview) -> None:
        self._note("write", file.path)
        super().write(file, offset, data)

    def sync(self, file: File) -> None:
        self._note("sync", file.path)
        super().sync(file)

    def sync_directory(self, path: str) -> None:
        self._note("sync directory", path)
        super().sync_directory(path)

    def rename(self, source: str, destination: str) -> None:
        self._note("rename", source)
        super().rename(source, destination)

    def remove(self, path: str) -> None:
        self._note("remove", path)
        super().remove(path)


def test_an_install_keeps_the_order_that_keeps_data_safe(folder: Path) -> None:
    (folder / "000001.sst").touch()
    system = Recording()
    manifest = open_manifest(folder, FRESH, system)
    manifest.install(FRESH, lambda: system.done.append("publish"))
    assert system.done == [
        "sync directory store",
        "create MANIFEST.new",
        "write MANIFEST.new",
        "sync MANIFEST.new",
        "rename MANIFEST.new",
        "sync directory store",
        "publish",
        "remove 000001.sst",
    ]


def test_the_sweep_takes_old_logs_and_tables_and_nothing_else(folder: Path) -> None:
    names = ["000001.wal", "000001.sst", "000002.wal", "000003.sst", "000004.lost", "notes.txt"]
    for name in [*names, "LOCK", "12.wal", "MANIFEST.new"]:
        (folder / name).touch()
    manifest = open_manifest(folder, FRESH)
    pending, forgotten = manifest.new_number(), manifest.new_number()
    for number in (pending, forgotten):
        (folder / f"{number:06d}.sst").touch()
    manifest.forget(forgotten)
    run = Run(0, (TableInfo(3, 0, 0, 1, 0),))
    manifest.install(FRESH.replace(logs=(2,), runs=(run,)), nothing)
    left = {"000002.wal", "000003.sst", "000004.lost", "notes.txt", "LOCK", "12.wal", "MANIFEST"}
    assert {path.name for path in folder.iterdir()} == left | {f"{pending:06d}.sst"}


class Failing(Recording):
    """Fails at the n-th of the operations that change the disk."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def _note(self, what: str, path: str) -> None:
        super()._note(what, path)
        if len(self.done) == self.number:
            raise error(errno.EIO, "failed", path)


def failing_install(folder: Path, number: int, publish: Callable[[], None]) -> tuple[Manifest, Any]:
    """Install a Version over an older one, failing at the n-th operation."""
    (folder / "000001.sst").touch()
    open_manifest(folder, FRESH).install(FRESH.replace(live=1), nothing)
    (folder / "000002.sst").touch()
    system = Failing(number)
    manifest = open_manifest(folder, load(SYSTEM, str(folder)), system)
    try:
        manifest.install(FRESH.replace(live=2), publish)
    except error as problem:
        return manifest, problem
    return manifest, None


@pytest.mark.parametrize("number", range(2, 5))
def test_a_new_manifest_that_fails_before_the_rename_changes_nothing_and_may_be_tried_again(
    folder: Path, number: int
) -> None:
    manifest, problem = failing_install(folder, number, nothing)
    assert "failed" in str(problem)
    assert manifest.failed is None
    assert load(SYSTEM, str(folder)).live == 1
    assert (folder / "000002.sst").exists()
    manifest.install(FRESH.replace(live=3), nothing)
    assert load(SYSTEM, str(folder)).live == 3


@pytest.mark.parametrize("number", [1, 5, 6])
def test_a_failed_sync_of_the_directory_or_rename_is_final_and_nothing_is_removed(
    folder: Path, number: int
) -> None:
    manifest, problem = failing_install(folder, number, nothing)
    assert manifest.failed is problem
    assert (folder / "000002.sst").exists()
    before = (folder / "MANIFEST").read_bytes()
    with pytest.raises(error, match="writing stopped"):
        manifest.install(FRESH.replace(live=3), nothing)
    assert (folder / "MANIFEST").read_bytes() == before


def test_a_version_that_cannot_be_shown_is_final_too(folder: Path) -> None:
    def publish() -> None:
        raise error(errno.EMFILE, "no descriptors left")

    manifest, problem = failing_install(folder, 0, publish)
    assert manifest.failed is problem
    assert load(SYSTEM, str(folder)).live == 2
    assert (folder / "000002.sst").exists()


def test_a_file_that_cannot_be_removed_now_is_removed_next_time(folder: Path) -> None:
    manifest, problem = failing_install(folder, 7, nothing)
    assert problem is None
    assert manifest.failed is None
    assert (folder / "000002.sst").exists()
    manifest.install(manifest.version, nothing)
    assert not (folder / "000002.sst").exists()


def test_loading_what_is_not_there_or_is_a_directory_is_an_error(folder: Path) -> None:
    with pytest.raises(error) as caught:
        load(SYSTEM, str(folder))
    assert caught.value.errno == errno.ENOENT
    (folder / "MANIFEST").mkdir()
    with pytest.raises(error):
        load(SYSTEM, str(folder))
