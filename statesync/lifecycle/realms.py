"""Owns the realms that a process works in: one orchestrator for each, made when it is first asked.

Without realms there is one world, whose name is empty.
"""

from __future__ import annotations

import threading
from typing import NamedTuple, Self

from statesync import durable
from statesync.durable import database
from statesync.durable.moves import Move
from statesync.errors import CharacterNotFound, CharacterNotMoved, InvalidInput
from statesync.hot.exchange import ANSWER_SECONDS
from statesync.lifecycle.move import CharacterMove, Realm
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.settings import Settings
from statesync.state.fields import check_char_id

__all__ = ["Place", "Realms"]


class Place(NamedTuple):
    """What one realm knows of a character."""

    realm: str
    is_live: bool
    """Whether it is in Redis."""
    version: int | None
    """Of its row in PostgreSQL, unless that is deleted."""
    deleted_at: str | None
    """When the row was deleted, or left for another realm."""
    move: Move | None
    """Its last move from here or to here."""

    @property
    def is_known(self) -> bool:
        """Whether the realm knows the character at all."""
        return self.is_live or any(part is not None for part in self[2:])

    @property
    def is_here(self) -> bool:
        """Whether the character can be played in the realm."""
        return self.is_live or self.version is not None


class Realms:
    """The orchestrators of all realms of ``settings``; safe to share by threads.

    It connects to a realm when that is first used; ``close`` or ``with`` ends all connections. They
    wait as long as ``GameStateOrchestrator.from_settings`` says.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        answer_seconds: float = ANSWER_SECONDS,
        database_seconds: float | None = None,
    ) -> None:
        self._settings = {one.realm: one for one in settings.each_realm()}
        self._answer_seconds = answer_seconds
        self._database_seconds = database_seconds
        self._orchestrators: dict[str, GameStateOrchestrator] = {}
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """The names of the realms; one that is empty if there is only one world."""
        return list(self._settings)

    def settings(self, realm: str = "") -> Settings:
        """Return the settings of a realm. Raises InvalidInput if there is no such realm here."""
        # A message may hold anything in its place.
        if isinstance(realm, str) and (found := self._settings.get(realm)):
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
                    settings,
                    answer_seconds=self._answer_seconds,
                    database_seconds=self._database_seconds,
                )
            return self._orchestrators[realm]

    def where(self, char_id: int) -> list[Place]:
        """Return what each realm knows of a character; nothing of those that do not know it.

        Raises InvalidCharId or ServerUnavailable.
        """
        places = (self._look(realm, check_char_id(char_id)) for realm in self.names)
        return [place for place in places if place.is_known]

    def _look(self, realm: str, char_id: int) -> Place:
        orchestrator = self.orchestrator(realm)
        with database.transaction(orchestrator.engine) as connection:
            version = durable.characters.versions(connection, [char_id]).get(char_id)
            deleted_at = durable.characters.deleted_at(connection, char_id)
            move = durable.moves.read(connection, char_id) if realm else None
        is_live = orchestrator.hot.peek(char_id) is not None
        return Place(realm, is_live, version, deleted_at, move)

    def unfinished_moves(self) -> list[Move]:
        """Return the moves that were cut off, or are under way. Raises ServerUnavailable."""
        found: list[Move] = []
        for realm in filter(None, self.names):
            with database.transaction(self.orchestrator(realm).engine) as connection:
                found += durable.moves.unfinished(connection)
        return found

    def move(self, char_id: int, to: str, *, source: str = "") -> Move:
        """Move a character to realm ``to``, or take up such a move that was cut off.

        ``source`` is where it is, which is looked for if not given. It is saved and taken out of
        Redis. Raises CharacterNotFound, CharacterNotMoved, CharacterNotSaved, InvalidInput or
        ServerUnavailable; then run it again.
        """
        self.settings(to)
        if to in ("", source):
            raise InvalidInput("a character moves from one realm to another one")
        source = source or self._source_of(char_id, to)
        there = Realm(to, self.orchestrator(to))
        return CharacterMove(Realm(source, self.orchestrator(source)), there, char_id).run()

    def _source_of(self, char_id: int, to: str) -> str:
        """Return from where a character moves to a realm, or has begun to."""
        places = self.where(char_id)
        moves = [place.move for place in places if place.move and place.move.target == to]
        begun = {move.source for move in moves} & self._settings.keys()
        sources = {place.realm for place in places if place.is_here} - {to} or begun
        if not sources:
            raise CharacterNotFound(char_id)
        if len(sources) > 1:
            names = " and ".join(sorted(sources))
            known = f"realms {names} have one of this id"
            raise CharacterNotMoved(char_id, f"{known}: name the source (--from)")
        return sources.pop()

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
