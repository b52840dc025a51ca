"""Owns the rows that every session has, of whatever type: its version, who is in it, its end.

What a session holds is kept by its type, in ``sessions.payload`` or in tables of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Connection,
    Select,
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

from statesync.durable.characters import LOAD
from statesync.durable.database import Rejected
from statesync.durable.recordset import recordset
from statesync.durable.results import Accepted, Busy, Raced, Refused, Saved
from statesync.durable.tables import characters, session_characters, sessions
from statesync.state.references import reference_field
from statesync.state.sessions import Session

__all__ = [
    "active",
    "count_active",
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

_NAMES = ("session_type", "payload", "version", "digest", "closed_at")
_rows = recordset(sessions, "id", _NAMES)
_members = recordset(session_characters, "session_id", ("character_id",))

_LOCK = (
    select(sessions.c.id, sessions.c.version, sessions.c.digest, sessions.c.session_type)
    .where(sessions.c.id == func.any(bindparam("ids")))
    .order_by(sessions.c.id)
    .with_for_update()
)

_INSERT = (
    upsert(sessions)
    .from_select(["id", *_NAMES], select(*(_rows.c[name] for name in ("id", *_NAMES))))
    .on_conflict_do_nothing()
    .returning(sessions.c.id)
)

_UPDATE = (
    update(sessions)
    .where(sessions.c.id == _rows.c.id)
    .values(
        payload=_rows.c.payload,
        version=_rows.c.version,
        digest=_rows.c.digest,
        updated_at=func.now(),
        # Closed once, it stays closed; but one that is live again, is.
        closed_at=case(
            (_rows.c.closed_at.is_not(None), func.coalesce(sessions.c.closed_at, _rows.c.closed_at))
        ),
    )
)

_JOIN = (
    upsert(session_characters)
    .from_select(
        ["session_id", "character_id"],
        # Somebody who was never saved cannot be named here; the payload names him.
        select(_members.c.session_id, _members.c.character_id)
        .join(characters, characters.c.id == _members.c.character_id)
        .order_by(_members.c.session_id, _members.c.character_id),
    )
    .on_conflict_do_update(
        index_elements=["session_id", "character_id"],
        set_={"left_at": None},
        where=session_characters.c.left_at.is_not(None),
    )
)

_LEAVE = (
    update(session_characters)
    .where(
        session_characters.c.session_id == func.any(bindparam("ids")),
        session_characters.c.left_at.is_(None),
        ~select(literal(1))
        .where(
            _members.c.session_id == session_characters.c.session_id,
            _members.c.character_id == session_characters.c.character_id,
        )
        .exists(),
    )
    .values(left_at=func.now())
)

_GO = (
    update(session_characters)
    .where(
        session_characters.c.session_id == _members.c.session_id,
        session_characters.c.character_id == _members.c.character_id,
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

# Where what a row depends on has changed, the next save is written, whatever the session holds.
_INVALIDATE = update(sessions).where(sessions.c.id == func.any(bindparam("ids"))).values(digest="")
_OF_OTHERS = (
    select(_members.c.session_id)
    .join(characters, characters.c.id == _members.c.character_id, isouter=True)
    .where(characters.c.id.is_(None))
)

_END = (
    update(sessions).where(sessions.c.id == func.any(bindparam("ids"))).values(closed_at=func.now())
)

_mine = (
    select(session_characters.c.character_id, session_characters.c.session_id)
    .where(
        session_characters.c.character_id == func.any(bindparam("char_ids")),
        session_characters.c.left_at.is_(None),
    )
    .subquery("mine")
)
# The offset keeps PostgreSQL to this order, each session by its id. In a young database, where it
# knows nothing of the tables yet, it would read all sessions for each character.
_open = (
    select(sessions)
    .where(sessions.c.id == _mine.c.session_id, sessions.c.closed_at.is_(None))
    .offset(0)
    .lateral("open")
)
# One value per row: of NOT EXISTS PostgreSQL would make a join, and might read all memberships.
_in_one = (
    select(session_characters.c.session_id)
    .where(
        session_characters.c.character_id == characters.c.id,
        session_characters.c.left_at.is_(None),
    )
    .limit(1)
    .scalar_subquery()
)
LOAD_ALONE = LOAD.where(_in_one.is_(None))
"""For ``durable.load``: those who are in no session."""
_MEMBERSHIPS = select(_mine.c.character_id, _open.c.session_type, _open.c.id).join(
    _open, literal(value=True)
)
_OPEN = (
    select(_mine.c.character_id, _open)
    .join(_open, literal(value=True))
    .join(characters, characters.c.id == _mine.c.character_id)
    .where(_open.c.session_type == bindparam("session_type"))
    # Where there are several, the one that the core points at; else the newest.
    .order_by(
        characters.c.extra.op("->>")(bindparam("field", type_=String)) == cast(_open.c.id, String),
        _open.c.updated_at,
        _open.c.id,
    )
)


def decide(
    connection: Connection, snapshots: Sequence[Session], *, wait: bool = True
) -> dict[UUID, Saved | Refused | Busy | Accepted]:
    """Lock the rows of sessions and say what is to become of each, as ``durable.decide`` does.

    Raises Rejected where an id is that of a session of another type.
    """
    todo = {session.id: session for session in snapshots}
    if not todo:
        return {}
    known = select(sessions.c.id).where(sessions.c.id == func.any(bindparam("ids")))
    there = set(connection.execute(known, {"ids": list(todo)}).scalars())
    decided: dict[UUID, Saved | Refused | Busy | Accepted] = {}
    decided.update(dict.fromkeys(there, Busy()))
    decided.update(dict.fromkeys(todo.keys() - there, Accepted(new=True)))
    lock = _LOCK if wait else _LOCK.with_for_update(skip_locked=True)
    for session_id, version, digest, session_type in connection.execute(lock, {"ids": list(there)}):
        session = todo[session_id]
        if session_type != session.session_type:
            raise Rejected(f"{session.name}: a {session_type} session has this id", locked=False)
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
    """Write the rows of sessions that ``decide`` has accepted, and who is in them now.

    ``saved`` are characters that have rows. Who has none joins when the session is next saved.
    Raises Raced where another worker made one of the new rows meanwhile.
    """
    now = func.now()
    moment = (
        connection.execute(select(now)).scalar_one()
        if any(s.closed for s in (*new, *over))
        else None
    )
    for statement, snapshots in ((_INSERT, new), (_UPDATE, over)):
        if snapshots:
            rows = [_to_row(session, payloads[session.id], moment) for session in snapshots]
            result = connection.execute(statement, {"rows": rows})
            if statement is _INSERT and len(result.all()) < len(snapshots):
                raise Raced
    written = [*new, *over]
    if written:
        members = [
            {"session_id": session.id, "character_id": char_id}
            for session in written
            for char_id in ([] if session.closed else session.members)
        ]
        once = [
            {"session_id": session.id, "character_id": char_id}
            for session in written
            for char_id in session.members
        ]
        connection.execute(_JOIN, {"rows": once})
        connection.execute(_LEAVE, {"ids": [s.id for s in written], "rows": members})
        away = [row for row in once if row["character_id"] not in saved]
        if away:
            unknown = connection.execute(_OF_OTHERS, {"rows": away}).scalars().all()
            invalidate(connection, unknown)


def end_memberships(
    connection: Connection,
    references: Mapping[int, Collection[str]],
    type_names: Sequence[str],
    saved: Iterable[UUID],
) -> None:
    """Take characters out of the sessions that their cores do not point at any more.

    ``references`` are the ids that each core points at; ``saved`` are sessions whose own snapshot
    says who is in them. The last one to leave closes a session.
    """
    known = memberships(connection, list(references))
    said_otherwise = set(saved)
    gone = [
        (session_id, char_id)
        for char_id, session_type, session_id in known
        if session_type in type_names
        and session_id not in said_otherwise
        and str(session_id) not in references[char_id]
    ]
    if gone:
        ids = [session_id for session_id, _ in gone]
        rows = [{"session_id": session_id, "character_id": i} for session_id, i in gone]
        connection.execute(_GO, {"rows": rows})
        invalidate(connection, ids)
        connection.execute(_CLOSE_EMPTY, {"ids": ids})


def invalidate(connection: Connection, session_ids: Sequence[UUID]) -> None:
    """Have sessions written again at their next save, whatever they hold."""
    connection.execute(_INVALIDATE, {"ids": list(session_ids)})


def invalidated(connection: Connection, session_ids: Sequence[UUID]) -> set[UUID]:
    """Return which of the sessions are to be written again, whatever they hold."""
    query = select(sessions.c.id).where(
        sessions.c.id == func.any(bindparam("ids")), sessions.c.digest == ""
    )
    return set(connection.execute(query, {"ids": list(session_ids)}).scalars())


def memberships(connection: Connection, char_ids: Sequence[int]) -> list[tuple[int, str, UUID]]:
    """Return the open sessions that characters are in: character, type and id."""
    found = connection.execute(_MEMBERSHIPS, {"char_ids": list(char_ids)})
    return [(char_id, session_type, session_id) for char_id, session_type, session_id in found]


def having_open(connection: Connection, char_ids: Sequence[int]) -> dict[str, list[int]]:
    """Return which of the characters are in an open session, by its type."""
    found: dict[str, list[int]] = defaultdict(list)
    for char_id, session_type, _ in memberships(connection, char_ids):
        found[session_type].append(char_id)
    return found


def versions(connection: Connection, session_ids: Iterable[str]) -> dict[str, int]:
    """Return the versions at which sessions are saved, by id."""
    query = select(sessions.c.id, sessions.c.version).where(
        sessions.c.id == func.any(bindparam("ids"))
    )
    ids = [UUID(text) for text in session_ids]
    return {str(session_id): at for session_id, at in connection.execute(query, {"ids": ids})}


def open_sessions(
    connection: Connection, session_type: str, char_ids: Sequence[int]
) -> dict[int, Session]:
    """Return the open session of a type that each character is in, with what its payload holds."""
    parameters = {
        "char_ids": list(char_ids),
        "session_type": session_type,
        "field": reference_field(session_type),
    }
    rows = {row["character_id"]: row for row in connection.execute(_OPEN, parameters).mappings()}
    members: dict[UUID, list[int]] = defaultdict(list)
    query = select(session_characters.c.session_id, session_characters.c.character_id).where(
        session_characters.c.session_id == func.any(bindparam("ids")),
        session_characters.c.left_at.is_(None),
    )
    if rows:
        ids = list({row["id"] for row in rows.values()})
        for session_id, char_id in connection.execute(query, {"ids": ids}):
            members[session_id].append(char_id)
    made: dict[UUID, Session] = {}
    for row in rows.values():
        among = sorted(members[row["id"]])
        fields = {"participants": among, **row["payload"]}
        made[row["id"]] = Session(
            session_type,
            row["id"],
            fields,
            row["version"],
            members=tuple(among),
            foreign=row["digest"] is None,
        )
    return {char_id: made[row["id"]] for char_id, row in rows.items()}


def active(connection: Connection, hours: float, after: int, limit: int) -> list[int]:
    """Return a page of the ids above ``after`` of characters that are in an open session, or were
    saved within ``hours``."""
    query = _active_ids(hours).where(characters.c.id > after).order_by(characters.c.id).limit(limit)
    return list(connection.execute(query).scalars())


def count_active(connection: Connection, hours: float) -> int:
    """Return how many characters ``active`` gives."""
    query = select(func.count()).select_from(_active_ids(hours).subquery())
    return connection.execute(query).scalar_one()


def _active_ids(hours: float) -> Select[int]:
    in_session = (
        select(session_characters.c.character_id)
        .join(sessions, sessions.c.id == session_characters.c.session_id)
        .where(
            session_characters.c.character_id == characters.c.id,
            session_characters.c.left_at.is_(None),
            sessions.c.closed_at.is_(None),
        )
        .exists()
    )
    recent = characters.c.updated_at > func.now() - func.make_interval(
        0, 0, 0, 0, 0, 0, hours * 3600
    )
    return select(characters.c.id).where(characters.c.deleted_at.is_(None), recent | in_session)


def _to_row(session: Session, payload: Mapping[str, Any], moment: Any) -> dict[str, Any]:
    return {
        "id": str(session.id),
        "session_type": session.session_type,
        "payload": payload,
        "version": session.version,
        "digest": session.digest(),
        "closed_at": moment.isoformat() if session.closed else None,
    }
