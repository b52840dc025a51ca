"""The probes: a process that can answer is ready, whatever is away."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from starlette.applications import Starlette

from statesync.settings import Settings
from tests.integration.web.conftest import MakeApp
from tests.integration.web.visitors import Visitor


def probe(app: Starlette, path: str) -> int:
    """Return the status that a stranger gets."""
    status: int = Visitor(app, peer="10.0.0.9", base="http://10.0.0.1:9180").get(path).status_code
    return status


def test_before_the_first_look_it_lives_and_is_not_ready(app: Starlette) -> None:
    assert (probe(app, "/live"), probe(app, "/ready")) == (200, 503)
    app.state.watch.look("postgresql")
    assert (probe(app, "/live"), probe(app, "/ready")) == (200, 200)


def test_with_every_server_away_it_is_ready(unreachable: Settings, new_app: MakeApp) -> None:
    app = new_app(replace(unreachable, redis_url="redis://127.0.0.1:1/0"))
    app.state.watch.look("redis", "postgresql")
    assert probe(app, "/ready") == 200
    for path in ("/", "/metrics"):
        assert Visitor(app).get(path).status_code == 200


def test_a_watch_that_does_not_look_any_more_is_not_ready(
    app: Starlette, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.state.watch.look("redis")
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 31)
    assert (probe(app, "/live"), probe(app, "/ready")) == (200, 503)


def test_a_head_is_enough(app: Starlette) -> None:
    app.state.watch.look("redis")
    for path in ("/live", "/ready", "/metrics"):
        assert Visitor(app).client.head(path).status_code == 200
