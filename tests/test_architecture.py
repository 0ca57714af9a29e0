"""docs/architecture.md describes the package that is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = (ROOT / "docs" / "architecture.md").read_text()
PACKAGE = ROOT / "oblivion_dbm"


def files(text: str) -> set[str]:
    """Return the paths that stand in ``text`` as code."""
    return set(re.findall(r"`(?:python )?((?:[\w.]+/)+(?:\w+\.\w+)?)`", text))


def test_the_files_it_names_exist() -> None:
    named = files(DOCUMENT)
    assert len(named) > 20
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_the_pages_it_links_to_exist() -> None:
    pages = re.findall(r"\]\(([^)]+)\)", DOCUMENT)
    assert pages
    assert [page for page in pages if not (ROOT / "docs" / page).exists()] == []


def test_the_component_map_has_every_module() -> None:
    mapped = files(DOCUMENT.partition("## Component map")[2].partition("\n## ")[0])
    # A folder stands for its modules, and a package without code of its own for none.
    modules = {
        path.relative_to(ROOT).as_posix()
        for path in PACKAGE.rglob("*.py")
        if path.parent.name != "cli"
        and path not in (PACKAGE / "__init__.py", PACKAGE / "engine" / "__init__.py")
    }
    assert modules <= mapped


def test_there_are_three_diagrams() -> None:
    assert len(re.findall(r"^```mermaid\nflowchart ", DOCUMENT, re.MULTILINE)) == 3
