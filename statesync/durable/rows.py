"""Owns the form of a character in PostgreSQL: what goes to which column.

What no column can hold exactly (an unknown stat, a further key of ``bio``, the game's own field, a
time with another offset) goes to ``extra`` and comes back from there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct, UnsetType

from statesync.durable.tables import STATS
from statesync.errors import CorruptState
from statesync.state.characters import CORE_FIELDS, Character, parse_time
from statesync.state.fields import json_type, load_json

__all__ = ["CharacterRow", "CoreRows", "StatsRow", "core_rows", "from_row"]


class CharacterRow(Struct):
    """A row of ``characters``, as a save sends it; what is not set is NULL."""

    id: int
    version: int
    seal: int | None
    seal_version: int
    game_stage: str | None
    name: str | UnsetType | None
    gender: str | UnsetType | None
    created_at: str | UnsetType | None
    location_id: str | UnsetType | None
    prev_location_id: str | UnsetType | None
    vitals: Mapping[str, Any] | None
    extra: Mapping[str, Any]


StatsRow: Any = msgspec.defstruct(
    "StatsRow",
    [
        ("character_id", int),
        *((name, int | None, None) for name in STATS),
        ("extra", dict[str, Any], {}),
    ],
)
"""A row of ``character_stats``, as a save sends it; what is not set is NULL."""


class CoreRows(NamedTuple):
    """What is to be saved of a core."""

    row: CharacterRow
    stats: Any = None
    """The ``StatsRow``; None if the core has no stats."""
    saved_version: int | None = None
    absent: tuple[str, ...] = ()
    """The core fields that it lacks."""

    @property
    def char_id(self) -> int:
        """Whose it is."""
        return self.row.id

    @property
    def version(self) -> int:
        """That of the snapshot."""
        return self.row.version


def core_rows(character: Character, seal: int | None) -> CoreRows:
    """Return what is to be saved of a character under a seal."""
    absent = tuple(name for name in CORE_FIELDS if getattr(character, name) is None)
    stats = None if character.stats is None else _to_stats_row(character)
    return CoreRows(_to_row(character, seal), stats, character.saved_version, absent)


def _to_row(character: Character, seal: int | None) -> CharacterRow:
    """Return the row of ``characters``, as it is saved under a seal."""
    bio, more_bio = _split(character.bio, {"name": str, "gender": str, "created_at": _utc})
    location, more_location = _split(character.location, {"current": str, "prev": str})
    extra: dict[str, Any] = dict(character.fields)
    if more_bio is not None:
        extra["bio"] = more_bio
    if more_location is not None:
        extra["location"] = more_location
    return CharacterRow(
        id=character.char_id,
        version=character.version,
        seal=seal,
        seal_version=character.version,
        game_stage=character.state,
        **bio,
        location_id=location["current"],
        prev_location_id=location["prev"],
        vitals=character.vitals,
        extra=extra,
    )


def _split(
    value: Mapping[str, Any] | None, columns: Mapping[str, Callable[[Any], str]]
) -> tuple[dict[str, str | None], dict[str, Any] | None]:
    """Return the values of ``columns``, and what they cannot hold exactly; None if nothing.

    If no column holds anything, the rest is an empty mapping, which tells it from None.
    """
    in_columns: dict[str, str | None] = dict.fromkeys(columns)
    if value is None:
        return in_columns, None
    rest = {}
    for key, item in value.items():
        if item is not None and key in columns:
            in_columns[key] = columns[key](item)
        if item is None or in_columns.get(key) != item:
            rest[key] = item
    return in_columns, rest if rest or not any(in_columns.values()) else None


def _utc(moment: object) -> str:
    return parse_time(moment).isoformat()


def _to_stats_row(character: Character) -> Any:
    """Return the ``StatsRow``."""
    stats = dict(character.stats or {})
    known = {name: stats.pop(name, None) for name in STATS}
    return StatsRow(character.char_id, **known, extra=stats)


def from_row(row: Mapping[str, Any]) -> Character:
    """Return the character of a row of the query ``characters.LOAD``, which gives JSON as text.

    Raises CorruptState, which names the column, if another program wrote what is no character.
    """
    char_id = row["id"]
    extra = _object(char_id, "extra", _decoded(row, "extra"))
    created_at: datetime | None = row["created_at"]
    bio = _present(
        name=row["name"],
        gender=row["gender"],
        created_at=created_at and created_at.astimezone(UTC).isoformat(),
    )
    location = _present(current=row["location_id"], prev=row["prev_location_id"])
    more_bio, more_location = extra.pop("bio", None), extra.pop("location", None)
    return Character(
        char_id=char_id,
        state=row["game_stage"],
        location=_joined(char_id, "extra.location", location, more_location),
        bio=_joined(char_id, "extra.bio", bio, more_bio),
        stats=None if row["stats_extra"] is None else _stats(row),
        vitals=None if row["vitals"] is None else _vitals(char_id, _decoded(row, "vitals")),
        fields=extra,
        version=row["version"],
        saved_version=row["version"],
        seal=row["seal"] if row["seal_version"] == row["version"] else None,
    )


def _stats(row: Mapping[str, Any]) -> dict[str, int]:
    more = _object(row["id"], "stats.extra", _decoded(row, "stats_extra"))
    for name, value in more.items():
        if type(value) is not int:
            reason = f"must be an integer, not {json_type(value)}, in PostgreSQL"
            raise CorruptState(row["id"], f"stats.{name}", reason)
    return _present(**{name: row[f"stat_{name}"] for name in STATS}) | more


def _vitals(char_id: int, vitals: object) -> dict[str, dict[str, Any]]:
    found = _object(char_id, "vitals", vitals)
    for name, vital in found.items():
        _object(char_id, f"vitals.{name}", vital)
    return found


def _decoded(row: Mapping[str, Any], column: str) -> Any:
    """Return the value of a column of JSON. Raises CorruptState."""
    try:
        return load_json(row[column])
    except (ValueError, RecursionError) as error:
        reason = f"cannot be read from PostgreSQL: {error}"
        raise CorruptState(row["id"], column, reason) from None


def _object(char_id: int, field: str, value: Any) -> dict[str, Any]:
    """Return a value that must be a JSON object. Raises CorruptState."""
    if isinstance(value, dict):
        return value
    reason = f"must be a JSON object, not {json_type(value)}, in PostgreSQL"
    raise CorruptState(char_id, field, reason)


def _present(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _joined(
    char_id: int, field: str, columns: dict[str, Any], more: object
) -> dict[str, Any] | None:
    if more is None:
        return columns or None
    return columns | _object(char_id, field, more)
