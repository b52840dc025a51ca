"""Owns the form of a character's state: Redis bytes <-> values, and what is valid in them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NoReturn, TypeVar
from uuid import UUID

import msgspec

from statesync.errors import CorruptState, InvalidCharId, InvalidField
from statesync.keys import SESSION_FIELDS, TIE_FIELD

__all__ = [
    "CORE_FIELDS",
    "JSON_FIELDS",
    "MAX_CORE_BYTES",
    "MAX_DEPTH",
    "Character",
    "check_char_id",
    "decode",
    "dump_json",
    "encode",
    "json_value",
    "load_json",
    "parse_char_id",
    "parse_time",
    "text_value",
    "version_value",
    "write",
]

MAX_ID = 2**63 - 1
MAX_CORE_BYTES = 1024 * 1024
"""The largest core, names and values together, that is read and saved."""
MAX_FIELDS = 1000
"""How many fields one call may write."""
MAX_DEPTH = 32
"""How deep JSON in a field may nest."""
MAX_VERSION = 2**53 - 1  # Lua counts in doubles

CORE_FIELDS = ("state", "location", "bio", "stats", "vitals")
"""The fields of a core that have columns of their own."""

T = TypeVar("T")

_OWN_BY_STATESYNC = ("version", "saved_version", TIE_FIELD)
_MAX_DIGITS = len(str(MAX_ID))
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ID_TEXT = re.compile(rf"[1-9][0-9]{{0,{_MAX_DIGITS - 1}}}")
_NUMBERS = (int, float)
_json = msgspec.json.Decoder()


def check_char_id(char_id: object) -> int:
    """Return ``char_id`` if it is an integer from 1 to 2**63 - 1; InvalidCharId if not."""
    if type(char_id) is not int or not 1 <= char_id <= MAX_ID:
        shown = repr(char_id)
        shown = shown if len(shown) <= 60 else shown[:57] + "…"
        raise InvalidCharId(
            f"{shown} is not a character id: it must be an integer from 1 to 2^63-1"
        )
    return char_id


def parse_char_id(text: str) -> int:
    """Return the id that ``text`` spells in plain decimal digits; InvalidCharId if it does not."""
    if not _ID_TEXT.fullmatch(text):
        return check_char_id(text)
    return check_char_id(int(text))


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

    @property
    def sessions(self) -> dict[str, UUID]:
        """The active sessions, by the name of their type, such as ``combat``."""
        end = "_session_id"
        named = {n.removesuffix(end): v for n, v in self.fields.items() if n.endswith(end) and v}
        return {kind: UUID(text) for kind, text in named.items() if _UUID.fullmatch(text)}

    def core(self) -> dict[str, Any]:
        """Return the fields that game code may set, as ``encode`` takes them."""
        own = {name: getattr(self, name) for name in CORE_FIELDS}
        return {name: value for name, value in own.items() if value is not None} | self.fields


def decode(char_id: int, raw: Mapping[bytes, bytes]) -> Character:
    """Read the core that Redis holds; CorruptState names the first field that cannot be saved."""
    core: dict[str, Any] = {}
    own: dict[str, str] = {}
    for raw_name, raw_value in raw.items():
        try:
            if known := _COLUMNS.get(raw_name):
                core[known[0]] = known[1](raw_value)
            elif (name := _text(raw_name, "the field's name ")) != TIE_FIELD:
                own[name] = _FURTHER_CHECKS.get(name, _text)(raw_value)
        except _Invalid as error:
            name = raw_name.decode(errors="backslashreplace")
            raise CorruptState(char_id, name + error.path, error.reason) from None
    return Character(char_id, fields=own, **core)


def encode(fields: Mapping[str, Any]) -> dict[str, str]:
    """Return ``fields`` as a core holds them; InvalidField names the first that it cannot hold.

    ``location``, ``bio``, ``stats`` and ``vitals`` are mappings; ``state`` and session ids are
    strings, "" clearing a session id; any other field is the game's own: a string, or a number,
    which is stored as its text.
    """
    encoded: dict[str, str] = {}
    size = 0
    if len(fields) > MAX_FIELDS:
        raise InvalidField("(all)", f"{len(fields)} fields; at most {MAX_FIELDS} can be written")
    for name, value in fields.items():
        if not isinstance(name, str) or not name:
            raise InvalidField(str(name), "the name of a field must be a non-empty string")
        if name in _OWN_BY_STATESYNC:
            raise InvalidField(name, "belongs to statesync and cannot be set")
        try:
            text = _written(name, value)
            raw = text.encode()
            if check := _OF_GAMES.get(name):
                check(raw)
            else:
                _text(name.encode(), "the field's name ")
                _text(raw)
        except UnicodeEncodeError:
            raise InvalidField(name, "holds a lone surrogate, which is no text") from None
        except _Invalid as error:
            raise InvalidField(name + error.path, error.reason) from None
        encoded[name] = text
        size += len(name) + len(raw)
    if size > MAX_CORE_BYTES:
        largest = max(encoded, key=lambda name: len(encoded[name]))
        raise InvalidField(largest, f"the fields are {size} bytes; at most {MAX_CORE_BYTES} can be")
    return encoded


def write(core: Mapping[str, Any]) -> dict[str, str]:
    """Return fields that come from PostgreSQL as a core holds them, unchecked."""
    return {k: value if isinstance(value, str) else dump_json(value) for k, value in core.items()}


def load_json(raw: bytes | str) -> Any:
    """Decode strict JSON: no NaN, no lone surrogate; ValueError or RecursionError if it is not."""
    return _json.decode(raw)


def dump_json(value: Any) -> str:
    """Return ``value`` as compact JSON; TypeError if it has no such form."""
    return msgspec.json.encode(value).decode()


def text_value(name: str, raw: bytes) -> str:
    """Return the text that a field's bytes are. Raises InvalidField."""
    return _named(name, _text, raw)


def json_value(name: str, raw: bytes) -> Any:
    """Return the value of a JSON field that PostgreSQL can hold. Raises InvalidField."""
    return _named(name, _any, raw)


def version_value(name: str, raw: bytes) -> int:
    """Return the version that a field's bytes are. Raises InvalidField."""
    return _named(name, _version, raw)


def _named(name: str, check: Callable[[bytes], T], raw: bytes) -> T:
    try:
        return check(raw)
    except _Invalid as error:
        raise InvalidField(name + error.path, error.reason) from None


class _Invalid(Exception):
    """Why a value cannot be held; ``path`` leads into the field, such as ``.hp.cur``."""

    def __init__(self, reason: str, path: str = "") -> None:
        self.reason = reason
        self.path = path


def _fail(reason: str, path: str = "") -> NoReturn:
    raise _Invalid(reason, path)


def _written(name: str, value: object) -> str:
    if name in JSON_FIELDS:
        if not isinstance(value, Mapping):
            _fail(f"must be a mapping, not {type(value).__name__}")
        try:
            return dump_json(value)
        except (TypeError, ValueError, RecursionError) as error:
            if isinstance(error, UnicodeEncodeError):
                raise
            _fail(f"cannot be written as JSON: {error}")
    if isinstance(value, UUID) and name in SESSION_FIELDS:
        return str(value)
    if isinstance(value, str):
        return value
    if name not in _OF_GAMES and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return _fail(f"must be a string, not {type(value).__name__}")


def _text(raw: bytes, what: str = "") -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        _fail(f"{what}is not UTF-8 (byte {error.start})")
    if "\0" in text:
        _fail(f"{what}holds a NUL, which PostgreSQL cannot store")
    return text


def _any(raw: bytes) -> Any:
    try:
        value = _json.decode(raw)
    except RecursionError:
        _fail(f"JSON nests deeper than {MAX_DEPTH}")
    except ValueError as error:
        _text(raw)  # says it better where it is no text at all
        _fail(f"is not valid JSON: {error}")
    # Almost always the bytes alone show that there is nothing to look for.
    if b"\\u0000" in raw or raw.count(b"{") + raw.count(b"[") > MAX_DEPTH:
        _check_tree(value, "", MAX_DEPTH)
    return value


def _object(raw: bytes) -> dict[str, Any]:
    value = _any(raw)
    if not isinstance(value, dict):
        _fail(f"must be a JSON object, not {_json_type(value)}")
    return value


def _check_tree(value: Any, path: str, depth: int) -> None:
    """Refuse what PostgreSQL's jsonb cannot hold, or what nests too deep."""
    if depth < 0:
        _fail(f"JSON nests deeper than {MAX_DEPTH}")
    if isinstance(value, str):
        if "\0" in value:
            _fail("holds a NUL, which PostgreSQL cannot store", path)
    elif isinstance(value, dict):
        for key, item in value.items():
            if "\0" in key:
                _fail("a key holds a NUL, which PostgreSQL cannot store", path)
            _check_tree(item, f"{path}.{key}", depth - 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_tree(item, f"{path}[{index}]", depth - 1)


def _json_type(value: object) -> str:
    names = {str: "a string", list: "a list", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "an object" if isinstance(value, dict) else "null")


def _state(raw: bytes) -> str:
    text = _text(raw)
    if not 1 <= len(text) <= 200:
        _fail("must be 1 to 200 characters long")
    return text


def _location(raw: bytes) -> dict[str, Any]:
    value = _object(raw)
    for key in ("current", "prev"):
        place = value.get(key)
        if place is not None and type(place) not in (str, int):
            _fail(f"must be a string, an integer or null, not {_json_type(place)}", f".{key}")
    return value


def _bio(raw: bytes) -> dict[str, Any]:
    value = _object(raw)
    for key in ("name", "gender"):
        if value.get(key) is not None and not isinstance(value[key], str):
            _fail(f"must be a string or null, not {_json_type(value[key])}", f".{key}")
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
    return _fail("must be an ISO 8601 time, Unix seconds or null", ".created_at")


def _stats(raw: bytes) -> dict[str, int]:
    value = _object(raw)
    for key, number in value.items():
        if type(number) is not int:
            _fail(f"must be an integer, not {_json_type(number)}", f".{key}")
        if not -(2**31) <= number < 2**31:
            _fail(f"{number} is outside of -2^31 to 2^31-1", f".{key}")
    return value


def _vitals(raw: bytes) -> dict[str, dict[str, Any]]:
    value = _object(raw)
    for key, vital in value.items():
        if not isinstance(vital, dict):
            _fail(f"must be an object with cur and max, not {_json_type(vital)}", f".{key}")
        for bound in ("cur", "max"):
            if type(vital.get(bound)) not in _NUMBERS:
                shown = _json_type(vital[bound]) if bound in vital else "absent"
                _fail(f"must be a number, not {shown}", f".{key}.{bound}")
    return value


def _session_id(raw: bytes) -> str:
    text = _text(raw)
    if text and not _UUID.fullmatch(text):
        _fail("must be a UUID such as 123e4567-e89b-12d3-a456-426614174000, or empty")
    return text


def _version(raw: bytes) -> int:
    if not raw.isdigit() or len(raw) > 16 or int(raw) > MAX_VERSION:
        _fail("must be an integer from 0 to 2^53-1")
    return int(raw)


JSON_FIELDS = {"location": _location, "bio": _bio, "stats": _stats, "vitals": _vitals}
_CHECKS: dict[str, Any] = {"state": _state, **JSON_FIELDS}
_CHECKS |= dict.fromkeys(("version", "saved_version"), _version)
_COLUMNS = {name.encode(): (name, check) for name, check in _CHECKS.items()}
_FURTHER_CHECKS: dict[str, Any] = dict.fromkeys(SESSION_FIELDS, _session_id)
_OF_GAMES = _CHECKS | _FURTHER_CHECKS
