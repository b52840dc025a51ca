"""Owns the list of the benchmarks."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.bench import Bench
from benchmarks.cases.hot import hot, tail
from benchmarks.cases.profile import profile
from benchmarks.cases.queue import queue
from benchmarks.cases.restore import restore
from benchmarks.cases.sweep import sweep
from benchmarks.cases.together import durable, together
from benchmarks.cases.write import write
from benchmarks.contest import Contests

__all__ = ["BENCHMARKS"]

BENCHMARKS: dict[str, Callable[[Bench], Contests]] = {
    "sweep": sweep,
    "hot": hot,
    "tail": tail,
    "restore": restore,
    "queue": queue,
    "write": write,
    "profile": profile,
    "together": together,
    "durable": durable,
}
