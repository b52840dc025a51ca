"""Owns the form of a character's state: Redis bytes <-> values, and what is valid in them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from statesync.errors import CorruptState, InvalidField
from statesync.state import session_types
from statesync.state.fields import (
    MAX_CORE_BYTES,
    MAX_FIELDS,
    TIE_FIELD,
    InvalidValue,
    dump_json,
    encode_json,
    fail,
    json_type,
    read_object,
    read_text,
    read_version,
    shown,
)
from statesync.state.references import UUID_EXPECTED, is_session_uuid

__all__ = [
    "CORE_FIELDS",
    "JSON_FIELDS",
    "Character",
    "FieldValue",
    "decode_character",
    "encode_character",
    "parse_time",
    "write_character",
]

CORE_FIELDS = ("state", "location", "bio", "stats", "vitals")
"""The fields of a core that have columns of their own."""

FieldValue = str | int | float | UUID | Mapping[str, Any] | None
"""What a field may be set to, as ``encode_character`` says."""

_OWN = "own:"
_RESERVED = re.compile(rf"(?:{_OWN})*(?:version|saved_version|{TIE_FIELD})")
"""Names that statesync uses itself. A field of the game's with such a name has ``own:`` before it
in Redis; so has one that begins with ``own:`` and would be taken for such a field."""
_NUMBERS = (int, float)


@dataclass(frozen=True, slots=True)
class Character:
    """A character's persistent core, typed. A field that the core lacks is None or absent."""

    char_id: int
    state: str | None = None
    location: dict[str, Any] | None = None
    """``{"current": …, "prev": …}``"""
    bio: dict[str, Any] | None = None
    """``{"name": …, "gender": …, "created_at": …}`` and the game's own keys."""
    stats: dict[str, int] | None = None
    vitals: dict[str, dict[str, Any]] | None = None
    """``{"hp": {"cur": …, "max": …}, …}``"""
    fields: dict[str, str] = field(default_factory=dict)
    """Every further field of the core: session ids and the game's own."""
    version: int = 0
    saved_version: int | None = None
    """The newest version known to be in PostgreSQL; None if never saved."""
    seal: int | None = None
    """Of a row: the mark of the snapshot that it was saved from, if it is that of its version."""

    @property
    def sessions(self) -> dict[str, UUID]:
        """The active sessions of registered types, by the name of the type, such as ``combat``."""
        return {
            session_type: UUID(self.fields[name])
            for name, session_type in session_types.reference_fields().items()
            if self.fields.get(name)
        }

    def core(self) -> dict[str, Any]:
        """Return the fields that game code may set, as ``encode_character`` takes them."""
        own = {name: getattr(self, name) for name in CORE_FIELDS}
        return {name: value for name, value in own.items() if value is not None} | self.fields


def decode_character(char_id: int, raw: Mapping[bytes, bytes]) -> Character:
    """Read the core that Redis holds; CorruptState names the first field that cannot be saved."""
    core: dict[str, Any] = {}
    further: dict[str, str] = {}
    references = session_types.reference_fields()
    for raw_name, raw_value in raw.items():
        try:
            if column := _COLUMNS.get(raw_name):
                core[column[0]] = column[1](raw_value)
                continue
            name = read_text(raw_name, "the field's name ")
            if name in references:
                further[name] = _session_id(raw_value)
            elif name != TIE_FIELD:
                further[_name_in_game(name)] = read_text(raw_value)
        except InvalidValue as error:
            name = raw_name.decode(errors="backslashreplace")
            raise CorruptState(char_id, name + error.path, error.reason) from None
    return Character(char_id, fields=further, **core)


def encode_character(fields: Mapping[str, Any]) -> dict[str, str | None]:
    """Return ``fields`` as a core holds them; None is a field to delete.

    ``location``, ``bio``, ``stats`` and ``vitals`` are mappings; ``state`` is a string; a session
    id is a UUID or its text, and "" or None clears it. Any other field is the game's own, whatever
    its name: a string, or a number, which is stored as its text; None deletes it. Raises
    InvalidField, which names the first field that a core cannot hold.
    """
    encoded: dict[str, str | None] = {}
    if len(fields) > MAX_FIELDS:
        raise InvalidField("(all)", f"{len(fields)} fields; at most {MAX_FIELDS} can be written")
    for name, value in fields.items():
        if not isinstance(name, str) or not name:
            label = name if name == "" else shown(name)
            raise InvalidField(label, "the name of a field must be a non-empty string")
        try:
            read_text(name.encode(), "the field's name ")
            encoded[_name_in_redis(name)] = _encode_value(name, value)
        except UnicodeEncodeError:
            raise InvalidField(name, "holds a lone surrogate, which is no text") from None
        except InvalidValue as error:
            raise InvalidField(name + error.path, error.reason) from None
    sizes = {
        name: len(name.encode()) + len((text or "").encode()) for name, text in encoded.items()
    }
    if (size := sum(sizes.values())) > MAX_CORE_BYTES:
        largest = max(sizes, key=sizes.__getitem__)
        raise InvalidField(largest, f"the fields are {size} bytes; at most {MAX_CORE_BYTES} can be")
    return encoded


def write_character(core: Mapping[str, Any]) -> dict[str, str]:
    """Return fields that come from PostgreSQL as a core holds them, unchecked."""
    return {
        _name_in_redis(name): value if isinstance(value, str) else dump_json(value)
        for name, value in core.items()
    }


def _name_in_redis(name: str) -> str:
    return _OWN + name if _RESERVED.fullmatch(name) else name


def _name_in_game(name: str) -> str:
    if name.startswith(_OWN) and _RESERVED.fullmatch(name, len(_OWN)):
        return name.removeprefix(_OWN)
    return name


def _encode_value(name: str, value: object) -> str | None:
    """Return what a core holds of a field. Raises InvalidValue or UnicodeEncodeError."""
    if value is None and name not in CORE_FIELDS:
        return None
    check = _CHECKS.get(name)
    is_reference = name in session_types.reference_fields()
    if name in JSON_FIELDS:
        if not isinstance(value, Mapping):
            fail(f"must be a mapping, not {type(value).__name__}")
        return encode_json(value, JSON_FIELDS[name])[0]
    if isinstance(value, UUID) and is_reference:
        text = str(value)
    elif isinstance(value, str):
        text = value
    elif isinstance(value, int | float) and not (isinstance(value, bool) or check or is_reference):
        text = _number_text(value)
    else:
        wanted = "a string" if check or is_reference else "a string or a number"
        fail(f"must be {wanted}, not {type(value).__name__}")
    read: Callable[[bytes], object] = check or (_session_id if is_reference else read_text)
    read(text.encode())
    return text


def _number_text(value: float) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        fail(f"is {value}, which is no number")
    try:
        return str(value)
    except ValueError:
        return fail("has more digits than Python writes")


def _state(raw: bytes) -> str:
    text = read_text(raw)
    if not 1 <= len(text) <= 200:
        fail("must be 1 to 200 characters long")
    return text


def _location(raw: bytes) -> dict[str, Any]:
    value = read_object(raw)
    for key in ("current", "prev"):
        place = value.get(key)
        if place is not None and type(place) not in (str, int):
            fail(f"must be a string, an integer or null, not {json_type(place)}", f".{key}")
    return value


def _bio(raw: bytes) -> dict[str, Any]:
    value = read_object(raw)
    for key in ("name", "gender"):
        if value.get(key) is not None and not isinstance(value[key], str):
            fail(f"must be a string or null, not {json_type(value[key])}", f".{key}")
    if value.get("created_at") is not None:
        parse_time(value["created_at"])
    return value


def parse_time(value: object) -> datetime:
    """Return the moment that ISO 8601 text (UTC if it names no zone) or Unix seconds mean."""
    try:
        if isinstance(value, str):
            moment = datetime.fromisoformat(value)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    return fail("must be an ISO 8601 time, Unix seconds or null", ".created_at")


def _stats(raw: bytes) -> dict[str, int]:
    value = read_object(raw)
    for key, number in value.items():
        if type(number) is not int:
            fail(f"must be an integer, not {json_type(number)}", f".{key}")
        if not -(2**31) <= number < 2**31:
            fail(f"{number} is outside of -2^31 to 2^31-1", f".{key}")
    return value


def _vitals(raw: bytes) -> dict[str, dict[str, Any]]:
    value = read_object(raw)
    for key, vital in value.items():
        if not isinstance(vital, dict):
            fail(f"must be an object with cur and max, not {json_type(vital)}", f".{key}")
        for bound in ("cur", "max"):
            if type(vital.get(bound)) not in _NUMBERS:
                shown = json_type(vital[bound]) if bound in vital else "absent"
                fail(f"must be a number, not {shown}", f".{key}.{bound}")
    return value


def _session_id(raw: bytes) -> str:
    text = read_text(raw)
    if text and not is_session_uuid(text):
        fail(UUID_EXPECTED)
    return text


JSON_FIELDS = {"location": _location, "bio": _bio, "stats": _stats, "vitals": _vitals}
_CHECKS: dict[str, Callable[[bytes], Any]] = {"state": _state, **JSON_FIELDS}
_VERSIONS = dict.fromkeys(("version", "saved_version"), read_version)
_COLUMNS = {name.encode(): (name, read) for name, read in (_CHECKS | _VERSIONS).items()}
