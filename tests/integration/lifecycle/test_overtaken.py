"""A worker that is overtaken, or finds less than it knew: it loses nothing and blames nobody."""

from __future__ import annotations

import gc
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, text

from statesync.durable import database
from statesync.errors import DatabaseUnavailable
from statesync.hot.keys import Keys
from statesync.hot.store import HotStore
from statesync.lifecycle import backup, groups
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.lifecycle.snapshots import Snapshot
from tests.conftest import FullCore
from tests.rewind import Rewind

PARTY = [1, 2]


@pytest.fixture
def saved(orchestrator: GameStateOrchestrator, full_core: FullCore) -> HotStore:
    """Two characters, saved and loaded."""
    for char_id in PARTY:
        orchestrator.hot.create(char_id, **full_core(char_id))
    orchestrator.backup_many(PARTY)
    return orchestrator.hot


def rows(engine: Engine, query: str) -> list[Any]:
    with engine.begin() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def test_other_state_at_the_same_version_is_a_conflict(
    orchestrator: GameStateOrchestrator,
    saved: HotStore,
    rewind: Rewind,
    engine: Engine,
    raw: Any,
    keys: Keys,
) -> None:
    before = rewind.moment()
    raw.hset(keys.core(1), "gold", "1")  # a bare writer raises no version
    raw.sadd(keys.dirty, 1)
    assert orchestrator.backup_full_state(1).outcome == "saved"
    rewind.to(before)
    raw.hset(keys.core(1), "gold", "2")
    raw.sadd(keys.dirty, 1)
    assert orchestrator.backup_full_state(1).outcome == "conflict"
    assert len(rows(engine, "SELECT 1 FROM state_conflicts")) == 1


@pytest.mark.usefixtures("all_as_groups")
def test_late_save_of_one_that_has_logged_out_is_stale(
    orchestrator: GameStateOrchestrator,
    other: GameStateOrchestrator,
    saved: HotStore,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saved.update(1, gold=1)

    def overtaken(name: str) -> None:
        if name == "snapshot":
            monkeypatch.undo()
            saved.update(1, gold=2)
            other.evict(1)

    monkeypatch.setattr(backup, "failpoint", overtaken)
    assert orchestrator.backup_full_state(1).outcome == "stale"
    assert rows(engine, "SELECT extra->>'gold' FROM characters WHERE id = 1") == [("2",)]
    assert rows(engine, "SELECT 1 FROM state_conflicts") == []
    assert saved.sync_state(1) == (False, None, None, None)


def test_core_that_goes_while_its_group_is_looked_for_holds_up_no_other(
    orchestrator: GameStateOrchestrator,
    saved: HotStore,
    raw: Any,
    keys: Keys,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saved.update_together({1: {"gold": 1}, 2: {"gold": 1}})
    commands = orchestrator.hot.commands
    tries = []

    def lost_on_the_way(parts: Any, **options: Any) -> Any:
        tries.append(parts)
        if any({"1", "2"} <= known for _, known in parts):
            raw.delete(keys.core(1))
        return try_snapshots(parts, **options)

    try_snapshots = commands.try_snapshots
    monkeypatch.setattr(commands, "try_snapshots", lost_on_the_way, raising=False)
    reports = orchestrator.backup_many(PARTY)
    assert [r.outcome for r in reports] == ["missing", "saved"]
    assert len(tries) > 1
    assert saved.status().claimed == 0


@pytest.mark.usefixtures("all_as_groups")
def test_lock_that_one_meets_alone_is_no_fault_of_its_own(
    orchestrator: GameStateOrchestrator, saved: HotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved.update(1, gold=1)

    def meets_a_lock(*_: Any, **__: Any) -> Any:
        raise database.Rejected("canceling statement due to lock timeout", locked=True)

    monkeypatch.setattr(groups, "save", meets_a_lock)
    assert orchestrator.backup_full_state(1).outcome == "released"
    state = saved.sync_state(1)
    assert (state.dirty, state.token, state.quarantine) == (True, None, None)


@pytest.mark.usefixtures("all_as_groups")
def test_postgresql_that_goes_for_good_in_a_second_try_is_no_fault_of_a_character(
    orchestrator: GameStateOrchestrator, saved: HotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved.update(1, gold=1)
    pings = []

    def ends_the_connection(connection: Any, *_: Any, **__: Any) -> Any:
        connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")

    def ping(_: Engine) -> None:
        pings.append(1)
        if len(pings) > 1:
            raise DatabaseUnavailable("PostgreSQL is away")

    monkeypatch.setattr(groups, "save", ends_the_connection)
    monkeypatch.setattr(database, "ping", ping)
    with pytest.raises(DatabaseUnavailable):
        orchestrator.backup_full_state(1)
    state = saved.sync_state(1)
    assert (state.dirty, state.token, state.quarantine) == (True, None, None)


@pytest.mark.usefixtures("all_as_groups")
def test_lock_after_a_connection_that_was_lost_is_no_fault(
    orchestrator: GameStateOrchestrator, saved: HotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved.update(1, gold=1)
    tries = []

    def save(connection: Any, *_: Any, **__: Any) -> Any:
        tries.append(1)
        if len(tries) == 1:
            connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")
        raise database.Rejected("canceling statement due to lock timeout", locked=True)

    monkeypatch.setattr(groups, "save", save)
    assert orchestrator.backup_full_state(1).outcome == "released"
    assert len(tries) > 1


@pytest.fixture
def fight(orchestrator: GameStateOrchestrator, saved: HotStore) -> UUID:
    """A fight of the two with a log of four, saved."""
    made = saved.open_session("combat", PARTY, {"round": "1"})
    saved.update_session("combat", made, log=["a", "b", "c", "d"])
    orchestrator.backup_many(PARTY)
    return made


def test_shorter_log_is_compared_from_its_beginning(
    orchestrator: GameStateOrchestrator, fight: UUID, engine: Engine, raw: Any, keys: Keys
) -> None:
    log, session = keys.session_log("combat", str(fight)), keys.session("combat", str(fight))
    raw.delete(log)
    raw.rpush(log, '"a"', '"other"')
    raw.hincrby(session, "version", 9)  # it is ahead, all the same
    raw.sadd(keys.dirty, 1)
    orchestrator.backup_full_state(1)
    assert rows(engine, "SELECT entry FROM combat_log ORDER BY seq") == [("a",), ("other",)]
    states = rows(engine, "SELECT state->'log' FROM state_conflicts ORDER BY id")
    lost = [(one["seq"], one["entry"]) for (entries,) in states for one in entries]
    assert sorted(lost) == [(1, "b"), (2, "c"), (3, "d")]
    owners = rows(engine, "SELECT DISTINCT character_id, version FROM state_conflicts")
    assert owners == rows(engine, "SELECT 1, version FROM sessions"), "whose it was, and when"


def test_backup_whose_claim_is_lost_leaves_nothing_for_the_garbage_collector(
    orchestrator: GameStateOrchestrator, saved: HotStore, full_core: FullCore
) -> None:
    """A traceback would keep the whole batch alive: workers look for garbage once in many."""
    saved.create(3, **full_core(3))
    new, old = (saved.claim(char_id, lease_us=10**8).claim for char_id in (3, 1))
    saved.claim(1, lease_us=10**8)
    gc.collect()
    gc.disable()
    try:
        counts = orchestrator.backup_claims([new, old]).counts()
        left = [one for one in gc.get_objects() if isinstance(one, Snapshot)]
    finally:
        gc.enable()
    assert counts == {"superseded": 1, "saved": 1}
    assert left == []
