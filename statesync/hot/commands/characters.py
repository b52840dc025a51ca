"""Owns what game code sends to Redis about one character: create, read, update, mark. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from statesync import errors
from statesync.hot.command import Command, Raw, load_script, pack, pairs
from statesync.hot.fields import check_durable, gather_fields, list_writes
from statesync.hot.keys import Keys
from statesync.state.characters import Character, FieldValue, decode_character, encode_character
from statesync.state.fields import check_char_id

__all__ = ["create", "get", "mark_dirty", "update"]


_update = load_script("update")


def update(
    keys: Keys,
    char_id: int,
    fields: Mapping[str, FieldValue] | None = None,
    /,
    *,
    durable: bool = False,
    **more: FieldValue,
) -> Command[int]:
    """Write fields of a loaded character and mark it dirty, in one atomic step.

    ``location``, ``bio``, ``stats`` and ``vitals`` are mappings and replace the whole field;
    ``state`` and session ids are strings; any other field is the game's own, a string or a
    number; None deletes it. Fields come in a mapping, or as keywords if their name is no option.
    Returns the character's new version. Raises CharacterNotLoaded, InvalidField, InvalidInput,
    InvalidCharId or CorruptState; then nothing is written. With ``durable`` it returns when
    PostgreSQL has the change, or raises NotDurable.
    """
    script_keys = (keys.core(check_char_id(char_id)), keys.dirty, keys.since)
    encoded = encode_character(gather_fields(fields, more))
    args = (char_id, pack(list_writes(encoded))) if encoded else (char_id,)
    receipts = _receipts(char_id) if check_durable(durable) else None
    repeatable = not encoded  # what it writes might undo what another has written in between
    return Command(_update, script_keys, args, int, char_id, receipts, repeatable)


def _receipts(char_id: int) -> Callable[[Raw], dict[int, int]]:
    return lambda version: {char_id: int(version)}


def mark_dirty(keys: Keys, char_id: int, /, *, durable: bool = False) -> Command[int]:
    """Mark a loaded character dirty, so that the next sweep saves it; returns its version.

    Raises CharacterNotLoaded, InvalidCharId or CorruptState.
    """
    return update(keys, char_id, durable=durable)


_create = load_script("create")


def create(
    keys: Keys,
    char_id: int,
    fields: Mapping[str, FieldValue] | None = None,
    /,
    *,
    durable: bool = False,
    **more: FieldValue,
) -> Command[int]:
    """Create the core of a new character and mark it dirty, in one atomic step.

    Fields are given as for ``update``; None is left out. Returns the version, 1. Raises
    CharacterExists, InvalidField, InvalidInput or InvalidCharId.
    """
    script_keys = (keys.core(check_char_id(char_id)), keys.dirty, keys.since, keys.seals)
    values = {n: v for n, v in gather_fields(fields, more).items() if v is not None}
    writes = list_writes(encode_character(values))
    receipts = _receipts(char_id) if check_durable(durable) else None
    # Not repeatable: what it has made may have changed since, or be gone.
    return Command(_create, script_keys, (char_id, pack(writes)), int, char_id, receipts)


_get = load_script("get")


def get(keys: Keys, char_id: int, /) -> Command[Character]:
    """Read a loaded character. Raises CharacterNotLoaded, InvalidCharId or CorruptState."""

    def parse(reply: Raw) -> Character:
        if not reply:
            raise errors.CharacterNotLoaded(char_id)
        return decode_character(char_id, pairs(reply))

    script_keys = (keys.core(check_char_id(char_id)),)
    return Command(_get, script_keys, (), parse, char_id, repeatable=True)
