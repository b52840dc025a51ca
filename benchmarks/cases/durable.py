"""Owns ``durable``: changes that return when PostgreSQL has them; what group commit gains."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from benchmarks.bench import Bench
from benchmarks.contest import Contest, Contests
from benchmarks.timing import per_second
from statesync import GameStore

__all__ = ["durable"]

_MOST_CALLERS = 100


def durable(bench: Bench) -> Contests:
    """Let 1, 10 and 100 callers at once wait for PostgreSQL."""
    bench.clear()
    ids = bench.ids[:200]
    bench.write_characters(ids)
    with GameStore(bench.settings) as store, ThreadPoolExecutor(_MOST_CALLERS) as threads:

        def calls_per_second(callers: int) -> float:
            calls = max(40, 4 * callers)

            def call_all(caller: int) -> None:
                for i in range(caller, calls, callers):
                    store.update(ids[i % len(ids)], gold=i, durable=True)

            return per_second(calls, lambda: list(threads.map(call_all, range(callers))))

        list(threads.map(lambda char_id: store.mark_dirty(char_id, durable=True), ids))
        contestants = {
            "1 caller": lambda: calls_per_second(1),
            "10 callers": lambda: calls_per_second(10),
            "100 callers": lambda: calls_per_second(_MOST_CALLERS),
        }
        yield Contest("durable=True", "calls/s", contestants)
