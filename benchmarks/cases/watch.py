"""Owns ``watch``: what a look of `statesync serve` costs Redis, and a scrape its own process."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, generate_latest

from benchmarks.bench import Bench
from benchmarks.contest import Contest, Contests
from statesync.lifecycle.realms import Realms
from statesync.web.metrics import Collector
from statesync.web.watch import Watch

__all__ = ["watch"]

_LOOKS = 50
_BATCH = 10_000


def watch(bench: Bench) -> Contests:
    """Look at Redis with a backlog of all characters, and scrape; the server counts the time."""
    bench.clear()
    _mark(bench)
    with Realms(bench.settings) as realms:
        watch = Watch(realms)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(Collector(realms, watch))
        watch.look("redis")  # connects, and loads the scripts

        def turn() -> dict[str, float]:
            before, cpu = _redis_us(bench), time.process_time()
            for _ in range(_LOOKS):
                watch.look("redis")
            looked, looked_cpu = _redis_us(bench), time.process_time()
            for _ in range(_LOOKS):
                generate_latest(registry)
            return {
                "µs of Redis a look": (looked - before) / _LOOKS,
                "µs of CPU a look": 1e6 * (looked_cpu - cpu) / _LOOKS,
                "µs of Redis a scrape": (_redis_us(bench) - looked) / _LOOKS,
                "µs of CPU a scrape": 1e6 * (time.process_time() - looked_cpu) / _LOOKS,
            }

        name = f"a look at {len(bench.ids):,} unsaved characters, and a scrape"
        yield Contest(name, "µs of Redis a look", {"statesync": turn})


def _mark(bench: Bench) -> None:
    """Mark all characters, of which none is there: only marks are looked at."""
    now_ms = 1000 * bench.client.time()[0]
    for start in range(0, len(bench.ids), _BATCH):
        ids = bench.ids[start : start + _BATCH]
        with bench.client.pipeline(transaction=False) as pipe:
            pipe.sadd(bench.keys.dirty, *ids)
            pipe.zadd(bench.keys.since, {str(i): now_ms - i % 60_000 for i in ids})
            pipe.execute()


def _redis_us(bench: Bench) -> int:
    """Return how long scripts have held Redis so far, as it counts."""
    stats = bench.client.info("commandstats")
    return int(stats.get("cmdstat_evalsha", {"usec": 0})["usec"])
