"""Owns the life cycle of a character: into Redis, out of it, and back to PostgreSQL.

This is the face of the room. A login is ``restore_full_state``, a logout ``evict``, a sweep's task
``backup_claims``; a change that is to be durable at once (a trade) is ``backup_many``.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Self

from sqlalchemy import Engine

from statesync import durable
from statesync.durable import database
from statesync.errors import (
    CharacterNotSaved,
    InvalidSessionType,
    SessionNotFound,
    SettingsError,
    StatesyncError,
)
from statesync.hot.commands.claims import Claim
from statesync.hot.exchange import ANSWER_SECONDS
from statesync.hot.store import HotStore, unwrap
from statesync.lifecycle.backup import Backup
from statesync.lifecycle.deletion import Deletion, DeletionReport
from statesync.lifecycle.failpoints import failpoint
from statesync.lifecycle.plans import Planner
from statesync.lifecycle.reports import BackupReport, Reports
from statesync.lifecycle.restore import Restore, RestoreReport
from statesync.sessions.base import SessionOrchestrator, SessionReport, make_orchestrators
from statesync.settings import Settings
from statesync.state import session_types
from statesync.state.fields import check_char_id
from statesync.state.outcomes import BackupOutcome, SessionOutcome
from statesync.state.sessions import Session
from statesync.state.vitals import DeriveVitals, derive_vitals, load_function

__all__ = ["BackupReport", "DeletionReport", "GameStateOrchestrator", "RestoreReport"]

_EVICT_ROUNDS = 6
"""How many times an eviction saves a character again that has changed since the last save."""
_EVICT_SECONDS = 3.0
"""How long an eviction waits while other workers save the character's group."""
_ACTIVE_PAGE = 1000
"""How many ids ``active`` gives at once."""
_SAVED_ELSEWHERE = (BackupOutcome.SUPERSEDED, BackupOutcome.STALE, BackupOutcome.RELEASED)
"""Outcomes after which another backup has saved a character, if it can be evicted."""
_SAVED = (SessionOutcome.SAVED, SessionOutcome.UNCHANGED, SessionOutcome.CLOSED)


class _SessionOrchestrators(dict[str, SessionOrchestrator]):
    """The orchestrators of sessions, by type."""

    def __missing__(self, session_type: str) -> SessionOrchestrator:
        raise InvalidSessionType(
            f"there is no session type {session_type!r}; there are {', '.join(sorted(self))}"
        )


class GameStateOrchestrator:
    """Restores characters into Redis and backs them up to PostgreSQL; safe to share by threads.

    ``from_settings`` builds one for a process, and ``close`` or ``with`` ends it. The constructor
    is for code that has a store and an engine already, such as tests: it does not close these.
    Sessions are delegated to ``sessions[session_type]``, one orchestrator for each type.
    """

    def __init__(
        self,
        hot: HotStore,
        engine: Engine,
        *,
        lease_us: int = 120_000_000,
        batch_size: int = 500,
        vitals: DeriveVitals = derive_vitals,
        fallback_state: str = "exploration",
    ) -> None:
        self.hot = hot
        self.engine = engine
        self.sessions: dict[str, SessionOrchestrator] = _SessionOrchestrators(
            make_orchestrators(self)
        )
        if fallback_state in session_types.types_by_state():
            raise SettingsError(
                f"STATESYNC_FALLBACK_STATE: {fallback_state!r} leads to a session itself; it must "
                "be a state without one, such as exploration"
            )
        self._owns_connections = False
        self._lease_us = lease_us
        planner = Planner(engine, self.sessions, vitals=vitals, fallback_state=fallback_state)
        self._backup = Backup(
            hot, engine, self.sessions, planner, lease_us=lease_us, batch_size=batch_size
        )
        self._restore = Restore(hot, engine, planner, batch_size=batch_size)

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        *,
        answer_seconds: float = ANSWER_SECONDS,
        database_seconds: float | None = None,
    ) -> Self:
        """Build one on the servers of ``settings``; it connects when it is first used.

        An operation on Redis waits ``answer_seconds`` for it, a transaction ``database_seconds``
        for each answer, or else as long as a lease. Raises SettingsError, or InvalidSessionType if
        the session types contradict each other.
        """
        made = cls(
            HotStore.from_settings(settings, answer_seconds=answer_seconds),
            database.connect(settings, answer_seconds=database_seconds),
            lease_us=settings.lease_us,
            batch_size=settings.batch_size,
            vitals=load_function(settings.vitals),
            fallback_state=settings.fallback_state,
        )
        made._owns_connections = True
        return made

    def close(self) -> None:
        """Close the connections that ``from_settings`` made."""
        if self._owns_connections:
            self.hot.close()
            self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Restore

    def restore_full_state(self, char_id: int) -> RestoreReport:
        """Load one character and its sessions into Redis if they are absent.

        Raises as ``restore_many`` does.
        """
        return self.restore_many([char_id])[0]

    def restore_many(
        self, char_ids: Iterable[int], *, progress: Callable[[int], object] = lambda _: None
    ) -> list[RestoreReport]:
        """Load characters and their sessions if they are absent; reports in the order given.

        Never overwrites what is live. After each batch, calls ``progress`` with how many characters
        are reported so far. Raises InvalidCharId before anything is restored, and
        ServerUnavailable.
        """
        ids = list(dict.fromkeys(check_char_id(char_id) for char_id in char_ids))
        return self._restore.run(ids, progress)

    def restore_sessions(self, session_type: str, char_ids: Sequence[int]) -> list[SessionReport]:
        """Restore characters and their sessions, and report on the sessions of one type."""
        reports = self.restore_many(char_ids)
        replies = self.hot.run_many([self.hot.commands.peek(r.char_id) for r in reports])
        session_reports = []
        for report, peek in zip(reports, map(unwrap, replies), strict=True):
            session_id = peek.references.get(session_type) if peek else None
            outcome = report.sessions.get(session_type, SessionOutcome.NOT_FOUND)
            session_reports.append(SessionReport(outcome, session_id))
        return session_reports

    # Backup

    def backup_full_state(self, char_id: int) -> BackupReport:
        """Save one character and its sessions now, dirty or not. Raises as ``backup_many`` does.

        A character that is in PostgreSQL alone, such as after a logout, is ``unchanged``.
        """
        claim, was_dirty = self.hot.claim(check_char_id(char_id), lease_us=self._lease_us)
        clean = () if was_dirty else (char_id,)
        report = self._backup.run([claim], clean)[0]
        if report.outcome is BackupOutcome.MISSING and not was_dirty:
            return self._as_in_postgresql(report)
        return report

    def _as_in_postgresql(self, report: BackupReport) -> BackupReport:
        """Return the report on a character that is not in Redis and has no unsaved changes."""
        with database.transaction(self.engine) as connection:
            version = durable.characters.versions(connection, [report.char_id]).get(report.char_id)
        if version is None:
            return report
        return BackupReport(report.char_id, BackupOutcome.UNCHANGED, version)

    def backup_many(self, char_ids: Iterable[int]) -> list[BackupReport]:
        """Save characters and their sessions now, dirty or not; reports in the order given.

        Raises InvalidCharId before anything is saved; ServerUnavailable, after which what was not
        saved is dirty or claimed, and the sweep saves it.
        """
        ids = list(dict.fromkeys(check_char_id(char_id) for char_id in char_ids))
        replies = self.hot.run_many(
            [self.hot.commands.claim(char_id, lease_us=self._lease_us) for char_id in ids]
        )
        claimed = [unwrap(reply) for reply in replies]
        clean = {claim.char_id for claim, was_dirty in claimed if not was_dirty}
        return [*self._backup.run([claim for claim, _ in claimed], clean)]

    def backup_claims(self, claims: Sequence[Claim]) -> Reports:
        """Save characters that a sweep has claimed. Raises as ``backup_many`` does."""
        return self._backup.run(claims)

    def backup_sessions(self, session_type: str, session_ids: Sequence[str]) -> list[SessionReport]:
        """Save sessions of one type now, and with each its participants."""
        replies = self.hot.run_many(
            [self.hot.commands.get_session(session_type, i) for i in session_ids]
        )
        sessions = [reply for reply in replies if isinstance(reply, Session)]
        char_ids = {char_id for session in sessions for char_id in session.participants}
        saved = {report.char_id: report for report in self.backup_many(char_ids)}
        reports = []
        for session_id, reply in zip(session_ids, replies, strict=True):
            if isinstance(reply, StatesyncError):
                reports.append(_not_readable(session_id, reply))
            else:
                participants = [saved[char_id] for char_id in reply.participants]
                reports.append(_saved_with(participants, session_type, session_id))
        return reports

    # Out of Redis

    def evict(self, char_id: int) -> BackupReport | None:
        """Save a character and delete it from Redis; its sessions go with their last participant.

        None if it was not loaded. The report says what PostgreSQL holds, whichever worker saved it.
        Raises CharacterNotSaved, which says why, if it cannot be saved or never stops changing:
        then it stays.
        """
        report = None
        deadline = time.monotonic() + _EVICT_SECONDS
        pause, saves_of_changes = 0.005, 0
        while self.hot.peek(char_id) is not None:
            sync_state = self.hot.sync_state(char_id)
            # If it is claimed and not dirty, another worker saves it with its group: wait for that.
            if report is None or sync_state.dirty or not sync_state.token:
                report = self.backup_full_state(char_id)
                saves_of_changes += sync_state.dirty
            failpoint("evicting")
            quarantined = report.outcome in (BackupOutcome.QUARANTINED, BackupOutcome.DELETED)
            if not quarantined and self.hot.evict(char_id):
                break
            # A save of new changes may take any time; only the wait for others is limited in time.
            too_late = not sync_state.dirty and time.monotonic() > deadline
            if quarantined or too_late or saves_of_changes > _EVICT_ROUNDS:
                raise CharacterNotSaved(char_id, report.error or "")
            time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
            pause = min(2 * pause, 0.05)
        if report and report.outcome in _SAVED_ELSEWHERE:
            return self._as_in_postgresql(report)
        return report

    def delete(self, char_id: int) -> DeletionReport:
        """Delete a character in both stores, for good; shared sessions stay with the others.

        Safe at any time and to run twice; after a crash, run it again. Raises InvalidCharId,
        CharacterMoved if it has left to another realm, UnknownSessionType if it is in a session of
        a type that is not registered here, and ServerUnavailable.
        """
        deletion = Deletion(
            self.hot,
            self.engine,
            self.sessions,
            self._backup_deleted,
            lease_us=self._lease_us,
        )
        return deletion.run(char_id)

    def _backup_deleted(self, char_id: int) -> None:
        """Save what a character shares with others, before its deletion removes it from Redis."""
        claim, was_dirty = self.hot.claim(char_id, lease_us=self._lease_us)
        self._backup.run([claim], clean=() if was_dirty else (char_id,), deleting=(char_id,))

    # Active characters

    def active(self, hours: float) -> Iterator[list[int]]:
        """Give the characters that are in an open session or were saved within ``hours``, in pages.

        Raises DatabaseUnavailable.
        """
        last = 0
        while True:
            with database.transaction(self.engine) as connection:
                page = durable.active.ids(connection, hours, last, _ACTIVE_PAGE)
            if not page:
                return
            yield page
            last = page[-1]

    def count_active(self, hours: float) -> int:
        """Return how many characters ``active`` gives. Raises DatabaseUnavailable."""
        with database.transaction(self.engine) as connection:
            return durable.active.count(connection, hours)


def _not_readable(session_id: str, error: StatesyncError) -> SessionReport:
    missing = isinstance(error, SessionNotFound)
    outcome = SessionOutcome.MISSING if missing else SessionOutcome.QUARANTINED
    return SessionReport(outcome, session_id, str(error))


def _saved_with(
    participants: Sequence[BackupReport], session_type: str, session_id: str
) -> SessionReport:
    """Return the report on a session: what any participant's backup says, or why none saved it."""
    outcomes = [report.sessions.get(session_type) for report in participants]
    saved = next((outcome for outcome in outcomes if outcome in _SAVED), None)
    if saved:
        return SessionReport(saved, session_id)
    first = next((r for r in participants if r.outcome is not BackupOutcome.MISSING), None)
    outcome = first.outcome if first else SessionOutcome.MISSING
    error = (first and first.error) or "no participant is loaded that points at it"
    return SessionReport(outcome, session_id, error)
