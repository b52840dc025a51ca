"""Owns the form of a character in PostgreSQL: loads and saves on a connection, fenced by version.

Whatever a column cannot hold exactly (an unknown stat, a key of ``bio``, the game's own field, a
time with another offset) goes to ``extra`` and comes back from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    Connection,
    FromClause,
    RowMapping,
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

from statesync import codec
from statesync.codec import CORE_FIELDS, Character
from statesync.models import STATS, character_stats, characters, state_conflicts

__all__ = [
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

_LOAD = select(
    characters,
    *(character_stats.c[name].label(f"stat_{name}") for name in STATS),
    character_stats.c.extra.label("stats_extra"),
    character_stats.c.character_id.label("has_stats"),
).join(character_stats, character_stats.c.character_id == characters.c.id, isouter=True)


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
            rows = {"rows": [_to_row(c) for c in snapshots]}
            if connection.execute(statement, rows).rowcount < len(snapshots):
                raise Raced
    _write_stats(connection, [*new, *over])
    return {c.char_id: Saved(c.version, changed=True) for c in (*new, *over)}


def load(connection: Connection, char_ids: Iterable[int]) -> dict[int, Character]:
    """Load the characters that exist and are not deleted, as they were last saved, by id."""
    query = _LOAD.where(
        characters.c.id == func.any(bindparam("ids")), characters.c.deleted_at.is_(None)
    )
    rows = connection.execute(query, {"ids": list(char_ids)}).mappings()
    return {row["id"]: _from_row(row) for row in rows}


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
    rows = [_to_stats_row(c) for c in written if c.stats is not None]
    if rows:
        connection.execute(_UPSERT_STATS, {"rows": rows})


def _same(connection: Connection, snapshots: Sequence[Character]) -> set[int]:
    """Return the ids whose rows, which are locked, hold exactly the state of the snapshot."""
    if not snapshots:
        return set()
    rows = {"rows": [_to_row(c) for c in snapshots]}
    same = set(connection.execute(_SAME, rows).scalars())
    with_stats = [c for c in snapshots if c.stats is not None and c.char_id in same]
    if with_stats:
        rows = {"rows": [_to_stats_row(c) for c in with_stats]}
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


def _to_row(character: Character) -> dict[str, Any]:
    bio, more_bio = _split(character.bio, {"name": str, "gender": str, "created_at": _utc})
    location, more_location = _split(character.location, {"current": str, "prev": str})
    extra: dict[str, Any] = dict(character.fields)
    if more_bio is not None:
        extra["bio"] = more_bio
    if more_location is not None:
        extra["location"] = more_location
    return {
        "id": character.char_id,
        **bio,
        "game_stage": character.state,
        "location_id": location["current"],
        "prev_location_id": location["prev"],
        "vitals": character.vitals,
        "extra": extra,
        "version": character.version,
    }


def _split(
    value: Mapping[str, Any] | None, columns: Mapping[str, Callable[[Any], str]]
) -> tuple[dict[str, str | None], dict[str, Any] | None]:
    """Return what goes to the columns, and the rest that they cannot hold exactly, if any."""
    held: dict[str, str | None] = dict.fromkeys(columns)
    if value is None:
        return held, None
    rest = {}
    for key, item in value.items():
        if item is not None and key in columns:
            held[key] = columns[key](item)
        if item is None or held.get(key) != item:
            rest[key] = item
    return held, rest if rest or not any(held.values()) else None


def _utc(moment: object) -> str:
    return codec.parse_time(moment).isoformat()


def _to_stats_row(character: Character) -> dict[str, Any]:
    stats = dict(character.stats or {})
    known = {name: stats.pop(name, None) for name in STATS}
    return {"character_id": character.char_id, **known, "extra": stats}


def _from_row(row: RowMapping) -> Character:
    extra = dict(row["extra"])
    created_at: datetime | None = row["created_at"]
    bio = _present(
        name=row["name"],
        gender=row["gender"],
        created_at=created_at and created_at.astimezone(UTC).isoformat(),
    )
    location = _present(current=row["location_id"], prev=row["prev_location_id"])
    more_bio, more_location = extra.pop("bio", None), extra.pop("location", None)
    stats = None
    if row["has_stats"] is not None:
        stats = _present(**{name: row[f"stat_{name}"] for name in STATS}) | row["stats_extra"]
    return Character(
        char_id=row["id"],
        state=row["game_stage"],
        location=_joined(location, more_location),
        bio=_joined(bio, more_bio),
        stats=stats,
        vitals=row["vitals"],
        fields=extra,
        version=row["version"],
        saved_version=row["version"],
    )


def _present(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _joined(columns: dict[str, Any], more: dict[str, Any] | None) -> dict[str, Any] | None:
    return columns | (more or {}) if columns or more is not None else None
