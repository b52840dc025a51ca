"""Owns ``save``: from dirty marks to rows in one process, without Celery."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.contest import Contest, Contests
from benchmarks.saves import Saver, Saves
from statesync.lifecycle.sweep import drain

__all__ = ["save"]

_DRAIN_SECONDS = 3600.0


def save(bench: Bench) -> Contests:
    """Drain each size with each share of the characters in a fight."""
    for size in bench.sizes:
        for percent in bench.percents:
            bench.clear()
            yield from _drains(Saves(bench, size, percent))


def _drains(saves: Saves) -> Contests:
    ids = saves.ids(Saver.STATESYNC)
    with saves.bench.orchestrator() as orchestrator:

        def drain_all() -> None:
            drain(orchestrator, saves.bench.settings, _DRAIN_SECONDS)

        yield Contest(
            f"save of {saves.size:,} in one process, {saves.percent} % in fights",
            "characters/s",
            {"statesync": lambda: saves.measured(ids, drain_all), "floor": saves.floor()},
        )
