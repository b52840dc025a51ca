"""What real workers log: a line for an event, in both formats; two for a server's trouble."""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import replace
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest

from statesync import Settings
from statesync.embedded.child import Child
from statesync.embedded.servers import Servers
from statesync.hot.store import HotStore
from tests.acceptance.conftest import WAIT_SECONDS, Game, wait_until
from tests.ports import free_port

pytestmark = [pytest.mark.usefixtures("celery_setup"), pytest.mark.slow]

HOSTILE = "\x1b[2J\n[2026-01-01 00:00:00,000: ERROR/MainProcess] forged\u202e"
SHOWN = r"\x1b[2J\n[2026-01-01 00:00:00,000: ERROR/MainProcess] forged\u202e"


@pytest.fixture(params=["text"])
def settings(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    return replace(settings, log_format=request.param, batch_above=10, lease_seconds=5)


def lines(game: Game) -> list[str]:
    """What the worker has logged since it was ready."""
    return game.worker.log.read_text().partition(" ready.")[2].splitlines()[1:]


def events(game: Game) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(game) if line.startswith("{")]


def damage(hot: HotStore, raw: Any, char_id: int) -> None:
    hot.create(char_id, gold=1)
    raw.hset(hot.keys.core(char_id), "stats", json.dumps({HOSTILE: "x"}))


@pytest.mark.parametrize("settings", ["text", "json"], indirect=True)
def test_what_is_saved_refused_and_damaged(
    game: Game, raw: Any, settings: Settings, hot: HotStore
) -> None:
    for char_id in range(1, 31):
        hot.create(char_id, gold=1)
    damage(hot, raw, 31)
    game.sync_until_clean(hot)
    game.call("restore_full_state", 1)
    with pytest.raises(Exception, match="not a character id"):
        game.call("restore_full_state", HOSTILE)
    game.wait_for_log("is not a character id")
    if settings.log_format == "text":
        shown = lines(game)
        assert all(re.match(r"\[2|  ", line) and line.isprintable() for line in shown), shown
        assert [line for line in shown if "31 is quarantined" in line and SHOWN in line]
        assert not [line for line in shown if "received" in line or " 7 " in line]
        return
    found = events(game)
    assert len(found) == len(lines(game)), "each line is an object"
    (batch,) = (e for e in found if e.get("outcomes"))
    assert batch["task"] == "statesync.backup_batch"
    assert batch["outcomes"] == {"saved": 30, "quarantined": 1}
    assert batch["duration_ms"] > 0
    (bad,) = (e for e in found if e.get("outcome") == "quarantined")
    assert (bad["level"], bad["char_id"], bad["task_id"]) == ("error", 31, batch["task_id"])
    assert SHOWN in bad["field"] + bad["error"]
    (login,) = (e for e in found if e.get("outcome") == "live")
    assert (login["char_id"], login["task"]) == (1, "statesync.restore_full_state")
    (wrong,) = (e for e in found if "not a character id" in e.get("error", ""))
    assert (wrong["level"], wrong["task"]) == ("warning", "statesync.restore_full_state")


@pytest.mark.parametrize("settings", ["json"], indirect=True)
def test_beat_flower_and_the_web_server_log_alike(game: Game, settings: Settings) -> None:
    pytest.importorskip("uvicorn", reason="the extra statesync[web] is not installed")
    beat = game.stack.start_beat()
    flower = game.stack.start_flower(free_port(), "x")
    port = free_port()
    log = game.stack.servers.folder / "serve.log"
    command = [sys.executable, "-c", "from statesync.cli import main; main()", "serve"]
    env = {**os.environ, **settings.to_env()}
    serve = Child("serve", [*command, "--port", str(port)], log, env=env)
    serve.start()
    try:
        serve.wait_ready(lambda: b"http://" in log.read_bytes())
        wait_until(lambda: knock(port))
        wait_for(serve, "login refused")
        wait_for(beat, "beat: Starting")
        for child in (serve, beat, flower):
            shown = [line for line in child.log.read_text().splitlines() if line.startswith("{")]
            assert shown, child.log
            assert all({"time", "level", "message"} <= json.loads(line).keys() for line in shown)
        assert all(line.startswith("{") for line in flower.log.read_text().splitlines())
    finally:
        serve.stop()


def knock(port: int) -> bool:
    """Try to log in with a wrong password; False if nobody listens yet."""
    url = f"http://127.0.0.1:{port}"
    form = urlencode({"name": "nobody", "password": "guessed"}).encode()
    request = Request(f"{url}/login", form, {"Origin": url})  # noqa: S310
    try:
        urlopen(request).close()  # noqa: S310
    except HTTPError:
        return True
    except URLError:
        return False
    return True


def test_a_database_that_is_away_is_two_lines_of_each_process(
    game: Game, settings: Settings, hot: HotStore, embedded: Servers
) -> None:
    hot.create(1, gold=1)
    game.sync_until_clean(hot)
    embedded.postgres.stop()
    try:
        sweeps = [game.send("sync_dirty") for _ in range(20)]
        wait_until(lambda: all(sweep.ready() for sweep in sweeps))
        login = game.send("restore_full_state", 2)
        wait_until(lambda: login.state == "RETRY")
        (trouble,) = hot.troubles().values()
        assert "PostgreSQL at" in trouble.error
        assert trouble.works == {"sweep", "restore"}
    finally:
        embedded.start_postgres()
    assert login.get(timeout=WAIT_SECONDS)["outcome"] == "not_found"
    for sweep in [game.send("sync_dirty") for _ in range(10)]:
        sweep.get(timeout=WAIT_SECONDS)
    assert hot.troubles() == {}
    wait_until(lambda: said(game, "ends") == said(game, "begins"))
    assert 1 <= said(game, "begins") <= 2, "a line of each process"
    assert not [line for line in lines(game) if "raised" in line or "retry" in line]


def wait_for(child: Child, line: str) -> None:
    wait_until(lambda: line in child.log.read_text())


def said(game: Game, what: str) -> int:
    return sum(f"trouble {what}: PostgreSQL" in line for line in lines(game))


def test_a_broker_that_is_away_is_two_lines(
    game: Game, settings: Settings, hot: HotStore, embedded: Servers
) -> None:
    beat = game.stack.start_beat()
    wait_until(lambda: hot.status().counters.get("sweeps"))
    embedded.valkey.stop()
    try:
        for child in (game.worker, beat):
            wait_for(child, "trouble begins: the broker")
    finally:
        embedded.start_valkey()
    for child in (game.worker, beat):
        wait_for(child, "trouble ends: the broker")
        log = child.log.read_text()
        assert log.count("trouble begins: the broker") == 1
        assert "Traceback" not in log
        assert "Trying again" not in log
