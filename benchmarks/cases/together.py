"""Owns what promises cost: changes made together, and changes that wait for PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from benchmarks.bench import Bench, per_call
from benchmarks.contest import Contest, Contests
from statesync import GameStateOrchestrator, GameStore

__all__ = ["durable", "together"]


def together(bench: Bench) -> Contests:
    """What a tie costs, at the write and at the save."""
    bench.clear()
    ids = bench.ids[: min(len(bench.ids), 4000) // 2 * 2]
    game = GameStateOrchestrator.from_settings(bench.settings)
    bench.fill(ids)
    game.backup_many(ids)
    pairs = [(ids[i], ids[i + 1]) for i in range(0, len(ids), 2)]
    with GameStore(bench.settings) as store:

        def tied() -> float:
            return per_call(
                lambda i: store.update_together(
                    {who: {"gold": i} for who in pairs[i % len(pairs)]}
                ),
                len(pairs),
            )

        def apart() -> float:
            def write(i: int) -> None:
                todo = [store.commands.update(who, gold=i) for who in pairs[i % len(pairs)]]
                store.run_many(todo)

            return per_call(write, len(pairs))

        def save(change: Callable[[], object]) -> float:
            change()
            started = time.perf_counter()
            game.backup_many(ids)
            return len(ids) / (time.perf_counter() - started)

        def and_save(change: Callable[[], float]) -> float:
            figure = change()
            game.backup_many(ids)
            return figure

        contestants = {"together": lambda: and_save(tied), "two updates": lambda: and_save(apart)}
        yield Contest("change of two characters", "µs a call", contestants)
        contestants = {"tied in pairs": lambda: save(tied), "not tied": lambda: save(apart)}
        yield Contest("save of what was changed", "characters/s", contestants)
    game.close()


def durable(bench: Bench) -> Contests:
    """Changes that return when PostgreSQL has them: what group commit gains."""
    bench.clear()
    ids = bench.ids[:200]
    bench.fill(ids)
    with GameStore(bench.settings) as store, ThreadPoolExecutor(100) as threads:
        list(threads.map(lambda i: store.mark_dirty(i, durable=True), ids))

        def callers(count: int) -> float:
            calls = max(40, 4 * count)
            turns = [list(range(k, calls, count)) for k in range(count)]

            def call(turn: list[int]) -> None:
                for i in turn:
                    store.update(ids[i % len(ids)], gold=i, durable=True)

            started = time.perf_counter()
            list(threads.map(call, turns))
            return calls / (time.perf_counter() - started)

        contestants = {
            "1 caller": lambda: callers(1),
            "10 callers": lambda: callers(10),
            "100 callers": lambda: callers(100),
        }
        yield Contest("durable=True", "calls/s", contestants)
