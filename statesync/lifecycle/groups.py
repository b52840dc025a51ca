"""Owns what is saved together: a consistency group, whole or not at all.

A consistency group is a set of characters and sessions that belong together: they share a session,
or one change changed them all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from msgspec import Raw
from sqlalchemy import Connection

from statesync import durable
from statesync.durable.database import work_of
from statesync.durable.results import (
    Accepted,
    Busy,
    CharacterDecision,
    CharacterResult,
    Deleted,
    HeldBack,
    Incomplete,
    Saved,
    SessionDecision,
    SessionResult,
    Unknown,
    WentBack,
)
from statesync.durable.rows import CoreRows
from statesync.lifecycle.snapshots import GroupResult, Snapshot
from statesync.sessions.base import HeldElsewhere, SessionOrchestrator, pass_on
from statesync.state.fields import dump_json
from statesync.state.seals import Seals
from statesync.state.sessions import Session

__all__ = ["save"]


_SAVEABLE = {Accepted, Saved, Deleted}
"""Decisions that do not keep the rest of a group from being saved."""
_UNSETTLED = {Unknown, WentBack, Incomplete}
"""Decisions that may change in the light of the rest of a group, or of both servers."""


_Decision = CharacterDecision | SessionDecision
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Decided:
    """What the rows say of the characters and sessions of some groups."""

    characters: dict[int, CharacterDecision]
    sessions: dict[UUID, SessionDecision]
    deleting: Collection[int]
    """Characters that a deletion is about to remove from Redis."""

    def of(self, group: Snapshot) -> list[_Decision]:
        """Return the decisions on the members of a group."""
        characters = map(self.characters.__getitem__, group.characters)
        return [*characters, *map(self.sessions.__getitem__, group.sessions)]

    def kinds(self, group: Snapshot) -> set[type[_Decision]]:
        """Return of which types the decisions on the members of a group are."""
        return {*map(type, self.of(group))}

    def can_save(self, group: Snapshot) -> bool:
        """Return whether nothing keeps a group from being saved whole."""
        kinds = self.kinds(group)
        if Deleted in kinds and len(group.characters) > 1 and self._has_played_on(group):
            return False
        return kinds <= _SAVEABLE

    def _has_played_on(self, group: Snapshot) -> bool:
        """Return whether a deleted character is played: saved alone, the others would lack it."""
        deleted = [i for i in group.characters if isinstance(self.characters[i], Deleted)]
        return any(char_id not in self.deleting for char_id in deleted)

    def has_deleted(self, group: Snapshot) -> bool:
        """Return whether a character of a group is deleted, so that nothing of it is saved."""
        return Deleted in self.kinds(group)

    def settle(self, group: Snapshot) -> None:
        """Decide what the members of a group have to decide together."""
        if self.kinds(group).isdisjoint(_UNSETTLED):
            return
        for char_id in group.characters:
            self.characters[char_id] = _settled(self.characters[char_id], group)
        if all(_is_same(decision) for decision in self.of(group)):
            self._adopt(group)
        elif group.head.is_recovering and not any(
            isinstance(one, Unknown) for one in self.of(group)
        ):
            for char_id in group.characters:
                if isinstance(lost := self.characters[char_id], WentBack):
                    self.characters[char_id] = Accepted(new=lost.row is None)
            for session_id in group.sessions:
                if isinstance(gone := self.sessions[session_id], WentBack):
                    self.sessions[session_id] = Accepted(new=gone.row is None)

    def result(
        self, group: Snapshot, held: Sequence[HeldElsewhere], *, is_saved: bool
    ) -> GroupResult:
        """Return what became of a group, once what is written of it is noted here."""
        characters: dict[int, CharacterResult] = {
            i: _result(self.characters[i]) for i in group.characters
        }
        sessions: dict[UUID, SessionResult] = {i: _result(self.sessions[i]) for i in group.sessions}
        return GroupResult(is_saved, characters, sessions, held)

    def _adopt(self, group: Snapshot) -> None:
        """Take a group that is as its rows for saved, whatever the history of these."""
        for char_id in group.characters:
            if isinstance(decision := self.characters[char_id], Unknown):
                self.characters[char_id] = _adopted(decision)
        for session_id in group.sessions:
            if isinstance(row := self.sessions[session_id], Unknown):
                self.sessions[session_id] = _adopted(row)


def _settled(decision: CharacterDecision, group: Snapshot) -> CharacterDecision:
    """Return a decision on a character, in the light of what is known of both servers."""
    match decision:
        case Incomplete(row, is_stump=True) if group.head.is_settling:
            return Unknown(row.version, row.seal)
        case Incomplete(is_stump=True) if group.head.is_comparing and not group.head.is_recovering:
            return Busy()  # it waits until it is known whether Redis went back; a recovery cannot
        case WentBack(Unknown() as row, is_certain=False) if not group.head.is_recovering:
            return row
    return decision


def _is_same(decision: _Decision) -> bool:
    if isinstance(decision, Saved):
        return not decision.changed
    return isinstance(decision, Unknown) and decision.same


def _adopted(row: Unknown) -> Saved:
    return Saved(row.version, changed=False, seal=row.seal)


def save(
    connection: Connection,
    groups: Sequence[Snapshot],
    types: Mapping[str, SessionOrchestrator],
    *,
    wait: bool = True,
    deleting: Collection[int] = (),
) -> list[GroupResult]:
    """Save groups in the transaction of ``connection``, each whole or not at all.

    Nothing is saved of deleted characters; a group of several is refused because of one, unless it
    is one of ``deleting``, which a deletion is about to remove from Redis. No character or session
    may be in two of the groups. With ``wait`` this waits for locked rows. What is saved is durable
    when the caller commits. Raises Rejected if a session type refuses its data, and Raced.
    """
    characters = [c for group in groups for c in group.characters.values()]
    sessions = [s for group in groups for s in group.sessions.values()]
    seals: dict[int | UUID, Seals] = {}
    for group in groups:
        seals |= group.seals
    decided = _Decided(
        durable.characters.decide(connection, characters, seals, wait=wait),
        durable.sessions.decide(connection, sessions, seals, wait=wait),
        deleting,
    )
    for group in groups:
        decided.settle(group)
    _check_logs(connection, groups, decided, types)
    saveable = [group for group in groups if decided.can_save(group)]
    held = _held_elsewhere(connection, saveable, decided, types)
    accepted = [group for group in saveable if not held[id(group)]]
    written = _write_characters(connection, accepted, decided)
    _end_memberships(connection, accepted, written, types)
    _write_sessions(connection, accepted, decided, types, seals)
    # Of a group with a deleted character not all is saved.
    whole = [group for group in accepted if group.nonces and not decided.has_deleted(group)]
    durable.receipts.record(connection, [nonce for group in whole for nonce in group.nonces])
    saved = {id(group) for group in accepted}
    return [decided.result(group, held[id(group)], is_saved=id(group) in saved) for group in groups]


def _check_logs(
    connection: Connection,
    groups: Sequence[Snapshot],
    decided: _Decided,
    types: Mapping[str, SessionOrchestrator],
) -> None:
    """Have a session saved later whose rows lack what its log was read without.

    PostgreSQL said how much it has before the rows were locked, and it may have gone back since:
    the entries in between would be a hole for ever.
    """
    by_type: dict[str, list[Session]] = defaultdict(list)
    for session in (s for group in groups for s in group.sessions.values()):
        if session.log_start and isinstance(decided.sessions[session.id], Accepted):
            by_type[session.session_type].append(session)
    for session_type, sessions in by_type.items():
        with work_of(f"the session type {session_type!r} cannot save it", connection):
            ends = types[session_type].saved_log(connection, [session.id for session in sessions])
        for session in sessions:
            if ends.get(session.id, 0) < session.log_start:
                decided.sessions[session.id] = Busy()


def _held_elsewhere(
    connection: Connection,
    saveable: Sequence[Snapshot],
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
            if group and (one.is_live or one.other_id not in group.characters):
                found[id(group)].append(one)
    return found


def _result(decision: T | Accepted) -> T | HeldBack:
    """Return what became of a member: what is accepted and not written is held back."""
    return HeldBack() if isinstance(decision, Accepted) else decision


def _write_characters(
    connection: Connection,
    accepted: Sequence[Snapshot],
    decided: _Decided,
) -> Collection[int]:
    """Write the accepted characters, which are ``decided`` then; return their ids."""
    new: list[CoreRows] = []
    over: list[CoreRows] = []
    for character in (c for group in accepted for c in group.characters.values()):
        decision = decided.characters[character.char_id]
        if isinstance(decision, Accepted):
            (new if decision.new else over).append(character)
    durable.characters.write(connection, new, over)
    rows = (snapshot.row for snapshot in (*new, *over))
    written = {row.id: Saved(row.version, changed=True, seal=row.seal) for row in rows}
    decided.characters.update(written)
    return written


def _write_sessions(
    connection: Connection,
    accepted: Sequence[Snapshot],
    decided: _Decided,
    types: Mapping[str, SessionOrchestrator],
    seals: Mapping[int | UUID, Seals],
) -> None:
    """Write the accepted sessions, which are ``decided`` then."""
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
    payloads: dict[UUID, Raw] = {}
    for session_type, sessions in by_type.items():
        payloads |= _payloads(types[session_type], session_type, sessions)
    saved = {char_id for group in accepted for char_id in group.characters}
    durable.sessions.write(connection, new, over, payloads, saved=saved, seals=seals)
    for session_type, sessions in by_type.items():
        with work_of(f"the session type {session_type!r} cannot save it", connection):
            types[session_type].save(connection, sessions)
    for session in (*new, *over):
        own = seals[session.id].own
        decided.sessions[session.id] = Saved(session.version, changed=True, seal=own)


def _payloads(
    orchestrator: SessionOrchestrator, session_type: str, sessions: Sequence[Session]
) -> dict[UUID, Raw]:
    """Return the payloads of sessions as JSON. Raises Rejected if a type gives none."""
    payloads = {}
    with work_of(f"the session type {session_type!r} cannot save it"):
        for session in sessions:
            payloads[session.id] = Raw(dump_json(orchestrator.payload(session)))
    return payloads


def _end_memberships(
    connection: Connection,
    accepted: Sequence[Snapshot],
    written: Collection[int],
    types: Mapping[str, SessionOrchestrator],
) -> None:
    """Take the written characters out of the sessions that they do not point at any more.

    What they kept for the others there is passed on before they are saved with other sessions.
    """
    if not written:
        return
    group_of = {char_id: group for group in accepted for char_id in group.characters}

    def points_at(char_id: int) -> Collection[str]:
        return group_of[char_id].references(char_id).values()

    saved_sessions = [s.ref.id for group in accepted for s in group.sessions.values()]
    left = durable.memberships.end(connection, written, points_at, list(types), saved_sessions)
    pass_on(connection, types, left)
