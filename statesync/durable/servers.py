"""Owns the counter of sweeps in PostgreSQL, and what it remembers of Redis."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection, bindparam, func, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert

from statesync.durable.database import fetch
from statesync.durable.losses import IS_RECOVERING
from statesync.durable.tables import server_counters

__all__ = ["Counters", "count", "lock", "read", "remember_redis"]

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
    is_recovering: bool
    """Whether it went back, and what is live is being saved again."""


_READ = select(
    _counters.sweeps, _counters.redis_sweeps, _counters.redis_run_id, _RUN_ID, IS_RECOVERING
).where(_counters.key_prefix == bindparam("prefix"))
_LOCK = _READ.with_for_update(skip_locked=True)


def read(connection: Connection, key_prefix: str) -> Counters | None:
    """Return the counter; None if no sweep was counted yet."""
    found = fetch(connection, _READ, {"prefix": key_prefix})
    return Counters(*found[0]) if found else None


def lock(connection: Connection, key_prefix: str) -> Counters | None:
    """Lock the counter and return it; None if another sweep has locked it."""
    found = connection.execute(_LOCK, {"prefix": key_prefix}).one_or_none()
    if found is None:
        insert = upsert(server_counters).values(key_prefix=key_prefix).on_conflict_do_nothing()
        if not connection.execute(insert).rowcount:
            return None
        found = connection.execute(_LOCK, {"prefix": key_prefix}).one()
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


def remember_redis(connection: Connection, key_prefix: str, sweeps: int) -> None:
    """Remember that Redis' counter has come as far as ``sweeps``, or farther."""
    at_least = func.greatest(_counters.redis_sweeps, sweeps)
    connection.execute(
        update(server_counters)
        .where(_counters.key_prefix == key_prefix)
        .values(redis_sweeps=at_least)
    )
