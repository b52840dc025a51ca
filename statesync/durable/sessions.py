"""Owns the rows that a session of any type has: its version, its members, its end.

The type keeps what a session holds, in ``sessions.payload`` or in tables of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
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

from statesync.durable.database import Rejected
from statesync.durable.recordset import recordset
from statesync.durable.results import Accepted, Busy, Raced, Refused, Saved, SessionDecision
from statesync.durable.tables import characters, session_characters, sessions
from statesync.state.references import reference_field
from statesync.state.sessions import Session

__all__ = [
    "Membership",
    "decide",
    "end_memberships",
    "having_open",
    "invalidate",
    "invalidated",
    "memberships",
    "open_sessions",
    "versions",
    "write",
]

_COLUMNS = ("session_type", "payload", "version", "digest", "closed_at")
_batch = recordset(sessions, "id", _COLUMNS)
_member_batch = recordset(session_characters, "session_id", ("character_id",))

_LOCK = (
    select(sessions.c.id, sessions.c.version, sessions.c.digest, sessions.c.session_type)
    .where(sessions.c.id == func.any(bindparam("ids")))
    .order_by(sessions.c.id)
    .with_for_update()
)

_INSERT = (
    upsert(sessions)
    .from_select(["id", *_COLUMNS], select(*(_batch.c[name] for name in ("id", *_COLUMNS))))
    .on_conflict_do_nothing()
    .returning(sessions.c.id)
)

_UPDATE = (
    update(sessions)
    .where(sessions.c.id == _batch.c.id)
    .values(
        payload=_batch.c.payload,
        version=_batch.c.version,
        digest=_batch.c.digest,
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

_JOIN_BATCH = (
    upsert(session_characters)
    .from_select(
        ["session_id", "character_id"],
        # A character without a row cannot be named here; the payload names it.
        select(_member_batch.c.session_id, _member_batch.c.character_id)
        .join(characters, characters.c.id == _member_batch.c.character_id)
        .order_by(_member_batch.c.session_id, _member_batch.c.character_id),
    )
    .on_conflict_do_update(
        index_elements=["session_id", "character_id"],
        set_={"left_at": None},
        where=session_characters.c.left_at.is_not(None),
    )
)

_LEAVE_UNLESS_IN_BATCH = (
    update(session_characters)
    .where(
        session_characters.c.session_id == func.any(bindparam("ids")),
        session_characters.c.left_at.is_(None),
        ~select(literal(1))
        .where(
            _member_batch.c.session_id == session_characters.c.session_id,
            _member_batch.c.character_id == session_characters.c.character_id,
        )
        .exists(),
    )
    .values(left_at=func.now())
)

_LEAVE_BATCH = (
    update(session_characters)
    .where(
        session_characters.c.session_id == _member_batch.c.session_id,
        session_characters.c.character_id == _member_batch.c.character_id,
    )
    .values(left_at=func.now())
)
_CLOSE_EMPTY = (
    update(sessions)
    .where(
        sessions.c.id == func.any(bindparam("ids")),
        ~select(literal(1))
        .where(
            session_characters.c.session_id == sessions.c.id,
            session_characters.c.left_at.is_(None),
        )
        .exists(),
    )
    .values(closed_at=func.now())
)

_INVALID = ""
"""A digest that equals no session's."""
_INVALIDATE = (
    update(sessions).where(sessions.c.id == func.any(bindparam("ids"))).values(digest=_INVALID)
)
_WITH_UNSAVED_MEMBERS = (
    select(_member_batch.c.session_id)
    .join(characters, characters.c.id == _member_batch.c.character_id, isouter=True)
    .where(characters.c.id.is_(None))
)

_current = (
    select(session_characters.c.character_id, session_characters.c.session_id)
    .where(
        session_characters.c.character_id == func.any(bindparam("char_ids")),
        session_characters.c.left_at.is_(None),
    )
    .subquery("current")
)
# OFFSET 0 makes PostgreSQL look up each session by its id. Without it, and while PostgreSQL has no
# statistics of the tables, each character would cost a scan of all sessions.
_open_session = (
    select(sessions)
    .where(sessions.c.id == _current.c.session_id, sessions.c.closed_at.is_(None))
    .offset(0)
    .lateral("open")
)
_MEMBERSHIPS = select(
    _current.c.character_id, _open_session.c.session_type, _open_session.c.id
).join(_open_session, literal(value=True))
_OPEN = (
    select(_current.c.character_id, _open_session)
    .join(_open_session, literal(value=True))
    .join(characters, characters.c.id == _current.c.character_id)
    .where(_open_session.c.session_type == bindparam("session_type"))
    # The last row wins: the session that the core points at; else the newest.
    .order_by(
        characters.c.extra.op("->>")(bindparam("field", type_=String))
        == cast(_open_session.c.id, String),
        _open_session.c.updated_at,
        _open_session.c.id,
    )
)


class Membership(NamedTuple):
    """A character in an open session."""

    char_id: int
    session_type: str
    session_id: UUID


def decide(
    connection: Connection, snapshots: Sequence[Session], *, wait: bool = True
) -> dict[UUID, SessionDecision]:
    """Lock the rows of sessions and decide what a save may do to each, as ``characters.decide``.

    Raises Rejected if an id is that of a session of another type.
    """
    by_id = {session.id: session for session in snapshots}
    if not by_id:
        return {}
    query = select(sessions.c.id).where(sessions.c.id == func.any(bindparam("ids")))
    existing = set(connection.execute(query, {"ids": list(by_id)}).scalars())
    decided: dict[UUID, SessionDecision] = {}
    decided |= dict.fromkeys(existing, Busy())
    decided |= dict.fromkeys(by_id.keys() - existing, Accepted(new=True))
    lock = _LOCK if wait else _LOCK.with_for_update(skip_locked=True)
    rows = connection.execute(lock, {"ids": list(existing)})
    for session_id, version, digest, session_type in rows:
        session = by_id[session_id]
        if session_type != session.session_type:
            message = f"{session.ref.label}: a {session_type} session has this id"
            raise Rejected(message, locked=False)
        same = digest == session.digest()
        if version > session.version or (version == session.version and not same):
            decided[session_id] = Refused(version)
        elif same:
            decided[session_id] = Saved(version, changed=version == session.version)
        else:
            decided[session_id] = Accepted()
    return decided


def write(
    connection: Connection,
    new: Sequence[Session],
    over: Sequence[Session],
    payloads: Mapping[UUID, Mapping[str, Any]],
    saved: Collection[int],
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
            rows = [_to_row(session, payloads[session.id], now) for session in snapshots]
            result = connection.execute(statement, {"rows": rows})
            if statement is _INSERT and len(result.all()) < len(snapshots):
                raise Raced
    _write_members(connection, written, saved)


def _write_members(
    connection: Connection, written: Sequence[Session], saved: Collection[int]
) -> None:
    members = [
        {"session_id": session.id, "character_id": char_id}
        for session in written
        for char_id in session.members
    ]
    closed = {session.id for session in written if session.closed}
    staying = [member for member in members if member["session_id"] not in closed]
    # The members of a closed session join and leave, so that its rows say who was in it.
    connection.execute(_JOIN_BATCH, {"rows": members})
    ids = [session.id for session in written]
    connection.execute(_LEAVE_UNLESS_IN_BATCH, {"ids": ids, "rows": staying})
    if elsewhere := [member for member in members if member["character_id"] not in saved]:
        unsaved = connection.execute(_WITH_UNSAVED_MEMBERS, {"rows": elsewhere})
        invalidate(connection, unsaved.scalars().all())


def end_memberships(
    connection: Connection,
    references: Mapping[int, Collection[str]],
    type_names: Collection[str],
    saved: Iterable[UUID],
) -> None:
    """Take characters out of the sessions that their cores do not point at any more.

    ``references`` are the session ids that each core points at. ``saved`` are sessions whose own
    snapshot says who is in them; they are left alone, as are types not in ``type_names``. A session
    that has lost its last member is closed.
    """
    skipped = set(saved)
    ended = [
        membership
        for membership in memberships(connection, list(references))
        if membership.session_type in type_names
        and membership.session_id not in skipped
        and str(membership.session_id) not in references[membership.char_id]
    ]
    if not ended:
        return
    rows = [{"session_id": m.session_id, "character_id": m.char_id} for m in ended]
    session_ids = [m.session_id for m in ended]
    connection.execute(_LEAVE_BATCH, {"rows": rows})
    invalidate(connection, session_ids)
    connection.execute(_CLOSE_EMPTY, {"ids": session_ids})


def invalidate(connection: Connection, session_ids: Sequence[UUID]) -> None:
    """Invalidate the digests of sessions, so that their next save writes them in any case.

    For sessions whose rows have changed, or must change, though Redis holds the same.
    """
    connection.execute(_INVALIDATE, {"ids": list(session_ids)})


def invalidated(connection: Connection, session_ids: Sequence[UUID]) -> set[UUID]:
    """Return the sessions whose digest is invalid."""
    query = select(sessions.c.id).where(
        sessions.c.id == func.any(bindparam("ids")), sessions.c.digest == _INVALID
    )
    return set(connection.execute(query, {"ids": list(session_ids)}).scalars())


def memberships(connection: Connection, char_ids: Sequence[int]) -> list[Membership]:
    """Return the open sessions that characters are in."""
    rows = connection.execute(_MEMBERSHIPS, {"char_ids": list(char_ids)})
    return [Membership(*row) for row in rows]


def having_open(connection: Connection, char_ids: Sequence[int]) -> dict[str, list[int]]:
    """Return the characters that are in an open session, by its type."""
    by_type: dict[str, list[int]] = defaultdict(list)
    for membership in memberships(connection, char_ids):
        by_type[membership.session_type].append(membership.char_id)
    return by_type


def versions(connection: Connection, session_ids: Iterable[str]) -> dict[str, int]:
    """Return the versions at which sessions are saved, by id."""
    query = select(sessions.c.id, sessions.c.version).where(
        sessions.c.id == func.any(bindparam("ids"))
    )
    ids = [UUID(text) for text in session_ids]
    return {str(row.id): row.version for row in connection.execute(query, {"ids": ids})}


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
    members = _members(connection, {row["id"] for row in rows.values()})
    loaded = {
        row["id"]: Session(
            session_type,
            row["id"],
            {"participants": members[row["id"]], **row["payload"]},
            row["version"],
            members=tuple(members[row["id"]]),
            foreign=row["digest"] is None,
        )
        for row in rows.values()
    }
    return {char_id: loaded[row["id"]] for char_id, row in rows.items()}


def _members(connection: Connection, session_ids: Collection[UUID]) -> dict[UUID, list[int]]:
    """Return the ids of the characters that are in sessions now, in ascending order."""
    members: dict[UUID, list[int]] = defaultdict(list)
    if not session_ids:
        return members
    query = (
        select(session_characters.c.session_id, session_characters.c.character_id)
        .where(
            session_characters.c.session_id == func.any(bindparam("ids")),
            session_characters.c.left_at.is_(None),
        )
        .order_by(session_characters.c.character_id)
    )
    for session_id, char_id in connection.execute(query, {"ids": list(session_ids)}):
        members[session_id].append(char_id)
    return members


def _to_row(session: Session, payload: Mapping[str, Any], now: datetime | None) -> dict[str, Any]:
    return {
        "id": str(session.id),
        "session_type": session.session_type,
        "payload": payload,
        "version": session.version,
        "digest": session.digest(),
        "closed_at": now.isoformat() if session.closed and now else None,
    }
