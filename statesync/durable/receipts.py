"""Owns the receipts of durable changes: which of them PostgreSQL holds, by nonce."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import insert as upsert

from statesync.durable.tables import durable_changes

__all__ = ["record"]


def record(connection: Connection, nonces: Collection[str]) -> None:
    """Note, in the transaction that saves them, that durable changes are in PostgreSQL."""
    if nonces:
        rows = [{"nonce": nonce} for nonce in nonces]
        connection.execute(upsert(durable_changes).on_conflict_do_nothing(), rows)
