"""Owns how claims that are not used are given back."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from statesync.errors import ServerUnavailable
from statesync.hot.commands.claims import Claim
from statesync.hot.store import HotStore

__all__ = ["release", "requeue"]

log = logging.getLogger(__name__)

_REQUEUE_STEP = 100
"""Small enough that no script holds Redis for more than about a millisecond."""


def release(hot: HotStore, claims: Iterable[Claim]) -> None:
    """Give claims back: characters with unsaved changes are dirty again.

    If Redis is away, this only logs a warning: a sweep takes the claims back when their lease ends.
    """
    given_back = list(claims)
    try:
        replies = hot.run_many([hot.commands.release(claim) for claim in given_back])
        ours = [claim for claim, reply in zip(given_back, replies, strict=True) if reply is True]
        _mark_loaded(hot, [claim.char_id for claim in ours])
    except ServerUnavailable as error:
        log.warning("claims could not be given back, their lease will end: %s", error)


def requeue(hot: HotStore, *, include_unexpired: bool = False) -> int:
    """End some claims whose lease has ended, or any; returns how many.

    Characters with unsaved changes are dirty again. Raises RedisUnavailable.
    """
    ended = hot.requeue(_REQUEUE_STEP, include_unexpired=include_unexpired)
    _mark_loaded(hot, ended.clean)
    return ended.dirty + len(ended.clean)


def _mark_loaded(hot: HotStore, char_ids: Sequence[int]) -> None:
    """Mark those that are loaded and have no mark: a comparison has left them to their claim."""
    hot.run_many([hot.commands.mark_unsaved(char_id) for char_id in char_ids])
