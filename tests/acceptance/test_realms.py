"""One fleet of workers serves several realms, each with its keys, its database and its queues."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from statesync import GameStateOrchestrator, GameStore, LoginService, Settings, Together
from statesync.durable import database, migrate
from statesync.embedded.servers import Servers
from statesync.embedded.stack import Stack
from statesync.errors import CharacterNotFound, CharacterNotLoaded
from statesync.worker.brokers import sender_settings
from tests.acceptance.command_line import STATESYNC, run, run_json
from tests.acceptance.conftest import WAIT_SECONDS, wait_until
from tests.conftest import NewDatabase
from tests.databases import Databases

REALMS = ("eu", "us")

other_brokers = pytest.mark.parametrize(
    "topology",
    ["single", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sentinel", "rabbitmq"))],
    indirect=True,
)


@pytest.fixture
def fleet(embedded: Servers, settings: Settings, new_database: NewDatabase) -> Settings:
    """Two realms on one Redis, each with a migrated database of its own."""
    name = new_database()
    template = embedded.database_url(f"{name}_{{realm}}")
    made = replace(settings, realms=",".join(REALMS), database_url=template, sync_seconds=1)
    with contextlib.closing(_admin(embedded)) as admin, admin.cursor() as cursor:
        for realm in REALMS:
            cursor.execute(f'CREATE DATABASE "{name}_{realm}" TEMPLATE "{name}"')
    for one in made.each_realm():
        engine = database.connect(one)
        migrate.upgrade(engine, realm=one.realm)
        engine.dispose()
    return made


def _admin(embedded: Servers) -> Any:
    import psycopg2

    connection = psycopg2.connect(host=str(embedded.sockets), user="postgres", dbname="postgres")
    connection.autocommit = True
    return connection


@pytest.fixture
def worker(embedded: Servers, stack: Stack, fleet: Settings) -> Iterator[Stack]:
    """One worker for all realms, on an empty broker."""
    with contextlib.ExitStack() as exits:
        running = Stack(embedded, fleet, exits)
        running.start_worker("realms-worker")
        yield running


@pytest.fixture
def stores(fleet: Settings) -> Iterator[dict[str, GameStore]]:
    made = {realm: GameStore(fleet.for_realm(realm)) for realm in REALMS}
    yield made
    for store in made.values():
        store.close()


@pytest.fixture
def app(fleet: Settings) -> Iterator[Celery]:
    made = Celery("game")
    made.conf.update(sender_settings(fleet, seconds=30))
    yield made
    made.close()


def _row(settings: Settings, char_id: int) -> Any:
    with GameStateOrchestrator.from_settings(settings) as one, one.engine.connect() as connection:
        query = f"SELECT extra->>'guild' FROM characters WHERE id = {char_id}"
        return connection.exec_driver_sql(query).scalar()


@other_brokers
def test_same_id_in_two_realms_is_two_characters(
    worker: Stack, fleet: Settings, stores: dict[str, GameStore], raw: Any
) -> None:
    for realm, store in stores.items():
        store.create(1, state="exploration", guild=realm)
    assert {f"{{{realm}}}:{fleet.key_prefix}ac:1".encode() for realm in REALMS} <= {
        *raw.scan_iter("{*ac:1")
    }
    worker.start_beat()
    eu, us = fleet.each_realm()
    wait_until(lambda: (_row(eu, 1), _row(us, 1)) == ("eu", "us"))
    for realm, store in stores.items():
        service = LoginService(store)
        service.logout(1)
        assert service.login(1).character.fields["guild"] == realm


@other_brokers
def test_tasks_name_their_realm(
    worker: Stack, fleet: Settings, stores: dict[str, GameStore], app: Celery
) -> None:
    stores["us"].create(7, state="exploration", guild="us")

    def call(task: str, queue: str, realm: str | None) -> Any:
        kwargs = {"realm": realm} if realm else {}
        queue = fleet.for_realm("us").queue(queue)
        sent = app.send_task(f"statesync.{task}", args=[7], kwargs=kwargs, queue=queue)
        return sent.get(timeout=WAIT_SECONDS)

    assert call("backup_full_state", "backup", "us")["outcome"] == "saved"
    assert call("restore_full_state", "restore", "us")["outcome"] == "live"
    assert call("restore_full_state", "restore", "eu")["outcome"] == "not_found"
    for realm, message in ((None, "a realm is to be named"), ("asia", "no realm 'asia'")):
        with pytest.raises(Exception, match=f"{message}; here there are eu, us"):
            call("backup_full_state", "backup", realm)


def test_a_game_enqueues_into_its_realm(
    stack: Stack, fleet: Settings, stores: dict[str, GameStore]
) -> None:
    stores["eu"].create(5, state="exploration")
    LoginService(stores["eu"]).change_state(5, "town")
    with redis.Redis.from_url(fleet.redis_url.replace("db=0", "db=1")) as broker:
        (message,) = broker.lrange(fleet.for_realm("eu").queue("backup"), 0, -1)
    assert json.loads(message)["headers"]["kwargsrepr"] == "{'realm': 'eu'}"
    with pytest.raises(CharacterNotFound):
        LoginService(stores["us"]).login(5)


def test_what_is_changed_together_is_in_one_realm(stores: dict[str, GameStore]) -> None:
    stores["eu"].create(1, state="exploration")
    stores["us"].create(2, state="exploration")
    trade = Together().update(1, gold=0).update(2, gold=1)
    with pytest.raises(CharacterNotLoaded, match="character 2 is not loaded in realm eu"):
        stores["eu"].update_together(trade)
    with pytest.raises(CharacterNotLoaded, match=r"in realm us; .*it may be in another"):
        stores["us"].open_session("combat", [2, 1], {})
    with pytest.raises(CharacterNotLoaded, match="in realm us"):
        stores["us"].get(1)


def test_worker_may_serve_some_of_the_realms(
    embedded: Servers, stack: Stack, fleet: Settings, stores: dict[str, GameStore]
) -> None:
    for store in stores.values():
        store.create(1, state="exploration", guild="saved")
    with contextlib.ExitStack() as exits:
        running = Stack(embedded, fleet.for_realm("us"), exits)
        running.start_worker("us-worker")
        running.start_beat()
        wait_until(lambda: _row(fleet.for_realm("us"), 1) == "saved")
        assert _row(fleet.for_realm("eu"), 1) is None


def test_commands_show_all_realms_or_the_one_that_is_named(
    fleet: Settings, stores: dict[str, GameStore]
) -> None:
    stores["eu"].create(1, state="exploration")
    both = run_json(fleet, "status", status=1)  # nobody sweeps
    assert {realm: report["dirty"] for realm, report in both.items()} == {"eu": 1, "us": 0}
    assert set(both["us"]["queues"]) == {"us.restore", "us.sync", "us.backup"}
    assert run_json(fleet, "status", "--realm", "us")["dirty"] == 0
    assert "realm eu:" in run(fleet, "pending")
    assert run_json(fleet, "inspect", "1", "--realm", "eu")["redis"]["version"] == 1
    assert "realm eu:" not in run(fleet, "inspect", "1", status=2)
    for words in (["inspect", "1"], ["restore", "1"], ["delete", "1"], ["status", "--watch"]):
        assert "say which realm: --realm, one of eu, us" in run(fleet, *words, status=2)
    assert "there is no realm 'asia'" in run(fleet, "status", "--realm", "asia", status=2)
    assert run_json(fleet, "drain")["eu"]["outcomes"] == {"saved": 1}
    assert [one["after"] for one in run_json(fleet, "migrate").values()] == ["0004", "0004"]


def test_trouble_in_one_realm_does_not_hide_the_others(
    fleet: Settings, stores: dict[str, GameStore]
) -> None:
    eu = GameStateOrchestrator.from_settings(fleet.for_realm("eu"))
    with eu, eu.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE statesync_realm SET name = 'asia'")
    for store in stores.values():
        store.create(1, state="exploration")
    drained = run_json(fleet, "drain", "--timeout", "0", status=1)
    assert drained["us"]["outcomes"] == {"saved": 1}
    said = run(fleet, "scrub", status=1)
    assert "realm eu: PostgreSQL: these tables are of realm 'asia', and we are realm 'eu'" in said
    assert "Looked at 1 characters" in said
    assert '{"eu":' not in said


def test_wait_is_for_all_realms(fleet: Settings, stores: dict[str, GameStore]) -> None:
    assert set(run_json(fleet, "pending", "--wait", "--timeout", "1000")) == {"eu", "us"}
    for store in stores.values():
        store.create(1, state="exploration")
    left = run_json(fleet, "pending", "--wait", "--timeout", "0.1", status=1)
    assert {realm: unsaved["dirty"] for realm, unsaved in left.items()} == {"eu": 1, "us": 1}


def test_the_doctor_examines_each_realm(worker: Stack, fleet: Settings) -> None:
    found = run_json(fleet, "doctor", status=1)
    checks = {realm: {check["check"]: check for check in checks} for realm, checks in found.items()}
    assert checks["us"]["queue us.backup"]["status"] == "ok"
    assert checks["us"]["beat"]["status"] == "fail"  # none runs
    assert "broker" in checks["eu"]
    assert "broker" not in checks["us"]


@pytest.mark.parametrize("step", ["intended", "inserted", "moved"])
def test_move_whose_process_is_killed_is_taken_up(
    fleet: Settings, stores: dict[str, GameStore], tmp_path: Path, step: str
) -> None:
    stores["eu"].create(1, state="exploration", guild="mine")
    pid_file = tmp_path / "pid"
    env = os.environ | fleet.to_env() | {"STOP_SYNC_AT": f"{step}:{pid_file}"}
    with subprocess.Popen([*STATESYNC, "move", "1", "--to", "us"], env=env) as process:
        wait_until(pid_file.exists)
        process.kill()
    assert "not finished" in run(fleet, "where", "1") or step == "moved"
    assert "`statesync move 1 --to us` goes on" in run(fleet, "where", status=1)
    here = [realm for realm, place in run_json(fleet, "where", "1").items() if place["here"]]
    assert here == ([] if step == "moved" else ["eu"])
    assert run(fleet, "move", "1", "--to", "us") == "1: moved from realm eu to us\n"
    assert "All moves are finished." in run(fleet, "where")
    assert "eu: moved to realm us" in run(fleet, "where", "1")
    assert LoginService(stores["us"]).login(1).character.fields["guild"] == "mine"
    with pytest.raises(CharacterNotFound):
        LoginService(stores["eu"]).login(1)


def test_delete_and_where_tell_that_a_character_has_left(
    fleet: Settings, stores: dict[str, GameStore]
) -> None:
    stores["eu"].create(1, state="exploration")
    run(fleet, "move", "1", "--to", "us")
    said = run(fleet, "delete", "1", "--yes", "--realm", "eu", status=1)
    assert "character 1 has left to realm 'us': delete it there" in said
    assert run(fleet, "delete", "1", "--yes", "--realm", "us") == "1: deleted\n"
    assert "came from realm eu, deleted at" in run(fleet, "where", "1")


def test_move_and_where_need_realms(settings: Settings, fleet: Settings) -> None:
    assert "STATESYNC_REALMS is not set" in run(settings, "where", "1", status=2)
    assert "No realm knows character 1." in run(fleet, "where", "1", status=1)
    assert "neither in Redis nor" in run(fleet, "move", "1", "--to", "us", status=1)


@pytest.mark.slow
def test_backlog_of_one_realm_does_not_hold_up_another(
    worker: Stack, fleet: Settings, stores: dict[str, GameStore], raw: Any
) -> None:
    """The change is saved while most of the backlog waits still."""
    backlog, prefix = 50_000, fleet.for_realm("eu").prefix
    for start in range(0, backlog, 1000):
        with raw.pipeline(transaction=False) as pipe:
            for char_id in range(start + 1, start + 1001):
                pipe.hset(f"{prefix}ac:{char_id}", mapping={"state": "exploration", "gold": 1})
            pipe.sadd(f"{prefix}dirty_accounts", *range(start + 1, start + 1001))
            pipe.execute()
    worker.start_beat()
    eu, us = (GameStateOrchestrator.from_settings(one) for one in fleet.each_realm())
    with eu, us:
        wait_until(lambda: eu.hot.status().counters.get("saved"))
        stores["us"].create(1, state="exploration", guild="saved")
        wait_until(lambda: _row(fleet.for_realm("us"), 1) == "saved")
        assert eu.hot.status().dirty > backlog / 2


def test_one_world_becomes_the_first_realm(
    settings: Settings, embedded: Servers, databases: Databases
) -> None:
    """As docs/realms.md says: drained, its database under another name, migrated."""
    with GameStore(settings) as store:
        store.create(1, state="exploration", guild="old")
    assert run_json(settings, "drain")["done"]
    old = settings.database_url.partition("?")[0].rpartition("/")[2]
    with contextlib.closing(_admin(embedded)) as admin, admin.cursor() as cursor:
        cursor.execute(f'ALTER DATABASE "{old}" RENAME TO "{old}_eu"')
        cursor.execute(f'CREATE DATABASE "{old}_us"')
    url = embedded.database_url(f"{old}_{{realm}}")
    fleet = replace(settings, realms="eu,us", database_url=url)
    assert "not of realm 'eu' yet; run `statesync migrate`" in run(
        fleet, "restore", "1", "--realm", "eu", status=1
    )
    after = {realm: report["after"] for realm, report in run_json(fleet, "migrate").items()}
    assert after["eu"] == after["us"]
    assert run_json(fleet, "restore", "--all-active")["eu"]["outcomes"] == {"restored": 1}
    assert run_json(fleet, "move", "1", "--to", "us")["step"] == "active"
    with GameStore(fleet.for_realm("us")) as store:
        assert LoginService(store).login(1).character.fields["guild"] == "old"
