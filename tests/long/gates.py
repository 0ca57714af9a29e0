"""The gates of docs/reliability.md: crashes, kills, failures, damage, by the thousand.

    python tests/long/gates.py                          what every change has to pass: minutes
    python tests/long/gates.py --size long --minutes 30 --resume
                                                        the long run, half an hour of it
    python tests/long/gates.py crash kill               these two
    python tests/long/gates.py crash --seed 4711        one trial again, in this process

Run it with the interpreter that the package is installed for. What came of each trial is
appended to a file of results, a line of JSON each; ``--resume`` goes on behind the last.
They work in memory (/dev/shm) where that is there; TMPDIR says where else.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gates import GATES
from gates.gate import SIZES, Results, memory, run


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("gates", nargs="*", metavar="GATE", help=f"one of: {' '.join(GATES)}; all by default")
    add("--size", choices=SIZES, default=SIZES[0], help="how much of each gate")
    add(
        "--minutes", type=float, default=float("inf"), help="stop after so many, all gates together"
    )
    add("--results", type=Path, help="the file that results are appended to")
    add("--resume", action="store_true", help="go on behind what is in the file (gates.jsonl)")
    add("--seed", type=int, help="run this trial alone, without a child")
    add("--jobs", type=int, default=os.cpu_count() or 1, help="trials at once")
    given = parser.parse_args()
    unknown = [name for name in given.gates if name not in GATES]
    if unknown:
        parser.error(f"there is no gate {unknown[0]!r}; there are: {' '.join(GATES)}")
    if given.resume and given.results is None:
        given.results = Path("gates.jsonl")
    return given


def main() -> int:
    """Run gates; return 1 if something has failed."""
    given = arguments()
    names = given.gates or list(GATES)
    if given.seed is not None:
        for name in names:
            with tempfile.TemporaryDirectory(dir=memory()) as folder:
                print(name, GATES[name].trial(given.seed, folder, given.size), GATES[name].unit)
        return 0
    results = Results(given.results, given.size, given.resume)
    end, failed = time.monotonic() + 60 * given.minutes, 0
    for place, name in enumerate(names):
        gate, began = GATES[name], time.monotonic()
        first = random.randrange(1 << 32)
        share = (end - began) / (len(names) - place)
        done, failures = run(gate, results, first, end=began + share, jobs=given.jobs)
        failed += len(failures)
        seconds = time.monotonic() - began
        wanted = gate.wanted[given.size]
        print(f"{name}: {done:,} of {'all' if wanted is None else f'{wanted:,}'} {gate.unit}, "
              f"{len(failures)} failed, {seconds:.0f} s", flush=True)  # fmt: skip
    print(f"{len(names)} gates, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
