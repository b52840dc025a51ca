"""Owns how much there is to read of characters, so that a batch is bounded by bytes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Text,
    bindparam,
    case,
    cast,
    func,
    select,
)

from statesync.durable import database
from statesync.durable.tables import character_stats, characters, session_characters, sessions

__all__ = ["OF_ROWS", "of_characters"]

_SMALL_BYTES = 2000
"""What takes less space than this is not unpacked to be measured: it is small in any case, or
compressed a hundredfold at the most."""


def _bytes(column: ColumnElement[Any]) -> ColumnElement[int]:
    stored = func.pg_column_size(column)
    whole = func.octet_length(cast(column, Text))
    return func.coalesce(case((stored < _SMALL_BYTES, stored), else_=whole), 0)


_of_sessions = (
    select(cast(func.sum(_bytes(sessions.c.payload)), BigInteger))
    .join(session_characters, session_characters.c.session_id == sessions.c.id)
    .where(
        session_characters.c.character_id == characters.c.id,
        session_characters.c.left_at.is_(None),
        sessions.c.closed_at.is_(None),
    )
    .scalar_subquery()
)
_TEXTS = ("name", "gender", "game_stage", "location_id", "prev_location_id")
OF_ROWS: ColumnElement[int] = (
    _bytes(characters.c.extra)
    + _bytes(characters.c.vitals)
    + _bytes(character_stats.c.extra)
    + sum((func.coalesce(func.octet_length(characters.c[name]), 0) for name in _TEXTS), 0)
)
"""About how many bytes the rows of a character have, in a query on both tables."""
_SIZES = (
    select(characters.c.id, OF_ROWS + func.coalesce(_of_sessions, 0))
    .outerjoin(character_stats, character_stats.c.character_id == characters.c.id)
    .where(characters.c.id == func.any(bindparam("ids")), characters.c.deleted_at.is_(None))
)


def of_characters(connection: Connection, char_ids: Collection[int]) -> dict[int, int]:
    """Return about how many bytes the rows of characters and of their open sessions have, by id.

    Without what session types keep in tables of their own.
    """
    return dict(database.fetch(connection, _SIZES, {"ids": list(char_ids)}))
