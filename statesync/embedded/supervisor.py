"""Owns the restart of processes that end by themselves, with a growing pause."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from statesync.embedded.child import Child
from statesync.errors import EmbeddedServerError

__all__ = ["Supervised"]

_STEADY_SECONDS = 30.0
"""A process that ran for so long starts again without a pause."""
_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 30.0


@dataclass
class Supervised:
    """A running child that starts again when it ends.

    ``start`` starts it, and may raise EmbeddedServerError; ``say`` shows one line to the user.
    """

    child: Child
    start: Callable[[], object]
    say: Callable[[str], object]
    now: Callable[[], float] = time.monotonic
    _pause: float = field(default=0.0, init=False)
    _started_at: float = field(init=False)
    _due_at: float | None = field(default=None, init=False)
    """When it starts again; None while it runs."""

    def __post_init__(self) -> None:
        self._started_at = self.now()

    def check(self) -> None:
        """Start the child again if it has ended and its pause is over. Call it often."""
        if self._due_at is None and not self.child.running:
            self._plan()
        if self._due_at is not None and self.now() >= self._due_at:
            self._restart()

    def _plan(self) -> None:
        """Choose the pause, tell the user, and kill what the child has left behind."""
        steady = self.now() - self._started_at >= _STEADY_SECONDS
        longer = min(max(_FIRST_PAUSE_SECONDS, 2 * self._pause), _LONGEST_PAUSE_SECONDS)
        self._pause = 0.0 if steady else longer
        self._due_at = self.now() + self._pause
        when = f"in {self._pause:.0f} s" if self._pause else "now"
        self.say(
            f"{self.child.name} has ended ({_reason(self.child)}); it starts again {when}; "
            f"see {self.child.log}"
        )
        self.child.kill()

    def _restart(self) -> None:
        self._due_at = None
        try:
            self.start()
        except EmbeddedServerError:
            self.child.kill()  # the next check finds it ended, and chooses a longer pause
        self._started_at = self.now()


def _reason(child: Child) -> str:
    status = child.process.returncode if child.process else None
    if status is None or status >= 0:
        return f"exit status {status}"
    return f"killed by signal {-status}"
