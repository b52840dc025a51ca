"""Owns what both stores have of one character."""

from __future__ import annotations

from dataclasses import dataclass, field

from statesync import durable
from statesync.durable import database
from statesync.errors import CharacterNotLoaded, CorruptState
from statesync.hot.commands.operators import SyncState
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.lifecycle.unknown_types import unknown_sessions_of
from statesync.state.characters import Character
from statesync.state.references import SessionRef
from statesync.state.sessions import Session

__all__ = ["Inspected", "Side", "inspect", "is_same"]


@dataclass(slots=True)
class Side:
    """A character and its sessions, by type, in one of the two stores."""

    character: Character | None = None
    sessions: dict[str, Session] = field(default_factory=dict)

    def rows(self) -> dict[str, object]:
        """Return what to show, by the name of the row."""
        if self.character is None:
            return {}
        rows = self.character.core() | {"version": self.character.version}
        for session_type, session in self.sessions.items():
            for name, value in session.fields.items():
                rows[f"{session_type}: {name}"] = value
            rows[f"{session_type}: version"] = session.version
            if session.log_length:
                rows[f"{session_type}: log"] = f"{session.log_length} entries"
        return rows


@dataclass(slots=True)
class Inspected:
    """What both stores have of one character, and its marks."""

    char_id: int
    redis: Side
    redis_error: CorruptState | None
    postgresql: Side
    postgresql_error: Exception | None
    sync_state: SyncState
    deleted_at: str | None = None
    """When its row was deleted, if it is."""
    unknown_sessions: list[SessionRef] = field(default_factory=list)
    """Live ones, of types that are not registered here."""


def inspect(orchestrator: GameStateOrchestrator, char_id: int) -> Inspected:
    """Read a character, its sessions and its marks on both sides.

    Raises ServerUnavailable.
    """
    hot = orchestrator.hot
    sync_state = hot.sync_state(char_id)
    redis, redis_error = Side(), None
    try:
        redis = Side(*hot.get_full_state(char_id))
    except CharacterNotLoaded:
        pass
    except CorruptState as error:
        redis_error = error
    postgresql, postgresql_error = Side(), None
    try:
        _read_postgresql(orchestrator, char_id, postgresql)
    except (CorruptState, database.Rejected) as error:
        postgresql_error = error
    deleted_at = None
    if postgresql.character is None and postgresql_error is None:
        with database.transaction(orchestrator.engine) as connection:
            deleted_at = durable.characters.deleted_at(connection, char_id)
    unknown = unknown_sessions_of(hot, [str(char_id)]).get(str(char_id), [])
    errors = (redis_error, postgresql, postgresql_error)
    return Inspected(char_id, redis, *errors, sync_state, deleted_at, unknown)


def _read_postgresql(orchestrator: GameStateOrchestrator, char_id: int, side: Side) -> None:
    """Read what PostgreSQL has. Raises CorruptState or Rejected if it cannot be read."""
    with database.transaction(orchestrator.engine) as connection:
        side.character = durable.characters.load(connection, [char_id]).get(char_id)
        for session_type, sessions in orchestrator.sessions.items():
            problem = f"the session type {session_type!r} cannot load it"
            with database.work_of(problem, connection):
                if session := sessions.load(connection, [char_id]).get(char_id):
                    side.sessions[session_type] = session


def is_same(one: object, other: object) -> bool:
    """Return whether two values are the same JSON; PostgreSQL has its own order of keys."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(is_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and one == other
