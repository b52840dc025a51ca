"""Owns what is saved together: a consistency group, whole or not at all.

A consistency group is a set of characters and sessions that belong together: they share a session,
or one change changed them all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from statesync import durable
from statesync.durable.database import work_of
from statesync.durable.results import (
    Accepted,
    CharacterDecision,
    CharacterResult,
    Deleted,
    HeldBack,
    Saved,
    SessionDecision,
    SessionResult,
)
from statesync.sessions.base import HeldElsewhere, SessionOrchestrator
from statesync.state.characters import Character
from statesync.state.fields import dump_json
from statesync.state.sessions import Session

__all__ = ["Group", "GroupResult", "save"]


@dataclass(frozen=True, slots=True)
class Group:
    """A group as one snapshot read it; one transaction commits it."""

    characters: dict[int, Character]
    sessions: dict[UUID, Session] = field(default_factory=dict)
    references: dict[int, dict[str, str]] = field(default_factory=dict)
    """By character: the ids that its core points at, by type; also of sessions that are gone."""
    absent: frozenset[int] = frozenset()
    """Characters that were looked for and are not loaded."""

    def seen(self) -> set[int]:
        """Return the characters of which the snapshot says what they hold, if anything."""
        return {*self.characters, *self.absent}


@dataclass(frozen=True, slots=True)
class GroupResult:
    """What became of a group, and of each of its characters and sessions."""

    saved: bool
    characters: dict[int, CharacterResult]
    sessions: dict[UUID, SessionResult]
    held: Sequence[HeldElsewhere] = ()
    """What keeps the group from being saved: things that others hold as well."""


_SAVEABLE = (Accepted, Saved, Deleted)
"""Decisions that do not keep the rest of a group from being saved."""


@dataclass(frozen=True, slots=True)
class _Decided:
    """What the rows say of the characters and sessions of some groups."""

    characters: Mapping[int, CharacterDecision]
    sessions: Mapping[UUID, SessionDecision]

    def can_save(self, group: Group) -> bool:
        """Return whether nothing keeps a group from being saved whole."""
        return all(isinstance(self.characters[i], _SAVEABLE) for i in group.characters) and all(
            isinstance(self.sessions[i], _SAVEABLE) for i in group.sessions
        )


def save(
    connection: Connection,
    groups: Sequence[Group],
    types: Mapping[str, SessionOrchestrator],
    *,
    wait: bool = True,
) -> list[GroupResult]:
    """Save groups in the transaction of ``connection``, each whole or not at all.

    No character or session may be in two of them. With ``wait`` this waits for locked rows. What is
    saved is durable when the caller commits. Raises Rejected if a session type refuses its data,
    and Raced.
    """
    characters = [c for group in groups for c in group.characters.values()]
    sessions = [s for group in groups for s in group.sessions.values()]
    decided = _Decided(
        durable.characters.decide(connection, characters, wait=wait),
        durable.sessions.decide(connection, sessions, wait=wait),
    )
    saveable = [group for group in groups if decided.can_save(group)]
    held = _held_elsewhere(connection, saveable, decided, types)
    accepted = [group for group in saveable if not held[id(group)]]
    written = _write_characters(connection, accepted, decided)
    _write_sessions(connection, accepted, decided, types)
    _end_memberships(connection, accepted, written, types)
    return [_result(group, decided, written, held[id(group)]) for group in groups]


def _held_elsewhere(
    connection: Connection,
    saveable: Sequence[Group],
    decided: _Decided,
    types: Mapping[str, SessionOrchestrator],
) -> Mapping[int, list[HeldElsewhere]]:
    """Return what of each group, by the group's ``id``, sessions of others hold as well.

    A character that was seen at the same instant holds only what its snapshot shows.
    """
    group_of = {char_id: group for group in saveable for char_id in group.characters}
    changed: dict[str, list[Session]] = defaultdict(list)
    others: dict[str, list[Session]] = defaultdict(list)
    for session in (s for group in saveable for s in group.sessions.values()):
        is_changed = isinstance(decided.sessions[session.id], Accepted)
        (changed if is_changed else others)[session.session_type].append(session)
    found: dict[int, list[HeldElsewhere]] = defaultdict(list)
    for session_type, sessions in changed.items():
        with work_of(f"the session type {session_type!r} cannot save it", connection):
            held = types[session_type].held_elsewhere(connection, sessions, others[session_type])
        for one in held:
            group = group_of.get(one.char_id)
            if group and (one.is_live or one.other_id not in group.seen()):
                found[id(group)].append(one)
    return found


def _result(
    group: Group,
    decided: _Decided,
    written: Mapping[int, Saved],
    held: Sequence[HeldElsewhere],
) -> GroupResult:
    saved = decided.can_save(group) and not held
    characters: dict[int, CharacterResult] = {}
    for char_id in group.characters:
        decision = decided.characters[char_id]
        not_written = HeldBack() if isinstance(decision, Accepted) else decision
        characters[char_id] = written.get(char_id, not_written)
    sessions: dict[UUID, SessionResult] = {}
    for session_id, session in group.sessions.items():
        session_decision = decided.sessions[session_id]
        if not isinstance(session_decision, Accepted):
            sessions[session_id] = session_decision
        else:
            sessions[session_id] = Saved(session.version, changed=True) if saved else HeldBack()
    return GroupResult(saved, characters, sessions, held)


def _write_characters(
    connection: Connection, accepted: Sequence[Group], decided: _Decided
) -> dict[int, Saved]:
    new: list[Character] = []
    over: list[Character] = []
    for character in (c for group in accepted for c in group.characters.values()):
        decision = decided.characters[character.char_id]
        if isinstance(decision, Accepted):
            (new if decision.new else over).append(character)
    return durable.characters.write(connection, new, over)


def _write_sessions(
    connection: Connection,
    accepted: Sequence[Group],
    decided: _Decided,
    types: Mapping[str, SessionOrchestrator],
) -> None:
    new: list[Session] = []
    over: list[Session] = []
    by_type: dict[str, list[Session]] = defaultdict(list)
    for session in (s for group in accepted for s in group.sessions.values()):
        decision = decided.sessions[session.id]
        if isinstance(decision, Accepted):
            (new if decision.new else over).append(session)
            by_type[session.session_type].append(session)
    if not by_type:
        return
    payloads: dict[UUID, dict[str, Any]] = {}
    for session_type, sessions in by_type.items():
        payloads |= _payloads(types[session_type], session_type, sessions)
    saved = {char_id for group in accepted for char_id in group.characters}
    durable.sessions.write(connection, new, over, payloads, saved)
    for session_type, sessions in by_type.items():
        with work_of(f"the session type {session_type!r} cannot save it", connection):
            types[session_type].save(connection, sessions)


def _payloads(
    orchestrator: SessionOrchestrator, session_type: str, sessions: Sequence[Session]
) -> dict[UUID, dict[str, Any]]:
    """Return the payloads of sessions. Raises Rejected if their type fails or gives no JSON."""
    payloads = {}
    with work_of(f"the session type {session_type!r} cannot save it"):
        for session in sessions:
            payloads[session.id] = orchestrator.payload(session)
            dump_json(payloads[session.id])
    return payloads


def _end_memberships(
    connection: Connection,
    accepted: Sequence[Group],
    written: Mapping[int, Saved],
    types: Mapping[str, SessionOrchestrator],
) -> None:
    """Take the written characters out of the sessions that they do not point at any more."""
    references = {
        char_id: set(group.references.get(char_id, {}).values())
        for group in accepted
        for char_id in group.characters
        if char_id in written
    }
    if references:
        saved_sessions = [session_id for group in accepted for session_id in group.sessions]
        durable.sessions.end_memberships(connection, references, list(types), saved_sessions)
