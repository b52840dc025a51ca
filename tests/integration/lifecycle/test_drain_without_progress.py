"""A drain that cannot save some characters waits longer each time, and counts them once."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from statesync import GameStateOrchestrator, SessionOrchestrator, Settings
from statesync.hot.store import HotStore
from statesync.lifecycle import sweep
from tests.conftest import FullCore
from tests.registry import registered

ROUNDS = 5


class Raid(SessionOrchestrator):
    """A type that the process that drains does not know."""

    session_type = "raid"
    states = ("raid",)


@pytest.fixture
def raiders(settings: Settings, full_core: FullCore) -> list[int]:
    """Three characters, each in a raid of its own."""
    with registered(Raid), GameStateOrchestrator.from_settings(settings) as newer:
        for char_id in (1, 2, 3):
            newer.hot.create(char_id, **full_core(char_id))
            newer.hot.open_session("raid", [char_id], {"boss": "dragon"}, state="raid")
    return [1, 2, 3]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses of a drain, which ends after a few rounds."""
    seen: list[float] = []

    def monotonic() -> float:
        return time.monotonic() if len(seen) < ROUNDS else math.inf

    monkeypatch.setattr(sweep, "time", SimpleNamespace(sleep=seen.append, monotonic=monotonic))
    return seen


def test_drain_waits_longer_and_counts_characters(
    raiders: list[int],
    hot: HotStore,
    settings: Settings,
    orchestrator: GameStateOrchestrator,
    pauses: list[float],
    full_core: FullCore,
) -> None:
    hot.create(9, **full_core(9))
    report = sweep.drain(orchestrator, settings, 60)
    assert report.outcomes == {"saved": 1, "released": len(raiders)}
    first = sweep._DRAIN_PAUSE_SECONDS
    assert pauses == [first, *(first * 2**i for i in range(ROUNDS - 1))]
    assert report.dirty == len(raiders)


def test_sweep_ends_if_the_number_of_the_pass_is_lost(
    hot: HotStore, raw: Any, settings: Settings
) -> None:
    for char_id in range(1, 600):
        hot.create(char_id)
    raw.hset(hot.keys.sweep, "number", 10**9)
    report = sweep.sweep(
        hot,
        replace(settings, batch_size=1),
        lambda _: None,
        lambda _: raw.delete(hot.keys.sweep),
    )
    assert report.claimed == 599
