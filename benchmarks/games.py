"""Owns the list of the benchmarks."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.arena import Contests
from benchmarks.players import hot, tail
from benchmarks.profile import profile
from benchmarks.queue import queue
from benchmarks.restore import restore
from benchmarks.run import Bench
from benchmarks.sweep import sweep
from benchmarks.together import durable, together
from benchmarks.write import write

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
