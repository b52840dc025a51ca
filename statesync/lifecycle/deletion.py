"""Owns the deletion of a character in both stores.

The order of the steps makes it safe, at any moment and after a crash at any point:

0. **A note in Redis** that it has begun. A row that is deleted without it is of a history that
   Redis has forgotten. And a claim, so that no sweep meets a character that is half deleted.
1. **PostgreSQL: ``deleted_at``**, in one transaction with the end of its memberships. This is the
   fence, so it comes first: after its commit no backup writes the row, however late its snapshot
   (``deleted``), and no restore reads it (``not_found``). With Redis first, a login in between
   would bring the character back. A character that was never saved gets a row for this.
2. **Redis: it leaves its sessions**, while its core still says which; the others are marked.
3. **A backup** saves what it left, together with the others, as after any ``leave_session``. It
   also takes over any other worker's claim, and ends it.
4. **Redis: core and marks go**, in one script, with a tombstone that outlives any slow restore.

A process that lacks the type of a live session of the character refuses: it could not take the
character out of it, and the next save by another process would bring its membership back.

After a crash the character may be deleted in PostgreSQL and still be in Redis, where nothing of it
is saved any more, nor of those who play or trade with it: they are in quarantine. Run the deletion
again: each step does what is left to do, and the backup saves the others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    String,
    cast,
    func,
    literal,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONPATH
from sqlalchemy.dialects.postgresql import insert as upsert

from statesync.durable import database, moves
from statesync.durable.memberships import Membership
from statesync.durable.tables import characters, session_characters, sessions
from statesync.errors import (
    CharacterMoved,
    CharacterNotLoaded,
    CorruptState,
    DatabaseUnavailable,
    GroupTooLarge,
    InvalidInput,
    ServerUnavailable,
    SessionClosed,
    SessionNotFound,
    SessionNotLoaded,
    UnknownSessionType,
)
from statesync.hot.commands.claims import Claim
from statesync.hot.commands.seals import Withdrawn
from statesync.hot.store import HotStore
from statesync.lifecycle.claims import release
from statesync.sessions.base import SessionOrchestrator, pass_on
from statesync.state.fields import check_char_id, printable
from statesync.state.outcomes import DeletionOutcome
from statesync.state.references import SessionRef, session_uuid
from statesync.state.seals import DELETED
from statesync.state.session_types import names
from statesync.state.sessions import unknown_references

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

    def __init__(
        self,
        hot: HotStore,
        engine: Engine,
        types: Mapping[str, SessionOrchestrator],
        backup: Callable[[int], object],
        *,
        lease_us: int,
    ) -> None:
        self._hot = hot
        self._engine = engine
        self._types = types
        self._backup = backup
        self._lease_us = lease_us

    def run(self, char_id: int) -> DeletionReport:
        """Delete one character.

        Raises CharacterMoved, InvalidCharId, UnknownSessionType or ServerUnavailable.
        """
        check_char_id(char_id)
        is_loaded = self._hot.peek(char_id) is not None
        if is_loaded:
            self._check_types(self._unknown_references(char_id))
        is_new_note = self._hot.note_deletion(char_id)
        # Sweeps leave a claimed character alone: to them it would be played although it is deleted.
        claim, _ = self._hot.claim(char_id, lease_us=self._lease_us)
        try:
            memberships = self._delete_row(char_id, is_loaded=is_loaded)
        except (database.Rejected, CharacterMoved, UnknownSessionType) as error:
            self._give_up(claim, takes_note_back=is_new_note)
            if not isinstance(error, database.Rejected):
                raise
            reason = f"character {char_id} cannot be deleted now: {error}"
            raise DatabaseUnavailable(reason) from None
        except BaseException:  # the row may be deleted
            self._give_up(claim)
            raise
        if memberships is None:
            self._give_up(claim, takes_note_back=is_new_note)
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

    def _unknown_references(self, char_id: int) -> list[SessionRef]:
        """Return what a core points at of types that are not registered, if it can be read."""
        try:
            return unknown_references(self._hot.get(char_id).fields)
        except (CharacterNotLoaded, CorruptState):
            return []

    def _check_types(self, refs: Iterable[SessionRef]) -> None:
        """Refuse what is in a live session of a type that is not registered here."""
        for ref in refs:
            if ref.session_type not in self._types and self._hot.peek_session(*ref) >= 0:
                raise UnknownSessionType(ref.label)

    def _delete_row(
        self, char_id: int, *, is_loaded: bool
    ) -> tuple[list[SessionRef], set[str]] | None:
        """Set ``deleted_at`` and end the memberships; None if there is no row.

        Returns the open sessions that it was in, and the ids of those that stay open. Nothing is
        done if it raises Rejected, CharacterMoved or UnknownSessionType.
        """
        with database.transaction(self._engine) as connection:
            if not _mark_deleted(connection, char_id, is_loaded=is_loaded):
                return None
            target = moves.left_to(connection, char_id)
            # What Redis holds nevertheless is of before the move, and is to be cleared.
            if target and self._hot.peek(char_id) is None:
                raise CharacterMoved(char_id, target)
            moves.end(connection, char_id)
            refs = _open_sessions(connection, char_id)
            self._check_types(refs)
            shared_ids = _end_memberships(connection, char_id, [UUID(ref.id) for ref in refs])
            left = [Membership(char_id, ref.session_type, UUID(ref.id)) for ref in refs]
            pass_on(connection, self._types, left)
            return refs, shared_ids

    def _give_up(self, claim: Claim, *, takes_note_back: bool = False) -> None:
        """End the claim. The note stays if the row may be deleted, or it is an earlier run's."""
        with suppress(ServerUnavailable):  # then the lease ends, and the note does no harm
            if takes_note_back:
                self._hot.withdraw([Withdrawn(DELETED, [claim])])
        release(self._hot, [claim])

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
            of_line = {"char_id": char_id, "session": ref.label, "error": str(error)}
            shown = printable(error)
            log.warning("character %d cannot leave a session: %s", char_id, shown, extra=of_line)


def _session_refs(references: Mapping[str, str]) -> list[SessionRef]:
    """Return the sessions that a core points at, without texts that are no session ids."""
    refs = []
    for session_type, text in references.items():
        with suppress(InvalidInput):
            refs.append(SessionRef(session_type, session_uuid(text)))
    return refs


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


def _open_sessions(connection: Connection, char_id: int) -> list[SessionRef]:
    """Lock the open sessions that a character is in, and return them."""
    query = (
        select(sessions.c.session_type, sessions.c.id)
        .where(sessions.c.id.in_(select(session_characters.c.session_id).where(_is_in(char_id))))
        # Backups lock in the same order: characters, sessions by id, memberships.
        .order_by(sessions.c.id)
        .with_for_update()
    )
    return [SessionRef(session_type, str(i)) for session_type, i in connection.execute(query)]


def _is_in(char_id: int) -> ColumnElement[bool]:
    mine = session_characters.c.character_id == char_id
    return mine & session_characters.c.left_at.is_(None)


def _end_memberships(
    connection: Connection, char_id: int, session_ids: Collection[UUID]
) -> set[str]:
    """Take a character out of its open sessions, and close those without another participant.

    Returns the ids of those that stay open.
    """
    connection.execute(update(session_characters).where(_is_in(char_id)).values(left_at=func.now()))
    _remove_from_payloads(connection, session_ids, char_id)
    still_in = select(session_characters.c.session_id).where(
        session_characters.c.session_id.in_(session_ids), session_characters.c.left_at.is_(None)
    )
    shared = set(connection.execute(still_in).scalars())
    connection.execute(
        update(sessions)
        .where(sessions.c.id.in_(set(session_ids) - shared), sessions.c.closed_at.is_(None))
        .values(closed_at=func.now())
    )
    return {str(session_id) for session_id in shared}


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
