"""What an operator does is on record before it is done, and its outcome after."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from statesync.durable import actions, database
from statesync.durable.actions import Action
from statesync.hot.store import HotStore
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.web.operations import act
from tests.integration.web.visitors import Visitor

pytestmark = pytest.mark.usefixtures("quarantined")

Recorded = Callable[[], list[Action]]


@pytest.fixture
def recorded(engine: Engine) -> Recorded:
    def read() -> list[Action]:
        with database.transaction(engine) as connection:
            return actions.page(connection, limit=100)

    return read


def test_retry(
    operator: Visitor, orchestrator: GameStateOrchestrator, raw: Any, recorded: Recorded
) -> None:
    raw.hset(orchestrator.hot.keys.core(7), "stats", "{}")
    done = operator.act("/quarantine/retry", name="7")
    (action,) = recorded()
    assert action[2:] == ("olga", "retry", "", "7", "marked: the next sweep tries again")
    assert "retry 7: marked: the next sweep tries again" in operator.text(done.headers["location"])
    assert "olga retry - 7 marked: the next sweep tries again" in operator.text("/actions")
    assert orchestrator.backup_full_state(7).outcome == "saved"
    assert "Nothing is in quarantine" in operator.text("/quarantine")


def test_discard(operator: Visitor, hot: HotStore, recorded: Recorded) -> None:
    operator.act("/quarantine/discard", name="7")
    assert hot.sync_state(7).quarantine is None
    assert [action.what for action in recorded()] == ["discard"]


def test_what_has_failed_is_on_record_too(
    operator: Visitor, hot: HotStore, raw: Any, recorded: Recorded
) -> None:
    raw.delete(hot.keys.core(7))
    for name in ("7", "8", "x\x00\u202e"):
        operator.act("/quarantine/retry", name=name)
    not_a_name, absent, not_loaded = recorded()
    assert (not_loaded.target, absent.target) == ("7", "8")
    assert (not_loaded.outcome or "").startswith("failed: character 7")
    assert absent.outcome == "it was not in quarantine"
    assert (not_a_name.outcome or "").startswith("failed: ")
    assert "\u202e" not in (not_a_name.outcome or "")


def test_nothing_is_done_that_cannot_be_recorded(
    operator: Visitor, hot: HotStore, engine: Engine
) -> None:
    token = operator.csrf_token()
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE operator_actions RENAME TO elsewhere")
    answer = operator.post("/quarantine/retry", csrf_token=token, name="7")
    assert answer.status_code == 503
    assert "statesync migrate" in answer.text
    assert not hot.sync_state(7).dirty


def test_the_record_is_there_before_the_action(
    app: Starlette, operator: Visitor, recorded: Recorded
) -> None:
    seen: list[Action] = []

    def look(_: GameStateOrchestrator) -> str:
        seen.extend(recorded())
        raise RuntimeError("the process ends here")

    def own(request: Request) -> Response:
        return act(request, "look", "7", look, then="/")

    app.router.routes.insert(0, Route("/own", own, methods=["POST"]))
    with pytest.raises(RuntimeError):
        operator.act("/own")
    assert [action[2:] for action in seen] == [("olga", "look", "", "7", None)]
    assert recorded() == seen, "it is cut off: nobody knows how it ended"


def test_the_record_comes_a_page_at_a_time(
    operator: Visitor, engine: Engine, recorded: Recorded
) -> None:
    with database.transaction(engine) as connection:
        for number in range(60):
            actions.begin(connection, who="olga", what="retry", realm="", target=f"id{number}")
    first = operator.get("/actions").text
    assert first.count("<tr>") == 51
    path = first.partition('href="/actions?')[2].partition('"')[0]
    rest = operator.text(f"/actions?{path}")
    assert "id9 -" in rest
    assert "id10 " not in rest
