"""Owns the straight way from the rows of a character to the texts of its core.

A row that is not as most are goes the general way, which says what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, Select

from statesync.durable import characters, sizes
from statesync.durable.rows import from_row
from statesync.durable.tables import STATS
from statesync.errors import CorruptState
from statesync.state.characters import CORE_FIELDS, write_character
from statesync.state.fields import dump_json

__all__ = ["SMALL_ALONE", "Core", "core_of", "load"]

SMALL_ALONE = characters.LOAD_ALONE.where(sizes.OF_ROWS < 16_000)
"""Only small characters that are in no session: 500 of them have at most 8 MB."""


class Core(NamedTuple):
    """A core as it is to be in Redis, by its rows."""

    char_id: int
    version: int
    seal: int | None
    fields: dict[str, str]
    """All but the versions."""
    stats: Mapping[str, int] | None = None
    """Only if no vitals are saved: the stats that they are to be derived from."""


class _Location(Struct, omit_defaults=True):
    current: str | None = None
    prev: str | None = None


class _Bio(Struct, omit_defaults=True):
    name: str | None = None
    gender: str | None = None
    created_at: str | None = None


_Stats: Any = msgspec.defstruct(
    "_Stats", [(name, int | None, None) for name in STATS], omit_defaults=True
)

_vitals = msgspec.json.Decoder(dict[str, dict[str, Any]]).decode
_extra = msgspec.json.Decoder(dict[str, str]).decode
_stats_of = itemgetter(*(f"stat_{name}" for name in STATS))


def load(
    connection: Connection, char_ids: Iterable[int], query: Select[Any] = characters.LOAD
) -> dict[int, Core | CorruptState]:
    """Load the cores of the characters that exist and are not deleted, by id.

    ``query`` is LOAD or one of those that name ALONE. If a row cannot be read, its error is the
    result.
    """
    return characters.load_each(connection, char_ids, query, core_of)


def core_of(row: Mapping[str, Any]) -> Core:
    """Return the core of a row. Raises CorruptState."""
    seal = row["seal"] if row["seal_version"] == row["version"] else None
    if fields := _fields(row):
        return Core(row["id"], row["version"], seal, fields)
    character = from_row(row)
    fields = write_character(character.core())
    stats = character.stats if character.vitals is None else None
    return Core(row["id"], row["version"], seal, fields, stats)


def _fields(row: Mapping[str, Any]) -> dict[str, str] | None:
    """Return the texts of a row, if it lacks no core field and has none that no column holds."""
    if row["game_stage"] is None or row["vitals"] is None or row["stats_extra"] != "{}":
        return None
    try:
        vitals, extra = _vitals(row["vitals"]), _extra(row["extra"])
    except (ValueError, RecursionError):
        return None
    created_at = row["created_at"]
    moment = created_at and created_at.astimezone(UTC).isoformat()
    core = {
        "state": row["game_stage"],
        "location": dump_json(_Location(row["location_id"], row["prev_location_id"])),
        "bio": dump_json(_Bio(row["name"], row["gender"], moment)),
        "stats": dump_json(_Stats(*_stats_of(row))),
        "vitals": dump_json(vitals),
    }
    is_lacking = "{}" in (core["location"], core["bio"])
    if is_lacking or not extra.keys().isdisjoint(CORE_FIELDS):
        return None
    return core | write_character(extra) if extra else core
