"""Owns the alarms: one thread of the process does what is due if a wait takes too long.

PostgreSQL's client has no limit of its own on how long it reads: a server that is frozen, or a cut
cable, would hold its caller for ever.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable

__all__ = ["Alarm"]

log = logging.getLogger(__name__)

_LONGEST_SLEEP_SECONDS = 3600.0


class Alarm:
    """Calls ``ring``, which must be short, in a thread of its own unless it is stopped in time."""

    __slots__ = ("_alarms", "due", "rang", "ring")

    def __init__(self, ring: Callable[[], object]) -> None:
        self._alarms = _alarms
        self.ring = ring
        self.due = math.inf
        self.rang = False

    def start(self, seconds: float) -> None:
        """Ring in ``seconds`` from now, whatever was set before."""
        self._alarms.add(self, time.monotonic() + seconds)

    def stop(self) -> None:
        """Do not ring; if it rings right now, return afterwards."""
        self._alarms.remove(self)


class _Alarms:
    """The alarms that are set, and their thread, which starts with the first one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._set: set[Alarm] = set()
        self._thread: threading.Thread | None = None
        self._wakes_at = math.inf

    def add(self, alarm: Alarm, due: float) -> None:
        """Set an alarm, or move it."""
        with self._changed:
            alarm.due = due
            self._set.add(alarm)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, name="statesync-alarms", daemon=True
                )
                self._thread.start()
            # Most alarms are stopped long before: the thread is woken only for an earlier one.
            if due < self._wakes_at:
                self._changed.notify()

    def remove(self, alarm: Alarm) -> None:
        """Take an alarm out, unless it has rung."""
        with self._changed:
            self._set.discard(alarm)

    def _work(self) -> None:
        with self._changed:
            while True:
                now = time.monotonic()
                for alarm in [alarm for alarm in self._set if alarm.due <= now]:
                    self._set.discard(alarm)
                    alarm.rang = True
                    try:
                        alarm.ring()
                    except Exception:  # the others must still ring
                        log.exception("an alarm failed")
                self._wakes_at = min((alarm.due for alarm in self._set), default=math.inf)
                self._changed.wait(min(self._wakes_at - now, _LONGEST_SLEEP_SECONDS))


_alarms = _Alarms()


def _forget() -> None:
    """Begin anew in a fork: it has no thread of its parent, and its locks may be held."""
    global _alarms  # noqa: PLW0603
    _alarms = _Alarms()


os.register_at_fork(after_in_child=_forget)
