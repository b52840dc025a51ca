"""The structure of the package: who imports whom, and what every module and script owes."""

from __future__ import annotations

import ast
import logging.config
import re
from importlib import import_module
from pathlib import Path

import pytest
from importlinter import cli

import statesync

ROOT = Path(__file__).parents[2]
PACKAGE = Path(statesync.__file__).parent
SOURCES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if "migrations" not in path.parts
}
COMMANDS_FOLDER = PACKAGE / "hot" / "commands"
COMMANDS = "".join(path.read_text() for path in sorted(COMMANDS_FOLDER.glob("*.py")))
SCRIPTS = sorted(COMMANDS_FOLDER.glob("*.lua"))
SHARED = sorted((COMMANDS_FOLDER / "shared").glob("*.lua"))


def defines_names(module: str) -> bool:
    """Tell modules from a room's ``__init__`` that only has a docstring."""
    return len(ast.parse(SOURCES[module].read_text()).body) > 1


def test_imports_keep_the_contract_of_pyproject(monkeypatch: pytest.MonkeyPatch) -> None:
    # It would silence all loggers that are there already, and later tests read them.
    monkeypatch.setattr(logging.config, "dictConfig", lambda _: None)
    checked = cli.lint_imports(str(ROOT / "pyproject.toml"), no_cache=True, no_logo=True)
    assert checked == cli.EXIT_STATUS_SUCCESS


def test_only_settings_reads_our_environment() -> None:
    for name, path in SOURCES.items():
        if name != "settings":
            reads = re.findall(r"(?:os\.environ|getenv)\S{0,20}STATESYNC_", path.read_text())
            assert not reads, name


@pytest.mark.parametrize("module", SOURCES)
def test_module_is_short_and_says_what_it_owns(module: str) -> None:
    text = SOURCES[module].read_text()
    tree = ast.parse(text)
    assert len(text.splitlines()) <= 400
    assert ast.get_docstring(tree)
    assert not any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree))


@pytest.mark.parametrize("module", SOURCES)
def test_functions_fit_on_a_screen(module: str) -> None:
    nodes = ast.walk(ast.parse(SOURCES[module].read_text()))
    functions = [n for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    lines = [(f.name, (f.end_lineno or f.lineno) - f.lineno + 1) for f in functions]
    assert [(name, length) for name, length in lines if length > 45] == []


@pytest.mark.parametrize("module", [name for name in SOURCES if defines_names(name)])
def test_public_names_are_sorted_and_defined(module: str) -> None:
    loaded = import_module(f"statesync.{module}".removesuffix(".__init__"))
    public = loaded.__all__
    # Constants first, then classes, then functions: as ruff sorts them.
    order = sorted(public, key=lambda n: (0 if n.isupper() else 1 if n[0].isupper() else 2, n))
    assert list(public) == order
    assert all(hasattr(loaded, item) for item in public)


def test_scripts_are_found() -> None:
    assert {path.stem for path in SCRIPTS} >= {"claim", "snapshot", "acknowledge", "restore"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_script_has_its_header_and_one_command(script: Path) -> None:
    header = [line for line in script.read_text().splitlines() if line.startswith("--")]
    labels = [line for line in header if re.match(r"-- (KEYS|ARGV|Returns|Errors): ", line)]
    assert [label.split()[1] for label in labels] == ["KEYS:", "ARGV:", "Returns:", "Errors:"]
    assert not header[0].startswith("-- KEYS"), "the purpose comes first"
    assert len(re.findall(rf'load_script\("{script.stem}"\)', COMMANDS)) == 1
    assert len(re.findall(rf"Command\(\s*_{script.stem},", COMMANDS)) == 1
    assert re.search(rf"^def {script.stem}\(", COMMANDS, re.MULTILINE), "one verb for one thing"


@pytest.mark.parametrize("script", SHARED, ids=lambda path: path.stem)
def test_shared_script_says_what_it_does_and_is_used(script: Path) -> None:
    assert script.read_text().startswith("-- ")
    uses = re.findall(r"^-- Uses: (.*)$", "\n".join(p.read_text() for p in SCRIPTS), re.MULTILINE)
    assert script.stem in {name.strip() for names in uses for name in names.split(",")}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_script_declares_every_key_and_error(script: Path) -> None:
    text = script.read_text()
    code = "\n".join(line for line in text.splitlines() if not line.startswith("--"))
    declared = re.search(r"^-- KEYS: ((?:.*\n--   )*.*)$", text, re.MULTILINE)
    assert declared
    used = {int(number) for number in re.findall(r"KEYS\[(\d)\]", code)}
    assert used == {int(number) for number in re.findall(r"(\d) ", declared[1])}
    raised = set(re.findall(r"(?:error_reply\(|return |refused = )'([A-Z]+)", code))
    stated = re.search(r"^-- Errors: ((?:.*\n--)*.*)$", text, re.MULTILINE)
    assert stated
    assert all(error in stated[1] for error in raised)
