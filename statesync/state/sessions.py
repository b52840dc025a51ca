"""Owns the form of a session: Redis bytes <-> values, and what is valid in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from statesync.errors import CorruptState, InvalidField, InvalidInput
from statesync.state.fields import (
    MAX_CORE_BYTES,
    MAX_FIELDS,
    TIE_FIELD,
    InvalidValue,
    check_char_id,
    decoded,
    dump_json,
    encode_json,
    encoded_text,
    json_value,
    read_json,
    shown,
    text_value,
    version_value,
)
from statesync.state.references import UUID_EXPECTED, SessionRef, is_session_uuid, reference_field
from statesync.state.session_types import find_type, names, reference_fields

__all__ = [
    "Content",
    "Session",
    "decode_session",
    "decode_texts",
    "encode_log",
    "encode_session",
    "json_fields",
    "read_participants",
    "read_references",
    "unknown_reference_fields",
    "unknown_references",
    "write_session",
]

_OWN_BY_STATESYNC = ("version", "closed_at", TIE_FIELD)


class Content(NamedTuple):
    """What a hash says of its session."""

    fields: dict[str, Any]
    version: int
    closed: bool


@dataclass(frozen=True)
class Session:
    """A temporary session: a fight, an open inventory, a quest."""

    session_type: str
    """Such as ``combat``."""
    id: UUID
    fields: dict[str, Any] = field(default_factory=dict)
    """The fields of the hash, without those of statesync. ``participants`` and the ``json_fields``
    of the type are JSON values; all others are text."""
    version: int = 0
    closed: bool = False
    log_length: int = 0
    """How many entries the whole log has."""
    log_start: int = 0
    """The index of the first entry in ``log``."""
    log: tuple[Any, ...] = ()
    """The entries that are not saved yet if this is a snapshot; all if it is loaded."""
    members: tuple[int, ...] = ()
    """The characters that are in it now; only a snapshot, or what PostgreSQL holds, has them."""
    foreign: bool = False
    """Whether statesync never saved the row that it is loaded from: the payload may be partial."""

    @property
    def participants(self) -> tuple[int, ...]:
        """The characters that the field ``participants`` names."""
        return tuple(self.fields.get("participants") or ())

    @cached_property
    def ref(self) -> SessionRef:
        """What names it; ``ref.label`` is how messages do."""
        return SessionRef(self.session_type, str(self.id))

    @cached_property
    def digest(self) -> str:
        """A hash of the content: two are equal only if nothing but the version differs."""
        content = [self.fields, sorted(self.members), self.closed, self.log_length]
        return sha256(msgspec.json.encode(content, order="sorted")).hexdigest()


def decode_session(
    session_type: str, session_id: str, raw: Mapping[bytes, bytes], log_length: int = 0
) -> Session:
    """Return the session that a hash holds.

    Raises InvalidField, as ``decode_texts``.
    """
    content = decode_texts(SessionRef(session_type, session_id), decoded(raw))
    return Session(session_type, UUID(session_id), *content, log_length)


def decode_texts(ref: SessionRef, texts: Mapping[str, str]) -> Content:
    """Return what the texts of a hash say; surrogates stand for bytes that are no UTF-8.

    Raises InvalidField, whose ``field`` is such as ``combat:session:{uuid}.monsters``.
    """
    try:
        return _decode(ref.session_type, texts)
    except InvalidField as error:
        raise InvalidField(f"{ref.label}.{error.field}", error.reason) from None


def _decode(session_type: str, texts: Mapping[str, str]) -> Content:
    json = json_fields(session_type)
    fields: dict[str, Any] = {}
    version, closed = 0, False
    for raw_name, text in texts.items():
        name = _text("(name)", raw_name)
        if name == "version":
            version = version_value(name, encoded_text(text))
        elif name == "closed_at":
            closed = True
        elif name == TIE_FIELD:
            continue
        elif name in json:
            fields[name] = json_value(name, encoded_text(text))
        else:
            fields[name] = _text(name, text)
    _check(session_type, fields)
    return Content(fields, version, closed)


def _text(name: str, text: str) -> str:
    """Return a text that PostgreSQL can hold. Raises InvalidField."""
    return text if text.isascii() and "\0" not in text else text_value(name, encoded_text(text))


def encode_session(session_type: str, fields: Mapping[str, Any]) -> dict[str, str]:
    """Return a session's fields as its hash holds them.

    A string stays as it is, unless the field is one of the type's ``json_fields``. Any other value
    becomes JSON. Raises InvalidField, or InvalidSessionType.
    """
    json = json_fields(session_type)
    if len(fields) > MAX_FIELDS:
        raise InvalidField("(all)", f"{len(fields)} fields; at most {MAX_FIELDS} can be written")
    encoded: dict[str, str] = {}
    values: dict[str, Any] = {}
    for name, value in fields.items():
        if not isinstance(name, str) or not name:
            label = name if name == "" else shown(name)
            raise InvalidField(label, "the name of a field must be a non-empty string")
        text_value("(name)", _bytes(name, name))
        if name in _OWN_BY_STATESYNC:
            raise InvalidField(name, "belongs to statesync and cannot be set")
        if name in json or not isinstance(value, str):
            encoded[name], values[name] = _encode_json(name, value)
        else:
            values[name] = encoded[name] = text_value(name, _bytes(name, value))
    _check(session_type, values)
    size = sum(len(name) + len(text.encode()) for name, text in encoded.items())
    if size > MAX_CORE_BYTES:
        raise InvalidField("(all)", f"the fields are {size} bytes; at most {MAX_CORE_BYTES} can be")
    return encoded


def write_session(session: Session) -> dict[str, str]:
    """Return the fields of a loaded session as its hash holds them, unchecked."""
    json = json_fields(session.session_type)
    return {
        name: value if name not in json and isinstance(value, str) else dump_json(value)
        for name, value in session.fields.items()
    }


def encode_log(entries: Sequence[Any]) -> list[str]:
    """Return log entries as JSON. Raises InvalidField."""
    if isinstance(entries, str | bytes | Mapping):
        raise InvalidField("log", "must be a list of entries")
    return [_encode_json(f"log[{index}]", entry)[0] for index, entry in enumerate(entries)]


def read_participants(session: str, char_id: int, raw: bytes) -> tuple[int, ...]:
    """Return the ids in ``participants``; ``session`` is the label that errors show.

    Raises CorruptState, of ``char_id``, if ``raw`` is not a list of ids.
    """
    try:
        value = json_value("participants", raw) if raw else []
        _check_participants(value)
    except InvalidField as error:
        raise CorruptState(char_id, f"{session}.{error.field}", error.reason) from None
    return tuple(value)


def read_references(char_id: int, raw_ids: Sequence[bytes]) -> dict[str, str]:
    """Return the ids of the sessions that a core points at, by type.

    ``raw_ids`` are the values of its reference fields, in the order of ``names()``. Raises
    CorruptState.
    """
    references = {}
    for session_type, raw in zip(names(), raw_ids, strict=True):
        if not raw:
            continue
        text = raw.decode(errors="backslashreplace")
        if not is_session_uuid(text):
            raise CorruptState(char_id, reference_field(session_type), UUID_EXPECTED)
        references[session_type] = text
    return references


def unknown_references(fields: Mapping[str, str]) -> list[SessionRef]:
    """Return what fields of a core point at, of session types that are not registered here."""
    suffix = reference_field("")
    return [
        SessionRef(name.removesuffix(suffix), fields[name])
        for name in unknown_reference_fields(fields)
        if is_session_uuid(fields[name])
    ]


def unknown_reference_fields(names: Iterable[str]) -> list[str]:
    """Return the fields like ours that point at sessions of types not registered here."""
    suffix = reference_field("")
    return [name for name in names if name.endswith(suffix) and name not in reference_fields()]


def json_fields(session_type: str) -> frozenset[str]:
    """Return the fields that hold JSON in sessions of a type."""
    return frozenset(("participants", *find_type(session_type).json_fields))


def _check(session_type: str, fields: Mapping[str, Any]) -> None:
    if "participants" in fields:
        _check_participants(fields["participants"])
    try:
        find_type(session_type).check(fields)
    except InvalidField:
        raise
    except Exception as error:
        shown = f"the session type's check of it fails: {type(error).__name__}: {error}"
        raise InvalidField("(all)", shown) from error


def _check_participants(value: Any) -> None:
    try:
        valid = isinstance(value, list) and len(set(map(check_char_id, value))) == len(value)
    except InvalidInput:
        valid = False
    if not valid:
        raise InvalidField(
            "participants", "must be a list of different character ids, such as [1,2]"
        )


def _encode_json(name: str, value: Any) -> tuple[str, Any]:
    """Return a value as JSON, and what that reads back as. Raises InvalidField."""
    try:
        return encode_json(value, read_json)
    except UnicodeEncodeError:
        raise InvalidField(name, "holds a lone surrogate, which is no text") from None
    except InvalidValue as error:
        raise InvalidField(name + error.path, error.reason) from None


def _bytes(name: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidField(name, "holds a lone surrogate, which is no text") from None
