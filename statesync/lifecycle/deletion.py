"""Owns the deletion of a character in both stores.

The order of the steps makes it safe, at any moment and after a crash at any point:

0. **A note in Redis** that it has begun. A row that is deleted without it is of a history that
   Redis has forgotten.
1. **PostgreSQL: ``deleted_at``**, in one transaction with the end of its memberships. This is the
   fence, so it comes first: after its commit no backup writes the row, however late its snapshot
   (``deleted``), and no restore reads it (``not_found``). With Redis first, a login in between
   would bring the character back. A character that was never saved gets a row for this.
2. **Redis: it leaves its sessions**, while its core still says which; the others are marked.
3. **A backup** saves what it left, together with the others, as after any ``leave_session``. It
   also takes over any other worker's claim, and ends it.
4. **Redis: core and marks go**, in one script, with a tombstone that outlives any slow restore.

After a crash the character may be deleted in PostgreSQL and still be in Redis, where nothing of it
is saved any more. Run the deletion again: each step does what is left to do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

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
    SessionNotLoaded,
)
from statesync.hot.store import HotStore
from statesync.state.fields import check_char_id, printable
from statesync.state.outcomes import DeletionOutcome
from statesync.state.references import SessionRef, session_uuid
from statesync.state.session_types import names

__all__ = ["Deletion", "DeletionReport"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DeletionReport:
    """What became of a deletion."""

    char_id: int
    outcome: DeletionOutcome
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
        self._hot.note_deletion(char_id)
        is_loaded = self._hot.peek(char_id) is not None
        try:
            with database.transaction(self._engine) as connection:
                memberships = _delete_row(connection, char_id, is_loaded=is_loaded)
        except database.Rejected as error:
            raise DatabaseUnavailable(f"character {char_id} is locked: {error}") from None
        if memberships is None:
            return DeletionReport(char_id, DeletionOutcome.NOT_FOUND, [])
        left_refs, shared_ids = memberships
        # Read again: until the commit it may have been restored, or have joined a session.
        core = self._hot.peek(char_id)
        pointed_at = _session_refs(core.references) if core else []
        registered = names()
        refs = sorted({*(ref for ref in left_refs if ref.session_type in registered), *pointed_at})
        for ref in refs:
            self._leave(ref, char_id)
        if core:
            self._backup(char_id)
        self._hot.forget(char_id, [ref for ref in refs if ref.id not in shared_ids])
        return DeletionReport(char_id, DeletionOutcome.DELETED, [ref.label for ref in refs])

    def _leave(self, ref: SessionRef, char_id: int) -> None:
        """Take the character out of a session in Redis; if its tie is full, after a backup."""
        try:
            try:
                self._hot.leave_session(*ref, char_id)
            except GroupTooLarge:
                self._backup(char_id)
                self._hot.leave_session(*ref, char_id)
        except (SessionNotFound, SessionNotLoaded, SessionClosed):
            return
        except CorruptState as error:
            log.warning("character %d cannot leave a session: %s", char_id, printable(error))


def _session_refs(references: Mapping[str, str]) -> list[SessionRef]:
    """Return the sessions that a core points at, without texts that are no session ids."""
    refs = []
    for session_type, text in references.items():
        with suppress(InvalidInput):
            refs.append(SessionRef(session_type, session_uuid(text)))
    return refs


def _delete_row(
    connection: Connection, char_id: int, *, is_loaded: bool
) -> tuple[list[SessionRef], set[str]] | None:
    """Set ``deleted_at`` and end the memberships, as ``_end_memberships`` says; None if no row."""
    if not _mark_deleted(connection, char_id, is_loaded=is_loaded):
        return None
    return _end_memberships(connection, char_id)


def _mark_deleted(connection: Connection, char_id: int, *, is_loaded: bool) -> bool:
    """Set ``deleted_at``. False if there is no row; a loaded character gets one."""
    moment = func.coalesce(characters.c.deleted_at, func.now())
    if not is_loaded:
        mark = update(characters).where(characters.c.id == char_id).values(deleted_at=moment)
        return bool(connection.execute(mark).rowcount)
    row = upsert(characters).values(id=char_id, deleted_at=func.now())
    connection.execute(
        row.on_conflict_do_update(index_elements=["id"], set_={"deleted_at": moment})
    )
    return True


def _end_memberships(connection: Connection, char_id: int) -> tuple[list[SessionRef], set[str]]:
    """Take a character out of its open sessions, and close those without another participant.

    Returns these sessions, and the ids of those that stay open.
    """
    mine = (session_characters.c.character_id == char_id) & session_characters.c.left_at.is_(None)
    query = (
        select(sessions.c.session_type, sessions.c.id)
        .where(sessions.c.id.in_(select(session_characters.c.session_id).where(mine)))
        # Backups lock in the same order: characters, sessions by id, memberships.
        .order_by(sessions.c.id)
        .with_for_update()
    )
    open_sessions = [(session_type, i) for session_type, i in connection.execute(query)]
    ids = [session_id for _, session_id in open_sessions]
    connection.execute(update(session_characters).where(mine).values(left_at=func.now()))
    _remove_from_payloads(connection, ids, char_id)
    still_in = select(session_characters.c.session_id).where(
        session_characters.c.session_id.in_(ids), session_characters.c.left_at.is_(None)
    )
    shared = set(connection.execute(still_in).scalars())
    connection.execute(
        update(sessions)
        .where(sessions.c.id.in_(set(ids) - shared), sessions.c.closed_at.is_(None))
        .values(closed_at=func.now())
    )
    refs = [SessionRef(session_type, str(i)) for session_type, i in open_sessions]
    return refs, {str(session_id) for session_id in shared}


def _remove_from_payloads(
    connection: Connection, session_ids: Collection[UUID], char_id: int
) -> None:
    """Remove a character from saved ``participants``: a restore for the others does not name it."""
    participants = sessions.c.payload["participants"]
    others = func.jsonb_path_query_array(
        participants,
        cast("$[*] ? (@ != $id)", JSONPATH),
        func.jsonb_build_object("id", literal(char_id)),
    )
    payload = func.jsonb_set(sessions.c.payload, cast(["participants"], ARRAY(String)), others)
    connection.execute(
        update(sessions)
        .where(sessions.c.id.in_(session_ids), func.jsonb_typeof(participants) == "array")
        .values(payload=payload)
    )
