"""Every record that is found is handed over with its place, and nothing that is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from oblivion_dbm.engine.damage import Damage
from oblivion_dbm.engine.filesystem import FileSystem
from oblivion_dbm.engine.hand_over import HandOver
from oblivion_dbm.engine.record import BATCH, CLEAR, DELETE, PUT, SEAL, encode

SYSTEM = FileSystem()


def found_in_log(folder: Path, data: bytes) -> list[dict[str, object]]:
    """Return what is handed over of ``data``, a part of a log."""
    hand_over = HandOver(SYSTEM, str(folder / "found"), 0o600)
    hand_over.add_of_log("000007.wal", lambda at, length: data[at : at + length], 0, len(data))
    if not hand_over.finish():
        return []
    return [json.loads(line) for line in (folder / "found").read_text().splitlines()]


def test_of_a_batch_each_record_is_handed_over_with_its_place(tmp_path: Path) -> None:
    inner = [encode(CLEAR, b"", b""), encode(PUT, b"a", b"1"), encode(DELETE, b"b", b"")]
    data = b"torn" + encode(BATCH, b"", b"".join(inner)) + encode(PUT, b"c", b"3")
    lines = found_in_log(tmp_path, data)
    assert [(line["op"], line.get("key"), line.get("value")) for line in lines] == [
        ("clear", None, None), ("put", "a", "1"), ("delete", "b", None), ("put", "c", "3"),
    ]  # fmt: skip
    records = [*inner, encode(PUT, b"c", b"3")]
    assert [line["offset"] for line in lines] == [data.index(record) for record in records]


@pytest.mark.parametrize("rest", [b"no record", encode(SEAL, b"", b""), encode(BATCH, b"", b"")])
def test_of_what_only_looks_like_a_batch_nothing_is_handed_over(
    tmp_path: Path, rest: bytes
) -> None:
    batch = encode(BATCH, b"", encode(PUT, b"a", b"1") + rest)
    assert found_in_log(tmp_path, batch) == []
    (line,) = found_in_log(tmp_path, batch + encode(PUT, b"c", b"3"))
    assert (line["key"], line["offset"]) == ("c", len(batch))


def test_of_a_table_only_keys_that_were_between_its_neighbours_are_handed_over(
    tmp_path: Path,
) -> None:
    data = b"".join(encode(PUT, key, b"1") for key in (b"a", b"b", b"c", b"d"))
    hand_over = HandOver(SYSTEM, str(tmp_path / "found"), 0o600)
    damage = Damage("000009.sst", 0, len(data), "", b"b", stop=b"d")
    hand_over.add_of_table(lambda at, length: data[at : at + length], damage)
    assert hand_over.finish()
    lines = [json.loads(line) for line in (tmp_path / "found").read_text().splitlines()]
    assert [line["key"] for line in lines] == ["b", "c"]
