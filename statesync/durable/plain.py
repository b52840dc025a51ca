"""Owns the save of plain characters, those in no session and no tie, in columns.

What the fence lets through at once: their rows exist, are older, and have the one seal that Redis
knows. The others are left to the save of groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, func, select

from statesync.durable import characters, receipts, tables
from statesync.durable.rows import CharacterRow

__all__ = ["PlainRow", "PlainSaved", "save"]

_rows = tables.characters
_LOCK = (
    select(_rows.c.id, _rows.c.version, _rows.c.seal)
    .where(
        _rows.c.id == func.any(bindparam("ids")),
        _rows.c.seal_version == _rows.c.version,
        _rows.c.deleted_at.is_(None),
        characters.ANY_MEMBERSHIP.is_(None),
    )
    .order_by(_rows.c.id)  # every transaction locks in the same order: no deadlock
    .with_for_update(of=_rows, key_share=True, skip_locked=True)
)


class PlainRow(NamedTuple):
    """What is to be saved of one plain character."""

    row: CharacterRow
    stats: Any
    """The ``StatsRow``."""
    entry: str
    """The seals that Redis knew."""


class PlainSaved(NamedTuple):
    """What PostgreSQL holds now; each is a place among the rows."""

    written: Sequence[int]
    unchanged: Sequence[int]
    """The row held the same already, and was not touched."""


def save(connection: Connection, rows: Sequence[PlainRow], nonces: Sequence[str]) -> PlainSaved:
    """Save those that may be, in the transaction of ``connection``.

    ``nonces`` are those of the durable changes that each holds, separated by a space. Raises Raced.
    """
    places = {one.row.id: place for place, one in enumerate(rows)}
    written: list[int] = []
    unchanged: list[int] = []
    for char_id, version, seal in connection.execute(_LOCK, {"ids": [*places]}):
        place = places[char_id]
        row, _, entry = rows[place]
        if entry == str(seal) and version < row.version:
            (unchanged if version == row.version - 1 else written).append(place)
    if unchanged:
        tried = [rows[place] for place in unchanged]
        same = characters.same(connection, [r.row for r in tried], [r.stats for r in tried])
        written += [place for place in unchanged if rows[place].row.id not in same]
        unchanged = [place for place in unchanged if rows[place].row.id in same]
    characters.overwrite(
        connection, [rows[i].row for i in written], [rows[i].stats for i in written]
    )
    saved = [word for i in (*written, *unchanged) for word in nonces[i].split()]
    receipts.record(connection, saved)
    return PlainSaved(written, unchanged)
