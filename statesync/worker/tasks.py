"""Owns the tasks: what each takes, gives and does when a server is away. The work is elsewhere.

A message is a hint: lost, late or doubled, it costs time and never data.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from celery import Task
from celery.utils.log import get_task_logger
from kombu.exceptions import OperationalError

from statesync.durable import database
from statesync.errors import BrokerUnavailable, InvalidInput, ServerUnavailable, StatesyncError
from statesync.hot.commands.claims import Claim
from statesync.lifecycle.scrub import PAUSE_SECONDS, scrub_page
from statesync.lifecycle.sweep import sweep
from statesync.worker.app import app, orchestrator, settings

__all__ = [
    "backup_batch",
    "backup_full_state",
    "restore_batch",
    "restore_full_state",
    "scrub",
    "sync_dirty",
]

log = get_task_logger(__name__)
T = TypeVar("T")
Json = dict[str, Any]

_RETRY_CAP_SECONDS = 60
_SCRUB_STEP_SECONDS = 5.0
"""How long one message of a scrub works: a worker that is told to stop has not to wait for all."""
_EXPECTED = (StatesyncError,)
"""What a worker logs in one line, without a traceback."""


def _retrying(task: Task[Any, Any], work: Callable[[], T]) -> T:
    """Do the work; where a server is away, try again later, with back-off, for as long as it takes.

    The wait is random below a doubling bound ("full jitter", M. Brooker, AWS, 2015).
    """
    try:
        return work()
    except ServerUnavailable as error:
        bound = min(_RETRY_CAP_SECONDS, 2 ** min(task.request.retries, 10))
        wait = random.uniform(0.1, bound)  # noqa: S311
        log.warning("%s: next try in %.1f s", error, wait)
        raise task.retry(exc=error, countdown=wait) from None


@app.task(name="statesync.backup_full_state", bind=True, max_retries=None, throws=_EXPECTED)
def backup_full_state(self: Task[Any, Any], char_id: int, token: int | None = None) -> Json:
    """Save one character: ``{"char_id", "outcome", "version", "error", "field"}``.

    With ``token``, the claim that a sweep made for this message; then nothing is retried, for
    what was not saved is dirty again and the next sweep takes it.
    """
    if token is None:
        return _retrying(self, lambda: asdict(orchestrator().backup_full_state(char_id)))
    return asdict(orchestrator().backup_claims(_claims([[char_id, token]]))[0])


@app.task(name="statesync.backup_batch", throws=_EXPECTED)
def backup_batch(claims: list[list[int]]) -> dict[str, int]:
    """Save characters that a sweep has claimed, given as ``[[char_id, token], …]``.

    Returns counts by outcome. Where a backlog is left, the next batch is claimed and handed over,
    so that it drains at the speed of the workers and not of the schedule.
    """
    reports = orchestrator().backup_claims(_claims(claims))
    if orchestrator().hot.status().dirty > settings().batch_above:
        _sweep()
    return dict(Counter(report.outcome for report in reports))


@app.task(name="statesync.restore_full_state", bind=True, max_retries=None, throws=_EXPECTED)
def restore_full_state(self: Task[Any, Any], char_id: int) -> Json:
    """Load one character into Redis where it is absent: ``{"char_id", "outcome", "version"}``."""
    return _retrying(self, lambda: asdict(orchestrator().restore_full_state(char_id)))


@app.task(name="statesync.restore_batch", bind=True, max_retries=None, throws=_EXPECTED)
def restore_batch(self: Task[Any, Any], char_ids: list[int]) -> dict[str, int]:
    """Load characters into Redis where they are absent; returns counts by outcome."""
    if not isinstance(char_ids, list):
        raise InvalidInput(f"restore_batch takes a list of ids, not {type(char_ids).__name__}")
    reports = _retrying(self, lambda: orchestrator().restore_many(char_ids))
    return dict(Counter(report.outcome for report in reports))


@app.task(name="statesync.sync_dirty", throws=_EXPECTED)
def sync_dirty() -> dict[str, int]:
    """Sweep the dirty list once: ``{"requeued", "claimed", "batches", "left"}``.

    Where PostgreSQL is away nothing is claimed: the backlog waits in Redis, where it is safe.
    """
    orchestrator().hot.heartbeat()
    database.ping(orchestrator().engine)
    return _sweep()


@app.task(name="statesync.scrub", throws=_EXPECTED)
def scrub(cursor: int = 0) -> dict[str, int]:
    """Mark what is unsaved without a mark, for some seconds from ``cursor`` on, and hand the rest
    over to the next message: ``{"characters", "sessions", "marked", "cursor"}``.

    A message that is lost costs this round; the schedule starts the next one.
    """
    if type(cursor) is not int or not 0 <= cursor < 2**64:
        raise InvalidInput("cursor must be an integer from 0 to 2^64-1")
    done: Counter[str] = Counter()
    end = time.monotonic() + _SCRUB_STEP_SECONDS
    while True:
        page = scrub_page(orchestrator(), cursor)
        done.update(characters=page.characters, sessions=page.sessions, marked=page.marked)
        cursor = page.cursor
        if cursor == 0 or time.monotonic() > end:
            break
        time.sleep(PAUSE_SECONDS)
    if cursor:
        _send(scrub, cursor)
    return dict(done) | {"cursor": cursor}


def _sweep() -> dict[str, int]:
    return asdict(sweep(orchestrator().hot, settings(), _dispatch_one, _dispatch_batch))


def _dispatch_one(claims: Sequence[Claim]) -> None:
    for claim in claims:
        _send(backup_full_state, claim.char_id, claim.token)


def _dispatch_batch(claims: Sequence[Claim]) -> None:
    _send(backup_batch, [list(claim) for claim in claims])


def _send(task: Task[Any, Any], *args: Any) -> None:
    try:
        task.apply_async(args, expires=settings().lease_seconds, ignore_result=True)
    except OperationalError as error:
        raise BrokerUnavailable(f"the broker: {error}") from None


def _claims(pairs: Sequence[Sequence[int]]) -> list[Claim]:
    try:
        claims = [Claim(char_id, token) for char_id, token in pairs]
    except (TypeError, ValueError):
        claims = [Claim(0, 0)]
    if not all(type(part) is int and 0 < part < 2**63 for claim in claims for part in claim):
        raise InvalidInput("claims are a list of [char_id, token], two positive integers each")
    return claims
