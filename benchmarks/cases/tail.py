"""Owns ``tail``: the slowest updates while 2 % of the characters change each second.

The caller that is measured makes these changes itself, evenly, over two intervals of the sync. It
is alone if the worker and beat are stopped meanwhile.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from statistics import median, quantiles

from benchmarks.bench import Bench
from benchmarks.contest import Contest, Contests
from benchmarks.processes import paused
from statesync import GameStore

__all__ = ["tail"]

_SYNC_SECONDS = 5
_SECONDS = 2.0 * _SYNC_SECONDS
_CHANGED_EACH_SECOND = 0.02


def tail(bench: Bench) -> Contests:
    """Find the 99th percentile of updates: while workers save, and alone."""
    bench.clear()
    bench.write_characters(bench.ids)
    with (
        GameStore(bench.settings) as store,
        bench.worker(sync_seconds=_SYNC_SECONDS) as worker,
        bench.beat(sync_seconds=_SYNC_SECONDS) as beat,
    ):

        def turn() -> dict[str, float]:
            bench.wait_clean()
            bench.wait_idle()
            return _percentiles(_updates(store, bench.ids))

        def alone() -> dict[str, float]:
            bench.wait_clean()
            bench.wait_idle()
            with paused(worker, beat):
                return _percentiles(_updates(store, bench.ids))

        per_second = round(_CHANGED_EACH_SECOND * len(bench.ids))
        name = f"update, while {per_second:,} of {len(bench.ids):,} change each second"
        yield Contest(name, "µs", {"statesync": turn, "alone": alone})


def _updates(store: GameStore, char_ids: Sequence[int]) -> list[float]:
    """Update characters at an even pace; returns the µs of each call."""
    times: list[float] = []
    pause = 1 / (_CHANGED_EACH_SECOND * len(char_ids))
    due = time.perf_counter()
    until = due + _SECONDS
    while (now := time.perf_counter()) < until:
        time.sleep(max(0.0, due - now))
        due += pause
        started = time.perf_counter_ns()
        store.update(random.choice(char_ids), gold=len(times))  # noqa: S311
        times.append((time.perf_counter_ns() - started) / 1000)
    return times


def _percentiles(times: Sequence[float]) -> dict[str, float]:
    return {"µs, 99th percentile": quantiles(times, n=100)[98], "µs, median": median(times)}
