"""Owns what moves state between Redis and PostgreSQL sends to Redis: one function per operation.

Whom a session ties together stands in Redis, so these too are tried with what is known, and sent
again where the script finds others. No I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple
from uuid import UUID

from statesync import errors
from statesync.hot.command import Command, Raw, error_of, flat, load_script, pack
from statesync.hot.keys import Keys
from statesync.state.fields import check_char_id
from statesync.state.references import reference_field, session_uuid
from statesync.state.session_types import names
from statesync.state.sessions import Session, read_participants, read_references, write_session

__all__ = [
    "TOMBSTONE_MS",
    "Peek",
    "RestoreItem",
    "RestoreResult",
    "evict",
    "peek",
    "peek_session",
    "reconcile",
    "reconcile_session",
    "restore",
    "stage",
]

TOMBSTONE_MS = 600_000
"""How long an eviction is remembered, and a log that is being restored kept."""


_evict = load_script("evict")


def evict(
    keys: Keys,
    char_id: int,
    /,
    *,
    tombstone_ms: int = TOMBSTONE_MS,
    references: Mapping[str, str] | None = None,
    others: tuple[int, ...] = (),
) -> Command[bool]:
    """Delete a core from Redis if all of it is saved; False if it has unsaved changes.

    Its sessions go with the last of their participants. For ``remember_ms`` afterwards, a restore
    that read an older row cannot bring it back. Raises InvalidCharId or CorruptState.
    """
    known = references or {}
    type_names = names()
    sessions = list(known.items())

    def parse(reply: Raw) -> bool | Command[bool]:
        if reply[0] != -1:
            return bool(reply[0])
        named = (
            read_participants(f"{session_type}:session:{session_id}", char_id, raw)
            for (session_type, session_id), raw in zip(sessions, reply[2], strict=True)
        )
        among = {*others, *chain.from_iterable(named)} - {char_id}
        found = read_references(char_id, reply[1])
        return evict(
            keys, char_id, tombstone_ms=tombstone_ms, references=found, others=tuple(sorted(among))
        )

    on = [keys.core(check_char_id(char_id)), keys.dirty, keys.claimed, keys.since]
    on += [
        keys.tombstone(char_id),
        keys.quarantine,
        *(keys.session(*reference) for reference in sessions),
    ]
    on += [keys.session_log(*reference) for reference in sessions]
    on += [keys.tombstone(session_id) for _, session_id in sessions]
    args: list[str | int] = [char_id, tombstone_ms, len(sessions), len(others), len(type_names)]
    args += [
        *map(reference_field, type_names),
        *(known.get(session_type, "") for session_type in type_names),
        *others,
    ]
    return Command(_evict, [*on, *map(keys.core, others)], args, parse, char_id)


# What a conflict does


_peek_session = load_script("peek_session")


def peek_session(keys: Keys, session_type: str, session_id: UUID | str, /) -> Command[int]:
    """Return the version of a live session, 0 where it has none; -1 where it is gone."""
    return Command(_peek_session, (keys.session(session_type, session_uuid(session_id)),), (), int)


_reconcile_session = load_script("reconcile_session")


def reconcile_session(
    keys: Keys, session_type: str, session_id: UUID | str, /, *, version: int
) -> Command[bool]:
    """Raise a session's version to ``version``. False if it is gone."""
    on = (keys.session(session_type, session_uuid(session_id)),)
    return Command(_reconcile_session, on, (version,), bool)


# What a restore does


_stage = load_script("stage")


def stage(keys: Keys, token: str, entries: Sequence[str], /, *, start: int) -> Command[int]:
    """Lay down the entries from ``start`` of a log that ``fill`` will put in its place."""
    return Command(_stage, (keys.staged(token),), (start, TOMBSTONE_MS, *entries), int)


class RestoreItem(NamedTuple):
    """A character that is to be restored, and its sessions."""

    char_id: int
    version: int | None
    """That of its row; None where only sessions of a live core are to be restored."""
    core: Mapping[str, str] = {}
    sessions: Mapping[str, Session] = {}
    """By the token under which their logs are staged."""
    changed: bool = False
    """Whether the core is not what its row says; then it is marked dirty."""


RestoreResult = tuple[str, list[str]]
"""What became of a core: ``restored``, ``live``, or ``stale`` (read again); then of each session:
``restored``, ``live``, or ``left`` where the core does not point at it."""

_restore = load_script("restore")


def restore(
    keys: Keys, todo: Sequence[RestoreItem], /
) -> Command[list[RestoreResult | errors.StatesyncError]]:
    """Restore cores and sessions where they are absent. What became of a core is counted.

    In place of an outcome may be CorruptState, where Redis holds something else there.
    """
    on = [keys.dirty, keys.since, keys.stats]
    args = []
    for char_id, version, core, sessions, changed in todo:
        on += [keys.core(char_id), keys.tombstone(char_id)]
        at = "" if version is None else str(version)
        fields = ["version", at, "saved_version", at, *flat(core)]
        of_it = []
        for token, session in sessions.items():
            text, at_session = str(session.id), str(session.version)
            on += [
                keys.session(session.session_type, text),
                keys.session_log(session.session_type, text),
            ]
            on += [keys.tombstone(text), keys.staged(token)]
            written = ["version", at_session, *flat(write_session(session))]
            field = reference_field(session.session_type)
            of_it.append((field, text, at_session, len(session.log), written))
        args.append((str(char_id), at, int(changed), fields, of_it))

    def parse(reply: Raw) -> list[RestoreResult | errors.StatesyncError]:
        return [one(f.char_id, text.decode()) for f, text in zip(todo, reply, strict=True)]

    def one(char_id: int, text: str) -> RestoreResult | errors.StatesyncError:
        outcome, *rest = text.split()
        return error_of(text, on, char_id) if outcome.isupper() else (outcome, rest)

    return Command(_restore, on, (pack(args),), parse)


_reconcile = load_script("reconcile")


def reconcile(
    keys: Keys, char_id: int, /, *, version: int, missing: Mapping[str, str]
) -> Command[bool]:
    """Raise a core's version to ``version`` and add the fields it lacks. False if it is gone."""
    args: list[str | int] = [version, *flat(missing)]
    return Command(_reconcile, (keys.core(char_id),), args, bool, char_id)


_peek = load_script("peek")


class Peek(NamedTuple):
    """What a live core says of itself."""

    version: int
    """0 where it has none."""
    references: dict[str, str]
    """The ids of its sessions, by type."""


def peek(keys: Keys, char_id: int, /) -> Command[Peek | None]:
    """Look at a core before a restore; None where it is not loaded."""
    type_names = names()

    def parse(reply: Raw) -> Peek | None:
        if not reply[0]:
            return None
        held = zip(type_names, reply[2:], strict=False)
        return Peek(
            int(reply[1]) if reply[1].isdigit() else 0,
            {session_type: text.decode(errors="replace") for session_type, text in held if text},
        )

    args = [reference_field(session_type) for session_type in type_names]
    return Command(_peek, (keys.core(check_char_id(char_id)),), args, parse, char_id)
