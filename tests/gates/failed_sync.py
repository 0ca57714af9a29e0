"""The kernel says that a sync has failed: the handle stops writing, and a prefix is left.

``strace`` lets one sync of a process fail, or all from one on, and the system call is not
even made.  The process tells through a file which operations have returned.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

from gates.history import History
from oblivion_dbm.engine.options import Options
from oblivion_dbm.engine.storage_engine import open_store
from oblivion_dbm.engine.verify import verify
from oblivion_dbm.errors import error

OPERATIONS = 60
STOPPED = "writing stopped"


def work(path: str, log: str, seed: int) -> None:
    """Do what the seed says; write down what became of each operation.

    ``returned N`` or ``raised N``, with the word ``stopped`` where writing has ended.
    """
    dice = random.Random(seed)
    history = History(dice, dice.choice(["normal", "full"]))
    with open(log, "w") as told:
        engine = open_store(path, "w", history.options(background=dice.random() < 0.5))
        for number in range(OPERATIONS):
            act, after = history.next(engine)
            history.states.append(history.states[-1] if after is None else after)
            try:
                act()
                # One that has changed nothing, as a delete of an absent key, has synced nothing.
                if after != history.states[-2]:
                    history.promised = history.done
                told.write(f"returned {number}\n")
            except error as problem:
                # Whole or absent: the next ones are told on what was found.
                history.states[-1] = dict(engine.scan("pairs", None, None, False))
                told.write(f"raised {number} {'stopped' if STOPPED in str(problem) else ''}\n")
            told.flush()
        try:
            engine.close()
        except error:
            told.write("raised at close\n")
        told.write(repr(history.states[history.promised :]))


def trial(seed: int, folder: str, _: str) -> int:
    """Let one process meet failing syncs; return 1 if it has met one."""
    if shutil.which("strace") is None:
        raise FileNotFoundError("strace is not installed; on Debian: apt-get install strace")
    dice = random.Random(seed ^ 1)
    call, number = dice.choice(["fdatasync", "fsync"]), dice.randrange(1, 30)
    inject = f"inject={call}:error=EIO:when={number}{dice.choice(['', '+'])}"
    path, log = folder + "/store", folder + "/log"
    open_store(path, "c", Options()).close()
    program = f"from gates.failed_sync import work; work({path!r}, {log!r}, {seed})"
    command = ["strace", "-f", "-qq", "-e", "trace=" + call, "-e", inject, "-o", folder + "/trace"]
    gates = str(Path(__file__).resolve().parent.parent)
    path_of_modules = os.pathsep.join([gates, os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [*command, sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path_of_modules},
        check=True,
    )
    injected = "INJECTED" in Path(folder, "trace").read_text()
    check(path, Path(log).read_text(), injected)
    return int(injected)


def check(path: str, told: str, injected: bool) -> None:
    """Compare what a process has told with what it has left."""
    *lines, left = told.splitlines()
    outcomes = [line.split() for line in lines]
    raised = [words for words in outcomes if words[0] == "raised"]
    assert injected or not raised, f"no sync has failed, but {raised[0]}"
    stopped = [place for place, words in enumerate(outcomes) if words[-1] == "stopped"]
    if stopped:
        # What changes nothing may return: removing an absent key, flushing nothing.
        assert outcomes[stopped[0]][0] == "raised"
    # The last that has returned, and what was written since, and may be there.
    allowed = eval(left, {})
    reader = open_store(path, "r", Options())
    assert dict(reader.scan("pairs", None, None, False)) in allowed
    reader.close()
    writer = open_store(path, "w", Options())
    assert dict(writer.scan("pairs", None, None, False)) in allowed
    writer.put(b"after", b"the failure")
    writer.sync()
    writer.close()
    assert verify(path) == []
