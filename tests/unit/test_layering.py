"""The structure of the package, held: who may import whom, and what every module owes."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import statesync

PACKAGE = Path(statesync.__file__).parent
SOURCES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if "migrations" not in path.parts
}
SCRIPTS = sorted((PACKAGE / "lua").glob("*.lua"))
COMMANDS = "".join(path.read_text() for path in sorted(PACKAGE.glob("*commands.py")))

_SESSIONS_FORM = {"errors", "keys", "codec", "session_types", "session_codec"}
_BELOW_COMMANDS = _SESSIONS_FORM | {"command", "members"}
_BELOW_HOT = _BELOW_COMMANDS | {
    "settings",
    "commands",
    "backup_commands",
    "operator_commands",
    "session_commands",
    "together_commands",
    "transfer_commands",
}
_BELOW_SESSIONS = _SESSIONS_FORM | {"models", "rows", "durable", "durable_sessions"}
_BELOW_GROUPS = _BELOW_SESSIONS | {"sessions", "database"}
_BELOW_BACKUP = _BELOW_HOT | _BELOW_GROUPS | {"hot", "groups", "snapshots", "conflicts", "points"}
_BELOW_ORCHESTRATOR = _BELOW_BACKUP | {"backup", "deletion", "restore", "vitals"}
_BELOW_APP = _BELOW_ORCHESTRATOR | {"orchestrator", "scrub", "sweep"}
MAY_IMPORT = {
    "errors": set[str](),
    "settings": {"errors"},
    "keys": {"errors"},
    "codec": {"errors", "keys"},
    "vitals": {"errors"},
    "points": set[str](),
    "command": {"errors", "codec"},
    "session_types": {"errors"},
    "session_codec": {"errors", "keys", "codec", "session_types"},
    "commands": _BELOW_COMMANDS,
    "backup_commands": _BELOW_COMMANDS | {"transfer_commands"},
    "operator_commands": _BELOW_COMMANDS | {"transfer_commands"},
    "members": _SESSIONS_FORM | {"command"},
    "together_commands": _BELOW_COMMANDS,
    "session_commands": _BELOW_COMMANDS | {"together_commands"},
    "transfer_commands": _BELOW_COMMANDS,
    "hot": _BELOW_HOT,
    "models": {"errors", "codec"},
    "rows": {"errors", "codec", "models"},
    "durable": {"errors", "codec", "models", "rows"},
    "durable_sessions": _SESSIONS_FORM | {"models", "durable", "database"},
    "sessions": _BELOW_SESSIONS | {"sessions"},
    "database": {"errors", "codec", "settings"},
    "groups": _BELOW_GROUPS,
    "snapshots": _BELOW_HOT | _BELOW_GROUPS | {"hot", "groups"},
    "conflicts": _BELOW_HOT | _BELOW_GROUPS | {"hot", "groups", "snapshots"},
    "backup": _BELOW_BACKUP,
    "deletion": _BELOW_BACKUP | {"backup"},
    "restore": _BELOW_HOT | _BELOW_GROUPS | {"hot", "points", "vitals"},
    "migrate": {"database"},
    "embedded": {"errors", "settings"},
    "orchestrator": _BELOW_ORCHESTRATOR,
    "scrub": _BELOW_ORCHESTRATOR | {"orchestrator"},
    "game_store": _BELOW_ORCHESTRATOR | {"orchestrator"},
    "sweep": _BELOW_ORCHESTRATOR | {"orchestrator"},
    "app": _BELOW_APP,
    "login": _BELOW_APP | {"app", "game_store"},
    "tasks": _BELOW_APP | {"app"},
}
TOP = ("__init__", "__main__", "bench", "cli", "demo", "dev")
"""Entry points, which may import everything."""


def is_top(module: str) -> bool:
    return module.partition(".")[0] in TOP


def imports(path: Path) -> Iterator[str]:
    """Give the dotted name of everything that a file imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(path: Path) -> set[str]:
    """Return which modules of statesync a file imports."""
    names = {name.removeprefix("statesync.") for name in imports(path) if "statesync." in name}
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("module", [name for name in SOURCES if not is_top(name)])
def test_imports_go_one_way(module: str) -> None:
    package = module.partition(".")[0]
    assert package in MAY_IMPORT, "say in this test what the new module may import"
    assert ours(SOURCES[module]) <= MAY_IMPORT[package]


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("redis", {"hot", "bench.rivals"}),
        ("celery", {"app", "tasks"}),
        ("kombu", {"app", "tasks"}),
        (
            "sqlalchemy",
            {
                "models",
                "rows",
                "durable",
                "durable_sessions",
                "database",
                "migrate",
                "groups",
                "snapshots",
            }
            | {"conflicts", "backup", "deletion", "restore", "orchestrator"}
            | {f"sessions.{name}" for name in ("base", "combat", "inventory", "scenario")},
        ),
        ("alembic", {"migrate"}),
        ("psutil", {"embedded"}),
    ],
)
def test_library_has_its_place(library: str, allowed: set[str]) -> None:
    users = {
        name
        for name, path in SOURCES.items()
        if any(used.split(".")[0] == library for used in imports(path))
    }
    entry_points = set() if library == "redis" else {name for name in users if is_top(name)}
    assert users - entry_points <= allowed


def test_only_settings_reads_our_environment() -> None:
    for name, path in SOURCES.items():
        text = path.read_text()
        if name != "settings":
            reads = re.findall(r"(?:os\.environ|getenv)\S{0,20}STATESYNC_", text)
            assert not reads, name


@pytest.mark.parametrize("module", SOURCES)
def test_module_is_of_one_page(module: str) -> None:
    text = SOURCES[module].read_text()
    assert len(text.splitlines()) <= 400
    assert ast.get_docstring(ast.parse(text)), "a module says what it owns"


@pytest.mark.parametrize("module", [name for name in SOURCES if name != "__main__"])
def test_public_names_are_sorted_and_there(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"statesync.{module}".removesuffix(".__init__")
    loaded = import_module(name)
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
    assert len(re.findall(rf'load\w*\("{script.stem}"\)', COMMANDS)) == 1
    assert len(re.findall(rf"Command\(\s*_{script.stem},", COMMANDS)) == 1
    assert re.search(rf"^def {script.stem}\(", COMMANDS, re.MULTILINE), "one verb for one thing"


def test_script_declares_every_key_and_error() -> None:
    for script in SCRIPTS:
        text = script.read_text()
        code = "\n".join(line for line in text.splitlines() if not line.startswith("--"))
        declared = re.search(r"^-- KEYS: (.*)$", text, re.MULTILINE)
        assert declared
        used = {int(number) for number in re.findall(r"KEYS\[(\d)\]", code)}
        assert used == {int(number) for number in re.findall(r"(\d) ", declared[1])}, script.name
        raised = set(re.findall(r"(?:error_reply\(|return |refused = )'([A-Z]+)", code))
        stated = re.search(r"^-- Errors: ((?:.*\n--)*.*)$", text, re.MULTILINE)
        assert stated
        assert all(error in stated[1] for error in raised), script.name


def test_import_of_the_package_leaves_celery_out() -> None:
    code = (
        "import sys, statesync; "
        "print(sorted({'celery', 'kombu', 'psutil', 'click', 'rich'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
