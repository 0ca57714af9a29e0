"""What must hold of a store that is crashed, killed, starved, damaged: the gates.

``python tests/long/gates.py`` runs them by the thousand, ``tests/test_*.py`` a few of each.

* ``disk``: a file system that remembers what the disk has, and loses power
* ``history``: random operations, and the states that they may leave
* ``crash``, ``death``, ``kill``, ``failure``, ``full_disk``, ``failed_sync``, ``damage``: one
  trial of each kind
* ``ruin``: a repair, and what it must make of random damage
* ``prepared``: stores to be damaged
* ``suites``: tests of the fast suite, with larger numbers
* ``gate``: trials in forked children, seed by seed, and what came of them
"""

from __future__ import annotations

from gates import crash, damage, death, failed_sync, failure, full_disk, kill, ruin, suites
from gates.gate import Gate

GATES = {
    gate.name: gate
    for gate in (
        Gate("crash", "crash states", crash.trial, {"change": 5000, "long": 100_000}),
        Gate("death", "deaths", death.trial, {"change": 2000, "long": 30_000}),
        Gate("kill", "kills", kill.trial, {"change": 200, "long": 10_000}),
        Gate(
            "failure",
            "failing operations",
            failure.trial,
            {"change": None, "long": None},
            seeds=lambda size: len(failure.trials(size)),
        ),
        Gate("full-disk", "writes without room", full_disk.trial, {"change": 500, "long": 20_000}),
        Gate("failed-sync", "failed syncs", failed_sync.trial, {"change": 50, "long": 1000}),
        Gate(
            "interrupts",
            "runs of interrupted calls",
            suites.interrupts,
            {"change": None, "long": None},
            seeds=lambda size: len(suites.interrupted_calls(size)),
        ),
        Gate("damage", "damages", damage.trial, {"change": 5000, "long": 100_000}),
        Gate(
            "bytes",
            "changed bytes",
            damage.trial_of_bytes,
            {"change": 1000, "long": None},
            seeds=lambda _: damage.byte_seeds(),
        ),
        Gate("ruin", "repairs", ruin.trial, {"change": 500, "long": 20_000}),
        Gate(
            "leftovers", "repairs without a MANIFEST", ruin.leftovers, {"change": 200, "long": 5000}
        ),
        Gate("readers", "seconds of reading", suites.readers, {"change": 20, "long": 3600}, jobs=1),
        Gate("forks", "runs of forks", suites.forks, {"change": 1, "long": 10}, jobs=1),
    )
}
