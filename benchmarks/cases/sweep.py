"""Owns ``sweep``: from dirty marks to rows, through real worker processes."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.contest import Contest, Contests
from benchmarks.saves import Saver, Saves
from statesync.embedded.child import Child

__all__ = ["sweep", "sweep_all"]


def sweep(bench: Bench) -> Contests:
    """Sweep each size with each share of the characters in a fight, by new workers."""
    for size in bench.sizes:
        for percent in bench.percents:
            bench.clear()
            with bench.worker() as worker, bench.naive_worker() as naive_worker:
                yield _contest(Saves(bench, size, percent), worker, naive_worker)


def _contest(saves: Saves, worker: Child, naive_worker: Child) -> Contest:
    return Contest(
        f"sweep of {saves.size:,} through Celery, {saves.percent} % in fights",
        "characters/s",
        {
            "statesync": lambda: sweep_all(saves, worker),
            "floor": saves.floor(),
            "naive": saves.naive(naive_worker),
        },
    )


def sweep_all(saves: Saves, worker: Child) -> dict[str, float]:
    """Write characters anew and have a worker save them; returns figures by unit."""

    def save() -> None:
        saves.bench.sweep()
        saves.bench.wait_clean()

    return saves.measured(saves.ids(Saver.STATESYNC), save, worker)
