"""Owns what says whether rows are as their cores and sessions in Redis, without their content."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, Select, Table, bindparam, case, func, select

from statesync.durable import tables

__all__ = ["RowHead", "of_characters", "of_sessions"]


class RowHead(NamedTuple):
    """What a row says of the state that it holds."""

    version: int
    seal: int | None
    """None if the row was last written by a worker from before seals."""
    is_deleted: bool = False


def of_characters(connection: Connection, char_ids: Iterable[int]) -> dict[int, RowHead]:
    """Return the heads of the characters that exist, deleted ones too, by id."""
    query = _heads(tables.characters).add_columns(tables.characters.c.deleted_at.is_not(None))
    found = connection.execute(query, {"ids": list(char_ids)})
    return {char_id: RowHead(*head) for char_id, *head in found}


def of_sessions(connection: Connection, session_ids: Iterable[str]) -> dict[str, RowHead]:
    """Return the heads of the sessions that exist, by id."""
    found = connection.execute(_heads(tables.sessions), {"ids": [UUID(i) for i in session_ids]})
    return {str(session_id): RowHead(*head) for session_id, *head in found}


def _heads(table: Table) -> Select[Any]:
    seal = case((table.c.seal_version == table.c.version, table.c.seal))
    return select(table.c.id, table.c.version, seal).where(table.c.id == func.any(bindparam("ids")))
