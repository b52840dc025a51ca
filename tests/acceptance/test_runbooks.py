"""The great events of docs/runbooks.md, with its commands, on real servers."""

from __future__ import annotations

import contextlib
import re
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import redis

from statesync import GameStateOrchestrator, Settings
from statesync.durable import database, migrate
from statesync.durable.rights import missing_grants
from statesync.embedded.child import Child, run_as
from statesync.embedded.servers import Servers, servers, valkey_binary
from statesync.errors import RedisUnavailable
from tests.acceptance import test_rights
from tests.acceptance.command_line import run, run_json
from tests.acceptance.conftest import WAIT_SECONDS, wait_until
from tests.acceptance.documented import block, script
from tests.acceptance.going_back import Play
from tests.ports import free_port

PAGE = "runbooks.md"
name, migrated = test_rights.name, test_rights.migrated


@contextlib.contextmanager
def playing(settings: Settings) -> Iterator[Play]:
    with contextlib.ExitStack() as exits:
        engine = database.connect(settings)
        exits.callback(engine.dispose)
        orchestrator = GameStateOrchestrator.from_settings(settings)
        exits.callback(orchestrator.close)
        raw = exits.enter_context(redis.Redis.from_url(settings.redis_url))
        play = Play(settings, orchestrator, engine, raw)
        exits.callback(lambda: play.store.close())  # noqa: PLW0108 - it may be another one by then
        yield play


class Archived:
    """A PostgreSQL that archives its log, as the page sets it up."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        text = script(PAGE, "# postgresql.conf")
        self.config = dict(re.findall(r"(\w+) = ('[^']*'|\w+)", text.partition("\n")[0]))
        self.config = {key: self.here(value.strip("'")) for key, value in self.config.items()}
        self.base = self.here(text.partition("\n")[2])

    def here(self, text: str) -> str:
        return text.replace("/archive", f"{self.folder}/archive").replace(
            "/backup", f"{self.folder}/backup"
        )

    def sh(self, running: Servers, commands: str) -> None:
        """Run commands as the server's user."""
        programs = Path(running.postgres.command[0]).parent
        env = {"PGHOST": str(running.sockets), "PGUSER": "postgres"}
        env |= {"PATH": f"{programs}:/usr/bin:/bin", "PGDATA": f"{self.folder}/postgres"}
        user = run_as(running.postgres.user)
        ran = subprocess.run(
            ["sh", "-e", "-c", commands], env=env, cwd=self.folder, capture_output=True, **user
        )
        assert ran.returncode == 0, ran.stderr


@pytest.mark.slow
def test_postgresql_to_a_point_in_time() -> None:
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o755)
        archived = Archived(Path(parent) / "servers")
        with servers(archived.folder, postgres_config=archived.config) as running:
            archived.sh(running, "mkdir archive backup")
            engine = database.connect(running.settings())
            migrate.upgrade(engine)
            engine.dispose()
            with playing(running.settings()) as play:
                restore_to_a_moment(play, running, archived)


def restore_to_a_moment(play: Play, running: Servers, archived: Archived) -> None:
    play.save(1, gold=1)
    archived.sh(running, archived.base)
    for char_id in (2, 3):
        play.save(char_id, gold=2)
        play.service.logout(char_id)
    moment = datetime.now(UTC)
    play.service.login(3)
    play.store.update(3, gold=30, durable=True)
    play.service.logout(3)
    play.store.update(1, gold=10, durable=True)
    play.save(4, gold=40)
    running.postgres.stop()
    commands = archived.here(script(PAGE, "cp -n $PGDATA"))
    assert "2026-11-26 03:00:00+00" in commands
    archived.sh(running, commands.replace("2026-11-26 03:00:00+00", moment.isoformat(" ")))
    running.start_postgres()
    for engine in (play.engine, play.orchestrator.engine):
        engine.dispose()  # its connections are to the one that was stopped
    wait_until(lambda: not recovering(play))
    assert play.row(1) == {"gold": "1"}
    assert play.row(4) is None
    found = run_json(play.settings, "recover")
    assert [one["char_id"] for one in found["losses"][0]["not_live"]] == [3]
    gold = {char_id: play.row(char_id) for char_id in (1, 2, 3, 4)}
    assert gold == {1: {"gold": "10"}, 2: {"gold": "2"}, 3: {"gold": "2"}, 4: {"gold": "40"}}


def recovering(play: Play) -> bool:
    with play.engine.begin() as connection:
        answer: bool = connection.exec_driver_sql("SELECT pg_is_in_recovery()").scalar_one()
    return answer


def test_rows_that_somebody_has_deleted_come_back_from_who_is_live(play: Play) -> None:
    play.save(1, gold=10)
    play.save(2, gold=20)
    with play.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM characters")
    run(play.settings, "scrub")
    play.sweep()
    assert (play.row(1), play.row(2)) == ({"gold": "10"}, {"gold": "20"})
    [loss] = run_json(play.settings, "status")["losses"]
    assert loss["side"] == "postgresql"


def test_a_character_that_was_deleted_in_redis_comes_back_as_it_was_saved(play: Play) -> None:
    play.save(1, gold=10)
    play.store.update(1, gold=11)
    play.raw.delete(play.hot.keys.core(1))
    play.sweep()
    [entry] = run_json(play.settings, "quarantine", "list")
    assert "gone from Redis" in entry["error"]
    run(play.settings, "restore", "1")
    run(play.settings, "quarantine", "discard", "1")
    assert play.core(1) == play.row(1) == {"gold": "10"}
    assert play.hot.list_quarantine() == (0, [])
    play.store.update(1, gold=12, durable=True)
    assert play.row(1) == {"gold": "12"}


class Valkey:
    """One on a port, as on a machine of its own."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        config = folder / f"{self.port}.conf"
        home = folder / str(self.port)
        home.mkdir()
        config.write_text(
            f"bind 127.0.0.1\nport {self.port}\ndir {home}\nappendonly yes\nsave ''\n"
            "requirepass secret\nmaxmemory-policy noeviction\n"
        )
        command = [str(valkey_binary()), str(config)]
        self.child = Child("Valkey", command, folder / f"{self.port}.log", cwd=folder)
        self.url = f"redis://:secret@127.0.0.1:{self.port}/0"
        self.client: Any = redis.Redis.from_url(self.url, decode_responses=True)

    def is_ready(self) -> bool:
        with contextlib.suppress(redis.RedisError):
            return bool(self.client.ping())
        return False


@pytest.fixture
def two_valkeys(tmp_path: Path) -> Iterator[list[Valkey]]:
    both = [Valkey(tmp_path), Valkey(tmp_path)]
    for one in both:
        one.child.start()
        one.child.wait_ready(one.is_ready)
    yield both
    for one in both:
        one.client.close()
        one.child.kill()


@pytest.mark.slow
def test_redis_moves_and_nothing_is_lost(two_valkeys: list[Valkey], settings: Settings) -> None:
    old, new = two_valkeys
    there, then = (
        replace(settings, redis_url=one.url, broker_url="", result_url="") for one in (old, new)
    )
    with playing(there) as play:
        for char_id in (1, 2, 3):
            play.save(char_id, gold=1)
        play.store.update(2, gold=2)
        move(old, new, lambda: play.store.update(3, gold=3))
    with playing(then) as play:
        assert play.row(2) == {"gold": "1"}
        run(play.settings, "scrub")
        play.sweep()
        gold = [play.row(char_id) for char_id in (1, 2, 3)]
        assert gold == [{"gold": "1"}, {"gold": "2"}, {"gold": "1"}]
        assert not run_json(play.settings, "status")["losses"]
        assert not play.hot.status().counters.get("redis_went_back")


def move(old: Valkey, new: Valkey, play_on: Any) -> None:
    """Move as the page says, while somebody plays on."""
    old.client.execute_command(
        "ACL", "SETUSER", "mover", "on", ">m", "+psync", "+replconf", "+ping"
    )
    for line in block(PAGE, "CONFIG SET masteruser"):
        filled = line.replace("USER", "mover").replace("PASSWORD", "m")
        filled = filled.replace("old.example.com 6379", f"127.0.0.1 {old.port}")
        new.client.execute_command(*filled.split())
    wait_until(lambda: new.client.info("replication")["master_link_status"] == "up")
    old.client.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")
    raised: list[Exception] = []

    def wait() -> None:
        try:
            play_on()
        except RedisUnavailable as error:
            raised.append(error)

    player = threading.Thread(target=wait)
    player.start()
    wait_until(lambda: offset_of(old) == offset_of(new))
    new.client.execute_command("REPLICAOF", "NO", "ONE")
    new.client.config_set("masterauth", "")
    with contextlib.suppress(redis.ConnectionError):
        old.client.execute_command("SHUTDOWN", "NOSAVE")
    assert old.child.process
    old.child.process.wait(WAIT_SECONDS)
    player.join()
    assert raised


def offset_of(one: Valkey) -> int:
    return int(one.client.info("replication")["master_repl_offset"])


def test_a_password_of_redis_rotates_under_play(two_valkeys: list[Valkey]) -> None:
    server = two_valkeys[0]
    server.client.execute_command("ACL", "SETUSER", "statesync", "on", ">before", "~*", "+@all")

    def login(password: str) -> Any:
        url = server.url.replace(":secret@", f"statesync:{password}@")
        client = redis.Redis.from_url(url)
        client.ping()
        return client

    first, second, _ = block(PAGE, "ACL SETUSER statesync >NEW")
    with login("before") as open_connection:
        server.client.execute_command(*first.replace("NEW", "after").split())
        login("before").close()
        login("after").close()
        server.client.execute_command(*second.replace("OLD", "before").split())
        login("after").close()
        with pytest.raises(redis.AuthenticationError):
            login("before")
        assert open_connection.ping()


def test_a_password_of_postgresql_rotates_by_a_second_role(
    migrated: str, embedded: Servers, settings: Settings
) -> None:
    create, close = block(PAGE, "CREATE ROLE statesync_worker_2")
    test_rights.run_as(embedded, migrated, "postgres", [create])
    try:
        old = test_rights.as_role(settings, migrated, "statesync_worker")
        new = test_rights.as_role(settings, migrated, "statesync_worker_2")
        with database.transaction(database.connect(old)) as connection:
            test_rights.run_as(embedded, migrated, "postgres", [close])
            assert connection.exec_driver_sql("SELECT 1").scalar() == 1
        with playing(new) as play:
            with database.transaction(play.engine) as connection:
                assert not missing_grants(connection)
            play.save(1, gold=1)
            assert play.row(1) == {"gold": "1"}
        with pytest.raises(psycopg2.OperationalError, match="not permitted to log in"):
            test_rights.run_as(embedded, migrated, "statesync_worker", ["SELECT 1"])
    finally:
        test_rights.run_as(embedded, migrated, "postgres", ["DROP ROLE statesync_worker_2"])


def test_everything_but_postgresql_is_lost(play: Play, raw: Any) -> None:
    play.save(1, gold=10)
    play.save(2, gold=20)
    play.store.open_session("combat", [1, 2], {"monsters": ["rat"]})
    play.sweep()
    play.store.update(1, gold=11)  # not saved
    raw.flushdb()
    play.sweep()
    [loss] = run_json(play.settings, "status")["losses"]
    assert loss["side"] == "redis"
    run(play.settings, "restore", "--all-active")
    assert (play.core(1) or {})["gold"] == "10"
    assert (play.core(2) or {})["gold"] == "20"
    assert (play.core(1) or {})["combat_session_id"] == (play.core(2) or {})["combat_session_id"]
    play.store.update(1, gold=12, durable=True)
    assert (play.row(1) or {})["gold"] == "12"
