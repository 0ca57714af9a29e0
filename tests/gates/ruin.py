"""Random stores, random damage, and what a repair must make of them.

The new store verifies and takes writes, the old one is as it was, and whatever is there
has the value it had last, unless the report names a loss in the log, or says that old
values may be back.  Where it names no loss at all, everything is there.

A trial is a number, which chooses store and damage.
"""

from __future__ import annotations

import random
from pathlib import Path

from gates.disk import Restarted
from gates.history import History, Model
from oblivion_dbm.engine.damage import BACK, PatientFiles
from oblivion_dbm.engine.filesystem import FileSystem
from oblivion_dbm.engine.inventory import Inventory
from oblivion_dbm.engine.lineage import emptied_up_to
from oblivion_dbm.engine.manifest import parse
from oblivion_dbm.engine.options import Options
from oblivion_dbm.engine.repair import repair
from oblivion_dbm.engine.report import Report
from oblivion_dbm.engine.storage_engine import open_store
from oblivion_dbm.engine.verify import verify
from oblivion_dbm.errors import error

SYSTEM = FileSystem()
Files = dict[str, bytes]


def contents(directory: Path) -> Files:
    """Return the bytes of every file but LOCK, which says who has locked it."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "LOCK"}


def pairs(directory: Path, system: FileSystem = SYSTEM) -> Model:
    """Return what a store holds."""
    engine = open_store(str(directory), "r", Options(), filesystem=system)
    found: Model = dict(engine.scan("pairs", None, None, False))
    assert engine.count() == len(found)
    engine.close()
    return found


class Ruin:
    """A store at ``path`` that was worked on, what it must hold, and what was done to it.

    ``live`` tells that its last writer was killed; ``gone`` are files that it had, as they
    were when they were looked at last, and ``manifests`` all that it ever had.
    """

    def __init__(self, path: Path, dice: random.Random, *, clears: bool = True) -> None:
        self.path = path
        self.dice = dice
        self.gone: Files = {}
        self.manifests: list[bytes] = []
        self.done: list[object] = []
        self.live = False
        self._history = History(dice, "normal")
        for session in range(dice.randrange(1, 4)):
            self._work(session, clears)
        self.model = self._history.states[-1]
        for name in contents(path):
            self.gone.pop(name, None)

    def _work(self, session: int, clears: bool) -> None:
        history, dice = self._history, self.dice
        options = history.options(background=False)
        engine = open_store(str(self.path), "c", options, filesystem=SYSTEM)
        for _ in range(dice.choice([3, 20, 60])):
            act, model = history.next(engine)
            if act == engine.clear and not clears:
                continue
            act()
            if model is not None:
                history.states[-1] = model
            seen = contents(self.path)
            self.gone.update(seen)
            if [seen["MANIFEST"]] != self.manifests[-1:]:
                self.manifests.append(seen["MANIFEST"])
        self.live = dice.random() < 0.4
        left = contents(self.path)
        engine.close()
        if self.live:
            for path in self.path.iterdir():
                path.unlink()
            for name, data in left.items():
                (self.path / name).write_bytes(data)

    def lose_manifest(self) -> None:
        """Remove the MANIFEST."""
        (self.path / "MANIFEST").unlink(missing_ok=True)
        self.done.append("no MANIFEST")

    def age_manifest(self) -> None:
        """Put back a MANIFEST that the store had once."""
        (self.path / "MANIFEST").write_bytes(self.dice.choice(self.manifests))
        self.done.append("an older MANIFEST")

    def damage(self) -> None:
        """Do something to one file, to which nothing was done yet; to a table several things.

        Two kinds of damage to one log could hide each other.
        """
        files = contents(self.path)
        sound = [name for name in sorted(files) if name not in str(self.done)]
        if not sound:
            return
        name = self.dice.choice(sound)
        times = self.dice.choice([1, 1, 1, 2, 3, 5, 20]) if name.endswith(".sst") else 1
        whole: bytearray | None = bytearray(files[name])
        for _ in range(times):
            if whole is not None:
                whole = self._harm(name, whole)
        if whole is None:
            (self.path / name).unlink()
        else:
            (self.path / name).write_bytes(whole)

    def _harm(self, name: str, whole: bytearray) -> bytearray | None:
        """Return what is left of the bytes of a file; None where it is to be removed."""
        dice, end = self.dice, len(whole.rstrip(b"\0")) or 1
        at = dice.randrange(end)
        if dice.random() < 0.3:  # where tables have their sums, index and footer
            at = max(0, end - 1 - dice.randrange(3000))
        kinds = ["flip", "flip", "flip", "burst", "zeros", "cut", "remove", "other"]
        kind = dice.choice(["flip", "other"] if dice.random() < 0.4 else kinds)
        self.done.append((kind, name, at))
        if kind == "flip":
            whole[at : at + 1] = bytes([(*whole[at : at + 1], 0)[0] ^ 1 << dice.randrange(8)])
        elif kind == "burst":
            whole[at : at + 8] = dice.randbytes(len(whole[at : at + 8]))
        elif kind == "zeros":
            at -= at % 512
            length = dice.choice([512, 4096])
            whole[at : at + length] = bytes(len(whole[at : at + length]))
        elif kind == "cut":
            del whole[at:]
        elif kind == "other":
            return self._replaced(name, whole)
        return None if kind == "remove" else whole

    def _replaced(self, name: str, whole: bytearray) -> bytearray:
        """Return the bytes of another file of this kind, all or a part of them.

        Of blocks in a log whose writer was killed nobody can tell that they are others.
        """
        dice, suffix = self.dice, name[-4:]
        files = {**self.gone, **contents(self.path)}
        others = [data for other, data in sorted(files.items())
                  if other.endswith(suffix) and other != name]  # fmt: skip
        if suffix not in (".sst", ".wal") or not others:
            return whole
        other = bytearray(dice.choice(others))
        kinds = ["whole", "cut"] + ["mixed", "mixed", "head"] * (suffix == ".sst" or not self.live)
        kind = dice.choice(kinds)
        self.done.append((kind, name))
        if kind == "whole":
            return other
        at = dice.randrange(len(other.rstrip(b"\0")) or 1)
        if kind == "cut":
            return other[: dice.choice([at, -100, -12])]
        if kind == "head":
            return other[:at] + whole[at:]
        size = dice.choice([64, 512, 4096])
        for begin in range(0, min(len(whole), len(other)), size):
            if dice.random() < 0.3:
                block = other[begin : begin + size]
                whole[begin : begin + len(block)] = block[: len(whole) - begin]
        return whole

    def put_back(self, suffix: str) -> None:
        """Put back some files that the store had once."""
        names = sorted(name for name in self.gone if name.endswith(suffix))
        chosen = self.dice.sample(names, min(len(names), self.dice.choice([1, 3, 1000])))
        for name in chosen:
            (self.path / name).write_bytes(self.gone[name])
        self.done.append(("back", chosen))

    @property
    def was_emptied(self) -> bool:
        """Whether a flush or a merge has ever left no table."""
        emptied = [emptied_up_to(parse(text, "MANIFEST")) for text in self.manifests]
        return any(emptied)

    def is_left(self) -> bool:
        """Tell whether anything is left that a store has made."""
        inventory = Inventory(PatientFiles(SYSTEM), str(self.path))
        inventory.close()
        return inventory.is_a_store

    def repair(self) -> Report:
        """Repair and check, in the boot that wrote it or after a restart."""
        system = Restarted(7) if self.dice.random() < 0.4 else SYSTEM
        before, opened = contents(self.path), self._opened(system)
        report = repair(str(self.path), filesystem=system)
        where = f"{self.done}\n{report}"
        assert contents(Path(report.old)) == before, where
        assert verify(str(self.path)) == [], where
        found = pairs(self.path)
        assert len(found) == report.saved
        if opened is not None:
            # Of a name that says more than MANIFEST and files together a reader knows nothing.
            known = [loss for loss in report.losses if "had its name" not in loss.meaning]
            assert (found, known) == (opened, []), where
        elif not (self.live and system is not SYSTEM):  # else the last writes need not be there
            if not report.losses and not report.tails:
                assert found == self.model, where
            if not excuses(report):
                assert found.items() <= self.model.items(), where
        self._write(found)
        return report

    def _opened(self, system: FileSystem) -> Model | None:
        """Return what the store holds if nothing is wrong with it."""
        try:
            findings = verify(str(self.path), system)
            return pairs(self.path, system) if all(f.leftover for f in findings) else None
        except error:
            return None

    def _write(self, found: Model) -> None:
        """Check that writing goes on."""
        options = self._history.options(background=False)
        engine = open_store(str(self.path), "w", options, filesystem=SYSTEM)
        engine.put(b"new", b"value")
        engine.compact()
        engine.close()
        assert pairs(self.path) == found | {b"new": b"value"}
        assert verify(str(self.path)) == []


def excuses(report: Report) -> bool:
    """Tell whether the report names something that lets old values come back."""
    losses = report.losses
    in_log = any(loss.file.endswith(".wal") or "may be back" in loss.meaning for loss in losses)
    return in_log or bool(report.tails)


def trial(seed: int, folder: str, size: str = "change") -> int:
    """Ruin a store and repair it; return 1."""
    dice = random.Random(seed)
    ruin = Ruin(Path(folder, "store"), dice)
    change = dice.random()
    if change < 0.2:
        ruin.lose_manifest()
    elif change < 0.4:
        ruin.age_manifest()
    for _ in range(dice.choice([0, 1, 1, 1, 2, 3])):
        ruin.damage()
    if ruin.is_left():
        ruin.repair()
    return 1


def leftovers(seed: int, folder: str, size: str = "change") -> int:
    """Put files back that merges and flushes have removed, and lose the MANIFEST; return 1."""
    dice = random.Random(seed)
    ruin = Ruin(Path(folder, "store"), dice, clears=False)
    ruin.put_back(".sst")
    if dice.random() < 0.9:
        ruin.lose_manifest()
    if ruin.is_left():
        report = ruin.repair()
        # A table flushed when all before was deleted says that it holds all before, as all
        # did before there were true beginnings; which of the two it is nobody can tell.
        unclear = ruin.was_emptied and any(BACK in loss.meaning for loss in report.losses)
        found = pairs(ruin.path).items() - {(b"new", b"value")}
        assert unclear or found == ruin.model.items(), report
    return 1
