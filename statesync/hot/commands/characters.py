"""Owns what game code sends to Redis about one character: create, read, update, mark. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from statesync.hot.command import Command, Raw, load_script, not_loaded, pack, pairs
from statesync.hot.fields import gather_fields, list_writes, nonce_if
from statesync.hot.keys import Keys
from statesync.state.characters import Character, FieldValue, decode_character, encode_character
from statesync.state.fields import check_char_id
from statesync.state.receipts import Receipt

__all__ = ["create", "get", "mark_dirty", "read_fields", "update"]

T = TypeVar("T")


_update = load_script("update")


def update(
    keys: Keys,
    char_id: int,
    fields: Mapping[str, FieldValue] | None = None,
    /,
    *,
    durable: bool = False,
    receipt: bool = False,
    **more: FieldValue,
) -> Command[Receipt]:
    """Write fields of a loaded character and mark it dirty, in one atomic step.

    ``location``, ``bio``, ``stats`` and ``vitals`` are mappings and replace the whole field;
    ``state`` and session ids are strings; any other field is the game's own, a string or a
    number; None deletes it. Fields come in a mapping, or as keywords if their name is no option.
    Returns the character's new version; with ``receipt`` also a nonce, by which one can ask later
    whether PostgreSQL has the change. Raises CharacterNotLoaded, InvalidField, InvalidInput,
    InvalidCharId or CorruptState; then nothing is written. With ``durable`` it returns when
    PostgreSQL has the change, or raises NotDurable.
    """
    script_keys = [keys.core(check_char_id(char_id)), keys.dirty, keys.since]
    encoded = encode_character(gather_fields(fields, more))
    args: list[int | bytes | str] = [char_id]
    nonce = nonce_if(durable=durable, receipt=receipt)
    if encoded or nonce:
        args.append(pack(list_writes(encoded)))
    if nonce:
        script_keys.append(keys.nonces)
        args.append(nonce)
    saves = (char_id,) if durable else None
    repeatable = not encoded  # what it writes might undo what another has written in between
    parse = _receipt(char_id, nonce)
    return Command(_update, script_keys, args, parse, char_id, saves, nonce, repeatable)


def _receipt(char_id: int, nonce: str | None) -> Callable[[Raw], Receipt]:
    return lambda version: Receipt(version, char_id, nonce)


def mark_dirty(
    keys: Keys, char_id: int, /, *, durable: bool = False, receipt: bool = False
) -> Command[Receipt]:
    """Mark a loaded character dirty, so that the next sweep saves it; returns its version.

    Raises CharacterNotLoaded, InvalidCharId or CorruptState.
    """
    return update(keys, char_id, durable=durable, receipt=receipt)


_create = load_script("create")


def create(
    keys: Keys,
    char_id: int,
    fields: Mapping[str, FieldValue] | None = None,
    /,
    *,
    durable: bool = False,
    receipt: bool = False,
    **more: FieldValue,
) -> Command[Receipt]:
    """Create the core of a new character and mark it dirty, in one atomic step.

    Fields are given as for ``update``; None is left out. Returns the version, 1. Raises
    CharacterExists, InvalidField, InvalidInput or InvalidCharId.
    """
    core = keys.core(check_char_id(char_id))
    script_keys = (core, keys.dirty, keys.since, keys.seals, keys.nonces)
    values = {n: v for n, v in gather_fields(fields, more).items() if v is not None}
    writes = list_writes(encode_character(values))
    nonce = nonce_if(durable=durable, receipt=receipt)
    args = (char_id, pack(writes), nonce) if nonce else (char_id, pack(writes))
    saves = (char_id,) if durable else None
    # Not repeatable: what it has made may have changed since, or be gone.
    return Command(_create, script_keys, args, _receipt(char_id, nonce), char_id, saves, nonce)


_get = load_script("get")


def get(keys: Keys, char_id: int, /) -> Command[Character]:
    """Read a loaded character. Raises CharacterNotLoaded, InvalidCharId or CorruptState."""

    def parse(reply: Raw) -> Character:
        if not reply:
            raise not_loaded(char_id, keys.core(char_id))
        return decode_character(char_id, pairs(reply))

    return _read(keys, char_id, parse)


def read_fields(keys: Keys, char_id: int, /) -> Command[dict[str, str]]:
    """Read the fields of a core as Redis holds them, even if they are no character; {} if none.

    What is no UTF-8 has its bytes escaped. Raises CorruptState if it is no hash.
    """

    def parse(reply: Raw) -> dict[str, str]:
        return {
            name.decode(errors="backslashreplace"): value.decode(errors="backslashreplace")
            for name, value in pairs(reply).items()
        }

    return _read(keys, char_id, parse)


def _read(keys: Keys, char_id: int, parse: Callable[[Raw], T]) -> Command[T]:
    script_keys = (keys.core(check_char_id(char_id)),)
    return Command(_get, script_keys, (), parse, char_id, repeatable=True)
