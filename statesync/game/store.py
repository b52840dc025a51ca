"""Owns what game code may wait for: that a change is in PostgreSQL. Many waits share a commit.

Group commit: one thread saves for everybody; whoever asks while it saves waits for its next round,
which is then one transaction for all of them (Gray and Reuter, Transaction Processing, 1993).
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

from statesync import durable
from statesync.durable import database
from statesync.errors import InvalidInput, NotDurable, ServerUnavailable
from statesync.hot.store import AsyncHotStore, HotStore
from statesync.lifecycle.orchestrator import BackupReport, GameStateOrchestrator
from statesync.settings import Settings
from statesync.state.fields import check_char_id

__all__ = ["DURABLE_SECONDS", "AsyncGameStore", "GameStore", "GroupCommit"]

log = logging.getLogger(__name__)

DURABLE_SECONDS = 30.0
"""How long an operation waits for PostgreSQL before it raises NotDurable."""

_AGAIN = ("superseded", "released")
_DOUBTFUL = (*_AGAIN, "missing")
"""Outcomes that leave open what PostgreSQL has: its row is asked."""

_PAUSE_SECONDS = (0.005, 0.25)
"""The first and the longest pause before somebody whom others are saving is tried again."""


@dataclass(slots=True)
class _Wait:
    """Somebody who waits for versions to be in PostgreSQL; 0 is any save from now on."""

    receipts: Mapping[int, int]
    deadline: float
    future: Future[None] = field(default_factory=Future)
    tries: int = 0
    not_before: float = 0.0


class GroupCommit:
    """Saves characters for whoever waits; safe to share by threads."""

    def __init__(self, orchestrator: GameStateOrchestrator, seconds: float) -> None:
        self.orchestrator = orchestrator
        self.seconds = seconds
        self._waits: list[_Wait] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, receipts: Mapping[int, int], seconds: float | None = None) -> Future[None]:
        """Save characters from now on; the Future is done when their versions are in PostgreSQL.

        It fails with NotDurable, after ``seconds`` at the latest.
        """
        wait = _Wait(receipts, time.monotonic() + (self.seconds if seconds is None else seconds))
        wait.future.set_running_or_notify_cancel()  # whoever waits may go; the change is made
        with self._changed:
            if self._closed:
                raise InvalidInput("the store is closed")
            self._waits.append(wait)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, name="statesync-group-commit", daemon=True
                )
                self._thread.start()
            self._changed.notify()
        return wait.future

    def close(self) -> None:
        """Finish what is waited for, then end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread:
            self._thread.join()
        self.orchestrator.close()

    def _work(self) -> None:
        while waits := self._take():
            try:
                self._round(waits)
            except ServerUnavailable as error:
                for wait in waits:
                    self._again(wait, str(error))
            except BaseException as error:  # a defect must not leave anybody waiting for ever
                log.exception("group commit failed")
                for wait in waits:
                    if not wait.future.done():
                        wait.future.set_exception(NotDurable(wait.receipts, repr(error)))

    def _take(self) -> list[_Wait]:
        """Wait until there is somebody whose time has come, and take all of those."""
        with self._changed:
            while True:
                now = time.monotonic()
                due = [wait for wait in self._waits if wait.not_before <= now]
                if due:
                    self._waits = [wait for wait in self._waits if wait.not_before > now]
                    return due
                if self._closed and not self._waits:
                    return []
                first = min((wait.not_before for wait in self._waits), default=None)
                self._changed.wait(None if first is None else first - now)

    def _round(self, waits: list[_Wait]) -> None:
        everybody = {char_id for wait in waits for char_id in wait.receipts}
        reports = {r.char_id: r for r in self.orchestrator.backup_many(everybody)}
        doubtful = [i for i, report in reports.items() if report.outcome in _DOUBTFUL]
        rows = self.versions(doubtful) if doubtful else {}
        for wait in waits:
            self._decide(wait, reports, rows)

    def _decide(
        self, wait: _Wait, reports: Mapping[int, BackupReport], rows: Mapping[int, int]
    ) -> None:
        """Say what became of a change; all that it changed is one group, so any failure is its."""
        failures = {i: _failure(reports[i], r, rows.get(i)) for i, r in wait.receipts.items()}
        again, final = (
            [why for i, why in failures.items() if why and (reports[i].outcome in _AGAIN) is retry]
            for retry in (True, False)
        )
        if final:
            wait.future.set_exception(NotDurable(wait.receipts, final[0]))
        elif again:
            self._again(wait, again[0])
        elif all(reports[i].outcome == "missing" and not r for i, r in wait.receipts.items()):
            wait.future.set_exception(NotDurable(wait.receipts, "nobody in it is loaded"))
        else:
            wait.future.set_result(None)

    def _again(self, wait: _Wait, why: str) -> None:
        now = time.monotonic()
        if now >= wait.deadline:
            wait.future.set_exception(NotDurable(wait.receipts, why))
            return
        first, longest = _PAUSE_SECONDS
        pause = min(longest, first * 2**wait.tries) * random.uniform(0.5, 1.0)  # noqa: S311
        wait.tries += 1
        wait.not_before = now + pause
        with self._changed:
            self._waits.append(wait)

    def versions(self, char_ids: list[int]) -> dict[int, int]:
        """Return the versions that PostgreSQL has, by id. Raises DatabaseUnavailable."""
        with database.transaction(self.orchestrator.engine) as connection:
            return durable.characters.versions(connection, char_ids)


def _failure(report: BackupReport, receipt: int, row: int | None) -> str | None:
    """Return why a version is not known to be in PostgreSQL; None if it is there.

    ``row`` is the version that PostgreSQL has, where the outcome leaves that open.
    """
    char_id, outcome = report.char_id, report.outcome
    if outcome in ("saved", "unchanged", "conflict", "stale"):
        # A later snapshot than ours is in the row where we were ``stale``.
        if (report.version or 0) >= receipt:
            return None
        return f"character {char_id} never had version {receipt}; it has {report.version}"
    if outcome in _DOUBTFUL and row is not None and (receipt or outcome == "missing"):
        # Who is not loaded any more was saved before he was evicted.
        if row >= receipt:
            return None
    elif outcome == "missing" and not receipt:
        return None
    if outcome in _AGAIN:
        return f"character {char_id} is being saved by somebody else"
    return f"character {char_id} is {outcome}: {report.error or 'nothing of it is saved'}"


class GameStore(HotStore):
    """What game code works with, for threads: Redis, and PostgreSQL where it has to wait for it.

    A HotStore whose changes take ``durable=True``, and which saves by itself what is tied to too
    many others before it changes it.
    """

    def __init__(self, settings: Settings, *, durable_seconds: float = DURABLE_SECONDS) -> None:
        super().__init__(settings.redis_url, prefix=settings.key_prefix)
        orchestrator = GameStateOrchestrator.from_settings(settings)
        self.committer: GroupCommit = GroupCommit(orchestrator, durable_seconds)

    @classmethod
    def from_settings(cls, settings: Settings) -> GameStore:
        """Connect, at the first operation, to the servers of ``settings``."""
        return cls(settings)

    def is_durable(self, char_id: int, version: int) -> bool:
        """Tell whether PostgreSQL has a change, by the version that it returned.

        Raises InvalidCharId or DatabaseUnavailable.
        """
        return self.committer.versions([check_char_id(char_id)]).get(char_id, -1) >= version

    def wait_durable(self, char_id: int, version: int, *, timeout: float | None = None) -> None:
        """Save a change now, by the version that it returned, and return when PostgreSQL has it.

        ``timeout`` is in seconds. Raises NotDurable or InvalidCharId.
        """
        self.committer.submit({check_char_id(char_id): version}, timeout).result()

    def close(self) -> None:
        """Finish what is waited for, and close the connections."""
        self.committer.close()
        super().close()


class AsyncGameStore(AsyncHotStore):
    """What game code works with, for asyncio: the operations of GameStore, to be awaited."""

    def __init__(self, settings: Settings, *, durable_seconds: float = DURABLE_SECONDS) -> None:
        super().__init__(settings.redis_url, prefix=settings.key_prefix)
        orchestrator = GameStateOrchestrator.from_settings(settings)
        self.committer: GroupCommit = GroupCommit(orchestrator, durable_seconds)

    @classmethod
    def from_settings(cls, settings: Settings) -> AsyncGameStore:
        """Connect, at the first operation, to the servers of ``settings``."""
        return cls(settings)

    async def is_durable(self, char_id: int, version: int) -> bool:
        """Tell whether PostgreSQL has a change, as ``GameStore.is_durable`` does."""
        rows = await asyncio.to_thread(self.committer.versions, [check_char_id(char_id)])
        return rows.get(char_id, -1) >= version

    async def wait_durable(
        self, char_id: int, version: int, *, timeout: float | None = None
    ) -> None:
        """Save a change now and return when PostgreSQL has it, as ``GameStore`` does."""
        saving = self.committer.submit({check_char_id(char_id): version}, timeout)
        await asyncio.wrap_future(saving)

    async def close(self) -> None:
        """Finish what is waited for, and close the connections."""
        await asyncio.to_thread(self.committer.close)
        await super().close()
