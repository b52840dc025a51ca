"""A move beside other moves, creations, deletions: nothing is overwritten or comes back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine

from statesync import GameStateOrchestrator
from statesync.errors import CharacterMoved, CharacterNotFound, CharacterNotMoved
from statesync.lifecycle.move import CharacterMove
from statesync.lifecycle.realms import Realms
from tests.conftest import FullCore
from tests.integration.lifecycle.test_move import (
    Killed,
    _give_sword_of_1,
    _kill_at,
    _restored_in,
    _with_rows,
    eu,
    realms,
    us,
)

__all__ = ["eu", "realms", "us"]

_IS_WAITED_FOR = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"


def _killed_at(step: str, realms: Realms, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as killing, pytest.raises(Killed):
        _kill_at(killing, step)
        realms.move(1, "us")


def _once(monkeypatch: pytest.MonkeyPatch, name: str, act: Callable[[], object]) -> None:
    """Act once, right before the first move comes to a step."""
    real = getattr(CharacterMove, name)
    acts = iter([act])

    def do(self: CharacterMove, *args: Any) -> Any:
        for one in acts:
            one()
        return real(self, *args)

    monkeypatch.setattr(CharacterMove, name, do)


def _until_waited_for(engine: Engine) -> None:
    with engine.connect() as connection:
        while not connection.exec_driver_sql(_IS_WAITED_FOR).scalar():
            connection.rollback()


def test_character_that_is_first_saved_in_the_target_meanwhile_is_not_overwritten(
    realms: Realms, eu: GameStateOrchestrator, us: GameStateOrchestrator
) -> None:
    eu.hot.create(1, state="exploration")
    raised: list[BaseException] = []

    def move() -> None:
        try:
            realms.move(1, "us")
        except CharacterNotMoved as error:
            raised.append(error)

    with us.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO characters (id, game_stage, version) VALUES (1, 'of us', 7)"
        )
        thread = threading.Thread(target=move)
        thread.start()
        _until_waited_for(eu.engine)
    thread.join()
    assert "realm 'us' has a character of this id" in str(*raised)
    assert us.restore_full_state(1).version == 7
    assert _restored_in(realms) == ["eu", "us"]


def test_slow_run_of_a_move_does_not_put_older_rows_over_those_of_a_faster_one(
    realms: Realms,
    eu: GameStateOrchestrator,
    us: GameStateOrchestrator,
    full_core: FullCore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has copied the rows; the character is played; another run moves it, and is killed."""
    _with_rows(eu, 1, full_core(1))

    def be_faster() -> None:
        eu.restore_full_state(1)
        eu.hot.update(1, gold=7)
        _killed_at("moved", realms, monkeypatch)

    _once(monkeypatch, "_insert", be_faster)
    assert realms.move(1, "us").step == "active"
    assert _restored_in(realms) == ["us"]
    us.restore_full_state(1)
    assert us.hot.get(1).fields["gold"] == "7"


def test_move_that_is_refused_is_in_the_way_of_no_other(
    realms: Realms, eu: GameStateOrchestrator, us: GameStateOrchestrator
) -> None:
    for realm in (eu, us):
        realm.hot.create(1, state="exploration")
        realm.evict(1)
    with pytest.raises(CharacterNotMoved, match="realm 'us' has a character of this id"):
        realms.move(1, "us", source="eu")
    with pytest.raises(CharacterNotFound):
        realms.move(2, "us", source="eu")
    assert realms.unfinished_moves() == []
    assert realms.move(1, "asia", source="eu").step == "active"


@pytest.mark.parametrize("step", ["inserted", "moved"])
def test_deletion_in_the_target_is_not_undone_by_a_move_that_goes_on(
    realms: Realms,
    eu: GameStateOrchestrator,
    us: GameStateOrchestrator,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    eu.hot.create(1, state="exploration")
    _killed_at(step, realms, monkeypatch)
    assert us.delete(1).outcome == "deleted"
    with pytest.raises(CharacterNotMoved):
        realms.move(1, "us")
    assert _restored_in(realms) == (["eu"] if step == "inserted" else [])


@pytest.mark.parametrize("step", ["intended", "inserted"])
def test_deletion_in_the_source_ends_a_move(
    realms: Realms,
    eu: GameStateOrchestrator,
    us: GameStateOrchestrator,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    eu.hot.create(1, state="exploration")
    _killed_at(step, realms, monkeypatch)
    assert eu.delete(1).outcome == "deleted"
    with pytest.raises(CharacterNotFound):
        realms.move(1, "us", source="eu")
    us.delete(1)
    assert realms.unfinished_moves() == []
    assert _restored_in(realms) == []


def test_lock_of_another_is_a_reason_and_not_a_crash(
    realms: Realms, eu: GameStateOrchestrator
) -> None:
    eu.hot.create(1, state="exploration")
    eu.evict(1)
    with eu.engine.begin() as connection:
        connection.exec_driver_sql("SELECT FROM characters WHERE id = 1 FOR UPDATE")
        with pytest.raises(CharacterNotMoved, match="lock timeout"):
            realms.move(1, "us")
    assert realms.move(1, "us").step == "active"


@pytest.mark.parametrize("to", ["us", "asia"])
def test_intent_whose_target_has_that_id_by_now_is_not_in_the_way(
    realms: Realms,
    eu: GameStateOrchestrator,
    us: GameStateOrchestrator,
    monkeypatch: pytest.MonkeyPatch,
    to: str,
) -> None:
    """It goes to another realm, or to the same one when that is free again."""
    eu.hot.create(1, state="exploration", gold=7)
    _killed_at("intended", realms, monkeypatch)
    us.hot.create(1, state="exploration")
    us.evict(1)
    with pytest.raises(CharacterNotMoved, match="realm 'us' has a character of this id"):
        realms.move(1, "us", source="eu")
    assert realms.unfinished_moves() == []
    if to == "us":
        realms.move(1, "asia", source="us")
    assert realms.move(1, to, source="eu").step == "active"
    there = realms.orchestrator(to)
    there.restore_full_state(1)
    assert there.hot.get(1).fields["gold"] == "7"


def test_move_whose_rows_are_refused_may_go_elsewhere(
    realms: Realms, eu: GameStateOrchestrator, us: GameStateOrchestrator, full_core: FullCore
) -> None:
    _with_rows(eu, 1, full_core(1))
    _give_sword_of_1(us, 2)
    with pytest.raises(CharacterNotMoved, match="realm 'us' refuses its rows"):
        realms.move(1, "us")
    assert realms.move(1, "asia").step == "active"
    assert _restored_in(realms) == ["asia"]


def test_refused_move_whose_rows_are_in_the_target_goes_nowhere_else(
    realms: Realms, eu: GameStateOrchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    eu.hot.create(1, state="exploration")
    _killed_at("inserted", realms, monkeypatch)
    eu.restore_full_state(1)
    eu.hot.open_session("combat", [1], {"monsters": []})
    with pytest.raises(CharacterNotMoved, match="in a session"):
        realms.move(1, "us")
    with pytest.raises(CharacterNotMoved, match="its move to realm 'us' has begun"):
        realms.move(1, "asia", source="eu")
    assert {one.step for one in realms.unfinished_moves()} == {"intended", "inactive"}


@pytest.mark.parametrize("step", ["moved", ""])
def test_deletion_in_the_source_of_what_has_left_is_refused(
    realms: Realms,
    eu: GameStateOrchestrator,
    us: GameStateOrchestrator,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    eu.hot.create(1, state="exploration")
    if step:
        _killed_at(step, realms, monkeypatch)
    else:
        realms.move(1, "us")
    with pytest.raises(CharacterMoved, match="to realm 'us': delete it there"):
        eu.delete(1)
    assert realms.move(1, "us").step == "active"
    assert us.delete(1).outcome == "deleted"
    assert _restored_in(realms) == []


def test_deletion_clears_what_the_redis_of_a_source_still_holds(
    realms: Realms, eu: GameStateOrchestrator, us: GameStateOrchestrator, raw: Any
) -> None:
    """It went back to before the move; in PostgreSQL the character has left."""
    eu.hot.create(1, state="exploration")
    eu.backup_full_state(1)
    core = raw.dump(eu.hot.keys.core(1))
    realms.move(1, "us")
    raw.restore(eu.hot.keys.core(1), 0, core)
    assert eu.delete(1).outcome == "deleted"
    assert eu.hot.peek(1) is None
    assert us.restore_full_state(1).outcome == "restored"
