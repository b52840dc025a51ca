"""Owns what processes take, each with all that it has started: CPU time and memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import psutil

from benchmarks.bench import meanwhile
from statesync.embedded.servers import Child

__all__ = ["Cpu", "Memory", "cpu_unit"]

_SECONDS = 0.05
_MB = 1e6


def _tree(child: Child) -> list[psutil.Process]:
    main = psutil.Process(child.process.pid if child.process else None)
    return [main, *main.children(recursive=True)]


class Memory:
    """The resident memory of a worker's processes, since it took its first task."""

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

        with meanwhile(look, _SECONDS):
            yield

    def figures(self) -> dict[str, float]:
        """Return, by unit, the peaks while it was last watched, and the growth up to them."""
        grown = [peak - first for peak, first in zip(self._peaks, self._first, strict=True)]
        return {
            "MB of all worker processes": sum(self._peaks) / _MB,
            "MB that one of them grew": max(grown) / _MB,
        }


def cpu_unit(whose: str) -> str:
    """Return what the CPU time of somebody is called."""
    return f"µs of CPU a character, {whose}"


class Cpu:
    """The CPU time that processes take from now on."""

    def __init__(self, children: Mapping[str, Child]) -> None:
        self._children = children
        self._before = self._now()

    def _now(self) -> dict[str, float]:
        # What a child has taken that has ended is its parent's.
        times = {
            who: [p.cpu_times() for p in _tree(child)] for who, child in self._children.items()
        }
        return {
            who: sum(t.user + t.system + t.children_user + t.children_system for t in of)
            for who, of in times.items()
        }

    def figures(self, characters: int) -> dict[str, float]:
        """Return, by unit, what it was until now."""
        return {
            cpu_unit(who): (seconds - self._before[who]) * 1e6 / characters
            for who, seconds in self._now().items()
        }
