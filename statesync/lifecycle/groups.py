"""Owns what is saved together: a group of characters and their sessions, whole or not at all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from statesync import durable
from statesync.durable.characters import Accepted, Busy, Deleted, HeldBack, Refused, Result, Saved
from statesync.durable.database import work_of
from statesync.sessions.base import SessionOrchestrator
from statesync.state.characters import Character
from statesync.state.fields import dump_json
from statesync.state.sessions import Session

__all__ = ["Group", "Outcome", "save"]


@dataclass(frozen=True, slots=True)
class Group:
    """What was read at one instant and is committed in one transaction."""

    characters: dict[int, Character]
    sessions: dict[UUID, Session] = field(default_factory=dict)
    references: dict[int, dict[str, str]] = field(default_factory=dict)
    """The ids that each core points at, by type; also of sessions that are gone."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a group."""

    saved: bool
    characters: dict[int, Result]
    sessions: dict[UUID, Saved | Refused | Busy | HeldBack]


Decision = Result | Accepted
_FINE = (Accepted, Saved, Deleted)


def save(
    connection: Connection,
    groups: Sequence[Group],
    types: Mapping[str, SessionOrchestrator],
    *,
    wait: bool = True,
) -> list[Outcome]:
    """Save groups in the transaction of ``connection``, each whole or not at all.

    No character or session may be in two of them. What is saved is durable when the caller
    commits. Raises Rejected where a session type refuses its data, and Raced.
    """
    everybody = [c for group in groups for c in group.characters.values()]
    decided = durable.characters.decide(connection, everybody, wait=wait)
    decided_sessions = durable.sessions.decide(
        connection, [s for group in groups for s in group.sessions.values()], wait=wait
    )
    whole = [
        all(isinstance(decided[i], _FINE) for i in group.characters)
        and all(isinstance(decided_sessions[i], _FINE) for i in group.sessions)
        for group in groups
    ]
    accepted = [group for group, fine in zip(groups, whole, strict=True) if fine]
    written: dict[int, Result] = {}
    written.update(_write_characters(connection, accepted, decided))
    _write_sessions(connection, accepted, decided_sessions, types)
    references = {
        char_id: set(group.references.get(char_id, {}).values())
        for group in accepted
        for char_id in group.characters
        if char_id in written
    }
    if references:
        saved = [session_id for group in accepted for session_id in group.sessions]
        durable.sessions.end_memberships(connection, references, list(types), saved)
    outcomes = []
    for group, fine in zip(groups, whole, strict=True):
        results = {i: written.get(i, _result(decided[i])) for i in group.characters}
        sessions: dict[UUID, Saved | Refused | Busy | HeldBack] = {}
        for session_id, session in group.sessions.items():
            decision = decided_sessions[session_id]
            if not isinstance(decision, Accepted):
                sessions[session_id] = decision
            else:
                sessions[session_id] = Saved(session.version, changed=True) if fine else HeldBack()
        outcomes.append(Outcome(fine, results, sessions))
    return outcomes


def _result(decision: Decision) -> Result:
    return HeldBack() if isinstance(decision, Accepted) else decision


def _write_characters(
    connection: Connection, accepted: Sequence[Group], decided: Mapping[int, Decision]
) -> dict[int, Saved]:
    new: list[Character] = []
    over: list[Character] = []
    for group in accepted:
        for char_id, character in group.characters.items():
            decision = decided[char_id]
            if isinstance(decision, Accepted):
                (new if decision.new else over).append(character)
    return durable.characters.write(connection, new, over)


def _write_sessions(
    connection: Connection,
    accepted: Sequence[Group],
    decided: Mapping[UUID, Any],
    types: Mapping[str, SessionOrchestrator],
) -> None:
    new: list[Session] = []
    over: list[Session] = []
    by_type: dict[str, list[Session]] = defaultdict(list)
    for group in accepted:
        for session_id, session in group.sessions.items():
            decision = decided[session_id]
            if isinstance(decision, Accepted):
                (new if decision.new else over).append(session)
                by_type[session.session_type].append(session)
    if not by_type:
        return
    payloads: dict[UUID, dict[str, Any]] = {}
    for session_type, sessions in by_type.items():
        with work_of(f"the session type {session_type!r} cannot save it"):
            for session in sessions:
                payloads[session.id] = types[session_type].payload(session)
                dump_json(payloads[session.id])  # what is no JSON is the type's mistake
    saved = {char_id for group in accepted for char_id in group.characters}
    durable.sessions.write(connection, new, over, payloads, saved)
    for session_type, sessions in by_type.items():
        with work_of(f"the session type {session_type!r} cannot save it", connection):
            types[session_type].save(connection, sessions)
