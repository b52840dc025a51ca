"""The front door has two faces, sync and async; the sync one is made from the async one.

``python -m tests.unit.test_faces`` writes it.
"""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import statesync
from statesync import AsyncGameStore, AsyncLoginService, GameStore, LoginService

GAME = Path(statesync.__file__).parent / "game"
FACES = {"async_store": "store", "async_login": "login"}

_HEADER = "# Made from {}.py by `python -m tests.unit.test_faces`: change that one.\n"
_RULES = [
    (r"await asyncio\.to_thread\(([\w.]+), ", r"\1("),
    (r"await asyncio\.to_thread\(([\w.]+)\)", r"\1()"),
    (r"await asyncio\.wrap_future\((.+)\)$", r"\1.result()"),
    (r"^import asyncio\n", ""),
    (r"\basync_hot\b", "hot"),
    (r"\baclose\b", "close"),
    (r"\b__a(enter|exit)__\b", r"__\1__"),
    (r"\basync (def|with)\b", r"\1"),
    (r"``async with``", "``with``"),
    (r"\bawait ", ""),
    (r"\basync_(store|login)\b", r"\1"),
    (r"\bAsync(Game|Login|Iterator)", r"\1"),
    (r"\bfor asyncio\b", "for threads"),
    (r"shared by its tasks", "shared by its threads"),
]


def sync_face(name: str) -> str:
    """Return the sync face that belongs to an async module of ``statesync.game``."""
    source = (GAME / f"{name}.py").read_text()
    for pattern, replacement in _RULES:
        source = re.sub(pattern, replacement, source, flags=re.MULTILINE)
    source = _ruff(source, "check", "--quiet", "--fix-only", "--select", "I")
    return _HEADER.format(name) + _ruff(source, "format")


def _ruff(source: str, *words: str) -> str:
    command = [sys.executable, "-m", "ruff", *words, "--stdin-filename", str(GAME / "made.py"), "-"]
    return subprocess.run(command, input=source, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", FACES)
def test_sync_face_is_made_from_the_async_one(name: str) -> None:
    assert (GAME / f"{FACES[name]}.py").read_text() == sync_face(name)


GAME_OPERATIONS = {
    *("create", "get", "get_full_state", "update", "mark_dirty", "update_together"),
    *("open_session", "update_session", "join_session", "leave_session", "close_session"),
    *("get_session", "read_log", "run_many", "is_durable", "wait_durable", "reverts"),
}


@pytest.mark.parametrize(
    ("face", "names"),
    [
        (GameStore, {*GAME_OPERATIONS, "close"}),
        (AsyncGameStore, {*GAME_OPERATIONS, "aclose"}),
        (LoginService, {"login", "logout", "change_state"}),
        (AsyncLoginService, {"login", "logout", "change_state"}),
    ],
)
def test_face_shows_what_games_use_and_its_signatures(face: type, names: set[str]) -> None:
    shown = {name for name in dir(face) if not name.startswith("_")}
    assert shown == names
    for name in names:
        method = getattr(face, name)
        assert inspect.getdoc(method)
        parameters = list(inspect.signature(method).parameters.values())[1:]
        assert all(p.annotation is not p.empty for p in parameters)
        assert not any(p.kind is p.VAR_POSITIONAL for p in parameters)


if __name__ == "__main__":
    for source, target in FACES.items():
        (GAME / f"{target}.py").write_text(sync_face(source))
