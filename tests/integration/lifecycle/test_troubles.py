"""A server that refuses work is told of once when that begins and once when it ends."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest

from statesync.errors import (
    BrokerUnavailable,
    DatabaseForbidden,
    DatabaseUnavailable,
    NotMigrated,
    RedisUnavailable,
)
from statesync.hot.commands.troubles import Server, Work
from statesync.hot.store import HotStore
from statesync.lifecycle.troubles import Troubles
from statesync.settings import Settings

AWAY = DatabaseUnavailable("PostgreSQL at db: connection refused")


@pytest.fixture
def troubles(hot: HotStore, settings: Settings) -> Troubles:
    return Troubles(hot, settings)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog


def lines(said: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in said.records]


def test_an_outage_is_two_lines(troubles: Troubles, said: pytest.LogCaptureFixture) -> None:
    for _ in range(100):
        troubles.failed(Work.SWEEP, AWAY)
        troubles.failed(Work.BACKUP, DatabaseUnavailable("PostgreSQL at db: it is starting up"))
    troubles.succeeded(Work.SWEEP)
    assert len(said.records) == 1, "backups are still refused"
    assert (troubles.is_refused(Work.SWEEP), troubles.is_refused(Work.BACKUP)) == (False, True)
    troubles.succeeded(Work.BACKUP)
    assert not troubles.is_refused(Work.BACKUP)
    troubles.succeeded(Work.BACKUP)
    begin, end = lines(said)
    assert begin == (
        "WARNING",
        "trouble begins: PostgreSQL at db: connection refused",
    )
    assert end == ("WARNING", "trouble ends: PostgreSQL works again, after 0 s")


def test_what_does_not_end_by_itself_is_an_error(
    troubles: Troubles, said: pytest.LogCaptureFixture
) -> None:
    troubles.failed(Work.BACKUP, AWAY)
    for _ in range(3):
        troubles.failed(Work.BACKUP, DatabaseForbidden("permission denied for table sessions"))
        troubles.failed(Work.BACKUP, AWAY)
    troubles.failed(Work.RESTORE, NotMigrated("run `statesync migrate`"))
    assert [level for level, _ in lines(said)] == ["WARNING", "ERROR"]


def test_each_server_and_realm_is_told_of(
    hot: HotStore, settings: Settings, said: pytest.LogCaptureFixture
) -> None:
    realms = replace(
        settings, realms="eu", realm="eu", database_url=settings.database_url + "{realm}"
    )
    for of_realm in (Troubles(hot, settings), Troubles(hot, realms)):
        of_realm.failed(Work.SWEEP, BrokerUnavailable("the broker: full"))
    of_realm.failed(Work.SWEEP, AWAY)
    assert [message for _, message in lines(said)] == [
        "trouble begins: the broker: full",
        "trouble begins (realm eu): the broker: full",
        "trouble begins (realm eu): PostgreSQL at db: connection refused",
    ]


def test_all_workers_know(troubles: Troubles, hot: HotStore) -> None:
    troubles.failed(Work.BACKUP, DatabaseUnavailable("disk\x1b[2J full\n" + 600 * "x"))
    (trouble,) = hot.troubles().values()
    assert trouble.error.startswith(r"disk\x1b[2J full\nxx")
    assert len(trouble.error) == 500
    troubles.succeeded(Work.SWEEP)
    assert hot.troubles(), "a sweep writes nothing: it says nothing of a full disk"
    troubles.succeeded(Work.BACKUP)
    assert hot.troubles() == {}


def test_a_note_of_a_worker_that_died_ends_with_the_first_success_of_another(
    troubles: Troubles, hot: HotStore, settings: Settings
) -> None:
    Troubles(hot, settings).failed(Work.BACKUP, AWAY)
    troubles.succeeded(Work.BACKUP)
    assert hot.troubles() == {}


def test_a_sweep_finds_the_notes_of_others(
    troubles: Troubles, hot: HotStore, settings: Settings
) -> None:
    troubles.succeeded(Work.BACKUP)
    Troubles(hot, settings).failed(Work.BACKUP, AWAY)
    troubles.keep(hot.troubles())
    troubles.succeeded(Work.BACKUP)
    assert hot.troubles() == {}


def test_a_sweep_finds_that_others_have_had_success(
    troubles: Troubles, hot: HotStore, settings: Settings, said: pytest.LogCaptureFixture
) -> None:
    troubles.failed(Work.BACKUP, AWAY)
    troubles.keep(hot.troubles())
    assert len(said.records) == 1
    Troubles(hot, settings).succeeded(Work.BACKUP)
    troubles.keep(hot.troubles())
    assert lines(said)[1:] == [("WARNING", "trouble ends: PostgreSQL works again, after 0 s")]


def test_a_success_costs_no_round_trip(
    troubles: Troubles, hot: HotStore, raw: Any, settings: Settings
) -> None:
    troubles.succeeded(Work.BACKUP)
    Troubles(hot, settings).failed(Work.BACKUP, AWAY)
    troubles.succeeded(Work.BACKUP)
    assert hot.troubles(), "nobody was asked"


@pytest.mark.parametrize(
    ("error", "is_noted"),
    [("it is out of memory (maxmemory) and takes no changes", True), ("connection refused", False)],
)
def test_redis_tells_of_itself_what_it_can(
    troubles: Troubles, hot: HotStore, raw: Any, error: str, is_noted: bool
) -> None:
    raw.config_set("maxmemory", 1)
    try:
        troubles.failed(Work.RESTORE, RedisUnavailable(f"Redis at db: {error}"))
    finally:
        raw.config_set("maxmemory", 0)
    assert (Server.REDIS in hot.troubles()) is is_noted


def test_redis_that_works_again_is_told_of_by_who_knows(
    troubles: Troubles, hot: HotStore, said: pytest.LogCaptureFixture
) -> None:
    troubles.failed(Work.SWEEP, RedisUnavailable("Redis at db: connection refused"))
    troubles.keep(hot.troubles())
    assert len(said.records) == 1, "Redis could not note that it was away"
    troubles.succeeded(Work.SWEEP)
    assert lines(said)[1:] == [("WARNING", "trouble ends: Redis works again, after 0 s")]
