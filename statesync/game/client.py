"""Owns what a process of a game holds open: the pools, the group commit, the way to the broker."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cached_property
from typing import NamedTuple

from statesync import tracing
from statesync.errors import (
    BrokerUnavailable,
    CharacterNotFound,
    CharacterNotLoaded,
    CharacterNotRestored,
)
from statesync.game.enqueue import BackupSender, enqueue_backup
from statesync.game.group_commit import GroupCommit
from statesync.hot.command import not_loaded
from statesync.hot.commands.troubles import Work
from statesync.hot.store import AsyncHotStore, HotStore
from statesync.lifecycle.orchestrator import BackupReport, GameStateOrchestrator, RestoreReport
from statesync.lifecycle.troubles import Outages
from statesync.settings import Settings
from statesync.state.characters import Character
from statesync.state.outcomes import RestoreOutcome
from statesync.state.sessions import Session

__all__ = ["REDIS_SECONDS", "Client", "LoggedIn", "log_in"]

REDIS_SECONDS = 5.0
"""How long an operation of a game waits for Redis: a player waits for it."""
_LOGIN_ROUNDS = 10
"""Upper bound on restores in one login: the character may be evicted right after each."""


class LoggedIn(NamedTuple):
    """A character that is ready to play, and its sessions by type, read at one instant."""

    character: Character
    sessions: dict[str, Session]
    report: RestoreReport
    """What the login restored, and what was live."""


class Client:
    """Everything that stores and login services of one process share; safe to share by threads.

    A store makes it and closes it. It connects when it is first used.
    """

    def __init__(self, settings: Settings, durable_seconds: float) -> None:
        tracing.follow()
        self.settings = settings
        self.orchestrator = GameStateOrchestrator.from_settings(
            settings, answer_seconds=REDIS_SECONDS
        )
        self.group_commit = GroupCommit(self.orchestrator, durable_seconds)
        self.orchestrator.hot.committer = self.group_commit
        self._outages = Outages(settings.realm)

    def hot(self) -> HotStore:
        """Return the connection to Redis that threads share."""
        return self.orchestrator.hot

    def async_hot(self) -> AsyncHotStore:
        """Return a connection to Redis for one event loop; the caller closes it."""
        made = AsyncHotStore.from_settings(self.settings, answer_seconds=REDIS_SECONDS)
        made.committer = self.group_commit
        return made

    def span(self, operation: str, char_id: int) -> AbstractContextManager[object]:
        """Return the span of what a game does with a character."""
        return tracing.span(f"statesync.{operation}", {"statesync.char_id": char_id})

    def log_in(self, char_id: int) -> LoggedIn:
        """Restore a character and its sessions if they are absent, and return them."""
        with self.span("login", char_id):
            return log_in(self.orchestrator, char_id)

    def log_out(self, char_id: int) -> BackupReport | None:
        """Save a character, then delete it from Redis unless it has changed since.

        Raises CharacterNotSaved, InvalidCharId or ServerUnavailable.
        """
        with self.span("logout", char_id):
            return self.orchestrator.evict(char_id)

    def enqueue_backup(self, char_id: int) -> None:
        """Send the backup task of a character; without a broker the next sweep saves it.

        The log says once that the broker is away, and once that it is back.
        """
        try:
            self._enqueue(char_id)
        except BrokerUnavailable as error:
            self._outages.failed(Work.BACKUP, error)
        else:
            self._outages.succeeded(Work.BACKUP)

    @cached_property
    def _enqueue(self) -> BackupSender:
        return enqueue_backup(self.settings)

    def close(self) -> None:
        """Finish what callers wait for, and close the connections."""
        self.group_commit.close()
        if "_enqueue" in self.__dict__:
            self._enqueue.close()
        self.orchestrator.close()


def log_in(orchestrator: GameStateOrchestrator, char_id: int) -> LoggedIn:
    """Restore a character and its sessions if they are absent, and return them.

    Raises CharacterNotFound, CharacterNotRestored, CharacterNotLoaded, InvalidCharId, CorruptState
    or ServerUnavailable.
    """
    for _ in range(_LOGIN_ROUNDS):
        report = orchestrator.restore_full_state(char_id)
        if report.outcome == RestoreOutcome.NOT_FOUND:
            raise CharacterNotFound(char_id)
        if report.error:
            raise CharacterNotRestored(char_id, report.error)
        try:
            character, sessions = orchestrator.hot.get_full_state(char_id)
        except CharacterNotLoaded:
            continue
        return LoggedIn(character, sessions, report)
    raise not_loaded(char_id, orchestrator.hot.keys.core(char_id))
