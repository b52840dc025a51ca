"""Owns fights: a snapshot in ``sessions.payload``, and a log that only grows in ``combat_log``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, bindparam, delete, func, insert, select, text
from sqlalchemy.dialects.postgresql import insert as upsert

from statesync.durable.characters import recordset
from statesync.durable.tables import combat_log, state_conflicts
from statesync.sessions.base import SessionOrchestrator
from statesync.state.sessions import Session

__all__ = ["CombatOrchestrator"]

_STEP = 5_000
"""How many log entries go in one statement."""

_rows = recordset(combat_log, "session_id", ("seq", "entry"))
# The recordset makes SQL's null of JSON's, which is an entry like any other.
_entry = func.coalesce(_rows.c.entry, text("'null'::jsonb"))
_same_place = (combat_log.c.session_id == _rows.c.session_id, combat_log.c.seq == _rows.c.seq)
_CONTRADICTED = (
    delete(combat_log)
    .where(*_same_place, combat_log.c.entry.is_distinct_from(_entry))
    .returning(combat_log)
)
_BEYOND = (
    delete(combat_log)
    .where(combat_log.c.session_id == bindparam("session"), combat_log.c.seq >= bindparam("end"))
    .returning(combat_log)
)
_APPEND = (
    upsert(combat_log)
    .from_select(
        ["session_id", "seq", "entry"],
        select(_rows.c.session_id, _rows.c.seq, _entry).order_by(_rows.c.session_id, _rows.c.seq),
    )
    .on_conflict_do_nothing()
)


class CombatOrchestrator(SessionOrchestrator):
    """A fight: ``monsters``, ``turn_order`` and a log of what happened."""

    session_type = "combat"
    states = ("combat",)
    json_fields = ("monsters", "turn_order")
    has_log = True

    def save(self, connection: Connection, snapshots: Sequence[Session]) -> None:
        """Append what is new in the logs. A row that Redis contradicts becomes a conflict."""
        ends = self.saved_log(connection, [session.id for session in snapshots])
        rows = _new_rows(snapshots)
        while step := list(islice(rows, _STEP)):
            if any(row["seq"] < ends.get(row["session_id"], 0) for row in step):
                _record(connection, snapshots, connection.execute(_CONTRADICTED, {"rows": step}))
            connection.execute(_APPEND, {"rows": step})
        for session in snapshots:
            if ends.get(session.id, 0) > session.log_length:
                beyond = {"session": session.id, "end": session.log_length}
                _record(connection, [session], connection.execute(_BEYOND, beyond))

    def load(self, connection: Connection, char_ids: Sequence[int]) -> dict[int, Session]:
        """Return fights with their whole logs."""
        found = self.open_sessions(connection, char_ids)
        query = (
            select(combat_log.c.session_id, combat_log.c.entry)
            .where(combat_log.c.session_id == func.any(bindparam("ids")))
            .order_by(combat_log.c.session_id, combat_log.c.seq)
        )
        logs: dict[UUID, list[Any]] = defaultdict(list)
        ids = list({session.id for session in found.values()})
        for session_id, entry in connection.execute(query, {"ids": ids}):
            logs[session_id].append(entry)
        whole = {
            session.id: replace(
                session, log=tuple(logs[session.id]), log_length=len(logs[session.id])
            )
            for session in found.values()
        }
        return {char_id: whole[session.id] for char_id, session in found.items()}

    def saved_log(self, connection: Connection, session_ids: Sequence[UUID]) -> dict[UUID, int]:
        """Return how many entries of each fight's log are in PostgreSQL."""
        ids = func.unnest(bindparam("ids")).table_valued("id").render_derived()
        last = (
            select(func.max(combat_log.c.seq))
            .where(combat_log.c.session_id == ids.c.id)
            .scalar_subquery()
        )
        rows = connection.execute(select(ids.c.id, last), {"ids": list(session_ids)})
        return {session_id: seq + 1 for session_id, seq in rows if seq is not None}


def _new_rows(snapshots: Sequence[Session]) -> Iterator[dict[str, Any]]:
    for session in snapshots:
        for index, entry in enumerate(session.log, session.log_start):
            yield {"session_id": session.id, "seq": index, "entry": entry}


def _record(connection: Connection, snapshots: Sequence[Session], deleted: Any) -> None:
    """Keep log rows that Redis contradicts: they are the side that lost."""
    lost: dict[UUID, list[Any]] = defaultdict(list)
    for session_id, seq, entry in deleted:
        lost[session_id].append({"seq": seq, "entry": entry})
    by_id = {session.id: session for session in snapshots}
    rows = [
        {
            "character_id": min(by_id[session_id].members, default=0),
            "version": by_id[session_id].version,
            "reason": f"{by_id[session_id].name}: Redis holds another log",
            "state": {"log": entries},
        }
        for session_id, entries in lost.items()
    ]
    if rows:
        connection.execute(insert(state_conflicts), rows)
