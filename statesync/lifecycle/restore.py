"""Owns the way from PostgreSQL to Redis: characters and their sessions, where they are absent."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any
from uuid import uuid4

from sqlalchemy import Engine

from statesync import durable
from statesync.durable import database
from statesync.errors import CorruptState, DatabaseUnavailable, StatesyncError
from statesync.hot.command import SCRIPT_MEMBERS, Command, packed
from statesync.hot.commands.transfer import Peek, RestoreItem
from statesync.hot.store import HotStore, unwrap
from statesync.lifecycle.failpoints import failpoint
from statesync.sessions.base import SessionOrchestrator
from statesync.state.characters import Character, write_character
from statesync.state.fields import dump_json
from statesync.state.references import reference_field
from statesync.state.session_types import names
from statesync.state.sessions import Session, read_references
from statesync.state.vitals import DeriveVitals

__all__ = ["Restore", "RestoreReport"]

log = logging.getLogger(__name__)

_ROUNDS = 4
"""How often a row that was read too early is read again."""
_LOG_STEP = 1000
"""How many log entries are written by one script."""


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What became of one restore, and what came from where."""

    char_id: int
    outcome: str
    """``restored`` from PostgreSQL, ``live`` in Redis already, ``not_found``, or ``failed``: the
    type of one of its sessions cannot load it, or Redis holds something else where it or one of its
    sessions should be, as ``error`` says. Then nothing was restored."""
    version: int | None = None
    sessions: dict[str, str] = field(default_factory=dict)
    """By type: ``restored`` from PostgreSQL, ``live`` in Redis already, or ``ended``: the character
    pointed at it, but nothing of it is left to restore."""
    fallback_from: str | None = None
    """The state it was saved in, of whose session nothing is left: it is in the fallback state."""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class _Planned:
    """How a character is to be restored."""

    core: Mapping[str, Any]
    version: int | None
    """None where the core is live and only its sessions are to be restored."""
    sessions: dict[str, Session] = field(default_factory=dict)
    """By the token under which the log is staged."""
    ended: tuple[str, ...] = ()
    fallback_from: str | None = None
    changed: bool = False
    """The core is not what its row says, so it is to be saved."""


class _Reports(dict[int, RestoreReport]):
    """Reports by character, and those whose outcome has been counted where it was brought about."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: set[int] = set()

    def undecided(self, ids: Sequence[int]) -> list[int]:
        """Return those without a report, and the live ones: there may be more to see."""
        return [i for i in ids if i not in self or self[i].outcome == "live"]


class Restore:
    """Restores characters and their sessions; safe to share by threads."""

    def __init__(
        self,
        hot: HotStore,
        engine: Engine,
        types: Mapping[str, SessionOrchestrator],
        *,
        batch_size: int,
        vitals: DeriveVitals,
        fallback_state: str,
    ) -> None:
        self._hot = hot
        self._commands = hot.commands
        # Core and sessions are read in several statements, which must see one moment.
        self._moment = engine.execution_options(isolation_level="REPEATABLE READ")
        self._engine = engine
        self._types = types
        self._by_state = {state: name for name, t in types.items() for state in t.states}
        self._batch_size = batch_size
        self._vitals = vitals
        self._fallback_state = fallback_state

    def run(self, ids: Sequence[int], progress: Callable[[int], object]) -> list[RestoreReport]:
        """Restore characters where they are absent. Raises ServerUnavailable."""
        reports = _Reports()
        for start in range(0, len(ids), self._batch_size):
            self._batch(ids[start : start + self._batch_size], reports)
            progress(min(start + self._batch_size, len(ids)))
        if beside := reports.keys() - reports.counted:
            self._hot.count(Counter(reports[char_id].outcome for char_id in beside))
        return [reports[char_id] for char_id in ids]

    def _batch(self, ids: Sequence[int], reports: _Reports) -> None:
        """Restore some; where a session type cannot load one, halve them until it is alone."""
        pending = ids
        try:
            for _ in range(_ROUNDS):
                pending = self._round(pending, reports)
                if not pending:
                    return
        except database.Rejected as error:
            pending = reports.undecided(pending)
            if len(pending) > 1:
                half = len(pending) // 2
                self._batch(pending[:half], reports)
                self._batch(pending[half:], reports)
            else:
                reports[pending[0]] = _failed(pending[0], error)
            return
        raise DatabaseUnavailable(
            f"PostgreSQL returned older rows than were evicted from Redis, for character "
            f"{pending[0]} and {len(pending) - 1} more: is it a replica that lags?"
        )

    def _round(self, ids: Sequence[int], reports: _Reports) -> list[int]:
        """Restore what can be; returns the ids whose rows were read too early.

        Most are absent and in no session: what is one statement and one script, a login waits for
        no more. Who turns out to be another case is looked at.
        """
        with database.statement(self._engine) as connection:
            rows = durable.characters.load(connection, ids, durable.sessions.LOAD_ALONE)
        failpoint("loaded")
        early = self._restore({i: self._plan(row, {}) for i, row in rows.items()}, reports)
        failpoint("restored")
        left = [char_id for char_id in reports.undecided(ids) if char_id not in early]
        return early + self._peek(left, reports) if left else early

    def _peek(self, ids: Sequence[int], reports: _Reports) -> list[int]:
        """Restore with their sessions who are in one, and the lost sessions of who is live."""
        peeks = self._hot.run_many([self._commands.peek(char_id) for char_id in ids])
        peeked = dict(zip(ids, peeks, strict=True))
        live: dict[int, Peek] = {}
        for char_id, peek in peeked.items():
            try:
                if found := unwrap(peek):
                    _check(char_id, found)
                    live[char_id] = found
            except CorruptState as error:
                reports[char_id] = _failed(char_id, error)
        lost = self._lost_sessions({i: found.references for i, found in live.items()})
        for char_id, core in live.items():
            sessions = {
                k: "ended" if k in lost.get(char_id, {}) else "live" for k in core.references
            }
            reports[char_id] = RestoreReport(char_id, "live", core.version, sessions)
        absent = [char_id for char_id, peek in peeked.items() if peek is None]
        if not absent and not lost:
            return []
        with database.transaction(self._moment) as connection:
            rows = durable.characters.load(connection, absent)
            having = durable.sessions.having_open(connection, [*rows, *lost])
            sessions_of: dict[str, dict[int, Session]] = {}
            for session_type in having.keys() & self._types.keys():
                with database.work_of(f"the session type {session_type!r} cannot load it"):
                    sessions_of[session_type] = self._types[session_type].load(
                        connection, having[session_type]
                    )
        reports |= {i: RestoreReport(i, "not_found") for i in absent if i not in rows}
        planned = {char_id: self._plan(row, sessions_of) for char_id, row in rows.items()}
        for char_id, references in lost.items():
            there = {
                uuid4().hex: session
                for session_type, text in references.items()
                if (session := sessions_of.get(session_type, {}).get(char_id))
                and str(session.id) == text
            }
            planned[char_id] = _Planned({}, None, there)
        failpoint("loaded")
        early = self._restore(planned, reports)
        failpoint("restored")
        return early

    def _lost_sessions(
        self, references: Mapping[int, Mapping[str, str]]
    ) -> dict[int, dict[str, str]]:
        """Return the sessions that live cores point at but that are gone, by character and type."""
        held = [(i, k, text) for i, of_it in references.items() for k, text in of_it.items()]
        peeks = self._hot.run_many([self._commands.peek_session(k, text) for _, k, text in held])
        lost: dict[int, dict[str, str]] = {}
        for (char_id, session_type, text), peek in zip(held, peeks, strict=True):
            if not isinstance(peek, CorruptState) and unwrap(peek) < 0:
                lost.setdefault(char_id, {})[session_type] = text
        return lost

    def _plan(self, row: Character, sessions_of: Mapping[str, Mapping[int, Session]]) -> _Planned:
        """Say what a character's core and sessions are to be."""
        core = row.core()
        sessions: dict[str, Session] = {}
        ended = []
        changed = False
        for session_type in self._types:
            name = reference_field(session_type)
            session = sessions_of.get(session_type, {}).get(row.char_id)
            if session:
                sessions[uuid4().hex] = session
                changed |= core.get(name) != str(session.id)
                core[name] = str(session.id)
            elif core.get(name):
                ended.append(session_type)
                del core[name]
                changed = True
        fallback_from = None
        asked = self._by_state.get(row.state or "")
        if asked and asked not in {session.session_type for session in sessions.values()}:
            fallback_from = row.state
            core["state"] = self._fallback_state
            changed = True
        if row.vitals is None and row.stats:
            core["vitals"] = self._vitals(row.stats)
        return _Planned(core, row.version, sessions, tuple(ended), fallback_from, changed)

    def _restore(self, planned: Mapping[int, _Planned], reports: _Reports) -> list[int]:
        todo: list[Command[Any]] = []
        staged: set[object] = set()
        for plan in planned.values():
            for token, session in plan.sessions.items():
                if session.log and session.id not in staged:
                    # Whoever comes second finds the session live; if not, both are read again.
                    staged.add(session.id)
                    entries = [dump_json(entry) for entry in session.log]
                    todo += [
                        self._commands.stage(token, entries[at : at + _LOG_STEP], start=at)
                        for at in range(0, len(entries), _LOG_STEP)
                    ]
        fillings = [
            RestoreItem(
                char_id, plan.version, write_character(plan.core), plan.sessions, plan.changed
            )
            for char_id, plan in planned.items()
        ]
        scripts = packed(fillings, lambda filling: 1 + len(filling.sessions), SCRIPT_MEMBERS)
        first_fill = len(todo)
        todo += map(self._commands.restore, scripts)
        again = []
        replies = chain.from_iterable(map(unwrap, self._hot.run_many(todo)[first_fill:]))
        for (char_id, plan), reply in zip(planned.items(), replies, strict=True):
            if isinstance(reply, StatesyncError):
                reports[char_id] = _failed(char_id, reply)
                continue
            outcome, outcomes = reply
            if outcome == "stale":
                again.append(char_id)
                continue
            of_it = {
                session.session_type: result
                for session, result in zip(plan.sessions.values(), outcomes, strict=True)
                if result != "left"
            }
            if plan.version is None:
                before = reports[char_id]
                reports[char_id] = replace(before, sessions=before.sessions | of_it)
                continue
            reports.counted.add(char_id)
            of_it |= dict.fromkeys(plan.ended, "ended")
            fallback_from = plan.fallback_from if outcome == "restored" else None
            reports[char_id] = RestoreReport(char_id, outcome, plan.version, of_it, fallback_from)
        return again


def _check(char_id: int, found: Peek) -> None:
    """Raise CorruptState where a core points at what is no session."""
    read_references(
        char_id, [found.references.get(session_type, "").encode() for session_type in names()]
    )


def _failed(char_id: int, error: Exception) -> RestoreReport:
    log.error("character %d is not restored: %s", char_id, error, exc_info=error)
    return RestoreReport(char_id, "failed", error=str(error))
