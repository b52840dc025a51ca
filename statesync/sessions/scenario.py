"""Owns quests: the progress of each participant, a row each in ``scenario_progress``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, bindparam, func, select, tuple_
from sqlalchemy.dialects.postgresql import insert as upsert

from statesync.durable.recordset import recordset
from statesync.durable.tables import characters, scenario_progress
from statesync.errors import InvalidField
from statesync.sessions.base import SessionOrchestrator
from statesync.state.sessions import Session

__all__ = ["ScenarioOrchestrator"]

_COLUMNS = ("node", "variables", "graph")
_batch = recordset(scenario_progress, "character_id", ("quest_id", *_COLUMNS))
_insert = upsert(scenario_progress).from_select(
    ["character_id", "quest_id", *_COLUMNS],
    select(*(_batch.c[name] for name in ("character_id", "quest_id", *_COLUMNS)))
    .join(characters, characters.c.id == _batch.c.character_id)
    .order_by(_batch.c.character_id, _batch.c.quest_id),
)
_UPSERT = _insert.on_conflict_do_update(
    index_elements=["character_id", "quest_id"],
    set_={name: _insert.excluded[name] for name in _COLUMNS},
    where=tuple_(*(scenario_progress.c[name] for name in _COLUMNS)).is_distinct_from(
        tuple_(*(_insert.excluded[name] for name in _COLUMNS))
    ),
)


class ScenarioOrchestrator(SessionOrchestrator):
    """A quest: ``quest_id``, ``graph``, ``node`` and ``variables``."""

    session_type = "scenario"
    states = ("scenario",)
    json_fields = ("graph", "variables")
    required_fields = ("quest_id",)

    @classmethod
    def check(cls, fields: Mapping[str, Any]) -> None:
        """Refuse a graph or variables that are not an object or a list. Raises InvalidField."""
        for name in cls.json_fields:
            if not isinstance(fields.get(name, {}), dict | list):
                raise InvalidField(name, "must be a JSON object or list")
        if not fields.get("quest_id", "-"):
            raise InvalidField("quest_id", "must be a non-empty string")

    def payload(self, session: Session) -> dict[str, Any]:
        """Return all fields; those in columns without their values."""
        return {name: None if name in _COLUMNS else v for name, v in session.fields.items()}

    def save(self, connection: Connection, snapshots: Sequence[Session]) -> None:
        """Write each participant's progress, if it differs."""
        rows = []
        for session in snapshots:
            if "quest_id" not in session.fields:
                raise InvalidField("quest_id", f"{session.ref.label} must have one")
            row = {name: session.fields.get(name) for name in ("quest_id", *_COLUMNS)}
            for name in self.json_fields:
                row[name] = {} if row[name] is None else row[name]
            rows += [{"character_id": char_id, **row} for char_id in session.members]
        if rows:
            connection.execute(_UPSERT, {"rows": rows})

    def load(self, connection: Connection, char_ids: Sequence[int]) -> dict[int, Session]:
        """Return open quests, each with that character's own progress."""
        open_sessions = self.open_sessions(connection, char_ids)
        query = select(scenario_progress).where(
            scenario_progress.c.character_id == func.any(bindparam("ids"))
        )
        rows: dict[int, list[Mapping[str, Any]]] = {}
        for row in connection.execute(query, {"ids": list(open_sessions)}).mappings():
            rows.setdefault(row["character_id"], []).append(dict(row))
        return {
            char_id: _with_progress(session, rows.get(char_id, []))
            for char_id, session in open_sessions.items()
        }


def _with_progress(session: Session, rows: Sequence[Mapping[str, Any]]) -> Session:
    """Return a quest with its columns. A payload that does not say which quest it is, as a foreign
    row's may, leaves only a character's single row to be it."""
    fields = dict(session.fields)
    quest_id = fields.get("quest_id")
    row = next((row for row in rows if row["quest_id"] == quest_id), None)
    if quest_id is None and len(rows) == 1:
        row = rows[0]
    if row is not None:
        columns: Sequence[str] = [name for name in _COLUMNS if name in fields]
        if session.foreign and not columns:
            columns = _COLUMNS
        fields |= {name: row[name] for name in columns}
        fields["quest_id"] = row["quest_id"]
    present = {k: v for k, v in fields.items() if k not in _COLUMNS or v is not None}
    return replace(session, fields=present)
