"""Owns ``hot``: one update after another, for the caller and on the server."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from statistics import median
from typing import Any

import redis.asyncio

from benchmarks.bench import Bench
from benchmarks.contest import Contest, Contests
from benchmarks.timing import median_us
from statesync import AsyncGameStore, GameStore

__all__ = ["hot"]

_CALLS = 3000
_LOCATION = {"current": "town", "prev": "forest"}
_PLACE = json.dumps(_LOCATION)


def hot(bench: Bench) -> Contests:
    """Update one character after another, from a thread and from asyncio."""
    bench.clear()
    ids = bench.ids[:1000]
    bench.write_characters(ids, mark=False)
    yield from _threads(bench, ids)
    yield from _asyncio(bench, ids)


def _queue_update(pipe: Any, char_id: int) -> None:
    """Put the floor's update, which is a write and a mark, into a pipeline."""
    pipe.hset(f"ac:{char_id}", "location", _PLACE)
    pipe.sadd("dirty_accounts", char_id)


def _threads(bench: Bench, ids: range) -> Contests:
    with GameStore(bench.settings) as store:

        def ours(i: int) -> None:
            store.update(ids[i % len(ids)], location=_LOCATION)

        def floor(i: int) -> None:
            with bench.client.pipeline(transaction=False) as pipe:
                _queue_update(pipe, ids[i % len(ids)])
                pipe.execute()

        contestants = {
            "statesync": lambda: _measured(bench, ours, "evalsha"),
            "floor": lambda: _measured(bench, floor, "hset", "sadd"),
        }
        yield Contest("update", "µs a call", contestants)


def _measured(bench: Bench, call: Callable[[int], object], *commands: str) -> dict[str, float]:
    """Return, by unit, what a call takes its caller, Redis in the commands, and Redis' CPU.

    Redis counts a command without reading it from the socket and without its reply; its CPU time
    has both.
    """

    def redis_us() -> tuple[float, float]:
        stats, cpu = bench.client.info("commandstats"), bench.client.info("cpu")
        counted = sum(stats.get(f"cmdstat_{name}", {"usec": 0})["usec"] for name in commands)
        return counted, 1e6 * (cpu["used_cpu_user"] + cpu["used_cpu_sys"])

    before = redis_us()
    figure = median_us(call, _CALLS)
    counted, cpu = ((b - a) / _CALLS for a, b in zip(before, redis_us(), strict=True))
    return {
        "µs a call": figure,
        "µs a call, as the server counts": counted,
        "µs a call, of the server's CPU": cpu,
    }


def _asyncio(bench: Bench, ids: range) -> Contests:
    store = AsyncGameStore(bench.settings)
    client = redis.asyncio.Redis.from_url(bench.settings.redis_url)

    async def ours(i: int) -> None:
        await store.update(ids[i % len(ids)], location=_LOCATION)

    async def floor(i: int) -> None:
        async with client.pipeline(transaction=False) as pipe:
            _queue_update(pipe, ids[i % len(ids)])
            await pipe.execute()

    with asyncio.Runner() as runner:
        contestants = {
            "statesync": lambda: runner.run(_async_median_us(ours)),
            "floor": lambda: runner.run(_async_median_us(floor)),
        }
        yield Contest("update, asyncio", "µs a call", contestants)
        runner.run(client.aclose())
        runner.run(store.aclose())


async def _async_median_us(call: Callable[[int], Awaitable[object]]) -> float:
    times = []
    for i in range(_CALLS):
        started = time.perf_counter_ns()
        await call(i)
        times.append(time.perf_counter_ns() - started)
    return median(times) / 1000
