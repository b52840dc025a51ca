"""Owns conflicts: records the state that only PostgreSQL holds, and raises Redis to its version.

A row that is ahead of Redis means that Redis went back in time: it lost its last writes.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection, Engine, func, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from statesync import durable
from statesync.durable import database
from statesync.durable.database import Rejected, work_of
from statesync.durable.results import Incomplete, Refused
from statesync.durable.tables import session_characters, sessions, state_conflicts
from statesync.errors import CorruptState
from statesync.hot.commands.claims import Claim
from statesync.hot.store import HotStore, unwrap
from statesync.lifecycle.snapshots import Snapshot
from statesync.sessions.base import SessionOrchestrator, check_loaded
from statesync.state.characters import Character, write_character
from statesync.state.sessions import Session

__all__ = ["reconcile"]

log = logging.getLogger(__name__)

_OLDER = "Redis held an older version"


class _SessionAhead(NamedTuple):
    """A session of which PostgreSQL holds a newer version than Redis."""

    snapshot: Snapshot
    """Of the group that it is in."""
    session: Session
    row_version: int


def reconcile(
    hot: HotStore,
    engine: Engine,
    types: Mapping[str, SessionOrchestrator],
    refused: Sequence[Snapshot],
    pending: Mapping[int, Claim],
) -> set[int | UUID]:
    """Raise the cores and sessions of refused snapshots to their rows; return those in conflict.

    What PostgreSQL holds is recorded, durably, before Redis is raised above it. After a crash in
    between it is found and recorded again, as the same entry. A group with a session that its type
    cannot load, or with a row that cannot be read, is marked ``corrupt`` and left alone; so is one
    that meets a lock, as ``locked``. A core that lacks fields of its row gets them.
    """
    try:
        return _reconcile(hot, engine, types, refused, pending)
    except Rejected as error:
        if len(refused) > 1:
            alone = [reconcile(hot, engine, types, [item], pending) for item in refused]
            return set().union(*alone)
        [item] = refused
        if error.locked:
            item.locked = f"its row is in conflict, and locked: {error}"
        else:
            item.corrupt = CorruptState(item.anchor, "", str(error))
        return set()


def _reconcile(
    hot: HotStore,
    engine: Engine,
    types: Mapping[str, SessionOrchestrator],
    refused: Sequence[Snapshot],
    pending: Mapping[int, Claim],
) -> set[int | UUID]:
    """Reconcile in one transaction, as ``reconcile`` says. Raises Rejected."""
    results = {i: r for item in refused if item.result for i, r in item.result.characters.items()}
    claimed = _still_claimed(hot, pending, results)
    ahead = [i for i in claimed if isinstance(results[i], Refused)]
    sessions_ahead = _sessions_ahead(hot, [item for item in refused if item.anchor in claimed])
    incomplete = {i: r.row for i, r in results.items() if isinstance(r, Incomplete)}
    if not ahead and not sessions_ahead and not incomplete:
        return set()
    with database.transaction(engine) as connection:
        _record_characters(connection, ahead)
        for item in sessions_ahead:
            _record_session(connection, types[item.session.session_type], item)
        rows = _load_rows(connection, ahead, refused) | incomplete
    corrupt = {i for item in refused if item.corrupt for i in item.group.characters}
    sessions_ahead = [item for item in sessions_ahead if not item.snapshot.corrupt]
    _raise_versions(hot, {i: row for i, row in rows.items() if i not in corrupt}, sessions_ahead)
    return {*(set(ahead) - corrupt), *(item.session.id for item in sessions_ahead)}


def _load_rows(
    connection: Connection, char_ids: Sequence[int], refused: Sequence[Snapshot]
) -> dict[int, Character]:
    """Return the rows of characters; a snapshot is marked ``corrupt`` if one cannot be read."""
    rows: dict[int, Character] = {}
    for char_id, row in durable.characters.load_each(connection, char_ids).items():
        if isinstance(row, Character):
            rows[char_id] = row
            continue
        for item in refused:
            if char_id in item.group.characters:
                item.corrupt = row
    return rows


def _still_claimed(
    hot: HotStore, pending: Mapping[int, Claim], char_ids: Collection[int]
) -> set[int]:
    """Return the pending characters of ``char_ids`` whose claims are still ours.

    If a claim was lost, another worker saves the character: its newer row is no conflict.
    """
    candidates = [i for i in pending if i in char_ids]
    states = hot.run_many([hot.commands.sync_state(i) for i in candidates])
    return {
        i
        for i, state in zip(candidates, states, strict=True)
        if unwrap(state).token == pending[i].token
    }


def _sessions_ahead(hot: HotStore, refused: Sequence[Snapshot]) -> list[_SessionAhead]:
    """Return the refused sessions of which Redis still holds an older version than PostgreSQL.

    A session that is gone from Redis has ended since the snapshot: it is left out.
    """
    candidates = [
        _SessionAhead(item, item.group.sessions[session_id], result.version)
        for item in refused
        if item.result
        for session_id, result in item.result.sessions.items()
        if isinstance(result, Refused)
    ]
    peeks = hot.run_many(
        [hot.commands.peek_session(s.session_type, s.id) for _, s, _ in candidates]
    )
    return [
        item
        for item, live_version in zip(candidates, map(unwrap, peeks), strict=True)
        if live_version >= 0
        and (live_version < item.row_version or item.session.version == item.row_version)
    ]


def _record_characters(connection: Connection, char_ids: Sequence[int]) -> None:
    for char_id in char_ids:
        log.warning("character %d: PostgreSQL holds a newer state than Redis", char_id)
        durable.characters.record_conflict(connection, char_id, _OLDER)


def _record_session(
    connection: Connection, orchestrator: SessionOrchestrator, ahead: _SessionAhead
) -> None:
    """Copy a session as PostgreSQL holds it, whole, to ``state_conflicts``; each state only once.

    Marks its group ``corrupt`` if its type cannot load it.
    """
    snapshot, session, row_version = ahead
    label = session.ref.label
    log.warning("%s: PostgreSQL holds a newer state than Redis", label)
    try:
        lost = _load_session(connection, orchestrator, session, row_version)
    except Rejected as error:
        snapshot.corrupt = CorruptState(snapshot.anchor, label, str(error))
        return
    state = {
        "session": {"id": str(lost.id), "session_type": lost.session_type, **lost.fields},
        "log": list(lost.log),
    }
    row = {
        # The same character whichever worker finds it, so that the entry is the same.
        "character_id": min(lost.members, default=snapshot.anchor),
        "version": lost.version,
        "reason": f"{label}: {_OLDER}",
        "state": state,
    }
    connection.execute(upsert(state_conflicts).values(row).on_conflict_do_nothing())
    # If we die before the next save, that save compares the whole log.
    durable.sessions.invalidate(connection, [session.id])


def _load_session(
    connection: Connection, orchestrator: SessionOrchestrator, session: Session, row_version: int
) -> Session:
    """Return a session as PostgreSQL holds it, open or not. Raises Rejected if its type fails."""
    with (
        _as_if_open(connection, session.session_type, session.id) as members,
        work_of(f"the session type {session.session_type!r} cannot load it", connection),
    ):
        loaded = orchestrator.load(connection, members)
        check_loaded(loaded)
    found = next((row for row in loaded.values() if row.id == session.id), None)
    return found or replace(session, fields={}, log=(), version=row_version)


@contextmanager
def _as_if_open(connection: Connection, session_type: str, session_id: UUID) -> Iterator[list[int]]:
    """Run a block in which a session is open, and its members are in no other session of its type.

    Gives the characters that ever were in it. So a type's ``load`` finds a session that has ended,
    too. At the end all of this is rolled back, with what the block did.
    """
    inside = session_characters.c.session_id == session_id
    savepoint = connection.begin_nested()
    try:
        query = select(session_characters.c.character_id).where(inside)
        members = sorted(connection.execute(query).scalars())
        memberships = durable.sessions.memberships(connection, members)
        others = [i for _, other_type, i in memberships if other_type == session_type]
        connection.execute(
            update(sessions).where(sessions.c.id.in_(others)).values(closed_at=func.now())
        )
        connection.execute(
            update(sessions).where(sessions.c.id == session_id).values(closed_at=None)
        )
        connection.execute(update(session_characters).where(inside).values(left_at=None))
        yield members
    finally:
        savepoint.rollback()


def _raise_versions(
    hot: HotStore, rows: Mapping[int, Character], sessions_ahead: Sequence[_SessionAhead]
) -> None:
    """Raise live cores to their rows' versions, with the fields that they lack, and sessions."""
    cores = [
        hot.commands.reconcile(char_id, version=row.version, missing=write_character(row.core()))
        for char_id, row in rows.items()
    ]
    live_sessions = [
        hot.commands.reconcile_session(session.session_type, session.id, version=row_version)
        for _, session, row_version in sessions_ahead
    ]
    hot.run_many([*cores, *live_sessions])
