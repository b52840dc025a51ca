"""Owns the places between two steps where a test may stop a process; nothing happens elsewhere.

``STOP_SYNC_AT=committed:/a/file`` stops the first process that gets to ``committed``, as
SIGSTOP does, after it has written its id to the file. Without it ``reach`` does nothing.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

__all__ = ["FAILPOINTS", "failpoint"]

FAILPOINTS = (
    *("swept", "claimed", "snapshot", "written", "committed", "acknowledged"),
    *("loaded", "restored", "evicting"),
)
"""What may be named: in a sweep, in a backup, in a restore, in an eviction."""


def _stopper(where: str, file: Path) -> Callable[[str], None]:
    def failpoint(point: str) -> None:
        if point == where:
            try:
                with file.open("x") as mine:
                    mine.write(str(os.getpid()))
            except FileExistsError:
                return  # once
            os.kill(os.getpid(), signal.SIGSTOP)

    return failpoint


def _nothing(_: str) -> None:
    return None


_where, _, _file = os.environ.get("STOP_SYNC_AT", "").partition(":")
failpoint: Callable[[str], None] = (
    _stopper(_where, Path(_file)) if _where in FAILPOINTS else _nothing
)
"""Call it with the name of a point, on the way from one step to the next."""
