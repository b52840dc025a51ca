"""Owns the heads of rows: what says whether they are as in Redis, without their content."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Connection, Select, Table, bindparam, func, select, update

from statesync.durable import tables
from statesync.durable.fence import RowHead

__all__ = ["of_characters", "of_sessions", "reseal"]

Id = TypeVar("Id", int, UUID)


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


def reseal(connection: Connection, table: Table, words: Mapping[Id, Sequence[int]]) -> set[Id]:
    """Give rows the last of some seals, if they have one of these, and touch nothing else.

    So every commit on its way from a snapshot under one of these seals is refused: it does not know
    the last one, or this is its own under another version. A row that a worker from before seals
    has written gets it, too. Returns the ids without a row.
    """
    lock = _heads(table).order_by(table.c.id).with_for_update(key_share=True)
    without_row = set(words)
    for row in connection.execute(lock, {"ids": list(words)}).all():
        without_row.remove(row.id)
        seals = words[row.id]
        if not RowHead(row.version, row.seal, row.seal_version).is_sealed or row.seal in seals:
            values = {"seal": seals[-1], "seal_version": row.version}
            connection.execute(update(table).where(table.c.id == row.id).values(values))
    return without_row


def _heads(table: Table) -> Select[Any]:
    names = ("id", "version", "seal", "seal_version")
    columns = [table.c[name] for name in names]
    return select(*columns).where(table.c.id == func.any(bindparam("ids")))
