"""Owns how much memory a worker takes: the main process and its pool."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psutil

from statesync.bench.run import meanwhile
from statesync.embedded import Child

__all__ = ["Memory"]

_SECONDS = 0.05
_MB = 1e6


class Memory:
    """The resident memory of a worker's processes, since it took its first task."""

    def __init__(self, worker: Child) -> None:
        main = psutil.Process(worker.process.pid if worker.process else None)
        self._processes = [main, *main.children(recursive=True)]
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
