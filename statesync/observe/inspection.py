"""Owns what both stores have of one character, and what differs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from statesync import durable
from statesync.durable import database
from statesync.errors import CharacterNotLoaded, CorruptState, NotMigrated, ServerUnavailable
from statesync.hot.commands.operators import SyncState
from statesync.hot.store import HotStore
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.lifecycle.unknown_types import unknown_sessions_of
from statesync.state.characters import Character
from statesync.state.fields import TIE_FIELD, dump_json, load_json
from statesync.state.references import SessionRef
from statesync.state.sessions import Session

__all__ = ["Compared", "Inspected", "Side", "compare", "inspect"]

ABSENT = "-"
"""Stands for a field that a side does not have."""


@dataclass(slots=True)
class Side:
    """A character and its sessions, by type, in one of the two stores."""

    character: Character | None = None
    sessions: dict[str, Session] = field(default_factory=dict)
    error: str = ""
    """Why it could not be read, or not all of it."""
    fields: dict[str, str] = field(default_factory=dict)
    """If it is no character as it is, what Redis holds of its core."""
    is_away: bool = False
    """The server did not answer: nobody knows what is there."""

    def rows(self) -> dict[str, object]:
        """Return what to show, by the name of the row."""
        if self.character is None:
            return {name: _value(name, text) for name, text in self.fields.items()}
        rows = self.character.core() | {"version": self.character.version}
        for session_type, session in self.sessions.items():
            for name, value in session.fields.items():
                rows[f"{session_type}: {name}"] = value
            rows[f"{session_type}: version"] = session.version
            if session.log_length:
                rows[f"{session_type}: log"] = f"{session.log_length} entries"
        return rows


class Compared(NamedTuple):
    """A field as each side has it, in words; what may be a player's words is not escaped."""

    name: str
    redis: str
    postgresql: str
    differs: bool
    """The sides do not have the same; what only one has differs if both could be read whole."""


@dataclass(slots=True)
class Inspected:
    """What both stores have of one character, and its marks."""

    char_id: int
    redis: Side = field(default_factory=Side)
    postgresql: Side = field(default_factory=Side)
    sync_state: SyncState | None = None
    """Its marks; None if Redis is away."""
    deleted_at: str | None = None
    """When its row was deleted, if it is."""
    unknown_sessions: list[SessionRef] = field(default_factory=list)
    """Live ones, of types that are not registered here."""

    @property
    def sides(self) -> tuple[Side, Side]:
        """Redis' and PostgreSQL's."""
        return self.redis, self.postgresql

    @property
    def is_nowhere(self) -> bool:
        """Whether it is known to be on neither side."""
        return not any(side.character or side.error for side in self.sides)

    def compared(self) -> list[Compared]:
        """Return all fields, side by side."""
        is_whole = not any(side.error for side in self.sides)
        return compare(self.redis.rows(), self.postgresql.rows(), is_whole=is_whole)


def compare(
    redis: Mapping[str, object], postgresql: Mapping[str, object], *, is_whole: bool = True
) -> list[Compared]:
    """Return all fields of two sides; what only one has differs if both are whole."""
    return [
        Compared(
            name,
            _text(redis.get(name, ABSENT)),
            _text(postgresql.get(name, ABSENT)),
            (is_whole or (name in redis and name in postgresql))
            and not _is_same(redis.get(name, ABSENT), postgresql.get(name, ABSENT)),
        )
        for name in dict.fromkeys([*redis, *postgresql])
    ]


def inspect(orchestrator: GameStateOrchestrator, char_id: int) -> Inspected:
    """Read a character, its sessions and its marks on both sides; one of them may be away."""
    found = Inspected(char_id)
    try:
        _read_redis(orchestrator.hot, found)
    except CorruptState as error:
        found.redis.error = str(error)
    except ServerUnavailable as error:
        found.redis.error, found.redis.is_away = str(error), True
    try:
        _read_postgresql(orchestrator, found)
    except (CorruptState, database.Rejected) as error:
        found.postgresql.error = str(error)
    except (ServerUnavailable, NotMigrated) as error:
        found.postgresql.error, found.postgresql.is_away = str(error), True
    return found


def _read_redis(hot: HotStore, found: Inspected) -> None:
    """Read what Redis has. Raises CorruptState if the character cannot be read, the marks can."""
    found.sync_state = hot.sync_state(found.char_id)
    name = str(found.char_id)
    found.unknown_sessions = unknown_sessions_of(hot, [name]).get(name, [])
    try:
        found.redis.character, found.redis.sessions = hot.get_full_state(found.char_id)
    except CharacterNotLoaded:
        return
    except CorruptState:
        with suppress(CorruptState):  # it is no hash
            fields = hot.read_fields(found.char_id)
            found.redis.fields = {name: fields[name] for name in fields if name != TIE_FIELD}
        raise


def _read_postgresql(orchestrator: GameStateOrchestrator, found: Inspected) -> None:
    """Read what PostgreSQL has. Raises CorruptState or Rejected if it cannot be read."""
    char_id, side = found.char_id, found.postgresql
    with database.transaction(orchestrator.engine) as connection:
        side.character = durable.characters.load(connection, [char_id]).get(char_id)
        if side.character is None:
            found.deleted_at = durable.characters.deleted_at(connection, char_id)
        for session_type, sessions in orchestrator.sessions.items():
            problem = f"the session type {session_type!r} cannot load it"
            with database.work_of(problem, connection):
                if session := sessions.load(connection, [char_id]).get(char_id):
                    side.sessions[session_type] = session


def _is_same(one: object, other: object) -> bool:
    """Return whether two values are the same JSON; PostgreSQL has its own order of keys."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _value(name: str, text: str) -> object:
    """Return what a field of a core means: JSON, or the text itself; what a game owns is a text."""
    try:
        value = load_json(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict | list) or name == "version" else text


def _text(value: object) -> str:
    return value if isinstance(value, str) else dump_json(value)
