"""Owns what a revert sends to Redis: the revert itself, and what it took out of play. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple
from uuid import uuid4

import msgspec

from statesync.hot.command import Command, Raw, load_script, pack, pairs
from statesync.hot.commands.transfer import TOMBSTONE_MS, RestoreItem, item_keys, packed_item
from statesync.hot.keys import Keys
from statesync.hot.members import Members
from statesync.state.fields import MAX_VERSION, dump_json
from statesync.state.references import reference_field
from statesync.state.session_types import names

__all__ = ["Dropped", "Revert", "discard_dropped", "list_dropped", "read_dropped", "revert"]


class Dropped(msgspec.Struct, frozen=True):
    """What a revert took out of play, to be recorded."""

    divergence: int
    """The seal that Redis did not know; the same each time that this group is found."""
    members: tuple[str, ...]
    """The names of the characters and sessions."""

    @property
    def char_ids(self) -> list[int]:
        """The characters, in ascending order."""
        return sorted(int(name) for name in self.members if name.isdigit())


class Revert(NamedTuple):
    """A group that is to be set to its rows."""

    members: frozenset[str]
    tokens: Mapping[int, int]
    """The claims on its characters, of all that are loaded."""
    items: Sequence[RestoreItem]
    """The rows of those."""
    row_versions: Mapping[str, int]
    """By name, the versions of the rows of its characters and open sessions."""
    dropped: Dropped
    is_recovering: bool = False
    """Whether the group was read while PostgreSQL was brought up from an older state."""


_revert = load_script("revert")


def revert(keys: Keys, group: Revert, /) -> Command[bool]:
    """Set a claimed group to its rows, and move what is live out of play, in one step.

    False if the group has grown since it was read, or the staged logs are gone; nothing is done
    then. Raises LeaseLost if a claim is not ours any more, and DatabaseWentBack if that was found
    since the group was read.
    """
    members = Members(group.members)
    characters, sessions, _ = members.listed()
    dropped_id = str(uuid4())
    script_keys = [
        *(keys.dirty, keys.claimed, keys.since, keys.quarantine),
        *(keys.seals, keys.nonces, keys.dropped, keys.stats, keys.servers),
        *members.keys(keys),
        *map(keys.tombstone, members.characters),
        *(keys.tombstone(ref.id) for ref in members.sessions),
        *_copies(keys, dropped_id, members),
    ]
    for item in group.items:
        script_keys += item_keys(keys, item)
    session_types = names()
    message = {"char_ids": members.characters, "sessions": [r.key for r in members.sessions]}
    args = {
        "members": members.listed(),
        "tokens": {str(char_id): str(token) for char_id, token in group.tokens.items()},
        "references": ([*map(reference_field, session_types)], session_types),
        "dropped_id": dropped_id,
        "entry": msgspec.json.encode(group.dropped).decode(),
        "tombstones": [_tombstone(group, name) for name in (*characters, *sessions)],
        "tombstone_ms": TOMBSTONE_MS,
        "is_recovering": group.is_recovering,
        "channel": keys.reverted,
        "message": dump_json(message),
        "items": [*map(packed_item, group.items)],
    }
    # Repeatable: the second time, the tokens are no longer there.
    return Command(_revert, script_keys, (pack(args),), bool, repeatable=True)


def _tombstone(group: Revert, name: str) -> str:
    """Return the version below which no restore may come; none for who is not loaded."""
    if name.isdigit() and int(name) not in group.tokens:
        return ""
    return str(group.row_versions.get(name, MAX_VERSION))


def _copies(keys: Keys, dropped_id: str, members: Members) -> list[str]:
    """Return the keys to which the cores, sessions and logs of a group are moved."""
    logs = [f"{ref.key}:log" for ref in members.sessions]
    moved = [*map(str, members.characters), *(ref.key for ref in members.sessions), *logs]
    return [keys.dropped_copy(dropped_id, name) for name in moved]


_list_dropped = load_script("list_dropped")


def list_dropped(keys: Keys, /) -> Command[dict[str, Dropped]]:
    """Read what is still to be recorded, by the id under which it is kept.

    What is no entry of ours is left out.
    """

    def parse(reply: Raw) -> dict[str, Dropped]:
        listed = {}
        for name, raw in pairs(reply).items():
            with suppress(msgspec.DecodeError, ValueError):
                dropped = msgspec.json.decode(raw, type=Dropped)
                Members(dropped.members)
                listed[name.decode()] = dropped
        return listed

    return Command(_list_dropped, (keys.dropped,), (), parse, repeatable=True)


class DroppedHash(NamedTuple):
    """A core or a session as it was, undecoded."""

    fields: dict[bytes, bytes]
    log: list[bytes]


_read_dropped = load_script("read_dropped")


def read_dropped(
    keys: Keys, dropped_id: str, names_: Sequence[str], /
) -> Command[dict[str, DroppedHash]]:
    """Read what a revert took out of play, by name; without what was not loaded."""
    members = Members(names_)
    characters, sessions, _ = members.listed()

    def parse(reply: Raw) -> dict[str, DroppedHash]:
        found = {
            name: DroppedHash(pairs(fields), log)
            for name, (fields, log) in zip((*characters, *sessions), reply, strict=True)
        }
        return {name: one for name, one in found.items() if one.fields or one.log}

    script_keys = _copies(keys, dropped_id, members)
    args = (len(characters), len(sessions))
    return Command(_read_dropped, script_keys, args, parse, repeatable=True)


_discard_dropped = load_script("discard_dropped")


def discard_dropped(keys: Keys, dropped_id: str, names_: Sequence[str], /) -> Command[None]:
    """Delete what a revert took out of play: it is recorded in PostgreSQL."""
    script_keys = (keys.dropped, *_copies(keys, dropped_id, Members(names_)))
    args = (dropped_id,)
    return Command(_discard_dropped, script_keys, args, lambda _: None, repeatable=True)
