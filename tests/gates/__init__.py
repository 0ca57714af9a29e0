"""What must hold of a store that is crashed, killed, starved, damaged: the gates.

``python tests/long/gates.py`` runs them by the thousand, ``tests/test_*.py`` a few of each.

* ``disk``: a file system that remembers what the disk has, and loses power
* ``history``: random operations, and the states that they may leave
* ``crash``, ``kill``, ``failure``, ``full_disk``, ``failed_sync``: one trial of each kind
* ``suites``: tests of the fast suite, with larger numbers
* ``gate``: trials in forked children, seed by seed, and what came of them
"""

from __future__ import annotations

from gates import crash, failure, kill
from gates.gate import Gate

GATES = {
    gate.name: gate
    for gate in (
        Gate("crash", "crash states", crash.trial, {"change": 5000, "long": 100_000}),
        Gate("kill", "kills", kill.trial, {"change": 200, "long": 10_000}),
        Gate(
            "failure",
            "failing operations",
            failure.trial,
            {"change": None, "long": None},
            seeds=lambda size: len(failure.trials(size)),
        ),
    )
}
