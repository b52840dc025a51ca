"""Owns fights: fields in ``sessions.payload``, and a log that only grows, in ``combat_log``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    Connection,
    Row,
    Uuid,
    bindparam,
    delete,
    func,
    insert,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import insert as upsert

from statesync.durable.recordset import recordset
from statesync.durable.tables import combat_log, state_conflicts
from statesync.sessions.base import SessionOrchestrator
from statesync.state.sessions import Session

__all__ = ["CombatOrchestrator"]

_ENTRIES_PER_STATEMENT = 5_000

_batch = recordset(combat_log, "session_id", ("seq", "entry"))
# The recordset turns JSON's null, an entry like any other, into SQL's.
_entry = func.coalesce(_batch.c.entry, text("'null'::jsonb"))
_same_place = (combat_log.c.session_id == _batch.c.session_id, combat_log.c.seq == _batch.c.seq)
_DELETE_CONTRADICTED = (
    delete(combat_log)
    .where(*_same_place, combat_log.c.entry.is_distinct_from(_entry))
    .returning(combat_log)
)
_DELETE_BEYOND_END = (
    delete(combat_log)
    .where(combat_log.c.session_id == bindparam("session"), combat_log.c.seq >= bindparam("end"))
    .returning(combat_log)
)
_APPEND = (
    upsert(combat_log)
    .from_select(
        ["session_id", "seq", "entry"],
        select(_batch.c.session_id, _batch.c.seq, _entry).order_by(
            _batch.c.session_id, _batch.c.seq
        ),
    )
    .on_conflict_do_nothing()
)
_ids = func.unnest(bindparam("ids", type_=ARRAY(Uuid))).table_valued("id").render_derived()
_last = select(func.max(combat_log.c.seq)).where(combat_log.c.session_id == _ids.c.id)
_end = _last.lateral("end")
_LAST = select(_ids.c.id, *_end.c).join(_end, _end.c[0].is_not(None))


class CombatOrchestrator(SessionOrchestrator):
    """A fight: ``monsters``, ``turn_order`` and a log of what happened."""

    session_type = "combat"
    states = ("combat",)
    json_fields = ("monsters", "turn_order")
    has_log = True

    def save(self, connection: Connection, snapshots: Sequence[Session]) -> None:
        """Append the new entries of the logs. Rows that Redis contradicts go to state_conflicts."""
        ends = self.saved_log(connection, [session.id for session in snapshots])
        rows = _new_rows(snapshots)
        while batch := list(islice(rows, _ENTRIES_PER_STATEMENT)):
            if any(row["seq"] < ends.get(row["session_id"], 0) for row in batch):
                deleted = connection.execute(_DELETE_CONTRADICTED, {"rows": batch})
                _record_conflicts(connection, snapshots, deleted)
            connection.execute(_APPEND, {"rows": batch})
        for session in snapshots:
            if ends.get(session.id, 0) > session.log_length:
                parameters = {"session": session.id, "end": session.log_length}
                deleted = connection.execute(_DELETE_BEYOND_END, parameters)
                _record_conflicts(connection, [session], deleted)

    def load(self, connection: Connection, char_ids: Sequence[int]) -> dict[int, Session]:
        """Return fights with their whole logs."""
        open_sessions = self.open_sessions(connection, char_ids)
        query = (
            select(combat_log.c.session_id, combat_log.c.entry)
            .where(combat_log.c.session_id == func.any(bindparam("ids")))
            .order_by(combat_log.c.session_id, combat_log.c.seq)
        )
        logs: dict[UUID, list[Any]] = defaultdict(list)
        ids = list({session.id for session in open_sessions.values()})
        for session_id, entry in connection.execute(query, {"ids": ids}):
            logs[session_id].append(entry)
        with_log = {
            session.id: replace(
                session, log=tuple(logs[session.id]), log_length=len(logs[session.id])
            )
            for session in open_sessions.values()
        }
        return {char_id: with_log[session.id] for char_id, session in open_sessions.items()}

    def saved_log(self, connection: Connection, session_ids: Sequence[UUID]) -> dict[UUID, int]:
        """Return how many entries of each fight's log PostgreSQL holds; without those of none."""
        rows = connection.execute(_LAST, {"ids": list(session_ids)})
        return {session_id: seq + 1 for session_id, seq in rows}


def _new_rows(snapshots: Sequence[Session]) -> Iterator[dict[str, Any]]:
    for session in snapshots:
        for index, entry in enumerate(session.log, session.log_start):
            yield {"session_id": session.id, "seq": index, "entry": entry}


def _record_conflicts(
    connection: Connection, snapshots: Sequence[Session], deleted: Iterable[Row[Any]]
) -> None:
    """Copy deleted log rows, the losing side, to ``state_conflicts``."""
    lost: dict[UUID, list[Any]] = defaultdict(list)
    for row in deleted:
        lost[row.session_id].append({"seq": row.seq, "entry": row.entry})
    by_id = {session.id: session for session in snapshots}
    rows = [
        {
            "character_id": min(by_id[session_id].members, default=0),
            "version": by_id[session_id].version,
            "reason": f"{by_id[session_id].ref.label}: Redis holds another log",
            "state": {"log": entries},
        }
        for session_id, entries in lost.items()
    ]
    if rows:
        connection.execute(insert(state_conflicts), rows)
