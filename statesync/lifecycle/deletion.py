"""Owns the deletion of a character in both stores.

The order of the steps is what makes it safe, at any moment and after a crash at any point:

1. **PostgreSQL: ``deleted_at``**, in one transaction with the end of its memberships. It comes
   first because it is the fence: from its commit on no backup writes the row, however late its
   snapshot (``deleted``), and no restore reads it (``not_found``). Redis first, and a login in
   between would bring the character back. Who was never saved gets a row for this.
2. **Redis: it leaves its sessions**, while its core still says which; the others are marked.
3. **A backup**: what it left is saved, together with the others, as with anybody who leaves. It
   also takes the claim from whoever holds it, and ends it.
4. **Redis: core and marks go**, in one script, with a tombstone that outlives any slow restore.

A crash leaves a character that is deleted in PostgreSQL and still in Redis, where nothing of it is
saved any more; run again, every step does what is left to do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, String, cast, func, literal, select, update
from sqlalchemy.dialects.postgresql import ARRAY, JSONPATH
from sqlalchemy.dialects.postgresql import insert as upsert

from statesync.durable import database
from statesync.durable.tables import characters, session_characters, sessions
from statesync.errors import (
    CorruptState,
    DatabaseUnavailable,
    GroupTooLarge,
    InvalidInput,
    SessionClosed,
    SessionNotFound,
)
from statesync.hot.store import HotStore
from statesync.state.fields import check_char_id
from statesync.state.references import session_uuid
from statesync.state.session_types import names

__all__ = ["Deletion", "DeletionReport"]

log = logging.getLogger(__name__)

Reference = tuple[str, str]
"""Type and id of a session."""


@dataclass(frozen=True, slots=True)
class DeletionReport:
    """What became of a deletion."""

    char_id: int
    outcome: str
    """``deleted``, also where it was before; or ``not_found``: on neither side."""
    sessions: list[str]
    """The sessions that it was in, as ``type:session:id``."""


class Deletion:
    """Deletes characters; ``backup`` saves one, as the orchestrator does."""

    def __init__(self, hot: HotStore, engine: Engine, backup: Callable[[int], object]) -> None:
        self._hot = hot
        self._engine = engine
        self._backup = backup

    def run(self, char_id: int) -> DeletionReport:
        """Delete one character. Raises InvalidCharId and ServerUnavailable."""
        check_char_id(char_id)
        loaded = self._hot.peek(char_id)
        try:
            with database.transaction(self._engine) as connection:
                if not _mark_deleted(connection, char_id, known=loaded is not None):
                    return DeletionReport(char_id, "not_found", [])
                inside, shared = _end_memberships(connection, char_id)
        except database.Rejected as error:
            raise DatabaseUnavailable(f"character {char_id} is locked: {error}") from None
        # Read again: it may have been restored, or have joined something, until the commit.
        loaded = self._hot.peek(char_id)
        held = _sessions(loaded.references) if loaded else []
        inside = sorted({*(item for item in inside if item[0] in names()), *held})
        for session_type, session_id in inside:
            self._leave(session_type, session_id, char_id)
        if loaded:
            self._backup(char_id)
        self._hot.forget(char_id, [item for item in inside if item[1] not in shared])
        return DeletionReport(char_id, "deleted", [f"{k}:session:{text}" for k, text in inside])

    def _leave(self, session_type: str, session_id: str, char_id: int) -> None:
        try:
            try:
                self._hot.leave_session(session_type, session_id, char_id)
            except GroupTooLarge:
                self._backup(char_id)
                self._hot.leave_session(session_type, session_id, char_id)
        except (SessionNotFound, SessionClosed):
            return
        except CorruptState as error:
            log.warning("character %d cannot leave a session: %s", char_id, error)


def _sessions(references: Mapping[str, str]) -> list[Reference]:
    """Return those of a core's references that are session ids: nothing else makes a key."""
    found = []
    for session_type, text in references.items():
        with suppress(InvalidInput):
            found.append((session_type, session_uuid(text)))
    return found


def _mark_deleted(connection: Connection, char_id: int, *, known: bool) -> bool:
    """Set ``deleted_at``; False if there is no row. Who is ``known`` without one gets one."""
    moment = func.coalesce(characters.c.deleted_at, func.now())
    if not known:
        there = update(characters).where(characters.c.id == char_id).values(deleted_at=moment)
        return bool(connection.execute(there).rowcount)
    row = upsert(characters).values(id=char_id, deleted_at=func.now())
    connection.execute(
        row.on_conflict_do_update(index_elements=["id"], set_={"deleted_at": moment})
    )
    return True


def _end_memberships(connection: Connection, char_id: int) -> tuple[list[Reference], set[str]]:
    """Take a character out of its open sessions. Returns them, and the ids of those that somebody
    else is in; the others close."""
    mine = (session_characters.c.character_id == char_id) & session_characters.c.left_at.is_(None)
    query = (
        select(sessions.c.session_type, sessions.c.id)
        .where(sessions.c.id.in_(select(session_characters.c.session_id).where(mine)))
        # In the order in which backups lock them: characters, sessions, who is in them.
        .order_by(sessions.c.id)
        .with_for_update()
    )
    found = [(session_type, session_id) for session_type, session_id in connection.execute(query)]
    ids = [session_id for _, session_id in found]
    connection.execute(update(session_characters).where(mine).values(left_at=func.now()))
    # What a restore for the others brings back names it no more.
    named = sessions.c.payload["participants"]
    others = func.jsonb_path_query_array(
        named, cast("$[*] ? (@ != $id)", JSONPATH), func.jsonb_build_object("id", literal(char_id))
    )
    unnamed = func.jsonb_set(sessions.c.payload, cast(["participants"], ARRAY(String)), others)
    connection.execute(
        update(sessions)
        .where(sessions.c.id.in_(ids), func.jsonb_typeof(named) == "array")
        .values(payload=unnamed)
    )
    still_in = select(session_characters.c.session_id).where(
        session_characters.c.session_id.in_(ids), session_characters.c.left_at.is_(None)
    )
    shared = set(connection.execute(still_in).scalars())
    connection.execute(
        update(sessions)
        .where(sessions.c.id.in_(set(ids) - shared), sessions.c.closed_at.is_(None))
        .values(closed_at=func.now())
    )
    return [(session_type, str(session_id)) for session_type, session_id in found], {
        str(i) for i in shared
    }
