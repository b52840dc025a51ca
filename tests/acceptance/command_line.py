"""Runs ``statesync`` in a process of its own, as a person or a script does.

Its imports take longer than most calls. So one process imports it, and forks for each call.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from statesync import Settings
from statesync.cli import _COMMANDS, main

__all__ = ["STATESYNC", "run", "run_json"]

STATESYNC = [sys.executable, "-c", "from statesync.cli import main; main()"]
"""The command, for what has to be a new interpreter."""
_TIMEOUT_SECONDS = 60

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(
    ["pytest", "statesync.worker.tasks", *(f"statesync.cli.{name}" for name in _COMMANDS.values())]
)


def run(settings: Settings | None, *words: str, status: int = 0) -> str:
    """Return what a call prints; also on stderr, if it is to fail."""
    env = os.environ | (settings.to_env() if settings else {})
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("stdout", "stderr")]
        process = _forks.Process(target=_call, args=(words, env, files), daemon=True)
        process.start()
        process.join(_TIMEOUT_SECONDS)
        process.kill()
        stdout, stderr = (file.read_text() for file in files)
    assert process.exitcode == status, stdout + stderr
    assert "Traceback" not in stderr
    return stdout + (stderr if status else "")


def run_json(settings: Settings, *words: str, status: int = 0) -> Any:
    """Return the first line of what a call prints with ``--json``."""
    return json.loads(run(settings, *words, "--json", status=status).splitlines()[0])


def _call(words: tuple[str, ...], env: dict[str, str], files: list[Path]) -> None:
    os.environ.clear()
    os.environ.update(env)
    for stream, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), stream)
    sys.argv = ["statesync", *words]
    main()
