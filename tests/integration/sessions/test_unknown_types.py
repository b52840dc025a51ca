"""A worker that does not know a session type leaves its sessions to one that does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine

from statesync import GameStateOrchestrator, SessionOrchestrator, Settings, Together
from statesync.errors import CharacterNotSaved, UnknownSessionType
from statesync.hot.keys import Keys
from tests.conftest import FullCore
from tests.integration.sessions.stores import rows, wipe
from tests.registry import registered

PARTY = [1, 2, 3]


class Raid(SessionOrchestrator):
    """A type that the older worker does not know."""

    session_type = "raid"
    states = ("raid",)


@pytest.fixture
def raid(settings: Settings, full_core: FullCore) -> Iterator[str]:
    """A raid of 1 and 2, never saved; 3 is alone."""
    with registered(Raid), GameStateOrchestrator.from_settings(settings) as game:
        for char_id in PARTY:
            game.hot.create(char_id, **full_core(char_id))
        yield str(game.hot.open_session("raid", [1, 2], {"boss": "dragon"}, state="raid"))


def save_with_a_worker_that_knows(settings: Settings) -> None:
    with registered(Raid), GameStateOrchestrator.from_settings(settings) as newer:
        claims = newer.hot.claim_dirty(
            lease_us=60_000_000, max_in_flight=99, count=99, round_ms=60_000, whole=True
        ).claims
        assert {r.outcome for r in newer.backup_claims(claims)} == {"saved"}


@pytest.fixture
def forget_the_type(raid: str) -> Iterator[str]:
    """Only the older worker's types are registered."""
    from statesync.state import session_types

    before = list(session_types._decorated)
    session_types._decorated[:] = [cls for cls in before if cls is not Raid]
    session_types.clear_cache()
    yield raid
    session_types._decorated[:] = before
    session_types.clear_cache()


def test_older_worker_leaves_them_to_one_that_knows(
    forget_the_type: str, settings: Settings, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with GameStateOrchestrator.from_settings(settings) as older:
        claims = older.hot.claim_dirty(
            lease_us=60_000_000, max_in_flight=99, count=99, round_ms=60_000, whole=True
        ).claims
        with caplog.at_level(logging.WARNING):
            reports = {r.char_id: r for r in older.backup_claims(claims)}
        assert {i: r.outcome.value for i, r in reports.items()} == {
            1: "released",
            2: "released",
            3: "saved",
        }
        assert "the session type 'raid'" in (reports[1].error or "")
        assert len([r for r in caplog.records if "'raid'" in r.getMessage()]) == 1
        assert rows(engine, "SELECT id FROM characters") == [(3,)]
        for char_id in (1, 2):
            sync_state = older.hot.sync_state(char_id)
            assert (sync_state.dirty, sync_state.token, sync_state.quarantine) == (True, None, None)
        with pytest.raises(CharacterNotSaved):
            older.evict(1)
    save_with_a_worker_that_knows(settings)
    assert rows(engine, "SELECT payload->>'boss' FROM sessions") == [("dragon",)]


@pytest.mark.parametrize("what", ["without a version", "of another type"])
def test_session_of_an_unknown_type_that_a_bare_game_made_is_left_too(
    orchestrator: GameStateOrchestrator, full_core: FullCore, raw: Any, keys: Keys, what: str
) -> None:
    session = uuid4()
    key = keys.session("raid", str(session))
    if what == "without a version":
        raw.hset(key, "boss", "dragon")
    else:
        raw.set(key, "dragon")
    orchestrator.hot.create(1, **full_core(1, raid_session_id=str(session)))
    report = orchestrator.backup_full_state(1)
    assert report.outcome == "released"
    assert f"raid:session:{session}" in (report.error or "")


def leave_it(newer: GameStateOrchestrator, raid: str) -> None:
    newer.hot.leave_session("raid", raid, 1)


def trade_with_it(newer: GameStateOrchestrator, raid: str) -> None:
    trade = Together().update_session("raid", raid, {"boss": "dead"}).update(3, gold=1)
    newer.hot.update_together(trade)


@pytest.mark.parametrize("change", [leave_it, trade_with_it])
def test_older_worker_leaves_what_is_only_tied_to_them(
    settings: Settings,
    full_core: FullCore,
    engine: Engine,
    change: Callable[[GameStateOrchestrator, str], None],
) -> None:
    with registered(Raid), GameStateOrchestrator.from_settings(settings) as newer:
        for char_id in (*PARTY, 4):
            newer.hot.create(char_id, **full_core(char_id))
        raid = str(newer.hot.open_session("raid", [1, 2], {"boss": "dragon"}))
        newer.backup_many([*PARTY, 4])
        change(newer, raid)
    with GameStateOrchestrator.from_settings(settings) as older:
        tied = 1 if change is leave_it else 3
        older.hot.update(4, gold=7)
        claims = older.hot.claim_dirty(
            lease_us=60_000_000, max_in_flight=99, count=99, round_ms=60_000, whole=True
        ).claims
        reports = {r.char_id: r for r in older.backup_claims(claims)}
        assert reports.pop(4).outcome == "saved"
        assert {r.outcome for r in reports.values()} == {"released"}
        assert "the session type 'raid'" in (reports[tied].error or "")
        assert older.hot.list_quarantine() == (0, [])
        with pytest.raises(CharacterNotSaved, match="the session type 'raid'"):
            older.evict(tied)
    save_with_a_worker_that_knows(settings)


def test_field_that_only_looks_like_a_reference_is_the_games_own(
    orchestrator: GameStateOrchestrator, full_core: FullCore, engine: Engine
) -> None:
    core = full_core(1, voice_session_id="00000000-0000-0000-0000-000000000001")
    orchestrator.hot.create(1, **core)
    orchestrator.hot.create(2, **full_core(2, web_session_id="abc"))
    assert {r.outcome for r in orchestrator.backup_many([1, 2])} == {"saved"}
    assert rows(engine, "SELECT extra->>'web_session_id' FROM characters WHERE id = 2") == [
        ("abc",)
    ]


def test_older_worker_does_not_restore_what_it_does_not_know(
    forget_the_type: str, settings: Settings, engine: Engine, raw: Any, keys: Keys
) -> None:
    save_with_a_worker_that_knows(settings)
    wipe(raw, keys)
    with GameStateOrchestrator.from_settings(settings) as older:
        reports = {r.char_id: r for r in older.restore_many(PARTY)}
        assert {i: r.outcome.value for i, r in reports.items()} == {
            1: "failed",
            2: "failed",
            3: "restored",
        }
        assert "the session type 'raid'" in (reports[1].error or "")
        assert older.hot.peek(1) is None
    with registered(Raid), GameStateOrchestrator.from_settings(settings) as newer:
        assert newer.restore_full_state(1).sessions == {"raid": "restored"}
        assert newer.restore_full_state(2).sessions == {"raid": "live"}


@pytest.mark.parametrize("was_saved", [False, True])
def test_older_process_refuses_to_delete_what_it_could_not_take_out(
    forget_the_type: str, settings: Settings, engine: Engine, *, was_saved: bool
) -> None:
    if was_saved:
        save_with_a_worker_that_knows(settings)
    with GameStateOrchestrator.from_settings(settings) as older:
        with pytest.raises(UnknownSessionType, match="'raid' is not registered in this process"):
            older.delete(1)
        assert older.hot.peek(1) is not None
        assert rows(engine, "SELECT id FROM characters WHERE deleted_at IS NOT NULL") == []
        assert older.delete(3).outcome == "deleted"
    with registered(Raid), GameStateOrchestrator.from_settings(settings) as newer:
        assert newer.delete(1).sessions == [f"raid:session:{forget_the_type}"]
        newer.hot.update_session("raid", forget_the_type, {"boss": "gone"})
        assert newer.backup_full_state(2).outcome == "saved"
    members = "SELECT character_id FROM session_characters WHERE left_at IS NULL"
    assert rows(engine, members) == [(2,)]


def test_older_process_deletes_what_is_in_a_session_that_is_not_live(
    forget_the_type: str, settings: Settings, engine: Engine, raw: Any, keys: Keys
) -> None:
    """A type that the game has given up does not keep its characters."""
    save_with_a_worker_that_knows(settings)
    wipe(raw, keys)
    with GameStateOrchestrator.from_settings(settings) as older:
        assert older.delete(1).outcome == "deleted"
    with registered(Raid), GameStateOrchestrator.from_settings(settings) as newer:
        assert newer.restore_full_state(2).sessions == {"raid": "restored"}
        assert newer.hot.get_session("raid", forget_the_type).participants == (2,)
