"""Owns the failpoints: places between two steps where a test may stop a process.

``STOP_SYNC_AT=committed:/a/file`` stops the first process that reaches ``committed``, as SIGSTOP
does, after it has written its id to the file. Without the variable a failpoint does nothing.
"""

from __future__ import annotations

import os
import signal
from functools import cache
from pathlib import Path

__all__ = ["FAILPOINTS", "failpoint"]

FAILPOINTS = (
    *("swept", "claimed", "snapshot", "written", "committed", "acknowledged"),
    *("reverted", "recorded", "loaded", "restored", "evicting"),
    *("intended", "inserted", "moved"),
)
"""What ``STOP_SYNC_AT`` may name: steps of a sweep, a backup, a revert, a restore, an eviction, a
move."""


def failpoint(name: str) -> None:
    """Stop this process if ``STOP_SYNC_AT`` names the failpoint and no other process has stopped.

    The variable is read once, at the first call: importing statesync reads no environment.
    """
    target, pid_file = _target()
    if name == target:
        _stop(pid_file)


@cache
def _target() -> tuple[str | None, Path]:
    name, _, pid_file = os.environ.get("STOP_SYNC_AT", "").partition(":")
    return name if name in FAILPOINTS else None, Path(pid_file)


def _stop(pid_file: Path) -> None:
    try:
        with pid_file.open("x") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        return  # another process has stopped here
    os.kill(os.getpid(), signal.SIGSTOP)
