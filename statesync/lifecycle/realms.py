"""Owns the realms that a process works in: one orchestrator for each, made when it is first asked.

Without realms there is one world, whose name is empty.
"""

from __future__ import annotations

import threading
from typing import Self

from statesync.errors import InvalidInput
from statesync.hot.exchange import ANSWER_SECONDS
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.settings import Settings

__all__ = ["Realms"]


class Realms:
    """The orchestrators of all realms of ``settings``; safe to share by threads.

    It connects to a realm when that is first used; ``close`` or ``with`` ends all connections.
    """

    def __init__(self, settings: Settings, *, answer_seconds: float = ANSWER_SECONDS) -> None:
        self._settings = {one.realm: one for one in settings.each_realm()}
        self._answer_seconds = answer_seconds
        self._orchestrators: dict[str, GameStateOrchestrator] = {}
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """The names of the realms; one that is empty if there is only one world."""
        return list(self._settings)

    def settings(self, realm: str = "") -> Settings:
        """Return the settings of a realm. Raises InvalidInput if there is no such realm here."""
        if found := self._settings.get(realm):
            return found
        known = ", ".join(filter(None, self._settings)) or "none: STATESYNC_REALMS is not set"
        name = f"there is no realm {realm!r}" if realm else "a realm is to be named"
        raise InvalidInput(f"{name}; here there are {known}")

    def orchestrator(self, realm: str = "") -> GameStateOrchestrator:
        """Return the orchestrator of a realm. Raises InvalidInput if there is no such realm."""
        settings = self.settings(realm)
        with self._lock:
            if realm not in self._orchestrators:
                self._orchestrators[realm] = GameStateOrchestrator.from_settings(
                    settings, answer_seconds=self._answer_seconds
                )
            return self._orchestrators[realm]

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            for orchestrator in self._orchestrators.values():
                orchestrator.close()
            self._orchestrators.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
