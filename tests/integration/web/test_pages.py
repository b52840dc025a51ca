"""What the operator's page shows: the truth, escaped, also while a server is away."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from html import unescape
from typing import Any

import pytest
from sqlalchemy import Engine
from starlette.applications import Starlette

from statesync import durable
from statesync.durable import database
from statesync.durable.losses import Loss, Side
from statesync.errors import DatabaseUnavailable
from statesync.hot.keys import Keys
from statesync.hot.store import HotStore
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.lifecycle.realms import Realms
from statesync.settings import Settings
from tests.conftest import FullCore
from tests.integration.web.conftest import MakeApp
from tests.integration.web.visitors import OPERATOR, Visitor
from tests.realms import in_schemas
from tests.rewind import Rewind

HOSTILE = "\u202eevil\x1b[31m<script>alert(1)</script>'\"&"
SHOWN = "\\u202eevil\\x1b[31m<script>alert(1)</script>'\"&"


def poison(raw: Any, keys: Keys, char_id: int, text: str = "{no JSON") -> None:
    """Put what cannot be saved into a core, as a bare writer does."""
    raw.hset(keys.core(char_id), "stats", text)


def test_what_is_unsaved_beside_the_promise(
    app: Starlette, visitor: Visitor, hot: HotStore
) -> None:
    for char_id in range(1, 4):
        hot.create(char_id, state="exploration")
    hot.claim(1, lease_us=10_000_000)
    app.state.watch.look("redis")
    text = visitor.text("/")
    assert "unsaved changes 3 2 wait, 1 are with workers" in text
    assert "promise: 60 s" in text
    assert "s: what was before that is not in the charts" in text
    assert "The first round of checks is not done yet." in text


def test_a_server_that_is_away_is_told_first_and_takes_nothing_else_away(
    unreachable: Settings, hot: HotStore, new_app: MakeApp
) -> None:
    hot.create(1, state="exploration")
    app = new_app(unreachable)
    app.state.watch.look("redis", "postgresql")
    visitor = Visitor(app)
    text = visitor.text("/")
    assert "broken postgresql Runbook PostgreSQL does not answer: PostgreSQL at" in text
    assert "hunter2" not in text
    assert "Do: start it, or mend its URL" in text
    assert "unsaved changes 1" in text
    answer = visitor.get("/actions")
    assert answer.status_code == 503
    assert "PostgreSQL at" in answer.text
    assert "PostgreSQL does not answer" in visitor.text("/character?id=1")
    assert visitor.get("/quarantine?done=1").status_code == 200


def test_both_sides_and_what_differs(
    visitor: Visitor, orchestrator: GameStateOrchestrator, full_core: FullCore
) -> None:
    hot = orchestrator.hot
    hot.create(1, **full_core())
    hot.create(2, state="exploration")
    combat = hot.open_session("combat", [1, 2], {"turn": "1"})
    orchestrator.backup_many([1, 2])
    assert 'class="differs"' not in visitor.get("/character?id=1").text
    hot.update(1, {"guild": "Bären"})
    text = visitor.text("/character?id=1")
    assert "guild Bären Wölfe differs" in text
    assert "state exploration exploration same" in text
    assert f"combat {combat}" in text
    assert "Unsaved changes yes the first" in text


def test_a_tie_names_who_is_saved_together(
    visitor: Visitor, orchestrator: GameStateOrchestrator
) -> None:
    hot = orchestrator.hot
    for char_id in (1, 2, 3):
        hot.create(char_id, state="exploration")
    hot.update_together({1: {"gold": "1"}, 2: {"gold": "2"}})
    assert "Saved together with 2 " in visitor.text("/character?id=1")
    assert "Nobody: it is in no tie." in visitor.text("/character?id=3")
    orchestrator.backup_many([1])
    assert "Nobody: it is in no tie." in visitor.text("/character?id=1")


def test_what_players_wrote_is_escaped_and_visible(
    visitor: Visitor, orchestrator: GameStateOrchestrator
) -> None:
    orchestrator.hot.create(1, state="exploration", guild=HOSTILE)
    answer = visitor.get("/character?id=1")
    assert "<script>alert" not in answer.text
    assert "\u202e" not in answer.text
    assert "\x1b" not in answer.text
    assert SHOWN in visitor.text("/character?id=1").replace("&#39;", "'")


def test_a_huge_value_is_cut(visitor: Visitor, hot: HotStore) -> None:
    hot.create(1, state="exploration", notes="x" * 500_000)
    answer = visitor.get("/character?id=1")
    assert len(answer.content) < 20_000
    assert "500,000 letters in all" in answer.text


def test_of_very_many_fields_those_that_differ_come_first(
    visitor: Visitor, orchestrator: GameStateOrchestrator, raw: Any
) -> None:
    hot = orchestrator.hot
    fields: dict[str, Any] = {f"note {n}": "x" * 50 for n in range(900)}
    hot.create(1, state="exploration", **fields)
    assert orchestrator.backup_full_state(1).outcome == "saved"
    raw.hset(hot.keys.core(1), "note 899", "y")
    answer = visitor.get("/character?id=1")
    assert len(answer.content) < 100_000
    assert "more fields are not shown" in answer.text
    assert "note 899 y" in visitor.text("/character?id=1")


@pytest.mark.parametrize("score", [1e300, -1.7e308, 1e18])
def test_a_score_that_is_no_time(visitor: Visitor, hot: HotStore, raw: Any, score: float) -> None:
    hot.create(7)
    for key in (hot.keys.since, hot.keys.claimed):
        raw.zadd(key, {"7": score})
    assert visitor.get("/character?id=7").status_code == 200


def test_what_is_no_character(visitor: Visitor) -> None:
    assert "It is on neither side." in visitor.text("/character?id=404")
    for wrong in ("", "0", "x", "1" * 30, "-1"):
        assert visitor.get(f"/character?id={wrong}").status_code == 400


def test_reason_field_and_attempts(
    visitor: Visitor, orchestrator: GameStateOrchestrator, raw: Any
) -> None:
    orchestrator.hot.create(7, state="exploration")
    poison(raw, orchestrator.hot.keys, 7)
    orchestrator.backup_full_state(7)
    text = visitor.text("/quarantine")
    assert "1 character cannot be saved" in text
    assert "7 stats is not valid JSON" in text
    assert "Log in as an operator" in text
    text = visitor.text("/character?id=7")
    assert "In quarantine: stats : is not valid JSON" in text
    assert "Unsaved changes yes, in quarantine" in text
    assert "stats {no JSON - not known" in text


@pytest.mark.parametrize("name", [HOSTILE, "two\nlines", "100%25"])
def test_odd_entries_are_escaped_and_can_be_discarded(
    operator: Visitor, hot: HotStore, raw: Any, name: str
) -> None:
    raw.hset(hot.keys.quarantine, name, "nonsense")
    page = operator.get("/quarantine").text
    assert "<script>alert" not in page
    assert "Retry" not in operator.text("/quarantine").split("Act")[-1]
    sent = re.search(r'name="name" value="([^"]*)"', page)
    assert sent
    done = operator.act("/quarantine/discard", name=unescape(sent[1]))
    assert hot.status().quarantined == 0
    assert "the entry is forgotten" in operator.text(done.headers["location"])


def test_a_huge_name_makes_no_huge_page(operator: Visitor, hot: HotStore, raw: Any) -> None:
    raw.hset(hot.keys.quarantine, "x" * 100_000, "nonsense")
    assert len(operator.get("/quarantine").content) < 20_000


def test_a_cursor_that_redis_refuses_is_no_server_that_is_away(visitor: Visitor) -> None:
    assert visitor.get(f"/quarantine?cursor={2**64 - 1}").status_code == 200
    for wrong in (2**64, 10**40):
        assert visitor.get(f"/quarantine?cursor={wrong}").status_code == 404


def test_many_come_a_page_at_a_time(visitor: Visitor, hot: HotStore, raw: Any) -> None:
    entry = b'{"error":"wrong","attempts":1,"first_at":1,"last_at":2}'
    raw.hset(hot.keys.quarantine, mapping={str(n): entry for n in range(1, 3001)})
    seen: set[str] = set()
    path = "/quarantine"
    while path:
        page = visitor.get(path).text
        listed = set(re_ids(page))
        assert len(listed) < 200
        seen |= listed
        path = next_page(page)
    assert len(seen) == 3000


def re_ids(page: str) -> list[str]:
    return [part.partition('"')[0] for part in page.split('href="/character?id=')[1:]]


def next_page(page: str) -> str:
    before, found, _ = page.partition('">Next page')
    return before.rpartition('href="')[2] if found else ""


@pytest.fixture
def conflict(orchestrator: GameStateOrchestrator, rewind: Rewind, full_core: FullCore) -> int:
    """Redis goes back below a save of character 1; returns that character."""
    hot = orchestrator.hot
    hot.create(1, **full_core())
    orchestrator.backup_full_state(1)
    before = rewind.moment()
    hot.update(1, {"guild": "Bären"})
    orchestrator.backup_full_state(1)
    rewind.to(before)
    hot.update(1, {"guild": HOSTILE})
    assert orchestrator.backup_full_state(1).outcome == "conflict"
    return 1


def test_both_sides_of_a_conflict_and_what_differs(visitor: Visitor, conflict: int) -> None:
    text = visitor.text("/conflicts")
    assert "There are none." not in text
    page = visitor.get("/conflicts").text
    path = page.partition('href="/conflict?')[2].partition('"')[0]
    shown = visitor.text(f"/conflict?{path}")
    assert f"guild {SHOWN} Bären differs" in shown.replace("&#39;", "'")
    assert "state exploration exploration same" in shown
    assert 'vitals {"hp"' in shown
    assert "<script>alert" not in visitor.get(f"/conflict?{path}").text


def test_those_of_one_character(visitor: Visitor, conflict: int) -> None:
    assert "Conflicts of 1" in visitor.text("/conflicts?character=1")
    assert "There are none." in visitor.text("/conflicts?character=2")
    for wrong in ("0", "x", "99999999999999999999999"):
        assert visitor.get(f"/conflict?id={wrong}").status_code == 404


def test_the_loss_that_it_comes_from(visitor: Visitor, conflict: int) -> None:
    text = visitor.text("/losses")
    assert "Redis went back in time" in text
    assert "Not settled yet." in text


def test_an_empty_redis_leads_to_the_conflicts_that_came_of_it(
    visitor: Visitor, engine: Engine, hot: HotStore
) -> None:
    now = datetime.now(UTC)
    loss = Loss(side=Side.REDIS, found_at=now, recovered_at=now, redis_sweeps=(9, 0))
    with engine.begin() as connection:
        durable.losses.record(connection, hot.keys.prefix, loss)
    assert "nobody can name it. What players have lost" in visitor.text("/losses")


@pytest.fixture
def fleet(web_settings: Settings) -> Settings:
    return in_schemas(web_settings, "eu", "us")


def test_each_figure_is_of_its_realm(fleet: Settings, new_app: MakeApp, raw: Any) -> None:
    app = new_app(fleet)
    with GameStateOrchestrator.from_settings(fleet.for_realm("us")) as us:
        for char_id in (1, 2):
            us.hot.create(char_id, state="exploration")
        poison(raw, us.hot.keys, 2)
        us.backup_full_state(2)
        app.state.watch.look("redis", "postgresql")
        visitor = Visitor(app)
        assert "eu 0 - of 60 s 0 nothing us 1 " in visitor.text("/")
        assert "unsaved changes 0" in visitor.text("/?realm=eu")
        assert "unsaved changes 1" in visitor.text("/?realm=us")
        assert "It is on neither side." in visitor.text("/character?id=1&realm=eu")
        assert "In Redis yes" in visitor.text("/character?id=1&realm=us")
        visitor.log_in(*OPERATOR)
        token = visitor.csrf_token("/quarantine?realm=us")
        done = visitor.post("/quarantine/retry", csrf_token=token, name="2", realm="us")
        assert done.headers["location"].startswith("/quarantine?realm=us&done=")
        assert us.hot.sync_state(2).dirty
    assert "olga retry us 2 marked" in visitor.text("/actions?realm=us")
    assert "There are none." in visitor.text("/actions?realm=eu")


def test_a_realm_that_is_not_there_is_no_other_one(fleet: Settings, new_app: MakeApp) -> None:
    visitor = Visitor(new_app(fleet))
    visitor.log_in(*OPERATOR)
    for page in ("/", "/quarantine", "/character"):
        answer = visitor.get(f"{page}?realm=<b>&id=1")
        assert answer.status_code == 404
        assert "there is no realm &#39;&lt;b&gt;&#39;" in answer.text
    token = visitor.csrf_token("/quarantine?realm=eu")
    for realm in ({"realm": "<b>"}, {"realm": ""}, {}):
        form = {"csrf_token": token, "name": "2", **realm}
        assert visitor.post("/quarantine/discard", **form).status_code == 404


def test_a_page_that_is_not_there(visitor: Visitor) -> None:
    nowhere = visitor.get("/nowhere")
    assert (nowhere.status_code, "<h1>Not found</h1>" in nowhere.text) == (404, True)


def test_a_page_does_not_wait_for_long(settings: Settings) -> None:
    """As long as a lease is for workers; here somebody looks at the page."""
    with Realms(settings, database_seconds=0.2) as realms:
        engine = realms.orchestrator().engine
        with (
            pytest.raises(DatabaseUnavailable, match="does not answer"),
            database.transaction(engine) as connection,
        ):
            connection.exec_driver_sql("SELECT pg_sleep(60)")
