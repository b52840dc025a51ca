"""Owns the way from the dirty list to tasks: requeue, claim, hand over.

A sweep is safe to run twice, at the same time or after a crash: every step is one atomic script,
and what it claimed but could not hand over comes back when its lease ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from statesync.commands import Claim
from statesync.errors import BrokerUnavailable, ServerUnavailable
from statesync.hot import HotStore
from statesync.settings import Settings

__all__ = ["HandOver", "SweepReport", "sweep"]

HandOver = Callable[[Sequence[Claim]], object]
"""Sends claims to the workers; raises BrokerUnavailable where it cannot."""

_REQUEUE_STEP = 200
_SCAN_STEP = 200
"""Small enough that no script holds Redis for more than about a millisecond."""


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


def sweep(hot: HotStore, settings: Settings, one: HandOver, batch: HandOver) -> SweepReport:
    """Put back expired claims, claim what is dirty, and hand it over.

    A backlog of more than ``batch_above`` goes to ``batch``, ``batch_size`` claims at a time; a
    smaller one to ``one``, claim by claim. Memory does not grow with the backlog. Raises
    RedisUnavailable, or BrokerUnavailable after giving back what was not handed over.
    """
    requeued = 0
    while (moved := hot.requeue(_REQUEUE_STEP)) > 0:
        requeued += moved
    in_batches = hot.status().dirty > settings.batch_above
    size = settings.batch_size if in_batches else 1
    hand_over = batch if in_batches else one
    held: list[Claim] = []
    cursor, claimed, batches = 0, 0, 0
    try:
        while True:
            cursor, new = hot.claim_dirty(
                settings.lease_us, settings.max_in_flight, cursor, _SCAN_STEP
            )
            claimed += len(new)
            held += new
            while len(held) >= size or (held and cursor == 0):
                hand_over(held[:size])
                del held[:size]
                batches += in_batches
            if cursor == 0:
                break
    except BrokerUnavailable:
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
