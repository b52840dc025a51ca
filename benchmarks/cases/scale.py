"""Owns ``scale``: whether a character costs more if there are more of them, and what it takes.

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
    """Sweep each size, none of them in a fight; the floor saves as many beside it."""
    with contextlib.ExitStack() as exits:
        contestants: dict[str, Callable[[], dict[str, float]]] = {}
        for size in bench.sizes:
            contestants |= _of_size(bench, size, exits)
        yield Contest("sweep through Celery, by size", "characters/s", contestants)


def _of_size(
    bench: Bench, size: int, exits: contextlib.ExitStack
) -> dict[str, Callable[[], dict[str, float]]]:
    place = exits.enter_context(embedded(0))
    one = Bench(place, sizes=[size], percents=[0], processes=bench.processes)
    exits.enter_context(contextlib.closing(one))
    worker = exits.enter_context(one.worker())
    saves = Saves(one, one.sizes[0], 0)
    return {
        f"{size:,}": lambda: sweep_all(saves, worker) | _stored(one),
        f"floor of {size:,}": saves.floor(),
    }


def _stored(bench: Bench) -> dict[str, float]:
    """Return what a character takes in both stores, with its share of everything else there."""
    query = """SELECT sum(pg_total_relation_size(t::regclass)), (SELECT count(*) FROM characters)
        FROM unnest('{characters,character_stats}'::text[]) t"""
    with bench.connection, bench.connection.cursor() as cursor:
        cursor.execute(query)
        in_postgresql, rows = cursor.fetchone() or (0, 1)
    in_redis = bench.client.info("memory")["used_memory"]
    return {
        "bytes in Redis a character": in_redis / bench.client.dbsize(),
        "bytes in PostgreSQL a character": float(in_postgresql) / rows,
    }
