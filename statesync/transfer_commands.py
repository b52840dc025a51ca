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
    "LEFT",
    "Ended",
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


LEFT = "left_sessions"
"""The field of a core that says which sessions it has left since it was saved, as ``type:id …``."""


def _sessions(known: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the sessions that a core points at or has left, as type and id."""
    held = [(kind, text) for kind, text in known.items() if kind != LEFT]
    for name in known.get(LEFT, "").split():
        kind, _, session_id = name.partition(":")
        held.append((kind, session_id))
    return held


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
    sessions = sorted({item for known in members.values() for item in _sessions(known)})

    def parse(reply: Raw) -> Snapshot | Wider:
        if not reply[0]:
            wider: dict[int, dict[str, str]] = {}
            width = len(kinds) + 1
            rows = (reply[1][i : i + width] for i in range(0, len(reply[1]), width))
            for char_id, row in zip(members, rows, strict=True):
                wider[char_id] = read_references(char_id, row[:-1])
                if row[-1]:
                    wider[char_id][LEFT] = row[-1].decode()
            lists = zip(reply[2][::2], reply[2][1::2], strict=True)
            for (kind, session_id), (raw, left) in zip(sessions, lists, strict=True):
                name = f"{kind}:session:{session_id}"
                for char_id in read_participants(name, held.char_id, raw):
                    wider.setdefault(char_id, {})
                for text in left.decode().split():
                    wider.setdefault(int(text), {})
            return Wider(wider)
        cores = dict(zip(members, reply[2], strict=True))
        return Snapshot(
            int(reply[1]),
            {i: Claim(i, int(core[0])) for i, core in cores.items() if core},
            {i: pairs(core[1:]) for i, core in cores.items()},
            {i: {k: v for k, v in known.items() if k != LEFT} for i, known in members.items()},
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
    args += [len(members), len(sessions), len(kinds) + 1, *map(reference_field, kinds), LEFT]
    args += members
    args += [known.get(kind, "") for known in members.values() for kind in (*kinds, LEFT)]
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


class Ended(NamedTuple):
    """A claim that is to end: the version of the snapshot, and the one that is durable.

    Its token is 0 for somebody who was not loaded at the snapshot.
    """

    claim: Claim
    taken: int = 0
    durable: int = 0
    left: str = ""
    """The sessions that the character had left."""


class Settled(NamedTuple):
    """What became of a session: the version of its snapshot, and the one that is durable."""

    kind: str
    session_id: str
    taken: int
    durable: int
    left: str = ""
    """The characters that had left it."""
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
    left: str = "",
    others: Sequence[Ended] = (),
    sessions: Sequence[Settled] = (),
) -> Command[bool]:
    """End a claim, and those of whom a session ties to it: version ``durable`` is in PostgreSQL.

    ``taken`` is the version of the snapshot; both are 0 where nothing was saved on its account.
    ``left`` are the sessions that it had left. False if the claim was not ours any more.
    """
    cores = [Ended(held, taken, durable, left), *others]
    on = (
        keys.dirty,
        keys.claimed,
        keys.since,
        keys.quarantine,
        *(keys.core(ended.claim.char_id) for ended in cores),
        *(keys.session(s.kind, s.session_id) for s in sessions),
        *(keys.session_log(s.kind, s.session_id) for s in sessions),
        *(keys.evicted(s.session_id) for s in sessions),
    )
    args: list[str | int] = [at_ms, len(cores), len(sessions), REMEMBER_MS]
    for ended in cores:
        args += [*ended.claim, ended.taken, ended.durable, ended.left]
    for kind, session_id, was, is_now, gone, closed in sessions:
        args += [reference_field(kind), session_id, was, is_now, gone, int(closed)]
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
