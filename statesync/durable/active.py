"""Owns which characters are active: in an open session, or saved not long ago."""

from __future__ import annotations

from sqlalchemy import Connection, Select, func, select

from statesync.durable.tables import characters, session_characters, sessions

__all__ = ["count", "ids"]


def ids(connection: Connection, hours: float, after: int, limit: int) -> list[int]:
    """Return the ids of characters that are in an open session or were saved within ``hours``: the
    first ``limit`` of those above ``after``."""
    query = _active_ids(hours).where(characters.c.id > after).order_by(characters.c.id).limit(limit)
    return list(connection.execute(query).scalars())


def count(connection: Connection, hours: float) -> int:
    """Return how many characters ``ids`` returns, page after page."""
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
