"""Realms in the settings: what is refused at start, and what the settings of one realm are."""

from __future__ import annotations

from typing import Any

import pytest

from statesync.errors import InvalidInput, SettingsError
from statesync.lifecycle.realms import Realms
from statesync.settings import Settings
from statesync.worker.config import celery_settings

DATABASE = "postgresql://u@h/game_{realm}"
CLUSTER: dict[str, Any] = {
    "redis_url": "cluster://h:1,h:2",
    "broker_url": "redis://b:1/0",
    "result_url": "redis://b:1/1",
}


def test_realm_has_a_tag_queues_and_a_database_of_its_own() -> None:
    settings = Settings(realms="eu,us", database_url=DATABASE, key_prefix="p:", queue_prefix="q.")
    eu, us = settings.each_realm()
    assert (eu.prefix, us.prefix) == ("{eu}:p:", "{us}:p:")
    assert (eu.queue("sync"), us.queue("sync")) == ("q.eu.sync", "q.us.sync")
    assert eu.database_url == "postgresql+psycopg2://u@h/game_eu"
    assert (eu.redis_url, eu.broker_url) == (settings.redis_url, settings.broker_url)


def test_realms_may_have_a_redis_each_or_a_schema_each() -> None:
    settings = Settings(
        realms="eu,us",
        redis_url="redis://redis-{realm}:6379/0",
        database_url="postgresql://u@h/game?options=-csearch_path%3Dgame_{realm}",
        broker_url="redis://b:1/0",
        result_url="redis://b:1/1",
    )
    us = settings.for_realm("us")
    assert us.redis_url == "redis://redis-us:6379/0"
    assert us.database_url.endswith("options=-csearch_path%3Dgame_us")


def test_a_number_names_realms_by_numbers() -> None:
    settings = Settings(realms="16", database_url=DATABASE)
    assert settings.realm_names == tuple(map(str, range(16)))


def test_without_realms_there_is_one_world_as_ever() -> None:
    settings = Settings(key_prefix="p:")
    assert settings.each_realm() == (settings,)
    assert (settings.prefix, settings.queue("sync")) == ("p:", "sync")


@pytest.mark.parametrize(
    "settings",
    [
        Settings(realms="2", database_url=DATABASE, **CLUSTER),
        Settings(realms="2", database_url=DATABASE, **CLUSTER).for_realm("1"),
    ],
)
def test_environment_of_a_child_names_the_realms(settings: Settings) -> None:
    assert Settings.from_env(settings.to_env()) == settings


def test_process_of_one_realm_needs_to_know_no_other() -> None:
    settings = Settings(realms="eu,us", realm="us", database_url="postgresql://u@h/game_us")
    assert settings.each_realm() == (settings,)
    assert settings.prefix == "{us}:"


@pytest.mark.parametrize(
    ("given", "variable", "reason"),
    [
        ({"redis_url": "cluster://h:1"}, "REALMS", "a Redis Cluster"),
        ({"redis_url": "redis://{realm}:1/0"}, "REALMS", "REDIS_URL holds {realm}"),
        ({"database_url": DATABASE}, "REALMS", "DATABASE_URL holds {realm}"),
        ({"realms": "2"}, "DATABASE_URL", "never share tables"),
        (
            {"realms": "2", "database_url": DATABASE, "redis_url": "redis://{realm}:1/0"},
            "BROKER_URL and STATESYNC_RESULT_URL",
            "they must be set",
        ),
        (
            {"realms": "2", "database_url": DATABASE, "redis_url": "cluster://h:1"},
            "BROKER_URL and STATESYNC_RESULT_URL",
            "no broker",
        ),
        (
            {"realms": "2", "database_url": DATABASE, **CLUSTER, "result_url": ""},
            "RESULT_URL",
            "keeps no results",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(
    given: dict[str, str], variable: str, reason: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings(**given)  # type: ignore[arg-type]
    assert str(caught.value).startswith(f"STATESYNC_{variable}: ")
    assert reason in str(caught.value)


def test_whoever_needs_one_realm_is_told_to_choose() -> None:
    settings = Settings(realms="eu,us", database_url=DATABASE)
    with pytest.raises(SettingsError, match="STATESYNC_REALM: which realm"):
        _ = settings.prefix
    with pytest.raises(SettingsError, match="there is no realm 'asia' here; there are: eu, us"):
        settings.for_realm("asia")
    with pytest.raises(SettingsError, match="there is no realm 'us' here; there are: eu"):
        settings.for_realm("eu").for_realm("us")


@pytest.mark.parametrize("realms", ["", "1", "4", "16", "1000"])
@pytest.mark.parametrize("sync_seconds", [1, 5, 60, 86_400])
def test_realms_share_the_slices_and_all_comes_within_an_interval(
    realms: str, sync_seconds: int
) -> None:
    settings = Settings(
        realms=realms, database_url=DATABASE if realms else "", sync_seconds=sync_seconds
    )
    assert settings.round_ms * 65 / 64 + 1000 * settings.slice_seconds <= 1000 * sync_seconds
    assert settings.slice_seconds <= max(0.25, sync_seconds / 20)


@pytest.mark.parametrize("name", [["eu"], {"eu": 1}, None, 1])
def test_what_is_no_name_in_a_message_is_no_realm(name: Any) -> None:
    settings = Settings(realms="eu,us", database_url=DATABASE)
    with Realms(settings) as realms, pytest.raises(InvalidInput, match="here there are eu, us"):
        realms.orchestrator(name)
    (route,) = celery_settings(settings)["task_routes"]
    with pytest.raises(InvalidInput, match="here there are eu, us"):
        route("statesync.sync_dirty", (), {"realm": name})
