"""Owns how a test's own part of Redis goes back in time, as by a lost tail, and what a loss leaves.

All of it goes back together, what is ours as well: a writer who puts one hash back is another case.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Engine, text

from statesync.hot.keys import Keys

__all__ = ["Lost", "Moment", "Rewind", "lost_cores", "lost_logs", "lost_sessions", "recorded"]

Moment = dict[bytes, tuple[bytes, int]]
"""What every key held, and the ms that it still had to live; 0 if it does not expire."""


class Rewind:
    """Remembers all keys under the test's prefix, and brings them back later."""

    def __init__(self, raw: Any, keys: Keys) -> None:
        self._raw = raw
        self._pattern = f"{keys.prefix}*"

    def moment(self) -> Moment:
        """Return what Redis holds now."""
        return {key: (self._raw.dump(key), max(self._raw.pttl(key), 0)) for key in self._all_keys()}

    def to(self, moment: Moment) -> None:
        """Bring Redis back to a moment; what was made since is gone."""
        self.wipe()
        for key, (value, ttl_ms) in moment.items():
            self._raw.restore(key, ttl_ms, value)

    def wipe(self) -> None:
        """Lose everything."""
        if all_keys := self._all_keys():
            self._raw.delete(*all_keys)

    def _all_keys(self) -> list[bytes]:
        return list(self._raw.scan_iter(self._pattern, count=1000))


class Lost(NamedTuple):
    """An entry of ``state_conflicts``."""

    char_id: int
    session_id: UUID | None
    version: int
    reason: str
    state: dict[str, Any]


def recorded(engine: Engine) -> list[Lost]:
    """Return all that conflicts have recorded, in that order."""
    query = "SELECT character_id, session_id, version, reason, state FROM state_conflicts"
    with engine.begin() as connection:
        return [Lost(*row) for row in connection.execute(text(f"{query} ORDER BY id"))]


def lost_cores(engine: Engine) -> list[tuple[int, dict[str, str]]]:
    """Return the cores that a loss took out of play: whose, and the fields."""
    return [(one.char_id, one.state["core"]) for one in recorded(engine) if "core" in one.state]


def lost_sessions(engine: Engine) -> list[tuple[UUID | None, dict[str, str]]]:
    """Return the sessions that a loss took out of play: which, and the fields."""
    found = (one for one in recorded(engine) if "session" in one.state)
    return [(one.session_id, one.state["session"]) for one in found]


def lost_logs(engine: Engine) -> list[list[str]]:
    """Return the logs of these sessions, whose entries are JSON."""
    return [one.state["log"] for one in recorded(engine) if "session" in one.state]
