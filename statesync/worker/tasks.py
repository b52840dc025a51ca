"""Owns the tasks: what each takes, what it returns, and what it does while a server is away.

A message is a hint: if it is lost, late or doubled, it costs time and never data.
"""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from enum import StrEnum
from typing import Any, TypeVar

from celery import Task

from statesync import tracing
from statesync.errors import InvalidInput, ServerUnavailable, StatesyncError
from statesync.hot.commands.troubles import Work
from statesync.hot.store import unwrap
from statesync.lifecycle.scrub import scrub_pages
from statesync.lifecycle.sweep import catch_up, scheduled_sweep
from statesync.lifecycle.troubles import REFUSALS, TROUBLE
from statesync.state.outcomes import BackupOutcome, RestoreOutcome
from statesync.worker.app import app, realms, troubles
from statesync.worker.logs import note
from statesync.worker.messages import Outbox, read_claims, read_cursor
from statesync.worker.names import TaskName
from statesync.worker.rows import Told

__all__ = [
    "backup_batch",
    "backup_full_state",
    "restore_batch",
    "restore_full_state",
    "scrub",
    "sync_dirty",
    "sync_slice",
]

log = logging.getLogger(__name__)
T = TypeVar("T")
Json = dict[str, Any]

_RETRY_CAP_SECONDS = 60
_SCRUB_STEP_SECONDS = 5.0
"""How long one message of a scrub works: a worker that stops waits for no more."""
_EXPECTED = (StatesyncError,)
"""What a worker logs in one line, without a traceback."""


_WORK_OF = {
    TaskName.BACKUP_FULL_STATE: Work.BACKUP,
    TaskName.BACKUP_BATCH: Work.BACKUP,
    TaskName.RESTORE_FULL_STATE: Work.RESTORE,
    TaskName.RESTORE_BATCH: Work.RESTORE,
    TaskName.SYNC_DIRTY: Work.SWEEP,
    TaskName.SYNC_SLICE: Work.SWEEP,
    TaskName.SCRUB: Work.SCRUB,
}
_DONE = frozenset(
    {
        *(BackupOutcome.SAVED, BackupOutcome.UNCHANGED),
        *(RestoreOutcome.RESTORED, RestoreOutcome.NOT_FOUND),
    }
)
"""Outcomes for which all servers had to do their part."""


class _Task(Task):  # type: ignore[type-arg]  # it takes none when it runs
    """Tells of servers that refuse its work, and that they work again."""

    def on_failure(
        self, exc: Exception, _: str, __: object, kwargs: dict[str, Any], ___: object
    ) -> None:
        """Tell why: a server's trouble once, what is wrong with the message each time."""
        tracing.failed(exc)
        if isinstance(exc, TROUBLE):
            is_claim = self._work is Work.SWEEP and isinstance(exc, REFUSALS)
            work = Work.CLAIM if is_claim else self._work
            troubles(kwargs.get("realm", "")).failed(work, exc)
        elif isinstance(exc, _EXPECTED):
            log.warning("%s: %s", self.name, exc, extra={"error": str(exc)})

    def on_retry(
        self, exc: Exception, task_id: str, args: object, kwargs: dict[str, Any], einfo: object
    ) -> None:
        """Tell if a server is the cause."""
        self.on_failure(exc, task_id, args, kwargs, einfo)

    def on_success(
        self, retval: Json, _: str, args: Sequence[object], kwargs: dict[str, Any]
    ) -> None:
        """Tell what was done, and if the servers did their part."""
        is_of_a_sweep = len(args) > 1 or "token" in kwargs
        known = troubles(kwargs.get("realm", ""))
        is_vain = self._work is Work.SWEEP and known.is_refused(Work.BACKUP)
        note(self.request, retval, self._work, is_of_a_sweep=is_of_a_sweep, is_vain=is_vain)
        for work in _proven(self._work, retval):
            known.succeeded(work)

    @property
    def _work(self) -> Work:
        return _WORK_OF[TaskName(self.name)]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task; if Celery does, its events and log show the result in words."""
        if self.request.called_directly:
            return super().__call__(*args, **kwargs)
        return Told(TaskName(self.name), self.run(*args, **kwargs))


def _proven(work: Work, result: Json) -> Iterator[Work]:
    """Yield the kinds of work for which all servers had to do their part."""
    if work in (Work.SWEEP, Work.SCRUB) or _DONE & {result.get("outcome"), *result}:
        yield work
    if work is Work.SWEEP and result["claimed"]:
        yield Work.CLAIM


@app.task(
    base=_Task, name=TaskName.BACKUP_FULL_STATE.value, bind=True, max_retries=None, throws=_EXPECTED
)
def backup_full_state(
    self: Task[Any, Any], char_id: int, token: int | None = None, *, realm: str = ""
) -> Json:
    """Save one character: ``{"char_id", "outcome", "version", "error", "field"}``.

    With ``token``, the claim that a sweep made for this message, it retries nothing: a character
    that is not saved is dirty again, and the next sweep dispatches it.
    """
    orchestrator = realms().orchestrator(realm)
    if token is None:
        return asdict(_retrying(self, lambda: orchestrator.backup_full_state(char_id)))
    return asdict(orchestrator.backup_claims(read_claims([[char_id, token]]))[0])


@app.task(base=_Task, name=TaskName.BACKUP_BATCH.value, throws=_EXPECTED)
def backup_batch(claims: list[list[int]], *, realm: str = "") -> dict[str, int]:
    """Save characters that a sweep has claimed: ``[[char_id, token], …]``.

    Returns counts by outcome. If a backlog is left, it claims the next batch. If nothing could be
    saved, or PostgreSQL went back, the schedule goes on.
    """
    orchestrator, settings = realms().orchestrator(realm), realms().settings(realm)
    reports = orchestrator.backup_claims(read_claims(claims))
    counts = reports.counts()
    if counts.keys() - {BackupOutcome.RELEASED}:
        catch_up(orchestrator.hot, settings, Outbox(settings).batch)
    return {outcome.value: count for outcome, count in counts.items()}


@app.task(
    base=_Task,
    name=TaskName.RESTORE_FULL_STATE.value,
    bind=True,
    max_retries=None,
    throws=_EXPECTED,
)
def restore_full_state(self: Task[Any, Any], char_id: int, *, realm: str = "") -> Json:
    """Load one character into Redis if it is absent: ``{"char_id", "outcome", "version", …}``."""
    orchestrator = realms().orchestrator(realm)
    return asdict(_retrying(self, lambda: orchestrator.restore_full_state(char_id)))


@app.task(
    base=_Task, name=TaskName.RESTORE_BATCH.value, bind=True, max_retries=None, throws=_EXPECTED
)
def restore_batch(self: Task[Any, Any], char_ids: list[int], *, realm: str = "") -> dict[str, int]:
    """Load characters into Redis if they are absent; return counts by outcome."""
    if not isinstance(char_ids, list):
        raise InvalidInput(f"restore_batch takes a list of ids, not {type(char_ids).__name__}")
    orchestrator = realms().orchestrator(realm)
    reports = _retrying(self, lambda: orchestrator.restore_many(char_ids))
    return _count(report.outcome for report in reports)


@app.task(base=_Task, name=TaskName.SYNC_DIRTY.value, throws=_EXPECTED)
def sync_dirty(*, realm: str = "") -> Json:
    """Sweep all that is dirty now: ``{"requeued", "claimed", "batches", "left", "comparing"}``.

    While PostgreSQL is away it claims nothing: the backlog waits in Redis, and is safe there. While
    everything live is being compared, it sends a message to go on with that. A lost one costs
    time: the schedule goes on as well.
    """
    return _scheduled_sweep(TaskName.SYNC_DIRTY, realm, whole=True)


@app.task(base=_Task, name=TaskName.SYNC_SLICE.value, throws=_EXPECTED)
def sync_slice(*, realm: str = "") -> Json:
    """Sweep what is due by now, as beat asks for all the time; returns as ``sync_dirty`` does."""
    return _scheduled_sweep(TaskName.SYNC_SLICE, realm, whole=False)


def _scheduled_sweep(name: TaskName, realm: str, *, whole: bool) -> Json:
    orchestrator, settings = realms().orchestrator(realm), realms().settings(realm)
    outbox, hot = Outbox(settings), orchestrator.hot
    replies: list[Any] = hot.run_many([hot.commands.heartbeat(), hot.commands.troubles()])
    noted, known = replies
    unwrap(noted)
    if isinstance(known, dict):  # whatever others have put there, a sweep goes on
        troubles(realm).keep(known)
    report = scheduled_sweep(orchestrator, settings, outbox.each, outbox.batch, whole=whole)
    if report.comparing:
        outbox.send(name)
    return asdict(report)


@app.task(base=_Task, name=TaskName.SCRUB.value, throws=_EXPECTED)
def scrub(cursor: int = 0, *, realm: str = "") -> dict[str, int]:
    """Scrub for some seconds from ``cursor`` on, and send a message for the rest.

    Returns ``{"characters", "sessions", "marked", "cursor"}``. A lost message costs this round; the
    schedule starts the next one.
    """
    total: Counter[str] = Counter()
    deadline = time.monotonic() + _SCRUB_STEP_SECONDS
    for page in scrub_pages(realms().orchestrator(realm), read_cursor(cursor)):
        total.update(page.counts())
        cursor = page.cursor
        if time.monotonic() > deadline:
            break
    if cursor:
        Outbox(realms().settings(realm)).send(TaskName.SCRUB, cursor)
    return dict(total) | {"cursor": cursor}


def _count(outcomes: Iterable[StrEnum]) -> dict[str, int]:
    return dict(Counter(outcome.value for outcome in outcomes))


def _retrying(task: Task[Any, Any], work: Callable[[], T]) -> T:
    """Do the work; while a server is away, try again later, with back-off, for as long as it takes.

    The wait is random below a doubling bound ("full jitter", M. Brooker, AWS, 2015).
    """
    try:
        return work()
    except ServerUnavailable as error:
        bound = min(_RETRY_CAP_SECONDS, 2 ** min(task.request.retries + 1, 10))
        # RabbitMQ holds messages back for whole seconds, and none for less than one.
        wait = random.uniform(1, bound)  # noqa: S311
        raise task.retry(exc=error, countdown=wait) from None
