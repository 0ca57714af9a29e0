"""Bad input is refused with a clear error, and nothing on disk changes."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import oblivion_dbm
from oblivion_dbm import CorruptionError, Database, error
from oblivion_dbm.engine.record import LONGEST, crc32c

FLAGS = pytest.mark.parametrize("flag", ["r", "w", "c", "n"])
NOT_NEW = pytest.mark.parametrize("flag", ["r", "w", "c"])

Disk = dict[str, tuple[int, int, bytes]]


def disk(folder: Path) -> Disk:
    """Return kind, inode and bytes of everything under a directory."""
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_mode,
            path.lstat().st_ino,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in folder.rglob("*")
    }


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return a store with a table and a log, closed."""
    path = tmp_path / "store"
    with Database(path) as db:
        db.update({b"%03d" % number: b"value %d" % number for number in range(200)})
        db.flush()
        db["logged"] = "value"
    return path


# Wrong types.


WRONG = [5, 1.5, None, True, ["a"], ("a",), {"a": 1}, object(), range(3), mmap.mmap(-1, 1)]


def calls_with(db: Any, wrong: Any) -> list[Callable[[], object]]:
    """Return every way of handing ``wrong`` to a mapping as a key or a value."""
    return [
        lambda: db.__setitem__(wrong, b"value"),
        lambda: db.__setitem__(b"key", wrong),
        lambda: db.__setitem__(wrong, wrong),
        lambda: db.__getitem__(wrong),
        lambda: db.__delitem__(wrong),
        lambda: wrong in db,
        lambda: db.get(wrong),
        lambda: db.get(wrong, b"default"),
        lambda: db.pop(wrong),
        lambda: db.pop(wrong, None),
        lambda: db.setdefault(wrong, b""),
        lambda: db.setdefault(b"absent", wrong),
        lambda: db.nextkey(wrong),
        lambda: db.get_many([b"000", wrong]),
        lambda: db.put_many([(b"key", b"1"), (wrong, b"1")]),
        lambda: db.put_many([(b"key", b"1"), (b"key", wrong)]),
        lambda: db.update({b"key": b"1", b"other": wrong}),
        lambda: db.update(key=wrong),
        lambda: db.load([(b"key", b"1"), (b"key", wrong)]),
        lambda: db.prefixed(wrong),
        lambda: db.batch().__setitem__(wrong, b"1"),
        lambda: db.batch().__setitem__(b"1", wrong),
        lambda: db.batch().__delitem__(wrong),
    ]


def bounds_with(db: Any, wrong: Any) -> list[Callable[[], object]]:
    """Return every way of handing ``wrong`` to a mapping as a bound."""
    return [
        lambda: db.scan(start=wrong),
        lambda: db.scan(stop=wrong),
        lambda: db.scan(prefix=wrong),
        lambda: db[wrong:],
        lambda: db[:wrong],
        lambda: db.__delitem__(slice(wrong, None)),
        lambda: db.__delitem__(slice(None, wrong)),
    ]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: type(wrong).__name__)
def test_a_wrong_type_is_a_type_error_before_a_byte_is_written(store: Path, wrong: Any) -> None:
    with Database(store) as db:
        db["first write"] = "done"
        before, contents = disk(store), dict(db)
        for mapping in (db, db.prefixed("00")):
            calls = calls_with(mapping, wrong)
            calls += [] if wrong is None else bounds_with(mapping, wrong)
            for call in calls:
                with pytest.raises(TypeError):
                    call()
        assert disk(store) == before
        assert dict(db) == contents


@pytest.mark.parametrize("pairs", [5, None, [5], ["abc"], [(1,)], [("a", "b", "c")], [()]])
def test_what_is_not_pairs_is_refused_before_a_byte_is_written(store: Path, pairs: Any) -> None:
    with Database(store) as db:
        before = disk(store)
        for method in (db.put_many, db.load, db.update):
            with pytest.raises((TypeError, ValueError)):
                method(pairs)
        assert disk(store) == before


def test_a_lone_surrogate_is_refused_before_a_byte_is_written(store: Path) -> None:
    with Database(store) as db:
        before = disk(store)
        for key, value in (("\udc80", "1"), ("1", "\udc80")):
            with pytest.raises(UnicodeEncodeError):
                db[key] = value
        assert disk(store) == before


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((5,), {}),
        ((None,), {}),
        (([],), {}),
        (("{}", None), {}),
        (("{}", b"n"), {}),
        (("{}", 5), {}),
        (("{}", "n", "0666"), {}),
        (("{}", "n", None), {}),
        (("{}", "n", 0o666, "full"), {}),
        (("{}", "n"), {"memtable": 1}),
    ],
)
def test_open_checks_types_before_it_touches_anything(
    tmp_path: Path, arguments: tuple[Any, ...], options: dict[str, Any]
) -> None:
    path = tmp_path / "file"
    path.write_text("kept")
    before = disk(tmp_path)
    filled = [str(path) if given == "{}" else given for given in arguments]
    openers: list[Callable[..., object]] = [oblivion_dbm.open, Database]
    for open_it in openers:
        with pytest.raises(TypeError):
            open_it(*filled, **options)
    assert disk(tmp_path) == before


@pytest.mark.parametrize(
    ("flag", "options"),
    [
        *((flag, {}) for flag in ("", "x", "rw", "cx", "R", "sn", "nm", "c+", " n")),
        ("nsf", {}),
        ("ns", {"sync": "off"}),
        ("ns", {"sync": "normal"}),
        ("nf", {"sync": "full"}),
        ("n", {"sync": "always"}),
        ("n", {"memtable_limit": 0}),
        ("n", {"memtable_limit": "1"}),
        ("n", {"fan_in": 1}),
        ("n", {"log_back_end": "tape"}),
        ("n", {"lock_timeout": -1}),
    ],
)
def test_open_checks_values_before_it_touches_anything(
    tmp_path: Path, flag: str, options: dict[str, Any]
) -> None:
    path = tmp_path / "file"
    path.write_text("kept")
    before = disk(tmp_path)
    for open_it in (oblivion_dbm.open, Database):
        with pytest.raises(ValueError, match=r"flag|sync|limit|fan_in|back_end|timeout"):
            open_it(path, flag, **options)
    assert disk(tmp_path) == before


def test_a_wrong_flag_is_answered_with_the_right_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'r'.*'w'.*'c'.*'n'.*'s'.*'f'.*'u'.*'x'"):
        oblivion_dbm.open(tmp_path / "store", "x")


# Something else at the path.


def assert_refused(path: Path, flag: str, found: str) -> error:
    """Open; return the ``error``, which names the path and what was found; nothing changed."""
    before = disk(path.parent)
    with pytest.raises(error) as caught:
        oblivion_dbm.open(path, flag)
    assert disk(path.parent) == before
    assert str(path) in str(caught.value)
    assert found in str(caught.value)
    return caught.value


@NOT_NEW
@pytest.mark.parametrize("content", [b"", b"junk", b"SQLite format 3\0", b"oblivion-manifest 1\n"])
def test_a_file_is_no_store(tmp_path: Path, flag: str, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    problem = assert_refused(path, flag, "expected a store, which is a directory, found a file")
    assert problem.filename == str(path)
    assert not isinstance(problem, CorruptionError)


@FLAGS
@pytest.mark.parametrize("name", ["notes.txt", "000001.wal", "manifest", "LOCK.txt", "folder"])
def test_a_directory_of_something_else_is_no_store(tmp_path: Path, flag: str, name: str) -> None:
    path = tmp_path / "directory"
    (path / "folder").mkdir(parents=True)
    (path / name).touch() if name != "folder" else (path / name / "file").touch()
    assert_refused(path, flag, "expected a store, found a directory with")


@FLAGS
def test_a_fifo_is_no_store_and_stays(tmp_path: Path, flag: str) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    assert_refused(path, flag, "expected a store, which is a directory, found")


@FLAGS
def test_a_link_to_nowhere_is_no_store_and_stays(tmp_path: Path, flag: str) -> None:
    path = tmp_path / "link"
    path.symlink_to(tmp_path / "nowhere")
    assert_refused(path, flag, "expected a store, which is a directory, found")


@FLAGS
def test_a_path_through_a_file_is_an_error(tmp_path: Path, flag: str) -> None:
    (tmp_path / "file").write_text("kept")
    before = disk(tmp_path)
    with pytest.raises(error):
        oblivion_dbm.open(tmp_path / "file" / "store", flag)
    assert disk(tmp_path) == before


@pytest.mark.parametrize("flag", ["r", "w"])
def test_a_missing_store_is_enoent_with_the_path_and_advice(tmp_path: Path, flag: str) -> None:
    path = tmp_path / "missing"
    problem = assert_refused(path, flag, "'c'")
    assert (problem.errno, problem.filename) == (errno.ENOENT, str(path))


@pytest.mark.parametrize("kind", ["file", "directory", "store with notes"])
def test_remove_takes_stores_only(store: Path, tmp_path: Path, kind: str) -> None:
    path = {"file": store / "LOCK", "directory": tmp_path, "store with notes": store}[kind]
    (store / "notes.txt").touch()
    before = disk(tmp_path)
    with pytest.raises(error):
        oblivion_dbm.remove(path)
    assert disk(tmp_path) == before


# Newer formats.


def newer_manifest(store: Path) -> Path:
    path = store / "MANIFEST"
    body = path.read_bytes().replace(b"oblivion-manifest 1\n", b"oblivion-manifest 2\n")
    body = body[: body.rindex(b"crc ")]
    path.write_bytes(body + b"crc %08x\n" % crc32c(body))
    return path


def newer_log(store: Path) -> Path:
    (path,) = store.glob("*.wal")
    data = bytearray(path.read_bytes())
    data[8] = 2
    data[76:80] = (crc32c(bytes(data[:76])) ^ 0xFFFF_FFFF).to_bytes(4, "little")
    path.write_bytes(data)
    return path


@NOT_NEW
@pytest.mark.parametrize("make", [newer_manifest, newer_log])
def test_a_newer_format_is_refused_by_name_and_not_called_damage(
    store: Path, flag: str, make: Callable[[Path], Path]
) -> None:
    path = make(store)
    before = disk(store)
    with pytest.raises(error, match=r"expected .* 1.*found 2.*newer") as caught:
        oblivion_dbm.open(store, flag)
    assert not isinstance(caught.value, CorruptionError)
    assert str(path) in str(caught.value)
    assert disk(store) == before


def test_a_store_of_a_newer_format_is_not_emptied_either(store: Path) -> None:
    newer_manifest(store)
    before = disk(store)
    with pytest.raises(error, match="newer"):
        oblivion_dbm.open(store, "n")
    assert disk(store) == before


# Damaged files.


def damages(store: Path) -> Iterator[tuple[Path, bytes]]:
    """Yield (file, damaged bytes) for every kind of damage that opening must find."""
    manifest, (log,), (table,) = store / "MANIFEST", store.glob("*.wal"), store.glob("*.sst")
    for path in (manifest, log, table):
        whole = path.read_bytes()
        yield path, b""
        yield path, b"junk" * 10
        yield path, whole[: len(whole) // 40]
        yield path, b"\0" + whole[1:]
    whole = log.read_bytes()
    yield log, whole[:4100] + b"\xff" + whole[4101:]
    yield log, whole[:4100]
    whole = table.read_bytes()
    yield table, whole[:-1]
    yield table, whole[:-20] + b"\0" * 20
    whole = manifest.read_bytes()
    yield manifest, whole[:-5]
    yield manifest, whole.replace(b"live", b"dead")


@NOT_NEW
def test_a_damaged_file_is_corruption_that_names_it(store: Path, flag: str) -> None:
    for path, data in list(damages(store)):
        whole = path.read_bytes()
        path.write_bytes(data)
        before = disk(store)
        with pytest.raises(CorruptionError) as caught:
            oblivion_dbm.open(store, flag)
        assert caught.value.filename == str(path)
        assert str(path) in str(caught.value)
        assert 0 <= caught.value.offset <= len(whole)
        assert disk(store) == before
        path.write_bytes(whole)
    with Database(store, flag) as db:
        assert len(db) == 201


@NOT_NEW
@pytest.mark.parametrize("suffix", ["sst", "wal"])
def test_a_missing_file_is_an_error_that_names_it(store: Path, flag: str, suffix: str) -> None:
    (path,) = store.glob(f"*.{suffix}")
    path.unlink()
    before = disk(store)
    with pytest.raises(error) as caught:
        oblivion_dbm.open(store, flag)
    assert str(path) in str(caught.value)
    assert disk(store) == before


@pytest.mark.parametrize("flag", ["w", "c"])
def test_a_file_from_the_future_of_the_manifest_is_an_error_and_stays(
    store: Path, flag: str
) -> None:
    (store / "999999.sst").write_bytes(b"kept")
    before = disk(store)
    with pytest.raises(error, match="expected file numbers below") as caught:
        oblivion_dbm.open(store, flag)
    assert "999999.sst" in str(caught.value)
    assert disk(store) == before


# Damaged records.


@pytest.fixture
def damaged(store: Path) -> tuple[Path, int]:
    """Damage the value of key 100 in the table; return the file and the record's offset."""
    (path,) = store.glob("*.sst")
    data = bytearray(path.read_bytes())
    place = data.index(b"value 100")
    data[place] ^= 1
    path.write_bytes(data)
    return path, place - 12


@pytest.mark.parametrize("flag", ["r", "w"])
def test_a_damaged_record_is_corruption_with_file_and_offset_and_never_a_key_error(
    store: Path, damaged: tuple[Path, int], flag: str
) -> None:
    before = disk(store)
    with Database(store, flag) as db:
        calls: list[Callable[[], object]] = [
            lambda: db["100"],
            lambda: db.get("100"),
            lambda: db.get("100", "default"),
            lambda: "100" in db,
            lambda: db.get_many(["000", "100"]),
            lambda: db.pop("100", None),
            lambda: db.setdefault("100", "other"),
            lambda: db.prefixed("10")["0"],
            lambda: db.nextkey("100"),
            lambda: dict(db),
            lambda: list(db.scan(prefix="100")),
            lambda: list(db.scan(reverse=True)),
            db.keys,
            lambda: list(db.values()),
            lambda: db == {},
        ]
        for call in calls:
            with pytest.raises(CorruptionError) as caught:
                call()
            assert (caught.value.filename, caught.value.offset) == (str(damaged[0]), damaged[1])
        (finding,) = db.verify()
        assert (finding.file, finding.offset) == (str(damaged[0]), damaged[1])
        assert db["000"] == b"value 0"
        assert db["199"] == b"value 199"
        assert "absent" not in db
        assert len(db) == 201
    after = disk(store)
    assert flag == "w" or after == before
    assert after[damaged[0].name] == before[damaged[0].name]


def test_a_damaged_record_is_not_deleted_or_merged_away_unseen(
    store: Path, damaged: tuple[Path, int]
) -> None:
    with Database(store, fan_in=2) as db:
        with pytest.raises(CorruptionError):
            del db["100"]
        with pytest.raises(CorruptionError):
            db.compact()
        db["100"] = "written anew"
        assert db["100"] == b"written anew"
        db.flush()
        assert damaged[0].exists()
        assert db["100"] == b"written anew"
        db["more"] = "1"
    with Database(store) as db:
        assert db["100"] == b"written anew"
        assert db["more"] == b"1"


@pytest.mark.parametrize("flag", ["r", "w"])
def test_every_key_of_a_table_damaged_at_any_place_is_right_or_corruption(
    store: Path, flag: str
) -> None:
    (path,) = store.glob("*.sst")
    whole = path.read_bytes()
    keys = [b"000", b"001", b"100", b"199", b"absent"]
    truth = [b"value 0", b"value 1", b"value 100", b"value 199", None]
    for place in range(0, len(whole), 37):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x20]) + whole[place + 1 :])
        try:
            db = Database(store, flag)
        except CorruptionError:
            continue
        for key, value in zip(keys, truth):
            assert value_or_damage(db, key) in (value, CorruptionError)
        db.close()


def value_or_damage(db: Database, key: bytes) -> Any:
    try:
        return db.get(key)
    except CorruptionError:
        return CorruptionError


# Too long.


@pytest.fixture(scope="module")
def giant() -> Iterator[memoryview]:
    """Return a view of one byte more than the format holds; no page of it is ever touched."""
    with mmap.mmap(-1, LONGEST + 1) as space, memoryview(space) as view:
        yield view


def calls_too_long(db: Any, giant: memoryview) -> list[tuple[str, Callable[[], object]]]:
    return [
        ("key", lambda: db.__setitem__(giant, b"")),
        ("value", lambda: db.__setitem__(b"", giant)),
        ("key", lambda: db.get(giant)),
        ("key", lambda: giant in db),
        ("key", lambda: db.__delitem__(giant)),
        ("value", lambda: db.put_many([("a", "1"), ("b", giant)])),
        ("value", lambda: db.load([("b", giant)])),
        ("value", lambda: db.setdefault("b", giant)),
        ("key", lambda: db.batch().__delitem__(giant)),
        ("value", lambda: db.batch().__setitem__("b", giant)),
        ("key", lambda: db.scan(start=giant)),
    ]


def test_what_is_too_long_for_the_format_is_a_value_error_that_names_the_limit(
    store: Path, giant: memoryview
) -> None:
    with Database(store) as db:
        db["first write"] = "done"
        before = disk(store)
        for mapping in (db, db.prefixed("00")):
            for name, call in calls_too_long(mapping, giant):
                meaning = f"the {name} has 4294967296 bytes; the limit is 4294967295"
                with pytest.raises(ValueError, match=meaning):
                    call()
        assert disk(store) == before


def test_an_empty_path_is_no_store() -> None:
    for opener in (Database, oblivion_dbm.open):
        with pytest.raises(error) as caught:
            opener("", "c")
        assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize("sync", ["normal", "full"])
def test_a_log_cut_at_any_length_is_damage_to_every_opener(tmp_path: Path, sync: str) -> None:
    path = tmp_path / "store"
    with Database(path, sync=sync) as db:
        for number in range(5):
            db[b"%d" % number] = b"value"
    (log,) = path.glob("*.wal")
    whole = log.read_bytes()
    end = 4096 + 5 * (13 + 1 + 5)
    for length in [*range(0, 4096, 511), *range(4096, end + 3)]:
        log.write_bytes(whole[:length])
        for flag in "rw":
            if length < end:
                with pytest.raises(CorruptionError) as caught:
                    Database(path, flag)
                assert caught.value.filename == str(log)
                assert 0 <= caught.value.offset <= length
            else:
                with Database(path, flag) as db:
                    assert len(db) == 5


def test_a_manifest_of_something_else_makes_no_store(tmp_path: Path) -> None:
    (tmp_path / "MANIFEST").write_text("include README\n")
    (tmp_path / "setup.py").touch()
    for flag in "rwcn":
        with pytest.raises(error):
            Database(tmp_path, flag)
    with pytest.raises(error):
        oblivion_dbm.remove(tmp_path)
    (tmp_path / "setup.py").unlink()
    with pytest.raises(error):
        oblivion_dbm.remove(tmp_path)
    assert (tmp_path / "MANIFEST").read_text() == "include README\n"
    assert os.listdir(tmp_path) == ["MANIFEST"]


@pytest.mark.parametrize("kind", ["wal", "sst"])
def test_a_file_that_is_missing_is_damage_to_every_opener(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "store"
    with Database(path) as db:
        db["a"] = "1"
        db.flush()
        db["b"] = "2"
    (missing,) = path.glob(f"*.{kind}")
    missing.unlink()
    for flag in "rwc":
        with pytest.raises(CorruptionError, match="missing") as caught:
            Database(path, flag)
        assert caught.value.filename == str(missing)
        assert caught.value.errno != errno.ENOENT


def test_a_store_without_its_lock_file_is_removed_whole(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with Database(path) as db:
        db["a"] = "1"
    (path / "LOCK").unlink()
    oblivion_dbm.remove(path)
    assert not path.exists()
