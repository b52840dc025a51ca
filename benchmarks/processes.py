"""Owns the CPU time and the memory of processes, each with all that it has started."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import psutil

from benchmarks.timing import every
from statesync.embedded.child import Child

__all__ = ["Cpu", "Memory", "cpu_unit"]

_LOOK_SECONDS = 0.05
_MB = 1e6


def _tree(child: Child) -> list[psutil.Process]:
    main = psutil.Process(child.process.pid if child.process else None)
    return [main, *main.children(recursive=True)]


class Memory:
    """The resident memory of a worker's processes, from when it is ready."""

    def __init__(self, worker: Child) -> None:
        self._processes = _tree(worker)
        self._first = self._now()
        self._peaks = self._first

    def _now(self) -> list[int]:
        return [process.memory_info().rss for process in self._processes]

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Look every 50 ms how much it is."""
        self._peaks = self._now()

        def look() -> None:
            self._peaks = [max(two) for two in zip(self._peaks, self._now(), strict=True)]

        with every(_LOOK_SECONDS, look):
            yield

    def figures(self) -> dict[str, float]:
        """Return, by unit, the peaks while it was last watched, and the growth up to them."""
        growth = [peak - first for peak, first in zip(self._peaks, self._first, strict=True)]
        return {
            "MB of all worker processes": sum(self._peaks) / _MB,
            "MB that one of them grew": max(growth) / _MB,
        }


def cpu_unit(name: str) -> str:
    """Return the unit of the CPU time of ``name``."""
    return f"µs of CPU a character, {name}"


class Cpu:
    """The CPU time of processes from now on, by name."""

    def __init__(self, children: Mapping[str, Child]) -> None:
        self._children = children
        self._before = self._now()

    def _now(self) -> dict[str, float]:
        return {name: _cpu_seconds(child) for name, child in self._children.items()}

    def figures(self, characters: int) -> dict[str, float]:
        """Return, by unit, the CPU time until now for each of so many characters."""
        return {
            cpu_unit(name): (seconds - self._before[name]) * 1e6 / characters
            for name, seconds in self._now().items()
        }


def _cpu_seconds(child: Child) -> float:
    """Return the CPU time of a child, of its processes, and of those that have ended."""
    times = [process.cpu_times() for process in _tree(child)]
    return sum(t.user + t.system + t.children_user + t.children_system for t in times)
