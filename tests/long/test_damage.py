"""``verify`` finds every changed byte of all prepared stores, at once and after a restart.

Run by hand: ``pytest tests/long/test_damage.py -s``; it takes an hour or two.
OBLIVION_DBM_STRIDE takes each so manieth byte only.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gates import damage
from gates.prepared import LATER, MAKERS, WRITTEN, Boot, prepared

STRIDE = int(os.environ.get("OBLIVION_DBM_STRIDE", "1"))


@pytest.mark.parametrize("system", [WRITTEN, LATER], ids=["same boot", "other boot"])
@pytest.mark.parametrize("number", range(len(MAKERS)))
def test_every_changed_byte_of_every_store_is_found(
    tmp_path: Path, number: int, system: Boot
) -> None:
    store, path, places = prepared(number), str(tmp_path / "store"), 0
    damage.write_files(path, store.files)
    missed = []
    for name in damage.synced_files(store, system):
        data = store.files[name]
        missed += damage.missed_bytes(path, data, name, range(0, len(data), STRIDE), system)
        places += len(range(0, len(data), STRIDE))
    print(f"{store.name}: {places:,} bytes, {len(missed)} changes missed")
    assert missed == []
