"""Both servers go back: what neither side holds whole is set aside, and never reverted."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine

from statesync import Together, durable
from statesync.errors import DatabaseUnavailable, DatabaseWentBack
from statesync.lifecycle import recover, servers
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from tests.conftest import FullCore
from tests.rewind import Rewind, recorded

LEASE_US = 60_000_000
PAIR = [1, 2]


@pytest.fixture
def torn(
    orchestrator: GameStateOrchestrator, full_core: FullCore, raw: Any, rewind: Rewind
) -> GameStateOrchestrator:
    """A trade; PostgreSQL is put back to before it; one of the two is saved again; then Redis goes
    back to when both were tied and not saved yet, and forgets that PostgreSQL was recovered.
    """
    hot, engine = orchestrator.hot, orchestrator.engine
    for char_id in PAIR:
        hot.create(char_id, **full_core(char_id, gold="100"))
    orchestrator.backup_many(PAIR)
    for _ in range(3):
        servers.count_sweep(hot, engine)
    backup = rows(engine)
    hot.update_together(Together().update(1, gold=0).update(2, gold=200))
    before = rewind.moment()
    orchestrator.backup_many(PAIR)
    servers.count_sweep(hot, engine)
    put_back(engine, backup)
    servers.count_sweep(hot, engine)
    assert hot.status().recovering
    assert orchestrator.backup_full_state(1).outcome == "saved"
    assert gold(engine) == ["0", "100"]
    rewind.to(before)
    assert not hot.status().recovering
    return orchestrator


def rows(engine: Engine) -> list[tuple[Any, ...]]:
    with engine.begin() as connection:
        found = connection.exec_driver_sql("SELECT id, version, seal, seal_version FROM characters")
        return [tuple(row) for row in found]


def put_back(engine: Engine, backup: list[tuple[Any, ...]]) -> None:
    """Put PostgreSQL back to before the trade."""
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE server_counters SET sweeps = sweeps - 2")
        for char_id, version, seal, seal_version in backup:
            connection.exec_driver_sql(
                "UPDATE characters SET version = %s, seal = %s, seal_version = %s,"
                " extra = jsonb_set(extra, '{gold}', '\"100\"') WHERE id = %s",
                (version, seal, seal_version, char_id),
            )


def gold(engine: Engine) -> list[str]:
    with engine.begin() as connection:
        found = connection.exec_driver_sql("SELECT extra ->> 'gold' FROM characters ORDER BY id")
        return list(found.scalars())


def assert_set_aside(game: GameStateOrchestrator) -> None:
    """Nothing live is touched, and both are quarantined with the reason."""
    assert [game.hot.get(char_id).fields["gold"] for char_id in PAIR] == ["0", "200"]
    _, found = game.hot.list_quarantine()
    assert sorted(one.name for one in found) == ["1", "2"]
    assert all("both servers went back" in one.error for one in found)
    assert recorded(game.engine) == []
    both, postgresql = servers.losses(game.hot, game.engine)
    assert (both.side, postgresql.side) == ("both", "postgresql")
    assert (both.quarantined, both.reverted) == (2, 0)
    assert both.recovered_at
    assert postgresql.recovered_at
    assert not game.hot.status().recovering


def test_a_sweep_finds_the_recovery_that_redis_has_forgotten(
    torn: GameStateOrchestrator,
) -> None:
    recover.recover(torn, lease_us=LEASE_US)
    assert_set_aside(torn)
    assert torn.hot.status().counters["redis_went_back"] == 1


def test_a_backup_finds_the_recovery_that_redis_has_forgotten(
    torn: GameStateOrchestrator, engine: Engine
) -> None:
    with engine.begin() as connection:  # as if the tail that is lost held no sweep
        connection.exec_driver_sql("UPDATE server_counters SET redis_sweeps = 1")
    with pytest.raises(DatabaseWentBack):
        torn.backup_many(PAIR)
    assert torn.hot.status()[6:] == (True, True, True)
    recover.recover(torn, lease_us=LEASE_US)
    assert_set_aside(torn)


def test_a_redis_that_has_started_is_asked_whether_it_has_forgotten_the_recovery(
    torn: GameStateOrchestrator, engine: Engine
) -> None:
    hot = torn.hot
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE server_counters SET redis_run_id = 'before', redis_sweeps = 1"
        )
    servers.count_sweep(hot, engine)
    assert hot.status()[6:] == (True, True, True)
    assert servers.losses(hot, engine)[0].side == "both"


def test_a_recovery_that_is_over_is_not_begun_anew_by_a_redis_that_went_back(
    torn: GameStateOrchestrator, engine: Engine, raw: Any
) -> None:
    hot = torn.hot
    recover.recover(torn, lease_us=LEASE_US)
    raw.hset(hot.keys.servers, mapping={"recovering": 1, "sweeps": 1})
    servers.count_sweep(hot, engine)
    assert hot.status()[6:] == (True, True, False)
    assert servers.losses(hot, engine)[0].side == "redis"


def test_a_redis_that_has_started_in_a_recovery_goes_on_with_it(
    orchestrator: GameStateOrchestrator, engine: Engine
) -> None:
    hot = orchestrator.hot
    servers.count_sweep(hot, engine)
    servers.note_postgresql_went_back(hot, engine, [1])
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE server_counters SET redis_run_id = 'before'")
    servers.count_sweep(hot, engine)
    assert hot.status()[6:] == (True, False, True)
    assert [loss.side for loss in servers.losses(hot, engine)] == ["postgresql"]


def test_a_sweep_that_dies_leaves_the_forgotten_recovery_to_the_next(
    torn: GameStateOrchestrator, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise DatabaseUnavailable("gone")

    with engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE server_counters SET redis_run_id = 'before', redis_sweeps = 1"
        )
    with monkeypatch.context() as patched:
        patched.setattr(durable.servers, "count", fail)
        with pytest.raises(DatabaseUnavailable):
            servers.count_sweep(torn.hot, engine)
    servers.count_sweep(torn.hot, engine)
    assert [loss.side for loss in servers.losses(torn.hot, engine)] == ["both", "postgresql"]
