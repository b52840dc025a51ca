"""What Flower shows, to whom, and what it lets them do."""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any, NamedTuple

import psutil
import pytest
from flower.urls import handlers
from playwright.sync_api import Browser, Page

from statesync import Settings
from statesync.embedded.stack import Stack
from statesync.hot.store import HotStore
from tests.acceptance.conftest import Game, wait_until
from tests.acceptance.test_contract import bare_write
from tests.ports import free_port

LOGIN = "statesync:a password of this test"
OPEN = ("/metrics", "/healthcheck")
PAGE = "http://127.0.0.1:9180/?a=1&b=2"


class Answer(NamedTuple):
    """What Flower said."""

    status: int
    headers: http.client.HTTPMessage
    text: str


class Flower:
    """A running Flower, as somebody with or without its password meets it."""

    def __init__(self, stack: Stack, **env: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        child = stack.start(
            "flower",
            "flower",
            f"--port={self.port}",
            env=env,
        )
        child.wait_ready(lambda: b"Visit me at" in child.log.read_bytes())
        self.child = child

    def ask(self, path: str, *, method: str = "GET", login: str = "", **headers: str) -> Answer:
        """Send a request, with the password if ``login`` says so."""
        if login:
            headers["Authorization"] = f"Basic {encoded(login)}"
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read().decode())

    def read(self, path: str) -> Any:
        """Return what the API says to who has the password."""
        answer = self.ask(path, login=LOGIN)
        assert answer.status == 200, answer.text
        return json.loads(answer.text)


@pytest.fixture
def flower(stack: Stack) -> Flower:
    return Flower(stack, FLOWER_BASIC_AUTH=LOGIN, STATESYNC_WEB_URL=PAGE)


def handler_paths() -> Iterator[tuple[str, type]]:
    """Every path that Flower answers, with a worker or task put in, and what answers it."""
    for rule in handlers:
        pattern, handler = (
            (rule.regex.pattern, rule.handler_class) if hasattr(rule, "regex") else rule[:2]
        )
        path = pattern.rstrip("$").replace("(.+)", "x").replace("(.*)", "x").replace("/?", "")
        yield path.replace(".*", "/nothing/here"), handler


STRANGE_PATHS = (
    *("//metrics", "/metrics/", "/metrics/../workers", "/metrics;/workers", "/%6Detrics"),
    *("/METRICS", "/healthcheck/x", "/metrics%00", "/static/../options.py", "/events", "/ws"),
)


def encoded(login: str) -> str:
    return base64.b64encode(login.encode()).decode()


WRONG_LOGINS = (
    *("Basic", "Basic %%%", "Basic Og==", f"Basic {encoded('statesync:wörd')}", "Basic /w=="),
    *(f"Bearer {encoded(LOGIN)}", f"Basic {encoded(LOGIN[:-1])}", f"Basic {encoded(LOGIN)}!"),
)


def test_by_default_two_pages_are_open_on_loopback_and_nothing_else_answers_a_stranger(
    stack: Stack,
) -> None:
    flower = Flower(stack)
    assert flower.child.process
    sockets = psutil.Process(flower.child.process.pid).net_connections("inet")
    assert [s.laddr.ip for s in sockets if s.status == psutil.CONN_LISTEN] == ["127.0.0.1"]
    for path in OPEN:
        assert flower.ask(path).status == 200
        assert flower.ask(f"{path}?page=/workers").status == 200
    paths = {path for path, _ in handler_paths()} - {*OPEN}
    assert {"/", "/logout", "/login", "/api/tasks", "/static/x", "/nothing/here"} < paths
    for path in (*paths, *STRANGE_PATHS):
        for method in ("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"):
            answer = flower.ask(path, method=method)
            assert answer.status == 401, (method, path, answer)
            assert answer.text in ("Access denied", ""), (method, path)
    upgrade = flower.ask("/events", Upgrade="websocket", Connection="Upgrade")
    assert upgrade.status == 401
    for authorization in WRONG_LOGINS:
        assert flower.ask("/workers", Authorization=authorization).status == 401, authorization


@pytest.mark.slow
def test_read_only_refuses_all_that_changes_something(flower: Flower, game: Game) -> None:
    # The list of tasks is asked for by POST, too, and is only read.
    changing = [path for path, handler in handler_paths() if "post" in vars(handler)]
    changing = [path for path in changing if path not in ("/tasks/datatable", "/nothing/here")]
    assert len(changing) == 14
    worker = wait_until(lambda: [*flower.read("/api/workers?refresh=1")])[0]
    for path in changing:
        for subject in (worker, "statesync.sync_dirty", "x"):
            answer = flower.ask(path.removesuffix("x") + subject, method="POST", login=LOGIN)
            assert answer.status == 403, (path, subject, answer)
    assert game.call("sync_dirty")["claimed"] == 0


@pytest.fixture
def visitor(chromium: Browser) -> Iterator[Page]:
    """A page of a browser whose user knows the password."""
    username, _, password = LOGIN.partition(":")
    context = chromium.new_context(http_credentials={"username": username, "password": password})
    yield context.new_page()
    context.close()


@pytest.mark.slow
def test_rows_tell_whom_a_task_was_about_and_what_became_of_it(
    flower: Flower, game: Game, settings: Settings, hot: HotStore, raw: Any, visitor: Page
) -> None:
    for char_id in range(1, 121):
        bare_write(raw, settings, char_id, state="exploration")
    for char_id in (7, 8):
        bare_write(raw, settings, char_id, stats="no JSON, but a player's secret")
    game.app.control.enable_events()
    wait_until(lambda: flower.read("/workers?json=1")["data"])
    game.call("sync_dirty")
    wait_until(lambda: not (hot.status().dirty or hot.status().claimed))
    game.call("backup_full_state", 8)
    game.call("restore_full_state", 9)

    def shown() -> set[tuple[str, ...]]:
        rows = visitor.locator("#tasks-table tbody tr").all()
        return {tuple(row.locator("td").all_inner_texts()[:4]) for row in rows}

    def reloaded() -> set[tuple[str, ...]]:
        visitor.goto(f"{flower.url}/tasks")
        visitor.locator("#tasks-table tbody tr td").first.wait_for()
        return shown()

    expected = [
        ("statesync.sync_dirty", "()", "120 characters claimed, 0 left", "SUCCESS"),
        (
            "statesync.backup_batch",
            "120 characters",
            "120 characters: 118 saved, 2 quarantined",
            "SUCCESS",
        ),
        ("statesync.backup_full_state", "(8,)", "character 8: quarantined (stats)", "SUCCESS"),
        ("statesync.restore_full_state", "(9,)", "character 9: live", "SUCCESS"),
    ]
    wait_until(lambda: [line.count("SUCCESS") for line in map(str, reloaded())] == [1] * 4)
    assert shown() == {*expected}
    assert "secret" not in visitor.content()
    search = visitor.locator("input[type=search]")
    search.fill("result:quarantined")
    wait_until(lambda: shown() == {*expected[1:3]})
    search.fill('result:"character 9"')
    wait_until(lambda: shown() == {expected[3]})
    link = visitor.get_by_role("link", name="statesync: what is unsaved, and why")
    assert link.get_attribute("href") == PAGE
