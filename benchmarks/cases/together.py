"""Owns ``together``: what a tie costs, at the change and at the save."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.bench import Bench
from benchmarks.contest import Contest, Contests
from benchmarks.timing import median_us, per_second
from statesync import GameStore

__all__ = ["together"]

_MOST = 4000


def together(bench: Bench) -> Contests:
    """Change characters in pairs, tied and not tied, and save them."""
    bench.clear()
    ids = bench.ids[: min(len(bench.ids), _MOST) // 2 * 2]
    pairs = [(ids[i], ids[i + 1]) for i in range(0, len(ids), 2)]
    bench.write_characters(ids)
    with bench.orchestrator() as orchestrator, GameStore(bench.settings) as store:

        def change_tied(i: int) -> None:
            store.update_together({char_id: {"gold": i} for char_id in pairs[i]})

        def change_apart(i: int) -> None:
            store.run_many([store.commands.update(char_id, gold=i) for char_id in pairs[i]])

        def save() -> None:
            orchestrator.backup_many(ids)

        def change_figure(change: Callable[[int], object]) -> float:
            figure = median_us(change, len(pairs))
            save()
            return figure

        def save_figure(change: Callable[[int], object]) -> float:
            median_us(change, len(pairs))
            return per_second(len(ids), save)

        save()
        contestants = {
            "together": lambda: change_figure(change_tied),
            "two updates": lambda: change_figure(change_apart),
        }
        yield Contest("change of two characters", "µs a call", contestants)
        contestants = {
            "tied in pairs": lambda: save_figure(change_tied),
            "not tied": lambda: save_figure(change_apart),
        }
        yield Contest("save of what was changed", "characters/s", contestants)
