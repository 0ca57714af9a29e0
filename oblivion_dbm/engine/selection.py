"""Which files of a damaged directory make up the store, and what others are for.

With a MANIFEST that checks: those that it names.  A table that is missing or
whose footer is damaged may be replaced by others on the disk that hold the same.
Without one, or with an older one: all tables whose footers check and all logs whose
headers do, of the store that most of them belong to, but for what a later table covers.
"""

from __future__ import annotations

from oblivion_dbm.engine.damage import BACK, Loss
from oblivion_dbm.engine.damaged_run import (
    DamagedRun,
    Hole,
    Place,
    Resolved,
    chain,
    covers,
    grouped,
)
from oblivion_dbm.engine.filenames import log as log_name
from oblivion_dbm.engine.filenames import parse
from oblivion_dbm.engine.filenames import table as table_name
from oblivion_dbm.engine.header_page import DATA_AT
from oblivion_dbm.engine.sstable import RECORDS_AT
from oblivion_dbm.engine.wal import SEAL_RECORD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from oblivion_dbm.engine.damaged_log import DamagedLog
    from oblivion_dbm.engine.damaged_table import DamagedTable
    from oblivion_dbm.engine.inventory import Inventory
    from oblivion_dbm.engine.version import Run, TableInfo, Version

NOT_NAMED = "the MANIFEST does not name it"


class Selection:
    """The store's runs, newest first, and its logs, oldest first.

    ``other_tables`` and ``other_logs`` are to be searched and not merged,
    ``dropped`` holds (name, reason) of what is not used at all.  ``losses`` is what
    is missing, ``notes`` what is damaged at no cost.
    """

    def __init__(self) -> None:
        self.runs: list[DamagedRun] = []
        self.logs: list[DamagedLog] = []
        self.other_tables: list[DamagedTable] = []
        self.other_logs: list[DamagedLog] = []
        self.store_id = ""
        self.losses: list[Loss] = []
        self.notes: list[Loss] = []
        self.dropped: list[tuple[str, str]] = []

    def drop(self, runs: Iterable[tuple[DamagedRun, str]]) -> None:
        """Note runs that are not used, with the reason."""
        self.dropped += [(name, why) for run, why in runs for name in run.names]


def select(inventory: Inventory) -> Selection:
    """Return which files make up the store.  Walks through all tables: O(bytes)."""
    chosen = Selection()
    if inventory.version is not None:
        _ByManifest(inventory, inventory.version, chosen).choose()
    else:
        assert inventory.problem is not None
        chosen.notes.append(inventory.problem)
        _ByFooters(inventory, chosen).choose()
    for run in chosen.runs:
        for table in run.tables:
            if not table.sound_header:
                chosen.notes.append(Loss(table.name, 0, RECORDS_AT, "its header does not check"))
            if table.footer is None:
                meaning = "its footer does not check; records were found without it"
                chosen.notes.append(Loss(table.name, table.size, 0, meaning))
            meaning = "one bit of this record was wrong; the sum of its group tells which"
            chosen.notes += [Loss(table.name, at, 0, meaning) for at in table.mended]
    return chosen


class _ByManifest:
    """Chooses what the MANIFEST names."""

    def __init__(self, inventory: Inventory, version: Version, chosen: Selection) -> None:
        self._inventory = inventory
        self._chosen = chosen
        self._version = version
        self._names = {table.name: table for table in inventory.tables}
        self._tables = _by_number(inventory, bytes.fromhex(version.store_id))
        unknown = {log.number: log for log in inventory.logs if log.owner is None}
        self._logs = unknown | _logs_by_number(inventory, bytes.fromhex(version.store_id))

    def choose(self) -> None:
        """Choose runs and logs; note what is missing, and what is not used."""
        chosen, version = self._chosen, self._version
        chosen.store_id = version.store_id
        chosen.logs = [self._logs[number] for number in version.logs if self._is_there(number)]
        chosen.losses += _misnamed(self._inventory, max(version.logs, default=0))
        chosen.runs = [self._run(run) for run in version.runs]
        for run in chosen.runs:
            run.survey()
        if not all(run.is_complete for run in chosen.runs):
            self._replace()
        used = {name for run in chosen.runs for name in run.names}
        used.update(log.name for log in chosen.logs)
        known = {name for name, _ in chosen.dropped}
        files: list[DamagedTable | DamagedLog] = [*self._inventory.tables, *self._inventory.logs]
        names = [*(file.name for file in files), *self._inventory.unreadable]
        chosen.dropped += [(name, NOT_NAMED) for name in names if name not in used | known]

    def _is_there(self, number: int) -> bool:
        """Tell whether a log that is named is there; note it as lost where it is not."""
        if number in self._logs:
            return True
        name = log_name(number)
        loss = self._inventory.unreadable.get(name, Loss(name, 0, 0, "this segment is missing"))
        if any(log.name == name for log in self._inventory.logs):
            loss = Loss(name, 0, 0, "another segment has its name")
        self._chosen.losses.append(loss)
        return False

    def _run(self, run: Run) -> DamagedRun:
        places = [self._place(info) for info in run.tables]
        return DamagedRun(run.level, places, [info.number for info in run.tables])

    def _place(self, info: TableInfo) -> Place:
        name = table_name(info.number)
        table = self._tables.get(info.number)
        if table is not None and table.footer is not None:
            if table.footer.crc == info.footer_crc:
                return Place(table)
            return Place(None, table.name, table.size, "it is not the table that is named so")
        table = self._names.get(name)
        if table is None:
            return Place(None, name, max(0, info.size))
        if table.footer is not None:
            return Place(None, name, table.size, "another table has its name")
        table.expect(info)
        return Place(table)

    def _replace(self) -> None:
        """Let tables that are not named take the place of runs whose tables lack a footer."""
        chosen = self._chosen
        named = {number for run in chosen.runs for number in run.numbers}
        spare = grouped(table for number, table in self._tables.items() if number not in named)
        self._estimate_spans()
        for run in tuple(chosen.runs):
            if run in chosen.runs and not (run.is_complete or run.has_all_footers):
                self._replace_run(run, spare)

    def _estimate_spans(self) -> None:
        """Say of runs without any footer what they held, by their neighbours'."""
        chosen, runs = self._chosen, self._chosen.runs
        begun = chosen.logs and chosen.logs[0].takes_nothing_over
        above = chosen.logs[0].first_sequence if begun else 0
        for place, run in enumerate(runs):
            older = 0 if place + 1 == len(runs) else _end(runs[place + 1])
            if run.span is None and older is not None and older < above:
                run.span = older, above
            above = 0 if run.span is None else run.span[0]

    def _replace_run(self, run: DamagedRun, spare: list[DamagedRun]) -> None:
        chosen = self._chosen
        others = [other for other in spare if covers(other, run) or covers(run, other)]
        for other in others:
            other.survey()
        outer = [other for other in others if covers(other, run) and other.is_complete]
        inner = [other for other in others if covers(run, other)]
        links = None if run.span is None else chain(inner, run.span)
        if outer:
            new = max(outer, key=lambda other: other.age)
            self._put([new], [old for old in chosen.runs if covers(new, old)])
        elif links is not None:
            self._put(links, [run])
        else:
            for other in inner:
                other.outer = run
            inner.sort(key=lambda other: other.age, reverse=True)
            place = chosen.runs.index(run) + 1
            chosen.runs[place:place] = inner

    def _put(self, new: list[DamagedRun], old: list[DamagedRun]) -> None:
        """Let runs take the place of others, which are neighbours."""
        chosen = self._chosen
        place = chosen.runs.index(old[0])
        chosen.drop((run, "others that hold the same take its place") for run in old)
        chosen.runs = [run for run in chosen.runs if run not in old]
        chosen.runs[place:place] = new


class _ByFooters:
    """Chooses by what the files say of themselves."""

    def __init__(self, inventory: Inventory, chosen: Selection) -> None:
        self._inventory = inventory
        self._chosen = chosen
        self._foreign: list[str] = []
        self._store_id = self._own()
        self._tables = _by_number(inventory, self._store_id)

    def _own(self) -> bytes:
        """Return the id in the MANIFEST, or else that of most files; note those of others."""
        owners = [(table.footer.store_id, table.footer.number, table.name)
                  for table in self._inventory.tables if table.footer is not None]  # fmt: skip
        owners += [(*log.owner, log.name) for log in self._inventory.logs if log.owner is not None]
        counts: dict[bytes, list[int]] = {}
        for store_id, number, _ in owners:
            count = counts.setdefault(store_id, [0, 0])
            count[:] = count[0] + 1, max(count[1], number)
        own = self._inventory.store_id or max(counts, key=counts.__getitem__, default=b"")
        for store_id, _, name in owners:
            if store_id != own:
                why = f"it is of another store, {store_id.hex()}; this one is {own.hex()}"
                self._chosen.dropped.append((name, why))
                self._foreign.append(name)
        return own

    def choose(self) -> None:
        """Choose runs and logs; note what cannot be told."""
        chosen = self._chosen
        chosen.store_id = self._store_id.hex()
        runs = grouped(self._tables.values())
        for run in runs:
            run.survey()
        resolved = Resolved(runs)
        chosen.drop(resolved.dropped)
        self._add_runs(resolved.kept)
        self._add_logs()
        self._add_others()
        if self._foreign and not self._inventory.store_id:
            names = ", ".join(self._foreign)
            self._lose(f"whose store this is cannot be told; of another one are {names}")

    def _add_runs(self, runs: list[DamagedRun]) -> None:
        """Choose runs, and note where others are missing between them."""
        chosen, end = self._chosen, 0
        for run in reversed(runs):
            if run.span is None or run.outer is not None:
                chosen.runs.insert(0, run)
                continue
            first, last = run.span
            # A segment that ends before its first write leaves the number of its SEAL.
            if first - end == len(SEAL_RECORD):
                end = first
            if first > end and not chosen.runs:
                self._lose(f"no table holds the writes up to number {first}, if any are left")
            elif first > end:
                self._lose(
                    f"the table that held the writes from number {end} to {first} is missing"
                )
                chosen.runs.insert(0, Hole("a table is missing"))
            elif first < end:
                names = ", ".join(run.names)
                self._lose(f"{names} may or may not hold all that older ones do: {BACK}")
            chosen.runs.insert(0, run)
            end = max(end, last)
        self._end = end

    def _lose(self, meaning: str) -> None:
        self._chosen.losses.append(Loss("", 0, 0, meaning))

    def _add_logs(self) -> None:
        """Choose logs that no table covers, and note what is missing below them."""
        chosen = self._chosen
        logs = _logs_by_number(self._inventory, self._store_id)
        for log in self._inventory.logs:
            if log.owner and log.owner[0] == self._store_id and log not in logs.values():
                chosen.dropped.append((log.name, f"another file holds segment {log.number}, too"))
        for _, log in sorted(logs.items()):
            if not log.is_below(self._end):
                chosen.logs.append(log)
            elif any(
                run.holds_all_after(min(log.first_sequence, self._end - 1)) for run in chosen.runs
            ):
                chosen.dropped.append((log.name, "a table holds what is in it"))
            else:
                chosen.other_logs.append(log)
        if not chosen.logs:
            self._lose(f"there is no log segment: the latest writes are missing; {BACK}")
            return
        self._chosen.losses += _misnamed(self._inventory, chosen.logs[0].number)
        first = chosen.logs[0]
        missing = first.first_sequence - self._end
        if first.knows_sequence and missing in (0, len(SEAL_RECORD)):
            return
        if first.takes_nothing_over:
            begin, end = self._end, first.first_sequence
            self._lose(f"no table and no log holds the writes from number {begin} to {end}")
            chosen.runs[:0] = [Hole("a table is missing")] if chosen.runs else []
        else:
            self._lose(f"whether newer tables are missing cannot be told; if so, {BACK}")

    def _add_others(self) -> None:
        """Note files of which nobody knows where they belong."""
        chosen = self._chosen
        whole = not chosen.losses and all(run.is_complete for run in chosen.runs)
        for table in self._inventory.tables:
            if table.footer is None and whole:
                chosen.dropped.append((table.name, "it has no footer, and nothing is missing"))
            elif table.footer is None:
                meaning = "its footer does not check, so it is not known how old it is"
                chosen.losses.append(Loss(table.name, 0, table.size, meaning))
                chosen.other_tables.append(table)
        for log in self._inventory.logs:
            if log.owner is None and log.end_of_bytes() > DATA_AT:
                meaning = "its header does not check, so it is not known where it belongs"
                chosen.losses.append(Loss(log.name, 0, log.end_of_bytes(), meaning))
                chosen.other_logs.append(log)
        chosen.losses += self._inventory.unreadable.values()


def _by_number(inventory: Inventory, store_id: bytes) -> dict[int, DamagedTable]:
    """Return the tables of a store by the numbers in their footers."""
    found: dict[int, DamagedTable] = {}
    for table in inventory.tables:
        if table.footer is not None and table.footer.store_id == store_id:
            number = table.footer.number
            if number not in found or table.name == table_name(number):
                found[number] = table
    return found


def _logs_by_number(inventory: Inventory, store_id: bytes) -> dict[int, DamagedLog]:
    """Return the logs of a store by the numbers in their headers.

    Of several with one number the one with that name is taken, or else the longest.
    """
    found: dict[int, DamagedLog] = {}
    for log in inventory.logs:
        if log.owner is not None and log.owner[0] == store_id:
            found[log.number] = max(log, found.get(log.number, log), key=_right_and_long)
    return found


def _right_and_long(log: DamagedLog) -> tuple[bool, int]:
    return log.name == log_name(log.number), log.appended


def _misnamed(inventory: Inventory, above: int) -> list[Loss]:
    """Return what may be lost since other segments have the names of those above a number."""
    there = {log.number for log in inventory.logs}
    losses = []
    for log in inventory.logs:
        _, named = parse(log.name) or ("", 0)
        if named > above and named not in there:
            meaning = f"it holds segment {log.number}; a newer one may have had its name"
            losses.append(Loss(log.name, 0, 0, f"{meaning}; if so, {BACK}"))
    return losses


def _end(run: DamagedRun) -> int | None:
    return None if run.span is None else run.span[1]
