"""What a bare writer has made is laid over its row only by a Redis that has not gone back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, event

from statesync.hot.keys import Keys
from statesync.lifecycle import conflicts, servers
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from tests.conftest import FullCore
from tests.integration.lifecycle.test_backup import once, row, scalar
from tests.rewind import Moment, Rewind, lost_cores, recorded

Write = Callable[[str], None]
AfterTheCount = Callable[[Callable[[], object]], None]


@pytest.fixture
def write(orchestrator: GameStateOrchestrator, full_core: FullCore, raw: Any, keys: Keys) -> Write:
    """Write the xp of a character that is saved and not loaded, and mark it, as a game may."""
    orchestrator.hot.create(1, **full_core(gold="10"))
    orchestrator.evict(1)

    def do(xp: str) -> None:
        raw.hset(keys.core(1), "xp", xp)
        raw.sadd(keys.dirty, 1)

    return do


@pytest.fixture
def after_the_count(monkeypatch: pytest.MonkeyPatch) -> AfterTheCount:
    """Have something happen between the count of a sweep and the script that lays a stump."""

    def do(hook: Callable[[], object]) -> None:
        def count_first(*args: Any) -> int | None:
            monkeypatch.undo()
            counted = servers.count_sweep(*args)
            hook()
            return counted

        monkeypatch.setattr(conflicts, "count_sweep", count_first)

    return do


def assert_kept(engine: Engine, *, lost: str) -> None:
    """The row has the later xp; what Redis had gone back to is recorded."""
    assert row(engine)["extra"]["xp"] == "2"
    assert [core["xp"] for _, core in lost_cores(engine)] == [lost]


def test_redis_that_goes_back_between_the_count_and_the_laying(
    orchestrator: GameStateOrchestrator,
    other: GameStateOrchestrator,
    engine: Engine,
    rewind: Rewind,
    write: Write,
    after_the_count: AfterTheCount,
) -> None:
    """A worker is slow from its snapshot on; another one saves more; then Redis forgets that."""

    def be_faster() -> None:
        at_the_snapshot = rewind.moment()
        write("2")
        assert other.backup_full_state(1).outcome == "saved"
        after_the_count(lambda: rewind.to(at_the_snapshot))

    write("1")
    once(orchestrator.engine, "begin", be_faster)
    assert orchestrator.backup_full_state(1).outcome == "conflict"
    assert_kept(engine, lost="1")


def test_redis_that_goes_back_between_the_laying_and_the_next_save(
    orchestrator: GameStateOrchestrator,
    engine: Engine,
    rewind: Rewind,
    write: Write,
    after_the_count: AfterTheCount,
) -> None:
    moments: list[Moment] = []
    after_the_count(lambda: moments.append(rewind.moment()))
    write("1")
    assert orchestrator.backup_full_state(1).outcome == "saved"
    write("2")
    assert orchestrator.backup_full_state(1).outcome == "saved"
    rewind.to(moments[0])
    assert orchestrator.backup_full_state(1).outcome == "conflict"
    assert_kept(engine, lost="1")


def test_laying_is_remembered_also_if_the_row_says_the_same(
    orchestrator: GameStateOrchestrator,
    engine: Engine,
    rewind: Rewind,
    write: Write,
    after_the_count: AfterTheCount,
) -> None:
    write("1")
    orchestrator.evict(1)
    moments: list[Moment] = []
    after_the_count(lambda: moments.append(rewind.moment()))
    write("1")
    assert orchestrator.backup_full_state(1).outcome == "unchanged"
    write("2")
    assert orchestrator.backup_full_state(1).outcome == "saved"
    rewind.to(moments[0])
    assert orchestrator.backup_full_state(1).outcome == "conflict"
    assert_kept(engine, lost="1")


def test_laying_is_no_loss_at_the_next_sweep(
    orchestrator: GameStateOrchestrator, engine: Engine, write: Write, raw: Any, keys: Keys
) -> None:
    for xp in ("1", "2"):
        write(xp)
        assert orchestrator.backup_full_state(1).outcome == "saved"
        assert servers.count_sweep(orchestrator.hot, engine)
        orchestrator.evict(1)
    remembered = scalar(engine, "SELECT redis_sweeps FROM server_counters")
    assert raw.hget(keys.servers, "sweeps") == str(remembered).encode()
    assert not orchestrator.hot.status().settling
    assert recorded(engine) == []


def test_slow_save_of_what_is_laid_does_not_lower_the_memory(
    orchestrator: GameStateOrchestrator, engine: Engine, write: Write, raw: Any, keys: Keys
) -> None:
    """Others count sweeps between its snapshot and its commit."""
    counted: list[int | None] = []

    def count_more(_: object) -> None:
        if not counted and raw.hget(keys.seals, 1).startswith(b"laid"):
            counted.extend(servers.count_sweep(orchestrator.hot, engine) for _ in range(3))

    write("1")
    event.listen(orchestrator.engine, "begin", count_more)
    assert orchestrator.backup_full_state(1).outcome == "saved"
    assert len(counted) == 3
    remembered = scalar(engine, "SELECT redis_sweeps FROM server_counters")
    assert raw.hget(keys.servers, "sweeps") == str(remembered).encode()
