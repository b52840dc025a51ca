"""Owns the stats of characters in PostgreSQL: how they are compared with their rows and written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import astuple
from sqlalchemy import Connection, Text, bindparam, cast, func, literal, select, tuple_
from sqlalchemy.dialects.postgresql import insert as upsert

from statesync.durable.recordset import recordset
from statesync.durable.tables import STATS, character_stats
from statesync.state.fields import dump_json

__all__ = ["differing", "write"]

_CONTENT = (*STATS, "extra")
_ALL = ("character_id", *_CONTENT)
_batch = recordset(character_stats, "character_id", _CONTENT)
_in_row = tuple_(*(character_stats.c[name] for name in _ALL))
_in_batch = tuple_(*(_batch.c[name] for name in _ALL))

_DIFFERING = (
    select(*(_batch.c[name] for name in _ALL))
    .outerjoin(character_stats, character_stats.c.character_id == _batch.c.character_id)
    .where(_in_row.is_distinct_from(_in_batch))
    .order_by(_batch.c.character_id)
)
# Rows that do not differ are left out: the upsert would lock them.
_insert = upsert(character_stats).from_select(_ALL, _DIFFERING)
_UPSERT = _insert.on_conflict_do_update(
    index_elements=["character_id"],
    set_={name: _insert.excluded[name] for name in _CONTENT},
)

_numbers = tuple_(character_stats.c.character_id, *(character_stats.c[name] for name in STATS))
_TEXTS = select(func.string_agg(cast(_numbers, Text), literal(" "))).where(
    character_stats.c.character_id == func.any(bindparam("ids")), character_stats.c.extra == {}
)


def write(connection: Connection, stats: Sequence[Any]) -> None:
    """Write each ``StatsRow`` that is not as its row; the characters' rows are locked."""
    if others := _others(connection, stats):
        connection.execute(_UPSERT, {"rows": others})


def differing(connection: Connection, stats: Sequence[Any]) -> set[int]:
    """Return the ids of those that are not as their rows, which are locked."""
    if others := _others(connection, stats):
        return set(connection.execute(_DIFFERING, {"rows": others}).scalars())
    return set()


def _others(connection: Connection, stats: Sequence[Any]) -> list[Any]:
    """Return those that may differ from their rows: not as text, or with what no column holds.

    Most are as their rows. To compare texts is less work than to send them: ``(7,12,,…)`` is a row.
    """
    numbers = [one for one in stats if not one.extra]
    ids = [one.character_id for one in numbers]
    text = (ids and connection.execute(_TEXTS, {"ids": ids}).scalar()) or ""
    found = set(text[1:-1].split(") ("))
    sent = dump_json([astuple(one)[:-1] for one in numbers]).replace("null", "")
    texts = dict(zip(ids, sent[2:-2].split("],["), strict=False))
    return [one for one in stats if texts.get(one.character_id) not in found]
