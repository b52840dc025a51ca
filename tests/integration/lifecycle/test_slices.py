"""A slice of a sweep looks before it claims, and does the rest once in a round."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine

from statesync import Settings
from statesync.durable.receipts import AT_ONCE
from statesync.errors import DatabaseUnavailable
from statesync.hot.commands.claims import Claim
from statesync.hot.keys import Keys
from statesync.lifecycle import servers
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.lifecycle.sweep import SweepReport, scheduled_sweep


@pytest.fixture
def slow(settings: Settings) -> Settings:
    """A round that does not end by itself."""
    return replace(settings, sync_seconds=86_400)


def sweep_slice(orchestrator: GameStateOrchestrator, settings: Settings) -> SweepReport:
    save = orchestrator.backup_claims
    return scheduled_sweep(orchestrator, settings, save, save, whole=False)


def make_all_due(raw: Any, keys: Keys) -> None:
    raw.hset(keys.sweep, "began_ms", 1)


def counted(engine: Engine) -> int:
    with engine.begin() as connection:
        query = "SELECT coalesce(max(sweeps), 0) FROM server_counters"
        return int(connection.exec_driver_sql(query).scalar_one())


def execute(engine: Engine, statement: str) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)


def test_a_slice_counts_once_in_a_round(
    orchestrator: GameStateOrchestrator, slow: Settings, engine: Engine, raw: Any, keys: Keys
) -> None:
    for _ in range(3):
        sweep_slice(orchestrator, slow)
    assert counted(engine) == 1
    raw.hincrby(keys.servers, "counted_ms", -slow.round_ms)
    for _ in range(3):
        sweep_slice(orchestrator, slow)
    assert counted(engine) == 2
    raw.hincrby(keys.servers, "counted_ms", 2 * slow.round_ms)  # the server's clock went back
    sweep_slice(orchestrator, slow)
    assert counted(engine) == 3
    assert orchestrator.hot.status().counters["sweeps"] == 3


def test_a_sweep_of_all_always_counts(
    orchestrator: GameStateOrchestrator, slow: Settings, engine: Engine
) -> None:
    save = orchestrator.backup_claims
    for _ in range(3):
        scheduled_sweep(orchestrator, slow, save, save)
    assert counted(engine) == 3


@pytest.mark.parametrize(
    ("on_redis", "on_postgresql", "found"),
    [
        ({"sweeps": 1}, "", ["redis"]),
        ({}, "UPDATE server_counters SET sweeps = 1", ["postgresql"]),
        ({}, "DELETE FROM server_counters", ["postgresql"]),
        ({}, "UPDATE server_counters SET redis_run_id = 'another'", []),
        ({"postgresql_run_id": "another"}, "", []),
    ],
)
def test_a_slice_sees_at_once_that_a_server_is_not_as_the_other_knows_it(
    orchestrator: GameStateOrchestrator,
    slow: Settings,
    engine: Engine,
    raw: Any,
    keys: Keys,
    on_redis: dict[str, Any],
    on_postgresql: str,
    found: list[str],
) -> None:
    for _ in range(2):
        servers.count_sweep(orchestrator.hot, engine)
    assert not servers.is_count_due(orchestrator.hot, engine, round_ms=slow.round_ms)
    if on_redis:
        raw.hset(keys.servers, mapping=on_redis)
    if on_postgresql:
        execute(engine, on_postgresql)
    assert servers.is_count_due(orchestrator.hot, engine, round_ms=slow.round_ms)
    orchestrator.hot.create(1, state="town")
    make_all_due(raw, keys)
    claims: list[Claim] = []
    scheduled_sweep(orchestrator, slow, claims.extend, claims.extend, whole=False)
    assert [loss.side for loss in servers.losses(orchestrator.hot, engine)] == found
    assert orchestrator.hot.status().claimed == len(claims)
    assert bool(claims) == (found != ["postgresql"]), "what is live is saved first"
    assert not servers.is_count_due(orchestrator.hot, engine, round_ms=slow.round_ms)


def test_a_slice_claims_nothing_while_postgresql_is_away(
    orchestrator: GameStateOrchestrator, slow: Settings, engine: Engine, raw: Any, keys: Keys
) -> None:
    servers.count_sweep(orchestrator.hot, engine)
    orchestrator.hot.create(1, state="town")
    make_all_due(raw, keys)
    away = replace(slow, database_url="postgresql://statesync@127.0.0.1:1/nowhere")
    broken = GameStateOrchestrator.from_settings(away)
    try:
        with pytest.raises(DatabaseUnavailable):
            sweep_slice(broken, slow)
    finally:
        broken.close()
    assert orchestrator.hot.status()[:2] == (1, 0)
    assert sweep_slice(orchestrator, slow).claimed == 1


def test_the_slice_that_counts_deletes_all_old_receipts(
    orchestrator: GameStateOrchestrator, slow: Settings, engine: Engine
) -> None:
    """A minute's receipts are more than one statement deletes."""
    execute(
        engine,
        "INSERT INTO durable_changes (nonce, committed_at) SELECT gen_random_uuid(), "
        f"now() - interval '1 year' FROM generate_series(1, {2 * AT_ONCE + 1})",
    )
    sweep_slice(orchestrator, slow)
    with engine.begin() as connection:
        assert not connection.exec_driver_sql("SELECT count(*) FROM durable_changes").scalar()
