"""Owns the CPU time and the memory of processes, each with all that it has started."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Mapping

import psutil

from benchmarks.timing import every
from statesync.embedded.child import Child

__all__ = ["CPU_UNIT", "Cpu", "Memory", "paused"]

CPU_UNIT = "µs of CPU a character"

_LOOK_SECONDS = 0.05
_MB = 1e6
_MEMORY = ("uss", "pss")


def _tree(child: Child) -> list[psutil.Process]:
    main = psutil.Process(child.process.pid if child.process else None)
    return [main, *main.children(recursive=True)]


class Memory:
    """The memory of the processes of a worker's pool: of the one that has most."""

    def __init__(self, worker: Child) -> None:
        self._pool = _tree(worker)[1:]
        self._first: dict[str, float] = {}
        self._peaks = self._now()

    def _now(self) -> dict[str, float]:
        """Return the MB, by unit."""
        all_of = [process.memory_full_info() for process in self._pool]
        return {name: max(getattr(one, name) for one in all_of) / _MB for name in _MEMORY}

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Look every 50 ms how much it is."""
        self._peaks = self._now()

        def look() -> None:
            now = self._now()
            self._peaks = {name: max(peak, now[name]) for name, peak in self._peaks.items()}

        with every(_LOOK_SECONDS, look):
            yield
        self._first = self._first or self._peaks

    def figures(self) -> dict[str, float]:
        """Return, by unit, the peaks while it was last watched."""
        return {f"MB, {name.upper()}": peak for name, peak in self._peaks.items()}

    def above(self, other: Memory) -> dict[str, float]:
        """Return, by unit, how much more it was than that of another worker."""
        return {
            f"MB, {name.upper()}, above empty Celery": peak - other._peaks[name]
            for name, peak in self._peaks.items()
        }

    def growth(self) -> dict[str, float]:
        """Return, by unit, how much the peaks have grown since it was first watched."""
        return {
            f"MB, {name.upper()}, grown since the warm-up": peak - self._first[name]
            for name, peak in self._peaks.items()
        }


@contextlib.contextmanager
def paused(*children: Child) -> Iterator[None]:
    """Stop children, with all that they have started, until the block ends."""
    groups = [child.process.pid for child in children if child.process]
    for group in groups:
        os.killpg(group, signal.SIGSTOP)
    try:
        yield
    finally:
        for group in groups:
            os.killpg(group, signal.SIGCONT)


class Cpu:
    """The CPU time from now on: of the Python that saves, and of the servers, by name.

    The Python is that of a worker, or of this process if there is none.
    """

    def __init__(self, servers: Mapping[str, Child], worker: Child | None) -> None:
        self._servers = servers
        self._worker = worker
        self._before = self._now()

    def _now(self) -> dict[str, float]:
        python = _cpu_seconds(self._worker) if self._worker else time.process_time()
        servers = {name: _cpu_seconds(child) for name, child in self._servers.items()}
        return {"Python": python, **servers}

    def figures(self, characters: int) -> dict[str, float]:
        """Return, by unit, the CPU time until now for each of so many characters.

        If the servers' processes are not known, there is no figure for all together.
        """
        micros = {
            name: (seconds - self._before[name]) * 1e6 / characters
            for name, seconds in self._now().items()
        }
        in_all = {CPU_UNIT: sum(micros.values())} if self._servers else {}
        return in_all | {f"{CPU_UNIT}, {name}": figure for name, figure in micros.items()}


def _cpu_seconds(child: Child) -> float:
    """Return the CPU time of a child, of its processes, and of those that have ended."""
    times = [process.cpu_times() for process in _tree(child)]
    return sum(t.user + t.system + t.children_user + t.children_system for t in times)
