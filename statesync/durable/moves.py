"""Owns the rows of a character that goes to another realm, and the record of its move.

Each of the two realms has a record of its own. Which rows are restored and saved, ``deleted_at``
says: the row that is not active has it set.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple

from sqlalchemy import (
    Column,
    Connection,
    Table,
    Text,
    cast,
    column,
    delete,
    func,
    literal_column,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import Insert, aggregate_order_by
from sqlalchemy.dialects.postgresql import insert as upsert

from statesync.durable import realms
from statesync.durable.characters import ANY_MEMBERSHIP
from statesync.durable.tables import (
    character_stats,
    characters,
    inventory_items,
    scenario_progress,
)

__all__ = [
    "Move",
    "Step",
    "activate",
    "begin",
    "copy",
    "end",
    "has_row",
    "insert_inactive",
    "is_in_session",
    "leave",
    "left_to",
    "lock_row",
    "note",
    "read",
    "refuse",
    "unfinished",
]

_OWNED = (character_stats, inventory_items, scenario_progress)
"""What goes with a character. The history of its sessions stays."""


class Step(StrEnum):
    """How far a move has come, in the order of the steps."""

    INTENDED = "intended"
    """In the source, which has the character still."""
    INACTIVE = "inactive"
    """In the target: its rows are there, and nothing restores them yet."""
    MOVED = "moved"
    """In the source: nothing restores it here any more."""
    ACTIVE = "active"
    """In the target, which has the character now."""
    DELETED = "deleted"
    """In either: the character was deleted here before its move was finished."""
    REFUSED = "refused"
    """In the source, which has the character still: the move ended before anything was copied."""


class Move(NamedTuple):
    """The record of a move in one of its realms."""

    char_id: int
    source: str
    target: str
    step: Step
    version: int = 0
    """Of the row that goes."""


Copy = dict[str, str]
"""The rows of a character, by table, as JSON."""


def read(connection: Connection, char_id: int) -> Move | None:
    """Return the last move of a character from here or to here."""
    found = _read(connection, realms.moves.c.character_id == char_id)
    return found[0] if found else None


def unfinished(connection: Connection) -> list[Move]:
    """Return the moves that are to be taken up again, if no process is at work on them."""
    return _read(connection, realms.moves.c.step.in_([Step.INTENDED, Step.INACTIVE]))


def _read(connection: Connection, condition: object) -> list[Move]:
    columns = [column for column in realms.moves.c if column.name != "changed_at"]
    query = select(*columns).where(condition).order_by(realms.moves.c.character_id)  # type: ignore[arg-type]
    return [Move(i, s, t, Step(step), v) for i, s, t, step, v in connection.execute(query)]


def begin(connection: Connection, move: Move) -> Move | None:
    """Write a move down if there is none of its character; return the one that there is, locked."""
    if connection.execute(_row(move).on_conflict_do_nothing()).rowcount:
        return None
    condition = realms.moves.c.character_id == move.char_id
    connection.execute(select(realms.moves.c.step).where(condition).with_for_update())
    return read(connection, move.char_id)


def _row(move: Move) -> Insert:
    values = dict(zip(("character_id", *Move._fields[1:]), move, strict=True))
    return upsert(realms.moves).values(**values, changed_at=func.now())


def note(connection: Connection, move: Move) -> None:
    """Write down how far a move has come."""
    row = _row(move)
    connection.execute(
        row.on_conflict_do_update(
            index_elements=["character_id"],
            set_={name: row.excluded[name] for name in (*Move._fields[1:], "changed_at")},
        )
    )


def left_to(connection: Connection, char_id: int) -> str:
    """Return the realm to which a character has left from here; empty if it has not."""
    if not connection.get_execution_options().get(realms.OPTION):
        return ""
    known = read(connection, char_id)
    return known.target if known and known.step is Step.MOVED else ""


def end(connection: Connection, char_id: int) -> None:
    """Write down, in a realm, that a character is deleted before its move is finished."""
    if connection.get_execution_options().get(realms.OPTION):
        is_unfinished = realms.moves.c.step.in_([Step.INTENDED, Step.INACTIVE])
        ended = update(realms.moves).where(realms.moves.c.character_id == char_id, is_unfinished)
        connection.execute(ended.values(step=Step.DELETED, changed_at=func.now()))


def refuse(connection: Connection, intent: Move) -> None:
    """Write down, in the source, that a move has ended that stands at its intent."""
    values = zip(("character_id", *Move._fields[1:]), intent, strict=True)
    is_it = [realms.moves.c[name] == value for name, value in values]
    refused = update(realms.moves).where(*is_it)
    connection.execute(refused.values(step=Step.REFUSED, changed_at=func.now()))


def is_in_session(connection: Connection, char_id: int) -> bool:
    """Return whether a character is in an open session."""
    query = select(ANY_MEMBERSHIP).where(characters.c.id == char_id)
    return connection.scalar(query) is not None


def has_row(connection: Connection, char_id: int) -> bool:
    """Return whether there is a row of a character, deleted or not."""
    query = select(characters.c.id).where(characters.c.id == char_id)
    return connection.execute(query).first() is not None


def lock_row(connection: Connection, char_id: int) -> bool:
    """Lock the row of a character, and return whether there was one.

    If not, one is made that nothing restores. Whoever is about to make one is waited for.
    """
    row = upsert(characters).values(id=char_id, deleted_at=func.now())
    if connection.execute(row.on_conflict_do_nothing()).rowcount:
        return False
    query = select(characters.c.id).where(characters.c.id == char_id)
    connection.execute(query.with_for_update())
    return True


def copy(connection: Connection, char_id: int) -> Copy | None:
    """Lock the rows of a character and return them; None if it has none, or is deleted."""
    is_alive = characters.c.deleted_at.is_(None)
    lock = select(characters.c.id).where(characters.c.id == char_id, is_alive).with_for_update()
    if connection.execute(lock).first() is None:
        return None
    return {table.name: _as_json(connection, table, char_id) for table in (characters, *_OWNED)}


def _as_json(connection: Connection, table: Table, char_id: int) -> str:
    """Return the rows of a character in one table. As text: JSON in Python is not exact."""
    row = func.to_jsonb(literal_column(table.name))
    rows = func.coalesce(func.jsonb_agg(aggregate_order_by(row, cast(row, Text))), text("'[]'"))
    query = select(cast(rows, Text)).select_from(table).where(_key(table) == char_id)
    return connection.execute(query).scalar_one()


def insert_inactive(connection: Connection, char_id: int, rows: Copy) -> None:
    """Insert the rows of a character, over what is here of it, so that nothing restores it.

    Raises DBAPIError if another character has one of its items.
    """
    _drop_items(connection, char_id)
    for table in (characters, *_OWNED):
        names = [one.name for one in table.c]
        row = f"jsonb_populate_recordset(NULL::{table.name}, CAST(:rows AS jsonb)) AS moved"
        source = text(row).bindparams(rows=rows[table.name])
        moved: Any = select(*map(column, names)).select_from(source)
        insert = upsert(table).from_select(names, moved)
        if table is not inventory_items:
            key = [one.name for one in table.primary_key]
            values = {name: insert.excluded[name] for name in names if name not in key}
            insert = insert.on_conflict_do_update(index_elements=key, set_=values)
        connection.execute(insert)
    _set_deleted(connection, char_id, is_deleted=True)


def leave(connection: Connection, char_id: int) -> None:
    """Take a character out of this realm: its rows stay, and nothing restores or saves it.

    But its items go: another character may bring them back.
    """
    _drop_items(connection, char_id)
    _set_deleted(connection, char_id, is_deleted=True)


def activate(connection: Connection, char_id: int) -> None:
    """Let a character be restored and saved here."""
    _set_deleted(connection, char_id, is_deleted=False)


def _set_deleted(connection: Connection, char_id: int, *, is_deleted: bool) -> None:
    moment = func.now() if is_deleted else None
    connection.execute(
        update(characters).where(characters.c.id == char_id).values(deleted_at=moment)
    )


def _drop_items(connection: Connection, char_id: int) -> None:
    connection.execute(delete(inventory_items).where(inventory_items.c.character_id == char_id))


def _key(table: Table) -> Column[Any]:
    return table.c.id if table is characters else table.c.character_id
