"""Owns what is on record of conflicts: the sides that lost, as PostgreSQL holds them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from sqlalchemy import Engine, Text, cast, func, literal_column, select

from statesync.durable import database
from statesync.durable.tables import state_conflicts
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.observe.check import Check, Topic, checked
from statesync.settings import Settings
from statesync.state.receipts import RETENTION_SECONDS

__all__ = ["Row", "check_conflicts", "page", "read"]

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
_RECENT = timedelta(seconds=RETENTION_SECONDS)
"""So long the doctor warns of a conflict, as it does of a loss."""
_COUNTED = 1000
"""More conflicts than this are not counted."""


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


def check_conflicts(orchestrator: GameStateOrchestrator, _: Settings) -> Iterator[Check]:
    """Check that none was recorded lately. Raises ServerUnavailable and NotMigrated."""
    newest = select(state_conflicts.c.recorded_at).order_by(state_conflicts.c.id.desc())
    recorded_at = newest.limit(_COUNTED).subquery().c.recorded_at
    query = select(func.count()).where(recorded_at > func.now() - _RECENT)
    with database.transaction(orchestrator.engine) as connection:
        number: int = connection.execute(query).scalar_one()
    found = f"{number}{' or more' * (number == _COUNTED)} in the last seven days"
    advice = "see what players have lost: `statesync conflicts list`"
    yield checked(Topic.CONFLICTS, found, warn=advice * bool(number))
