"""Owns ``profile``: where the time goes, sampled from the stack of a process at work."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from types import FrameType
from typing import NamedTuple

from benchmarks.bench import Bench
from benchmarks.contest import Contest, Contests
from benchmarks.timing import every

__all__ = ["BUCKETS", "Bucket", "profile"]

_SAMPLE_SECONDS = 0.0005
_MOST = 10_000
_REST = "the rest"


class Bucket(NamedTuple):
    """A name for the time that is spent in a module, in its submodules, and in what they call."""

    name: str
    module: str
    functions: Collection[str] = ()
    """Of the module; all of it if empty."""

    def holds(self, module: str, function: str) -> bool:
        """Tell whether a function of a module belongs here."""
        return (module == self.module or module.startswith(f"{self.module}.")) and (
            not self.functions or function in self.functions
        )


BUCKETS = (
    Bucket("waiting for Redis", "redis._parsers.hiredis", ("read_from_socket",)),
    Bucket("waiting for Redis", "redis.connection", ("send_packed_command",)),
    Bucket(
        "waiting for PostgreSQL",
        "sqlalchemy.engine.default",
        ("do_execute", "do_commit", "do_rollback"),
    ),
    Bucket("redis-py", "redis"),
    Bucket("SQLAlchemy", "sqlalchemy"),
    Bucket("statesync: JSON and checks", "statesync.state"),
    Bucket("statesync: rows", "statesync.durable.rows"),
    Bucket("statesync: the rest", "statesync"),
)
"""The first that holds the innermost frame that any holds, has the sample."""


def profile(bench: Bench) -> Contests:
    """Sample a save and a restore, in one process that does nothing else."""
    bench.clear()
    ids = bench.ids[:_MOST]
    with bench.orchestrator() as orchestrator:

        def save() -> dict[str, float]:
            bench.write_characters(ids)
            return _sampled(lambda: orchestrator.backup_many(ids), len(ids))

        def restore() -> dict[str, float]:
            bench.clear_redis()
            return _sampled(lambda: orchestrator.restore_many(ids), len(ids))

        save()
        for name, work in (("save", save), ("restore", restore)):
            yield Contest(f"{name}, µs a character in one process", "µs", {"statesync": work})


def _sampled(work: Callable[[], object], count: int) -> dict[str, float]:
    """Return the µs that each of ``count`` takes, in all and by bucket.

    Another thread samples this one's stack, which slows it a little.
    """
    samples: Counter[str] = Counter()
    thread = threading.get_ident()

    def sample() -> None:
        samples[_bucket_name(sys._current_frames().get(thread))] += 1

    before = sys.getswitchinterval()
    sys.setswitchinterval(_SAMPLE_SECONDS / 5)
    try:
        with every(_SAMPLE_SECONDS, sample):
            started = time.perf_counter()
            work()
            micros = (time.perf_counter() - started) * 1e6 / count
    finally:
        sys.setswitchinterval(before)
    names = dict.fromkeys([*(bucket.name for bucket in BUCKETS), _REST])
    by_bucket = {name: micros * samples[name] / samples.total() for name in names if samples[name]}
    return {"in all": micros, **by_bucket}


def _bucket_name(frame: FrameType | None) -> str:
    """Return the bucket of the innermost frame that is in any."""
    while frame:
        module, function = frame.f_globals.get("__name__", ""), frame.f_code.co_name
        for bucket in BUCKETS:
            if bucket.holds(module, function):
                return bucket.name
        frame = frame.f_back
    return _REST
