"""Owns what the doctor says of the schedule: sweeps and scrubs."""

from __future__ import annotations

from collections.abc import Iterator

from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.observe.backlog import late_seconds
from statesync.observe.check import Check, Topic, checked
from statesync.settings import Settings
from statesync.worker.names import QueueName

__all__ = ["check_beat"]


_LATE_SCRUBS = 3
"""Without one for so many times SCRUB_SECONDS, scrubs do not come to their end."""


def check_beat(orchestrator: GameStateOrchestrator, settings: Settings) -> Iterator[Check]:
    """Check that the sweeps of the schedule come in, and that scrubs come to their end."""
    figures = orchestrator.hot.figures()
    yield _check_sweeps(figures.sweep_ms, settings)
    yield _check_scrubs(figures.scrub_ms, settings)


def _check_sweeps(age_ms: int | None, settings: Settings) -> Check:
    is_dead = age_ms is None or age_ms / 1000 > late_seconds(settings)
    last = "no scheduled sweep has come in yet"
    if age_ms is not None:
        last = f"last sweep {age_ms / 1000:.0f} s ago"
    queue = settings.queue(QueueName.SYNC)
    return checked(
        Topic.BEAT,
        f"{last}; one every {settings.sync_seconds} s",
        fail=f"start `celery -A statesync beat`, and a worker on {queue}; if they run, see what "
        "Redis or the broker refuses" * is_dead,
    )


def _check_scrubs(age_ms: int | None, settings: Settings) -> Check:
    if not settings.scrub_seconds:
        return checked(Topic.SCRUB, "off, by STATESYNC_SCRUB_SECONDS")
    is_late, last = False, "none has come to its end yet"
    if age_ms is not None:
        is_late = age_ms / 1000 > _LATE_SCRUBS * settings.scrub_seconds
        last = f"the last one ended {age_ms / 1000:.0f} s ago"
    return checked(
        Topic.SCRUB,
        f"{last}; one every {settings.scrub_seconds} s",
        warn="see the log of the workers on "
        f"{settings.queue(QueueName.BACKUP)}; `statesync scrub` does it now" * is_late,
    )
