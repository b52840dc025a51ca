"""Owns the benchmarks themselves: what is set up, and what each contestant does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from statistics import median, quantiles
from typing import Any

import redis.asyncio
from celery import Celery

from statesync import AsyncHotStore, GameStateOrchestrator, GameStore, Settings
from statesync.bench.arena import Contest
from statesync.bench.rivals import connect, floor_restore, floor_save
from statesync.cli.stack import Stack
from statesync.embedded import Child
from statesync.models import STATS

__all__ = ["BENCHMARKS", "Bench"]

_PLACES = ("harbour", "forest", "crypt", "town")


def core(char_id: int, turn: int) -> dict[str, str]:
    """Return a core of about 600 bytes, as the hash holds it."""
    stats = {name: 10 + (char_id + i) % 20 for i, name in enumerate(STATS)}
    bio = {"name": f"Hero {char_id}", "gender": "f", "created_at": "2026-01-01T00:00:00+00:00"}
    vitals = {name: {"cur": turn % 100, "max": 150} for name in ("hp", "mana", "stamina", "focus")}
    return {
        "state": "exploration",
        "location": json.dumps({"current": _PLACES[turn % 4], "prev": "x" * 40}),
        "bio": json.dumps(bio),
        "stats": json.dumps(stats),
        "vitals": json.dumps(vitals),
    }


class Bench:
    """The servers and processes of a run, and how big it is."""

    def __init__(self, stack: Stack, size: int, processes: int) -> None:
        self.stack = stack
        self.settings: Settings = stack.settings
        self.size = size
        self.processes = processes
        self.ids = range(1, size + 1)
        self.client, self.connection = connect(self.settings)
        self.turn = 0
        self.app = Celery("bench", broker=self.settings.broker_url)

    def fill(self, ids: Sequence[int], *, mark: bool = True) -> None:
        """Write the cores of a new turn with a bare client; this is not measured."""
        self.turn += 1
        for start in range(0, len(ids), 1000):
            with self.client.pipeline(transaction=False) as pipe:
                for char_id in ids[start : start + 1000]:
                    pipe.hset(f"ac:{char_id}", mapping=core(char_id, self.turn))
                    pipe.hincrby(f"ac:{char_id}", "version", 1)
                    if mark:
                        pipe.sadd("dirty_accounts", char_id)
                pipe.execute()

    def clear(self) -> None:
        """Empty both stores."""
        self.client.flushdb()
        with self.connection, self.connection.cursor() as cursor:
            cursor.execute("TRUNCATE characters, sessions, state_conflicts CASCADE")

    @contextlib.contextmanager
    def worker(self) -> Iterator[Child]:
        """Run statesync's own worker."""
        worker = self.stack.start_worker("bench", concurrency=self.processes)
        try:
            yield worker
        finally:
            worker.stop()

    def sweep(self) -> None:
        """Send the sweep's task."""
        self.app.send_task("statesync.sync_dirty", queue=self.settings.queue("sync"))

    def wait_clean(self, *, sweep_again: bool = False) -> None:
        """Wait until nothing is dirty or claimed; what changes meanwhile may be swept again."""
        again = time.monotonic() + 1
        while self.client.exists("dirty_accounts", "dirty_accounts:claimed"):
            time.sleep(0.002)
            if sweep_again and time.monotonic() > again:
                self.sweep()
                again = time.monotonic() + 1


_connected: list[tuple[Any, Any]] = []


def _floor_part(settings: Settings, ids: Sequence[int]) -> None:
    if not _connected:
        _connected.append(connect(settings))
    floor_save(*_connected[0], ids)


def sweep(bench: Bench) -> Iterator[Contest]:
    """Dirty set to durable rows, through real processes."""
    bench.clear()
    naive_ids = bench.ids[: max(100, bench.size // 20)]
    pool = get_context("spawn").Pool(bench.processes)
    words = ("-m", "celery", "-A", "statesync.bench.rivals", "worker", "-Q", "naive")
    naive = Child(
        "naive",
        [sys.executable, *words, "-c", str(bench.processes), "--loglevel", "INFO"],
        bench.stack.servers.folder / "naive.log",
        env={
            **os.environ,
            **bench.settings.to_env(),
            "CELERY_BROKER_URL": bench.settings.broker_url,
        },
    )
    naive.start()
    naive.wait_ready(lambda: b" ready." in naive.log.read_bytes())

    def ours() -> float:
        bench.fill(bench.ids)
        started = time.perf_counter()
        bench.sweep()
        bench.wait_clean()
        return bench.size / (time.perf_counter() - started)

    def theirs() -> float:
        bench.fill(naive_ids)
        started = time.perf_counter()
        bench.app.send_task("naive.sweep", queue="naive")
        bench.wait_clean()
        return len(naive_ids) / (time.perf_counter() - started)

    def floor() -> float:
        bench.fill(bench.ids, mark=False)
        share = -(-bench.size // bench.processes)
        parts = [bench.ids[i : i + share] for i in range(0, bench.size, share)]
        started = time.perf_counter()
        pool.starmap(_floor_part, [(bench.settings, part) for part in parts])
        return bench.size / (time.perf_counter() - started)

    with bench.worker(), pool, contextlib.ExitStack() as exits:
        exits.callback(naive.stop)
        contestants = {"statesync": ours, "naive": theirs, "floor": floor}
        yield Contest(f"sweep of {bench.size}", "characters/s", contestants)


def _per_call(work: Callable[[int], object], count: int) -> float:
    """Return the median time of a call in µs."""
    times = []
    for i in range(count):
        started = time.perf_counter_ns()
        work(i)
        times.append(time.perf_counter_ns() - started)
    return median(times) / 1000


def hot(bench: Bench) -> Iterator[Contest]:
    """The path that players feel: write and mark."""
    bench.clear()
    ids = bench.ids[:1000]
    bench.fill(ids, mark=False)
    count = 3000
    place = json.dumps({"current": "town", "prev": "forest"})
    async_store = AsyncHotStore.from_settings(bench.settings)
    with GameStore(bench.settings) as store, asyncio.Runner() as runner:

        def ours() -> float:
            location = {"current": "town", "prev": "forest"}
            return _per_call(lambda i: store.update(ids[i % len(ids)], location=location), count)

        def floor() -> float:
            def write(i: int) -> None:
                with bench.client.pipeline(transaction=False) as pipe:
                    pipe.hset(f"ac:{ids[i % len(ids)]}", "location", place)
                    pipe.sadd("dirty_accounts", ids[i % len(ids)])
                    pipe.execute()

            return _per_call(write, count)

        yield Contest("update", "µs a call", {"statesync": ours, "floor": floor}, False)

        async def async_ours() -> float:
            location = {"current": "town", "prev": "forest"}
            times = []
            for i in range(count):
                started = time.perf_counter_ns()
                await async_store.update(ids[i % len(ids)], location=location)
                times.append(time.perf_counter_ns() - started)
            return median(times) / 1000

        client = redis.asyncio.Redis.from_url(bench.settings.redis_url)

        async def async_floor() -> float:
            times = []
            for i in range(count):
                started = time.perf_counter_ns()
                async with client.pipeline(transaction=False) as pipe:
                    pipe.hset(f"ac:{ids[i % len(ids)]}", "location", place)
                    pipe.sadd("dirty_accounts", ids[i % len(ids)])
                    await pipe.execute()
                times.append(time.perf_counter_ns() - started)
            return median(times) / 1000

        contestants = {
            "statesync": lambda: runner.run(async_ours()),
            "floor": lambda: runner.run(async_floor()),
        }
        yield Contest("update, asyncio", "µs a call", contestants, False)
        runner.run(client.aclose())
        runner.run(async_store.close())


def tail(bench: Bench) -> Iterator[Contest]:
    """The slowest updates, with and without a sweep of everybody under way."""
    bench.clear()
    with GameStore(bench.settings) as store, bench.worker():

        def p99(*, sweeping: bool) -> float:
            bench.fill(bench.ids)
            if sweeping:
                bench.sweep()
            times = []
            until = time.perf_counter() + 1.0
            while time.perf_counter() < until:
                started = time.perf_counter_ns()
                store.update(random.choice(bench.ids), state="play")  # noqa: S311
                times.append((time.perf_counter_ns() - started) / 1000)
            bench.sweep()
            bench.wait_clean(sweep_again=True)
            return quantiles(times, n=100)[98]

        contestants = {
            "during a sweep": lambda: p99(sweeping=True),
            "without": lambda: p99(sweeping=False),
        }
        yield Contest("update, 99th percentile", "µs a call", contestants, False)


def together(bench: Bench) -> Iterator[Contest]:
    """What a tie costs, at the write and at the save."""
    bench.clear()
    ids = bench.ids[: min(bench.size, 4000) // 2 * 2]
    game = GameStateOrchestrator.from_settings(bench.settings)
    bench.fill(ids)
    game.backup_many(ids)
    pairs = [(ids[i], ids[i + 1]) for i in range(0, len(ids), 2)]
    with GameStore(bench.settings) as store:

        def tied() -> float:
            return _per_call(
                lambda i: store.update_together(
                    {who: {"gold": i} for who in pairs[i % len(pairs)]}
                ),
                len(pairs),
            )

        def apart() -> float:
            def write(i: int) -> None:
                todo = [store.commands.update(who, gold=i) for who in pairs[i % len(pairs)]]
                store.run_many(todo)

            return _per_call(write, len(pairs))

        def save(change: Callable[[], object]) -> float:
            change()
            started = time.perf_counter()
            game.backup_many(ids)
            return len(ids) / (time.perf_counter() - started)

        def and_save(change: Callable[[], float]) -> float:
            figure = change()
            game.backup_many(ids)
            return figure

        contestants = {"together": lambda: and_save(tied), "two updates": lambda: and_save(apart)}
        yield Contest("change of two characters", "µs a call", contestants, False)
        contestants = {"tied in pairs": lambda: save(tied), "not tied": lambda: save(apart)}
        yield Contest("save of what was changed", "characters/s", contestants)
    game.close()


def durable(bench: Bench) -> Iterator[Contest]:
    """Changes that return when PostgreSQL has them: what group commit gains."""
    bench.clear()
    ids = bench.ids[:200]
    bench.fill(ids)
    with GameStore(bench.settings) as store, ThreadPoolExecutor(100) as threads:
        list(threads.map(lambda i: store.mark_dirty(i, durable=True), ids))

        def callers(count: int) -> float:
            calls = max(40, 4 * count)
            turns = [list(range(k, calls, count)) for k in range(count)]

            def call(turn: list[int]) -> None:
                for i in turn:
                    store.update(ids[i % len(ids)], gold=i, durable=True)

            started = time.perf_counter()
            list(threads.map(call, turns))
            return calls / (time.perf_counter() - started)

        contestants = {
            "1 caller": lambda: callers(1),
            "10 callers": lambda: callers(10),
            "100 callers": lambda: callers(100),
        }
        yield Contest("durable=True", "calls/s", contestants)


def restore(bench: Bench) -> Iterator[Contest]:
    """One login, and many at once."""
    bench.clear()
    ids = bench.ids[: min(bench.size, 5000)]
    one = ids[:300]
    game = GameStateOrchestrator.from_settings(bench.settings)
    bench.fill(ids)
    game.backup_many(ids)

    def gone() -> None:
        bench.client.flushdb()

    def ours() -> float:
        gone()
        return _per_call(lambda i: game.restore_full_state(ids[i]), len(one))

    def floor() -> float:
        gone()
        return _per_call(
            lambda i: floor_restore(bench.client, bench.connection, [ids[i]]), len(one)
        )

    contestants = {"statesync": ours, "floor": floor}
    yield Contest("restore of one", "µs a call", contestants, False)

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


BENCHMARKS: dict[str, Callable[[Bench], Iterator[Contest]]] = {
    "sweep": sweep,
    "hot": hot,
    "tail": tail,
    "restore": restore,
    "together": together,
    "durable": durable,
}
