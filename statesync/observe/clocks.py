"""Owns what the doctor says of the clocks of the machines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from statesync.durable import database
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.observe.check import Check, Topic, checked
from statesync.settings import Settings

__all__ = ["check_clocks"]

_SKEW_SECONDS = 2.0


def check_clocks(orchestrator: GameStateOrchestrator, settings: Settings) -> Iterator[Check]:
    """Check how far the clocks of the servers are from ours."""

    def ask_redis() -> float:
        return orchestrator.hot.examine([]).now_us / 1e6

    def ask_postgresql() -> float:
        with database.transaction(orchestrator.engine) as connection:
            query = "SELECT extract(epoch FROM clock_timestamp())"
            return float(connection.exec_driver_sql(query).scalar_one())

    skews = {"Redis": _skew(ask_redis), "PostgreSQL": _skew(ask_postgresql)}
    found = ", ".join(f"{name} {skew:+.1f} s" for name, skew in skews.items())
    spread = max(0.0, *skews.values()) - min(0.0, *skews.values())
    advice = "run NTP on every machine"
    # A message expires with the lease, by the clocks of beat and the workers.
    is_fatal = spread >= settings.lease_seconds
    yield checked(
        Topic.CLOCKS,
        f"{found}, seen from here",
        fail=f"{advice}: messages expire before they arrive" if is_fatal else "",
        warn=advice if spread > _SKEW_SECONDS else "",
    )


def _skew(ask: Callable[[], float]) -> float:
    """Return how far a server's clock is ahead of ours: zero within the time that asking took."""
    ask()  # the first time, it also connects and loads scripts
    before = time.time()
    server_time = ask()
    after = time.time()
    return server_time - after if server_time > after else min(0.0, server_time - before)
