"""Owns the wait for PostgreSQL: one thread saves for all callers that wait, many in one commit.

Group commit: a caller that comes while the thread saves waits for its next round, which is then one
transaction for all of them (Gray and Reuter, Transaction Processing, 1993).
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import threading
import time
import weakref
from collections.abc import Mapping
from concurrent import futures
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field

from statesync import durable
from statesync.durable import database
from statesync.durable.alarms import Alarm
from statesync.errors import InvalidInput, NotDurable, ServerUnavailable
from statesync.lifecycle.orchestrator import BackupReport, GameStateOrchestrator
from statesync.state.fields import check_char_id, check_version
from statesync.state.outcomes import BackupOutcome

__all__ = ["DURABLE_SECONDS", "GroupCommit"]

log = logging.getLogger(__name__)

DURABLE_SECONDS = 30.0
"""How long an operation waits for PostgreSQL before it raises NotDurable."""

_IN_POSTGRESQL = (
    BackupOutcome.SAVED,
    BackupOutcome.UNCHANGED,
    BackupOutcome.CONFLICT,
    BackupOutcome.STALE,
)
"""Outcomes that tell which version PostgreSQL has; for ``stale`` it is that of a later snapshot."""
_ELSEWHERE = (BackupOutcome.SUPERSEDED, BackupOutcome.RELEASED)
"""Another worker saves the character, or a later sweep: it is worth another try."""
_DOUBTFUL = (*_ELSEWHERE, BackupOutcome.MISSING)
"""Outcomes that do not tell what PostgreSQL has; the row does."""

_FIRST_PAUSE_SECONDS = 0.005
_LONGEST_PAUSE_SECONDS = 0.25
_GRACE_SECONDS = 0.5
"""So long after its deadline a caller still gets the reason of a save that fails just then."""
_LONGEST_WAIT_SECONDS = 1e6
_LAST_SECONDS = 1.0
"""How long ``close`` waits for a thread in which no caller is interested any more."""


@dataclass(slots=True)
class _Wait:
    """A caller that waits until versions are in PostgreSQL."""

    receipts: Mapping[int, int]
    """The version to wait for, by character; 0 is any save from now on."""
    deadline: float
    future: Future[None] = field(default_factory=Future)
    tries: int = 0
    not_before: float = 0.0
    reason: str = "PostgreSQL or Redis does not answer in time"
    alarm: Alarm = field(init=False)

    def __post_init__(self) -> None:
        self.future.set_running_or_notify_cancel()  # a caller may go away; the change is made
        self.alarm = Alarm(lambda: self.fail(self.reason))
        self.alarm.start(self.deadline - time.monotonic() + _GRACE_SECONDS)

    def succeed(self) -> None:
        """Let the caller go on."""
        self.alarm.stop()
        with contextlib.suppress(InvalidStateError):  # its time may be over
            self.future.set_result(None)

    def fail(self, reason: str) -> None:
        """Tell the caller why the change is not known to be in PostgreSQL."""
        self.alarm.stop()
        with contextlib.suppress(InvalidStateError):
            self.future.set_exception(NotDurable(self.receipts, reason))


class GroupCommit:
    """Saves characters for callers that wait; safe to share by threads.

    The thread starts with the first caller and ends with ``close``.
    """

    def __init__(self, orchestrator: GameStateOrchestrator, seconds: float) -> None:
        self._orchestrator = orchestrator
        self.seconds = seconds
        self._closed = False
        self.begin()
        _alive.add(self)

    def begin(self) -> None:
        """Begin without waits and without a thread, as in a fork, which has none of its parent."""
        self._waits: list[_Wait] = []
        self._unfinished: set[Future[None]] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def wait_for(self, receipts: Mapping[int, int], seconds: float | None = None) -> Future[None]:
        """Do as ``submit``; InvalidInput if the store is closed or a version is none."""
        self._check_open()
        for version in receipts.values():
            check_version(version)
        return self.submit(receipts, seconds)

    def _check_open(self) -> None:
        if self._closed:
            raise InvalidInput("the store is closed")

    def submit(self, receipts: Mapping[int, int], seconds: float | None = None) -> Future[None]:
        """Save characters from now on; the Future is done when their versions are in PostgreSQL.

        It fails with NotDurable: after ``seconds`` at the latest, whatever the servers do, and at
        once if the store is closed.
        """
        seconds = self.seconds if seconds is None else seconds
        wait = _Wait(receipts, time.monotonic() + min(max(0.0, seconds), _LONGEST_WAIT_SECONDS))
        with self._changed:
            if self._closed:
                wait.fail("the store is closed; a sweep saves it")
                return wait.future
            self._unfinished.add(wait.future)
            wait.future.add_done_callback(self._unfinished.discard)
            self._waits.append(wait)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, name="statesync-group-commit", daemon=True
                )
                self._thread.start()
            self._changed.notify()
        return wait.future

    def close(self) -> None:
        """Finish what callers wait for, then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            unfinished = list(self._unfinished)
        if self._thread:
            futures.wait(unfinished)
            self._thread.join(_LAST_SECONDS)

    def is_durable(self, char_id: int, version: int) -> bool:
        """Tell whether PostgreSQL has a version of a character.

        Raises InvalidCharId, DatabaseUnavailable, or InvalidInput if the store is closed or the
        version is none.
        """
        self._check_open()
        versions = self._durable_versions([check_char_id(char_id)])
        return versions.get(char_id, -1) >= check_version(version)

    def _durable_versions(self, char_ids: list[int]) -> dict[int, int]:
        """Return the versions that PostgreSQL has, by id. Raises DatabaseUnavailable."""
        engine = self._orchestrator.engine
        with database.transaction(engine, answer_seconds=database.QUICK_SECONDS) as connection:
            return durable.characters.versions(connection, char_ids)

    def _work(self) -> None:
        while waits := self._take_due():
            try:
                self._save(waits)
            except ServerUnavailable as error:
                for wait in waits:
                    self._retry(wait, str(error))
            except BaseException as error:  # a defect must not leave a caller waiting for ever
                log.exception("group commit failed")
                for wait in waits:
                    wait.fail(repr(error))

    def _take_due(self) -> list[_Wait]:
        """Wait until the time of some callers has come, and take all of those."""
        with self._changed:
            while True:
                now = time.monotonic()
                self._waits = [wait for wait in self._waits if not wait.future.done()]
                due = [wait for wait in self._waits if wait.not_before <= now]
                if due:
                    self._waits = [wait for wait in self._waits if wait.not_before > now]
                    return due
                if self._closed and not self._waits:
                    return []
                first = min((wait.not_before for wait in self._waits), default=None)
                self._changed.wait(None if first is None else first - now)

    def _save(self, waits: list[_Wait]) -> None:
        char_ids = {char_id for wait in waits for char_id in wait.receipts}
        reports = {r.char_id: r for r in self._orchestrator.backup_many(char_ids)}
        doubtful = [i for i, report in reports.items() if report.outcome in _DOUBTFUL]
        versions = self._durable_versions(doubtful) if doubtful else {}
        for wait in waits:
            self._decide(wait, reports, versions)

    def _decide(
        self, wait: _Wait, reports: Mapping[int, BackupReport], versions: Mapping[int, int]
    ) -> None:
        """End a wait, or have it tried again. Its characters are one group: one failure is all."""
        retry, failed = None, None
        for char_id, receipt in wait.receipts.items():
            reason = _why_not_durable(reports[char_id], receipt, versions.get(char_id))
            if reason and reports[char_id].outcome in _ELSEWHERE:
                retry = retry or reason
            elif reason:
                failed = failed or reason
        if not (retry or failed) and _none_is_loaded(wait, reports):
            failed = "none of them is loaded"
        if failed:
            wait.fail(failed)
        elif retry:
            self._retry(wait, retry)
        else:
            wait.succeed()

    def _retry(self, wait: _Wait, reason: str) -> None:
        now = time.monotonic()
        if now >= wait.deadline:
            wait.fail(reason)
            return
        wait.reason = reason
        pause = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2**wait.tries)
        wait.tries += 1
        wait.not_before = now + pause * random.uniform(0.5, 1.0)  # noqa: S311
        with self._changed:
            self._waits.append(wait)


_alive: weakref.WeakSet[GroupCommit] = weakref.WeakSet()


def _begin_anew() -> None:
    for group_commit in list(_alive):
        group_commit.begin()


os.register_at_fork(after_in_child=_begin_anew)


def _none_is_loaded(wait: _Wait, reports: Mapping[int, BackupReport]) -> bool:
    return all(
        reports[char_id].outcome == BackupOutcome.MISSING and not receipt
        for char_id, receipt in wait.receipts.items()
    )


def _why_not_durable(report: BackupReport, receipt: int, row_version: int | None) -> str | None:
    """Return why a version is not known to be in PostgreSQL; None if it is there.

    ``row_version`` is that of the row, if the outcome does not tell.
    """
    char_id, outcome = report.char_id, report.outcome
    if outcome in _IN_POSTGRESQL:
        if (report.version or 0) >= receipt:
            return None
        return f"character {char_id} never had version {receipt}; it has {report.version}"
    is_missing = outcome == BackupOutcome.MISSING
    if outcome in _DOUBTFUL and row_version is not None and (receipt or is_missing):
        # A character that is not loaded any more was saved before it was evicted.
        if row_version >= receipt:
            return None
    elif is_missing and not receipt:
        return None
    if outcome in _ELSEWHERE:
        return f"another worker saves character {char_id}"
    return f"character {char_id} is {outcome}: {report.error or 'nothing of it is saved'}"
