"""The tasks that the schedule sends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine

from statesync import Settings
from statesync.embedded.stack import Stack
from statesync.hot.store import HotStore
from tests.acceptance.conftest import Game, wait_until
from tests.acceptance.test_contract import rows

pytestmark = pytest.mark.usefixtures("celery_setup")


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return replace(settings, sync_seconds=1, scrub_seconds=1)


def test_a_lost_mark_is_found_and_saved_by_the_schedule_alone(
    game: Game, stack: Stack, hot: HotStore, raw: Any, engine: Engine
) -> None:
    hot.create(1, state="lost")
    raw.delete(hot.keys.dirty, hot.keys.since)
    stack.start_beat()
    wait_until(lambda: rows(engine, "SELECT game_stage FROM characters") == [("lost",)])


def test_a_scrub_refuses_a_cursor_that_is_none(game: Game) -> None:
    sent = game.app.send_task("statesync.scrub", args=["x"], queue=game.settings.queue("backup"))
    with pytest.raises(Exception, match="cursor must be an integer"):
        sent.get(timeout=60)
