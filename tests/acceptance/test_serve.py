"""`statesync serve` as a process: it answers whatever is away, and ends when it is told to."""

from __future__ import annotations

import signal
import socket
from dataclasses import replace

import psutil
import pytest
from click.testing import CliRunner

from statesync import GameStateOrchestrator, Settings
from statesync.cli import serve as serve_command
from statesync.embedded.child import Child
from statesync.embedded.servers import Servers
from statesync.embedded.stack import Stack
from statesync.hot.store import HotStore
from tests.acceptance.command_line import run
from tests.acceptance.conftest import TOPOLOGIES, wait_until
from tests.acceptance.serving import serving, up
from tests.databases import Databases

STRANGERS = (
    "GET / HTTP/1.1\nHost: 127.0.0.1\nX-Forwarded-For: 127.0.0.1\n\n",
    "GET / HTTP/1.1\nHost: 127.0.0.1\nForwarded: for=127.0.0.1\n\n",
    "GET / HTTP/1.1\nHost: rebound.example\n\n",
    "GET http://127.0.0.1/ HTTP/1.1\nHost: rebound.example\n\n",
    "GET / HTTP/1.0\nHost: 127.0.0.1\n\n",
    "GET / HTTP/1.0\n\n",
    "GET /static/../actions HTTP/1.1\nHost: rebound.example\nConnection: close\n\n",
)
"""They come from this machine's address, and from elsewhere."""


def test_it_answers_and_ends(settings: Settings, stack: Stack) -> None:
    with serving(settings) as serve:
        assert serve.get("/live") == (200, "live\n")
        wait_until(lambda: serve.get("/ready") == (200, "ready\n"))
        wait_until(lambda: up(serve) == dict.fromkeys(("redis", "postgresql", "broker"), 1))
        assert serve.scrape().by("queue_messages", "queue") == {
            settings.queue(name): 0 for name in ("restore", "sync", "backup")
        }
        assert serve.get("/")[0] == 200
        for stranger in STRANGERS:
            assert serve.status_of(stranger) in (400, 401, 404), stranger
        assert serve.end(signal.SIGINT) == 0
        assert serve.process.stdout and serve.process.stderr
        assert serve.process.stdout.read().startswith(f"{serve.url}/\n")
        assert serve.process.stderr.read() == ""


@pytest.mark.slow
@pytest.mark.usefixtures("stack")
@pytest.mark.parametrize("topology", TOPOLOGIES, indirect=True)
def test_other_servers_are_looked_at_too(
    settings: Settings, orchestrator: GameStateOrchestrator
) -> None:
    orchestrator.hot.create(1, state="exploration")
    orchestrator.backup_full_state(1)
    orchestrator.hot.update(1, state="combat")
    with serving(settings) as serve:
        wait_until(lambda: {*up(serve, settings.realm).values()} == {1})
        seen = serve.scrape()
    values = [
        seen.get(name, realm=settings.realm)
        for name in ("dirty_characters", "change_to_durable_seconds_count", "commit_seconds_count")
    ]
    assert values == [1, 1, 1]


def test_a_port_that_is_taken_is_named(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        shown = run(settings, "serve", "--port", str(port), status=1)
    assert f"cannot listen on 127.0.0.1, port {port}" in shown
    assert "in use" in shown


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_command, "find_spec", lambda name: name != "uvicorn" or None)
    result = CliRunner().invoke(serve_command.serve, [])
    assert result.exit_code == 1
    assert "pip install 'statesync[web]'" in result.output


def with_backends(*children: Child) -> list[psutil.Process]:
    """Return processes and all that they have started."""
    processes = []
    for child in children:
        assert child.process
        main = psutil.Process(child.process.pid)
        processes += [main, *main.children(recursive=True)]
    return processes


@pytest.mark.slow
def test_servers_that_are_frozen_take_neither_the_page_nor_its_end_away(
    own_servers: Servers, own_databases: Databases
) -> None:
    name = own_databases.take()
    settings = own_servers.settings(database_url=own_servers.database_url(name))
    with serving(settings) as serve:
        wait_until(lambda: {*up(serve).values()} == {1})
        processes = with_backends(own_servers.valkey, own_servers.postgres)
        try:
            for process in processes:
                process.send_signal(signal.SIGSTOP)
            wait_until(lambda: {*up(serve).values()} == {0})
            for path in ("/live", "/ready", "/", "/metrics", "/quarantine"):
                assert serve.get(path)[0] in (200, 503), path
            assert serve.scrape().get("dirty_characters") is None
            assert serve.end(signal.SIGTERM) == 0
        finally:
            for process in processes:
                process.send_signal(signal.SIGCONT)
    own_databases.give_back(name)


@pytest.mark.slow
def test_workers_and_what_they_do(settings: Settings, stack: Stack, hot: HotStore) -> None:
    stack.settings = settings = replace(settings, sync_seconds=2)
    stack.start_worker()
    stack.start_beat()
    hot.create(1, state="exploration")
    with serving(settings) as serve:
        wait_until(lambda: serve.scrape().get("workers") == 1)
        wait_until(lambda: serve.scrape().get("backups_total", outcome="saved") == 1)
        seen = serve.scrape()
        queues = [settings.queue(name) for name in ("restore", "sync", "backup")]
        assert seen.by("queue_workers", "queue") == dict.fromkeys(queues, 1)
        assert seen.by("check_failed", "check")["workers"] == 0
        assert (seen.get("sweep_age_seconds") or 0) < 60
        assert seen.get("change_to_durable_seconds_count") == 1
