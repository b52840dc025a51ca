"""Owns what becomes of a snapshot before it is saved: decoded, each thing once, its logs read."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from sqlalchemy import Engine

from statesync import durable
from statesync.durable import database
from statesync.errors import CorruptState, InvalidField
from statesync.hot.commands.backup import RawSnapshot
from statesync.hot.store import HotStore, unwrap
from statesync.lifecycle.groups import Group, Outcome
from statesync.sessions.base import SessionOrchestrator
from statesync.state.characters import decode_character
from statesync.state.sessions import Session, decode_session

__all__ = ["Snapshot", "add", "decode", "merge", "read_logs"]

_LOG_STEP = 1000
"""How many log entries are read by one script."""


@dataclass(slots=True)
class Snapshot:
    """A snapshot that can be saved."""

    anchor: int
    raw: RawSnapshot
    group: Group
    outcome: Outcome | None = None
    corrupt: CorruptState | None = None

    def holds(self) -> list[int | UUID]:
        """Return whom and what it holds."""
        return [*self.group.characters, *self.group.sessions]

    def version(self, key: int | UUID) -> int:
        """Return the version at which it holds somebody or something."""
        if isinstance(key, UUID):
            return self.group.sessions[key].version
        return self.group.characters[key].version


def merge(known: Mapping[int, frozenset[str]]) -> dict[int, frozenset[str]]:
    """Return the known members of each character's group; of those in one, the first has all."""
    first_of: dict[str, int] = {}
    merged: dict[int, frozenset[str]] = {}
    for char_id, names in known.items():
        together = names | {str(char_id)}
        met = {first_of[name] for name in together if name in first_of}
        first = min(met, default=char_id)
        together = together.union(*(merged.pop(other) for other in met))
        merged[first] = together
        first_of |= dict.fromkeys(together, first)
    return merged


def add(snapshots: dict[int | UUID, Snapshot], new: Snapshot) -> None:
    """Add a snapshot; where somebody is in two of them, only the later one stands."""
    for old in {
        id(snapshots[key]): snapshots[key] for key in new.holds() if key in snapshots
    }.values():
        key = next(key for key in new.holds() if key in old.holds())
        if old.version(key) > new.version(key):
            return
        for key in old.holds():
            snapshots.pop(key, None)
    snapshots.update(dict.fromkeys(new.holds(), new))


def decode(snapshot: RawSnapshot) -> Group:
    """Decode a snapshot. Raises CorruptState, which names whose field it is."""
    characters = {
        char_id: decode_character(char_id, core) for char_id, core in snapshot.cores.items() if core
    }
    sessions: dict[UUID, Session] = {}
    for (session_type, session_id), (log_length, raw) in snapshot.sessions.items():
        if not raw:
            continue
        inside = [
            i for i, held in snapshot.references.items() if held.get(session_type) == session_id
        ]
        try:
            session = decode_session(session_type, session_id, raw, log_length)
        except InvalidField as error:
            whose = min(inside, default=min(characters))
            raise CorruptState(whose, error.field, error.reason) from None
        if session.id in sessions:
            reason = f"the id is that of a {sessions[session.id].session_type} session as well"
            raise CorruptState(min(inside, default=min(characters)), session.name, reason)
        away = [i for i in session.participants if i not in characters]
        sessions[session.id] = replace(session, members=tuple(sorted({*inside, *away})))
    references = {char_id: snapshot.references[char_id] for char_id in characters}
    return Group(characters, sessions, references)


def read_logs(
    hot: HotStore,
    engine: Engine,
    types: Mapping[str, SessionOrchestrator],
    snapshots: Sequence[Snapshot],
    conflicts: Collection[object],
) -> None:
    """Read what of the sessions' logs is not in PostgreSQL yet.

    A log only grows, so what was in it at the snapshot's instant can be read afterwards.
    """
    logs: dict[str, list[UUID]] = {}
    for item in snapshots:
        for session in item.group.sessions.values():
            if session.log_length and types[session.session_type].has_log:
                logs.setdefault(session.session_type, []).append(session.id)
    if not logs:
        return
    ends: dict[UUID, int] = {}
    with database.transaction(engine) as connection:
        for session_type, ids in logs.items():
            ends |= types[session_type].saved_log(connection, ids)
        whole = durable.sessions.invalidated(connection, [i for ids in logs.values() for i in ids])
    for item in snapshots:
        for session in item.group.sessions.values():
            if session.id in logs.get(session.session_type, ()):
                # Where PostgreSQL was ahead of Redis, the whole log is compared.
                start = ends.get(session.id, 0)
                if session.id in conflicts or session.id in whole or start > session.log_length:
                    start = 0
                try:
                    item.group.sessions[session.id] = _with_log(hot, session, start)
                except InvalidField as error:
                    item.corrupt = CorruptState(
                        item.anchor, f"{session.name}.{error.field}", error.reason
                    )


def _with_log(hot: HotStore, session: Session, start: int) -> Session:
    end = session.log_length
    parts = hot.run_many(
        [
            hot.commands.read_log(
                session.session_type, session.id, start=at, stop=min(at + _LOG_STEP, end) - 1
            )
            for at in range(start, end, _LOG_STEP)
        ]
    )
    entries = tuple(entry for part in parts for entry in unwrap(part))
    if len(entries) < end - start:
        raise InvalidField("log", "is shorter than it was: it may only be appended to")
    return replace(session, log=entries, log_start=start)
