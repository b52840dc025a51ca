"""Owns the sweep: dirty set to durable rows, through real worker processes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from typing import Any

from benchmarks.bench import Bench
from benchmarks.contest import Contest, Contests
from benchmarks.floor import connect, floor_save
from benchmarks.usage import Cpu, Memory, cpu_unit
from statesync.embedded.servers import Child
from statesync.settings import Settings

__all__ = ["floor_part", "parts", "sweep"]

_NAIVE = (100, 1000)
"""The naive twin saves a twentieth of the others, but no less and no more than this."""

_connected: list[tuple[Any, Any]] = []


def floor_part(settings: Settings, ids: Sequence[int], seconds: float = 0) -> float:
    """Save as the floor does, in a process of a pool, again and again for ``seconds``.

    Returns the seconds of CPU that it took.
    """
    if not _connected:
        _connected.append(connect(settings))
    before = time.process_time()
    until = time.monotonic() + seconds
    while True:
        floor_save(*_connected[0], ids)
        if time.monotonic() >= until:
            return time.process_time() - before


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
                bench.naive_worker() as naive_worker,
                get_context("spawn").Pool(bench.processes) as pool,
            ):
                workers = {"statesync": worker, "naive": naive_worker}
                yield _contest(bench, (size, percent), workers, pool)


def _contest(
    bench: Bench, load: tuple[int, int], workers: Mapping[str, Child], pool: Any
) -> Contest:
    size, percent = load
    memory = Memory(workers["statesync"])
    ids = range(1, size + 1)
    naive_ids = ids[: max(_NAIVE[0], min(_NAIVE[1], size // 20))]

    def ours() -> dict[str, float]:
        bench.fill(ids, percent=percent)
        cpu = Cpu({"Python": workers["statesync"], **bench.servers})
        with memory.watched():
            started = time.perf_counter()
            bench.sweep()
            bench.wait_clean()
            seconds = time.perf_counter() - started
        bench.wait_idle()
        return {"characters/s": size / seconds, **cpu.figures(size), **memory.figures()}

    def naive() -> dict[str, float]:
        bench.fill(naive_ids, percent=percent)
        cpu = Cpu({"Python": workers["naive"], **bench.servers})
        started = time.perf_counter()
        bench.app.send_task("naive.sweep", queue="naive")
        while bench.client.exists("dirty_accounts"):
            time.sleep(0.002)
        seconds = time.perf_counter() - started
        bench.wait_idle()
        return {"characters/s": len(naive_ids) / seconds, **cpu.figures(len(naive_ids))}

    def floor() -> dict[str, float]:
        bench.fill(ids, mark=False, percent=percent)
        cpu = Cpu(bench.servers)
        started = time.perf_counter()
        work = [(bench.settings, part) for part in parts(ids, bench.processes)]
        python = sum(pool.starmap(floor_part, work))
        seconds = time.perf_counter() - started
        figures = {"characters/s": size / seconds, cpu_unit("Python"): python * 1e6 / size}
        return {**figures, **cpu.figures(size)}

    return Contest(
        f"sweep of {size}, {percent} % in a session",
        "characters/s",
        {"statesync": ours, "naive": naive, "floor": floor},
    )
