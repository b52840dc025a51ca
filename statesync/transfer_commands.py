"""Owns what moves state between Redis and PostgreSQL sends to Redis: one function per operation.

Whom a session ties together stands in Redis, so these too are tried with what is known, and sent
again where the script finds others. No I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple
from uuid import UUID

from statesync import codec
from statesync.codec import check_char_id
from statesync.command import Claim, Command, Raw, Snapshot, flat, load_script, pairs
from statesync.keys import Keys
from statesync.session_codec import Session, read_participants, read_references, write_session
from statesync.session_types import names, reference_field, session_uuid

__all__ = [
    "References",
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
    on += [keys.evicted(char_id), *(keys.session(*reference) for reference in sessions)]
    on += [keys.session_log(*reference) for reference in sessions]
    on += [keys.evicted(session_id) for _, session_id in sessions]
    args: list[str | int] = [char_id, remember_ms, len(sessions), len(others), len(kinds)]
    args += [*map(reference_field, kinds), *(known.get(kind, "") for kind in kinds), *others]
    return Command(_evict, [*on, *map(keys.core, others)], args, parse, char_id)


# What a backup does


References = Mapping[int, Mapping[str, str]]
"""By character: the ids that the core points at, by type."""


class Wider(NamedTuple):
    """Why there is no snapshot yet: more belongs to it than was thought."""

    references: dict[int, dict[str, str]]


_snapshot = load_script("snapshot")


def try_snapshot(
    keys: Keys, held: Claim, lease_us: int, references: References, /
) -> Command[Snapshot | Wider]:
    """Read a claimed character, whom a session ties to it, and their sessions, at one instant.

    Raises all their versions, and claims those who are not claimed by ``held``. Nothing is done
    where ``references`` is not just what is in all their cores: Wider says what is. Raises
    LeaseLost, or CorruptState where one of them cannot be read.
    """
    members: dict[int, Mapping[str, str]] = {held.char_id: {}, **references}
    kinds = names()
    sessions = sorted({item for known in members.values() for item in known.items()})

    def parse(reply: Raw) -> Snapshot | Wider:
        if not reply[0]:
            wider: dict[int, dict[str, str]] = {}
            rows = (reply[1][i : i + len(kinds)] for i in range(0, len(reply[1]), len(kinds)))
            for char_id, row in zip(members, rows, strict=True):
                wider[char_id] = read_references(char_id, row)
            for (kind, session_id), raw in zip(sessions, reply[2], strict=True):
                for char_id in read_participants(f"{kind}:session:{session_id}", held.char_id, raw):
                    wider.setdefault(char_id, {})
            return Wider(wider)
        cores = dict(zip(members, reply[2], strict=True))
        return Snapshot(
            int(reply[1]),
            {i: Claim(i, int(core[0])) for i, core in cores.items() if core},
            {i: pairs(core[1:]) for i, core in cores.items()},
            {i: dict(known) for i, known in members.items()},
            {
                reference: (raw[0], pairs(raw[1:])) if raw else (0, {})
                for reference, raw in zip(sessions, reply[3], strict=True)
            },
        )

    on = (
        keys.dirty,
        keys.claimed,
        keys.since,
        *map(keys.core, members),
        *(keys.session(*reference) for reference in sessions),
        *(keys.session_log(*reference) for reference in sessions),
    )
    args: list[str | int] = [codec.MAX_CORE_BYTES, lease_us, held.token]
    args += [len(members), len(sessions), len(kinds), *map(reference_field, kinds), *members]
    args += [known.get(kind, "") for known in members.values() for kind in kinds]
    return Command(_snapshot, on, args, parse, held.char_id)


def snapshot(
    keys: Keys, held: Claim, lease_us: int = 120_000_000, /, *, references: References | None = None
) -> Command[Snapshot]:
    """Take a snapshot as ``try_snapshot`` does, and try again until it is of all that belongs."""
    first = try_snapshot(keys, held, lease_us, references or {})

    def parse(reply: Raw) -> Snapshot | Command[Snapshot]:
        found = first.parse(reply)
        if isinstance(found, Snapshot):
            return found
        assert isinstance(found, Wider)  # noqa: S101
        return snapshot(keys, held, lease_us, references=found.references)

    return Command(first.script, first.keys, first.args, parse, held.char_id)


_acknowledge = load_script("acknowledge")


class Settled(NamedTuple):
    """What became of a session: the version of its snapshot, and the one that is durable."""

    kind: str
    session_id: str
    taken: int
    durable: int


def acknowledge(
    keys: Keys,
    held: Claim,
    taken: int = 0,
    durable: int = 0,
    at_ms: int = 0,
    /,
    *,
    others: Sequence[tuple[Claim, int, int]] = (),
    sessions: Sequence[Settled] = (),
) -> Command[bool]:
    """End a claim, and those of whom a session ties to it: version ``durable`` is in PostgreSQL.

    ``taken`` is the version of the snapshot; both are 0 where nothing was saved on its account.
    False if the claim was not ours any more.
    """
    cores = [(held, taken, durable), *others]
    on = (
        keys.dirty,
        keys.claimed,
        keys.since,
        keys.quarantine,
        *(keys.core(claim.char_id) for claim, _, _ in cores),
        *(keys.session(s.kind, s.session_id) for s in sessions),
        *(keys.session_log(s.kind, s.session_id) for s in sessions),
    )
    args: list[str | int] = [at_ms, len(cores), len(sessions)]
    args += chain.from_iterable((*claim, was, is_now) for claim, was, is_now in cores)
    for kind, session_id, was, is_now in sessions:
        args += [reference_field(kind), session_id, was, is_now]
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
    version: int,
    core: Mapping[str, str],
    /,
    *,
    sessions: Mapping[str, Session] | None = None,
    changed: bool = False,
) -> Command[tuple[str, list[str]]]:
    """Restore a core where it is absent: ``restored``, ``live``, or ``stale`` (read again).

    Then its ``sessions``, by the token under which their logs are staged: each ``restored``,
    ``live``, or ``left`` where the core does not point at it. ``changed`` marks the core dirty: it
    is not what its row says.
    """
    todo = sessions or {}
    on = [keys.core(char_id), keys.evicted(char_id), keys.dirty, keys.since]
    args: list[str | int] = [char_id, version, len(core), int(changed), *flat(core)]
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
