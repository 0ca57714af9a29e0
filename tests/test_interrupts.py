"""An exception out of a signal handler, in the middle of a read, loses nothing.

The interpreter may run a handler between any two instructions; here an
exception is raised at each instruction of the modules that a read changes
memory in, one after the other.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from oblivion_dbm import Database

FILES = ("tree.py", "memtable.py")


class Interrupt(BaseException):
    """What a signal handler raises."""


def interrupted_at(place: int, call: Callable[[], object]) -> bool:
    """Call, and raise Interrupt at the ``place``-th instruction; False if there are fewer."""
    left = place

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.endswith(FILES):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left == 0:
                raise Interrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except Interrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize("read", ["first", "keys", "count", "snapshot"])
def test_an_interrupted_read_loses_nothing(tmp_path: Path, read: str) -> None:
    path = tmp_path / "store"
    db = Database(path)
    calls: dict[str, Callable[[], object]] = {
        "first": db.first,
        "keys": db.keys,
        "count": db.__len__,
        "snapshot": lambda: db.snapshot().close(),
    }
    model: dict[bytes, bytes] = {}
    # Python 3.12 traces instructions only from the second time on that it is asked to.
    interrupted_at(sys.maxsize, db.__len__)
    place = 1
    while True:
        keys = [b"%d" % ((place * 7 + number) % 50) for number in range(3)]
        for key in keys:
            db[key] = model[key] = b"%d" % place
        del db[keys[-1]]
        del model[keys[-1]]
        if not interrupted_at(place, calls[read]):
            break
        key = b"new %d" % (place % 10)
        db[key] = model[key] = b"%d" % place
        if place % 5 == 0:
            db.flush()
        assert db.keys() == sorted(model)
        assert len(db) == len(model)
        assert db.first()[0] == min(model)
        place += 1
    assert place > 50
    db.close()
    with Database(path) as db:
        assert dict(db.scan()) == model
        assert db.verify() == []
