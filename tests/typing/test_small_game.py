"""A game's own type checker sees our types: a small game passes two checkers at their strictest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

GAME = Path(__file__).parent / "small_game.py"


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    # A game has our package installed, not our checkout's settings.
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=cwd, capture_output=True, text=True, env=os.environ
    )


def game_in(folder: Path) -> Path:
    copy = folder / "small_game.py"
    copy.write_text(GAME.read_text())
    return copy


def test_mypy_strict(tmp_path: Path) -> None:
    words = ["--strict", "--config-file", os.devnull, str(game_in(tmp_path))]
    ran = run("mypy", *words, cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_basedpyright(tmp_path: Path) -> None:
    game = game_in(tmp_path)
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "strict"}))
    ran = run("basedpyright", "--pythonpath", sys.executable, str(game), cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
