"""Owns what a backup sends to Redis once groups are in PostgreSQL: their claims end. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from statesync.hot.command import Command, Raw, load_script, pack
from statesync.hot.commands.claims import Claim
from statesync.hot.commands.transfer import TOMBSTONE_MS
from statesync.hot.histograms import CHANGE_TO_DURABLE
from statesync.hot.keys import Keys
from statesync.state.references import SessionRef, reference_field

__all__ = ["GroupAck", "SessionAck", "acknowledge", "acknowledge_many"]


class SessionAck(NamedTuple):
    """Acknowledges a session."""

    session_type: str
    session_id: str
    snapshot_version: int
    durable_version: int
    closed: bool = False
    """Whether it was closed at the snapshot; if it closed since, its end is not durable yet."""
    seal: int | None = None
    """The row's."""

    @property
    def ref(self) -> SessionRef:
        """The session's name."""
        return SessionRef(self.session_type, self.session_id)


class GroupAck(NamedTuple):
    """Acknowledges a group that is durable, or plain characters; its cores in columns."""

    at_ms: int
    """When the snapshot was made."""
    seal: int
    """The snapshot's own."""
    claims: Sequence[Claim]
    """The token is 0 if the character was not loaded at the snapshot."""
    versions: Sequence[int]
    """Of the snapshot."""
    durable: Sequence[int]
    """The versions of the rows; 0 if nothing of a core was saved."""
    seals: Mapping[int, int | None] = {}
    """By place: the seals of those rows that do not have the snapshot's own."""
    nonces: Mapping[int, str] = {}
    """By place, if there are any: those of the snapshot; they are in PostgreSQL."""
    sessions: Sequence[SessionAck] = ()
    ties: Mapping[str, Mapping[str, str]] = {}
    """As they were at the snapshot."""

    def size(self) -> int:
        """Return about how much work it is to acknowledge it."""
        return len(self.claims) + len(self.sessions) + sum(map(len, self.ties.values()))


_acknowledge = load_script("acknowledge")
_HISTOGRAM = {"histogram": CHANGE_TO_DURABLE.name, "bounds": CHANGE_TO_DURABLE.bounds}


def acknowledge_many(keys: Keys, groups: Sequence[GroupAck], /) -> Command[frozenset[int]]:
    """End the claims of groups that are in PostgreSQL.

    Returns the places, counted through all groups, of the claims that were not ours any more.
    """
    script_keys = [keys.dirty, keys.claimed, keys.since, keys.quarantine, keys.seals, keys.nonces]
    script_keys.append(keys.histograms)
    packed_groups = []
    for group in groups:
        packed_groups.append(_packed_group(group, len(script_keys) + 1))
        script_keys += _group_keys(keys, group)
    args = {"tombstone_ms": TOMBSTONE_MS, **_HISTOGRAM, "groups": packed_groups}

    def parse(reply: Raw) -> frozenset[int]:
        return frozenset(reply)

    # Repeatable: the second time, the tokens are no longer there.
    return Command(_acknowledge, script_keys, (pack(args),), parse, repeatable=True)


def _group_keys(keys: Keys, group: GroupAck) -> list[str]:
    refs = [session.ref for session in group.sessions]
    return [
        *[keys.core(char_id) for char_id, _ in group.claims],
        *(keys.session(*ref) for ref in refs),
        *(keys.session_log(*ref) for ref in refs),
        *(keys.tombstone(ref.id) for ref in refs),
        *map(keys.tie, group.ties),
    ]


def _packed_group(group: GroupAck, first_key: int) -> tuple[Any, ...]:
    """Return a group as ``acknowledge.lua`` reads it; ``first_key`` is the number of its key."""
    ids = [str(char_id) for char_id, _ in group.claims]
    return (
        group.at_ms,
        str(group.seal),
        ids,
        [str(token) for _, token in group.claims],
        group.versions,
        group.durable,
        {place + 1: _word(seal) for place, seal in group.seals.items()},
        {place + 1: nonces for place, nonces in group.nonces.items()},
        [_packed_session(session, group.seal) for session in group.sessions],
        _packed_ties(group, [*ids, *(one.ref.member for one in group.sessions)], first_key),
    )


def _packed_session(session: SessionAck, own: int) -> tuple[Any, ...]:
    return (
        reference_field(session.session_type),
        session.session_id,
        session.snapshot_version,
        session.durable_version,
        session.seal == own or _word(session.seal),
        session.closed,
    )


def _packed_ties(group: GroupAck, members: Sequence[str], first_key: int) -> list[Any]:
    if not group.ties:
        return []
    number_of = {name: first_key + i for i, name in enumerate(members)}
    return [
        (tie, [(name, number_of.get(name, 0), token) for name, token in entries.items()])
        for tie, entries in group.ties.items()
    ]


def _word(seal: int | None) -> str:
    """Return the seal of a row as ``acknowledge.lua`` takes it."""
    return "" if seal is None else str(seal)


def acknowledge(
    keys: Keys,
    claim: Claim,
    /,
    *,
    snapshot_version: int = 0,
    durable_version: int = 0,
    at_ms: int = 0,
    seal: int = 0,
) -> Command[bool]:
    """End one claim. False if it was not ours any more. Without a seal, the row has none."""
    seals: Mapping[int, int | None] = {} if seal else {0: None}
    group = GroupAck(at_ms, seal, [claim], [snapshot_version], [durable_version], seals)
    return acknowledge_many(keys, [group]).then(lambda not_ours: not not_ours)
