"""Owns what a backup sends to Redis: snapshots and their acknowledgement, many groups at a time.

The members of a group stand in Redis, so a snapshot is tried with the known ones, and sent again if
the script finds others. No I/O.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from statesync.errors import StatesyncError
from statesync.hot.command import Command, Raw, error_of, load_script, pack, pairs
from statesync.hot.commands.claims import Claim
from statesync.hot.commands.transfer import TOMBSTONE_MS
from statesync.hot.keys import Keys
from statesync.hot.members import Members
from statesync.state.fields import MAX_CORE_BYTES
from statesync.state.references import SessionRef, reference_field
from statesync.state.seals import FULL_BYTES, Seals, new_seal, seals_of
from statesync.state.session_types import names

__all__ = [
    "CoreAck",
    "GroupAck",
    "Later",
    "NeedsKeys",
    "RawSnapshot",
    "SealsFull",
    "SessionAck",
    "acknowledge",
    "acknowledge_many",
    "snapshot",
    "try_snapshots",
]


_SCRIPT_BYTES = 1024 * 1024
"""Once a script gives more than this, the rest of its groups come later."""


@dataclass(frozen=True, slots=True)
class Later:
    """Why there is no snapshot yet: the groups before it filled the reply. Nothing is done."""


@dataclass(frozen=True, slots=True)
class SealsFull:
    """Why there is no snapshot: too many before it ended without an answer. Nothing is done."""


class NeedsKeys(NamedTuple):
    """Why there is no snapshot yet: the group has more members than were known."""

    members: frozenset[str]
    """All that are known now."""


class RawSnapshot(NamedTuple):
    """What Redis held of a group at ``at_ms``."""

    at_ms: int
    claims: dict[int, Claim]
    """Of every character that is loaded: the claim that we hold on it now."""
    cores: dict[int, dict[bytes, bytes]]
    """By character; empty if the core is gone."""
    references: dict[int, dict[str, str]]
    """By character: its sessions' ids, by type."""
    sessions: dict[SessionRef, tuple[int, dict[bytes, bytes]]]
    """The length of the log, and the hash, which is empty if the session is gone."""
    ties: dict[str, dict[bytes, bytes]]
    """By id: each member's name, and the token of the last change that tied it."""
    seals: dict[str, Seals]
    """By id, of each core and session that is there: what it knew of its history."""
    seal: int
    """Its own."""
    nonces: dict[int, str]
    """By character: the nonces of its durable changes since the last acknowledged snapshot."""
    is_comparing: bool = False
    """Whether a server went back in time or has started, and not all is compared yet."""
    is_settling: bool = False
    """Whether it is Redis that went back, for certain."""
    is_recovering: bool = False
    """Whether PostgreSQL went back in time, and what is live is saved over it."""
    sweeps: int = 0
    """Redis' counter of sweeps."""

    def members(self) -> frozenset[str]:
        """Return the names of all members of the group, as ``members`` spells them."""
        sessions = (ref.member for ref in self.sessions)
        return frozenset((*map(str, self.cores), *sessions, *self.ties))


TriedSnapshot = RawSnapshot | NeedsKeys | Later | SealsFull | StatesyncError
"""What a try of a snapshot gives."""

_snapshot = load_script("snapshot")


def try_snapshots(
    keys: Keys, todo: Sequence[tuple[Claim, Collection[str]]], /, *, lease_us: int
) -> Command[list[TriedSnapshot]]:
    """Read claimed characters, each with its group, at one instant.

    Raises all their versions, and claims those that are not claimed yet. Each claim comes with the
    known members of its group; if there are more, nothing is done for it and the result is
    NeedsKeys. Nor is anything done for the groups that the reply has no room for: the result is
    Later, but never that of the first one. Nor for one that waits for ``cut_seals``: SealsFull.
    Instead of a snapshot the result may be LeaseLost, or CorruptState if one of the group cannot be
    read.
    """
    session_types = names()
    script_keys = [keys.dirty, keys.claimed, keys.since, keys.seals, keys.nonces, keys.servers]
    seal = new_seal()
    groups: list[tuple[int, Members]] = []
    packed_groups = []
    for claim, known in todo:
        members = Members(known, first=claim.char_id)
        groups.append((claim.char_id, members))
        script_keys += members.keys(keys)
        names_of_members = members.listed()[: 1 if members.is_alone else 3]
        packed_groups.append((str(claim.token), *names_of_members))
    args = {
        "max_bytes": MAX_CORE_BYTES,
        "script_bytes": _SCRIPT_BYTES,
        "words_bytes": FULL_BYTES,
        "seal": str(seal),
        "lease_us": lease_us,
        "references": ([*map(reference_field, session_types)], session_types),
        "groups": packed_groups,
    }
    reader = _Reader(script_keys, session_types, seal)

    def parse(reply: Raw) -> list[TriedSnapshot]:
        return list(reader.read(reply, groups))

    # Repeatable: the second snapshot is under the same claim and later.
    return Command(_snapshot, script_keys, (pack(args),), parse, repeatable=True)


_LATER, _GIVEN = 0, 1


class _Reader:
    """Reads the flat reply of ``snapshot.lua`` from its beginning."""

    def __init__(self, script_keys: Sequence[str], session_types: Sequence[str], seal: int) -> None:
        self.script_keys = script_keys
        self.seal = seal
        self.fields = [(t, reference_field(t).encode()) for t in session_types]

    def read(
        self, reply: Sequence[Raw], groups: Sequence[tuple[int, Members]]
    ) -> Iterator[TriedSnapshot]:
        """Yield what became of each group."""
        parts = iter(reply)
        at_ms, *flags, sweeps = (int(next(parts)) for _ in range(5))
        for char_id, members in groups:
            status = next(parts)
            try:
                if isinstance(status, bytes):
                    message = status.decode(errors="backslashreplace")
                    yield error_of(message, self.script_keys, char_id)
                elif isinstance(status, list):
                    yield NeedsKeys(members.with_found(char_id, self.script_keys, status))
                elif status == _GIVEN:
                    yield self.snapshot(at_ms, members, parts)._replace(
                        is_comparing=bool(flags[0]),
                        is_settling=bool(flags[1]),
                        is_recovering=bool(flags[2]),
                        sweeps=sweeps,
                    )
                else:
                    yield Later() if status == _LATER else SealsFull()
            except StatesyncError as error:
                yield error

    def snapshot(self, at_ms: int, members: Members, parts: Iterator[Raw]) -> RawSnapshot:
        """Read the snapshot of one group."""
        claims, cores, references, nonces = {}, {}, {}, {}
        seals: dict[str, Seals] = {}
        for char_id in members.characters:
            hash_ = _hash(parts)
            cores[char_id] = hash_.fields
            if hash_.fields:
                claims[char_id] = Claim(char_id, int(hash_.detail))
                seals[str(char_id)] = seals_of(self.seal, hash_.seals)
            if hash_.nonces:
                nonces[char_id] = hash_.nonces.decode(errors="replace")
            references[char_id] = {
                session_type: hash_.fields[field].decode()
                for session_type, field in self.fields
                if hash_.fields.get(field)
            }
        sessions = {}
        for ref in members.sessions:
            hash_ = _hash(parts)
            sessions[ref] = (hash_.detail, hash_.fields)
            if hash_.fields:
                seals[ref.id] = seals_of(self.seal, hash_.seals)
        ties = {tie: pairs([*islice(parts, next(parts))]) for tie in members.ties}
        return RawSnapshot(
            at_ms, claims, cores, references, sessions, ties, seals, self.seal, nonces
        )


class _Hash(NamedTuple):
    """A hash at its raised version, and what comes with it; empty if it is gone."""

    fields: dict[bytes, bytes]
    detail: Any = 0
    seals: bytes | None = None
    nonces: bytes | None = None


_GONE = _Hash({})


def _hash(parts: Iterator[Raw]) -> _Hash:
    count = next(parts)
    if not count:
        return _GONE
    version, detail, seals, nonces = islice(parts, 4)
    fields = pairs([*islice(parts, count)])
    fields[b"version"] = b"%d" % version
    return _Hash(fields, detail, seals, nonces)


def snapshot(
    keys: Keys, claim: Claim, /, *, lease_us: int = 120_000_000, known: Collection[str] = ()
) -> Command[RawSnapshot]:
    """Take one snapshot, and try again until it is of the whole group.

    Raises LeaseLost or CorruptState.
    """
    attempt = try_snapshots(keys, [(claim, known)], lease_us=lease_us)

    def parse(reply: Raw) -> RawSnapshot | Command[RawSnapshot]:
        results = attempt.parse(reply)
        assert isinstance(results, list)  # noqa: S101
        (result,) = results
        assert not isinstance(result, Later | SealsFull)  # noqa: S101
        if isinstance(result, NeedsKeys):
            return snapshot(keys, claim, lease_us=lease_us, known=result.members)
        if isinstance(result, StatesyncError):
            raise result
        return result

    return Command(
        attempt.script, attempt.keys, attempt.args, parse, claim.char_id, repeatable=True
    )


class CoreAck(NamedTuple):
    """Acknowledges a core. Both versions are 0 if nothing of it was saved."""

    claim: Claim
    """Its token is 0 if the character was not loaded at the snapshot."""
    snapshot_version: int = 0
    durable_version: int = 0
    seal: int | None = None
    """The row's."""
    nonces: str = ""
    """Those of the snapshot; they are in PostgreSQL."""


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
    """Acknowledges a group that is durable."""

    at_ms: int
    """When the snapshot was made."""
    cores: Sequence[CoreAck]
    sessions: Sequence[SessionAck] = ()
    ties: Mapping[str, Mapping[bytes, bytes]] = {}
    """As they were at the snapshot."""
    seal: int = 0
    """The snapshot's own."""

    def size(self) -> int:
        """Return about how much work it is to acknowledge it."""
        return len(self.cores) + len(self.sessions) + sum(map(len, self.ties.values()))


_acknowledge = load_script("acknowledge")


def acknowledge_many(keys: Keys, groups: Sequence[GroupAck], /) -> Command[list[bool]]:
    """End the claims of groups that are in PostgreSQL. False if the first claim was not ours."""
    script_keys = [keys.dirty, keys.claimed, keys.since, keys.quarantine, keys.seals, keys.nonces]
    packed_groups = []
    for group in groups:
        packed_groups.append(_packed_group(group, len(script_keys) + 1))
        script_keys += _group_keys(keys, group)
    args = {"tombstone_ms": TOMBSTONE_MS, "groups": packed_groups}

    def parse(reply: Raw) -> list[bool]:
        return list(map(bool, reply))

    # Repeatable: the second time, the tokens are no longer there.
    return Command(_acknowledge, script_keys, (pack(args),), parse, repeatable=True)


def _group_keys(keys: Keys, group: GroupAck) -> list[str]:
    cores = [keys.core(core.claim.char_id) for core in group.cores]
    if not group.sessions and not group.ties:  # most characters are alone
        return cores
    refs = [session.ref for session in group.sessions]
    return [
        *cores,
        *(keys.session(*ref) for ref in refs),
        *(keys.session_log(*ref) for ref in refs),
        *(keys.tombstone(ref.id) for ref in refs),
        *map(keys.tie, group.ties),
    ]


def _packed_group(group: GroupAck, first_key: int) -> tuple[Any, ...]:
    """Return a group as ``acknowledge.lua`` reads it; ``first_key`` is the number of its key."""
    cores = [
        (
            str(core.claim.char_id),
            str(core.claim.token),
            str(core.snapshot_version),
            str(core.durable_version),
            _word(core.seal, group.seal),
            core.nonces,
        )
        for core in group.cores
    ]
    if not group.sessions and not group.ties:
        return group.at_ms, str(group.seal), cores
    sessions = [
        (
            reference_field(session.session_type),
            session.session_id,
            str(session.snapshot_version),
            str(session.durable_version),
            _word(session.seal, group.seal),
            bool(session.closed),
        )
        for session in group.sessions
    ]
    members = [str(core.claim.char_id) for core in group.cores]
    members += [session.ref.member for session in group.sessions]
    number_of = {name: first_key + i for i, name in enumerate(members)}
    ties = [
        (tie, [(n.decode(), number_of.get(n.decode(), 0), t.decode()) for n, t in entries.items()])
        for tie, entries in group.ties.items()
    ]
    return group.at_ms, str(group.seal), cores, sessions, ties


def _word(seal: int | None, own: int) -> str | bool:
    """Return the seal of a row for ``acknowledge.lua``: true if it is the snapshot's own."""
    if seal == own:
        return True
    return "" if seal is None else str(seal)


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
    seal: int = 0,
) -> Command[bool]:
    """End a claim, and those of its group, as ``acknowledge_many`` does."""
    first = CoreAck(claim, snapshot_version, durable_version, seal or None)
    group = GroupAck(at_ms, [first, *others], sessions, ties or {}, seal)
    return acknowledge_many(keys, [group]).then(lambda are_ours: are_ours[0])
