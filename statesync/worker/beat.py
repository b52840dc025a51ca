"""Owns the schedule's clock: it keeps nothing on disk, and sleeps until a message is due."""

from __future__ import annotations

from typing import Any

from celery import beat

from statesync.worker.digest import broker_answers
from statesync.worker.liveness import liveness

__all__ = ["Scheduler"]


class Scheduler(beat.Scheduler):
    """Celery's own scheduler wakes 10 ms early, and spends them looking whether it is time.

    With several messages a second, that would be most of what a slice of a sweep costs.
    """

    def adjust(self, n: float, drift: float = 0.0) -> float:
        """Return how long to sleep if the next message is due in ``n`` seconds."""
        return n + drift

    def tick(self, *args: Any, **more: Any) -> float:
        """Send what is due, as Celery's own does, and show that this process is not stuck."""
        liveness.come_by()
        seconds: float = super().tick(*args, **more)
        return seconds

    def apply_async(self, entry: beat.ScheduleEntry, *args: Any, **more: Any) -> Any:
        """Send a message that is due."""
        sent = super().apply_async(entry, *args, **more)
        broker_answers()
        return sent
