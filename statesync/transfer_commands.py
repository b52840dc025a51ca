"""Owns what moves state between Redis and PostgreSQL sends to Redis: one function per operation.

Whom a session ties together stands in Redis, so these too are tried with what is known, and sent
again where the script finds others. No I/O.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import NamedTuple
from uuid import UUID

from statesync import codec
from statesync.codec import check_char_id
from statesync.command import Claim, Command, Raw, Snapshot, flat, load_script, pairs
from statesync.keys import Keys
from statesync.members import Members, found_members, session_name
from statesync.session_codec import Session, read_participants, read_references, write_session
from statesync.session_types import names, reference_field, session_uuid

__all__ = [
    "Ended",
    "Settled",
    "Wider",
    "acknowledge",
    "evict",
    "fill",
    "look_session",
    "reconcile_session",
    "snapshot",
    "stage",
    "try_snapshot",
]

REMEMBER_MS = 600_000
"""How long an eviction is remembered, and a log that is being restored kept."""


_evict = load_script("evict")


def evict(
    keys: Keys,
    char_id: int,
    remember_ms: int = REMEMBER_MS,
    /,
    *,
    references: Mapping[str, str] | None = None,
    others: tuple[int, ...] = (),
) -> Command[bool]:
    """Delete a core from Redis if all of it is saved; False if it has unsaved changes.

    Its sessions go with the last of their participants. For ``remember_ms`` afterwards, a restore
    that read an older row cannot bring it back. Raises InvalidCharId or CorruptState.
    """
    known = references or {}
    kinds = names()
    sessions = list(known.items())

    def parse(reply: Raw) -> bool | Command[bool]:
        if reply[0] != -1:
            return bool(reply[0])
        named = (
            read_participants(f"{kind}:session:{session_id}", char_id, raw)
            for (kind, session_id), raw in zip(sessions, reply[2], strict=True)
        )
        among = {*others, *chain.from_iterable(named)} - {char_id}
        found = read_references(char_id, reply[1])
        return evict(keys, char_id, remember_ms, references=found, others=tuple(sorted(among)))

    on = [keys.core(check_char_id(char_id)), keys.dirty, keys.claimed, keys.since]
    on += [
        keys.evicted(char_id),
        keys.quarantine,
        *(keys.session(*reference) for reference in sessions),
    ]
    on += [keys.session_log(*reference) for reference in sessions]
    on += [keys.evicted(session_id) for _, session_id in sessions]
    args: list[str | int] = [char_id, remember_ms, len(sessions), len(others), len(kinds)]
    args += [*map(reference_field, kinds), *(known.get(kind, "") for kind in kinds), *others]
    return Command(_evict, [*on, *map(keys.core, others)], args, parse, char_id)


# What a backup does


class Wider(NamedTuple):
    """Why there is no snapshot yet: more belongs to it than was thought."""

    members: frozenset[str]


_snapshot = load_script("snapshot")


def try_snapshot(
    keys: Keys, held: Claim, lease_us: int, known: Collection[str] = (), /
) -> Command[Snapshot | Wider]:
    """Read a claimed character and all that belongs to it, at one instant.

    Raises all their versions, and claims those who are not claimed by ``held``. Nothing is done
    where there are more than the ``known`` members: Wider names all. Raises LeaseLost, or
    CorruptState where one of them cannot be read.
    """
    members = Members(known, first=held.char_id)
    kinds = names()
    on = [keys.dirty, keys.claimed, keys.since, *members.keys(keys)]

    def parse(reply: Raw) -> Snapshot | Wider:
        if not reply[0]:
            return Wider(members.names | found_members(held.char_id, on, reply[1]))
        _, at_ms, states, scenes, tied = reply
        cores = dict(zip(members.characters, states, strict=True))
        hashes = {i: pairs(core[1:]) for i, core in cores.items()}
        return Snapshot(
            int(at_ms),
            {i: Claim(i, int(core[0])) for i, core in cores.items() if core},
            hashes,
            {i: _references(kinds, core) for i, core in hashes.items()},
            {
                session: (raw[0], pairs(raw[1:])) if raw else (0, {})
                for session, raw in zip(members.sessions, scenes, strict=True)
            },
            {tie: pairs(raw) for tie, raw in zip(members.ties, tied, strict=True)},
        )

    args = [codec.MAX_CORE_BYTES, lease_us, held.token, *members.counts(), len(kinds)]
    return Command(_snapshot, on, [*args, *members.listed(), *kinds], parse, held.char_id)


def _references(kinds: Sequence[str], core: Mapping[bytes, bytes]) -> dict[str, str]:
    held = {kind: core.get(reference_field(kind).encode(), b"") for kind in kinds}
    return {kind: raw.decode() for kind, raw in held.items() if raw}


def snapshot(
    keys: Keys, held: Claim, lease_us: int = 120_000_000, /, *, known: Collection[str] = ()
) -> Command[Snapshot]:
    """Take a snapshot as ``try_snapshot`` does, and try again until it is of all that belongs."""
    first = try_snapshot(keys, held, lease_us, known)

    def parse(reply: Raw) -> Snapshot | Command[Snapshot]:
        found = first.parse(reply)
        if isinstance(found, Snapshot):
            return found
        assert isinstance(found, Wider)  # noqa: S101
        return snapshot(keys, held, lease_us, known=found.members)

    return Command(first.script, first.keys, first.args, parse, held.char_id)


_acknowledge = load_script("acknowledge")


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
    """End a claim, and those of all that belongs to it: version ``durable`` is in PostgreSQL.

    ``taken`` is the version of the snapshot; both are 0 where nothing was saved on its account.
    ``ties`` are as they were at the snapshot. False if the claim was not ours any more.
    """
    cores = [Ended(held, taken, durable), *others]
    hashes = {str(ended.claim.char_id): keys.core(ended.claim.char_id) for ended in cores}
    hashes |= {session_name(s.kind, s.session_id): keys.session(*s[:2]) for s in sessions}
    number = {name: 5 + i for i, name in enumerate(hashes)}
    tied = ties or {}
    on = (
        keys.dirty,
        keys.claimed,
        keys.since,
        keys.quarantine,
        *hashes.values(),
        *(keys.session_log(*s[:2]) for s in sessions),
        *(keys.evicted(s.session_id) for s in sessions),
        *map(keys.tie, tied),
    )
    args: list[str | int] = [at_ms, len(cores), len(sessions), len(tied), REMEMBER_MS]
    for ended in cores:
        args += [*ended.claim, ended.taken, ended.durable]
    for kind, session_id, was, is_now, closed in sessions:
        args += [reference_field(kind), session_id, was, is_now, int(closed)]
    for tie, entries in tied.items():
        args += [tie, len(entries)]
        for member, token in entries.items():
            args += [member.decode(), number.get(member.decode(), 0), token.decode()]
    return Command(_acknowledge, on, args, bool, held.char_id)


_look_session = load_script("look_session")


def look_session(keys: Keys, kind: str, session_id: UUID | str, /) -> Command[int]:
    """Return the version of a live session, 0 where it has none; -1 where it is gone."""
    return Command(_look_session, (keys.session(kind, session_uuid(session_id)),), (), int)


_reconcile_session = load_script("reconcile_session")


def reconcile_session(
    keys: Keys, kind: str, session_id: UUID | str, version: int, /
) -> Command[bool]:
    """Raise a session's version to ``version``. False if it is gone."""
    on = (keys.session(kind, session_uuid(session_id)),)
    return Command(_reconcile_session, on, (version,), bool)


# What a restore does


_stage = load_script("stage")


def stage(keys: Keys, token: str, start: int, entries: Sequence[str], /) -> Command[int]:
    """Lay down the entries from ``start`` of a log that ``fill`` will put in its place."""
    return Command(_stage, (keys.staged(token),), (start, REMEMBER_MS, *entries), int)


_fill = load_script("fill")


def fill(
    keys: Keys,
    char_id: int,
    version: int | None,
    core: Mapping[str, str],
    /,
    *,
    sessions: Mapping[str, Session] | None = None,
    changed: bool = False,
) -> Command[tuple[str, list[str]]]:
    """Restore a core where it is absent: ``restored``, ``live``, or ``stale`` (read again).

    Then its ``sessions``, by the token under which their logs are staged: each ``restored``,
    ``live``, or ``left`` where the core does not point at it. ``changed`` marks the core dirty: it
    is not what its row says. Without a ``version`` only sessions of a live core are restored.
    """
    todo = sessions or {}
    on = [keys.core(char_id), keys.evicted(char_id), keys.dirty, keys.since]
    args: list[str | int] = [char_id, "" if version is None else version]
    args += [len(core), int(changed), *flat(core)]
    for token, session in todo.items():
        text = str(session.id)
        on += [keys.session(session.kind, text), keys.session_log(session.kind, text)]
        on += [keys.evicted(text), keys.staged(token)]
        written = write_session(session)
        args += [reference_field(session.kind), text, session.version, len(session.log)]
        args += [len(written), *flat(written)]

    def parse(reply: Raw) -> tuple[str, list[str]]:
        outcome, *rest = (text.decode() for text in reply)
        return outcome, rest

    return Command(_fill, on, args, parse, char_id)
