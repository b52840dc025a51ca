"""Owns what says whether rows are as their cores and sessions in Redis, without their content."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Select, Table, bindparam, func, select

from statesync.durable import tables
from statesync.durable.fence import RowHead

__all__ = ["of_characters", "of_sessions"]


def of_characters(connection: Connection, char_ids: Iterable[int]) -> dict[int, RowHead]:
    """Return the heads of the characters that exist, deleted ones too, by id."""
    is_ended = tables.characters.c.deleted_at.is_not(None).label("is_ended")
    query = _heads(tables.characters).add_columns(is_ended)
    found = connection.execute(query, {"ids": list(char_ids)})
    return {row.id: RowHead(row.version, row.seal, row.seal_version, row.is_ended) for row in found}


def of_sessions(connection: Connection, session_ids: Iterable[str]) -> dict[str, RowHead]:
    """Return the heads of the sessions that exist, by id."""
    found = connection.execute(_heads(tables.sessions), {"ids": [UUID(i) for i in session_ids]})
    return {str(row.id): RowHead(row.version, row.seal, row.seal_version) for row in found}


def _heads(table: Table) -> Select[Any]:
    names = ("id", "version", "seal", "seal_version")
    columns = [table.c[name] for name in names]
    return select(*columns).where(table.c.id == func.any(bindparam("ids")))
