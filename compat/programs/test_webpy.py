"""web.py keeps its sessions in a shelf (``ShelfStore``)."""

from __future__ import annotations

import time

from web.session import ShelfStore

from oblivion_dbm import shelve


def test_sessions_are_kept_and_old_ones_cleaned_up() -> None:
    with shelve.open("session.shelf") as shelf:
        store = ShelfStore(shelf)
        for number in range(20):
            store[f"old {number}"] = {"number": number}
    time.sleep(0.2)
    with shelve.open("session.shelf") as shelf:
        store = ShelfStore(shelf)
        store["new"] = {"number": 20}
        assert store["old 7"] == {"number": 7}
        del store["old 8"]
        del store["never there"]
        assert "old 8" not in store
        # It deletes in a loop over the shelf; reading "old 7" has made it young again.
        store.cleanup(0.1)
        assert sorted(shelf) == ["new", "old 7"]
