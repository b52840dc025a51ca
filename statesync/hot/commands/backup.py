"""Owns what a backup sends to Redis: snapshots and what acknowledges them, many groups at a time.

Who belongs to a group stands in Redis, so a snapshot is tried with what is known, and sent again
where the script finds others. No I/O.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from statesync.errors import StatesyncError
from statesync.hot.command import Command, Raw, error_of, load_script, pack, pairs
from statesync.hot.commands.claims import Claim
from statesync.hot.commands.transfer import TOMBSTONE_MS
from statesync.hot.keys import Keys
from statesync.hot.members import Members, found_members, session_name
from statesync.state.fields import MAX_CORE_BYTES
from statesync.state.references import reference_field
from statesync.state.session_types import names

__all__ = [
    "CoreAck",
    "GroupAck",
    "NeedsKeys",
    "RawSnapshot",
    "SessionAck",
    "acknowledge",
    "acknowledge_many",
    "snapshot",
    "try_snapshots",
]


class NeedsKeys(NamedTuple):
    """Why there is no snapshot yet: more belongs to it than was thought."""

    members: frozenset[str]


class RawSnapshot(NamedTuple):
    """What Redis held at ``at_ms`` of a character and of all that belongs to it."""

    at_ms: int
    claims: dict[int, Claim]
    """Of every character that is loaded: the claim that we hold on it now."""
    cores: dict[int, dict[bytes, bytes]]
    """By character; empty where the core is gone."""
    references: dict[int, dict[str, str]]
    """By character: its sessions' ids, by type."""
    sessions: dict[tuple[str, str], tuple[int, dict[bytes, bytes]]]
    """By type and id: the length of its log, and its hash, empty where the session is gone."""
    ties: dict[str, dict[bytes, bytes]]
    """By id: each member's name, and the token of the last change that tied it."""

    def members(self) -> frozenset[str]:
        """Return the names of all members of the group, as ``members`` spells them."""
        sessions = (f"{session_type}:{session_id}" for session_type, session_id in self.sessions)
        return frozenset((*map(str, self.cores), *sessions, *self.ties))


_snapshot = load_script("snapshot")


def try_snapshots(
    keys: Keys, todo: Sequence[tuple[Claim, Collection[str]]], /, *, lease_us: int
) -> Command[list[RawSnapshot | NeedsKeys | StatesyncError]]:
    """Read claimed characters, each with all that belongs to it, at one instant.

    Raises all their versions, and claims those who are not claimed yet. With each claim goes what
    is known of its group; where there is more, nothing is done for it: NeedsKeys names all.
    a snapshot may be LeaseLost, or CorruptState where one of the group cannot be read.
    """
    type_names = names()
    fields = [(session_type, reference_field(session_type).encode()) for session_type in type_names]
    on = [keys.dirty, keys.claimed, keys.since]
    args: list[str | int] = [MAX_CORE_BYTES, lease_us, len(type_names), *type_names]
    groups = []
    for held, known in todo:
        members = Members(known, first=held.char_id)
        groups.append((held.char_id, members))
        on += members.keys(keys)
        args += [str(held.token), *members.counts(), *members.listed()]

    def parse(reply: Raw) -> list[RawSnapshot | NeedsKeys | StatesyncError]:
        rest = _Reply(reply)
        at_ms = int(rest.next())
        return [one(*group, at_ms, rest) for group in groups]

    def one(
        char_id: int, members: Members, at_ms: int, rest: _Reply
    ) -> RawSnapshot | NeedsKeys | StatesyncError:
        head = rest.next()
        try:
            if isinstance(head, bytes):
                return error_of(head.decode(errors="backslashreplace"), on, char_id)
            if isinstance(head, list):
                return NeedsKeys(members.names | found_members(char_id, on, head))
        except StatesyncError as error:
            return error
        claims, cores, references = {}, {}, {}
        for i in members.characters:
            token, held = rest.hash()
            cores[i] = held
            if token:
                claims[i] = Claim(i, int(token))
            references[i] = {
                session_type: held[field].decode()
                for session_type, field in fields
                if held.get(field)
            }
        sessions = {session: rest.hash() for session in members.sessions}
        ties = {tie: pairs(rest.some(rest.next())) for tie in members.ties}
        return RawSnapshot(at_ms, claims, cores, references, sessions, ties)

    return Command(_snapshot, on, (pack(args),), parse)


class _Reply:
    """A long reply, to be read from its beginning."""

    def __init__(self, reply: Sequence[Raw]) -> None:
        self._reply = reply
        self._at = 0

    def next(self) -> Raw:
        self._at += 1
        return self._reply[self._at - 1]

    def some(self, count: int) -> Sequence[Raw]:
        self._at += count
        return self._reply[self._at - count : self._at]

    def hash(self) -> tuple[Any, dict[bytes, bytes]]:
        """Return what comes with a hash, and the hash with its raised version; or 0 and nothing."""
        length = self.next()
        if not length:
            return 0, {}
        version, more = self.some(2)
        held = pairs(self.some(length))
        held[b"version"] = b"%d" % version
        return more, held


def snapshot(
    keys: Keys, claim: Claim, /, *, lease_us: int = 120_000_000, known: Collection[str] = ()
) -> Command[RawSnapshot]:
    """Take one snapshot, and try again until it is of all that belongs.

    Raises LeaseLost or CorruptState.
    """
    first = try_snapshots(keys, [(claim, known)], lease_us=lease_us)

    def parse(reply: Raw) -> RawSnapshot | Command[RawSnapshot]:
        found = first.parse(reply)
        assert isinstance(found, list)  # noqa: S101
        if isinstance(found[0], NeedsKeys):
            return snapshot(keys, claim, lease_us=lease_us, known=found[0].members)
        if isinstance(found[0], StatesyncError):
            raise found[0]
        return found[0]

    return Command(first.script, first.keys, first.args, parse, claim.char_id)


class CoreAck(NamedTuple):
    """A claim that is to end: the version of the snapshot, and the one that is durable.

    Its token is 0 for somebody who was not loaded at the snapshot.
    """

    claim: Claim
    snapshot_version: int = 0
    durable_version: int = 0


class SessionAck(NamedTuple):
    """What became of a session: the version of its snapshot, and the one that is durable."""

    session_type: str
    session_id: str
    snapshot_version: int
    durable_version: int
    closed: bool = False
    """Whether it was closed at the snapshot; closed since, its end is not durable yet."""


class GroupAck(NamedTuple):
    """A group that is durable."""

    at_ms: int
    """When the snapshot was taken."""
    cores: Sequence[CoreAck]
    sessions: Sequence[SessionAck] = ()
    ties: Mapping[str, Mapping[bytes, bytes]] = {}
    """As they were at the snapshot."""

    def size(self) -> int:
        """Return about how much work it is to acknowledge it."""
        return len(self.cores) + len(self.sessions) + sum(map(len, self.ties.values()))


_acknowledge = load_script("acknowledge")


def acknowledge_many(keys: Keys, groups: Sequence[GroupAck], /) -> Command[list[bool]]:
    """End the claims of groups that are in PostgreSQL. False where the first was not ours any more.

    The versions of a core are both 0 where nothing was saved on its account.
    """
    on = [keys.dirty, keys.claimed, keys.since, keys.quarantine]
    args: list[str | int] = [TOMBSTONE_MS]
    for at_ms, cores, sessions, ties in groups:
        first = len(on) + 1
        on += [keys.core(ended.claim.char_id) for ended in cores]
        args += [at_ms, len(cores), len(sessions), len(ties)]
        for (char_id, token), taken, durable in cores:
            args += map(str, (char_id, token, taken, durable))
        if not sessions and not ties:
            continue
        on += [keys.session(s.session_type, s.session_id) for s in sessions]
        on += [keys.session_log(s.session_type, s.session_id) for s in sessions]
        on += [keys.tombstone(s.session_id) for s in sessions]
        on += map(keys.tie, ties)
        for session_type, session_id, taken, durable, closed in sessions:
            args += [
                reference_field(session_type),
                session_id,
                str(taken),
                str(durable),
                int(closed),
            ]
        members = [str(ended.claim.char_id) for ended in cores]
        members += [session_name(s.session_type, s.session_id) for s in sessions]
        number = {name: first + i for i, name in enumerate(members)}
        for tie, entries in ties.items():
            args += [tie, len(entries)]
            for member, tied_by in entries.items():
                args += [member.decode(), number.get(member.decode(), 0), tied_by.decode()]

    def parse(reply: Raw) -> list[bool]:
        return list(map(bool, reply))

    return Command(_acknowledge, on, (pack(args),), parse)


def acknowledge(
    keys: Keys,
    claim: Claim,
    /,
    *,
    snapshot_version: int = 0,
    durable_version: int = 0,
    at_ms: int = 0,
    others: Sequence[CoreAck] = (),
    sessions: Sequence[SessionAck] = (),
    ties: Mapping[str, Mapping[bytes, bytes]] | None = None,
) -> Command[bool]:
    """End a claim, and those of all that belongs to it, as ``acknowledge_many`` does."""
    group = GroupAck(
        at_ms, [CoreAck(claim, snapshot_version, durable_version), *others], sessions, ties or {}
    )
    return acknowledge_many(keys, [group]).then(lambda ours: ours[0])
