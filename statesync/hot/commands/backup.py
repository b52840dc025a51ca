"""Owns what a backup sends to Redis for a snapshot, of many groups at a time.

The members of a group stand in Redis, so a snapshot is tried with the known ones, and sent again if
the script finds others. Most characters are alone: of these nothing is made but what Redis gave. No
I/O.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from statesync.errors import StatesyncError
from statesync.hot.command import Command, Raw, error_of, load_script, pack
from statesync.hot.commands.claims import Claim
from statesync.hot.keys import Keys
from statesync.hot.members import Members, with_found
from statesync.state.fields import MAX_CORE_BYTES
from statesync.state.references import SessionRef, reference_field
from statesync.state.seals import FULL_BYTES, Seals, new_seal, seals_of
from statesync.state.session_types import names

__all__ = [
    "SNAPSHOT_MEMBERS",
    "Head",
    "Later",
    "NeedsKeys",
    "Plain",
    "RawSnapshot",
    "SealsFull",
    "snapshot",
    "try_snapshots",
]

SNAPSHOT_MEMBERS = 50
"""How many that are alone one script reads: some 0.4 ms of Redis. Of groups it takes fewer."""
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


class Head(NamedTuple):
    """What is the same of all snapshots of a script."""

    at_ms: int
    is_comparing: bool
    """Whether a server went back in time or has started, and not all is compared yet."""
    is_settling: bool
    """Whether it is Redis that went back, for certain."""
    is_recovering: bool
    """Whether PostgreSQL went back in time, and what is live is saved over it."""
    sweeps: int
    """Redis' counter of sweeps."""
    seal: int
    """Their own."""

    @property
    def is_calm(self) -> bool:
        """Whether no server is known to have gone back in time, or to have started."""
        return not (self.is_comparing or self.is_settling or self.is_recovering)


class RawSnapshot(NamedTuple):
    """What Redis held of a group. Texts that are no UTF-8 have surrogates for these bytes."""

    head: Head
    claims: dict[int, Claim]
    """Of every character that is loaded: the claim that we hold on it now."""
    cores: dict[int, dict[str, str]]
    """By character, at the raised version; empty if the core is gone."""
    sessions: dict[SessionRef, tuple[int, dict[str, str]]]
    """The length of the log, and the hash, which is empty if the session is gone."""
    ties: dict[str, dict[str, str]]
    """By id: each member's name, and the token of the last change that tied it."""
    seals: dict[int | UUID, Seals]
    """By id, of each core and session that is there: what it knew of its history."""
    nonces: dict[int, str]
    """By character: the nonces of its durable changes since the last acknowledged snapshot."""

    @property
    def at_ms(self) -> int:
        """When it was taken."""
        return self.head.at_ms

    @property
    def seal(self) -> int:
        """Its own."""
        return self.head.seal

    def members(self) -> frozenset[str]:
        """Return the names of all members of the group, as ``members`` spells them."""
        sessions = (ref.member for ref in self.sessions)
        return frozenset((*map(str, self.cores), *sessions, *self.ties))


class Plain(NamedTuple):
    """The snapshot of a character that is alone, and of which the last save is acknowledged."""

    head: Head
    claim: Claim
    version: int
    entry: str
    """The one seal that Redis knew."""
    nonces: str
    """Of durable changes since the last acknowledged snapshot, separated by a space."""
    core: dict[str, str]

    def raw(self) -> RawSnapshot:
        """Return the same in the form that other groups have."""
        return _alone(self.head, self.claim, (self.version, 0, self.entry, self.nonces, self.core))


TriedSnapshot = Plain | RawSnapshot | NeedsKeys | Later | SealsFull | StatesyncError
"""What a try of a snapshot gives."""


class _Reply(msgspec.Struct, array_like=True):
    at_ms: int
    is_comparing: bool
    is_settling: bool
    is_recovering: bool
    sweeps: int
    statuses: list[int | str | list[int | str]]
    versions: list[int]
    details: list[int | str]
    entries: list[str | bool]
    nonces: list[str]
    hashes: list[list[str]]
    ties: list[list[str]]

    def head(self, seal: int) -> Head:
        flags = (self.is_comparing, self.is_settling, self.is_recovering)
        return Head(self.at_ms, *flags, self.sweeps, seal)

    def rows(self) -> Iterator[_Row]:
        """Yield the hashes of the groups that are given, with what comes with each."""
        texts = map(_mapping, self.hashes)
        return zip(self.versions, self.details, self.entries, self.nonces, texts, strict=True)


_decode = msgspec.msgpack.Decoder(_Reply).decode
_decode_items = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_LATER, _GIVEN = 0, 1
_Row = tuple[int, int | str, str | bool, str, dict[str, str]]
"""The raised version, the detail, the entry, the nonces, and the hash before that."""
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
    groups: list[tuple[Claim, Members | None]] = []
    packed_groups: list[tuple[Any, ...]] = []
    for claim, known in todo:
        if not known:
            groups.append((claim, None))
            script_keys.append(keys.core(claim.char_id))
            packed_groups.append((str(claim.token), str(claim.char_id)))
        else:
            members = Members(known, first=claim.char_id)
            groups.append((claim, members))
            script_keys += members.keys(keys)
            packed_groups.append((str(claim.token), *members.listed()))
    bounds = (MAX_CORE_BYTES, _SCRIPT_BYTES, FULL_BYTES, lease_us)
    fields = [*map(reference_field, session_types)]
    args = pack((str(seal), *bounds, fields, session_types, packed_groups))

    def parse(raw: Raw) -> list[TriedSnapshot]:
        try:
            reply = _decode(raw)
        except UnicodeDecodeError:
            reply = _decode_odd(raw)
        return _Reader(script_keys, reply, seal).read(groups)

    # Repeatable: the second snapshot is under the same claim and later.
    return Command(_snapshot, script_keys, (args,), parse, repeatable=True)


def _decode_odd(raw: bytes) -> _Reply:
    """Decode a reply with texts that are no UTF-8: what others wrote keeps its bytes."""
    columns = zip(_Reply.__struct_fields__, _decode_items(raw), strict=True)
    kept = {"statuses", "hashes"}
    errors = {True: "surrogateescape", False: "replace"}
    return msgspec.convert([_unpacked(one, errors[name in kept]) for name, one in columns], _Reply)


def _unpacked(raw: msgspec.Raw, errors: str) -> Any:
    packed_bytes = bytes(raw)
    first = packed_bytes[0]
    if 0x90 <= first <= 0x9F or first in (0xDC, 0xDD):
        return [_unpacked(item, errors) for item in _decode_items(raw)]
    try:
        return msgspec.msgpack.decode(raw)
    except UnicodeDecodeError:
        header = {0xD9: 2, 0xDA: 3, 0xDB: 5}.get(first, 1)
        return packed_bytes[header:].decode(errors=errors)


def _mapping(texts: list[str]) -> dict[str, str]:
    pairs = iter(texts)
    return dict(zip(pairs, pairs, strict=True))


class _Reader:
    """Reads the reply of ``snapshot.lua``, column by column."""

    def __init__(self, script_keys: Sequence[str], reply: _Reply, seal: int) -> None:
        self.script_keys = script_keys
        self.statuses = reply.statuses
        self.head = reply.head(seal)
        self.rows = reply.rows()
        self.ties = map(_mapping, reply.ties)

    def read(self, groups: Sequence[tuple[Claim, Members | None]]) -> list[TriedSnapshot]:
        """Return what became of each group."""
        is_calm = self.head.is_calm
        results: list[TriedSnapshot] = []
        for (claim, members), status in zip(groups, self.statuses, strict=True):
            if status != _GIVEN:
                results.append(self.refusal(claim, members, status))
            elif members:
                results.append(self.snapshot(claim, members))
            else:
                version, _, entry, nonces, core = row = next(self.rows)
                is_single = isinstance(entry, str) and entry.isdecimal()
                if is_calm and is_single and "saved_version" in core:
                    results.append(Plain(self.head, claim, version, str(entry), nonces, core))
                else:
                    results.append(_alone(self.head, claim, row))
        return results

    def refusal(self, claim: Claim, members: Members | None, status: Any) -> TriedSnapshot:
        """Return why there is no snapshot."""
        char_id = claim.char_id
        if isinstance(status, int):
            return Later() if status == _LATER else SealsFull()
        if isinstance(status, str):
            shown = status.encode(errors="surrogateescape").decode(errors="backslashreplace")
            return error_of(shown, self.script_keys, char_id)
        found = [
            part.encode(errors="surrogateescape") if isinstance(part, str) else part
            for part in status
        ]
        try:
            known = members.names if members else frozenset([str(char_id)])
            return NeedsKeys(with_found(known, char_id, self.script_keys, found))
        except StatesyncError as error:
            return error.with_traceback(None)

    def snapshot(self, claim: Claim, members: Members) -> RawSnapshot:
        """Read the snapshot of one group."""
        claims, cores, nonces_of = {}, {}, {}
        seals: dict[int | UUID, Seals] = {}
        for char_id in members.characters:
            version, token, entry, nonces, core = next(self.rows)
            cores[char_id] = core
            if core:
                is_own = char_id == claim.char_id
                claims[char_id] = claim if is_own else Claim(char_id, int(token))
                core["version"] = str(version)
                seals[char_id] = _seals(self.head, entry)
            if nonces:
                nonces_of[char_id] = nonces
        sessions = {}
        for ref in members.sessions:
            version, log_length, entry, _, fields = next(self.rows)
            sessions[ref] = (int(log_length), fields)
            if fields:
                fields["version"] = str(version)
                seals[UUID(ref.id)] = _seals(self.head, entry)
        ties = {tie: next(self.ties) for tie in members.ties}
        return RawSnapshot(self.head, claims, cores, sessions, ties, seals, nonces_of)


def _alone(head: Head, claim: Claim, row: _Row) -> RawSnapshot:
    """Return the snapshot of one that is in no session and no tie."""
    version, _, entry, nonces, core = row
    i = claim.char_id
    if not core:
        return RawSnapshot(head, {}, {i: {}}, {}, {}, {}, {})
    cores = {i: core | {"version": str(version)}}
    nonces_of = {i: nonces} if nonces else {}
    return RawSnapshot(head, {i: claim}, cores, {}, {}, {i: _seals(head, entry)}, nonces_of)


def _seals(head: Head, entry: str | bool) -> Seals:
    return seals_of(head.seal, entry if isinstance(entry, str) else None)


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
        if isinstance(result, Plain):
            return result.raw()
        if isinstance(result, NeedsKeys):
            return snapshot(keys, claim, lease_us=lease_us, known=result.members)
        if isinstance(result, StatesyncError):
            raise result
        return result

    return Command(
        attempt.script, attempt.keys, attempt.args, parse, claim.char_id, repeatable=True
    )
