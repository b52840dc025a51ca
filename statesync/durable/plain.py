"""Owns the save of plain characters, those in no session and no tie, in columns.

What the fence lets through at once: their rows exist, are older, and have the one seal that Redis
knows. The others are left to the save of groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, func, select

from statesync.durable import characters, receipts, tables
from statesync.durable.rows import CoreRows

__all__ = ["PlainSaved", "save"]

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


class PlainSaved(NamedTuple):
    """What PostgreSQL holds now; each is a place among the rows."""

    written: Sequence[int]
    unchanged: Sequence[int]
    """The row held the same already, and was not touched."""

    def places(self) -> list[int]:
        """Return those of both."""
        return [*self.written, *self.unchanged]


def save(
    connection: Connection,
    snapshots: Sequence[CoreRows],
    entries: Sequence[str],
    nonces: Sequence[str],
) -> PlainSaved:
    """Save those that may be, in the transaction of ``connection``.

    ``entries`` are the seals that Redis knew of each, ``nonces`` those of the durable changes that
    it holds, both separated by a space. Raises Raced.
    """
    places = {snapshot.char_id: place for place, snapshot in enumerate(snapshots)}
    written: list[int] = []
    unchanged: list[int] = []
    for char_id, version, seal in connection.execute(_LOCK, {"ids": [*places]}):
        place = places[char_id]
        newer_by = snapshots[place].version - version
        if newer_by > 0 and entries[place] == str(seal):
            (unchanged if newer_by == 1 else written).append(place)
    same = characters.same(connection, [snapshots[place] for place in unchanged])
    written += [place for place in unchanged if snapshots[place].char_id not in same]
    unchanged = [place for place in unchanged if snapshots[place].char_id in same]
    characters.write(connection, [], [snapshots[place] for place in written])
    saved = [word for place in (*written, *unchanged) for word in nonces[place].split()]
    receipts.record(connection, saved)
    return PlainSaved(written, unchanged)
