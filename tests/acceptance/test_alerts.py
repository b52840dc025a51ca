"""Alerts fire in the real situations: on real servers, by what `/metrics` gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from statesync import GameStateOrchestrator, Settings
from statesync.hot.store import HotStore
from statesync.lifecycle.sweep import scheduled_sweep
from tests.acceptance.conftest import Game, wait_until
from tests.acceptance.test_contract import bare_write
from tests.alerts import check_fire, scrape
from tests.ports import free_port
from tests.rewind import Rewind

pytestmark = pytest.mark.slow


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """With short intervals: what is late is late soon, but not before somebody has looked."""
    return replace(settings, sync_seconds=5)


def test_fleet_dies(
    game: Game, settings: Settings, hot: HotStore, raw: Any, tmp_path: Path
) -> None:
    bare_write(raw, settings, 1, state="exploration")
    game.sync_until_clean(hot)
    healthy = scrape(settings, tmp_path)
    check_fire(tmp_path, healthy, healthy)

    bare_write(raw, settings, 2, stats="poison")
    game.sync_until(lambda: hot.status().quarantined)
    poisoned = scrape(settings, tmp_path)
    check_fire(tmp_path, healthy, poisoned, "Quarantine")

    bare_write(raw, settings, 3, state="exploration")
    raw.delete(f"{settings.prefix}ac:3")
    game.sync_until(lambda: hot.status().quarantined == 2)
    lost = scrape(settings, tmp_path)
    check_fire(tmp_path, poisoned, lost, "ChangesLost outcome=missing")

    game.worker.kill()
    hot.update(1, state="combat")
    for _ in range(60):
        game.send("restore_full_state", 1)
    wait_until(lambda: (hot.status().oldest_ms or 0) > 3000 * settings.sync_seconds)
    dead = scrape(settings, tmp_path)
    queues = [f"NoWorker queue={settings.queue(name)}" for name in ("restore", "sync", "backup")]
    check_fire(
        tmp_path, lost, dead,
        "NotSaved", "SavedLate", "NoSweep", *queues, "CheckFailed check=workers",
        f"LoginsWait queue={settings.queue('restore')}",
    )  # fmt: skip


def test_postgresql_takes_no_writes(
    game: Game, settings: Settings, hot: HotStore, raw: Any, engine: Engine, tmp_path: Path
) -> None:
    game.call("sync_dirty")
    before = scrape(settings, tmp_path)
    name = engine.url.database
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        # As a full disk makes it.
        connection.exec_driver_sql(
            f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'
        )
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE datname = '{name}' AND pid <> pg_backend_pid()"
        )
    game.send("sync_dirty")
    wait_until(hot.troubles)
    after = scrape(settings, tmp_path)
    alerts = ("ServerRefuses server=postgresql", "CheckFailed check=postgresql")
    check_fire(tmp_path, before, after, *alerts)


def test_redis_goes_back(
    settings: Settings,
    orchestrator: GameStateOrchestrator,
    rewind: Rewind,
    raw: Any,
    tmp_path: Path,
) -> None:
    def sweep() -> None:
        def save(claims: Any) -> None:
            orchestrator.backup_claims(claims)

        scheduled_sweep(orchestrator, settings, save, save)

    bare_write(raw, settings, 1, state="exploration")
    sweep()
    moment = rewind.moment()
    for state in ("combat", "exploration", "scenario"):
        orchestrator.hot.update(1, state=state)
        sweep()
    before = scrape(settings, tmp_path)
    rewind.to(moment)
    orchestrator.hot.update(1, state="inventory")
    sweep()
    sweep()
    check_fire(
        tmp_path, before, scrape(settings, tmp_path), "Conflicts", "ServerWentBack server=redis"
    )


def test_redis_is_full(settings: Settings, raw: Any, tmp_path: Path) -> None:
    before = scrape(settings, tmp_path)
    used = raw.info("memory")["used_memory"]
    raw.config_set("maxmemory", round(used * 1.02))
    try:
        after = scrape(settings, tmp_path)
    finally:
        raw.config_set("maxmemory", 0)
    check_fire(tmp_path, before, after, "RedisMemory", "RedisFull")


def test_servers_are_away(settings: Settings, unreachable: Settings, tmp_path: Path) -> None:
    before = scrape(settings, tmp_path)
    check_fire(tmp_path, before, scrape(unreachable, tmp_path), "ServerDown server=postgresql")
    port = free_port()
    broker = replace(settings, broker_url=f"redis://127.0.0.1:{port}/1")
    check_fire(tmp_path, before, scrape(broker, tmp_path), "ServerDown server=broker")
    redis = replace(settings, redis_url=f"redis://127.0.0.1:{port}/0")
    check_fire(tmp_path, before, scrape(redis, tmp_path), "ServerDown server=redis")
