"""Owns what is on record of conflicts: the sides that lost, as PostgreSQL holds them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, Text, cast, func, literal_column, select

from statesync.durable import database
from statesync.durable.tables import state_conflicts

__all__ = ["Row", "page", "read"]

Row = dict[str, Any]
"""A conflict by the names of its columns."""

# Texts that PostgreSQL makes: the losing side may hold what Python has no value for.
_RECORDED = literal_column("to_jsonb(recorded_at) #>> '{}'", Text).label("recorded_at")
_SUMMARY = [
    *(column for column in state_conflicts.c if column.name not in ("state", "recorded_at")),
    _RECORDED,
]
# Not read as JSON: it is as a game wrote it.
_PARTICIPANTS = literal_column("state #>> '{session,participants}'", Text)


def page(
    engine: Engine, *, char_id: int | None = None, before: int | None = None, limit: int
) -> tuple[list[Row], int | None]:
    """Return conflicts without their states, the newest first, and ``before`` of the next page.

    With ``char_id``, those of this character and its sessions. Raises DatabaseUnavailable.
    """
    query = select(*_SUMMARY).order_by(state_conflicts.c.id.desc()).limit(limit + 1)
    if char_id is not None:
        is_participant = _PARTICIPANTS.regexp_match(rf"\y{char_id}\y")
        query = query.where((state_conflicts.c.character_id == char_id) | is_participant)
    if before is not None:
        query = query.where(state_conflicts.c.id < before)
    with database.transaction(engine) as connection:
        rows = [dict(row) for row in connection.execute(query).mappings()]
    return rows[:limit], rows[limit - 1]["id"] if len(rows) > limit else None


def read(engine: Engine, conflict_id: int, *, is_pretty: bool = False) -> Row | None:
    """Return one conflict with its state as a JSON text; None if there is none.

    Raises DatabaseUnavailable.
    """
    state = state_conflicts.c.state
    shown = func.jsonb_pretty(state) if is_pretty else cast(state, Text)
    query = select(*_SUMMARY, shown.label("state")).where(state_conflicts.c.id == conflict_id)
    with database.transaction(engine) as connection:
        found = connection.execute(query).mappings().one_or_none()
    return None if found is None else dict(found)
