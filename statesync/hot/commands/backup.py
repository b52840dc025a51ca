"""Owns what a backup sends to Redis for a snapshot, of many groups at a time.

The members of a group stand in Redis, so a snapshot is tried with the known ones, and sent again if
the script finds others. No I/O.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from statesync.errors import StatesyncError
from statesync.hot.command import Command, Raw, error_of, load_script, pack, pairs
from statesync.hot.commands.claims import Claim
from statesync.hot.keys import Keys
from statesync.hot.members import Members
from statesync.state.fields import MAX_CORE_BYTES
from statesync.state.references import SessionRef, reference_field
from statesync.state.seals import FULL_BYTES, Seals, new_seal, seals_of
from statesync.state.session_types import names

__all__ = [
    "Later",
    "NeedsKeys",
    "RawSnapshot",
    "SealsFull",
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
