"""Owns what a backup does about a thing that is in the sessions of two characters.

The other character joins the group, so that both are seen at one instant. If only one of them holds
the thing then, it is a transfer. If both do, both are set aside, each with the other's name.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from statesync.errors import CorruptState, StatesyncError
from statesync.hot.members import MAX_TIED
from statesync.hot.store import HotStore
from statesync.lifecycle.snapshots import Snapshot
from statesync.sessions.base import HeldElsewhere

__all__ = ["holders_to_join", "reasons_for_both", "tie_holders"]

log = logging.getLogger(__name__)


def _held(snapshot: Snapshot) -> Iterable[HeldElsewhere]:
    return snapshot.result.held if snapshot.result else ()


def holders_to_join(snapshot: Snapshot) -> set[int]:
    """Return the characters to be seen at one instant with a group, since they hold its things."""
    return {held.other_id for held in _held(snapshot)} - snapshot.raw.cores.keys()


def reasons_for_both(snapshot: Snapshot) -> dict[int, CorruptState]:
    """Return why not for each character of a group that holds the same thing as another of it."""
    reasons: dict[int, CorruptState] = {}
    for held in _held(snapshot):
        if held.other_id in snapshot.characters:
            for char_id, other_id in (held[:2], held[1::-1]):
                reason = f"{held.thing} of character {other_id}"
                reasons.setdefault(char_id, CorruptState(char_id, held.field, reason))
        elif held.other_id in snapshot.absent and not held.is_live:
            reason = f"{held.thing} of character {held.other_id}, which is not loaded"
            reasons.setdefault(held.char_id, CorruptState(held.char_id, held.field, reason))
    return reasons


def tie_holders(hot: HotStore, snapshot: Snapshot) -> None:
    """Tie the characters that hold the same thing, so that they are saved together from now on.

    When one drops it, the other one is saved as its owner. Those that are tied already stay so.
    """
    pairs = {tuple(sorted(held[:2])) for held in _held(snapshot)}
    tied = [set(entries) for entries in snapshot.raw.ties.values()]
    new = [
        pair
        for pair in pairs
        if snapshot.characters.keys() >= set(pair)
        and not any({*map(str, pair)} <= names for names in tied)
    ]
    if len(snapshot.members()) > MAX_TIED:
        return
    ties = [hot.commands.update_together({char_id: {} for char_id in pair}) for pair in new]
    for pair, reply in zip(new, hot.run_many(ties), strict=True):
        if isinstance(reply, StatesyncError):
            log.warning("characters %d and %d are not tied: %s", *pair, reply)
