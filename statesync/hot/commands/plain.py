"""Owns what a backup sends to Redis about plain characters: those in no session and no tie.

Most are plain, so the unit is the batch: columns, in the order of the ids, and no object for each.
No I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import msgspec

from statesync.errors import StatesyncError
from statesync.hot.command import Command, Raw, load_script, pack
from statesync.hot.commands.claims import Claim
from statesync.hot.keys import Keys
from statesync.hot.members import Members
from statesync.state.characters import CORE_FIELDS
from statesync.state.fields import TIE_FIELD
from statesync.state.seals import FULL_BYTES
from statesync.state.session_types import reference_fields

__all__ = ["PLAIN_STEP", "Plain", "snapshot_plain"]

PLAIN_STEP = 50
"""How many plain characters one script reads or acknowledges: some 0.3 to 0.5 ms of Redis."""
_SCRIPT_BYTES = 256 * 1024
"""Once a script gives more than this, nobody else is plain: 50 characters have some 40 kB."""


class Plain(NamedTuple):
    """Plain characters as Redis held them at ``at_ms``, in columns."""

    at_ms: int
    claims: Sequence[Claim]
    versions: Sequence[int]
    entries: Sequence[str]
    """The seals that Redis knew, oldest first, separated by a space."""
    nonces: Sequence[str]
    """Of durable changes since the last acknowledged snapshot, separated by a space."""
    cores: Sequence[dict[str, str]]
    known_members: Mapping[int, frozenset[str]]
    """Of those that are not plain: the members of their group, as far as their cores name them."""
    in_doubt: Sequence[Claim] = ()
    """All claims, if something in a core is not UTF-8: which of them have a snapshot is unknown."""


class _Reply(msgspec.Struct, array_like=True):
    at_ms: int
    places: list[int]
    versions: list[int]
    entries: list[str]
    nonces: list[str]
    hashes: list[list[str]]
    named: list[int | str]


_decode = msgspec.msgpack.Decoder(_Reply).decode
_NEEDED = (*CORE_FIELDS, "saved_version")
_snapshot_plain = load_script("snapshot_plain")


def snapshot_plain(keys: Keys, claims: Sequence[Claim], /, *, seal: int) -> Command[Plain]:
    """Read those of some claimed characters that are plain, at one instant; raise their versions.

    Nothing is done for the others.
    """
    script_keys = [keys.dirty, keys.claimed, keys.since, keys.seals, keys.nonces, keys.servers]
    script_keys += [keys.core(char_id) for char_id, _ in claims]
    ids, tokens = [str(i) for i, _ in claims], [str(token) for _, token in claims]
    naming = [*reference_fields(), TIE_FIELD]
    args = pack((str(seal), _SCRIPT_BYTES, FULL_BYTES, naming, _NEEDED, ids, tokens))

    def parse(raw: Raw) -> Plain:
        try:
            reply = _decode(raw)
        except UnicodeDecodeError:
            return Plain(0, (), (), (), (), (), {}, claims)
        return Plain(
            reply.at_ms,
            [claims[place] for place in reply.places],
            reply.versions,
            reply.entries,
            reply.nonces,
            [_mapping(hash_) for hash_ in reply.hashes],
            _known_members(script_keys[6:], claims, reply.named),
        )

    # Repeatable: the second snapshot is under the same claims and later.
    return Command(_snapshot_plain, script_keys, (args,), parse, repeatable=True)


def _mapping(hash_: list[str]) -> dict[str, str]:
    texts = iter(hash_)
    return dict(zip(texts, texts, strict=True))


def _known_members(
    cores: Sequence[str], claims: Sequence[Claim], named: Sequence[int | str]
) -> dict[int, frozenset[str]]:
    known: dict[int, frozenset[str]] = {}
    for place, field, value in zip(named[::3], named[1::3], named[2::3], strict=True):
        assert isinstance(place, int)  # noqa: S101
        char_id = claims[place].char_id
        found = (place + 1, str(field).encode(), str(value).encode())
        with suppress(StatesyncError):  # the snapshot of its group says what is wrong
            members = Members(known.get(char_id, ()), first=char_id)
            known[char_id] = members.with_found(char_id, cores, found)
    return known
