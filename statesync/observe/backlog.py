"""Owns what operators are told of the characters that are not saved yet, against the promise."""

from __future__ import annotations

import time
from collections.abc import Iterator

from statesync.hot.commands.operators import Status
from statesync.hot.store import HotStore
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.observe.check import Check, Topic, checked
from statesync.settings import Settings
from statesync.state.fields import counted

__all__ = ["LATE_INTERVALS", "check_backlog", "count_unsaved", "is_dead", "late_seconds"]

LATE_INTERVALS = 3
"""A change that waits for more intervals is not being saved; a schedule without sweeps is dead."""
_SLOW_INTERVALS = 2
"""A change that waits for more intervals is saved later than promised."""
_GROWTH_SECONDS = 1.0
"""Between two looks that tell how a backlog grows."""
_SAVES = ("saved", "unchanged")


def late_seconds(settings: Settings) -> float:
    """Return the age above which an unsaved change is not being saved."""
    return float(LATE_INTERVALS * settings.sync_seconds)


def is_dead(age_ms: int | None, settings: Settings) -> bool:
    """Return whether sweeps do not come in, by the age of the last one; None if there was none."""
    return age_ms is None or age_ms / 1000 > late_seconds(settings)


def count_unsaved(status: Status) -> int:
    """Return how many characters wait to be saved; those in quarantine alone do not."""
    return status.dirty + status.claimed


def check_backlog(orchestrator: GameStateOrchestrator, settings: Settings) -> Iterator[Check]:
    """Check the age of the oldest unsaved change, and that nothing is in quarantine.

    If changes are late, it looks twice, to tell whether they become more: that takes a second.
    """
    status = orchestrator.hot.status()
    age = (status.oldest_ms or 0) / 1000
    found = f"{status.dirty} dirty, {status.claimed} claimed by workers"
    if status.expired:
        found += f" ({status.expired} of them longer than a lease)"
    if status.oldest_ms is not None:
        found += f"; the oldest change waits for {age:.0f} s, and is promised in "
        found += f"{settings.sync_seconds} s"
    # A mark of a bare writer has no age before a sweep has seen it.
    has_ages = status.oldest_ms is not None or not status.dirty
    is_unseen = not has_ages and is_dead(orchestrator.hot.figures().sweep_ms, settings)
    if is_unseen:
        found += "; nobody knows for how long they wait: no sweep comes in"
    is_late = age > _SLOW_INTERVALS * settings.sync_seconds
    if is_late:
        found += f"; {_growth(orchestrator.hot, status)}"
    yield checked(
        Topic.BACKLOG,
        found,
        warn="if it grows, add workers, or see what slows PostgreSQL down" * is_late,
        fail="see what the checks of beat, workers, troubles and postgresql say; while PostgreSQL "
        "takes writes, `statesync drain` saves without workers and broker"
        * (is_unseen or age > late_seconds(settings)),
    )
    yield checked(
        Topic.QUARANTINE,
        counted(
            status.quarantined,
            "character cannot be saved as it is",
            "characters cannot be saved as they are",
        ),
        warn="see which, and why: `statesync quarantine list`" * bool(status.quarantined),
    )


def _growth(hot: HotStore, before: Status) -> str:
    """Say how a backlog changes, by a second look at it."""
    began_at = time.monotonic()
    time.sleep(_GROWTH_SECONDS)
    now = hot.status()
    seconds = time.monotonic() - began_at
    saved = sum(now.counters.get(name, 0) - before.counters.get(name, 0) for name in _SAVES)
    growth = count_unsaved(now) - count_unsaved(before)
    if not saved:
        return f"nothing was saved within {seconds:.0f} s"
    return f"{saved / seconds:,.0f} are saved a second, and {growth / seconds:+,.0f} wait"
