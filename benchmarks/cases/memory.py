"""Owns ``memory``: what a process of a worker takes while it saves, beside an empty Celery worker.

USS is memory that no other process has; PSS also counts a share of what it has with others.
"""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.cases.sweep import sweep_all
from benchmarks.contest import Contest, Contests
from benchmarks.processes import Memory
from benchmarks.saves import Saves

__all__ = ["memory"]


def memory(bench: Bench) -> Contests:
    """Sweep again and again with one worker; its figures are peaks of any process of its pool."""
    bench.clear()
    saves = Saves(bench, bench.sizes[0], 0)
    with bench.worker() as worker, bench.empty_worker() as empty_worker:
        ours, empty = Memory(worker), Memory(empty_worker)

        def turn() -> dict[str, float]:
            with ours.watched():
                sweep_all(saves, worker)
            return ours.figures() | ours.above(empty) | ours.growth()

        name = f"memory of a worker's process, sweeps of {saves.size:,}"
        yield Contest(name, "MB", {"statesync": turn, "empty Celery": empty.figures})
