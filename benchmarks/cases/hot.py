"""Owns the path that players feel: a write and its mark, alone and while a sweep is under way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from statistics import median, quantiles
from typing import Any

from benchmarks.bench import Bench, per_call
from benchmarks.cases.sweep import floor_part, parts
from benchmarks.contest import Contest, Contests
from benchmarks.floor import async_client
from statesync import AsyncHotStore, GameStore

__all__ = ["hot", "tail"]

_CALLS = 3000
_LOCATION = {"current": "town", "prev": "forest"}
_TAIL_SECONDS = 1.0
_LOGGED = 100_000


def hot(bench: Bench) -> Contests:
    """One update after another: for the caller, and what it is of the server's time."""
    bench.clear()
    ids = bench.ids[:1000]
    bench.fill(ids, mark=False)
    place = json.dumps(_LOCATION)

    def write(pipe: Any, i: int) -> None:
        pipe.hset(f"ac:{ids[i % len(ids)]}", "location", place)
        pipe.sadd("dirty_accounts", ids[i % len(ids)])

    with GameStore(bench.settings) as store:

        def ours(i: int) -> None:
            store.update(ids[i % len(ids)], location=_LOCATION)

        def floor(i: int) -> None:
            with bench.client.pipeline(transaction=False) as pipe:
                write(pipe, i)
                pipe.execute()

        contestants = {
            "statesync": lambda: _on_both_sides(bench, ours, "evalsha"),
            "floor": lambda: _on_both_sides(bench, floor, "hset", "sadd"),
        }
        yield Contest("update", "µs a call", contestants)

    async_store = AsyncHotStore.from_settings(bench.settings)
    client = async_client(bench.settings)
    with asyncio.Runner() as runner:

        async def async_ours() -> float:
            times = []
            for i in range(_CALLS):
                started = time.perf_counter_ns()
                await async_store.update(ids[i % len(ids)], location=_LOCATION)
                times.append(time.perf_counter_ns() - started)
            return median(times) / 1000

        async def async_floor() -> float:
            times = []
            for i in range(_CALLS):
                started = time.perf_counter_ns()
                async with client.pipeline(transaction=False) as pipe:
                    write(pipe, i)
                    await pipe.execute()
                times.append(time.perf_counter_ns() - started)
            return median(times) / 1000

        yield Contest(
            "update, asyncio",
            "µs a call",
            {
                "statesync": lambda: runner.run(async_ours()),
                "floor": lambda: runner.run(async_floor()),
            },
        )
        runner.run(client.aclose())
        runner.run(async_store.close())


def _on_both_sides(bench: Bench, work: Callable[[int], object], *commands: str) -> dict[str, float]:
    """Return the median for the caller, and what the server spends.

    What Redis counts for a command is without reading it from the socket and without its reply;
    the time of its CPU has these as well.
    """

    def spent() -> tuple[float, float]:
        stats, cpu = bench.client.info("commandstats"), bench.client.info("cpu")
        counted = sum(stats.get(f"cmdstat_{name}", {"usec": 0})["usec"] for name in commands)
        return counted, 1e6 * (cpu["used_cpu_user"] + cpu["used_cpu_sys"])

    before = spent()
    figure = per_call(work, _CALLS)
    counted, cpu = ((b - a) / _CALLS for a, b in zip(before, spent(), strict=True))
    return {
        "µs a call": figure,
        "µs a call, as the server counts": counted,
        "µs a call, of the server's CPU": cpu,
    }


def tail(bench: Bench) -> Contests:
    """The slowest updates while nothing else happens, and while everybody is saved.

    The floor's sweep takes as many cores and holds up nobody in Redis: what is slower in ours than
    in the floor's is ours, the rest is the lack of cores.
    """
    bench.clear()
    with (
        GameStore(bench.settings) as store,
        bench.worker(),
        get_context("spawn").Pool(bench.processes) as pool,
    ):

        def p99() -> float:
            times = []
            until = time.perf_counter() + _TAIL_SECONDS
            while time.perf_counter() < until:
                started = time.perf_counter_ns()
                store.update(random.choice(bench.ids), state="play")  # noqa: S311
                times.append((time.perf_counter_ns() - started) / 1000)
            return quantiles(times, n=100)[98]

        def settle() -> None:
            bench.sweep()
            bench.wait_clean()
            bench.wait_idle()

        def ours() -> dict[str, float]:
            bench.fill(bench.ids)
            with _scripts(bench.client) as scripts:
                bench.sweep()
                figure = p99()
            settle()
            return {"µs a call": figure, **scripts}

        def floor() -> float:
            bench.fill(bench.ids)
            seconds = _TAIL_SECONDS
            work = [(bench.settings, part, seconds) for part in parts(bench.ids, bench.processes)]
            saving = pool.starmap_async(floor_part, work)
            figure = p99()
            saving.get()
            settle()
            return figure

        def alone() -> float:
            bench.fill(bench.ids, mark=False)
            figure = p99()
            settle()
            return figure

        yield Contest(
            "update, 99th percentile",
            "µs a call",
            {"during our sweep": ours, "during the floor's": floor, "alone": alone},
        )


@contextlib.contextmanager
def _scripts(client: Any) -> Iterator[dict[str, float]]:
    """Give a dict that has, at the end, how long scripts held Redis up, as its slow log has it.

    Where a core is lacking, the longest has waited for one. The longest median has not.
    """
    changes = {"slowlog-log-slower-than": 0, "slowlog-max-len": _LOGGED}
    before = {name: client.config_get(name)[name] for name in changes}
    figures: dict[str, float] = {}
    for name, value in changes.items():
        client.config_set(name, value)
    client.slowlog_reset()
    try:
        yield figures
        times: dict[bytes, list[int]] = defaultdict(list)
        for entry in client.slowlog_get(_LOGGED):
            command, *words = entry["command"].split(b" ", 2)
            if command.upper() == b"EVALSHA":
                times[words[0]].append(entry["duration"])
        figures["µs, the longest run of a script"] = max(max(t) for t in times.values())
        figures["µs, the longest median of a script"] = max(median(t) for t in times.values())
    finally:
        for name, value in before.items():
            client.config_set(name, value)
        client.slowlog_reset()
