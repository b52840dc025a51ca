"""Owns how calls are measured, and how something is watched while they run."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from statistics import median

__all__ = ["every", "median_us", "per_second"]


def median_us(call: Callable[[int], object], count: int) -> float:
    """Return the median time of a call in µs; each gets its number."""
    times = []
    for i in range(count):
        started = time.perf_counter_ns()
        call(i)
        times.append(time.perf_counter_ns() - started)
    return median(times) / 1000


def per_second(count: int, work: Callable[[], object]) -> float:
    """Return how many of ``count`` things a second the work does."""
    started = time.perf_counter()
    work()
    return count / (time.perf_counter() - started)


@contextlib.contextmanager
def every(seconds: float, look: Callable[[], object]) -> Iterator[None]:
    """Call ``look`` every so many seconds, in another thread, until the block ends."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(seconds):
            look()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
