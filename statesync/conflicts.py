"""Owns conflicts: what Redis has lost and PostgreSQL holds is recorded, and Redis raised to it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from uuid import UUID

from sqlalchemy import Engine

from statesync import codec, database, durable, durable_sessions
from statesync.command import Claim
from statesync.durable import Incomplete, Refused
from statesync.hot import HotStore, done
from statesync.session_codec import Session
from statesync.sessions.base import SessionOrchestrator
from statesync.snapshots import Taken

__all__ = ["reconcile"]

log = logging.getLogger(__name__)


def reconcile(
    hot: HotStore,
    engine: Engine,
    types: Mapping[str, SessionOrchestrator],
    left: Sequence[Taken],
    pending: Mapping[int, Claim],
) -> set[int | UUID]:
    """Bring the cores and sessions of refused and incomplete snapshots up to their rows.

    The losing row is recorded, durably, before the core's version rises above it: a crash in
    between records it again, never not at all.
    """
    results = {i: r for item in left if item.outcome for i, r in item.outcome.characters.items()}
    # Who has lost the claim knows nothing of conflicts any more.
    asked = [i for i in pending if i in results]
    marks = hot.run_many([hot.commands.marks(i) for i in asked])
    ours = {i for i, m in zip(asked, marks, strict=True) if done(m).token == pending[i].token}
    refused = [i for i in ours if isinstance(results[i], Refused)]
    behind = _sessions_behind(hot, [item for item in left if item.anchor in ours])
    if not refused and not behind and not any(isinstance(r, Incomplete) for r in results.values()):
        return set()
    with database.transaction(engine) as connection:
        for char_id in refused:
            log.warning("character %d: PostgreSQL holds a newer state than Redis", char_id)
            durable.record_conflict(connection, char_id, "Redis held an older version")
        for char_id, session, version in behind:
            log.warning("%s: PostgreSQL holds a newer state than Redis", session.name)
            rows = types[session.kind].load(connection, session.members)
            row = next((r for r in rows.values() if r.id == session.id), None)
            lost = row or replace(session, fields={}, log=(), version=version)
            durable_sessions.record_conflict(
                connection, lost, char_id, "Redis held an older version"
            )
        rows_of = durable.load(connection, refused)
    rows_of |= {i: r.row for i, r in results.items() if isinstance(r, Incomplete)}
    cores = [
        hot.commands.reconcile(char_id, row.version, codec.write(row.core()))
        for char_id, row in rows_of.items()
    ]
    raised = [
        hot.commands.reconcile_session(session.kind, session.id, version)
        for _, session, version in behind
    ]
    hot.run_many([*cores, *raised])
    return {*refused, *(session.id for _, session, _ in behind)}


def _sessions_behind(hot: HotStore, left: Sequence[Taken]) -> list[tuple[int, Session, int]]:
    """Return the refused sessions of which Redis holds an older version than PostgreSQL, each
    with one of its characters and the row's version. One that is gone has ended meanwhile."""
    refused = [
        (item.anchor, item.group.sessions[i], result.version)
        for item in left
        if item.outcome
        for i, result in item.outcome.sessions.items()
        if isinstance(result, Refused)
    ]
    looks = hot.run_many([hot.commands.look_session(s.kind, s.id) for _, s, _ in refused])
    return [
        (char_id, session, version)
        for (char_id, session, version), live in zip(refused, map(done, looks), strict=True)
        if 0 <= live < version or (live >= 0 and version == session.version)
    ]
