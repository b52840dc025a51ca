"""The command line, as a person or a script meets it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import Engine, inspect

from statesync import Settings
from statesync.cli import _COMMANDS
from statesync.durable import migrate as migrations
from statesync.durable.migrate import VERSION_TABLE
from statesync.hot.store import HotStore
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from tests.acceptance.command_line import STATESYNC, run, run_json
from tests.acceptance.conftest import wait_until
from tests.conftest import FullCore, NewDatabase
from tests.ports import free_port


@pytest.mark.parametrize("command", _COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    shown = run(None, command, "--help")
    assert "Example" in shown
    assert f"statesync {command}" in shown


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["inspect", "0"], "must be an integer from 1 to 2^63-1"),
        (["inspect", "42; DROP"], "must be an integer from 1 to 2^63-1"),
        (["restore"], "give the IDs"),
        (["drain", "--timeout", "-1"], "-1"),
        (["quarantine", "retry"], "Give one id or more, or --all"),
        (["nonsense"], "No such command"),
    ],
)
def test_wrong_use_is_status_2(settings: Settings, words: list[str], says: str) -> None:
    assert says in run(settings, *words, status=2)


def test_a_wrong_setting_is_status_2_and_a_dead_server_status_1(settings: Settings) -> None:
    env = settings.to_env()
    for change, status, says in [
        ({"STATESYNC_SYNC_SECONDS": "soon"}, 2, "a whole number from 1 to 86400"),
        ({"STATESYNC_SYNC_SECOND": "1"}, 2, "there is no such setting"),
        ({"STATESYNC_REDIS_URL": "redis://:hunter2@127.0.0.1:1/0"}, 1, ":***@127.0.0.1:1"),
    ]:
        ended = subprocess.run(
            [*STATESYNC, "drain", "--timeout", "0"],
            env=os.environ | env | change,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert ended.returncode == status
        assert says in ended.stderr
        assert "hunter2" not in ended.stdout + ended.stderr
        assert "Traceback" not in ended.stderr


def test_migrate_twice(settings: Settings, new_database: NewDatabase) -> None:
    name = new_database(empty=True)
    path = settings.database_url.rpartition("?")[2]
    url = f"postgresql://postgres@/{name}?{path}"
    empty = Settings(redis_url=settings.redis_url, database_url=url)
    assert run_json(empty, "status", status=1)["revision"] is None
    assert run_json(empty, "migrate") == {"before": None, "after": migrations.head()}
    assert "up to date" in run(empty, "migrate")


def test_revision_before_and_after_it_moves_to_a_table_of_its_own(
    settings: Settings, engine: Engine
) -> None:
    migrations.downgrade(engine, "0002")  # the newest one that was kept in the older place
    with engine.begin() as connection:
        for what, suffix in (("TABLE", ""), ("INDEX", "_pkc")):
            connection.exec_driver_sql(
                f"ALTER {what} {VERSION_TABLE}{suffix} RENAME TO alembic_version{suffix}"
            )
    head = migrations.head()
    for revision in ("0002", head):
        if revision == head:
            assert run_json(settings, "migrate") == {"before": "0002", "after": head}
            assert not inspect(engine).has_table("alembic_version")
        status = run_json(settings, "status", status=int(revision != head))
        assert (status["revision"], bool(status["problems"])) == (revision, revision != head)
        checks = run_json(settings, "doctor", "--only", "postgresql", status=int(revision != head))
        (found,) = (check for check in checks if check["check"] == "migrations")
        assert found["found"] == f"revision {revision}"


def test_status_inspect_drain_restore(
    settings: Settings, hot: HotStore, raw: Any, full_core: FullCore
) -> None:
    for i in range(1, 31):
        hot.create(i, **full_core(i))
    hot.heartbeat()
    assert run_json(settings, "status")["dirty"] == 30
    assert "dirty" in run(settings, "status")
    assert run_json(settings, "inspect", "7")["postgresql"] is None
    assert run_json(settings, "drain")["outcomes"] == {"saved": 30}
    found = run_json(settings, "inspect", "7")
    of_redis = {"fields": found["redis"]["fields"], "seal": None}  # only a row has one
    assert found["redis"] == found["postgresql"] | of_redis
    raw.delete(f"{settings.prefix}ac:7")
    assert "Hero 7" in run(settings, "inspect", "7")
    assert "7: restored" in run(settings, "restore", "7")
    assert "8: live" in run(settings, "restore", "8", "7")
    assert "not_found" in run(settings, "restore", "99", status=1)
    assert "neither side" in run(settings, "inspect", "99", status=1)


def test_drain_says_what_is_left(settings: Settings, hot: HotStore, full_core: FullCore) -> None:
    hot.create(1, **full_core())
    hot.claim(1, lease_us=settings.lease_us)  # of a worker that does not answer
    left = run_json(settings, "drain", "--timeout", "0.2", status=1)
    assert (left["done"], left["claimed"]) == (False, 1)


def test_quarantine(
    settings: Settings,
    hot: HotStore,
    raw: Any,
    full_core: FullCore,
    orchestrator: GameStateOrchestrator,
) -> None:
    assert "Nothing is in quarantine" in run(settings, "quarantine", "list")
    for i in (1, 2):
        hot.create(i, **full_core(i))
        raw.hset(f"{settings.prefix}ac:{i}", "stats", "{")
        orchestrator.backup_full_state(i)
    assert [e["name"] for e in run_json(settings, "quarantine", "list")] == ["1", "2"]
    shown = run(settings, "quarantine", "show", "1")
    assert "field: stats" in shown
    assert "`statesync quarantine retry 1`" in shown
    assert "not in quarantine" in run(settings, "quarantine", "retry", "3", status=1)
    raw.hset(f"{settings.prefix}ac:1", "stats", "{}")
    assert run_json(settings, "quarantine", "retry", "1")["done"] == ["1"]
    run(settings, "drain")
    assert [e["name"] for e in run_json(settings, "quarantine", "list")] == ["2"]
    raw.delete(f"{settings.prefix}ac:2")
    assert "is not loaded in Redis" in run(settings, "quarantine", "retry", "2", status=1)
    assert hot.status().dirty == 0
    run(settings, "quarantine", "discard", "2")
    assert run_json(settings, "quarantine", "list") == []


def test_celery_refuses_a_wrong_setting_in_one_line() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "statesync", "worker"],
        env=os.environ | {"STATESYNC_LEASE_SECONDS": "0"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode != 0
    assert ended.stderr.strip().endswith("it must be a whole number from 1 to 86400")
    assert "Traceback" not in ended.stderr


class Dev:
    """A running ``statesync dev``, as a person in another terminal meets it."""

    def __init__(self, process: subprocess.Popen[str], port: int, web_port: int) -> None:
        self.process = process
        self.port = port
        self.web_port = web_port
        self.printed = ""
        self.read_until("Ctrl-C stops everything")

    def read_until(self, text: str) -> None:
        assert self.process.stdout
        while text not in self.printed:
            line = self.process.stdout.readline()
            assert line, self.printed
            self.printed += line

    @property
    def exports(self) -> dict[str, str]:
        """The environment of the other terminal after its user has pasted the printed lines."""
        lines = (line.strip() for line in self.printed.splitlines())
        words = (shlex.split(line)[1] for line in lines if line.startswith("export "))
        return dict(word.split("=", 1) for word in words)

    @property
    def settings(self) -> Settings:
        return Settings.from_env({k: v for k, v in self.exports.items() if k != "FLOWER_PORT"})

    def child(self, program: str) -> psutil.Process:
        """The child of which the command line has ``program`` in it."""
        (found,) = (
            child
            for child in psutil.Process(self.process.pid).children()
            if any(program in word for word in child.cmdline())
        )
        return found

    def doctor(self) -> dict[str, dict[str, str]]:
        """What the doctor in the other terminal finds, by check."""
        shown = subprocess.run(
            [*STATESYNC, "doctor", "--json"],
            env=os.environ | self.exports,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return {check["check"]: check for check in json.loads(shown.stdout)}

    def wait_well(self) -> None:
        wait_until(lambda: {check["status"] for check in self.doctor().values()} == {"ok"})


@pytest.fixture
def dev() -> Iterator[Dev]:
    # Within reach of the user that the servers run as, should we be root.
    folder = Path(tempfile.mkdtemp(prefix="statesync-dev-"))
    port, web_port = free_port(), free_port()
    options = ["--folder", str(folder), "--port", str(port), "--sync-seconds", "2"]
    options += ["--web-port", str(web_port)]
    process = subprocess.Popen([*STATESYNC, "dev", *options], stdout=subprocess.PIPE, text=True)
    try:
        with process:
            yield Dev(process, port, web_port)
            process.send_signal(signal.SIGINT)
    finally:
        process.kill()
        shutil.rmtree(folder, ignore_errors=True)


def is_gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_dev_runs_until_it_is_told_to_stop_and_leaves_nothing(
    dev: Dev, number: signal.Signals
) -> None:
    assert "export STATESYNC_REDIS_URL='unix://" in dev.printed
    ours = psutil.Process(dev.process.pid).children(recursive=True)
    assert len(ours) > 5
    dev.child("worker").kill()  # what it leaves behind is ours as well
    dev.process.send_signal(number)
    assert dev.process.wait(60) == 0
    wait_until(lambda: all(is_gone(process) for process in ours))


@pytest.mark.slow
def test_dev_prints_the_environment_that_the_doctor_needs(dev: Dev) -> None:
    defaults = Settings().to_env()
    changed = {k: text for k, text in dev.settings.to_env().items() if text != defaults[k]}
    assert dev.exports == changed | {"FLOWER_PORT": str(dev.port)}
    assert dev.exports["STATESYNC_SYNC_SECONDS"] == "2"
    dev.wait_well()  # the first sweep comes after two seconds
    found = dev.doctor()
    assert found["beat"]["found"].endswith("one every 2 s")
    assert f"127.0.0.1:{dev.port} it asks for a password" in found["flower"]["found"]


@pytest.mark.slow
def test_dev_serves_the_operators_page_and_flower_links_to_it(dev: Dev) -> None:
    page = f"http://127.0.0.1:{dev.web_port}"
    assert f"  page     {page} " in dev.printed
    dev.wait_well()
    wait_until(lambda: b'statesync_up{realm="",server="broker"} 1.0' in read(f"{page}/metrics"))
    assert f"http://127.0.0.1:{dev.port}".encode() in read(f"{page}/")


def read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310
        body: bytes = answer.read()
    return body


@pytest.mark.slow
def test_dev_starts_again_what_ends(dev: Dev) -> None:
    dev.wait_well()
    for program, name in {
        "worker": "worker",
        "beat": "beat",
        "flower": "flower",
        "statesync.cli": "serve",
        "bin/postgres": "PostgreSQL",
        "valkey-server": "Valkey",
    }.items():
        dev.child(program).kill()
        dev.read_until(f"{name} has ended (killed by signal 9); it starts again")
    dev.wait_well()
    with HotStore.from_settings(dev.settings) as hot:
        hot.create(1, state="exploration")
        wait_until(lambda: (status := hot.status()).counters.get("saved") and not status.dirty)


@pytest.mark.slow
def test_the_demo_holds() -> None:
    shown = json.loads(run(None, "demo", "--json").splitlines()[0])
    assert shown["held"] is True
    assert sum(step["held"] is True for step in shown["steps"]) >= 8
