"""Owns conflicts: what Redis has lost and PostgreSQL holds is recorded, and Redis raised to it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from uuid import UUID

from sqlalchemy import Connection, Engine, func, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from statesync import durable
from statesync.durable import database
from statesync.durable.characters import Incomplete, Refused
from statesync.durable.database import Rejected, work_of
from statesync.durable.tables import session_characters, sessions, state_conflicts
from statesync.errors import CorruptState
from statesync.hot.commands.claims import Claim
from statesync.hot.store import HotStore, unwrap
from statesync.lifecycle.snapshots import Snapshot
from statesync.sessions.base import SessionOrchestrator
from statesync.state.characters import write_character
from statesync.state.sessions import Session

__all__ = ["reconcile"]

log = logging.getLogger(__name__)

_OLDER = "Redis held an older version"


def reconcile(
    hot: HotStore,
    engine: Engine,
    types: Mapping[str, SessionOrchestrator],
    left: Sequence[Snapshot],
    pending: Mapping[int, Claim],
) -> set[int | UUID]:
    """Bring the cores and sessions of refused and incomplete snapshots up to their rows.

    The losing row is recorded, durably, before the core's version rises above it: a crash in
    between records it again, never not at all. A group whose losing session cannot be loaded is
    marked ``corrupt`` and left alone.
    """
    results = {i: r for item in left if item.outcome for i, r in item.outcome.characters.items()}
    # Who has lost the claim knows nothing of conflicts any more.
    asked = [i for i in pending if i in results]
    marks = hot.run_many([hot.commands.sync_state(i) for i in asked])
    ours = {i for i, m in zip(asked, marks, strict=True) if unwrap(m).token == pending[i].token}
    refused = [i for i in ours if isinstance(results[i], Refused)]
    behind = _sessions_behind(hot, [item for item in left if item.anchor in ours])
    if not refused and not behind and not any(isinstance(r, Incomplete) for r in results.values()):
        return set()
    with database.transaction(engine) as connection:
        for char_id in refused:
            log.warning("character %d: PostgreSQL holds a newer state than Redis", char_id)
            durable.characters.record_conflict(connection, char_id, _OLDER)
        for item, session, version in behind:
            log.warning("%s: PostgreSQL holds a newer state than Redis", session.name)
            try:
                lost = _losing(connection, types[session.session_type], session, version)
            except Rejected as error:
                item.corrupt = CorruptState(item.anchor, session.name, str(error))
                continue
            whose = min(lost.members, default=item.anchor)  # the same, whoever finds it
            _record(connection, lost, whose)
            # Should we die before the next save, that one compares the whole log.
            durable.sessions.invalidate(connection, [session.id])
        rows_of = durable.characters.load(connection, refused)
    rows_of |= {i: r.row for i, r in results.items() if isinstance(r, Incomplete)}
    broken = {i for item in left if item.corrupt for i in item.group.characters}
    behind = [one for one in behind if not one[0].corrupt]
    cores = [
        hot.commands.reconcile(char_id, version=row.version, missing=write_character(row.core()))
        for char_id, row in rows_of.items()
        if char_id not in broken
    ]
    raised = [
        hot.commands.reconcile_session(session.session_type, session.id, version=version)
        for _, session, version in behind
    ]
    hot.run_many([*cores, *raised])
    return {*(set(refused) - broken), *(session.id for _, session, _ in behind)}


def _losing(
    connection: Connection, session_type: SessionOrchestrator, session: Session, version: int
) -> Session:
    """Return a session as PostgreSQL holds it, open or not. Raises Rejected if its type fails."""
    with (
        _as_if_open(connection, session.session_type, session.id) as members,
        work_of(f"the session type {session.session_type!r} cannot load it", connection),
    ):
        rows = session_type.load(connection, members)
    row = next((row for row in rows.values() if row.id == session.id), None)
    return row or replace(session, fields={}, log=(), version=version)


@contextmanager
def _as_if_open(connection: Connection, session_type: str, session_id: UUID) -> Iterator[list[int]]:
    """Run a block in which a session is open, and the only one of whoever ever was in it.

    Gives these characters. A type's ``load`` finds it then, also where it has ended. Nothing of
    this, nor of what the block does, is kept.
    """
    inside = session_characters.c.session_id == session_id
    savepoint = connection.begin_nested()
    try:
        query = select(session_characters.c.character_id).where(inside)
        members = sorted(connection.execute(query).scalars())
        known = durable.sessions.memberships(connection, members)
        others = [i for _, its_kind, i in known if its_kind == session_type]
        end = update(sessions).where(sessions.c.id.in_(others)).values(closed_at=func.now())
        connection.execute(end)
        connection.execute(
            update(sessions).where(sessions.c.id == session_id).values(closed_at=None)
        )
        connection.execute(update(session_characters).where(inside).values(left_at=None))
        yield members
    finally:
        savepoint.rollback()


def _record(connection: Connection, session: Session, char_id: int) -> None:
    """Copy a session, whole, to ``state_conflicts``; the same state only once."""
    state = {
        "session": {"id": str(session.id), "session_type": session.session_type, **session.fields},
        "log": list(session.log),
    }
    row = {
        "character_id": char_id,
        "version": session.version,
        "reason": f"{session.name}: {_OLDER}",
        "state": state,
    }
    connection.execute(upsert(state_conflicts).values(row).on_conflict_do_nothing())


def _sessions_behind(
    hot: HotStore, left: Sequence[Snapshot]
) -> list[tuple[Snapshot, Session, int]]:
    """Return the refused sessions of which Redis holds an older version than PostgreSQL, each
    with its group and the row's version. One that is gone has ended meanwhile."""
    refused = [
        (item, item.group.sessions[i], result.version)
        for item in left
        if item.outcome
        for i, result in item.outcome.sessions.items()
        if isinstance(result, Refused)
    ]
    peeks = hot.run_many([hot.commands.peek_session(s.session_type, s.id) for _, s, _ in refused])
    return [
        (item, session, version)
        for (item, session, version), live in zip(refused, map(unwrap, peeks), strict=True)
        if 0 <= live < version or (live >= 0 and version == session.version)
    ]
