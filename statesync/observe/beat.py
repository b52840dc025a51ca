"""Owns what the doctor says of the schedule."""

from __future__ import annotations

from collections.abc import Iterator

from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.observe.backlog import late_seconds
from statesync.observe.check import Check, Topic, checked
from statesync.settings import Settings
from statesync.worker.names import QueueName

__all__ = ["check_beat"]


def check_beat(orchestrator: GameStateOrchestrator, settings: Settings) -> Iterator[Check]:
    """Check that the sweeps of the schedule come in."""
    age = orchestrator.hot.examine([]).heartbeat_ms
    is_dead = age is None or age / 1000 > late_seconds(settings)
    last_sweep = (
        "no scheduled sweep has come in yet"
        if age is None
        else f"last sweep {age / 1000:.0f} s ago"
    )
    yield checked(
        Topic.BEAT,
        f"{last_sweep}; one every {settings.sync_seconds} s",
        fail=(
            f"start `celery -A statesync beat`, and a worker on {settings.queue(QueueName.SYNC)}"
            if is_dead
            else ""
        ),
    )
