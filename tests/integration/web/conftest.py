"""Fixtures of the operator's page: the application on the servers of a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from starlette.applications import Starlette

from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.lifecycle.realms import Realms
from statesync.settings import Settings
from statesync.web.app import make_app
from statesync.web.metrics import Metrics
from statesync.web.watch import Watch
from tests.integration.web.visitors import OPERATOR, VIEWER, Visitor

MakeApp = Callable[..., Starlette]


@pytest.fixture
def web_settings(settings: Settings) -> Settings:
    """Settings with a viewer and an operator."""
    return replace(settings, web_viewer=":".join(VIEWER), web_operator=":".join(OPERATOR))


@pytest.fixture
def new_app() -> Iterator[MakeApp]:
    """Make applications whose watches have not looked yet: ``app.state.watch.look()`` does."""
    opened: list[Realms] = []

    def make(settings: Settings) -> Starlette:
        realms = Realms(settings, answer_seconds=2.0)
        opened.append(realms)
        made = make_app(realms, Watch(realms))
        made.state.metrics = Metrics(realms, made.state.watch, kept_seconds=0)
        return made

    yield make
    for realms in opened:
        realms.close()


@pytest.fixture
def app(web_settings: Settings, new_app: MakeApp) -> Starlette:
    """The application on the servers of the test."""
    return new_app(web_settings)


@pytest.fixture
def visitor(app: Starlette) -> Visitor:
    """Somebody on this machine."""
    return Visitor(app)


@pytest.fixture
def operator(app: Starlette) -> Visitor:
    """An operator, from elsewhere, who is logged in."""
    made = Visitor(app, peer="10.0.0.9", base="https://ops.example")
    assert made.log_in(*OPERATOR).status_code == 303
    return made


@pytest.fixture
def quarantined(orchestrator: GameStateOrchestrator, raw: Any) -> None:
    """Character 7, which cannot be saved."""
    orchestrator.hot.create(7, state="exploration")
    raw.hset(orchestrator.hot.keys.core(7), "stats", "{no JSON")
    assert orchestrator.backup_full_state(7).outcome == "quarantined"
