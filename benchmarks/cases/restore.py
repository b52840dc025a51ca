"""Owns the way back: one login, and many at once."""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks.bench import Bench, per_call
from benchmarks.contest import Contest, Contests
from benchmarks.floor import floor_restore
from statesync import GameStateOrchestrator

__all__ = ["restore"]


def restore(bench: Bench) -> Contests:
    """One login, and many at once."""
    bench.clear()
    ids = bench.ids[: min(len(bench.ids), 5000)]
    one = ids[:300]
    game = GameStateOrchestrator.from_settings(bench.settings)
    bench.fill(ids)
    game.backup_many(ids)

    def ask(_: int) -> None:
        with bench.connection.cursor() as cursor:
            cursor.execute("SELECT 1")

    def ask_alone() -> float:
        bench.connection.autocommit = True
        figure = per_call(ask, len(one))
        bench.connection.autocommit = False
        return figure

    contestants = {
        "Redis": lambda: per_call(lambda _: bench.client.ping(), len(one)),
        "PostgreSQL": ask_alone,
    }
    yield Contest("empty round trip", "µs a call", contestants)

    def gone() -> None:
        bench.client.flushdb()

    def ours() -> float:
        gone()
        return per_call(lambda i: game.restore_full_state(ids[i]), len(one))

    def floor() -> float:
        gone()
        return per_call(lambda i: floor_restore(bench.client, bench.connection, [ids[i]]), len(one))

    contestants = {"statesync": ours, "floor": floor}
    yield Contest("restore of one", "µs a call", contestants)

    def bulk(work: Callable[[], object]) -> float:
        gone()
        started = time.perf_counter()
        work()
        return len(ids) / (time.perf_counter() - started)

    contestants = {
        "statesync": lambda: bulk(lambda: game.restore_many(ids)),
        "floor": lambda: bulk(lambda: floor_restore(bench.client, bench.connection, ids)),
    }
    yield Contest(f"restore of {len(ids)}", "characters/s", contestants)
    game.close()
