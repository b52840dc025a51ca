"""Owns what the doctor says of the schedule: sweeps and scrubs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.observe.backlog import is_dead
from statesync.observe.check import Check, Topic, checked
from statesync.observe.redis import refusals
from statesync.observe.workers import START_WORKER, Fleet
from statesync.settings import Settings
from statesync.state.fields import counted
from statesync.worker.names import QueueName

__all__ = ["check_beat", "why_no_sweep"]

_LATE_SCRUBS = 3
"""Without one for so many times SCRUB_SECONDS, scrubs do not come to their end."""


def check_beat(
    fleet: Fleet, orchestrator: GameStateOrchestrator, settings: Settings
) -> Iterator[Check]:
    """Check that the sweeps of the schedule come in, and that scrubs come to their end."""
    figures = orchestrator.hot.figures()
    yield _check_sweeps(fleet, orchestrator, figures.sweep_ms, settings)
    yield _check_scrubs(figures.scrub_ms, settings)


def why_no_sweep(
    refused: Sequence[str], waiting: int | None, settings: Settings
) -> tuple[str, str]:
    """Say why no sweep comes in, and what to do.

    ``refused`` is why Redis takes no changes; ``waiting`` how many messages wait in the queue of
    sweeps, None if the broker does not tell. They tell beat from the workers: only beat sends them.
    """
    queue = settings.queue(QueueName.SYNC)
    if refused:
        return "Redis takes no changes", "see what the checks of redis say, and restart nothing"
    if waiting is None:
        return "the broker does not tell what waits", "see what the check of the broker says"
    if waiting:
        wait = counted(waiting, "message waits", "messages wait")
        why = f"{wait} in the queue {queue}, so beat runs, and no worker reads it"
        return why, START_WORKER
    advice = "start `celery -A statesync beat`; if it runs, see what Redis or the broker refuses"
    return f"no message waits in the queue {queue}, so beat sends none", advice


def _check_sweeps(
    fleet: Fleet, orchestrator: GameStateOrchestrator, age_ms: int | None, settings: Settings
) -> Check:
    last = "no scheduled sweep has come in yet"
    if age_ms is not None:
        last = f"last sweep {age_ms / 1000:.0f} s ago"
    found = f"{last}; one every {settings.sync_seconds} s"
    if not is_dead(age_ms, settings):
        return checked(Topic.BEAT, found)
    waiting = fleet.waiting(settings.queue(QueueName.SYNC))
    why, advice = why_no_sweep(refusals(orchestrator.hot.examine([])), waiting, settings)
    return checked(Topic.BEAT, f"{found}; {why}", fail=advice)


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
