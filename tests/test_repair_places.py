"""Repair where a path is a link, or where something is mounted."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from oblivion_dbm import Database, error, repair

MODEL = {b"%d" % number: b"value" for number in range(20)}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Give a store whose MANIFEST is gone, in a folder of its own."""
    path = tmp_path / "disk" / "store"
    path.parent.mkdir()
    with Database(path) as database:
        database.update(MODEL)
    (path / "MANIFEST").unlink()
    return path


def holds_all(path: Path) -> bool:
    with Database(path, "r") as database:
        return dict(database) == MODEL


def test_a_link_to_a_store_stays_and_leads_to_the_new_one(store: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("disk/store")
    report = repair(link)
    assert (report.path, report.old) == (str(store), str(store) + ".damaged")
    assert os.readlink(link) == "disk/store"
    assert holds_all(link)
    assert holds_all(store)
    assert sorted(os.listdir(tmp_path)) == ["disk", "link"]


def test_a_repair_by_a_link_that_was_cut_short_is_brought_to_its_end(
    store: Path, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to("disk/store")
    repair(link)
    store.rename(store.with_name("store.repairing"))
    repair(link)
    assert os.readlink(link) == "disk/store"
    assert holds_all(link)
    assert sorted(os.listdir(store.parent)) == ["store", "store.damaged"]


def test_a_link_to_an_empty_directory_stays_and_leads_to_the_new_store(
    store: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    report = repair(store, destination=tmp_path / "link")
    assert (report.path, report.old) == (str(tmp_path / "empty"), str(store))
    assert os.readlink(tmp_path / "link") == "empty"
    assert holds_all(tmp_path / "link")
    assert sorted(os.listdir(tmp_path)) == ["disk", "empty", "link"]


@pytest.fixture
def mounted(store: Path, tmp_path: Path) -> Iterator[Path]:
    """Give a folder at which the store's is mounted, too."""
    point = tmp_path / "point"
    point.mkdir()
    done = subprocess.run(
        ["mount", "--bind", str(store), str(point)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"this machine does not allow to mount: {done.stderr.decode()}")
    yield point
    subprocess.run(["umount", str(point)], check=True)


def test_a_mount_point_is_refused_before_anything_is_made(mounted: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("point")
    before = sorted(os.listdir(mounted)), sorted(os.listdir(tmp_path))
    for path in (mounted, tmp_path / "link"):
        with pytest.raises(error, match="found a mount point") as caught:
            repair(path)
        assert (caught.value.errno, caught.value.filename) == (errno.EBUSY, str(mounted))
    assert (sorted(os.listdir(mounted)), sorted(os.listdir(tmp_path))) == before
    report = repair(mounted, destination=tmp_path / "new")
    assert report.saved == len(MODEL)
    assert holds_all(tmp_path / "new")


def test_a_mount_point_is_no_destination(store: Path, tmp_path: Path) -> None:
    point = tmp_path / "point"
    point.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "none", str(point)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"this machine does not allow to mount: {done.stderr.decode()}")
    try:
        with pytest.raises(error, match="found a mount point") as caught:
            repair(store, destination=point)
        assert caught.value.errno == errno.EBUSY
        assert os.listdir(point) == []
        assert sorted(os.listdir(tmp_path)) == ["disk", "point"]
        assert os.listdir(store.parent) == ["store"]
        repair(store, destination=point / "within")
        assert holds_all(point / "within")
    finally:
        subprocess.run(["umount", str(point)], check=True)
