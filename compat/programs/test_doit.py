"""doit, a task runner, remembers in a dbm which of its tasks are up to date (``DbmDB``)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import oblivion_dbm

DODO = """\
DOIT_CONFIG = {"backend": "dbm", "dep_file": "deps.db", "default_tasks": ["upper", "count"]}

def task_upper():
    def work(dependencies, targets):
        with open(dependencies[0]) as source, open(targets[0], "w") as target:
            target.write(source.read().upper())
    return {"actions": [work], "file_dep": ["text"], "targets": ["TEXT"]}

def task_count():
    def work(dependencies):
        with open(dependencies[0]) as source:
            return {"letters": len(source.read())}
    return {"actions": [work], "file_dep": ["TEXT"], "verbosity": 2}
"""


def doit(*arguments: str) -> str:
    """Run ``doit`` as its users do, but for the word ``run`` before it."""
    code = (
        "import sys; from oblivion_dbm.stdlib import run_script; "
        "run_script(['-m', 'doit', *sys.argv[1:]])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def marks(output: str) -> list[str]:
    """``.`` for a task that was run, ``--`` for one that was up to date."""
    return [line.split()[0] for line in output.splitlines()]


def test_doit_runs_what_has_changed(tmp_path: Path) -> None:
    Path("dodo.py").write_text(DODO)
    Path("text").write_text("some text")
    assert marks(doit()) == [".", "."]
    assert oblivion_dbm.whichdb("deps.db") == "oblivion_dbm"
    assert marks(doit()) == ["--", "--"]
    Path("text").write_text("other text, of another length")
    assert marks(doit()) == [".", "."]
    assert Path("TEXT").read_text() == "OTHER TEXT, OF ANOTHER LENGTH"
    assert marks(doit()) == ["--", "--"]


def test_doit_forgets_ignores_and_lists(tmp_path: Path) -> None:
    Path("dodo.py").write_text(DODO)
    Path("text").write_text("some text")
    doit()
    assert [line.split()[0] for line in doit("list", "--status").splitlines()] == ["U", "U"]
    doit("forget", "count")
    assert marks(doit()) == ["--", "."]
    doit("ignore", "upper")
    assert marks(doit())[0] == "!!"
    doit("forget", "--all")
    assert marks(doit()) == [".", "."]
    doit("reset-dep")
    assert marks(doit()) == ["--", "--"]
    with oblivion_dbm.open("deps.db") as db:
        assert sorted(db.keys()) == [b"count", b"upper"]
        assert b'"letters": 9' in db["count"]
