"""Owns what a conflict leaves in PostgreSQL: the side that lost it, whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import insert as upsert

from statesync.durable.tables import state_conflicts

__all__ = ["LostState", "record"]


class LostState(NamedTuple):
    """A core or a session that lost a conflict."""

    char_id: int
    session_id: UUID | None
    version: int
    divergence: int
    """Names the save that Redis had forgotten; the same for all that was set back in one step."""
    reason: str
    state: dict[str, Any]


def record(connection: Connection, lost: Sequence[LostState]) -> None:
    """Record sides that lost; the same state only once."""
    rows = [
        {
            "character_id": one.char_id,
            "session_id": one.session_id,
            "version": one.version,
            "divergence": one.divergence,
            "reason": one.reason,
            "state": one.state,
        }
        for one in lost
    ]
    if rows:
        connection.execute(upsert(state_conflicts).on_conflict_do_nothing(), rows)
