"""Owns the rows that a session of any type has: its version, its members, its end.

The type keeps what a session holds, in ``sessions.payload`` or in tables of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Connection,
    String,
    bindparam,
    case,
    cast,
    func,
    literal,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert

from statesync.durable import memberships
from statesync.durable.database import Rejected
from statesync.durable.fence import Head, RowHead, Verdict, judge_session
from statesync.durable.memberships import CURRENT, OPEN_SESSION, UUID_TEXTS
from statesync.durable.recordset import recordset
from statesync.durable.results import (
    Accepted,
    Behind,
    Busy,
    Raced,
    Saved,
    SessionDecision,
    Unknown,
    WentBack,
)
from statesync.durable.tables import characters, sessions
from statesync.state.references import reference_field
from statesync.state.seals import Seals
from statesync.state.sessions import Session

__all__ = ["decide", "open_sessions", "open_versions", "seals", "write"]

_COLUMNS = ("session_type", "payload", "version", "digest", "closed_at", "seal", "seal_version")
_batch = recordset(sessions, "id", _COLUMNS)

_LOCK = (
    select(
        cast(sessions.c.id, String),
        sessions.c.session_type,
        sessions.c.digest,
        sessions.c.version,
        sessions.c.seal,
        sessions.c.seal_version,
        sessions.c.closed_at.is_not(None),
    )
    .where(sessions.c.id == func.any(bindparam("ids", type_=UUID_TEXTS)))
    .order_by(sessions.c.id)
    .with_for_update()
)
_LOCK_UNLOCKED = _LOCK.with_for_update(skip_locked=True)
_EXISTING = select(sessions.c.id).where(sessions.c.id == func.any(bindparam("ids")))

_INSERT = (
    upsert(sessions)
    .from_select(["id", *_COLUMNS], select(*(_batch.c[name] for name in ("id", *_COLUMNS))))
    .on_conflict_do_nothing(index_elements=["id"])
    .returning(sessions.c.id)
)

_UPDATE = (
    update(sessions)
    .where(sessions.c.id == _batch.c.id)
    .values(
        payload=_batch.c.payload,
        version=_batch.c.version,
        digest=_batch.c.digest,
        seal=_batch.c.seal,
        seal_version=_batch.c.seal_version,
        updated_at=func.now(),
        # A second save of a closed session keeps the time. An open one is open again.
        closed_at=case(
            (
                _batch.c.closed_at.is_not(None),
                func.coalesce(sessions.c.closed_at, _batch.c.closed_at),
            )
        ),
    )
)

_OPEN = (
    select(CURRENT.c.character_id, OPEN_SESSION)
    .join(OPEN_SESSION, literal(value=True))
    .join(characters, characters.c.id == CURRENT.c.character_id)
    .where(OPEN_SESSION.c.session_type == bindparam("session_type"))
    # The last row wins: the session that the core points at; else the newest.
    .order_by(
        characters.c.extra.op("->>")(bindparam("field", type_=String))
        == cast(OPEN_SESSION.c.id, String),
        OPEN_SESSION.c.updated_at,
        OPEN_SESSION.c.id,
    )
)


def decide(
    connection: Connection,
    snapshots: Sequence[Session],
    seals: Mapping[Any, Seals],
    *,
    wait: bool = True,
) -> dict[UUID, SessionDecision]:
    """Lock the rows of sessions and decide what a save may do to each, as ``characters.decide``.

    Raises Rejected if an id is that of a session of another type.
    """
    by_id = {session.ref.id: session for session in snapshots}
    if not by_id:
        return {}
    decided: dict[UUID, SessionDecision] = {}
    lock = _LOCK if wait else _LOCK_UNLOCKED
    for (
        session_id,
        session_type,
        digest,
        version,
        seal,
        seal_version,
        is_closed,
    ) in connection.execute(lock, {"ids": list(by_id)}):
        session = by_id[session_id]
        if session_type != session.session_type:
            message = f"{session.ref.label}: a {session_type} session has this id"
            raise Rejected(message, locked=False)
        head = RowHead(version, seal, seal_version, is_closed)
        is_same = digest == session.digest
        decided[session.id] = _decision(session, seals[session.id], head, is_same=is_same)
    if others := {session.id: session for session in snapshots if session.id not in decided}:
        locked = set(connection.execute(_EXISTING, {"ids": list(others)}).scalars())
        decided |= dict.fromkeys(locked, Busy())
        decided |= {i: _decision(others[i], seals[i], None) for i in others.keys() - locked}
    return decided


def _decision(
    session: Session, seals: Seals, row: RowHead | None, *, is_same: bool = False
) -> SessionDecision:
    """Return what a save may do to the row of a session; None if there is none."""
    verdict = judge_session(Head(session.version, seals.saved_version, seals), row)
    if row is None:
        is_new = verdict is Verdict.NEW
        return Accepted(new=True) if is_new else WentBack(None, is_certain=True)
    if verdict is Verdict.REPEATED:
        return Saved(row.version, changed=True, seal=row.valid_seal)
    if verdict in (Verdict.UNKNOWN, Verdict.WENT_BACK):
        # A digest has no more of a log than its length.
        is_same = is_same and not session.log_length
        unknown = Unknown(row.version, row.valid_seal, same=is_same)
        is_unknown = verdict is Verdict.UNKNOWN
        return unknown if is_unknown else WentBack(unknown, is_certain=True)
    if verdict is Verdict.BEHIND:
        return Behind(row.version)
    # The commit of a snapshot that was taken since may still be on its way.
    is_unchanged = is_same and seals.last in (row.valid_seal, None)
    return Saved(row.version, changed=False, seal=row.valid_seal) if is_unchanged else Accepted()


def write(
    connection: Connection,
    new: Sequence[Session],
    over: Sequence[Session],
    payloads: Mapping[UUID, Any],
    *,
    saved: Collection[int],
    seals: Mapping[Any, Seals],
) -> None:
    """Write the rows of sessions that ``decide`` has accepted, and their members.

    ``over`` are sessions whose rows exist; ``saved`` are the ids of characters that have rows. A
    member without a row joins when the session is next saved. Raises Raced if another worker made
    one of the ``new`` rows meanwhile.
    """
    written = [*new, *over]
    if not written:
        return
    now = None
    if any(session.closed for session in written):
        now = connection.execute(select(func.now())).scalar_one()
    for statement, snapshots in ((_INSERT, new), (_UPDATE, over)):
        if snapshots:
            rows = [_to_row(s, payloads[s.id], now, seals[s.id].own) for s in snapshots]
            result = connection.execute(statement, {"rows": rows})
            if statement is _INSERT and len(result.all()) < len(snapshots):
                raise Raced
    memberships.write(connection, written, saved)


def seals(connection: Connection, session_ids: Iterable[UUID]) -> dict[UUID, int]:
    """Return the seals of sessions whose rows have one, by id."""
    ids = list(session_ids)
    if not ids:
        return {}
    query = select(sessions.c.id, sessions.c.seal).where(
        sessions.c.id == func.any(bindparam("ids")),
        sessions.c.seal.is_not(None),
        sessions.c.seal_version == sessions.c.version,
    )
    return {row.id: row.seal for row in connection.execute(query, {"ids": ids})}


def open_versions(connection: Connection, session_ids: Iterable[UUID]) -> dict[UUID, int]:
    """Return the versions at which sessions are saved, by id; only of those that are open."""
    ids = list(session_ids)
    if not ids:
        return {}
    query = select(sessions.c.id, sessions.c.version).where(
        sessions.c.id == func.any(bindparam("ids")), sessions.c.closed_at.is_(None)
    )
    found = connection.execute(query, {"ids": ids})
    return {row.id: row.version for row in found}


def open_sessions(
    connection: Connection, session_type: str, char_ids: Sequence[int]
) -> dict[int, Session]:
    """Return the open session of a type that each character is in, with the fields of its payload.

    Characters in the same session get the same object.
    """
    parameters = {
        "char_ids": list(char_ids),
        "session_type": session_type,
        "field": reference_field(session_type),
    }
    rows = {row["character_id"]: row for row in connection.execute(_OPEN, parameters).mappings()}
    members_of = memberships.members(connection, {row["id"] for row in rows.values()})
    loaded = {
        row["id"]: Session(
            session_type,
            row["id"],
            {"participants": members_of[row["id"]], **row["payload"]},
            row["version"],
            members=tuple(members_of[row["id"]]),
            foreign=row["digest"] is None,
        )
        for row in rows.values()
    }
    return {char_id: loaded[row["id"]] for char_id, row in rows.items()}


def _to_row(session: Session, payload: Any, now: datetime | None, seal: int) -> dict[str, Any]:
    return {
        "id": session.ref.id,
        "session_type": session.session_type,
        "payload": payload,
        "version": session.version,
        "digest": session.digest,
        "closed_at": now.isoformat() if session.closed and now else None,
        "seal": seal,
        "seal_version": session.version,
    }
