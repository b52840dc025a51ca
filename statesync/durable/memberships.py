"""Owns who is in which session, in PostgreSQL: ``session_characters``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import starmap
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import ARRAY, Connection, Text, Uuid, bindparam, cast, func, literal, select, update
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.dialects.postgresql import insert as upsert

from statesync.durable import digests
from statesync.durable.recordset import recordset
from statesync.durable.tables import characters, session_characters, sessions
from statesync.state.sessions import Session

__all__ = [
    "CURRENT",
    "OPEN_SESSION",
    "UUID_TEXTS",
    "Membership",
    "current",
    "end",
    "having_open",
    "members",
    "write",
]

UUID_TEXTS = ARRAY(Uuid(as_uuid=False))
"""Ids of sessions as texts: the driver takes three times as long to write a UUID."""

_member_batch = recordset(session_characters, "session_id", ("character_id",))

# One text for each session: who is in it changes less often than the session itself.
_MEMBERS_AS_TEXT = (
    select(
        cast(session_characters.c.session_id, Text)
        + " "
        + func.string_agg(
            cast(session_characters.c.character_id, Text),
            aggregate_order_by(literal(" "), session_characters.c.character_id),
            # In WHERE it would have PostgreSQL, while it has no statistics of the table, read the
            # index of all who are in a session.
        ).filter(session_characters.c.left_at.is_(None))
    )
    .where(session_characters.c.session_id == func.any(bindparam("ids", type_=UUID_TEXTS)))
    .group_by(session_characters.c.session_id)
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

_WITH_UNSAVED_MEMBERS = (
    select(_member_batch.c.session_id)
    .join(characters, characters.c.id == _member_batch.c.character_id, isouter=True)
    .where(characters.c.id.is_(None))
)

CURRENT = (
    select(session_characters.c.character_id, session_characters.c.session_id)
    .where(
        session_characters.c.character_id == func.any(bindparam("char_ids")),
        session_characters.c.left_at.is_(None),
    )
    .subquery("current")
)
# OFFSET 0 makes PostgreSQL look up each session by its id. Without it, and while PostgreSQL has no
# statistics of the tables, each character would cost a scan of all sessions.
OPEN_SESSION = (
    select(sessions)
    .where(sessions.c.id == CURRENT.c.session_id, sessions.c.closed_at.is_(None))
    .offset(0)
    .lateral("open")
)
_MEMBERSHIPS = select(CURRENT.c.character_id, OPEN_SESSION.c.session_type, OPEN_SESSION.c.id).join(
    OPEN_SESSION, literal(value=True)
)


_OTHER_MEMBERSHIPS = _MEMBERSHIPS.where(
    # Of the membership, not of the session: the sessions left out need not be looked up.
    ~(CURRENT.c.session_id == func.any(bindparam("saved", type_=UUID_TEXTS)))
)


class Membership(NamedTuple):
    """A character in an open session."""

    char_id: int
    session_type: str
    session_id: UUID


def write(connection: Connection, written: Sequence[Session], saved: Collection[int]) -> None:
    """Write who is in sessions; ``saved`` are the ids of characters that have rows.

    A member without a row joins when the session is next saved.
    """
    changed = _changed(connection, written)
    if not changed:
        return
    members = [
        {"session_id": session.id, "character_id": char_id}
        for session in changed
        for char_id in session.members
    ]
    closed = {session.id for session in changed if session.closed}
    staying = [member for member in members if member["session_id"] not in closed]
    # The members of a closed session join and leave, so that its rows say who was in it.
    connection.execute(_JOIN_BATCH, {"rows": members})
    ids = [session.id for session in changed]
    connection.execute(_LEAVE_UNLESS_IN_BATCH, {"ids": ids, "rows": staying})
    if elsewhere := [member for member in members if member["character_id"] not in saved]:
        unsaved = connection.execute(_WITH_UNSAVED_MEMBERS, {"rows": elsewhere})
        digests.invalidate(connection, unsaved.scalars().all())


def _changed(connection: Connection, written: Sequence[Session]) -> list[Session]:
    """Return the sessions that are closed, or whose members are not those of their rows."""
    found = connection.execute(_MEMBERS_AS_TEXT, {"ids": [session.ref.id for session in written]})
    texts = set(found.scalars())
    return [one for one in written if one.closed or _members_as_text(one) not in texts]


def _members_as_text(session: Session) -> str:
    return f"{session.ref.id} {' '.join(map(str, sorted(session.members)))}"


def end(
    connection: Connection,
    char_ids: Iterable[int],
    points_at: Callable[[int], Collection[str]],
    type_names: Collection[str],
    saved: Iterable[str],
) -> list[Membership]:
    """Take characters out of the sessions that their cores do not point at any more; return these.

    ``points_at`` gives the session ids that a core points at. ``saved`` are those whose own
    snapshot says who is in them; they are left alone, as are types not in ``type_names``. A session
    that has lost its last member is closed.
    """
    parameters = {"char_ids": list(char_ids), "saved": list(saved)}
    ended = [
        membership
        for membership in starmap(Membership, connection.execute(_OTHER_MEMBERSHIPS, parameters))
        if membership.session_type in type_names
        and str(membership.session_id) not in points_at(membership.char_id)
    ]
    if not ended:
        return []
    rows = [{"session_id": m.session_id, "character_id": m.char_id} for m in ended]
    session_ids = [m.session_id for m in ended]
    connection.execute(_LEAVE_BATCH, {"rows": rows})
    digests.invalidate(connection, session_ids)
    connection.execute(_CLOSE_EMPTY, {"ids": session_ids})
    return ended


def current(connection: Connection, char_ids: Sequence[int]) -> list[Membership]:
    """Return the open sessions that characters are in."""
    rows = connection.execute(_MEMBERSHIPS, {"char_ids": list(char_ids)})
    return [Membership(*row) for row in rows]


def having_open(connection: Connection, char_ids: Sequence[int]) -> dict[str, list[int]]:
    """Return the characters that are in an open session, by its type."""
    by_type: dict[str, list[int]] = defaultdict(list)
    for membership in current(connection, char_ids):
        by_type[membership.session_type].append(membership.char_id)
    return by_type


def members(connection: Connection, session_ids: Collection[UUID]) -> dict[UUID, list[int]]:
    """Return the ids of the characters that are in sessions now, in ascending order."""
    found: dict[UUID, list[int]] = defaultdict(list)
    if not session_ids:
        return found
    query = (
        select(session_characters.c.session_id, session_characters.c.character_id)
        .where(
            session_characters.c.session_id == func.any(bindparam("ids")),
            session_characters.c.left_at.is_(None),
        )
        .order_by(session_characters.c.character_id)
    )
    for session_id, char_id in connection.execute(query, {"ids": list(session_ids)}):
        found[session_id].append(char_id)
    return found
