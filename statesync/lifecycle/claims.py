"""Owns how claims end: acknowledged, given back, or taken from those whose lease has ended."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from statesync.errors import ServerUnavailable, StatesyncError
from statesync.hot.command import SCRIPT_MEMBERS, Command, packed
from statesync.hot.commands.acknowledge import GroupAck
from statesync.hot.commands.claims import Claim
from statesync.hot.store import HotStore
from statesync.state.fields import listed, printable

__all__ = ["acknowledge", "release", "requeue"]

log = logging.getLogger(__name__)

_REQUEUE_STEP = 50
"""Small enough that no script holds Redis for more than some tenths of a millisecond."""


def acknowledge(
    hot: HotStore, groups: Sequence[GroupAck], counting: Sequence[Command[None]]
) -> None:
    """End the claims on groups that are in PostgreSQL, and count them.

    Of those that Redis refuses this only logs: when their lease ends, they are saved again. Raises
    RedisUnavailable.
    """
    parts = list(packed(groups, GroupAck.size, SCRIPT_MEMBERS))
    commands: list[Command[Any]] = [hot.commands.acknowledge_many(part) for part in parts]
    replies = hot.run_many([*commands, *counting])
    for part, reply in zip(parts, replies, strict=False):
        if isinstance(reply, StatesyncError):
            ids = [char_id for group in part for char_id, _ in group.claims]
            log.error(
                "characters %s are saved, not acknowledged: %s",
                listed(ids),
                printable(reply),
                extra={"char_ids": ids, "error": str(reply)},
            )


def release(hot: HotStore, claims: Iterable[Claim]) -> None:
    """Give claims back: the characters are dirty again, if they are loaded or have unsaved changes.

    If Redis is away, this only logs so: a sweep takes the claims back when their lease ends.
    """
    given_back = list(claims)
    try:
        replies = hot.run_many([hot.commands.release(claim) for claim in given_back])
        ours = [claim for claim, reply in zip(given_back, replies, strict=True) if reply is True]
        _mark_loaded(hot, [claim.char_id for claim in ours])
    except ServerUnavailable as error:
        log.info("claims could not be given back, their lease will end: %s", error)


def requeue(hot: HotStore, *, include_unexpired: bool = False) -> int:
    """End some claims whose lease has ended, or any; returns how many.

    The characters are dirty again, as after ``release``. Raises RedisUnavailable.
    """
    ended = hot.requeue(_REQUEUE_STEP, include_unexpired=include_unexpired)
    _mark_loaded(hot, ended.clean)
    return ended.dirty + len(ended.clean)


def _mark_loaded(hot: HotStore, char_ids: Sequence[int]) -> None:
    """Mark those that are loaded and have no mark: a comparison has left them to their claim."""
    hot.run_many([hot.commands.mark_unsaved(char_id) for char_id in char_ids])
