"""Owns ``tail``: the slowest updates while 2 % of the characters change each second.

The caller that is measured makes these changes itself, evenly, over two intervals of the sync. It
is alone if the worker and beat are stopped meanwhile.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from statistics import median, quantiles
from typing import NamedTuple

from benchmarks.bench import Bench
from benchmarks.contest import Contest, Contests
from benchmarks.processes import paused
from statesync import GameStore

__all__ = ["SECOND", "tail"]

SECOND = "µs, 99th percentile in second {} of {}, from quiet to loud"
_SYNC_SECONDS = 5
_SECONDS = 2 * _SYNC_SECONDS
_CHANGED_EACH_SECOND = 0.02


class _Update(NamedTuple):
    """One call."""

    at_seconds: float
    """When it began, since the turn did."""
    micros: float


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
            updates = _updates(store, bench.ids)
            settle()
            return _figures(updates)

        def alone() -> dict[str, float]:
            with paused(worker, beat):
                updates = _updates(store, bench.ids)
            settle()
            return _figures(updates)

        def settle() -> None:
            """Save all: nobody else's turn is beside that."""
            bench.wait_clean()
            bench.wait_idle()

        settle()

        per_second = round(_CHANGED_EACH_SECOND * len(bench.ids))
        name = f"update, while {per_second:,} of {len(bench.ids):,} change each second"
        yield Contest(name, "µs", {"statesync": turn, "alone": alone})


def _updates(store: GameStore, char_ids: Sequence[int]) -> list[_Update]:
    """Update characters at an even pace."""
    found: list[_Update] = []
    pause = 1 / (_CHANGED_EACH_SECOND * len(char_ids))
    due = begun = time.perf_counter()
    while (now := time.perf_counter()) < begun + _SECONDS:
        time.sleep(max(0.0, due - now))
        due += pause
        started = time.perf_counter()
        store.update(random.choice(char_ids), gold=len(found))  # noqa: S311
        found.append(_Update(started - begun, 1e6 * (time.perf_counter() - started)))
    return found


def _figures(updates: Sequence[_Update]) -> dict[str, float]:
    """Return the percentiles of all calls and of those of each second, and how many there were.

    A caller that is held up makes fewer calls, so it is measured less often while it is slow. And
    the percentile of all says nothing of how it is divided: a burst is one loud second.
    """
    times = [update.micros for update in updates]
    of_seconds = sorted(
        _percentile_99([u.micros for u in updates if int(u.at_seconds) == second])
        for second in range(_SECONDS)
    )
    return {
        "µs, 99th percentile": _percentile_99(times),
        "µs, median": median(times),
        "updates/s": len(updates) / _SECONDS,
    } | {SECOND.format(i, _SECONDS): figure for i, figure in enumerate(of_seconds, 1)}


def _percentile_99(times: Sequence[float]) -> float:
    """Return the 99th percentile; of one call, or of none, what there is."""
    return quantiles(times, n=100)[98] if len(times) > 1 else max(times, default=0.0)
