"""Owns what game code sends to Redis about one character: create, read, update, mark. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from statesync import errors
from statesync.hot.command import Command, Raw, flat, load_script, pairs
from statesync.hot.keys import Keys
from statesync.state.characters import Character, decode_character, encode_character
from statesync.state.fields import check_char_id

__all__ = ["create", "get", "mark_dirty", "update"]


def _args(*args: str | int) -> tuple[str | int, ...]:
    return args


_update = load_script("update")


def update(keys: Keys, char_id: int, /, *, durable: bool = False, **fields: Any) -> Command[int]:
    """Write fields of a loaded character and mark it dirty, in one atomic step.

    ``location``, ``bio``, ``stats`` and ``vitals`` are mappings and replace the whole field;
    ``state`` and session ids are strings; any other field is the game's own, a string or a
    number. Returns the character's new version. Raises CharacterNotLoaded, InvalidField,
    InvalidCharId or CorruptState; then nothing is written. With ``durable`` it returns when
    PostgreSQL has the change, or raises NotDurable.
    """
    args = _args(check_char_id(char_id), *flat(encode_character(fields)))
    on = (keys.core(char_id), keys.dirty, keys.since)
    return Command(_update, on, args, int, char_id, _receipt(char_id) if durable else None)


def _receipt(char_id: int) -> Callable[[Raw], dict[int, int]]:
    return lambda version: {char_id: int(version)}


def mark_dirty(keys: Keys, char_id: int, /, *, durable: bool = False) -> Command[int]:
    """Mark a loaded character dirty, so that the next sweep saves it; returns its version.

    Raises CharacterNotLoaded, InvalidCharId or CorruptState.
    """
    return update(keys, char_id, durable=durable)


_create = load_script("create")


def create(keys: Keys, char_id: int, /, *, durable: bool = False, **fields: Any) -> Command[int]:
    """Create the core of a new character and mark it dirty, in one atomic step.

    Takes fields as ``update`` does. Returns the version, 1. Raises CharacterExists, InvalidField
    or InvalidCharId.
    """
    args = _args(check_char_id(char_id), *flat(encode_character(fields)))
    on = (keys.core(char_id), keys.dirty, keys.since)
    return Command(_create, on, args, int, char_id, _receipt(char_id) if durable else None)


_get = load_script("get")


def get(keys: Keys, char_id: int, /) -> Command[Character]:
    """Read a loaded character. Raises CharacterNotLoaded, InvalidCharId or CorruptState."""

    def parse(reply: Raw) -> Character:
        if not reply:
            raise errors.CharacterNotLoaded(char_id)
        return decode_character(char_id, pairs(reply))

    return Command(_get, (keys.core(check_char_id(char_id)),), (), parse, char_id)
