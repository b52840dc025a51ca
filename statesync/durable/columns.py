"""Owns the straight way from the texts of a core to its rows: decoded by type, nothing between.

What does not fit the types is no fault: the general codec says what is wrong with it, or carries it
in ``extra``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import astuple

from statesync.durable.rows import CharacterRow, CoreRows, StatsRow, core_rows
from statesync.durable.tables import STATS
from statesync.state.characters import CORE_FIELDS, decode_character
from statesync.state.fields import TIE_FIELD, InvalidValue, encoded
from statesync.state.references import is_session_uuid
from statesync.state.session_types import reference_fields

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


_Stat = Annotated[int, Meta(ge=-(2**31), lt=2**31)]
_Stats: Any = msgspec.defstruct(
    "_Stats", [(name, _Stat, None) for name in STATS], forbid_unknown_fields=True
)

_location = msgspec.json.Decoder(_Location).decode
_bio = msgspec.json.Decoder(_Bio).decode
_stats = msgspec.json.Decoder(_Stats).decode
_vitals = msgspec.json.Decoder(dict[str, _Vital]).decode

_SHORT_NUMBER = 15
"""Digits of a number that is surely a version."""
_UTC = re.compile(r"\d{4}-\d\d-\d\dT([01]\d|2[0-3]):\d\d:\d\d(\.(?!000000)\d{6})?\+00:00", re.ASCII)
"""How ``isoformat`` writes a time."""
_OURS = frozenset((*CORE_FIELDS, "version", "saved_version"))


def rows_of(char_id: int, version: int, seal: int, core: Mapping[str, str]) -> CoreRows:
    """Return what is to be saved of a core under a seal. Raises CorruptState.

    In the core's texts, surrogates stand for bytes that are no UTF-8.
    """
    try:
        extra = {} if core.keys() == _OURS else _extra(core)
        _check_text("".join((*core.values(), *extra)))
        location, bio, stats, vitals = _decode(core)
        saved_version = _saved_version(core)
    except (InvalidValue, ValueError, KeyError, RecursionError):
        raw = encoded(core) | {b"version": b"%d" % version}
        return core_rows(decode_character(char_id, raw), seal)
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
    return CoreRows(row, StatsRow(char_id, *astuple(stats)), saved_version)


def _decode(core: Mapping[str, str]) -> tuple[_Location, _Bio, Any, dict[str, _Vital]]:
    """Decode the fields that have columns. Raises what is no fault but another form."""
    location, bio = _location(core["location"]), _bio(core["bio"])
    # If no column holds anything, only the general codec tells that from an absent field.
    holds = (location.current or location.prev) and (bio.name or bio.gender)
    if not (holds and 1 <= len(core["state"]) <= 200 and _is_utc(bio.created_at)):
        raise ValueError
    return location, bio, _stats(core["stats"]), _vitals(core["vitals"])


def _check_text(texts: str) -> None:
    """Raise ValueError if texts may have what PostgreSQL cannot store: a NUL, or no UTF-8."""
    if "\0" in texts or "\\u0000" in texts:
        raise ValueError
    if not texts.isascii():
        texts.encode()  # a surrogate stands for a byte that is no UTF-8


def _saved_version(core: Mapping[str, str]) -> int | None:
    saved = core.get("saved_version")
    if saved is None:
        return None
    if not (saved.isascii() and saved.isdigit() and len(saved) <= _SHORT_NUMBER):
        raise ValueError
    return int(saved)


def _is_utc(moment: str | UnsetType) -> bool:
    """Return whether a time is as it comes back from its column, if there is one."""
    if isinstance(moment, UnsetType):
        return True
    return bool(_UTC.fullmatch(moment) and datetime.fromisoformat(moment))


def _extra(core: Mapping[str, str]) -> dict[str, str]:
    """Return the fields without columns. Raises ValueError if one needs a closer look."""
    extra = {name: core[name] for name in core.keys() - _OURS}
    if not extra:
        return extra
    references = reference_fields()
    for name, value in extra.items():
        if name in references:
            fits = not value or is_session_uuid(value)
        else:
            fits = name != TIE_FIELD and not name.startswith("own:")
        if not fits:
            raise ValueError
    return extra
