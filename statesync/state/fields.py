"""Owns what any field may hold: ids, text, JSON and versions, with their limits."""

from __future__ import annotations

import math
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

import msgspec

from statesync.errors import InvalidCharId, InvalidField, InvalidInput

__all__ = [
    "MAX_CORE_BYTES",
    "MAX_DEPTH",
    "MAX_FIELDS",
    "MAX_ID",
    "MAX_VERSION",
    "TIE_FIELD",
    "InvalidValue",
    "check_char_id",
    "check_version",
    "counted",
    "decoded",
    "dump_json",
    "encode_json",
    "encoded",
    "encoded_text",
    "fail",
    "json_type",
    "json_value",
    "listed",
    "load_json",
    "parse_char_id",
    "printable",
    "printable_cause",
    "read_json",
    "read_object",
    "read_text",
    "read_version",
    "shown",
    "text_value",
    "version_or_none",
    "version_value",
]

MAX_ID = 2**63 - 1
MAX_CORE_BYTES = 1024 * 1024
"""The largest core, names and values together, that is read and saved."""
MAX_FIELDS = 1000
"""How many fields one call may write."""
MAX_DEPTH = 32
"""How deep JSON in a field may nest."""
MAX_VERSION = 2**53 - 1  # Lua counts in doubles

TIE_FIELD = "statesync:tie"
"""The field of a core or a session that names the tie it is in; it is never saved."""

T = TypeVar("T")

_LISTED = 20
"""More ids than this are counted, not named."""
_MAX_DIGITS = len(str(MAX_ID))
_ID_TEXT = re.compile(rf"[1-9][0-9]{{0,{_MAX_DIGITS - 1}}}")
_json = msgspec.json.Decoder()
_encode = msgspec.json.Encoder().encode


# Ids


def check_char_id(char_id: object) -> int:
    """Return ``char_id`` if it is an integer from 1 to 2**63 - 1; InvalidCharId if not."""
    if type(char_id) is not int or not 1 <= char_id <= MAX_ID:
        raise InvalidCharId(
            f"{shown(char_id)} is not a character id: it must be an integer from 1 to 2^63-1"
        )
    return char_id


def parse_char_id(text: str) -> int:
    """Return the id that ``text`` spells in plain decimal digits; InvalidCharId if it does not."""
    if not _ID_TEXT.fullmatch(text):
        return check_char_id(text)
    return check_char_id(int(text))


def check_version(version: object) -> int:
    """Return ``version`` if it is an integer from 0 to 2**53 - 1; InvalidInput if not."""
    if isinstance(version, int) and type(version) is not bool and 0 <= version <= MAX_VERSION:
        return version
    raise InvalidInput(f"{shown(version)} is not a version: it must be an integer from 0")


# JSON


def load_json(raw: bytes | str) -> Any:
    """Decode strict JSON: no NaN, no lone surrogate; ValueError or RecursionError if it is not."""
    return _json.decode(raw)


def dump_json(value: Any) -> str:
    """Return ``value`` as compact JSON; TypeError if it has no such form."""
    return _encode(value).decode()


def encode_json(value: Any, read: Callable[[bytes], T]) -> tuple[str, T]:
    """Return ``value`` as JSON, and what ``read`` gives back: the same, but for tuples as lists.

    Raises InvalidValue, or UnicodeEncodeError.
    """
    try:
        text = dump_json(value)
        decoded = read(text.encode())
    except UnicodeEncodeError:
        raise
    except (InvalidValue, TypeError, ValueError, OverflowError, RecursionError) as error:
        _check_values(value, "", MAX_DEPTH)
        if isinstance(error, InvalidValue):
            raise
        fail(f"cannot be written as JSON: {error}")
    if decoded != value:
        _check_values(value, "", MAX_DEPTH)
    return text, decoded


def shown(value: object) -> str:
    """Return a value as a message shows it: as Python does, but not longer than 60 characters."""
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        return f"a {type(value).__name__} that is too long to show"
    return text if len(text) <= 60 else text[:57] + "…"


def counted(number: int, one: str, more: str) -> str:
    """Return a number, and of what: one of it, or more of it."""
    return f"{number} {one if number == 1 else more}"


def listed(ids: Sequence[object]) -> str:
    """Return ids for a sentence: the first twenty, and how many more there are."""
    named = ", ".join(map(str, ids[:_LISTED]))
    return f"{named} and {len(ids) - _LISTED} more" if len(ids) > _LISTED else named


def printable(text: object) -> str:
    """Return a text that players or other writers wrote, for a terminal or a log.

    What moves a cursor, ends a line or reorders letters is escaped, as Python spells it.
    """
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown)


def printable_cause(error: BaseException) -> str:
    """Return the traceback of what caused an error, each line after a line break; "" if nothing.

    Its text may be a player's, so it is as ``printable`` makes it.
    """
    lines = traceback.format_exception(error.__cause__) if error.__cause__ else []
    return "".join("\n" + printable(line) for part in lines for line in part.rstrip().split("\n"))


# Values with the name of their field


def text_value(name: str, raw: bytes) -> str:
    """Return the text that a field's bytes are. Raises InvalidField."""
    return _named(name, read_text, raw)


def json_value(name: str, raw: bytes) -> Any:
    """Return the value of a JSON field that PostgreSQL can hold. Raises InvalidField."""
    return _named(name, read_json, raw)


def version_value(name: str, raw: bytes) -> int:
    """Return the version that a field's bytes are. Raises InvalidField."""
    return _named(name, read_version, raw)


def _named(name: str, read: Callable[[bytes], T], raw: bytes) -> T:
    try:
        return read(raw)
    except InvalidValue as error:
        raise InvalidField(name + error.path, error.reason) from None


# Values


class InvalidValue(Exception):
    """Why a value cannot be held; ``path`` leads into the field, such as ``.hp.cur``."""

    def __init__(self, reason: str, path: str = "") -> None:
        self.reason = reason
        self.path = path


def fail(reason: str, path: str = "") -> NoReturn:
    """Raise InvalidValue."""
    raise InvalidValue(reason, path)


def read_text(raw: bytes, what: str = "") -> str:
    """Return the text that bytes are, without a NUL. Raises InvalidValue."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        fail(f"{what}is not UTF-8 (byte {error.start})")
    if "\0" in text:
        fail(f"{what}holds a NUL, which PostgreSQL cannot store")
    return text


def read_json(raw: bytes) -> Any:
    """Return the JSON value that bytes are, if PostgreSQL can hold it. Raises InvalidValue."""
    try:
        value = _json.decode(raw)
    except RecursionError:
        fail(f"JSON nests deeper than {MAX_DEPTH}")
    except ValueError as error:
        read_text(raw)  # the error is clearer if it is no text at all
        fail(f"is not valid JSON: {error}")
    # Almost always the bytes alone show that the tree needs no check.
    if b"\\u0000" in raw or raw.count(b"{") + raw.count(b"[") > MAX_DEPTH:
        _check_tree(value, "", MAX_DEPTH)
    return value


def read_object(raw: bytes) -> dict[str, Any]:
    """Return the JSON object that bytes are. Raises InvalidValue."""
    value = read_json(raw)
    if not isinstance(value, dict):
        fail(f"must be a JSON object, not {json_type(value)}")
    return value


def read_version(raw: bytes) -> int:
    """Return the version that bytes are. Raises InvalidValue."""
    if not raw.isdigit() or len(raw) > 16 or int(raw) > MAX_VERSION:
        fail("must be an integer from 0 to 2^53-1")
    return int(raw)


_SURROGATES = "surrogateescape"


def encoded(fields: Mapping[str, str]) -> dict[bytes, bytes]:
    """Return a hash as Redis holds it; surrogates stand for bytes that are no UTF-8."""
    return {encoded_text(name): encoded_text(text) for name, text in fields.items()}


def encoded_text(text: str) -> bytes:
    """Return a text as Redis holds it."""
    return text.encode(errors=_SURROGATES)


def decoded(raw: Mapping[bytes, bytes]) -> dict[str, str]:
    """Return the texts of a hash, as ``encoded`` takes them."""
    return {
        name.decode(errors=_SURROGATES): text.decode(errors=_SURROGATES)
        for name, text in raw.items()
    }


def version_or_none(raw: bytes) -> int | None:
    """Return the version that bytes are; None if another writer has put there what is none."""
    with suppress(InvalidValue):
        return read_version(raw)
    return None


def json_type(value: object) -> str:
    """Return the name of a JSON value's type, as errors show it."""
    names = {str: "a string", list: "a list", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "an object" if isinstance(value, dict) else "null")


def _check_values(value: Any, path: str, depth: int) -> None:
    """Refuse what JSON does not have, and the encoder would write as something else."""
    if depth < 0:
        fail(f"JSON nests deeper than {MAX_DEPTH}")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                fail(f"the key {shown(key)} must be a string, not {type(key).__name__}", path)
            _check_values(item, f"{path}.{key}", depth - 1)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check_values(item, f"{path}[{index}]", depth - 1)
    elif isinstance(value, float):
        if not math.isfinite(value):
            fail(f"is {value}, which JSON does not have", path)
    elif not isinstance(value, int | str | None):
        fail(f"is of the type {type(value).__name__}, which JSON does not have", path)


def _check_tree(value: Any, path: str, depth: int) -> None:
    """Refuse what PostgreSQL's jsonb cannot hold, or what nests too deep."""
    if depth < 0:
        fail(f"JSON nests deeper than {MAX_DEPTH}")
    if isinstance(value, str):
        if "\0" in value:
            fail("holds a NUL, which PostgreSQL cannot store", path)
    elif isinstance(value, dict):
        for key, item in value.items():
            if "\0" in key:
                fail("a key holds a NUL, which PostgreSQL cannot store", path)
            _check_tree(item, f"{path}.{key}", depth - 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_tree(item, f"{path}[{index}]", depth - 1)
