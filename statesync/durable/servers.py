"""Owns the counter of sweeps in PostgreSQL, what it remembers of Redis, and the last loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, func, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert

from statesync.durable.tables import server_counters

__all__ = [
    "Counters",
    "Loss",
    "NotLive",
    "add_not_live",
    "count",
    "last_loss",
    "lock",
    "not_live_of",
    "record_loss",
]

_LISTED = 1000
"""How many characters that are not live are on record by name."""
_NOT_LIVE = "not_live"

_counters = server_counters.c
# A restart changes the time, a table that was dropped and made again from a dump its oid.
_RUN_ID = text(
    "extract(epoch FROM pg_postmaster_start_time())::text"
    " || '/' || 'server_counters'::regclass::oid::text"
)


class Counters(NamedTuple):
    """What PostgreSQL holds under one key prefix."""

    sweeps: int
    redis_sweeps: int
    """As PostgreSQL remembers them."""
    redis_run_id: str | None
    run_id: str
    """PostgreSQL's own: another one once it has started again."""


class Loss(NamedTuple):
    """The last time that a server went back."""

    details: dict[str, Any]
    lost_at: datetime


class NotLive(NamedTuple):
    """A character that was evicted at a newer version than its row has, so it stays at the row."""

    char_id: int
    evicted_version: int | None
    """None if it was deleted: it is back, and is to be deleted again."""
    row_version: int | None
    """None if there is no row."""


def lock(connection: Connection, key_prefix: str) -> Counters | None:
    """Lock the counter and return it; None if another sweep has locked it."""
    query = (
        select(_counters.sweeps, _counters.redis_sweeps, _counters.redis_run_id, _RUN_ID)
        .where(_counters.key_prefix == key_prefix)
        .with_for_update(skip_locked=True)
    )
    found = connection.execute(query).one_or_none()
    if found is None:
        insert = upsert(server_counters).values(key_prefix=key_prefix).on_conflict_do_nothing()
        if not connection.execute(insert).rowcount:
            return None
        found = connection.execute(query).one()
    return Counters(*found)


def count(
    connection: Connection, key_prefix: str, *, sweeps: int, redis_sweeps: int, redis_run_id: str
) -> None:
    """Write the counter of a sweep, and what Redis' is now."""
    connection.execute(
        update(server_counters)
        .where(_counters.key_prefix == key_prefix)
        .values(sweeps=sweeps, redis_sweeps=redis_sweeps, redis_run_id=redis_run_id)
    )


def record_loss(connection: Connection, key_prefix: str, details: Mapping[str, Any]) -> None:
    """Put on record that a server went back, now."""
    loss = {"last_loss": dict(details), "lost_at": func.now()}
    insert = upsert(server_counters).values(key_prefix=key_prefix, **loss)
    connection.execute(
        insert.on_conflict_do_update(index_elements=[_counters.key_prefix], set_=loss)
    )


def last_loss(connection: Connection, key_prefix: str) -> Loss | None:
    """Return the last loss; None if there was none."""
    query = select(_counters.last_loss, _counters.lost_at).where(
        _counters.key_prefix == key_prefix, _counters.lost_at.is_not(None)
    )
    found = connection.execute(query).one_or_none()
    return found and Loss(*found)


def add_not_live(connection: Connection, key_prefix: str, characters: Iterable[NotLive]) -> None:
    """Add characters to the last loss."""
    query = select(_counters.last_loss).where(_counters.key_prefix == key_prefix)
    details = connection.execute(query.with_for_update()).scalar_one_or_none() or {}
    listed = {item[0]: tuple(item) for item in details.get(_NOT_LIVE, ())}
    listed |= {item.char_id: item for item in characters}
    details[_NOT_LIVE] = list(listed.values())[:_LISTED]
    connection.execute(
        update(server_counters).where(_counters.key_prefix == key_prefix).values(last_loss=details)
    )


def not_live_of(loss: Loss) -> list[NotLive]:
    """Return the characters that a loss of PostgreSQL has set back, since they were not live."""
    return [NotLive(*item) for item in loss.details.get(_NOT_LIVE, ())]
