"""Owns the list of the benchmarks: each is a module here, with a function of the same name."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.bench import Bench
    from benchmarks.contest import Contests

__all__ = ["NAMES", "load"]

NAMES = (
    "save",
    "sweep",
    "scale",
    "realms",
    "hot",
    "tail",
    "scripts",
    "memory",
    "restore",
    "queue",
    "write",
    "profile",
    "together",
    "durable",
    "watch",
)


def load(name: str) -> Callable[[Bench], Contests]:
    """Import a benchmark: not before it is asked for, so that ``--help`` is quick."""
    run: Callable[[Bench], Contests] = getattr(import_module(f"{__name__}.{name}"), name)
    return run
