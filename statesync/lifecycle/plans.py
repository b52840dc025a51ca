"""Owns what characters and their sessions are to be in Redis, by what PostgreSQL holds of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, Engine

from statesync import durable
from statesync.durable import database
from statesync.durable.cores import Core
from statesync.durable.database import QUICK_SECONDS
from statesync.errors import CorruptState
from statesync.hot.command import Command
from statesync.hot.commands.transfer import RestoreItem, staged_name
from statesync.hot.store import Commands, unwrap
from statesync.sessions.base import SessionOrchestrator, check_loaded
from statesync.state.fields import dump_json
from statesync.state.references import reference_field
from statesync.state.sessions import Session
from statesync.state.vitals import DeriveVitals

__all__ = ["Loaded", "Plan", "Planner", "plan_sessions", "stage_logs"]

_UNKNOWN_TYPE = "the session type %r is not registered in this process"
_LOG_STEP = 1000
"""How many log entries one script writes."""


class Plan(NamedTuple):
    """What a character's core and sessions are to be."""

    item: RestoreItem
    """What restores them."""
    ended: tuple[str, ...] = ()
    """The types of sessions that the core pointed at and of which nothing is left."""
    fallback_from: str | None = None


class Loaded(NamedTuple):
    """What PostgreSQL held of some characters at one instant."""

    rows: dict[int, Core | CorruptState]
    """By character; of one whose row cannot be read, why not."""
    sessions: Mapping[str, Mapping[int, Session]] = {}
    """The open sessions, by type and character."""
    seals: Mapping[UUID, int] = {}
    """The seals of the sessions' rows; only of rows that have one."""
    open_versions: Mapping[UUID, int] = {}
    """The versions of the sessions that were asked for, if they are open."""


class Planner:
    """Loads characters and plans what they are to be; safe to share by threads."""

    def __init__(
        self,
        engine: Engine,
        types: Mapping[str, SessionOrchestrator],
        *,
        vitals: DeriveVitals,
        fallback_state: str,
    ) -> None:
        # Core and sessions are read in several statements, which must see one instant.
        self._one_instant = engine.execution_options(isolation_level="REPEATABLE READ")
        self._types = types
        self._references = {session_type: reference_field(session_type) for session_type in types}
        self._type_of_state = {
            state: session_type for session_type, t in types.items() for state in t.states
        }
        self._vitals = vitals
        self._fallback_state = fallback_state

    def load(
        self,
        char_ids: Iterable[int],
        also_sessions_of: Collection[int] = (),
        *,
        session_ids: Collection[UUID] = (),
    ) -> Loaded:
        """Load characters, and the sessions of these and of some others.

        Of ``session_ids`` it says at which versions they are open.

        Raises Rejected if a session type cannot load its sessions, and DatabaseUnavailable.
        """
        with database.transaction(self._one_instant, answer_seconds=QUICK_SECONDS) as connection:
            rows = durable.cores.load(connection, char_ids)
            in_session = durable.memberships.having_open(connection, [*rows, *also_sessions_of])
            rows |= _of_unknown_types(in_session, rows, self._types)
            sessions = self._load_sessions(connection, in_session)
            ids = {s.id for of_type in sessions.values() for s in of_type.values()}
            seals = durable.sessions.seals(connection, ids)
            return Loaded(
                rows, sessions, seals, durable.sessions.open_versions(connection, session_ids)
            )

    def _load_sessions(
        self, connection: Connection, in_session: Mapping[str, Sequence[int]]
    ) -> dict[str, dict[int, Session]]:
        """Return the open sessions of characters, by type and character. Raises Rejected."""
        sessions_of = {}
        for session_type in in_session.keys() & self._types.keys():
            problem = f"the session type {session_type!r} cannot load it"
            with database.work_of(problem, connection):
                found = self._types[session_type].load(connection, in_session[session_type])
                check_loaded(found)
            sessions_of[session_type] = found
        return sessions_of

    def plan_all(
        self, loaded: Loaded, fail: Callable[[int, CorruptState], object]
    ) -> dict[int, Plan]:
        """Return what characters are to be; ``fail`` is told those whose rows cannot be read."""
        plans: dict[int, Plan] = {}
        for char_id, row in loaded.rows.items():
            try:
                plans[char_id] = self._plan(unwrap(row), loaded)
            except CorruptState as error:
                fail(char_id, error)
        return plans

    def _plan(self, core: Core, loaded: Loaded) -> Plan:
        """Return what a character's core and sessions are to be. Raises CorruptState."""
        fields = dict(core.fields)
        sessions: dict[str, Session] = {}
        ended = []
        # Most characters are in no session.
        if loaded.sessions or not fields.keys().isdisjoint(self._references.values()):
            for session_type, reference in self._references.items():
                session = loaded.sessions.get(session_type, {}).get(core.char_id)
                if session:
                    sessions[staged_name(session)] = session
                    fields[reference] = str(session.id)
                elif fields.get(reference):
                    ended.append(session_type)
                    del fields[reference]
        fallback_from = None
        needed_type = self._type_of_state.get(fields.get("state", ""))
        if needed_type and needed_type not in {s.session_type for s in sessions.values()}:
            fallback_from = fields["state"]
            fields["state"] = self._fallback_state
        changed = fields != core.fields
        if core.stats:
            fields["vitals"] = self._derive_vitals(core.char_id, core.stats)
        seals = _seals(core, sessions.values(), loaded.seals)
        item = RestoreItem(core.char_id, core.version, fields, sessions, changed, seals)
        return Plan(item, tuple(ended), fallback_from)

    def _derive_vitals(self, char_id: int, stats: Mapping[str, int]) -> str:
        try:
            return dump_json(self._vitals(stats))
        except Exception as error:
            reason = f"the game cannot derive it from the stats: {type(error).__name__}: {error}"
            raise CorruptState(char_id, "vitals", reason) from error


def _seals(
    core: Core, sessions: Iterable[Session], seals: Mapping[UUID, int]
) -> dict[int | UUID, int]:
    found: dict[int | UUID, int] = {} if core.seal is None else {core.char_id: core.seal}
    if seals:
        found |= {s.id: seals[s.id] for s in sessions if s.id in seals}
    return found


def plan_sessions(references: Mapping[str, str], loaded: Loaded, char_id: int) -> Plan:
    """Return the plan to restore the lost sessions of a live character."""
    sessions = {
        staged_name(session): session
        for session_type, session_id in references.items()
        if (session := loaded.sessions.get(session_type, {}).get(char_id))
        and str(session.id) == session_id
    }
    seals: dict[int | UUID, int] = {s: seal for s, seal in loaded.seals.items()}  # noqa: C416
    return Plan(RestoreItem(char_id, None, {}, sessions, seals=seals))


def stage_logs(commands: Commands, plans: Iterable[Plan]) -> list[Command[Any]]:
    """Return what lays down the logs of sessions before these are restored, each log once.

    Of two characters in a session, the second finds it live; if not, both are read again.
    """
    staging: list[Command[Any]] = []
    staged = set()
    for name, session in chain.from_iterable(plan.item.sessions.items() for plan in plans):
        if not session.log or name in staged:
            continue
        staged.add(name)
        entries = [dump_json(entry) for entry in session.log]
        staging += [
            commands.stage(name, entries[start : start + _LOG_STEP], start=start)
            for start in range(0, len(entries), _LOG_STEP)
        ]
    return staging


def _of_unknown_types(
    in_session: Mapping[str, Sequence[int]],
    char_ids: Collection[int],
    types: Mapping[str, SessionOrchestrator],
) -> dict[int, CorruptState]:
    """Return why not for characters in an open session of a type that is not registered here."""
    return {
        char_id: CorruptState(char_id, reference_field(session_type), _UNKNOWN_TYPE % session_type)
        for session_type in in_session.keys() - types.keys()
        for char_id in in_session[session_type]
        if char_id in char_ids
    }
