"""Every metric, in the situation that it is for: the number rises, and falls again."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine
from starlette.applications import Starlette

from statesync import durable
from statesync.durable.losses import Loss, Side
from statesync.embedded.servers import Servers
from statesync.hot.commands.troubles import Server, Work
from statesync.hot.keys import Keys
from statesync.hot.store import HotStore
from statesync.lifecycle import servers
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.lifecycle.scrub import scrub_pages
from statesync.lifecycle.sweep import scheduled_sweep
from statesync.observe import workers
from statesync.settings import Settings
from statesync.web import watch
from statesync.web.catalog import METRICS
from statesync.web.metrics import Metrics
from tests.conftest import FullCore
from tests.integration.web.conftest import MakeApp
from tests.integration.web.scrape import Scrape, scrape
from tests.integration.web.visitors import Visitor

LEASE_US = 60_000_000


def test_what_is_unsaved(app: Starlette, orchestrator: GameStateOrchestrator) -> None:
    hot = orchestrator.hot

    def unsaved() -> tuple[float | None, ...]:
        seen = scrape(app)
        names = ("dirty_characters", "claimed_characters", "expired_claims")
        return tuple(seen.get(name) for name in (*names, "quarantined_characters"))

    assert unsaved() == (0, 0, 0, 0)
    for char_id in (1, 2, 3):
        hot.create(char_id, state="exploration")
    assert unsaved() == (3, 0, 0, 0)
    claim, _ = hot.claim(1, lease_us=LEASE_US)
    hot.claim(2, lease_us=1)
    assert unsaved() == (1, 2, 1, 0)
    hot.quarantine(claim, error="it is broken", field="bio")
    assert unsaved() == (1, 1, 1, 1)
    hot.requeue(10)
    assert unsaved() == (2, 0, 0, 1)
    orchestrator.backup_many([1, 2, 3])
    assert unsaved() == (0, 0, 0, 0)


def test_how_old_the_oldest_unsaved_change_is(
    app: Starlette, orchestrator: GameStateOrchestrator, raw: Any, keys: Keys
) -> None:
    assert scrape(app).get("oldest_unsaved_seconds") == 0
    orchestrator.hot.create(1, state="exploration")
    seconds, micros = raw.time()
    raw.zadd(keys.since, {"1": 1000 * seconds + micros // 1000 - 90_000})
    age = scrape(app).get("oldest_unsaved_seconds")
    assert age and 90 <= age < 150
    orchestrator.backup_full_state(1)
    assert scrape(app).get("oldest_unsaved_seconds") == 0


def test_the_promise_stands_beside_it(settings: Settings, new_app: MakeApp) -> None:
    seen = scrape(new_app(replace(settings, sync_seconds=7, scrub_seconds=0)))
    assert (seen.get("sync_seconds"), seen.get("scrub_seconds")) == (7, 0)


def test_how_long_ago_the_schedule_worked(
    app: Starlette, orchestrator: GameStateOrchestrator, raw: Any, keys: Keys
) -> None:
    def ages() -> tuple[float | None, float | None]:
        seen = scrape(app)
        return seen.get("sweep_age_seconds"), seen.get("scrub_age_seconds")

    assert ages() == (math.inf, math.inf)
    orchestrator.hot.heartbeat()
    for _ in scrub_pages(orchestrator):
        pass
    sweep, scrub = ages()
    assert sweep is not None and scrub is not None and 0 <= sweep < 60 and 0 <= scrub < 60
    for key in (keys.heartbeat, keys.scrubbed):
        raw.set(key, int(raw.get(key)) - 600_000)
    sweep, scrub = ages()
    assert sweep and scrub and 600 <= sweep < 660 and 600 <= scrub < 660


def test_what_became_of_backups_and_restores(
    app: Starlette, orchestrator: GameStateOrchestrator, full_core: FullCore
) -> None:
    assert {*scrape(app).by("backups_total", "outcome").values()} == {0}
    assert {*scrape(app).by("restores_total", "outcome").values()} == {0}
    for char_id in (1, 2):
        orchestrator.hot.create(char_id, **full_core(char_id))
    orchestrator.backup_many([1, 2])
    orchestrator.backup_full_state(1)
    orchestrator.evict(2)
    orchestrator.restore_many([1, 2, 99])
    seen = scrape(app)
    backups = seen.by("backups_total", "outcome")
    assert (backups["saved"], backups["quarantined"]) == (2, 0)
    assert backups["unchanged"] >= 1
    restores = {"restored": 1, "live": 1, "not_found": 1, "failed": 0}
    assert seen.by("restores_total", "outcome") == restores


def test_sweeps(app: Starlette, orchestrator: GameStateOrchestrator, settings: Settings) -> None:
    assert scrape(app).get("sweeps_total") == 0
    for _ in range(2):
        scheduled_sweep(orchestrator, settings, lambda _: None, lambda _: None)
    assert scrape(app).get("sweeps_total") == 2


def test_redis_that_went_back(
    app: Starlette,
    orchestrator: GameStateOrchestrator,
    engine: Engine,
    rewind: Any,
) -> None:
    hot = orchestrator.hot
    hot.create(1, state="exploration", gold=1)
    servers.count_sweep(hot, engine)
    orchestrator.backup_full_state(1)
    moment = rewind.moment()
    hot.update(1, gold=2)
    orchestrator.backup_full_state(1)
    servers.count_sweep(hot, engine)
    seen = scrape(app, "redis", "postgresql")
    assert (seen.get("conflicts_total"), seen.get("comparing")) == (0, 0)
    assert {*seen.by("servers_went_back_total", "server").values()} == {0}
    assert {*seen.by("losses_recent", "server").values()} == {0}
    rewind.to(moment)
    hot.update(1, gold=3)
    servers.count_sweep(hot, engine)
    orchestrator.backup_full_state(1)
    seen = scrape(app, "redis", "postgresql")
    assert (seen.get("conflicts_total"), seen.get("comparing")) == (1, 1)
    assert seen.get("recovering") == 0
    assert seen.by("servers_went_back_total", "server") == {"redis": 1, "postgresql": 0}
    assert seen.by("losses_recent", "server") == {"redis": 1, "postgresql": 0}


def test_postgresql_that_went_back(app: Starlette, hot: HotStore, engine: Engine) -> None:
    for _ in range(3):
        servers.count_sweep(hot, engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE server_counters SET sweeps = 1")
    servers.count_sweep(hot, engine)
    seen = scrape(app, "redis", "postgresql")
    assert (seen.get("recovering"), seen.get("comparing")) == (1, 1)
    assert seen.by("servers_went_back_total", "server") == {"redis": 0, "postgresql": 1}
    assert seen.by("losses_recent", "server") == {"redis": 0, "postgresql": 1}


def test_a_loss_is_recent_for_a_week_and_may_be_of_both(
    app: Starlette, hot: HotStore, engine: Engine
) -> None:
    now = datetime.now(UTC)
    servers.count_sweep(hot, engine)
    with engine.begin() as connection:
        for side, days in ((Side.REDIS, 8), (Side.BOTH, 6), (Side.POSTGRESQL, 1)):
            loss = Loss(side=side, found_at=now - timedelta(days=days))
            durable.losses.record(connection, hot.keys.prefix, loss)
    seen = scrape(app, "postgresql")
    assert seen.by("losses_recent", "server") == {"redis": 1, "postgresql": 2}


def test_memory(app: Starlette, raw: Any) -> None:
    seen = scrape(app)
    used, limit = (seen.get(f"redis_memory_{what}") for what in ("bytes", "limit_bytes"))
    assert used and limit == raw.info("memory")["total_system_memory"]
    raw.set("ballast", b"x" * 10_000_000)
    raw.config_set("maxmemory", 500_000_000)
    try:
        seen = scrape(app)
    finally:
        raw.config_set("maxmemory", 0)
        raw.delete("ballast")
    assert seen.get("redis_memory_limit_bytes") == 500_000_000
    assert (seen.get("redis_memory_bytes") or 0) > used + 9_000_000


def test_trouble_that_workers_report(app: Starlette, hot: HotStore) -> None:
    assert {*scrape(app).by("trouble", "server").values()} == {0}
    hot.note_trouble(Server.POSTGRESQL, Work.BACKUP, "its disk is full", keep_ms=60_000)
    assert scrape(app).by("trouble", "server") == {"redis": 0, "postgresql": 1, "broker": 0}
    hot.end_troubles(Work.BACKUP)
    assert {*scrape(app).by("trouble", "server").values()} == {0}


@pytest.mark.slow  # a broker that is away is tried several times
def test_what_the_checks_found(
    app: Starlette, hot: HotStore, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_INSPECT_SECONDS", 0.01)
    seen = scrape(app, "checks")
    # No worker and no beat run here; and the default broker is not there.
    failed, warned = (seen.by(f"check_{what}", "check") for what in ("failed", "warned"))
    assert (failed["beat"], failed["broker"], failed["redis"]) == (1, 1, 0)
    assert (warned["beat"], warned["redis"]) == (0, 0)
    hot.heartbeat()
    raw.config_set("maxmemory-policy", "allkeys-lru")
    try:
        warned = scrape(app, "checks").by("check_warned", "check")
        raw.config_set("maxmemory", 2**33)
        failed = scrape(app, "checks").by("check_failed", "check")
    finally:
        raw.config_set("maxmemory-policy", "noeviction")
        raw.config_set("maxmemory", 0)
    assert (warned["redis"], failed["redis"], failed["beat"]) == (1, 1, 0)
    assert seen.get("workers") is None, "whom nobody could ask"
    assert "They could not be asked." in Visitor(app).text("/")


# Histograms


def buckets(seen: Scrape, name: str) -> dict[float, float]:
    """Return how many values are at most each bound."""
    return {float(bound): n for bound, n in seen.by(f"{name}_bucket", "le").items()}


@pytest.mark.parametrize("as_groups", [False, True])
def test_histograms_of_saves(
    app: Starlette,
    orchestrator: GameStateOrchestrator,
    full_core: FullCore,
    request: pytest.FixtureRequest,
    raw: Any,
    keys: Keys,
    as_groups: bool,
) -> None:
    hot = orchestrator.hot
    for char_id in range(1, 13):
        hot.create(char_id, **full_core(char_id))
    orchestrator.backup_many(range(1, 13))  # new characters are saved as groups
    before = scrape(app)
    assert before.get("batch_characters_count") == before.get("commit_seconds_count") == 1
    if as_groups:
        request.getfixturevalue("all_as_groups")
    for char_id in range(1, 12):
        hot.update(char_id, gold=5)
    seconds, _ = raw.time()
    raw.zadd(keys.since, {str(char_id): 1000 * (seconds - 20) for char_id in range(1, 12)})
    orchestrator.backup_many(range(1, 13))  # 12 has no unsaved change, so it has not waited
    seen = scrape(app)
    waited, batch = buckets(seen, "change_to_durable_seconds"), buckets(seen, "batch_characters")
    assert (waited[15], waited[math.inf] - waited[15]) == (12, 11)
    assert seen.get("change_to_durable_seconds_count") == 23
    total = seen.get("change_to_durable_seconds_sum")
    assert total and 11 * 20 <= total < 11 * 60
    assert (batch[10], batch[25], seen.get("batch_characters_sum")) == (0, 2, 24)
    assert seen.get("commit_seconds_count") == 2
    assert 0 < (seen.get("commit_seconds_sum") or 0) < 60
    assert buckets(seen, "commit_seconds")[math.inf] == 2


# What is away, and what is not told


def test_redis_that_is_away_takes_no_metric_of_others_away(
    settings: Settings, new_app: MakeApp, engine: Engine
) -> None:
    away = replace(settings, redis_url="redis://:hunter2@127.0.0.1:1/0")
    seen = scrape(new_app(away), "redis", "postgresql")
    assert seen.by("up", "server") == {"redis": 0, "postgresql": 1, "broker": 0}
    assert seen.get("dirty_characters") is None, "nobody knows"
    assert seen.get("backups_total", outcome="saved") is None
    assert seen.get("sync_seconds") == settings.sync_seconds
    assert seen.by("losses_recent", "server")
    assert "hunter2" not in seen.text


def test_postgresql_that_is_away_takes_no_metric_of_others_away(
    unreachable: Settings, new_app: MakeApp
) -> None:
    seen = scrape(new_app(unreachable), "redis", "postgresql")
    assert seen.by("up", "server") == {"redis": 1, "postgresql": 0, "broker": 0}
    assert seen.get("dirty_characters") == 0
    assert not seen.by("losses_recent", "server")


def test_a_database_without_tables_answers(
    settings: Settings, new_app: MakeApp, embedded: Any, new_database: Any
) -> None:
    empty = replace(settings, database_url=embedded.database_url(new_database(empty=True)))
    seen = scrape(new_app(empty), "postgresql")
    assert seen.by("up", "server")["postgresql"] == 1


def test_a_server_that_goes_away_takes_its_figures_along(app: Starlette) -> None:
    assert scrape(app).get("dirty_characters") == 0
    app.state.realms.orchestrator("").hot.close()  # it answers no more
    seen = scrape(app)
    assert seen.by("up", "server")["redis"] == 0
    assert seen.get("dirty_characters") is None
    assert seen.get("redis_memory_bytes") is None


def test_a_server_that_is_silent_is_away(
    app: Starlette, hot: HotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.state.watch.look("redis", "postgresql")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 31)
    seen = scrape(app, "postgresql")
    assert seen.by("up", "server") == {"redis": 0, "postgresql": 1, "broker": 0}
    assert seen.get("dirty_characters") is None


def test_foreign_content_costs_no_metric(
    app: Starlette, hot: HotStore, raw: Any, keys: Keys
) -> None:
    raw.set(keys.heartbeat, "soon")
    raw.rpush(keys.scrubbed, "never")
    raw.hset(keys.histograms, mapping={"batch_characters 5": "many", "\xff": 1, "else": 3})
    seen = scrape(app)
    assert seen.get("sweep_age_seconds") == seen.get("scrub_age_seconds") == math.inf
    assert seen.get("batch_characters_count") == 0
    raw.delete(keys.histograms)
    raw.set(keys.histograms, "a string")
    assert scrape(app).get("batch_characters_count") == 0


def test_realms_have_their_own_figures(settings: Settings, new_app: MakeApp) -> None:
    url = f"{settings.database_url}&options=-csearch_path%3D{{realm}}"
    two = replace(settings, realms="eu,us", database_url=url)
    with HotStore.from_settings(two.for_realm("us")) as hot:
        hot.create(1, state="exploration")
    seen = scrape(new_app(two))
    dirty = [seen.get("dirty_characters", realm=realm) for realm in ("eu", "us", "")]
    assert dirty == [0, 1, None]
    assert {dict(labels)["realm"] for _, labels in seen.values} == {"eu", "us"}


def test_servers_that_are_away_keep_no_realm_waiting(
    settings: Settings, new_app: MakeApp, embedded: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    three = replace(
        settings,
        realms="gone1,gone2,valkey",
        redis_url=f"unix://{embedded.sockets}/{{realm}}.sock?db=0",
        database_url=f"{settings.database_url}&options=-csearch_path%3D{{realm}}",
    )
    redis = next(kind for kind in watch._KINDS if kind.name == "redis")
    monkeypatch.setattr(watch, "_KINDS", (replace(redis, seconds=-1),))
    app = new_app(three)
    for _ in three.realm_names:
        app.state.watch.look()
    asked = [app.state.watch.latest(realm).redis.at for realm in three.realm_names]
    assert all(asked), "each one in the end"
    for again in (1, 0):
        seen = scrape(app)
        assert seen.get("up", realm="valkey", server="redis") == 1
        now = [app.state.watch.latest(realm).redis.at for realm in three.realm_names]
        assert [after > before for before, after in zip(asked, now, strict=True)] == [
            *(place == again for place in range(2)),
            True,
        ]
        asked = now


def test_metrics_name_no_character_and_no_secret(
    settings: Settings, new_app: MakeApp, hot: HotStore, raw: Any
) -> None:
    secret = replace(
        settings, broker_url="redis://:hunter2@127.0.0.1:1/1", web_operator="olga:hunter2hunter2"
    )
    hot.create(87_654_321, bio={"name": "Arthur Dent"})
    claim, _ = hot.claim(87_654_321, lease_us=LEASE_US)
    hot.quarantine(claim, error="Arthur Dent", field="bio")
    hot.note_trouble(Server.BROKER, Work.SWEEP, "Arthur Dent", keep_ms=60_000)
    text = scrape(new_app(secret), "redis", "postgresql", "broker").text
    assert "statesync_quarantined_characters" in text
    assert not [secret for secret in ("87654321", "Arthur", "hunter2", "olga") if secret in text]


def test_every_metric_has_its_name_and_help_even_before_the_first_look(app: Starlette) -> None:
    seen = scrape(app, "nothing")
    for metric in METRICS:
        assert f"# HELP {metric.name} {metric.help}\n" in seen.text
        assert f"# TYPE {metric.name} {metric.kind}\n" in seen.text
    assert seen.by("up", "server") == {"redis": 0, "postgresql": 0, "broker": 0}


def test_many_who_ask_are_given_the_same(app: Starlette) -> None:
    """With many realms it takes a second to make, and whoever asks may be anybody."""
    state = app.state
    state.metrics = Metrics(state.realms, state.watch, kept_seconds=3600)
    before = Visitor(app).get("/metrics").text
    state.watch.look("redis")
    assert Visitor(app).get("/metrics").text == before
    state.metrics = Metrics(state.realms, state.watch)
    assert Visitor(app).get("/metrics").text != before


@pytest.mark.parametrize("name", ["troubles", "stats", "dirty"])
def test_a_key_of_another_type_is_no_server_that_is_away(
    app: Starlette, hot: HotStore, raw: Any, name: str
) -> None:
    raw.set(getattr(hot.keys, name), "something else")
    app.state.watch.look("redis")
    seen = Scrape(Visitor(app).get("/metrics").text)
    assert seen.by("up", "server")["redis"] == 1
    assert seen.get("redis_memory_bytes"), "what can be read is"
    assert (seen.get("dirty_characters") is None) == (name != "troubles")
    assert "does not answer" not in Visitor(app).text("/")
