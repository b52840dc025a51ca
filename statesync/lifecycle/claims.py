"""Owns how claims that are not used are given back."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from statesync.errors import ServerUnavailable
from statesync.hot.commands.claims import Claim
from statesync.hot.store import HotStore

__all__ = ["release"]

log = logging.getLogger(__name__)


def release(hot: HotStore, claims: Iterable[Claim]) -> None:
    """Give claims back: their characters are dirty again.

    If Redis is away, this only logs a warning: a sweep takes the claims back when their lease ends.
    """
    try:
        hot.run_many([hot.commands.release(claim) for claim in claims])
    except ServerUnavailable as error:
        log.warning("claims could not be given back, their lease will end: %s", error)
