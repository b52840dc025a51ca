"""Owns ``scale``: whether a character costs more if there are more of them.

Each size has embedded servers and a worker of its own, so that the sizes can take turns.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from benchmarks.bench import Bench
from benchmarks.cases.sweep import sweep_all
from benchmarks.contest import Contest, Contests
from benchmarks.saves import Saves
from benchmarks.servers import embedded

__all__ = ["scale"]


def scale(bench: Bench) -> Contests:
    """Sweep each size, none of them in a fight."""
    with contextlib.ExitStack() as exits:
        contestants = {f"{size:,}": _sweep(bench, size, exits) for size in bench.sizes}
        yield Contest("sweep through Celery, by size", "characters/s", contestants)


def _sweep(bench: Bench, size: int, exits: contextlib.ExitStack) -> Callable[[], dict[str, float]]:
    place = exits.enter_context(embedded(0))
    one = Bench(place, sizes=[size], percents=[0], processes=bench.processes)
    exits.enter_context(contextlib.closing(one))
    worker = exits.enter_context(one.worker())
    saves = Saves(one, one.sizes[0], 0)
    return lambda: sweep_all(saves, worker)
