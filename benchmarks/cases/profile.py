"""Owns where the time goes, by looking again and again what the process is doing."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import FrameType

from benchmarks.bench import Bench, meanwhile
from benchmarks.contest import Contest, Contests
from statesync import GameStateOrchestrator

__all__ = ["profile"]

_SECONDS = 0.0005
_PARTS: Sequence[tuple[str, str, tuple[str, ...]]] = [
    ("waiting for Redis", "/redis/_parsers/hiredis.py", ("read_from_socket",)),
    ("waiting for Redis", "/redis/connection.py", ("send_packed_command",)),
    (
        "waiting for PostgreSQL",
        "/sqlalchemy/engine/default.py",
        ("do_execute", "do_commit", "do_rollback"),
    ),
    ("redis-py", "/redis/", ()),
    ("SQLAlchemy", "/sqlalchemy/", ()),
    ("statesync: JSON and checks", "/statesync/codec.py", ()),
    ("statesync: rows", "/statesync/rows.py", ()),
    ("statesync: the rest", "/statesync/", ()),
]
"""What a part is called, in which files it is, and in which functions, if not in all."""


def _part(frame: FrameType | None) -> str:
    while frame:
        code = frame.f_code
        for name, where, functions in _PARTS:
            if where in code.co_filename and (not functions or code.co_name in functions):
                return name
        frame = frame.f_back
    return "the rest"


def _sampled(work: Callable[[], object], count: int) -> dict[str, float]:
    """Return the µs that each of ``count`` takes, in all and by part.

    Another thread looks at this one's stack; it slows it down a little.
    """
    seen: Counter[str] = Counter()
    me = threading.get_ident()

    def look() -> None:
        seen[_part(sys._current_frames().get(me))] += 1

    before = sys.getswitchinterval()
    sys.setswitchinterval(_SECONDS / 5)
    try:
        with meanwhile(look, _SECONDS):
            started = time.perf_counter()
            work()
            micros = (time.perf_counter() - started) * 1e6 / count
    finally:
        sys.setswitchinterval(before)
    names = dict.fromkeys(name for name, _, _ in _PARTS)
    shares = {name: micros * seen[name] / seen.total() for name in (*names, "the rest")}
    return {"in all": micros, **{name: share for name, share in shares.items() if share}}


def profile(bench: Bench) -> Contests:
    """Where the time of a save and of a restore goes, in one process that does nothing else."""
    bench.clear()
    game = GameStateOrchestrator.from_settings(bench.settings)
    ids = bench.ids[:10_000]

    def save() -> dict[str, float]:
        bench.fill(ids)
        return _sampled(lambda: game.backup_many(ids), len(ids))

    def restore() -> dict[str, float]:
        bench.client.flushdb()
        return _sampled(lambda: game.restore_many(ids), len(ids))

    save()
    for name, work in (("save", save), ("restore", restore)):
        yield Contest(f"{name}, µs a character in one process", "µs", {"statesync": work})
    game.close()
