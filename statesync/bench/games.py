"""Owns the list of the benchmarks."""

from __future__ import annotations

from collections.abc import Callable

from statesync.bench.arena import Contests
from statesync.bench.players import hot, tail
from statesync.bench.profile import profile
from statesync.bench.queue import queue
from statesync.bench.restore import restore
from statesync.bench.run import Bench
from statesync.bench.sweep import sweep
from statesync.bench.together import durable, together
from statesync.bench.write import write

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
