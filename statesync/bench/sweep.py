"""Owns the sweep: dirty set to durable rows, through real worker processes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from multiprocessing import get_context
from typing import Any

from statesync.bench.arena import Contest, Contests
from statesync.bench.memory import Memory
from statesync.bench.rivals import connect, floor_save
from statesync.bench.run import Bench
from statesync.settings import Settings

__all__ = ["floor_part", "parts", "sweep"]

_NAIVE = (100, 1000)
"""The naive twin saves a twentieth of the others, but no less and no more than this."""

_connected: list[tuple[Any, Any]] = []


def floor_part(settings: Settings, ids: Sequence[int], seconds: float = 0) -> None:
    """Save as the floor does, in a process of a pool, again and again for ``seconds``."""
    if not _connected:
        _connected.append(connect(settings))
    until = time.monotonic() + seconds
    while True:
        floor_save(*_connected[0], ids)
        if time.monotonic() >= until:
            break


def parts(ids: Sequence[int], processes: int) -> list[Sequence[int]]:
    """Return ``ids`` in as many parts as there are processes."""
    share = -(-len(ids) // processes)
    return [ids[i : i + share] for i in range(0, len(ids), share)]


def sweep(bench: Bench) -> Contests:
    """Sweep everybody; some of them in fights of four."""
    for size in bench.sizes:
        for percent in bench.percents:
            bench.clear()
            with (
                bench.worker() as worker,
                bench.naive_worker(),
                get_context("spawn").Pool(bench.processes) as pool,
            ):
                yield _contest(bench, size, percent, Memory(worker), pool)


def _contest(bench: Bench, size: int, percent: int, memory: Memory, pool: Any) -> Contest:
    ids = range(1, size + 1)
    naive_ids = ids[: max(_NAIVE[0], min(_NAIVE[1], size // 20))]

    def ours() -> dict[str, float]:
        bench.fill(ids, percent=percent)
        with memory.watched():
            started = time.perf_counter()
            bench.sweep()
            bench.wait_clean()
            seconds = time.perf_counter() - started
        bench.wait_idle()
        return {"characters/s": size / seconds, **memory.figures()}

    def naive() -> float:
        bench.fill(naive_ids, percent=percent)
        started = time.perf_counter()
        bench.app.send_task("naive.sweep", queue="naive")
        while bench.client.exists("dirty_accounts"):
            time.sleep(0.002)
        seconds = time.perf_counter() - started
        bench.wait_idle()
        return len(naive_ids) / seconds

    def floor() -> float:
        bench.fill(ids, mark=False, percent=percent)
        started = time.perf_counter()
        work = [(bench.settings, part) for part in parts(ids, bench.processes)]
        pool.starmap(floor_part, work)
        return size / (time.perf_counter() - started)

    return Contest(
        f"sweep of {size}, {percent} % in a session",
        "characters/s",
        {"statesync": ours, "naive": naive, "floor": floor},
    )
