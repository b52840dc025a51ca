"""Owns characters in PostgreSQL: loads and saves on a connection, fenced by version."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    Connection,
    FromClause,
    Select,
    Tuple,
    bindparam,
    func,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert

from statesync.durable.database import Rejected
from statesync.durable.recordset import recordset
from statesync.durable.results import (
    Accepted,
    Busy,
    CharacterDecision,
    Deleted,
    Incomplete,
    Raced,
    Refused,
    Saved,
)
from statesync.durable.rows import from_row, to_row, to_stats_row
from statesync.durable.tables import (
    STATS,
    character_stats,
    characters,
    session_characters,
    sessions,
    state_conflicts,
)
from statesync.errors import CorruptState
from statesync.state.characters import CORE_FIELDS, Character

__all__ = [
    "LOAD",
    "LOAD_ALONE",
    "active",
    "count_active",
    "decide",
    "load",
    "load_each",
    "record_conflict",
    "versions",
    "write",
]

_TEXT_COLUMNS = ("name", "gender", "created_at", "game_stage", "location_id", "prev_location_id")
_CONTENT = (*_TEXT_COLUMNS, "vitals", "extra")
_STATS_CONTENT = (*STATS, "extra")


_batch = recordset(characters, "id", (*_CONTENT, "version"))
_stats_batch = recordset(character_stats, "character_id", _STATS_CONTENT)

_LOCK = (
    select(characters.c.id, characters.c.version, characters.c.deleted_at)
    .where(characters.c.id == func.any(bindparam("ids")))
    .order_by(characters.c.id)  # every transaction locks in the same order: no deadlock
    .with_for_update(key_share=True)
)
_LOCK_UNLOCKED = _LOCK.with_for_update(key_share=True, skip_locked=True)

_EXISTING = select(characters.c.id).where(characters.c.id == func.any(bindparam("ids")))


def _columns(table: FromClause, names: Sequence[str]) -> Tuple:
    return tuple_(*(table.c[name] for name in names))


_SAME = (
    select(_batch.c.id)
    .join(characters, characters.c.id == _batch.c.id)
    .where(_columns(characters, _CONTENT).is_not_distinct_from(_columns(_batch, _CONTENT)))
)

_SAME_STATS = (
    select(_stats_batch.c.character_id)
    .join(character_stats, character_stats.c.character_id == _stats_batch.c.character_id)
    .where(
        _columns(character_stats, _STATS_CONTENT).is_not_distinct_from(
            _columns(_stats_batch, _STATS_CONTENT)
        )
    )
)

_INSERT = (
    upsert(characters)
    .from_select(
        ["id", *_CONTENT, "version"],
        select(*(_batch.c[name] for name in ("id", *_CONTENT, "version"))).order_by(_batch.c.id),
    )
    .on_conflict_do_nothing()
)

_UPDATE = (
    update(characters)
    .where(characters.c.id == _batch.c.id, characters.c.version < _batch.c.version)
    .values({name: _batch.c[name] for name in (*_CONTENT, "version")} | {"updated_at": func.now()})
)

_WITH_ID = ("character_id", *_STATS_CONTENT)
# Rows that do not differ are left out: the upsert would lock them.
_insert_stats = upsert(character_stats).from_select(
    _WITH_ID,
    select(*(_stats_batch.c[name] for name in _WITH_ID))
    .outerjoin(character_stats, character_stats.c.character_id == _stats_batch.c.character_id)
    .where(_columns(character_stats, _WITH_ID).is_distinct_from(_columns(_stats_batch, _WITH_ID)))
    .order_by(_stats_batch.c.character_id),
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

# A scalar, because PostgreSQL turns NOT EXISTS into a join, which might read all memberships.
_any_membership = (
    select(session_characters.c.session_id)
    .where(
        session_characters.c.character_id == characters.c.id,
        session_characters.c.left_at.is_(None),
    )
    .limit(1)
    .scalar_subquery()
)
LOAD_ALONE = LOAD.where(_any_membership.is_(None))
"""A query for ``load``: only characters that are in no session."""


def decide(
    connection: Connection, snapshots: Iterable[Character], *, wait: bool = True
) -> dict[int, CharacterDecision]:
    """Lock the rows of snapshots and decide what a save may do to each, by id; write nothing.

    The fence: a save changes a row only if its version is older. Without ``wait`` a row that
    another transaction has locked is Busy.
    """
    by_id = {snapshot.char_id: snapshot for snapshot in snapshots}
    decided: dict[int, CharacterDecision] = {}
    close: dict[int, int] = {}
    lock = _LOCK if wait else _LOCK_UNLOCKED
    for char_id, version, deleted_at in connection.execute(lock, {"ids": list(by_id)}):
        snapshot = by_id[char_id]
        if deleted_at is not None:
            decided[char_id] = Deleted()
        elif version > snapshot.version:
            decided[char_id] = Refused(version)
        elif version < snapshot.version - 1:
            decided[char_id] = Accepted()
        else:
            close[char_id] = version
    if not_locked := by_id.keys() - decided.keys() - close.keys():
        existing = set(connection.execute(_EXISTING, {"ids": list(not_locked)}).scalars())
        decided |= {i: Busy() if i in existing else Accepted(new=True) for i in not_locked}
    decided |= _decide_by_state(connection, by_id, close)
    over = [by_id[i] for i, d in decided.items() if isinstance(d, Accepted) and not d.new]
    decided |= _incomplete(connection, over)
    return decided


def _decide_by_state(
    connection: Connection, snapshots: Mapping[int, Character], row_versions: Mapping[int, int]
) -> dict[int, CharacterDecision]:
    """Decide for rows at the version of their snapshot or the one before.

    The same state needs no write. Another state under the snapshot's own version is of another
    history; otherwise that version means that this very save is repeated.
    """
    decided: dict[int, CharacterDecision] = {}
    same = _same(connection, [snapshots[char_id] for char_id in row_versions])
    for char_id, version in row_versions.items():
        own_version = version == snapshots[char_id].version
        if char_id in same:
            decided[char_id] = Saved(version, changed=own_version)
        else:
            decided[char_id] = Refused(version) if own_version else Accepted()
    return decided


def write(
    connection: Connection, new: Sequence[Character], over: Sequence[Character]
) -> dict[int, Saved]:
    """Write what ``decide`` has accepted, in its transaction; durable when the caller commits.

    ``over`` are snapshots whose rows exist. Raises Raced if another worker made one of the ``new``
    rows meanwhile.
    """
    for statement, snapshots in ((_INSERT, new), (_UPDATE, over)):
        if snapshots:
            rows = {"rows": [to_row(c) for c in snapshots]}
            if connection.execute(statement, rows).rowcount < len(snapshots):
                raise Raced
    _write_stats(connection, [*new, *over])
    return {c.char_id: Saved(c.version, changed=True) for c in (*new, *over)}


def load(
    connection: Connection, char_ids: Iterable[int], query: Select[Any] = LOAD
) -> dict[int, Character]:
    """Load the characters that exist and are not deleted, as they were last saved, by id.

    ``query`` is LOAD or LOAD_ALONE. Raises CorruptState if a row cannot be read.
    """
    loaded: dict[int, Character] = {}
    for char_id, row in load_each(connection, char_ids, query).items():
        if isinstance(row, CorruptState):
            raise row
        loaded[char_id] = row
    return loaded


def load_each(
    connection: Connection, char_ids: Iterable[int], query: Select[Any] = LOAD
) -> dict[int, Character | CorruptState]:
    """Load characters as ``load`` does; the result for a row that cannot be read is its error."""
    loaded: dict[int, Character | CorruptState] = {}
    for row in connection.execute(query, {"ids": list(char_ids)}).mappings():
        try:
            loaded[row["id"]] = from_row(row)
        except CorruptState as error:
            loaded[row["id"]] = error
    return loaded


def versions(connection: Connection, char_ids: Iterable[int]) -> dict[int, int]:
    """Return the versions of the characters that exist and are not deleted, by id."""
    query = select(characters.c.id, characters.c.version).where(
        characters.c.id == func.any(bindparam("ids")), characters.c.deleted_at.is_(None)
    )
    return {row.id: row.version for row in connection.execute(query, {"ids": list(char_ids)})}


def active(connection: Connection, hours: float, after: int, limit: int) -> list[int]:
    """Return the ids of characters that are in an open session or were saved within ``hours``: the
    first ``limit`` of those above ``after``."""
    query = _active_ids(hours).where(characters.c.id > after).order_by(characters.c.id).limit(limit)
    return list(connection.execute(query).scalars())


def count_active(connection: Connection, hours: float) -> int:
    """Return how many characters ``active`` returns, page after page."""
    query = select(func.count()).select_from(_active_ids(hours).subquery())
    return connection.execute(query).scalar_one()


def _active_ids(hours: float) -> Select[int]:
    in_session = (
        select(session_characters.c.character_id)
        .join(sessions, sessions.c.id == session_characters.c.session_id)
        .where(
            session_characters.c.character_id == characters.c.id,
            session_characters.c.left_at.is_(None),
            sessions.c.closed_at.is_(None),
        )
        .exists()
    )
    recent = characters.c.updated_at > func.now() - func.make_interval(
        0, 0, 0, 0, 0, 0, hours * 3600
    )
    return select(characters.c.id).where(characters.c.deleted_at.is_(None), recent | in_session)


def record_conflict(connection: Connection, char_id: int, reason: str) -> None:
    """Copy the row of a character, whole, to ``state_conflicts``; the same version only once."""
    state = func.jsonb_build_object(
        text("'character', to_jsonb(characters)"),
        text("'stats', (SELECT to_jsonb(s) FROM character_stats s WHERE character_id = id)"),
    )
    losing = select(
        characters.c.id, characters.c.version, bindparam("reason", reason), state
    ).where(characters.c.id == char_id)
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
    """Return the ids whose rows, which are locked, hold the same state as the snapshot."""
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
    """Return the snapshots that lack core fields of their rows, by id.

    A row is recorded as a conflict if its core was made anew without a restore and lacks own fields
    of the game that the row has: they are about to be lost. Raises Rejected if one cannot be read.
    """
    suspects = {
        c.char_id: c
        for c in accepted
        if c.saved_version is None or any(getattr(c, name) is None for name in CORE_FIELDS)
    }
    if not suspects:
        return {}
    incomplete = {}
    for char_id, row in load_each(connection, suspects).items():
        if isinstance(row, CorruptState):
            raise Rejected(f"the row that it would overwrite cannot be read: {row}", locked=False)
        snapshot = suspects[char_id]
        if snapshot.saved_version is None and row.fields.keys() - snapshot.fields.keys():
            record_conflict(connection, char_id, "the core was made without a restore")
        pairs = [(getattr(snapshot, name), getattr(row, name)) for name in CORE_FIELDS]
        if any(in_snapshot is None and in_row is not None for in_snapshot, in_row in pairs):
            incomplete[char_id] = Incomplete(row)
    return incomplete
