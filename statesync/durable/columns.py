"""Owns the straight way from the texts of a core to its rows: decoded by type, nothing between.

What does not fit the types is no fault: the general codec says what is wrong with it, or carries it
in ``extra``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import astuple

from statesync.durable.rows import CharacterRow, StatsRow, to_row, to_stats_row
from statesync.durable.tables import STATS
from statesync.state.characters import CORE_FIELDS, decode_character
from statesync.state.fields import TIE_FIELD, InvalidValue

__all__ = ["rows_of"]


class _Location(Struct, forbid_unknown_fields=True):
    current: str | UnsetType = UNSET
    prev: str | UnsetType = UNSET


class _Bio(Struct, forbid_unknown_fields=True):
    name: str | UnsetType = UNSET
    gender: str | UnsetType = UNSET
    created_at: str | UnsetType = UNSET


class _Vital(Struct, forbid_unknown_fields=True):
    cur: int | float
    max: int | float


_Stat = Annotated[int, Meta(ge=-(2**31), lt=2**31)] | UnsetType
_Stats: Any = msgspec.defstruct(
    "_Stats", [(name, _Stat, UNSET) for name in STATS], forbid_unknown_fields=True
)

_location = msgspec.json.Decoder(_Location).decode
_bio = msgspec.json.Decoder(_Bio).decode
_stats = msgspec.json.Decoder(_Stats).decode
_vitals = msgspec.json.Decoder(dict[str, _Vital]).decode

_PLAIN_NUMBER = re.compile("[0-9]{1,15}")
_OURS = frozenset((*CORE_FIELDS, "version", "saved_version"))


def rows_of(
    char_id: int, version: int, seal: int, core: Mapping[str, str]
) -> tuple[CharacterRow, Any]:
    """Return the two rows of a core that has every core field. Raises CorruptState."""
    try:
        location, bio, stats, vitals = _decode(core)
        extra = _extra(core)
    except (InvalidValue, ValueError, RecursionError):
        raw = {name.encode(): value.encode() for name, value in core.items()}
        raw[b"version"] = b"%d" % version
        character = decode_character(char_id, raw)
        return to_row(character, seal), to_stats_row(character)
    row = CharacterRow(
        char_id,
        version,
        seal,
        version,
        core["state"],
        bio.name,
        bio.gender,
        bio.created_at,
        location.current,
        location.prev,
        vitals,
        extra,
    )
    return row, StatsRow(char_id, *astuple(stats))


def _decode(core: Mapping[str, str]) -> tuple[_Location, _Bio, Any, dict[str, _Vital]]:
    """Decode the fields that have columns. Raises ValueError if one does not fit, InvalidValue."""
    location, bio = _location(core["location"]), _bio(core["bio"])
    # If no column holds anything, only the general codec tells that from an absent field.
    holds = (location.current or location.prev) and (bio.name or bio.gender)
    fits = 1 <= len(core["state"]) <= 200 and _PLAIN_NUMBER.fullmatch(core["saved_version"])
    if not (holds and fits and _is_utc(bio.created_at)):
        raise ValueError
    return location, bio, _stats(core["stats"]), _vitals(core["vitals"])


def _is_utc(moment: str | UnsetType) -> bool:
    """Return whether a time is as it comes back from its column, if there is one."""
    if isinstance(moment, UnsetType):
        return True
    read = datetime.fromisoformat(moment)
    return read.tzinfo is UTC and read.isoformat() == moment


def _extra(core: Mapping[str, str]) -> dict[str, str]:
    """Return the fields without columns. Raises ValueError if one has another name in the game."""
    if len(core) == len(_OURS):
        return {}
    extra = {name: core[name] for name in core.keys() - _OURS}
    if any(name.startswith("own:") or name == TIE_FIELD for name in extra):
        raise ValueError
    return extra
