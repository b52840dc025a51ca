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
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any, TypeVar

from statesync import durable, tracing
from statesync.durable import database
from statesync.durable.alarms import Alarm
from statesync.durable.losses import Loss
from statesync.errors import InvalidInput, NotDurable, ServerUnavailable
from statesync.game.verdicts import Known, check_receipt, judge, needs_row, why_unknown
from statesync.lifecycle.orchestrator import BackupReport, GameStateOrchestrator
from statesync.state.fields import check_char_id
from statesync.state.receipts import Receipt

__all__ = ["DURABLE_SECONDS", "GroupCommit"]

log = logging.getLogger(__name__)

A = TypeVar("A")
T = TypeVar("T")

DURABLE_SECONDS = 30.0
"""How long an operation waits for PostgreSQL before it raises NotDurable."""

_FIRST_PAUSE_SECONDS = 0.005
_LONGEST_PAUSE_SECONDS = 0.25
_GRACE_SECONDS = 0.5
"""So long after its deadline a caller still gets the reason of a save that fails just then."""
_LONGEST_WAIT_SECONDS = 1e6
_LAST_SECONDS = 1.0
"""How long ``close`` waits for a thread in which no caller is interested any more."""


@dataclass(slots=True)
class _Wait:
    """A caller that waits until a change is in PostgreSQL."""

    char_ids: Sequence[int]
    receipt: Receipt
    """What to wait for: its nonce, or else its version; 0 is any save from now on."""
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
            self.future.set_exception(NotDurable(self.char_ids, reason))


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

    def wait_for(self, char_id: int, receipt: object, seconds: float | None = None) -> Future[None]:
        """Save a character from now on, until PostgreSQL has the change of a receipt, or a version.

        The Future fails as that of ``submit``. Raises InvalidInput if the store is closed or the
        receipt is none of the character, and InvalidCharId.
        """
        self._check_open()
        return self._wait([check_char_id(char_id)], check_receipt(char_id, receipt), seconds)

    def _check_open(self) -> None:
        if self._closed:
            raise InvalidInput("the store is closed")

    def submit(
        self, char_ids: Sequence[int], nonce: str | None = None, seconds: float | None = None
    ) -> Future[None]:
        """Save characters from now on; the Future is done when PostgreSQL has their change.

        Without a nonce it is done when they are saved. It fails with NotDurable: after
        ``seconds`` at the latest, whatever the servers do, and at once if the store is closed.
        """
        return self._wait(char_ids, Receipt(0, None, nonce), seconds)

    def _wait(
        self, char_ids: Sequence[int], receipt: Receipt, seconds: float | None = None
    ) -> Future[None]:
        seconds = self.seconds if seconds is None else seconds
        seconds = min(max(0.0, seconds), _LONGEST_WAIT_SECONDS)
        wait = _Wait(char_ids, receipt, time.monotonic() + seconds)
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

    def is_durable(self, char_id: int, receipt: object) -> bool | None:
        """Tell whether PostgreSQL has the change of a receipt, or a version of a character.

        None if that is not known: a version after a loss, or a receipt that is too old. Raises
        InvalidCharId, DatabaseUnavailable, or InvalidInput if the store is closed or the receipt is
        none of the character.
        """
        self._check_open()
        receipt = check_receipt(check_char_id(char_id), receipt)
        if receipt.nonce:
            if self._read(durable.receipts.find, [receipt.nonce]):
                return True
            return None if why_unknown(receipt.nonce, self._losses()) else False
        if self._read(durable.characters.versions, [char_id]).get(char_id, -1) < receipt:
            return False
        return None if self._losses() else True

    def _losses(self) -> list[Loss]:
        return self._read(durable.receipts.lost_since, self._orchestrator.hot.keys.prefix)

    def _read(self, query: Callable[[Any, A], T], argument: A) -> T:
        """Ask PostgreSQL with one statement. Raises DatabaseUnavailable."""
        engine = self._orchestrator.engine
        with database.statement(engine, answer_seconds=database.QUICK_SECONDS) as connection:
            return query(connection, argument)

    def _work(self) -> None:
        while waits := self._take_due():
            try:
                with tracing.span("statesync.group_commit"):
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
        char_ids = {char_id for wait in waits for char_id in wait.char_ids}
        reports = {r.char_id: r for r in self._orchestrator.backup_many(char_ids)}
        known = self._look_up(waits, reports)
        for wait in waits:
            of_wait = [reports[char_id] for char_id in wait.char_ids]
            failed, retry = judge(wait.receipt, of_wait, known)
            if failed:
                wait.fail(failed)
            elif retry:
                self._retry(wait, retry)
            else:
                wait.succeed()

    def _look_up(self, waits: Sequence[_Wait], reports: Mapping[int, BackupReport]) -> Known:
        """Return what PostgreSQL says of the changes that are waited for. One statement, mostly."""
        nonces = [wait.receipt.nonce for wait in waits if wait.receipt.nonce]
        doubtful = {i for w in waits for i in w.char_ids if needs_row(w.receipt, reports[i])}
        by_version = any(wait.receipt and not wait.receipt.nonce for wait in waits)
        found = self._read(durable.receipts.find, nonces) if nonces else set()
        return Known(
            found,
            self._read(durable.characters.versions, list(doubtful)) if doubtful else {},
            self._losses() if by_version or found != set(nonces) else (),
        )

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
