"""Owns the places between two steps where a test may stop a process; nothing happens elsewhere.

``STOP_SYNC_AT=committed:/a/file`` stops the first process that gets to ``committed``, as
SIGSTOP does, after it has written its id to the file. Without it ``reach`` does nothing.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

__all__ = ["POINTS", "reach"]

POINTS = (
    *("swept", "claimed", "snapshot", "written", "committed", "acknowledged"),
    *("loaded", "filled", "evicting"),
)
"""What may be named: in a sweep, in a backup, in a restore, in an eviction."""


def _stopper(where: str, file: Path) -> Callable[[str], None]:
    def reach(point: str) -> None:
        if point == where:
            try:
                with file.open("x") as mine:
                    mine.write(str(os.getpid()))
            except FileExistsError:
                return  # once
            os.kill(os.getpid(), signal.SIGSTOP)

    return reach


def _nothing(_: str) -> None:
    return None


_where, _, _file = os.environ.get("STOP_SYNC_AT", "").partition(":")
reach: Callable[[str], None] = _stopper(_where, Path(_file)) if _where in POINTS else _nothing
"""Call it with the name of a point, on the way from one step to the next."""
