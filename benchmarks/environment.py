"""Owns the environment of the processes that a run starts."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["CHECKOUT", "child_env"]

CHECKOUT = Path(__file__).absolute().parent.parent
"""Where ``benchmarks`` and ``statesync`` are; for another checkout, a folder of links to both."""


def child_env(root: Path = CHECKOUT, /, **variables: str) -> dict[str, str]:
    """Return our environment and ``variables``, for a child that works in any folder.

    The child imports ``benchmarks`` and ``statesync`` from ``root``.
    """
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **variables}
