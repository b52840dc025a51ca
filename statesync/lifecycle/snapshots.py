"""Owns what becomes of a snapshot before it is saved: decoded, each thing once, its logs read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

from sqlalchemy import Connection, Engine

from statesync import durable
from statesync.durable import database
from statesync.durable.columns import rows_of
from statesync.durable.results import (
    Busy,
    CharacterResult,
    Deleted,
    HeldBack,
    Saved,
    SessionResult,
    Unknown,
    WentBack,
)
from statesync.durable.rows import CoreRows, core_rows
from statesync.errors import CorruptState, InvalidField
from statesync.hot.commands.backup import Head, RawSnapshot
from statesync.hot.store import HotStore, unwrap
from statesync.sessions.base import HeldElsewhere, SessionOrchestrator
from statesync.state.characters import Character
from statesync.state.fields import version_or_none
from statesync.state.references import SessionRef, reference_field
from statesync.state.seals import LAID, Seals
from statesync.state.session_types import reference_fields
from statesync.state.sessions import (
    Session,
    decode_texts,
    unknown_reference_fields,
    unknown_references,
)

__all__ = [
    "GroupResult",
    "Snapshot",
    "add",
    "decode",
    "read_logs",
    "unknown_sessions",
]

_LOG_STEP = 1000
"""How many log entries one script reads."""


@dataclass(frozen=True, slots=True)
class GroupResult:
    """What became of a group, and of each of its characters and sessions."""

    saved: bool
    characters: dict[int, CharacterResult]
    sessions: dict[UUID, SessionResult]
    held: Sequence[HeldElsewhere] = ()
    """What keeps the group from being saved: things that others hold as well."""


@dataclass(slots=True, eq=False)
class Snapshot:
    """A group as one snapshot read it, and what became of it; one transaction commits it."""

    anchor: int
    """The character whose claim the snapshot was taken under."""
    raw: RawSnapshot
    characters: dict[int, CoreRows]
    sessions: dict[UUID, Session] = field(default_factory=dict)
    result: GroupResult | None = None
    """None until PostgreSQL has decided."""
    corrupt: CorruptState | None = None
    """Why the group cannot be saved."""
    locked: str | None = None
    """Why the group cannot be saved now, if another transaction holds a lock."""
    in_doubt: bool = False
    """Whether a commit of it is under way or ended without an answer, so that it may be made."""

    @property
    def head(self) -> Head:
        """What was known of both servers."""
        return self.raw.head

    @property
    def seals(self) -> dict[int | UUID, Seals]:
        """Of each character and session: what the snapshot knew of its history."""
        return self.raw.seals

    @property
    def nonces(self) -> set[str]:
        """Those of the durable changes that it holds."""
        return {word for text in self.raw.nonces.values() for word in text.split()}

    @property
    def laid_at(self) -> int:
        """Redis' counter of sweeps, if it holds a core that was laid over its row; else 0."""
        return self.head.sweeps if any(one.has(LAID) for one in self.seals.values()) else 0

    @property
    def absent(self) -> set[int]:
        """Characters that were looked for and are not loaded."""
        return self.raw.cores.keys() - self.characters.keys()

    def references(self, char_id: int) -> dict[str, str]:
        """Return the ids that a core points at, by type; also of sessions that are gone."""
        core = self.raw.cores[char_id]
        return {t: core[name] for name, t in reference_fields().items() if core.get(name)}

    @property
    def saved(self) -> bool:
        """Whether PostgreSQL holds the group."""
        return self.result is not None and self.result.saved

    @property
    def refused(self) -> bool:
        """Whether PostgreSQL has refused the group, for now or for good."""
        return self.result is not None and not self.result.saved

    @property
    def is_lost(self) -> bool:
        """Whether PostgreSQL has refused the group because its rows are of another history."""
        return self.refused and any(isinstance(result, Unknown) for result in self._results())

    @property
    def shows_older_postgresql(self) -> bool:
        """Whether PostgreSQL has refused the group because it has gone back in time itself."""
        return self.refused and any(isinstance(result, WentBack) for result in self._results())

    def _results(self) -> list[object]:
        if self.result is None:
            return []
        return [*self.result.characters.values(), *self.result.sessions.values()]

    @property
    def played_on(self) -> int | None:
        """The deleted character that is the only reason why PostgreSQL has refused the group."""
        if not self.refused or not self.result or self.result.held:
            return None
        if not all(isinstance(one, Saved | HeldBack | Deleted) for one in self._results()):
            return None
        found = (i for i, one in self.result.characters.items() if isinstance(one, Deleted))
        return next(found, None)

    @property
    def is_busy(self) -> bool:
        """Whether PostgreSQL has refused the group because another transaction holds a lock."""
        return any(isinstance(result, Busy) for result in self._results())

    def postpone(self) -> None:
        """Leave the group to a later snapshot."""
        busy: dict[int, CharacterResult] = {i: Busy() for i in self.characters}
        self.result = GroupResult(saved=False, characters=busy, sessions={})

    def bytes(self) -> int:
        """Return how many bytes Redis held of the group, without the logs."""
        hashes = [*self.raw.cores.values(), *(fields for _, fields in self.raw.sessions.values())]
        return sum(len("".join(one)) + len("".join(one.values())) for one in hashes)

    def members(self) -> list[int | UUID]:
        """Return the characters and sessions in it."""
        return [*self.characters, *self.sessions]

    def version(self, member: int | UUID) -> int:
        """Return the version of one member."""
        if isinstance(member, UUID):
            return self.sessions[member].version
        return self.characters[member].version


def add(snapshots: dict[int | UUID, Snapshot], new: Snapshot) -> None:
    """Add a snapshot under each of its members; of two that overlap, only the later one stays."""
    overlapping = dict.fromkeys(snapshots[m] for m in new.members() if m in snapshots)
    for old in overlapping:
        shared = next(member for member in new.members() if member in old.members())
        if old.version(shared) > new.version(shared):
            return
        for member in old.members():
            snapshots.pop(member, None)
    snapshots.update(dict.fromkeys(new.members(), new))


def decode(anchor: int, raw: RawSnapshot) -> Snapshot:
    """Decode a snapshot; one that is ``corrupt`` holds only who is in it, at which versions."""
    loaded = {char_id: core for char_id, core in raw.cores.items() if core}
    try:
        characters = {
            char_id: rows_of(char_id, int(core["version"]), raw.seal, core)
            for char_id, core in loaded.items()
        }
        return Snapshot(anchor, raw, characters, _sessions(raw, characters))
    except CorruptState as error:
        heads = {char_id: _head(char_id, core, raw.seal) for char_id, core in loaded.items()}
        return Snapshot(anchor, raw, heads, corrupt=error.with_traceback(None))


def _sessions(raw: RawSnapshot, characters: Mapping[int, CoreRows]) -> dict[UUID, Session]:
    """Decode the sessions that are there. Raises CorruptState."""
    sessions: dict[UUID, Session] = {}
    for ref, (log_length, fields) in raw.sessions.items():
        if not fields:
            continue
        session = _decode_session(raw, ref, fields, log_length, characters)
        if session.id in sessions:
            reason = f"the id is that of a {sessions[session.id].session_type} session as well"
            blamed = min(_pointing_at(raw, ref), default=min(characters))
            raise CorruptState(blamed, ref.label, reason)
        sessions[session.id] = session
    return sessions


def _head(char_id: int, core: Mapping[str, str], seal: int) -> CoreRows:
    saved_version = version_or_none(core.get("saved_version", "").encode(errors="replace"))
    version = int(core["version"])
    return core_rows(Character(char_id, version=version, saved_version=saved_version), seal)


def unknown_sessions(raw: RawSnapshot) -> list[SessionRef]:
    """Return what cores point at, by fields like ours, of types that are not registered here."""
    cores = raw.cores.values()
    if not unknown_reference_fields(set[str]().union(*cores)):  # asked once for all: most have none
        return []
    return [ref for core in cores for ref in unknown_references(core)]


def _pointing_at(raw: RawSnapshot, ref: SessionRef) -> list[int]:
    """Return the characters in a snapshot whose cores point at a session."""
    name = reference_field(ref.session_type)
    return [char_id for char_id, core in raw.cores.items() if core.get(name) == ref.id]


def _decode_session(
    raw: RawSnapshot,
    ref: SessionRef,
    fields: Mapping[str, str],
    log_length: int,
    characters: Mapping[int, CoreRows],
) -> Session:
    """Decode a session and find its members: those that point at it or, not loaded, are named."""
    inside = _pointing_at(raw, ref)
    try:
        content = decode_texts(ref, fields)
    except InvalidField as error:
        blamed = min(inside, default=min(characters))
        raise CorruptState(blamed, error.field, error.reason) from None
    not_loaded = [i for i in content.fields.get("participants", ()) if i not in characters]
    members = tuple(sorted({*inside, *not_loaded}))
    session_id = UUID(ref.id)
    return Session(ref.session_type, session_id, *content, log_length, members=members)


def read_logs(
    hot: HotStore,
    engine: Engine,
    types: Mapping[str, SessionOrchestrator],
    snapshots: Sequence[Snapshot],
) -> None:
    """Add to each session the log entries that PostgreSQL does not have yet.

    A log only grows, so the entries that it had at the snapshot can be read afterwards.
    """
    with_log = [
        (snapshot, session)
        for snapshot in snapshots
        for session in snapshot.sessions.values()
        if session.log_length and types[session.session_type].has_log
    ]
    if not with_log:
        return
    with database.transaction(engine) as connection:
        ids = [session.id for _, session in with_log]
        unreliable = durable.digests.invalid(connection, ids)
    saved_ends = _saved_logs(engine, types, with_log)
    for snapshot, session in with_log:
        if snapshot.corrupt:
            continue
        start = saved_ends.get(session.id, 0)
        if session.id in unreliable or start > session.log_length:
            start = 0
        try:
            with_entries = _with_log(hot, session, start, snapshot.raw.seal)
            if with_entries:
                snapshot.sessions[session.id] = with_entries
            else:
                snapshot.postpone()
        except InvalidField as error:
            field = f"{session.ref.label}.{error.field}"
            snapshot.corrupt = CorruptState(snapshot.anchor, field, error.reason)


def _saved_logs(
    engine: Engine,
    types: Mapping[str, SessionOrchestrator],
    with_log: Sequence[tuple[Snapshot, Session]],
) -> dict[UUID, int]:
    """Return how many entries of each log are saved.

    If a type cannot say that of a session, its snapshot is marked ``corrupt``.
    """
    by_type: dict[str, list[UUID]] = {}
    for _, session in with_log:
        by_type.setdefault(session.session_type, []).append(session.id)
    try:
        with database.transaction(engine) as connection:
            parts = [_saved_log(connection, types[t], ids) for t, ids in by_type.items()]
            return {session_id: end for part in parts for session_id, end in part.items()}
    except database.Rejected as error:
        if len(with_log) > 1:
            alone = [_saved_logs(engine, types, [one]) for one in with_log]
            return {session_id: end for part in alone for session_id, end in part.items()}
        [(snapshot, session)] = with_log
        snapshot.corrupt = CorruptState(snapshot.anchor, f"{session.ref.label}:log", str(error))
        return {}


def _saved_log(
    connection: Connection, orchestrator: SessionOrchestrator, session_ids: Sequence[UUID]
) -> Mapping[UUID, int]:
    """Return how many entries of logs a type has saved. Raises Rejected if it cannot say so."""
    problem = f"the session type {orchestrator.session_type!r} cannot say how much log it has"
    with database.work_of(problem, connection):
        ends = orchestrator.saved_log(connection, session_ids)
        if not all(type(end) is int and end >= 0 for end in ends.values()):
            raise TypeError("saved_log must return a number of entries for each session")
        return ends


def _with_log(hot: HotStore, session: Session, start: int, seal: int) -> Session | None:
    """Return a session with the entries of its log from ``start``. Raises InvalidField.

    None if Redis has forgotten the snapshot: its log may be of another history by now.
    """
    end = session.log_length
    pages = hot.run_many(
        [
            hot.commands.read_log(
                session.session_type, session.id, start=at, stop=min(at + _LOG_STEP, end) - 1
            )
            for at in range(start, end, _LOG_STEP)
        ]
    )
    entries = tuple(entry for page in pages for entry in unwrap(page))
    if not hot.read_seals([str(session.id)])[str(session.id)].knows(seal):
        return None
    if len(entries) < end - start:
        raise InvalidField("log", "is shorter than it was: it may only be appended to")
    return replace(session, log=entries, log_start=start)
