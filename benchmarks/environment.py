"""Owns the environment of the processes that a run starts."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["child_env"]

_CHECKOUT = Path(__file__).resolve().parent.parent


def child_env(**variables: str) -> dict[str, str]:
    """Return our environment and ``variables``, for a child that works in any folder.

    The child imports ``benchmarks`` and ``statesync`` from this checkout, as we do.
    """
    paths = [str(_CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **variables}
