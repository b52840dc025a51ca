"""Owns the way in and out of the game: log in, log out, change state."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, NamedTuple, Self

from statesync.errors import (
    BrokerUnavailable,
    CharacterNotFound,
    CharacterNotLoaded,
    CharacterNotRestored,
)
from statesync.game.store import DURABLE_SECONDS, GroupCommit
from statesync.lifecycle.orchestrator import BackupReport, GameStateOrchestrator, RestoreReport
from statesync.settings import Settings
from statesync.state.characters import Character
from statesync.state.sessions import Session

__all__ = ["AsyncLoginService", "LoggedIn", "LoginService"]

log = logging.getLogger(__name__)

_ROUNDS = 10
"""How often a login starts again because somebody evicted the character meanwhile."""


class LoggedIn(NamedTuple):
    """A character that is ready to play, and its sessions by type, as they were at one instant."""

    character: Character
    sessions: dict[str, Session]
    report: RestoreReport
    """What came from where."""


class LoginService:
    """Logs characters in and out, for threads.

    ``enqueue`` sends the backup task of a character; it may raise BrokerUnavailable.
    """

    def __init__(
        self, orchestrator: GameStateOrchestrator, enqueue: Callable[[int], object]
    ) -> None:
        self.orchestrator = orchestrator
        self._enqueue = enqueue
        self._commit = GroupCommit(orchestrator, DURABLE_SECONDS)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Build one on the servers of ``settings``; it connects when it is first used."""
        from statesync.worker.app import enqueue_backup

        return cls(GameStateOrchestrator.from_settings(settings), enqueue_backup(settings))

    def login(self, char_id: int) -> LoggedIn:
        """Restore a character and its sessions where they are absent, and return them.

        Two logins at once end in one state, and a login during a backup or an eviction gets the
        newest. Raises CharacterNotFound, CharacterNotRestored, InvalidCharId, ServerUnavailable,
        or CorruptState where Redis holds what cannot be read.
        """
        report = self.orchestrator.restore_full_state(char_id)
        for _ in range(_ROUNDS):
            if report.outcome == "not_found":
                raise CharacterNotFound(char_id)
            if report.error:
                raise CharacterNotRestored(char_id, report.error)
            try:
                character, sessions = self.orchestrator.hot.get_full_state(char_id)
            except CharacterNotLoaded:
                report = self.orchestrator.restore_full_state(char_id)
            else:
                return LoggedIn(character, sessions, report)
        raise CharacterNotLoaded(char_id)

    def logout(self, char_id: int) -> BackupReport | None:
        """Save a character, then delete it from Redis unless something has changed meanwhile.

        Its sessions stay for who is still in them. None where it was not loaded. Raises
        CharacterNotSaved where it cannot be saved or never stops changing: then it stays; and
        InvalidCharId or ServerUnavailable.
        """
        return self.orchestrator.evict(char_id)

    def change_state(
        self, char_id: int, new_state: str, /, *, durable: bool = False, **fields: Any
    ) -> int:
        """Write a character's state, and other fields as ``HotStore.update`` does, and enqueue its
        backup. Returns its new version. With ``durable`` it saves it here, and returns when
        PostgreSQL has it, or raises NotDurable.

        Where the broker is away the change stays marked, and the next sweep saves it. Raises what
        ``update`` does.
        """
        version = self.orchestrator.hot.update(char_id, state=new_state, **fields)
        if durable:
            self._commit.submit({char_id: version}).result()
            return version
        try:
            self._enqueue(char_id)
        except BrokerUnavailable as error:
            log.warning("character %d is saved by the next sweep: %s", char_id, error)
        return version

    def close(self) -> None:
        """Finish what is waited for, and close all connections."""
        self._commit.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncLoginService:
    """Logs characters in and out, for asyncio: a LoginService whose work is done in threads."""

    def __init__(self, service: LoginService) -> None:
        self._service = service

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Build one on the servers of ``settings``; it connects when it is first used."""
        return cls(LoginService.from_settings(settings))

    async def login(self, char_id: int) -> LoggedIn:
        """Log a character in, as ``LoginService.login`` does."""
        return await asyncio.to_thread(self._service.login, char_id)

    async def logout(self, char_id: int) -> BackupReport | None:
        """Log a character out, as ``LoginService.logout`` does."""
        return await asyncio.to_thread(self._service.logout, char_id)

    async def change_state(
        self, char_id: int, new_state: str, /, *, durable: bool = False, **fields: Any
    ) -> int:
        """Write a character's state and enqueue its backup, as ``LoginService`` does."""
        return await asyncio.to_thread(
            self._service.change_state, char_id, new_state, durable=durable, **fields
        )

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.to_thread(self._service.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
