"""Owns characters in PostgreSQL: loads and saves on a connection, behind the fence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import (
    Connection,
    FromClause,
    Select,
    Text,
    Tuple,
    bindparam,
    cast,
    func,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert

from statesync.durable import database, stats
from statesync.durable.database import UNREADABLE, Rejected
from statesync.durable.fence import Head, RowHead, Verdict, judge
from statesync.durable.recordset import recordset
from statesync.durable.results import (
    Accepted,
    Behind,
    Busy,
    CharacterDecision,
    Deleted,
    Incomplete,
    Raced,
    Saved,
    Unknown,
    WentBack,
)
from statesync.durable.rows import CoreRows, from_row
from statesync.durable.tables import (
    STATS,
    character_stats,
    characters,
    session_characters,
)
from statesync.errors import CorruptState
from statesync.state.characters import Character
from statesync.state.seals import Seals

__all__ = [
    "ANY_MEMBERSHIP",
    "LOAD",
    "LOAD_ALONE",
    "LOAD_ONE_ALONE",
    "decide",
    "load",
    "load_each",
    "same",
    "versions",
    "write",
]

T = TypeVar("T")

_TEXT_COLUMNS = ("name", "gender", "created_at", "game_stage", "location_id", "prev_location_id")
_CONTENT = (*_TEXT_COLUMNS, "vitals", "extra")


_WRITTEN = (*_CONTENT, "version", "seal", "seal_version")
_batch = recordset(characters, "id", _WRITTEN)

_LOCK = (
    select(
        characters.c.id,
        characters.c.version,
        characters.c.seal,
        characters.c.seal_version,
        characters.c.deleted_at,
    )
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

_INSERT = (
    upsert(characters)
    .from_select(
        ["id", *_WRITTEN],
        select(*(_batch.c[name] for name in ("id", *_WRITTEN))).order_by(_batch.c.id),
    )
    # Only another worker's row is passed over: a game may have unique indexes of its own.
    .on_conflict_do_nothing(index_elements=["id"])
)

_UPDATE = (
    update(characters)
    .where(characters.c.id == _batch.c.id)
    .values({name: _batch.c[name] for name in _WRITTEN} | {"updated_at": func.now()})
)

_JSON = ("vitals", "extra")
# As text: to have the driver decode it takes longer than to read the row.
_ALL = (
    select(
        *(column for column in characters.c if column.name not in (*_JSON, "deleted_at")),
        *(cast(characters.c[name], Text).label(name) for name in _JSON),
        *(character_stats.c[name].label(f"stat_{name}") for name in STATS),
        cast(character_stats.c.extra, Text).label("stats_extra"),
    )
    .outerjoin(character_stats, character_stats.c.character_id == characters.c.id)
    .where(characters.c.deleted_at.is_(None))
)
LOAD = _ALL.where(characters.c.id == func.any(bindparam("ids")))
_LOADED = LOAD.selected_columns.keys()

# A scalar, because PostgreSQL turns NOT EXISTS into a join, which might read all memberships.
ANY_MEMBERSHIP = (
    select(session_characters.c.session_id)
    .where(
        session_characters.c.character_id == characters.c.id,
        session_characters.c.left_at.is_(None),
    )
    .limit(1)
    .scalar_subquery()
)
"""Of the character of a query on ``characters``: a session that it is in, or NULL."""
LOAD_ALONE = LOAD.where(ANY_MEMBERSHIP.is_(None))
"""Only characters that are in no session."""
# PostgreSQL plans it in half the time: a login is mostly that.
LOAD_ONE_ALONE = _ALL.where(characters.c.id == bindparam("id"), ANY_MEMBERSHIP.is_(None))
"""The first one, if it is in no session."""


def decide(
    connection: Connection,
    snapshots: Iterable[CoreRows],
    seals: Mapping[Any, Seals],
    *,
    wait: bool = True,
) -> dict[int, CharacterDecision]:
    """Lock the rows of snapshots and decide what a save may do to each, by id; write nothing.

    ``seals`` says of each, by id, what it knew of its history; ``judge`` is the fence. Without
    ``wait`` a row that another transaction has locked is Busy.
    """
    by_id = {snapshot.row.id: snapshot for snapshot in snapshots}
    rows = _lock(connection, list(by_id), wait=wait)
    decided: dict[int, CharacterDecision] = {}
    not_locked = by_id.keys() - rows.keys()
    if not_locked:
        existing = set(connection.execute(_EXISTING, {"ids": list(not_locked)}).scalars())
        decided |= dict.fromkeys(existing, Busy())
    verdicts: dict[int, Verdict] = {}
    compared: list[CoreRows] = []
    for char_id, snapshot in by_id.items():
        if char_id in decided:
            continue
        row, known = rows.get(char_id), seals[char_id]
        head = Head(snapshot.row.version, snapshot.saved_version, known)
        verdicts[char_id] = verdict = judge(head, row)
        if _needs_comparison(verdict, snapshot, row, known):
            compared.append(snapshot)
    found_same = same(connection, compared)
    for char_id, verdict in verdicts.items():
        is_same = char_id in found_same
        decided[char_id] = _decision(verdict, rows.get(char_id), seals[char_id], is_same=is_same)
    decided |= _incomplete(connection, by_id, verdicts, decided)
    return decided


def _lock(connection: Connection, char_ids: Sequence[int], *, wait: bool) -> dict[int, RowHead]:
    """Lock rows and return their heads, by id; without ``wait`` only those that nobody else has."""
    lock = _LOCK if wait else _LOCK_UNLOCKED
    return {
        char_id: RowHead(version, seal, seal_version, deleted_at is not None)
        for char_id, version, seal, seal_version, deleted_at in connection.execute(
            lock, {"ids": char_ids}
        ).all()
    }


def _needs_comparison(
    verdict: Verdict, snapshot: CoreRows, row: RowHead | None, seals: Seals
) -> bool:
    """Return whether it matters that the row holds the same state.

    Then it need not be written; but only if it is the version before and no other snapshot was
    taken since: the commit of that one may still be on its way.
    """
    if row is None or row.is_ended:
        return False
    if verdict is Verdict.NEWER:
        return row.version == snapshot.version - 1 and seals.last in (row.valid_seal, None)
    return verdict in (Verdict.UNKNOWN, Verdict.WENT_BACK)


def _decision(
    verdict: Verdict, row: RowHead | None, seals: Seals, *, is_same: bool
) -> CharacterDecision:
    """Return what a save may do, by what the fence says."""
    if row is None:
        is_new = verdict is Verdict.NEW
        return Accepted(new=True) if is_new else WentBack(None, is_certain=True)
    if verdict in (Verdict.NEWER, Verdict.STUMP):
        return Saved(row.version, changed=False, seal=row.valid_seal) if is_same else Accepted()
    unknown = Unknown(row.version, row.valid_seal, same=is_same, is_deleted=row.is_ended)
    decisions: dict[Verdict, CharacterDecision] = {
        Verdict.DELETED: Deleted(),
        Verdict.REPEATED: Saved(row.version, changed=True, seal=row.seal),
        Verdict.BEHIND: Behind(row.version),
        Verdict.UNKNOWN: unknown,
        Verdict.WENT_BACK: WentBack(unknown, is_certain=not seals.is_bare),
    }
    return decisions[verdict]


def write(
    connection: Connection,
    new: Sequence[CoreRows],
    over: Sequence[CoreRows],
) -> None:
    """Write what ``decide`` has accepted, in its transaction; durable when the caller commits.

    ``over`` are snapshots whose rows exist, and are locked. Raises Raced if another worker made one
    of the ``new`` rows meanwhile, or if one of the others is not written.
    """
    for statement, snapshots in ((_INSERT, new), (_UPDATE, over)):
        rows = {"rows": [snapshot.row for snapshot in snapshots]}
        if snapshots and connection.execute(statement, rows).rowcount < len(snapshots):
            raise Raced
    written = [*new, *over]
    stats.write(connection, [snapshot.stats for snapshot in written if snapshot.stats])


def load(connection: Connection, char_ids: Iterable[int]) -> dict[int, Character]:
    """Load the characters that exist and are not deleted, as they were last saved, by id.

    Raises CorruptState if a row cannot be read.
    """
    loaded: dict[int, Character] = {}
    for char_id, row in load_each(connection, char_ids, LOAD, from_row).items():
        if isinstance(row, CorruptState):
            raise row
        loaded[char_id] = row
    return loaded


def load_each(
    connection: Connection,
    char_ids: Iterable[int],
    query: Select[Any],
    read: Callable[[Mapping[str, Any]], T],
) -> dict[int, T | CorruptState]:
    """Load characters as ``load`` does, each as ``read`` reads a row of ``query``.

    The result for a row that cannot be read is its error.
    """
    ids = list(char_ids)
    try:
        rows = database.fetch(connection, query, {"ids": ids, "id": ids[0] if ids else None})
    except UNREADABLE:
        if len(ids) == 1:
            return {ids[0]: _unreadable_column(connection, ids[0], query)}
        middle = len(ids) // 2
        first = load_each(connection, ids[:middle], query, read)
        return first | load_each(connection, ids[middle:], query, read)
    loaded: dict[int, T | CorruptState] = {}
    for values in rows:
        row = dict(zip(_LOADED, values, strict=True))
        try:
            loaded[row["id"]] = read(row)
        except CorruptState as error:
            loaded[row["id"]] = error
    return loaded


def _unreadable_column(connection: Connection, char_id: int, query: Select[Any]) -> CorruptState:
    """Return which column of a row cannot be read, and why."""
    for column in query.selected_columns:
        alone = query.with_only_columns(column, maintain_column_froms=True)
        try:
            connection.execute(alone, {"ids": [char_id], "id": char_id}).all()
        except UNREADABLE as error:
            return CorruptState(
                char_id, str(column.key), f"cannot be read from PostgreSQL: {error}"
            )
    return CorruptState(char_id, "(row)", "cannot be read from PostgreSQL")


def versions(connection: Connection, char_ids: Iterable[int]) -> dict[int, int]:
    """Return the versions of the characters that exist and are not deleted, by id."""
    query = select(characters.c.id, characters.c.version).where(
        characters.c.id == func.any(bindparam("ids")), characters.c.deleted_at.is_(None)
    )
    return {row.id: row.version for row in connection.execute(query, {"ids": list(char_ids)})}


def deleted_at(connection: Connection, char_id: int) -> str | None:
    """Return when a character was deleted, as PostgreSQL writes it; None if it is not."""
    query = select(cast(characters.c.deleted_at, Text)).where(characters.c.id == char_id)
    return connection.execute(query).scalar()


def same(connection: Connection, snapshots: Sequence[CoreRows]) -> set[int]:
    """Return the ids of those that hold what their rows in PostgreSQL, which are locked, hold."""
    if not snapshots:
        return set()
    rows = {"rows": [snapshot.row for snapshot in snapshots]}
    found = set(connection.execute(_SAME, rows).scalars())
    compared = [one.stats for one in snapshots if one.stats and one.char_id in found]
    return found - stats.differing(connection, compared)


def _incomplete(
    connection: Connection,
    snapshots: Mapping[int, CoreRows],
    verdicts: Mapping[int, Verdict],
    decided: Mapping[int, CharacterDecision],
) -> dict[int, Incomplete]:
    """Return the snapshots that lack fields of their rows, by id: stumps, and cores without a core
    field that the row has. Raises Rejected if a row cannot be read."""
    stumps = {i for i, verdict in verdicts.items() if verdict is Verdict.STUMP}
    lacking = (char_id for char_id, snapshot in snapshots.items() if snapshot.absent)
    suspects = stumps | {char_id for char_id in lacking if decided[char_id] == Accepted()}
    if not suspects:
        return {}
    incomplete = {}
    for char_id, row in load_each(connection, suspects, LOAD, from_row).items():
        if isinstance(row, CorruptState):
            raise Rejected(f"the row that it would overwrite cannot be read: {row}", locked=False)
        lacks = any(getattr(row, name) is not None for name in snapshots[char_id].absent)
        if lacks or char_id in stumps:
            incomplete[char_id] = Incomplete(row, is_stump=char_id in stumps)
    return incomplete
