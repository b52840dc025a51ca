"""At maxmemory what saves and frees works, and what a game adds is refused; on every server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
import redis

from statesync.errors import RedisUnavailable
from tests.integration.hot.test_nothing_half_done import (
    WRITES,
    everything,
    scene,  # noqa: F401 - a fixture
)

if TYPE_CHECKING:
    from statesync.hot.commands.claims import Claim
    from tests.conftest import Driver

CHANGES = ("create", "update", "trade", "restore", "open_session", "update_session", "log")
MEMBERS = ("close_session", "join_session")
PLAY = (*CHANGES, *MEMBERS)


@pytest.fixture
def full(scene: tuple[Driver, Claim]) -> Iterator[tuple[Driver, Claim]]:  # noqa: F811
    """A server whose memory is full."""
    store, _ = scene
    store.raw.script_flush()
    _limit(store.raw, 1)
    yield scene
    _limit(store.raw, 0)


def _limit(raw: Any, maxmemory: int) -> None:
    """Set the limit on every master: after a fail-over a client asks any node, also a replica."""
    masters = {"target_nodes": "primaries"} if isinstance(raw, redis.RedisCluster) else {}
    raw.config_set("maxmemory", maxmemory, **masters)


@pytest.mark.parametrize("name", sorted(WRITES.keys() - {*PLAY, "mark_unsaved"}))
def test_what_saves_and_frees_works(full: tuple[Driver, Claim], name: str) -> None:
    store, claim = full
    before = everything(store)
    WRITES[name](store, claim)
    assert everything(store) != before


def test_what_a_worker_has_given_back_is_marked(full: tuple[Driver, Claim]) -> None:
    store, _ = full
    store.raw.srem(store.keys.dirty, 6)
    assert store.mark_unsaved(6)


@pytest.mark.parametrize("name", PLAY)
def test_what_a_game_adds_is_refused(full: tuple[Driver, Claim], name: str) -> None:
    store, claim = full
    before = everything(store)
    with pytest.raises(RedisUnavailable, match="out of memory"):
        WRITES[name](store, claim)
    assert everything(store) == before
