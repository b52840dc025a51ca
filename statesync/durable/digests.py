"""Owns the digests of sessions that are not valid any more, so that their next save writes them."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Connection, bindparam, func, select, update

from statesync.durable.tables import sessions

__all__ = ["invalid", "invalidate"]

_INVALID = ""
"""A digest that equals no session's."""
_INVALIDATE = (
    update(sessions).where(sessions.c.id == func.any(bindparam("ids"))).values(digest=_INVALID)
)


def invalidate(connection: Connection, session_ids: Sequence[UUID]) -> None:
    """Invalidate the digests of sessions, so that their next save writes them in any case.

    For sessions whose rows have changed, or must change, though Redis holds the same.
    """
    connection.execute(_INVALIDATE, {"ids": list(session_ids)})


def invalid(connection: Connection, session_ids: Sequence[UUID]) -> set[UUID]:
    """Return the sessions whose digest is invalid."""
    query = select(sessions.c.id).where(
        sessions.c.id == func.any(bindparam("ids")), sessions.c.digest == _INVALID
    )
    return set(connection.execute(query, {"ids": list(session_ids)}).scalars())
