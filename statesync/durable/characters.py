"""Owns characters in PostgreSQL: loads and saves on a connection, fenced by version."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Connection,
    FromClause,
    Table,
    Tuple,
    bindparam,
    column,
    func,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import JSON
from sqlalchemy.dialects.postgresql import insert as upsert

from statesync.durable.rows import from_row, to_row, to_stats_row
from statesync.durable.tables import STATS, character_stats, characters, state_conflicts
from statesync.state.characters import CORE_FIELDS, Character

__all__ = [
    "LOAD",
    "Accepted",
    "Busy",
    "Deleted",
    "HeldBack",
    "Incomplete",
    "Raced",
    "Refused",
    "Result",
    "Saved",
    "decide",
    "load",
    "record_conflict",
    "recordset",
    "versions",
    "write",
]


@dataclass(frozen=True, slots=True)
class Saved:
    """The row holds this state now; ``version`` is the row's."""

    version: int
    changed: bool
    """False where the row held the same state before and was not touched."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The row is not older: it holds ``version``, and not this state."""

    version: int


@dataclass(frozen=True, slots=True)
class Incomplete:
    """The row holds fields that the snapshot lacks; saving it would lose them."""

    row: Character


@dataclass(frozen=True, slots=True)
class Deleted:
    """The character was deleted; nothing is saved."""


@dataclass(frozen=True, slots=True)
class Busy:
    """Somebody else's transaction holds the row."""


@dataclass(frozen=True, slots=True)
class HeldBack:
    """Nothing is wrong with it, but with another of its group, which is saved whole or not."""


Result = Saved | Refused | Incomplete | Deleted | Busy | HeldBack


@dataclass(frozen=True, slots=True)
class Accepted:
    """The fence lets it pass."""

    new: bool = False
    """There is no row yet."""


class Raced(Exception):
    """Another worker made the row between two statements; begin the transaction again."""


_BATCH_COLUMNS = ("name", "gender", "created_at", "game_stage", "location_id", "prev_location_id")
_CONTENT = (*_BATCH_COLUMNS, "vitals", "extra")
_STATS_CONTENT = (*STATS, "extra")


def recordset(table: Table, key: str, names: Sequence[str]) -> FromClause:
    """Return the bind parameter ``rows``, a JSON list of objects, as a table of ``table``'s types.

    One parameter for the whole batch: PostgreSQL unpacks it faster than Python writes rows.
    """
    columns = [column(name, table.c[name].type) for name in (key, *names)]
    rows = func.json_to_recordset(bindparam("rows", type_=JSON))
    return rows.table_valued(*columns, name="batch").render_derived(with_types=True)


_rows = recordset(characters, "id", (*_CONTENT, "version"))
_stats_rows = recordset(character_stats, "character_id", _STATS_CONTENT)

_LOCK = (
    select(characters.c.id, characters.c.version, characters.c.deleted_at)
    .where(characters.c.id == func.any(bindparam("ids")))
    .order_by(characters.c.id)  # every transaction locks in the same order: no deadlock
    .with_for_update(key_share=True)
)
_LOCK_FREE = _LOCK.with_for_update(key_share=True, skip_locked=True)

_KNOWN = select(characters.c.id).where(characters.c.id == func.any(bindparam("ids")))


def _all(table: FromClause, names: Sequence[str]) -> Tuple:
    return tuple_(*(table.c[name] for name in names))


_SAME = (
    select(_rows.c.id)
    .join(characters, characters.c.id == _rows.c.id)
    .where(_all(characters, _CONTENT).is_not_distinct_from(_all(_rows, _CONTENT)))
)

_SAME_STATS = (
    select(_stats_rows.c.character_id)
    .join(character_stats, character_stats.c.character_id == _stats_rows.c.character_id)
    .where(
        _all(character_stats, _STATS_CONTENT).is_not_distinct_from(
            _all(_stats_rows, _STATS_CONTENT)
        )
    )
)

_INSERT = (
    upsert(characters)
    .from_select(
        ["id", *_CONTENT, "version"],
        select(*(_rows.c[name] for name in ("id", *_CONTENT, "version"))).order_by(_rows.c.id),
    )
    .on_conflict_do_nothing()
)

_UPDATE = (
    update(characters)
    .where(characters.c.id == _rows.c.id, characters.c.version < _rows.c.version)
    .values({name: _rows.c[name] for name in (*_CONTENT, "version")} | {"updated_at": func.now()})
)

_WITH_ID = ("character_id", *_STATS_CONTENT)
# Only what differs gets as far as the upsert, which would lock every row.
_insert_stats = upsert(character_stats).from_select(
    _WITH_ID,
    select(*(_stats_rows.c[name] for name in _WITH_ID))
    .outerjoin(character_stats, character_stats.c.character_id == _stats_rows.c.character_id)
    .where(_all(character_stats, _WITH_ID).is_distinct_from(_all(_stats_rows, _WITH_ID)))
    .order_by(_stats_rows.c.character_id),
)
_UPSERT_STATS = _insert_stats.on_conflict_do_update(
    index_elements=["character_id"],
    set_={name: _insert_stats.excluded[name] for name in _STATS_CONTENT},
)

LOAD = (
    select(
        characters,
        *(character_stats.c[name].label(f"stat_{name}") for name in STATS),
        character_stats.c.extra.label("stats_extra"),
        character_stats.c.character_id.label("has_stats"),
    )
    .outerjoin(character_stats, character_stats.c.character_id == characters.c.id)
    .where(characters.c.id == func.any(bindparam("ids")), characters.c.deleted_at.is_(None))
)


def decide(
    connection: Connection, snapshots: Iterable[Character], *, wait: bool = True
) -> dict[int, Result | Accepted]:
    """Lock the rows of snapshots and say what is to become of each, by id; nothing is written.

    A row may change only where its version is older: the fence. Rows that somebody else has locked
    are waited for, or Busy without ``wait``.
    """
    todo = {snapshot.char_id: snapshot for snapshot in snapshots}
    decided: dict[int, Result | Accepted] = {}
    doubtful: dict[int, int] = {}
    lock = _LOCK if wait else _LOCK_FREE
    for char_id, version, deleted_at in connection.execute(lock, {"ids": list(todo)}):
        snapshot = todo[char_id]
        if deleted_at is not None:
            decided[char_id] = Deleted()
        elif version < snapshot.version - 1:
            decided[char_id] = Accepted()
        elif version <= snapshot.version:
            doubtful[char_id] = version
        else:
            decided[char_id] = Refused(version)
    if unseen := todo.keys() - decided.keys() - doubtful.keys():
        there = set(connection.execute(_KNOWN, {"ids": list(unseen)}).scalars())
        decided |= {i: Busy() if i in there else Accepted(new=True) for i in unseen}
    # A row right before the snapshot may hold the same state: then it stays untouched. One that
    # bears the snapshot's own version is this very save, repeated, or not of this history.
    same = _same(connection, [todo[char_id] for char_id in doubtful])
    for char_id, version in doubtful.items():
        if char_id in same:
            decided[char_id] = Saved(version, changed=version == todo[char_id].version)
        elif version == todo[char_id].version:
            decided[char_id] = Refused(version)
        else:
            decided[char_id] = Accepted()
    over = [todo[i] for i, d in decided.items() if isinstance(d, Accepted) and not d.new]
    decided.update(_incomplete(connection, over))
    return decided


def write(
    connection: Connection, new: Sequence[Character], over: Sequence[Character]
) -> dict[int, Saved]:
    """Write what ``decide`` has accepted, in its transaction; durable when the caller commits.

    Raises Raced where another worker made one of the new rows meanwhile.
    """
    for statement, snapshots in ((_INSERT, new), (_UPDATE, over)):
        if snapshots:
            rows = {"rows": [to_row(c) for c in snapshots]}
            if connection.execute(statement, rows).rowcount < len(snapshots):
                raise Raced
    _write_stats(connection, [*new, *over])
    return {c.char_id: Saved(c.version, changed=True) for c in (*new, *over)}


def load(
    connection: Connection, char_ids: Iterable[int], query: Any = LOAD
) -> dict[int, Character]:
    """Load the characters that exist and are not deleted, as they were last saved, by id."""
    rows = connection.execute(query, {"ids": list(char_ids)}).mappings()
    return {row["id"]: from_row(row) for row in rows}


def versions(connection: Connection, char_ids: Iterable[int]) -> dict[int, int]:
    """Return the versions of the characters that exist and are not deleted, by id."""
    query = select(characters.c.id, characters.c.version).where(
        characters.c.id == func.any(bindparam("ids")), characters.c.deleted_at.is_(None)
    )
    return {row.id: row.version for row in connection.execute(query, {"ids": list(char_ids)})}


def record_conflict(connection: Connection, char_id: int, reason: str) -> None:
    """Copy the row of a character, whole, to ``state_conflicts``; the same version only once."""
    side = func.jsonb_build_object(
        text("'character', to_jsonb(characters)"),
        text("'stats', (SELECT to_jsonb(s) FROM character_stats s WHERE character_id = id)"),
    )
    losing = select(characters.c.id, characters.c.version, bindparam("reason", reason), side).where(
        characters.c.id == char_id
    )
    connection.execute(
        upsert(state_conflicts)
        .from_select(["character_id", "version", "reason", "state"], losing)
        .on_conflict_do_nothing()
    )


def _write_stats(connection: Connection, written: Sequence[Character]) -> None:
    rows = [to_stats_row(c) for c in written if c.stats is not None]
    if rows:
        connection.execute(_UPSERT_STATS, {"rows": rows})


def _same(connection: Connection, snapshots: Sequence[Character]) -> set[int]:
    """Return the ids whose rows, which are locked, hold exactly the state of the snapshot."""
    if not snapshots:
        return set()
    rows = {"rows": [to_row(c) for c in snapshots]}
    same = set(connection.execute(_SAME, rows).scalars())
    with_stats = [c for c in snapshots if c.stats is not None and c.char_id in same]
    if with_stats:
        rows = {"rows": [to_stats_row(c) for c in with_stats]}
        same_stats = set(connection.execute(_SAME_STATS, rows).scalars())
        same -= {c.char_id for c in with_stats} - same_stats
    return same


def _incomplete(connection: Connection, accepted: Sequence[Character]) -> dict[int, Incomplete]:
    """Return the snapshots that lack what their rows hold.

    A row that has own fields of the game's which a core made without a restore lacks is recorded.
    """
    partial = {
        c.char_id: c
        for c in accepted
        if c.saved_version is None or any(getattr(c, name) is None for name in CORE_FIELDS)
    }
    found = {}
    for char_id, row in (load(connection, partial) if partial else {}).items():
        held = partial[char_id]
        if held.saved_version is None and row.fields.keys() - held.fields.keys():
            record_conflict(connection, char_id, "the core was made without a restore")
        pairs = [(getattr(held, name), getattr(row, name)) for name in CORE_FIELDS]
        if any(mine is None and theirs is not None for mine, theirs in pairs):
            found[char_id] = Incomplete(row)
    return found
