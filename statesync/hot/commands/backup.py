"""Owns what a backup sends to Redis: snapshots and what acknowledges them, many groups at a time.

Who belongs to a group stands in Redis, so a snapshot is tried with what is known, and sent again
where the script finds others. No I/O.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from statesync.errors import StatesyncError
from statesync.hot.command import Claim, Command, Raw, Snapshot, error_of, load_script, pack, pairs
from statesync.hot.commands.transfer import REMEMBER_MS
from statesync.hot.keys import Keys
from statesync.hot.members import Members, found_members, session_name
from statesync.state.fields import MAX_CORE_BYTES
from statesync.state.session_types import names, reference_field

__all__ = [
    "Ended",
    "Settled",
    "Settlement",
    "Wider",
    "acknowledge",
    "acknowledge_many",
    "snapshot",
    "try_snapshots",
]


class Wider(NamedTuple):
    """Why there is no snapshot yet: more belongs to it than was thought."""

    members: frozenset[str]


_snapshot = load_script("snapshot")


def try_snapshots(
    keys: Keys, todo: Sequence[tuple[Claim, Collection[str]]], lease_us: int, /
) -> Command[list[Snapshot | Wider | StatesyncError]]:
    """Read claimed characters, each with all that belongs to it, at one instant.

    Raises all their versions, and claims those who are not claimed yet. With each claim goes what
    is known of its group; where there is more, nothing is done for it: Wider names all. In place of
    a snapshot may be LeaseLost, or CorruptState where one of the group cannot be read.
    """
    kinds = names()
    fields = [(kind, reference_field(kind).encode()) for kind in kinds]
    on = [keys.dirty, keys.claimed, keys.since]
    args: list[str | int] = [MAX_CORE_BYTES, lease_us, len(kinds), *kinds]
    groups = []
    for held, known in todo:
        members = Members(known, first=held.char_id)
        groups.append((held.char_id, members))
        on += members.keys(keys)
        args += [str(held.token), *members.counts(), *members.listed()]

    def parse(reply: Raw) -> list[Snapshot | Wider | StatesyncError]:
        rest = _Reply(reply)
        at_ms = int(rest.next())
        return [one(*group, at_ms, rest) for group in groups]

    def one(
        char_id: int, members: Members, at_ms: int, rest: _Reply
    ) -> Snapshot | Wider | StatesyncError:
        head = rest.next()
        try:
            if isinstance(head, bytes):
                return error_of(head.decode(errors="backslashreplace"), on, char_id)
            if isinstance(head, list):
                return Wider(members.names | found_members(char_id, on, head))
        except StatesyncError as error:
            return error
        claims, cores, references = {}, {}, {}
        for i in members.characters:
            token, held = rest.hash()
            cores[i] = held
            if token:
                claims[i] = Claim(i, int(token))
            references[i] = {
                kind: held[field].decode() for kind, field in fields if held.get(field)
            }
        sessions = {session: rest.hash() for session in members.sessions}
        ties = {tie: pairs(rest.some(rest.next())) for tie in members.ties}
        return Snapshot(at_ms, claims, cores, references, sessions, ties)

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
    keys: Keys, held: Claim, lease_us: int = 120_000_000, /, *, known: Collection[str] = ()
) -> Command[Snapshot]:
    """Take one snapshot, and try again until it is of all that belongs.

    Raises LeaseLost or CorruptState.
    """
    first = try_snapshots(keys, [(held, known)], lease_us)

    def parse(reply: Raw) -> Snapshot | Command[Snapshot]:
        found = first.parse(reply)
        assert isinstance(found, list)  # noqa: S101
        if isinstance(found[0], Wider):
            return snapshot(keys, held, lease_us, known=found[0].members)
        if isinstance(found[0], StatesyncError):
            raise found[0]
        return found[0]

    return Command(first.script, first.keys, first.args, parse, held.char_id)


class Ended(NamedTuple):
    """A claim that is to end: the version of the snapshot, and the one that is durable.

    Its token is 0 for somebody who was not loaded at the snapshot.
    """

    claim: Claim
    taken: int = 0
    durable: int = 0


class Settled(NamedTuple):
    """What became of a session: the version of its snapshot, and the one that is durable."""

    kind: str
    session_id: str
    taken: int
    durable: int
    closed: bool = False
    """Whether it was closed at the snapshot; closed since, its end is not durable yet."""


class Settlement(NamedTuple):
    """A group that is durable."""

    at_ms: int
    """When the snapshot was taken."""
    cores: Sequence[Ended]
    sessions: Sequence[Settled] = ()
    ties: Mapping[str, Mapping[bytes, bytes]] = {}
    """As they were at the snapshot."""

    def size(self) -> int:
        """Return about how much work it is to acknowledge it."""
        return len(self.cores) + len(self.sessions) + sum(map(len, self.ties.values()))


_acknowledge = load_script("acknowledge")


def acknowledge_many(keys: Keys, groups: Sequence[Settlement], /) -> Command[list[bool]]:
    """End the claims of groups that are in PostgreSQL. False where the first was not ours any more.

    The versions of a core are both 0 where nothing was saved on its account.
    """
    on = [keys.dirty, keys.claimed, keys.since, keys.quarantine]
    args: list[str | int] = [REMEMBER_MS]
    for at_ms, cores, sessions, ties in groups:
        first = len(on) + 1
        on += [keys.core(ended.claim.char_id) for ended in cores]
        args += [at_ms, len(cores), len(sessions), len(ties)]
        for (char_id, token), taken, durable in cores:
            args += map(str, (char_id, token, taken, durable))
        if not sessions and not ties:
            continue
        on += [keys.session(s.kind, s.session_id) for s in sessions]
        on += [keys.session_log(s.kind, s.session_id) for s in sessions]
        on += [keys.evicted(s.session_id) for s in sessions]
        on += map(keys.tie, ties)
        for kind, session_id, taken, durable, closed in sessions:
            args += [reference_field(kind), session_id, str(taken), str(durable), int(closed)]
        members = [str(ended.claim.char_id) for ended in cores]
        members += [session_name(s.kind, s.session_id) for s in sessions]
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
    held: Claim,
    taken: int = 0,
    durable: int = 0,
    at_ms: int = 0,
    /,
    *,
    others: Sequence[Ended] = (),
    sessions: Sequence[Settled] = (),
    ties: Mapping[str, Mapping[bytes, bytes]] | None = None,
) -> Command[bool]:
    """End a claim, and those of all that belongs to it, as ``acknowledge_many`` does."""
    group = Settlement(at_ms, [Ended(held, taken, durable), *others], sessions, ties or {})
    return acknowledge_many(keys, [group]).then(lambda ours: ours[0])
