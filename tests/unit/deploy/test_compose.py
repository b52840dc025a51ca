"""What docker-compose.yml and Procfile name exists, and their probes tell the truth."""

from __future__ import annotations

import http.server
import re
import shlex
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest

from statesync.cli.serve import serve
from statesync.settings import PREFIX, Settings
from statesync.worker.config import celery_settings
from tests.unit.deploy.named import ALIVE_PROBE, ROOT, check_command, check_environment, documents

[COMPOSE] = documents(ROOT / "docker-compose.yml")
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = {name: one for name, one in SERVICES.items() if one["image"] == "statesync"}
PROBED = ("serve", "flower")


@pytest.mark.parametrize("name", OURS)
def test_commands_and_variables_exist(name: str) -> None:
    check_command(OURS[name]["command"])
    check_environment(OURS[name]["environment"])


def test_procfile_starts_the_same_processes() -> None:
    lines = (ROOT / "Procfile").read_text().splitlines()
    commands = dict(line.split(": ", 1) for line in lines)
    for command in commands.values():
        check_command(shlex.split(command))
    assert commands.keys() - {"release"} == OURS.keys() - {"migrate"}


def test_variables_of_the_example_are_read() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    offered = re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert {*offered} <= {*re.findall(r"\$\{([A-Z_]+)", text)}


@pytest.mark.parametrize("name", SERVICES)
def test_nothing_fills_the_machine(name: str) -> None:
    service = SERVICES[name]
    assert service["mem_limit"]
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}


def test_the_servers_go_first() -> None:
    assert all(one["cpu_shares"] < 1024 for one in OURS.values())
    assert not {"cpu_shares"} & (SERVICES["valkey"].keys() | SERVICES["postgres"].keys())


@pytest.mark.parametrize("name", [name for name in SERVICES if "ports" in SERVICES[name]])
def test_pages_are_published_on_loopback_alone(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name]["ports"])
    [default] = [option.default for option in serve.params if option.name == "port"]
    assert SERVICES["serve"]["ports"] == [f"127.0.0.1:${{SERVE_PORT:-{default}}}:{default}"]


def test_workers_and_beat_are_asked_by_their_file() -> None:
    for name in ("worker", "restore", "beat"):
        file = OURS[name]["environment"]["STATESYNC_LIVENESS_FILE"]
        assert OURS[name]["healthcheck"]["test"] == ["CMD-SHELL", ALIVE_PROBE.format(file)]


def test_workers_have_time_to_end() -> None:
    soft = celery_settings(Settings())["worker_soft_shutdown_timeout"]
    assert int(OURS["worker"]["stop_grace_period"].strip("s")) > soft + 10


def test_settings_of_the_fleet_reach_its_containers() -> None:
    """All but those that make no sense in it."""
    names = {PREFIX + spec.name.upper() for spec in fields(Settings)}
    names -= {f"{PREFIX}{name}" for name in ("REALM", "REALMS", "BROKER_OPTIONS")}
    names -= {f"{PREFIX}{name}" for name in ("BROKER_URL", "RESULT_URL")}
    assert names <= OURS["serve"]["environment"].keys() | OURS["flower"]["environment"].keys()


class Answers(http.server.BaseHTTPRequestHandler):
    status = 200
    asked: str = ""

    def do_GET(self) -> None:
        type(self).asked = self.path
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def page() -> Iterator[http.server.HTTPServer]:
    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def probe(name: str, port: int) -> bool:
    command = OURS[name]["healthcheck"]["test"][1:]
    command = [re.sub(r"127\.0\.0\.1/\d+", f"127.0.0.1/{port}", word) for word in command]
    return subprocess.run(command, capture_output=True, timeout=60).returncode == 0


@pytest.mark.parametrize(("name", "path"), [("serve", "/live"), ("flower", "/healthcheck")])
def test_a_shell_asks_a_page(
    page: http.server.HTTPServer, name: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = page.server_address[1]
    assert probe(name, int(port))
    assert Answers.asked == path
    monkeypatch.setattr(Answers, "status", 503)
    assert not probe(name, int(port))
    page.shutdown()
    page.server_close()
    assert not probe(name, int(port))
