"""The doctor: each thing that can be wrong is found, and named with what to do."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis
from kombu import Connection
from sqlalchemy import Engine

from statesync import Settings
from statesync.embedded.servers import Servers
from statesync.embedded.stack import Stack
from statesync.hot.store import HotStore
from statesync.lifecycle import servers
from statesync.observe.broker_rights import COMMANDS, lacking_rights
from statesync.worker.names import QueueName
from tests.acceptance.command_line import STATESYNC, run, run_json
from tests.acceptance.conftest import Game, wait_until
from tests.conftest import NewDatabase
from tests.ports import free_port


def examine(settings: Settings, *groups: str, status: int = 0) -> dict[str, dict[str, str]]:
    """Return what the doctor found, by check."""
    only = [word for group in groups for word in ("--only", group)]
    found: list[dict[str, str]] = run_json(settings, "doctor", *only, status=status)
    assert all(check["status"] == "ok" or check["do"] for check in found)
    assert status == any(check["status"] == "fail" for check in found)
    return {check["check"]: check for check in found}


def statuses(found: dict[str, dict[str, str]]) -> dict[str, str]:
    return {name: check["status"] for name, check in found.items()}


@pytest.fixture
def configured(raw: Any) -> Iterator[Any]:
    """Redis, to be configured, and as it was afterwards."""
    names = ("maxmemory-policy", "maxmemory", "appendonly")
    before = {name: raw.config_get(name)[name] for name in names}
    yield raw
    for name, value in before.items():
        raw.config_set(name, value)


@pytest.mark.usefixtures("celery_setup")
class TestAllWell:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return replace(settings, sync_seconds=1)

    def test_with_worker_and_beat_nothing_fails(
        self, game: Game, stack: Stack, configured: Any, hot: HotStore
    ) -> None:
        configured.config_set("appendonly", "yes")
        configured.config_set("maxmemory-policy", "noeviction")
        hot.create(1, state="exploration")
        beat = stack.start_beat()
        wait_until(lambda: hot.figures().sweep_ms is not None)
        # A sweep comes every second, or later on a busy machine: not the doctor's business here.
        found = examine(replace(game.settings, sync_seconds=60))
        assert set(statuses(found).values()) == {"ok"}
        assert {"redis", "eviction", "persistence", "time to live", "postgresql", "migrations"} < {
            *found
        }
        assert {"clocks", "broker", "databases", "visibility timeout", "beat", "flower"} < {*found}
        assert {"rights", "session types"} < {*found}
        assert {"queue restore", "queue sync", "queue backup", "versions"} < {*found}
        assert "noeviction" in run(game.settings, "doctor", "--only", "redis")
        unlike = self.where_another_type_is_known(game.settings)
        assert unlike["status"] == "warn"
        assert "does not know dungeon" in unlike["found"]
        raid = str(uuid4())
        configured.hset(hot.keys.session("raid", raid), "participants", "[2]")
        hot.create(2, state="exploration", raid_session_id=raid)
        unsaved = examine(game.settings, "workers", status=1)["session types"]
        assert unsaved["status"] == "fail"
        assert "no worker knows raid (1)" in unsaved["found"]
        beat.kill()
        wait_until(lambda: (hot.figures().sweep_ms or 0) > 3000)
        assert "beat" in examine(game.settings, "beat", status=1)["beat"]["do"]

    @staticmethod
    def where_another_type_is_known(settings: Settings) -> dict[str, str]:
        """Return what the doctor says of session types in a process that has one more."""
        program = (
            "import statesync\n"
            "@statesync.register\n"
            "class Dungeon(statesync.SessionOrchestrator):\n"
            "    session_type, states = 'dungeon', ('dungeon',)\n"
            "    def save(self, connection, sessions): return {}\n"
            "    def load(self, connection, char_ids): return {}\n"
            "from statesync.cli import main\n"
            "main()"
        )
        ended = subprocess.run(
            [sys.executable, "-c", program, "doctor", "--only", "workers", "--json"],
            env=os.environ | settings.to_env(),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        checks = {check["check"]: check for check in json.loads(ended.stdout)}
        found: dict[str, str] = checks["session types"]
        return found


def test_no_worker(stack: Stack, settings: Settings) -> None:
    found = examine(settings, "workers", "beat", status=1)
    is_failed = {name for name, status in statuses(found).items() if status == "fail"}
    assert is_failed == {"queue restore", "queue sync", "queue backup", "beat"}
    assert "-Q restore" in found["queue restore"]["do"]
    assert "beat sends none" in found["beat"]["found"]
    assert found["beat"]["do"].startswith("start `celery -A statesync beat`")


def test_beat_without_a_worker(stack: Stack, settings: Settings, hot: HotStore) -> None:
    queue = settings.queue(QueueName.SYNC)
    hot.create(1)
    with Connection(settings.broker_url) as connection:
        broker: Any = connection.default_channel
        broker = broker.client
        broker.lpush(queue, "a slice")
        try:
            found = examine(settings, "beat", status=1)["beat"]
            (problem,) = run_json(settings, "status", status=1)["problems"]
        finally:
            broker.delete(queue)
    assert f"1 message waits in the queue {queue}, so beat runs" in found["found"]
    assert found["do"] == "start `celery -A statesync worker`, which serves all queues"
    assert found["do"] in problem


def test_beat_behind_a_broker_that_is_away(settings: Settings) -> None:
    away = replace(settings, broker_url=f"redis://127.0.0.1:{free_port()}/1")
    assert "see what the check of the broker" in examine(away, "beat", status=1)["beat"]["do"]


def test_eviction_and_persistence(settings: Settings, configured: Any) -> None:
    configured.config_set("appendonly", "no")
    configured.config_set("maxmemory-policy", "allkeys-lru")
    configured.config_set("maxmemory", "0")
    found = examine(settings, "redis")
    assert (found["eviction"]["status"], found["persistence"]["status"]) == ("warn", "warn")
    configured.config_set("maxmemory", str(4 * 2**30))
    found = examine(settings, "redis", status=1)
    assert found["eviction"]["status"] == "fail"
    assert "noeviction" in found["eviction"]["do"]


def test_a_snapshot_that_cannot_be_written(settings: Settings, hot: HotStore, raw: Any) -> None:
    def is_idle() -> bool:
        told = raw.info("persistence")
        return not (told["rdb_bgsave_in_progress"] or told["aof_rewrite_in_progress"])

    def save() -> None:
        wait_until(is_idle)
        raw.bgsave(schedule=False)
        wait_until(is_idle)

    snapshot = Path(*(raw.config_get(name)[name] for name in ("dir", "dbfilename")))
    hot.create(1)
    assert hot.figures().unwritten == ""
    snapshot.unlink(missing_ok=True)
    snapshot.mkdir()  # as a disk that is full, for a server that runs as root
    try:
        save()
        found = examine(settings, "redis", status=1)["persistence"]
        assert "the last snapshot could not be written" in found["found"]
        assert hot.figures().unwritten in found["found"]
        assert "the game stands still" in found["found"]
        problem, no_sweep = run_json(settings, "status", status=1)["problems"]
        assert problem == f"Redis: {found['found']}"
        beat = examine(settings, "beat", status=1)["beat"]
        for told in (no_sweep, beat["found"]):
            assert "Redis takes no changes" in told
            assert "start" not in told.replace("restart nothing", ""), "beat is not to blame"
    finally:
        snapshot.rmdir()
        save()
    assert "snapshot" not in examine(settings, "redis")["persistence"]["found"]


def test_scrubs_that_do_not_come_to_their_end(settings: Settings, hot: HotStore, raw: Any) -> None:
    hot.heartbeat()
    assert "none has come to its end yet" in examine(settings, "beat")["scrub"]["found"]
    hot.note_scrub()
    assert examine(settings, "beat")["scrub"]["status"] == "ok"
    long_ago = hot.examine([]).now_us // 1000 - 3100 * settings.scrub_seconds
    raw.set(hot.keys.scrubbed, long_ago)
    assert examine(settings, "beat")["scrub"]["status"] == "warn"
    off = examine(replace(settings, scrub_seconds=0), "beat")["scrub"]
    assert (off["status"], "off" in off["found"]) == ("ok", True)


def test_memory_that_is_almost_full(
    settings: Settings, configured: Any, hot: HotStore, engine: Engine
) -> None:
    servers.count_sweep(hot, engine)
    used = int(configured.info("memory")["used_memory"])
    for limit, status in ((4 * used, "ok"), (used + used // 10, "warn")):
        configured.config_set("maxmemory", limit)
        memory = examine(settings, "redis")["memory"]
        assert memory["status"] == status
        grown = r"% of maxmemory; [+-]\d+ MiB in the last 0 minutes"  # others use the server, too
        assert re.search(grown, memory["found"])
    assert "log out" in memory["do"]
    configured.config_set("maxmemory", used // 2)
    assert examine(settings, "redis", status=1)["memory"]["status"] == "fail"
    assert "% of maxmemory" in run_json(settings, "status", status=1)["problems"][0]
    workers = examine(settings, "workers", status=1)["workers"]
    assert "OutOfMemory" in workers["found"]
    assert "statesync drain" in workers["do"]
    configured.config_set("maxmemory", 0)
    assert "% of the machine's memory" in examine(settings, "redis")["memory"]["found"]


def test_a_core_that_expires(settings: Settings, hot: HotStore, raw: Any) -> None:
    for char_id in (1, 2):
        hot.create(char_id, state="exploration")
    raw.expire(hot.keys.core(2), 100)
    found = examine(settings, "redis", status=1)["time to live"]
    assert "1 of 2 cores would expire: 2" in found["found"]


def test_tables_that_are_not_there(settings: Settings, new_database: NewDatabase) -> None:
    path = settings.database_url.rpartition("?")[2]
    url = f"postgresql://postgres@/{new_database(empty=True)}?{path}"
    found = examine(replace(settings, database_url=url), "postgresql", status=1)
    assert statuses(found) == {
        "postgresql": "ok",
        "time limits": "ok",
        "migrations": "fail",
        "rights": "ok",
    }
    assert "statesync migrate" in found["migrations"]["do"]
    assert found["migrations"]["found"] == "no tables yet"


@contextlib.contextmanager
def role(engine: Engine, settings: Settings, name: str, *statements: str) -> Iterator[Settings]:
    """Make a role of PostgreSQL, and give settings that log in as it."""
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    try:
        yield replace(settings, database_url=settings.database_url.replace("postgres@", f"{name}@"))
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"DROP OWNED BY {name}")
            connection.exec_driver_sql(f"DROP ROLE {name}")


def test_rights_that_are_missing(settings: Settings, engine: Engine) -> None:
    may_read = "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader"
    with role(engine, settings, "reader", "CREATE ROLE reader LOGIN", may_read) as reader:
        found = examine(reader, "postgresql", status=1)
    assert found["rights"]["status"] == "fail"
    assert "GRANT INSERT, UPDATE ON characters TO reader" in found["rights"]["do"]
    nobody = settings.database_url.replace("postgres@", "nobody_here@")
    found = examine(replace(settings, database_url=nobody), "postgresql", status=1)
    assert "start it" not in found["postgresql"]["do"]


def test_a_database_that_takes_no_writes(settings: Settings, engine: Engine) -> None:
    made = "CREATE ROLE frozen LOGIN SUPERUSER"
    takes_no_writes = "ALTER ROLE frozen SET default_transaction_read_only = on"
    with role(engine, settings, "frozen", made, takes_no_writes) as frozen:
        found = examine(frozen, "postgresql", status=1)
    assert found["postgresql"]["status"] == "fail"
    assert "default_transaction_read_only" in found["postgresql"]["do"]
    assert "takes no writes" in found["postgresql"]["found"]


def test_broker_and_state_on_one_database(settings: Settings) -> None:
    db = settings.redis_url.rpartition("=")[2]
    shared = replace(settings, broker_url=settings.broker_url.rpartition("=")[0] + f"={db}")
    assert examine(shared, "broker", status=1)["databases"]["status"] == "fail"
    assert examine(settings, "broker")["databases"]["status"] == "ok"


def test_each_command_that_the_broker_lacks_is_named(embedded: Servers, raw: Any) -> None:
    raw.execute_command("ACL", "SETUSER", "poor", "reset", "on", ">word", "~sync", "&*", "+@all")
    url = embedded.redis_url(1).replace("unix://", "unix://poor:word@")
    with redis.Redis.from_url(url) as client:
        # The question itself takes the others: the refusal names them.
        for command in set(COMMANDS) - {"evalsha", "script|load"}:
            raw.execute_command("ACL", "SETUSER", "poor", f"-{command}")
            assert lacking_rights(client, queue="sync", channel="pidbox") == [f"+{command}"]
            raw.execute_command("ACL", "SETUSER", "poor", f"+{command}")
        assert lacking_rights(client, queue="sync", channel="pidbox") == []
        with pytest.raises(redis.exceptions.NoPermissionError):
            lacking_rights(client, queue="backup", channel="pidbox")
    raw.execute_command("ACL", "DELUSER", "poor")


@pytest.mark.parametrize(
    ("topology", "broker"),
    [("single", "Valkey"), ("rabbitmq", "RabbitMQ 3."), ("sentinel", "database 1 of Valkey")],
    indirect=["topology"],
)
def test_broker_and_results_of_each_kind(settings: Settings, broker: str) -> None:
    found = examine(settings, "redis", "broker", "results")
    assert broker in found["broker"]["found"]
    assert found["messages"]["found"] == "waiting: restore 0, sync 0, backup 0"
    assert "database 2 of Valkey" in found["results"]["found"]
    assert run_json(settings, "status")["queues"] == {"restore": 0, "sync": 0, "backup": 0}


@pytest.mark.slow
def test_every_server_that_is_away_is_a_check_that_failed(unreachable: Settings) -> None:
    nowhere = replace(
        unreachable,
        redis_url="redis://:hunter2@127.0.0.1:1/0",
        broker_url="redis://:hunter2@127.0.0.1:1/1",
        result_url="redis://:hunter2@127.0.0.1:1/2",
    )
    found = examine(nowhere, status=1)
    assert {n for n, s in statuses(found).items() if s == "fail"} == {
        "redis",
        "postgresql",
        "backlog",
        "troubles",
        "conflicts",
        "clocks",
        "broker",
        "results",
        "workers",
        "beat",
    }
    assert "hunter2" not in str(found)


def test_a_flower_without_a_password(settings: Settings) -> None:
    port = str(free_port())

    def ask(**more: str) -> str:
        return subprocess.run(
            [*STATESYNC, "doctor", "--only", "flower"],
            env=os.environ | settings.to_env() | {"FLOWER_PORT": port} | more,
            capture_output=True,
            text=True,
            timeout=60,
        ).stdout

    assert "none at" in ask()
    assert "unset FLOWER_UNAUTHENTICATED_API" in ask(FLOWER_UNAUTHENTICATED_API="1")
    # Without our application, which gives it a password if nothing else does.
    words = ["--broker", settings.broker_url, "flower", f"--port={port}", "--address=127.0.0.1"]
    flower = subprocess.Popen([sys.executable, "-m", "celery", *words], cwd=tempfile.gettempdir())
    try:
        wait_until(lambda: "set FLOWER_BASIC_AUTH" in ask())
    finally:
        flower.kill()
        flower.wait()


def test_wrong_use(settings: Settings) -> None:
    run(settings, "doctor", "--only", "moon", status=2)
