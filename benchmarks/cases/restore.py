"""Owns ``restore``: one login, beside an empty round trip to each server, and many at once."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks import floor
from benchmarks.bench import Bench
from benchmarks.contest import Contest, Contests
from benchmarks.timing import median_us, per_second
from statesync import GameStateOrchestrator

__all__ = ["restore"]

_LOGINS = 300
_MANY = 5000


def restore(bench: Bench) -> Contests:
    """Restore one character after another, then all in one call."""
    bench.clear()
    ids = bench.ids[:_MANY]
    bench.write_characters(ids)
    with bench.orchestrator() as orchestrator:
        orchestrator.backup_many(ids)
        logins = ids[:_LOGINS]
        yield _one(bench, orchestrator, logins)
        yield _many(bench, orchestrator, ids)


def _one(bench: Bench, orchestrator: GameStateOrchestrator, ids: range) -> Contest:
    def one_by_one(restore_one: Callable[[int], object]) -> float:
        bench.clear_redis()
        return median_us(lambda i: restore_one(ids[i]), len(ids))

    def floor_restore(char_id: int) -> None:
        floor.restore(bench.client, bench.connection, [char_id])

    def empty_round_trips(_: int) -> None:
        with bench.connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        bench.client.ping()

    def bare() -> float:
        bench.connection.autocommit = True  # a transaction would make it three
        figure = one_by_one(empty_round_trips)
        bench.connection.autocommit = False
        return figure

    contestants = {
        "statesync": lambda: one_by_one(orchestrator.restore_full_state),
        "empty round trips": bare,
        "floor": lambda: one_by_one(floor_restore),
    }
    return Contest("restore of one", "µs a call", contestants)


def _many(bench: Bench, orchestrator: GameStateOrchestrator, ids: range) -> Contest:
    def at_once(restore_all: Callable[[], object]) -> float:
        bench.clear_redis()
        return per_second(len(ids), restore_all)

    contestants = {
        "statesync": lambda: at_once(lambda: orchestrator.restore_many(ids)),
        "floor": lambda: at_once(lambda: floor.restore(bench.client, bench.connection, ids)),
    }
    return Contest(f"restore of {len(ids)}", "characters/s", contestants)
