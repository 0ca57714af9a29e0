"""The rules of the house, as tests.

* Floors: ``ORDER`` lists every module, and a module imports only from what stands
  before it. A module that is not in the list is a failure, so the list stays true.
* Doors: what comes after ``engine`` uses only the modules named in ``FRONT_DOOR``, and
  only ``engine.filesystem`` touches the operating system.
* Sizes, in lines of code without docstrings, comments and blank lines.
* Every module says what it is for, and none is called ``utils``.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import oblivion_dbm

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "oblivion_dbm"

# From the ground up. `cli` stands for all modules of that package, which share a floor and
# may import one another.
ORDER = """
    errors
    engine
    engine.record engine.filenames engine.filesystem engine.options engine.version
    engine.kernel.tables engine.kernel.pure engine.kernel.append engine.kernel.scan engine.kernel
    engine.positioned engine.header_page engine.wal engine.segment
    engine.ranges engine.merge engine.memtable engine.sstable
    engine.read_ahead engine.table_writer engine.policy engine.manifest engine.compactor engine.lock
    engine.history engine.lineage engine.recovery engine.snapshot engine.overlay engine.tree
    engine.follower engine.worker engine.future engine.log engine.pressure engine.maintenance
    engine.write_queue engine.write_path engine.storage_engine
    engine.finding engine.table_check engine.log_check engine.verify
    engine.transfer engine.backup
    engine.damage engine.damaged_footer engine.bit_rot engine.table_walk engine.damaged_table
    engine.damaged_run engine.damaged_log engine.inventory engine.selection engine.doubt
    engine.hand_over engine.report engine.rebuild engine.repair
    bytes_like batch mapping snapshot transaction database
    stdlib dbm shelve convert
    aio.off_loop aio.reads aio.snapshot aio.transaction aio.batch aio.database aio
    cli
    __init__ __main__
""".split()

FRONT_DOOR = {
    "engine.storage_engine",
    "engine.overlay",
    "engine.options",
    "engine.record",
    "engine.verify",
    "engine.repair",
    "engine.backup",
}

OPERATING_SYSTEM = {
    *("ctypes", "fcntl", "glob", "io", "mmap", "msvcrt", "os", "pathlib", "platform", "posix"),
    *("resource", "select", "shutil", "signal", "socket", "stat", "subprocess", "tempfile"),
}

FUNCTION_LINES = 40
MODULE_LINES = 300
LONGER_MODULES = {"engine.storage_engine": 400}

NAMES_OF_NOTHING = {"utils", "util", "helpers", "helper", "common", "misc"}

# Tests of no single module: of what the documents say, of stores that older versions wrote, of
# a dict and a store side by side, of a store whose process is killed or forks, of readers in
# other processes and on read-only media, of what many openings leave, and of the house.
TESTS_OF_THE_WHOLE = set(
    """
    architecture readme format formats model kill crash million threads interrupts
    bad_input docstrings layout startup exit damage fuzz
    fork readers media cycles linearizable gates
    """.split()
)


def module_name(path: Path) -> str:
    """Return the name of a file of the package, as it stands in ``ORDER``."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if parts[-1] == "__init__" and len(parts) > 1:
        parts = parts[:-1]
    return ".".join(parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
FOLDERS = [ROOT / name for name in ("oblivion_dbm", "tests", "compat", "benchmarks")]
SOURCES = [path for folder in FOLDERS for path in sorted(folder.rglob("*.py"))]


def floor(module: str) -> int | None:
    """Return the place of a module in ``ORDER``; the modules of ``cli`` share one."""
    module = "cli" if module.startswith("cli.") else module
    return ORDER.index(module) if module in ORDER else None


def imported_names(path: Path) -> Iterator[str]:
    """Yield the full dotted names that a file imports, wherever in it the imports stand."""
    package = ["oblivion_dbm", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def own_imports(path: Path) -> set[str]:
    """Return the modules of ours that a file imports, by their names in ``ORDER``."""
    found = set()
    for name in imported_names(path):
        if name.partition(".")[0] == "oblivion_dbm":
            inside = name.partition(".")[2]
            found.add(inside if inside in MODULES else inside.rpartition(".")[0] or "__init__")
    return found - {module_name(path)}


def code_lines(source: str) -> set[int]:
    """Return the numbers of the lines that hold code: no docstring, comment or blank line."""
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    layout |= {tokenize.ENCODING, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in layout:
            lines.update(range(token.start[0], token.end[0] + 1))
    return lines - docstring_lines(ast.parse(source))


def docstring_lines(tree: ast.AST) -> set[int]:
    """Return the numbers of the lines that docstrings fill."""
    lines: set[int] = set()
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, owners) and ast.get_docstring(node, clean=False) is not None:
            lines.update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return lines


def long_functions(source: str) -> list[str]:
    """Return the functions over the limit, each with its length in lines of code."""
    lines = code_lines(source)
    return [
        f"{node.name}: {length} lines"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := len(lines & set(range(node.lineno, (node.end_lineno or 0) + 1))))
        > FUNCTION_LINES
    ]


def by_path(path: Path) -> str:
    """Name a parametrized case by its path in the checkout."""
    return path.relative_to(ROOT).as_posix()


def test_the_order_names_every_module() -> None:
    assert [name for name in MODULES if floor(name) is None] == []


def test_the_order_names_no_module_twice() -> None:
    assert sorted(set(ORDER)) == sorted(ORDER)


def test_the_installed_package_has_every_module() -> None:
    installed = Path(oblivion_dbm.__file__).parent
    missing = [
        name for name in MODULES if not (installed / MODULES[name].relative_to(PACKAGE)).exists()
    ]
    assert missing == [], "is a package missing from the list in pyproject.toml?"
    assert (installed / "py.typed").exists()


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_from_lower_floors(name: str) -> None:
    here = floor(name)
    assert here is not None
    too_high = [
        other
        for other in own_imports(MODULES[name])
        if (there := floor(other)) is None
        or there > here
        or (there == here and not name.startswith("cli"))
    ]
    assert too_high == []


@pytest.mark.parametrize("name", [name for name in MODULES if not name.startswith("engine")])
def test_what_is_above_the_engine_uses_its_front_door(name: str) -> None:
    uses = {other for other in own_imports(MODULES[name]) if other.startswith("engine")}
    assert uses <= FRONT_DOOR


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("engine")])
def test_only_the_file_system_touches_the_operating_system(name: str) -> None:
    if name == "engine.filesystem":
        return
    imports = {full.partition(".")[0] for full in imported_names(MODULES[name])}
    assert imports & OPERATING_SYSTEM == set()
    calls = [
        node.func
        for node in ast.walk(ast.parse(MODULES[name].read_text()))
        if isinstance(node, ast.Call)
    ]
    assert not [call for call in calls if isinstance(call, ast.Name) and call.id == "open"]


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_not_too_long(name: str) -> None:
    limit = LONGER_MODULES.get(name, MODULE_LINES)
    length = len(code_lines(MODULES[name].read_text()))
    assert length <= limit


@pytest.mark.parametrize("path", SOURCES, ids=by_path)
def test_functions_are_not_too_long(path: Path) -> None:
    assert long_functions(path.read_text()) == []


@pytest.mark.parametrize("path", SOURCES, ids=by_path)
def test_a_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))
    assert path.stem not in NAMES_OF_NOTHING


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("test_*.py")), ids=by_path)
def test_a_test_is_named_after_a_module(path: Path) -> None:
    subject = path.stem.removeprefix("test_")
    leaves = {name.rpartition(".")[2] for name in MODULES} - {"__init__", "__main__"}
    known = leaves | TESTS_OF_THE_WHOLE
    assert any(subject == name or subject.startswith(f"{name}_") for name in known), (
        "name it after a module, as test_wal.py or test_wal_rotation.py, "
        "or list it in TESTS_OF_THE_WHOLE"
    )


def test_lines_of_code_leave_out_docstrings_comments_and_blank_lines() -> None:
    source = (
        '"""Doc\n\nmore."""\n\n# why\nx = (\n    1,\n)\n\ndef f():\n    """Doc."""\n    return x\n'
    )
    assert code_lines(source) == {6, 7, 8, 10, 12}
    body = "\n".join(["    x = 1"] * FUNCTION_LINES)
    assert long_functions(f"def f():\n{body}\n") == [f"f: {FUNCTION_LINES + 1} lines"]
    assert long_functions(f'def f():\n    """Doc."""\n{body[10:]}\n') == []
