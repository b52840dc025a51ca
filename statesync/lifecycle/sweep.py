"""Owns the way from the dirty set to the workers: requeue, claim, dispatch; and the drain.

A sweep of the schedule also finds out whether a server went back in time, and settles that. While
PostgreSQL is behind what is live, nothing is claimed: what is live is saved again first.

A sweep is safe to run twice, at the same time or after a crash: every step is one atomic script.
What it has claimed and not dispatched becomes dirty again when its lease ends.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from sqlalchemy import Engine

from statesync import durable
from statesync.durable import database
from statesync.errors import DatabaseWentBack, ServerUnavailable
from statesync.hot.commands.claims import Claim
from statesync.hot.commands.operators import Status
from statesync.hot.store import HotStore
from statesync.lifecycle.claims import release, requeue
from statesync.lifecycle.failpoints import failpoint
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.lifecycle.recover import settle
from statesync.lifecycle.revert import record_dropped
from statesync.lifecycle.servers import count_sweep, is_count_due
from statesync.settings import Settings
from statesync.state.outcomes import BackupOutcome

__all__ = [
    "Dispatch",
    "DrainReport",
    "SweepReport",
    "catch_up",
    "drain",
    "scheduled_sweep",
    "sweep",
]

Dispatch = Callable[[Sequence[Claim]], object]
"""Sends claims to the workers; raises BrokerUnavailable if it cannot."""

_CLAIM_STEP = 80
"""Small enough that no script holds Redis for more than some tenths of a millisecond."""
_LATE_SLICES = 2
"""So many slices late is a backlog: the next slice may only be on its way."""
_DRAIN_PAUSE_SECONDS = 0.05
_DRAIN_PAUSE_CAP_SECONDS = 1.0
_SETTLE_SECONDS = 5.0
"""How long one sweep settles a loss: a worker that stops waits for no more."""
_STILL_SECONDS = 5.0
"""After so long without any progress a drain takes over the claims of other workers."""


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What one sweep did."""

    requeued: int
    """Claims whose lease had ended."""
    claimed: int
    batches: int
    """Messages that carry several claims; 0 if each character got a task of its own."""
    left: int
    """Still dirty: not due yet, in flight already, or more than may be in flight."""
    comparing: bool = False
    """Whether everything live is being compared, and the next sweep should go on at once."""


def scheduled_sweep(
    orchestrator: GameStateOrchestrator,
    settings: Settings,
    one: Dispatch,
    batch: Dispatch,
    *,
    whole: bool = True,
) -> SweepReport:
    """Do what the schedule asks for: find out whether a server went back, sweep, settle a loss.

    A slice only looks whether the servers remember each other; one of a round counts, as every
    sweep of all does. Then it also records what reverts took out of play and could not record, and
    deletes old receipts.

    Raises ServerUnavailable; if that is PostgreSQL, nothing is claimed.
    """
    hot, engine = orchestrator.hot, orchestrator.engine
    counts = whole or is_count_due(hot, engine, round_ms=settings.round_ms)
    if counts:
        count_sweep(hot, engine)
    status = hot.status()
    report = SweepReport(0, 0, 0, status.dirty)
    if not status.recovering:
        report = _sweep(hot, settings, one, batch, status, whole=whole)
    if counts:
        hot.count({"sweeps": 1})
        record_dropped(hot, engine)  # of workers that died after a revert
        _purge_receipts(engine)
    if not status.comparing:
        return report
    goes_on = settle(orchestrator, lease_us=settings.lease_us, seconds=_SETTLE_SECONDS)
    return replace(report, comparing=goes_on)


def sweep(
    hot: HotStore, settings: Settings, one: Dispatch, batch: Dispatch, *, whole: bool = True
) -> SweepReport:
    """Make characters with expired claims dirty again, claim dirty characters, and dispatch them.

    Claims everything that is dirty, or without ``whole`` a slice of it: what is due by now, so that
    all of it comes once in an interval. A backlog of more than ``batch_above`` goes to ``batch``,
    up to ``batch_size`` claims at a time; a smaller one goes to ``one``, claim by claim. Memory
    does not grow with the backlog. Raises DatabaseWentBack, RedisUnavailable, or BrokerUnavailable
    after giving back what was not dispatched.
    """
    report = _sweep(hot, settings, one, batch, hot.status(), whole=whole)
    hot.count({"sweeps": 1})
    return report


def _purge_receipts(engine: Engine) -> None:
    """Delete old receipts; what is left after some seconds, the next round deletes."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    is_done = False
    while not is_done and time.monotonic() < deadline:
        with database.transaction(engine) as connection:
            is_done = durable.receipts.purge(connection) < durable.receipts.AT_ONCE


def catch_up(hot: HotStore, settings: Settings, batch: Dispatch) -> None:
    """Claim and dispatch one batch of what a slice should have claimed before this: a backlog.

    A worker does it at the end of each batch, so a backlog drains at the speed of the workers and
    not of the schedule. Where batches were lost, so that less than half of what may be in flight
    is, it takes two. If PostgreSQL went back, nothing. Raises as ``sweep`` does.
    """
    status = hot.status()
    if status.recovering:
        return
    late_ms = round(1000 * _LATE_SLICES * settings.slice_seconds)
    size = settings.batch_size
    most = size if 2 * status.claimed >= settings.max_in_flight else 2 * size
    claimed, _ = _claim_and_dispatch(hot, settings, batch, size, late_ms=late_ms, most=most)
    if claimed:
        hot.count({"claimed": claimed})


def _sweep(
    hot: HotStore,
    settings: Settings,
    one: Dispatch,
    batch: Dispatch,
    status: Status,
    *,
    whole: bool,
) -> SweepReport:
    """Sweep once, as ``sweep`` does, and count what is claimed and requeued."""
    if status.recovering:
        raise DatabaseWentBack
    requeued = 0
    while status.expired and (ended := requeue(hot)):
        requeued += ended
        status = hot.status()
    in_batches = status.dirty > settings.batch_above
    dispatch, size = (batch, settings.batch_size) if in_batches else (one, 1)
    claimed, messages = _claim_and_dispatch(hot, settings, dispatch, size, whole=whole)
    if claimed or requeued:
        hot.count({"claimed": claimed, "requeued": requeued})
        status = hot.status()
    return SweepReport(requeued, claimed, messages if in_batches else 0, status.dirty)


def _claim_and_dispatch(
    hot: HotStore,
    settings: Settings,
    dispatch: Dispatch,
    size: int,
    *,
    whole: bool = False,
    late_ms: int = 0,
    most: int = sys.maxsize,
) -> tuple[int, int]:
    """Claim every character that is due now, up to ``most``, and dispatch ``size`` at a time.

    Returns how many claims and how many dispatches these were.
    """
    undispatched: list[Claim] = []
    claimed, dispatched = 0, 0
    goes_on = is_first = True
    try:
        while goes_on:
            step = hot.claim_dirty(
                lease_us=settings.lease_us,
                max_in_flight=settings.max_in_flight,
                count=min(_CLAIM_STEP, most - claimed),
                round_ms=settings.round_ms,
                late_ms=late_ms,
                whole=whole,
                goes_on=not is_first,  # what is marked from now on comes in its turn
            )
            claimed += len(step.claims)
            goes_on, is_first = step.goes_on and claimed < most, False
            undispatched += step.claims
            failpoint("swept")
            while len(undispatched) >= size or (undispatched and not goes_on):
                dispatch(undispatched[:size])
                del undispatched[:size]
                dispatched += 1
    except BaseException:  # whatever ends it, no claim has to wait for its lease
        release(hot, undispatched)
        raise
    return claimed, dispatched


@dataclass(frozen=True, slots=True)
class DrainReport:
    """What a drain saved, by outcome, and what is left."""

    outcomes: dict[BackupOutcome, int]
    dirty: int
    claimed: int
    """Claimed by workers that have not acknowledged yet."""
    quarantined: int
    """Cannot be saved until an operator repairs them."""

    @property
    def complete(self) -> bool:
        """Whether nothing is left."""
        return not self.dirty and not self.claimed


def drain(
    orchestrator: GameStateOrchestrator,
    settings: Settings,
    timeout: float,
    progress: Callable[[Status], object] = lambda _: None,
) -> DrainReport:
    """Save everything that is dirty, here and now, without the broker.

    Waits for claims of workers, and takes over those that stand still: their worker is gone, or
    their message waits for one. Ends when nothing is left, or after ``timeout`` seconds with the
    batch under way. If a server is away then, raises its ServerUnavailable.
    """
    return _Drain(orchestrator, settings, timeout, progress).run()


class _Drain:
    """A drain under way."""

    def __init__(
        self,
        orchestrator: GameStateOrchestrator,
        settings: Settings,
        timeout: float,
        progress: Callable[[Status], object],
    ) -> None:
        self.orchestrator = orchestrator
        self.hot = orchestrator.hot
        self.settings = replace(settings, batch_above=0)  # everything in batches
        self.progress = progress
        self.deadline = time.monotonic() + timeout
        self.outcomes: Counter[BackupOutcome] = Counter()
        self.of_round: Counter[BackupOutcome] = Counter()
        self.released: set[int] = set()
        """Characters that could not be saved at the last try, and are dirty again."""
        self.claimed = 0
        self.progress_at = time.monotonic()

    def run(self) -> DrainReport:
        """Sweep and save until nothing is left or the time is up."""
        pause = _DRAIN_PAUSE_SECONDS
        while True:
            try:
                status = self.sweep_once()
            except ServerUnavailable:
                if time.monotonic() > self.deadline:
                    raise
                goes_on = False
            else:
                if time.monotonic() > self.deadline or not (status.dirty or status.claimed):
                    return self.report(status)
                goes_on = self.of_round.keys() != {BackupOutcome.RELEASED}
            time.sleep(pause)
            pause = _DRAIN_PAUSE_SECONDS if goes_on else min(2 * pause, _DRAIN_PAUSE_CAP_SECONDS)

    def report(self, status: Status) -> DrainReport:
        """Return what was saved; who was released time and again counts once."""
        outcomes = dict(self.outcomes)
        if self.released:
            outcomes[BackupOutcome.RELEASED] = len(self.released)
        return DrainReport(outcomes, status.dirty, status.claimed, status.quarantined)

    def sweep_once(self) -> Status:
        """Claim and save what is dirty; take over the claims of others if they stand still."""
        self.of_round.clear()
        with suppress(_TimeIsUp):
            _sweep(self.hot, self.settings, self.save, self.save, self.hot.status(), whole=True)
        status = self.hot.status()
        self.progress(status)
        # What is dirty again while another holds its claim stays so: it is no progress.
        if status.claimed != self.claimed or self.of_round.keys() - {BackupOutcome.RELEASED}:
            self.claimed, self.progress_at = status.claimed, time.monotonic()
        elif status.claimed and time.monotonic() > self.progress_at + _STILL_SECONDS:
            requeue(self.hot, include_unexpired=True)
        return status

    def save(self, claims: Sequence[Claim]) -> None:
        """Save one batch. Raises _TimeIsUp if it was the last one in time."""
        reports = self.orchestrator.backup_claims(claims)
        counts = reports.counts()
        self.of_round += counts
        self.released.difference_update(claim.char_id for claim in claims)
        if counts.pop(BackupOutcome.RELEASED, 0):
            left = (r.char_id for r in reports if r.outcome is BackupOutcome.RELEASED)
            self.released.update(left)
        self.outcomes += counts
        self.progress(self.hot.status())
        if time.monotonic() > self.deadline:
            raise _TimeIsUp


class _TimeIsUp(Exception):
    """The drain ends; what it has claimed and not saved is dirty again."""
