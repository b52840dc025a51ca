"""Owns the receipts of durable changes: which of them PostgreSQL holds, by nonce.

The transaction that saves a change writes its nonce, so the nonce is there if and only if the
change is.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

from sqlalchemy import Connection, bindparam, delete, func, literal, select
from sqlalchemy.dialects.postgresql import ARRAY, UUID, insert

from statesync.durable.losses import Loss, losses_since
from statesync.durable.tables import durable_changes
from statesync.state.receipts import RETENTION_SECONDS

__all__ = ["AT_ONCE", "find", "lost_since", "purge", "record"]

AT_ONCE = 10_000
"""Upper bound on the nonces that one call deletes: less than a second's work."""

_RETENTION = timedelta(seconds=RETENTION_SECONDS)
_since = func.now() - literal(_RETENTION)
_nonces = bindparam("nonces", type_=ARRAY(UUID(as_uuid=False)))
_RECORD = (
    insert(durable_changes)
    .from_select(["nonce"], select(func.unnest(_nonces)))
    .on_conflict_do_nothing()
)
_FIND = select(durable_changes.c.nonce).where(durable_changes.c.nonce == func.any(_nonces))
_OLD = (
    select(durable_changes.c.nonce)
    .where(durable_changes.c.committed_at < _since)
    .order_by(durable_changes.c.committed_at)
    .limit(AT_ONCE)
    .with_for_update(skip_locked=True)  # sweeps of two workers do not wait for each other
)
_PURGE = delete(durable_changes).where(durable_changes.c.nonce.in_(_OLD))


def record(connection: Connection, nonces: Collection[str]) -> None:
    """Note that changes are in PostgreSQL, in the transaction that saves them."""
    if nonces:  # in one order: no deadlock with another save of the same
        connection.execute(_RECORD, {"nonces": sorted(set(nonces))})


def find(connection: Connection, nonces: Collection[str]) -> set[str]:
    """Return those of the nonces that PostgreSQL has."""
    found = connection.execute(_FIND, {"nonces": list(nonces)})
    return {nonce.hex for (nonce,) in found}


def purge(connection: Connection) -> int:
    """Delete nonces that are older than their retention; returns how many. It may leave some."""
    return connection.execute(_PURGE).rowcount


def lost_since(connection: Connection, prefix: str) -> list[Loss]:
    """Return how often a server went back within the retention, oldest first."""
    return losses_since(connection, prefix, _RETENTION)
