"""A wrong setting is refused with its name and what it accepts; a password is never shown."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from statesync.errors import SettingsError
from statesync.hot.store import AsyncHotStore, HotStore
from statesync.settings import Settings
from statesync.urls import mask_or_hide, mask_url

REFUSED = [
    ("REALMS", "eu,eu", "different names"),
    ("REALMS", "eu,,us", "different names"),
    ("REALMS", "e}u", "letters, digits"),
    ("REALM", "e u", "letters, digits"),
    ("REALM", "eu", "one of STATESYNC_REALMS"),
    ("LOG_FORMAT", "JSON", "text or json"),
    ("REDIS_URL", "cluster://h", "cluster://"),
    ("REDIS_URL", "cluster://h:1,", "cluster://"),
    ("REDIS_URL", "cluster://h:1/3", "cluster://"),
    ("REDIS_URL", "localhost:6379", "redis://"),
    ("REDIS_URL", "http://localhost", "redis://"),
    ("REDIS_URL", "redis://h:port", "redis://"),
    ("REDIS_URL", "REDIS+SOCKET://h", "redis://"),
    ("REDIS_URL", "redis://h/0?db=many", "redis://"),
    ("REDIS_URL", "redis://h/0?socket_timeout=soon", "redis://"),
    ("REDIS_URL", "redis://h/0?health_check_interval=1.5", "redis://"),
    ("REDIS_URL", "redis://h/many", "redis://"),
    ("REDIS_URL", "sentinel://h:1,h:2/0", "sentinel://"),
    ("REDIS_URL", "sentinel://h:1,h:2", "sentinel://"),
    ("REDIS_URL", "sentinel:///game/0", "sentinel://"),
    ("REDIS_URL", "sentinel://h:1,h:port/game/0", "sentinel://"),
    ("REDIS_URL", "sentinel://h:1,/game/0", "sentinel://"),
    ("REDIS_URL", "sentinel://h:1/game/many", "sentinel://"),
    ("REDIS_URL", "sentinel://h:1/game/0?socket_timeout=soon", "sentinel://"),
    ("REDIS_URL", "sentinel://h:1/0;sentinel://h:2/0", "sentinel://"),
    ("DATABASE_URL", "mysql://localhost/x", "postgresql://"),
    ("DATABASE_URL", "postgresql://h:port/x", "postgresql://"),
    ("DATABASE_URL", "nonsense", "postgresql://"),
    ("DATABASE_URL", "postgresql://h/x?connect_timeout=abc", "postgresql://"),
    ("DATABASE_URL", "postgresql://h/x?keepalives_idle=", "postgresql://"),
    ("BROKER_URL", "localhost", "a URL that Celery knows"),
    ("BROKER_URL", "cluster://h:1", "a single Redis, one with Sentinel, or RabbitMQ"),
    ("BROKER_URL", "sentinel://h:1/0;sentinel://h:2/0", "sentinel://"),
    ("BROKER_OPTIONS", "client_name=statesync", "a JSON object"),
    ("BROKER_OPTIONS", "[1]", "a JSON object"),
    ("RESULT_URL", "localhost", "a URL that Celery knows"),
    ("RESULT_URL", "clusters://h:1", "a single Redis, one with Sentinel, or RabbitMQ"),
    ("KEY_PREFIX", "with space", "letters, digits"),
    ("KEY_PREFIX", "x" * 65, "up to 64"),
    ("QUEUE_PREFIX", "a/b", "letters, digits"),
    ("SYNC_SECONDS", "0", "a whole number from 1 to 86400"),
    ("SYNC_SECONDS", "1.5", "a whole number"),
    ("SYNC_SECONDS", "\uff11", "a whole number"),
    ("SCRUB_SECONDS", "-1", "a whole number from 0 to 86400"),
    ("LEASE_SECONDS", "-1", "a whole number from 1"),
    ("BATCH_SIZE", "5001", "from 1 to 5000"),
    ("BATCH_ABOVE", "many", "a whole number from 0"),
    ("MAX_IN_FLIGHT", "0", "a whole number from 1"),
    ("MAX_IN_FLIGHT", "1", "STATESYNC_BATCH_SIZE"),
    ("RESULT_SECONDS", "9" * 30, "a whole number"),
    ("FALLBACK_STATE", "not a state", "letters, digits"),
    ("VITALS", "derive", "package.module:function"),
    ("CELERYCONFIG", "celeryconfig", "the path of a Python file, which ends in .py"),
    ("WEB_VIEWER", "eve:too-short", "name:password"),
    ("WEB_OPERATOR", "no-password-at-all", "name:password"),
    ("WEB_OPERATOR", ":correct horse battery", "name:password"),
    ("FLOWER_URL", "javascript:alert(1)", "http://"),
    ("FLOWER_URL", "https://name:password@flower", "without a login"),
    ("WEB_URL", "javascript:alert(1)", "http://"),
    ("LIVENESS_FILE", "alive", "the absolute path of a file"),
]


@pytest.mark.parametrize(("name", "value", "accepted"), REFUSED)
def test_wrong_value_is_refused_by_name(name: str, value: str, accepted: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({f"STATESYNC_{name}": value})
    assert f"STATESYNC_{name}" in str(caught.value)
    assert accepted in str(caught.value)


def test_every_setting_has_a_refused_value() -> None:
    assert {name for name, _, _ in REFUSED} == {spec.name.upper() for spec in fields(Settings)}


def test_unknown_variable_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"STATESYNC_SYNC_SECOND: .*STATESYNC_SYNC_SECONDS"):
        Settings.from_env({"STATESYNC_SYNC_SECOND": "5"})


def test_other_variables_and_empty_values_do_not_matter() -> None:
    assert Settings.from_env({"PATH": "/bin", "STATESYNC_SYNC_SECONDS": ""}) == Settings()


def test_environment_of_a_child_reads_the_same() -> None:
    settings = Settings(key_prefix="p:", redis_url="unix:///run/r.sock?db=3", sync_seconds=7)
    assert Settings.from_env(settings.to_env()) == settings


def test_from_env_reads_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATESYNC_LEASE_SECONDS", "7")
    settings = Settings.from_env()
    assert settings.lease_us == 7_000_000


@pytest.mark.parametrize(
    ("redis_url", "broker", "result"),
    [
        ("redis://h:1/0", "redis://h:1/1", "redis://h:1/2"),
        (
            "rediss://u:p@h",
            "rediss://u:p@h/1?ssl_cert_reqs=required",
            "rediss://u:p@h/2?ssl_cert_reqs=required",
        ),
        (
            "rediss://h/0?ssl_cert_reqs=none",
            "rediss://h/1?ssl_cert_reqs=none",
            "rediss://h/2?ssl_cert_reqs=none",
        ),
        (
            "unix:///run/r.sock?db=5",
            "redis+socket:///run/r.sock?virtual_host=1",
            "redis+socket:///run/r.sock?virtual_host=2",
        ),
        (
            "SENTINEL://u:p%40@h,[::1]:2/game/0?socket_timeout=3&sentinel_password=q",
            "sentinel://u:p%40@h:26379,[::1]:2/game/1?socket_timeout=3&sentinel_password=q",
            "sentinel://u:p%40@h:26379,[::1]:2/game/2?socket_timeout=3&sentinel_password=q",
        ),
        (
            "unix://u:p@/run/r.sock",
            "redis+socket://u:p@/run/r.sock?virtual_host=1",
            "redis+socket://u:p@/run/r.sock?virtual_host=2",
        ),
    ],
)
def test_broker_stands_beside_redis(redis_url: str, broker: str, result: str) -> None:
    settings = Settings(redis_url=redis_url)
    assert (settings.broker_url, settings.result_url) == (broker, result)


def test_relative_path_of_a_file_is_that_of_the_process_that_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings.from_env({"STATESYNC_CELERYCONFIG": "conf/celeryconfig.py"})
    assert settings.celeryconfig == str(tmp_path / "conf" / "celeryconfig.py")
    assert Settings().celeryconfig == ""


def test_given_broker_is_kept() -> None:
    assert Settings(broker_url="amqp://b").broker_url == "amqp://b"


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("postgresql://u@h/d", "postgresql+psycopg2://u@h/d"),
        ("postgres://u@h/d", "postgresql+psycopg2://u@h/d"),
        ("postgresql:///d?host=/run/pg", "postgresql+psycopg2:///d?host=/run/pg"),
    ],
)
def test_database_url_names_its_driver(given: str, used: str) -> None:
    assert Settings(database_url=given).database_url == used


SECRET = "hunter2"


@pytest.mark.parametrize(
    "url",
    [
        f"redis://u:{SECRET}@h:1/0",
        f"redis://:{SECRET}@h:1/0",
        f"redis://h:1/0?password={SECRET}",
        f"unix:///run/r.sock?db=0&password={SECRET}",
        f"redis://u:{SECRET}@[broken",
        f"redis://{SECRET}@h:1/0",
        f"rediss://{SECRET}@h:1/0",
        f"unix://{SECRET}@/run/r.sock",
        f"redis+socket://{SECRET}@/run/r.sock",
        f"sentinel://{SECRET}@h:1/0;sentinel://{SECRET}@h:2/0",
        f"cluster://:{SECRET}@h:1,h:2",
        f"cluster://{SECRET}@h:1,h:2",
        f"sentinel://:{SECRET}@h:1/0;sentinel://:{SECRET}@h:2/0",
        f"sentinel://:{SECRET}@h:1,h:2/game/0",
        f"redis://h:1/0?PASSWORD={SECRET}",
        f"rediss://h:1/0?ssl_password={SECRET}",
        f"rediss://h:1/0?%73sl_password={SECRET}",
        f"redis://h:1/0?sentinel_password={SECRET}",
        f"postgresql://h/d?password={SECRET}",
        f"postgresql://h/d?sslpassword={SECRET}",
        f"postgresql://h/d?oauth_client_secret={SECRET}",
        f"postgresql://h/d?passwd={SECRET}",
    ],
)
def test_password_is_masked(url: str) -> None:
    assert SECRET not in mask_or_hide(url)


@pytest.mark.parametrize(
    "url", ["postgresql://u:p@ss/hunter2@h/d", "postgresql://u:p@ss#hunter2@h/d"]
)
def test_a_password_that_ends_the_host_shows_no_tail(url: str) -> None:
    assert SECRET not in mask_or_hide(url)


def test_options_of_the_broker_are_never_shown() -> None:
    options = f'{{"sentinel_kwargs": {{"password": "{SECRET}"}}}}'
    assert SECRET not in repr(Settings(broker_options=options))
    with pytest.raises(SettingsError, match="STATESYNC_BROKER_OPTIONS") as caught:
        Settings(broker_options=options + "}")
    assert SECRET not in str(caught.value)


def test_logins_of_the_page_are_secret() -> None:
    assert SECRET not in repr(Settings(web_viewer=f"eve:{SECRET}{SECRET}"))
    with pytest.raises(SettingsError, match="STATESYNC_WEB_OPERATOR") as caught:
        Settings(web_operator=f"e v e:{SECRET}{SECRET}")
    assert SECRET not in str(caught.value)


def test_mask_keeps_what_is_no_secret() -> None:
    assert mask_url("redis://u:p@h:1/0?db=3") == "redis://u:***@h:1/0?db=3"
    assert mask_url("redis://h:1/0") == "redis://h:1/0"
    assert mask_url("redis://name@h:1/0") == "redis://***@h:1/0"
    assert mask_url("postgresql://u@h/d?passfile=/x") == "postgresql://u@h/d?passfile=/x"


@pytest.mark.parametrize("url", ["REDIS://h:1/0", "Rediss://h:1/0", "UNIX:///run/R.sock?db=1"])
def test_scheme_in_capitals_is_that_scheme(url: str) -> None:
    settings = Settings(redis_url=url)
    scheme, _, rest = url.partition("://")
    assert settings.redis_url == f"{scheme.lower()}://{rest}"
    HotStore(settings.redis_url).close()
    Settings(database_url="PostgreSQL://u@h/d")


def test_option_that_redis_does_not_have_is_named() -> None:
    settings = Settings(redis_url=f"redis://:{SECRET}@h:1/0?no_such_option=1")
    for store in (HotStore, AsyncHotStore):
        with pytest.raises(SettingsError, match=r"STATESYNC_REDIS_URL.*'no_such_option'") as caught:
            store.from_settings(settings)
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "query",
    [
        "db=2&socket_timeout=1.5&socket_keepalive=yes&max_connections=7",
        "health_check_interval=3&client_name=me&protocol=3&username=u&password=p",
        "ssl_cert_reqs=none&ssl_ca_certs=/x&ssl_check_hostname=false",
    ],
)
def test_what_redis_accepts_in_a_query_is_accepted(query: str) -> None:
    settings = Settings(redis_url=f"rediss://h:1/0?{query}")
    HotStore.from_settings(settings).close()


def test_repr_and_errors_show_no_password() -> None:
    settings = Settings(
        redis_url=f"redis://u:{SECRET}@h/0",
        database_url=f"postgresql://u:{SECRET}@h/d",
        broker_url=f"amqp://u:{SECRET}@h//",
    )
    assert SECRET not in repr(settings)
    assert SECRET not in str(settings)
    for url in (f"redis://u:{SECRET}@h:port/0", f"ftp://u:{SECRET}@h", f"redis://{SECRET}@[x"):
        with pytest.raises(SettingsError) as caught:
            Settings(redis_url=url)
        assert SECRET not in str(caught.value)
        assert caught.value.__cause__ is None


def test_queue_prefix_goes_before_the_queues() -> None:
    assert Settings(queue_prefix="eu1.").queue("backup") == "eu1.backup"


@pytest.mark.parametrize("sync_seconds", [1, 5, 60, 86_400])
def test_all_that_is_dirty_comes_within_an_interval(sync_seconds: int) -> None:
    """A round, its 64th, by which a step may be late, and the wait for the next slice."""
    settings = Settings(sync_seconds=sync_seconds)
    assert settings.round_ms * 65 / 64 + 1000 * settings.slice_seconds <= 1000 * sync_seconds
    assert settings.round_ms >= 500 * sync_seconds
