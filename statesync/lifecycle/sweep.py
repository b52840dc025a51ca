"""Owns the way from the dirty list to tasks: requeue, claim, hand over.

A sweep is safe to run twice, at the same time or after a crash: every step is one atomic script,
and what it claimed but could not hand over comes back when its lease ends.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from statesync.errors import ServerUnavailable
from statesync.hot.commands.claims import Claim
from statesync.hot.commands.operators import Status
from statesync.hot.store import HotStore
from statesync.lifecycle.failpoints import failpoint
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.settings import Settings

__all__ = ["Dispatch", "DrainReport", "SweepReport", "drain", "sweep"]

Dispatch = Callable[[Sequence[Claim]], object]
"""Sends claims to the workers; raises BrokerUnavailable where it cannot."""

_REQUEUE_STEP = 100
_SCAN_STEP = 100
"""Small enough that no script holds Redis for more than about a millisecond."""
_STILL_SECONDS = 5.0
"""After so long without any progress a drain takes over what others have claimed."""


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What one sweep did."""

    requeued: int
    """Claims whose lease had ended."""
    claimed: int
    batches: int
    """Messages that carry several claims; 0 where each character got a task of its own."""
    left: int
    """Still dirty: in flight already, or above what may be in flight."""


def sweep(hot: HotStore, settings: Settings, one: Dispatch, batch: Dispatch) -> SweepReport:
    """Put back expired claims, claim what is dirty, and hand it over.

    A backlog of more than ``batch_above`` goes to ``batch``, ``batch_size`` claims at a time; a
    smaller one to ``one``, claim by claim. Memory does not grow with the backlog. Raises
    RedisUnavailable, or BrokerUnavailable after giving back what was not handed over.
    """
    requeued = 0
    while (moved := hot.requeue(_REQUEUE_STEP)) > 0:
        requeued += moved
    before = hot.status()
    in_batches = before.dirty > settings.batch_above
    most = settings.max_in_flight
    if before.dirty + before.claimed > most:
        # Of what does not fit now, leave so much that a batch goes on with it, or nothing.
        most = max(settings.batch_size, most - settings.batch_above)
    size = settings.batch_size if in_batches else 1
    dispatch = batch if in_batches else one
    held: list[Claim] = []
    claimed, batches = 0, 0
    last, ended = None, False
    try:
        while not ended:
            step = hot.claim_dirty(lease_us=settings.lease_us, max_in_flight=most, count=_SCAN_STEP)
            last = last or step.last
            ended = step.passes is None or step.passes >= last
            claimed += len(step.claims)
            held += step.claims
            failpoint("swept")
            while len(held) >= size or (held and ended):
                dispatch(held[:size])
                del held[:size]
                batches += in_batches
    except BaseException:  # whatever it is, nobody has to wait for the leases
        _release(hot, held)
        raise
    left = hot.status().dirty
    hot.count({"sweeps": 1, "claimed": claimed, "requeued": requeued})
    return SweepReport(requeued, claimed, batches, left)


def _release(hot: HotStore, held: Sequence[Claim]) -> None:
    try:
        hot.run_many([hot.commands.release(claim) for claim in held])
    except ServerUnavailable:
        return  # their lease brings them back


@dataclass(frozen=True, slots=True)
class DrainReport:
    """What a drain saved, by outcome, and what is left."""

    outcomes: dict[str, int]
    dirty: int
    claimed: int
    """Held by workers that have not acknowledged yet."""
    quarantined: int
    """Cannot be saved until somebody repairs them."""

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

    Waits for claims that workers hold, and takes over those that stand still: their worker is gone,
    or their message waits for one. Ends when nothing is left, or with the batch under way after
    ``timeout`` seconds; raises the last ServerUnavailable where a server was away until then.
    """
    outcomes: Counter[str] = Counter()

    def save(claims: Sequence[Claim]) -> None:
        reports = orchestrator.backup_claims(claims)
        outcomes.update(report.outcome for report in reports)
        progress(hot.status())
        if time.monotonic() > deadline:
            raise _TimeIsUp

    hot = orchestrator.hot
    all_in_batches = replace(settings, batch_above=0)
    deadline = time.monotonic() + timeout
    pause = 0.05
    claimed, moved_at = 0, time.monotonic()
    while True:
        failed: ServerUnavailable | None = None
        try:
            with suppress(_TimeIsUp):
                sweep(hot, all_in_batches, save, save)
            status = hot.status()
            progress(status)
            if not status.dirty and not status.claimed:
                break
            if status.dirty or status.claimed != claimed:
                claimed, moved_at = status.claimed, time.monotonic()
            elif time.monotonic() > moved_at + _STILL_SECONDS:
                hot.requeue(_REQUEUE_STEP, include_unexpired=True)
        except ServerUnavailable as error:
            failed = error
        if time.monotonic() > deadline:
            if failed:
                raise failed
            break
        time.sleep(pause)
        pause = min(pause * 2, 1.0) if failed else 0.05
    return DrainReport(dict(outcomes), status.dirty, status.claimed, status.quarantined)


class _TimeIsUp(Exception):
    """A drain is to end; what it has claimed and not saved goes back."""
