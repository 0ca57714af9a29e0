"""What README.md says is so: its examples run, and what it names is there."""

from __future__ import annotations

import builtins
import dbm
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import oblivion_dbm
from oblivion_dbm.cli import _COMMANDS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()

BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
PROSE = re.sub(r"^```.*?^```", "", README, flags=re.DOTALL | re.MULTILINE)

COMMANDS = (
    "python3 -m venv .venv && .venv/bin/pip install '.[test]' && .venv/bin/oblivion-dbm tour",
    ".venv/bin/pytest",
)


def printed(block: str) -> list[str]:
    """Return what a block's calls of print say they print, in the comments behind them."""
    return re.findall(r"^ *print\(.*\) +# (.*)$", block, re.MULTILINE)


@pytest.fixture
def _standard_modules_afterwards() -> Iterator[None]:
    yield
    oblivion_dbm.uninstall()


@pytest.mark.usefixtures("_standard_modules_afterwards")
@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_an_example_prints_what_its_comments_say(
    block: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    standard = dbm.open
    exec(compile(block, "README.md", "exec"), {"__name__": "example"})
    assert printed(block) == capsys.readouterr().out.splitlines() != []
    assert dbm.open is standard


def test_there_is_an_example_of_each_way_in() -> None:
    examples = "".join(BLOCKS)
    for words in ("import Database", "from oblivion_dbm import shelve", "oblivion_dbm.install()"):
        assert words in examples
    assert "python -m oblivion_dbm run " in README


def test_a_fresh_machine_needs_two_commands() -> None:
    (block,) = [b for b in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) if "venv" in b]
    assert tuple(block.splitlines()) == COMMANDS


def test_the_files_it_names_exist() -> None:
    names = re.findall(r"\]\(([^)]+)\)|`((?:[\w.]+/)+\w*(?:\.\w+)?)`", PROSE)
    found = [link or code for link, code in names]
    assert len(found) > 5
    assert [name for name in found if not (ROOT / name).exists()] == []


def test_the_commands_it_names_exist() -> None:
    named = set(re.findall(r"oblivion-dbm ([\w-]+)", README))
    assert named == {command.name for command in _COMMANDS}


def test_the_methods_it_names_exist() -> None:
    rows = README.partition("| method | what it does |")[2].partition("\n\n")[0]
    methods = "".join(row.partition("| ")[2].partition(" |")[0] for row in rows.splitlines())
    names = set(re.findall(r"\b(\w+)(?:\([^`]*\))?`", methods)) - {"db", "key", "value", "with"}
    assert len(names) > 25
    assert names - {*dir(oblivion_dbm.Database), *dir(builtins)} == set()
