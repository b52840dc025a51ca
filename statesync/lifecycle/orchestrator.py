"""Owns the life cycle of a character: the way in and out of Redis, and back to PostgreSQL."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from sqlalchemy import Engine

from statesync import durable
from statesync.durable import database
from statesync.errors import (
    CharacterNotSaved,
    InvalidSessionType,
    SessionNotFound,
    SettingsError,
)
from statesync.hot.commands.claims import Claim
from statesync.hot.store import HotStore, unwrap
from statesync.lifecycle.backup import Backup
from statesync.lifecycle.deletion import Deletion, DeletionReport
from statesync.lifecycle.failpoints import failpoint
from statesync.lifecycle.reports import BackupReport
from statesync.lifecycle.restore import Restore, RestoreReport
from statesync.sessions.base import SessionOrchestrator, SessionReport, make_orchestrators
from statesync.settings import Settings
from statesync.state import session_types
from statesync.state.fields import check_char_id
from statesync.state.sessions import Session
from statesync.state.vitals import DeriveVitals, derive_vitals, load_function

__all__ = ["BackupReport", "DeletionReport", "GameStateOrchestrator", "RestoreReport"]

_ROUNDS = 6
"""How often an eviction saves what has changed meanwhile."""

_EVICT_SECONDS = 3.0
"""How long an eviction waits while others save what it is tied to."""


_PAGE = 1000
"""How many ids are listed at once."""


class _Types(dict[str, SessionOrchestrator]):
    """The orchestrators of sessions, by type."""

    def __missing__(self, name: str) -> SessionOrchestrator:
        raise InvalidSessionType(
            f"there is no session type {name!r}; there are {', '.join(sorted(self))}"
        )


class GameStateOrchestrator:
    """Restores characters into Redis and backs them up to PostgreSQL; safe to share by threads.

    Temporary sessions are delegated to ``sessions[name]``, one orchestrator for each type.
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
        self.sessions: dict[str, SessionOrchestrator] = _Types(make_orchestrators(self))
        if fallback_state in session_types.types_by_state():
            raise SettingsError(
                f"STATESYNC_FALLBACK_STATE: {fallback_state!r} leads to a session itself; it must "
                "be a state without one, such as exploration"
            )
        self._lease_us = lease_us
        self._backup = Backup(hot, engine, self.sessions, lease_us=lease_us, batch_size=batch_size)
        self._restore = Restore(
            hot,
            engine,
            self.sessions,
            batch_size=batch_size,
            vitals=vitals,
            fallback_state=fallback_state,
        )

    @classmethod
    def from_settings(cls, settings: Settings) -> GameStateOrchestrator:
        """Build one on the servers of ``settings``; it connects when it is first used.

        Raises SettingsError, or InvalidSessionType where the types contradict each other.
        """
        return cls(
            HotStore.from_settings(settings),
            database.connect(settings),
            lease_us=settings.lease_us,
            batch_size=settings.batch_size,
            vitals=load_function(settings.vitals),
            fallback_state=settings.fallback_state,
        )

    def close(self) -> None:
        """Close all connections."""
        self.hot.close()
        self.engine.dispose()

    # Backup

    def backup_full_state(self, char_id: int) -> BackupReport:
        """Save one character and its sessions now, dirty or not. Raises as ``backup_many`` does."""
        return self.backup_many([char_id])[0]

    def backup_many(self, char_ids: Iterable[int]) -> list[BackupReport]:
        """Save characters and their sessions now, dirty or not; reports in the order given.

        Raises InvalidCharId before anything is done; ServerUnavailable, after which what was
        not saved is dirty or claimed, and the sweep saves it.
        """
        ids = list(dict.fromkeys(check_char_id(char_id) for char_id in char_ids))
        replies = self.hot.run_many(
            [self.hot.commands.claim(char_id, lease_us=self._lease_us) for char_id in ids]
        )
        claimed = [unwrap(reply) for reply in replies]
        clean = {held.char_id for held, known in claimed if not known}
        return self._backup.run([held for held, _ in claimed], clean)

    def backup_claims(self, claims: Sequence[Claim]) -> list[BackupReport]:
        """Save characters that a sweep has claimed. Raises as ``backup_many`` does."""
        return self._backup.run(claims)

    def backup_sessions(self, session_type: str, session_ids: Sequence[str]) -> list[SessionReport]:
        """Save sessions of one type now, and with each its participants."""
        get = self.hot.commands.get_session
        replies = self.hot.run_many([get(session_type, session_id) for session_id in session_ids])
        named: dict[str, Session] = {}
        reports: dict[str, SessionReport] = {}
        for session_id, reply in zip(session_ids, replies, strict=True):
            if isinstance(reply, Session):
                named[session_id] = reply
            else:
                name = "missing" if isinstance(reply, SessionNotFound) else "quarantined"
                reports[session_id] = SessionReport(name, session_id, str(reply))
        saved = {
            report.char_id: report
            for report in self.backup_many(
                {char_id for session in named.values() for char_id in session.participants}
            )
        }
        for session_id, session in named.items():
            of_it = [saved[char_id] for char_id in session.participants]
            done_by = [
                r for r in of_it if r.sessions.get(session_type) in ("saved", "unchanged", "closed")
            ]
            if done_by:
                reports[session_id] = SessionReport(done_by[0].sessions[session_type], session_id)
            else:
                first = next((r for r in of_it if r.outcome != "missing"), None)
                error = (first and first.error) or "no participant is loaded that points at it"
                reports[session_id] = SessionReport(
                    first.outcome if first else "missing", session_id, error
                )
        return [reports[session_id] for session_id in session_ids]

    def evict(self, char_id: int) -> BackupReport | None:
        """Save a character and delete it from Redis, and with the last participant its sessions.

        None where it was not loaded. Raises CharacterNotSaved where it cannot be saved or never
        stops changing: then it stays.
        """
        report = None
        deadline = time.monotonic() + _EVICT_SECONDS
        pause, rounds = 0.005, 0
        while self.hot.peek(char_id) is not None:
            sync_state = self.hot.sync_state(char_id)
            if report is None or sync_state.dirty or not sync_state.token:
                report = self.backup_full_state(char_id)
                rounds += sync_state.dirty
            failpoint("evicting")
            if report.outcome != "quarantined" and self.hot.evict(char_id):
                return report
            # What changed meanwhile is saved in another round, however long one takes; waiting for
            # somebody else has an end in time.
            waited = not sync_state.dirty and time.monotonic() > deadline
            if report.outcome == "quarantined" or rounds > _ROUNDS or waited:
                raise CharacterNotSaved(char_id)
            # Whose claim is out, is being saved by somebody else in its group: that will do.
            time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
            pause = min(2 * pause, 0.05)
        return report

    def delete(self, char_id: int) -> DeletionReport:
        """Delete a character in both stores, for good; its sessions stay with the others in them.

        Safe at any time and to run twice; after a crash, run it again. Raises InvalidCharId and
        ServerUnavailable.
        """
        return Deletion(self.hot, self.engine, self.backup_full_state).run(char_id)

    # Restore

    def restore_full_state(self, char_id: int) -> RestoreReport:
        """Load one character and its sessions into Redis where they are absent.

        Raises as ``restore_many`` does.
        """
        return self.restore_many([char_id])[0]

    def restore_many(
        self, char_ids: Iterable[int], *, progress: Callable[[int], object] = lambda _: None
    ) -> list[RestoreReport]:
        """Load characters and their sessions where they are absent, and report on each in order.

        ``progress`` is called with the number done after each batch. Never overwrites what is
        live. Raises InvalidCharId before anything is done, and ServerUnavailable.
        """
        ids = list(dict.fromkeys(check_char_id(char_id) for char_id in char_ids))
        return self._restore.run(ids, progress)

    def restore_sessions(self, session_type: str, char_ids: Sequence[int]) -> list[SessionReport]:
        """Restore characters and their sessions, and report on those of one type."""
        reports = self.restore_many(char_ids)
        peeks = self.hot.run_many([self.hot.commands.peek(r.char_id) for r in reports])
        made = []
        for report, peek in zip(reports, peeks, strict=True):
            found = unwrap(peek)
            session_id = found.references.get(session_type) if found else None
            made.append(SessionReport(report.sessions.get(session_type, "not_found"), session_id))
        return made

    def active(self, hours: float) -> Iterator[list[int]]:
        """Give the characters that are in an open session or were saved within ``hours``, in pages.

        Raises DatabaseUnavailable.
        """
        last = 0
        while True:
            with database.transaction(self.engine) as connection:
                page = durable.sessions.active(connection, hours, last, _PAGE)
            if not page:
                return
            yield page
            last = page[-1]

    def count_active(self, hours: float) -> int:
        """Return how many characters ``active`` gives. Raises DatabaseUnavailable."""
        with database.transaction(self.engine) as connection:
            return durable.sessions.count_active(connection, hours)
