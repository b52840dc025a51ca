"""Owns ``tail``: the slowest updates while nothing else happens, and during a sweep of everything.

The floor's sweep takes as many cores and holds up nothing in Redis. What is slower during our sweep
than during the floor's is due to statesync; the rest is the lack of cores.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from multiprocessing.pool import Pool
from statistics import median, quantiles
from typing import Any

from benchmarks import floor
from benchmarks.bench import Bench
from benchmarks.contest import Contest, Contests
from statesync import GameStore

__all__ = ["tail"]

_SECONDS = 1.0
_LOGGED_COMMANDS = 100_000


def tail(bench: Bench) -> Contests:
    """Find the 99th percentile of updates: during our sweep, during the floor's, alone."""
    bench.clear()
    with (
        GameStore(bench.settings) as store,
        bench.worker(),
        floor.process_pool(bench.processes) as pool,
    ):
        yield Contest(
            "update, 99th percentile",
            "µs a call",
            {
                "during our sweep": lambda: _during_our_sweep(bench, store),
                "during the floor's": lambda: _during_floor_sweep(bench, store, pool),
                "alone": lambda: _alone(bench, store),
            },
        )


def _during_our_sweep(bench: Bench, store: GameStore) -> dict[str, float]:
    bench.write_characters(bench.ids)
    with _script_times(bench.client) as script_figures:
        bench.sweep()
        figure = _p99(bench, store)
    _settle(bench)
    return {"µs a call": figure, **script_figures}


def _during_floor_sweep(bench: Bench, store: GameStore, pool: Pool) -> float:
    bench.write_characters(bench.ids)
    shares = floor.shares(bench.ids, bench.processes)
    work = [(bench.settings, share, _SECONDS) for share in shares]
    saving = pool.starmap_async(floor.save_in_process, work)
    figure = _p99(bench, store)
    saving.get()
    _settle(bench)
    return figure


def _alone(bench: Bench, store: GameStore) -> float:
    bench.write_characters(bench.ids, mark=False)
    figure = _p99(bench, store)
    _settle(bench)
    return figure


def _p99(bench: Bench, store: GameStore) -> float:
    times = []
    until = time.perf_counter() + _SECONDS
    while time.perf_counter() < until:
        started = time.perf_counter_ns()
        store.update(random.choice(bench.ids), state="play")  # noqa: S311
        times.append((time.perf_counter_ns() - started) / 1000)
    return quantiles(times, n=100)[98]


def _settle(bench: Bench) -> None:
    bench.sweep()
    bench.wait_clean()
    bench.wait_idle()


@contextlib.contextmanager
def _script_times(client: Any) -> Iterator[dict[str, float]]:
    """Give a dict that has, after the block, how long scripts held Redis, from its slow log.

    If a core is lacking, the longest run has waited for one. The longest median has not.
    """
    changes = {"slowlog-log-slower-than": 0, "slowlog-max-len": _LOGGED_COMMANDS}
    before = {name: client.config_get(name)[name] for name in changes}
    figures: dict[str, float] = {}
    for name, value in changes.items():
        client.config_set(name, value)
    client.slowlog_reset()
    try:
        yield figures
        times = _logged_scripts(client)
        figures["µs, the longest run of a script"] = max(max(runs) for runs in times)
        figures["µs, the longest median of a script"] = max(median(runs) for runs in times)
    finally:
        for name, value in before.items():
            client.config_set(name, value)
        client.slowlog_reset()


def _logged_scripts(client: Any) -> list[list[int]]:
    """Return the µs of each script's runs."""
    times: dict[bytes, list[int]] = defaultdict(list)
    for entry in client.slowlog_get(_LOGGED_COMMANDS):
        command, *words = entry["command"].split(b" ", 2)
        if command.upper() == b"EVALSHA":
            times[words[0]].append(entry["duration"])
    return list(times.values())
