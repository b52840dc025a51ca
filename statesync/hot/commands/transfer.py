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
from statesync.state.session_types import names, reference_field, session_uuid
from statesync.state.sessions import Session, read_participants, read_references, write_session

__all__ = [
    "Filled",
    "Filling",
    "evict",
    "fill",
    "look_session",
    "reconcile_session",
    "stage",
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


# What a conflict does


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


class Filling(NamedTuple):
    """A character that is to be restored, and its sessions."""

    char_id: int
    version: int | None
    """That of its row; None where only sessions of a live core are to be restored."""
    core: Mapping[str, str] = {}
    sessions: Mapping[str, Session] = {}
    """By the token under which their logs are staged."""
    changed: bool = False
    """Whether the core is not what its row says; then it is marked dirty."""


Filled = tuple[str, list[str]]
"""What became of a core: ``restored``, ``live``, or ``stale`` (read again); then of each session:
``restored``, ``live``, or ``left`` where the core does not point at it."""

_fill = load_script("fill")


def fill(keys: Keys, todo: Sequence[Filling], /) -> Command[list[Filled | errors.StatesyncError]]:
    """Restore cores and sessions where they are absent. What became of a core is counted.

    In place of an outcome may be CorruptState, where Redis holds something else there.
    """
    on = [keys.dirty, keys.since, keys.stats]
    args = []
    for char_id, version, core, sessions, changed in todo:
        on += [keys.core(char_id), keys.evicted(char_id)]
        at = "" if version is None else str(version)
        fields = ["version", at, "saved_version", at, *flat(core)]
        of_it = []
        for token, session in sessions.items():
            text, at_session = str(session.id), str(session.version)
            on += [keys.session(session.kind, text), keys.session_log(session.kind, text)]
            on += [keys.evicted(text), keys.staged(token)]
            written = ["version", at_session, *flat(write_session(session))]
            field = reference_field(session.kind)
            of_it.append((field, text, at_session, len(session.log), written))
        args.append((str(char_id), at, int(changed), fields, of_it))

    def parse(reply: Raw) -> list[Filled | errors.StatesyncError]:
        return [one(f.char_id, text.decode()) for f, text in zip(todo, reply, strict=True)]

    def one(char_id: int, text: str) -> Filled | errors.StatesyncError:
        outcome, *rest = text.split()
        return error_of(text, on, char_id) if outcome.isupper() else (outcome, rest)

    return Command(_fill, on, (pack(args),), parse)
