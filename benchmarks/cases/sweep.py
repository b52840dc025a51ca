"""Owns ``sweep``: from dirty marks to rows, through real worker processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.pool import Pool

from benchmarks import floor, naive
from benchmarks.bench import Bench
from benchmarks.contest import Contest, Contests
from benchmarks.processes import Cpu, Memory, cpu_unit
from statesync.embedded.child import Child

__all__ = ["sweep"]

_NAIVE_SHARE = 20
_NAIVE_FEWEST, _NAIVE_MOST = 100, 1000
"""The naive twin saves a twentieth of the others, within these bounds."""


def sweep(bench: Bench) -> Contests:
    """Sweep each size with each share of the characters in a fight, by new workers."""
    for size in bench.sizes:
        for percent in bench.percents:
            bench.clear()
            with (
                bench.worker() as worker,
                bench.naive_worker() as naive_worker,
                floor.process_pool(bench.processes) as pool,
            ):
                yield _Sweep(bench, size, percent, worker, naive_worker, pool).contest()


@dataclass
class _Sweep:
    """A sweep of one size by each contestant."""

    bench: Bench
    size: int
    percent: int
    worker: Child
    naive_worker: Child
    pool: Pool

    def contest(self) -> Contest:
        memory = Memory(self.worker)
        return Contest(
            f"sweep of {self.size}, {self.percent} % in a session",
            "characters/s",
            {"statesync": lambda: self._ours(memory), "naive": self._naive, "floor": self._floor},
        )

    def _ours(self, memory: Memory) -> dict[str, float]:
        def save() -> None:
            self.bench.sweep()
            self.bench.wait_clean()

        self._write(self.size)
        cpu = Cpu({"Python": self.worker, **self.bench.servers})
        with memory.watched():
            seconds = _seconds(save)
        self.bench.wait_idle()
        return {**self._rate(self.size, seconds), **cpu.figures(self.size), **memory.figures()}

    def _naive(self) -> dict[str, float]:
        def save() -> None:
            self.bench.app.send_task(naive.sweep.name, queue=naive.QUEUE)
            while self.bench.client.exists("dirty_accounts"):
                time.sleep(0.002)

        size = max(_NAIVE_FEWEST, min(_NAIVE_MOST, self.size // _NAIVE_SHARE))
        self._write(size)
        cpu = Cpu({"Python": self.naive_worker, **self.bench.servers})
        seconds = _seconds(save)
        self.bench.wait_idle()
        return {**self._rate(size, seconds), **cpu.figures(size)}

    def _floor(self) -> dict[str, float]:
        self._write(self.size, mark=False)
        cpu = Cpu(self.bench.servers)
        started = time.perf_counter()
        shares = floor.shares(self._ids(self.size), self.bench.processes)
        work = [(self.bench.settings, share) for share in shares]
        python_seconds = sum(self.pool.starmap(floor.save_in_process, work))
        seconds = time.perf_counter() - started
        python = {cpu_unit("Python"): python_seconds * 1e6 / self.size}
        return {**self._rate(self.size, seconds), **python, **cpu.figures(self.size)}

    def _write(self, size: int, *, mark: bool = True) -> None:
        self.bench.write_characters(self._ids(size), mark=mark, fighting_percent=self.percent)

    @staticmethod
    def _ids(size: int) -> range:
        return range(1, size + 1)

    @staticmethod
    def _rate(size: int, seconds: float) -> dict[str, float]:
        return {"characters/s": size / seconds}


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
