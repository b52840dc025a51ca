"""A character moves to another realm: whole, once, and at no moment can two realms restore it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, make_url

from statesync import GameStateOrchestrator, Settings, Together
from statesync.durable import database, migrate
from statesync.durable.rights import missing_grants
from statesync.embedded.servers import Servers
from statesync.errors import CharacterNotFound, CharacterNotMoved, CharacterNotSaved, InvalidInput
from statesync.lifecycle import move as moving
from statesync.lifecycle.realms import Realms
from tests.conftest import FullCore, NewDatabase

STEPS = ("intended", "inserted", "moved")


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def realms(embedded: Servers, settings: Settings, new_database: NewDatabase) -> Iterator[Realms]:
    """Three realms, with a schema each."""
    url = embedded.database_url(new_database(empty=True)) + "&options=-csearch_path%3Dgame_{realm}"
    made = Realms(replace(settings, realms="eu,us,asia", database_url=url))
    for realm in made.names:
        migrate.upgrade(made.orchestrator(realm).engine, realm=realm)
    yield made
    made.close()


@pytest.fixture
def eu(realms: Realms) -> GameStateOrchestrator:
    return realms.orchestrator("eu")


@pytest.fixture
def us(realms: Realms) -> GameStateOrchestrator:
    return realms.orchestrator("us")


def _with_rows(eu: GameStateOrchestrator, char_id: int, core: dict[str, Any]) -> None:
    """Make a character that has rows in every table, and is in no session any more."""
    eu.hot.create(char_id, core)
    bag = eu.hot.open_session(
        "inventory",
        [char_id],
        {"items": [{"item_id": f"sword-{char_id}", "kind": "sword", "quantity": 1}]},
    )
    quest = eu.hot.open_session(
        "scenario", [char_id], {"quest_id": "q", "node": "n", "variables": {"x": 1e2}, "graph": {}}
    )
    assert eu.backup_full_state(char_id).outcome == "saved"
    eu.hot.close_session("inventory", bag)
    eu.hot.close_session("scenario", quest)
    assert eu.backup_full_state(char_id).outcome == "saved"
    eu.backup_full_state(char_id)


def _give_sword_of_1(realm: GameStateOrchestrator, char_id: int) -> None:
    """Make a character that has the item that ``_with_rows`` gives to 1."""
    realm.hot.create(char_id, state="exploration")
    sword = {"item_id": "sword-1", "kind": "sword", "quantity": 1}
    realm.hot.open_session("inventory", [char_id], {"items": [sword]})
    realm.backup_full_state(char_id)


def _rows(engine: Engine, char_id: int) -> dict[str, Any]:
    tables = {"characters": "id", "character_stats": "character_id"}
    tables |= dict.fromkeys(("inventory_items", "scenario_progress"), "character_id")
    with engine.connect() as connection:
        return {
            table: connection.exec_driver_sql(
                f"SELECT (to_jsonb(t) - 'deleted_at')::text FROM {table} t WHERE {key} = {char_id}"
            ).scalars().all()
            for table, key in tables.items()
        }  # fmt: skip


def _restored_in(realms: Realms, char_id: int = 1) -> list[str]:
    """Return the realms in which a restore finds the character, and leave it out of Redis again."""
    found = []
    for realm in realms.names:
        orchestrator = realms.orchestrator(realm)
        if orchestrator.restore_full_state(char_id).outcome in ("restored", "live"):
            found.append(realm)
            orchestrator.evict(char_id)
    return found


def _kill_at(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def reach(name: str) -> None:
        if name == step:
            raise Killed

    monkeypatch.setattr(moving, "failpoint", reach)


def test_all_of_it_moves_and_no_item_stays(
    realms: Realms, eu: GameStateOrchestrator, us: GameStateOrchestrator, full_core: FullCore
) -> None:
    _with_rows(eu, 1, full_core(1, guild="Wölfe", huge="x" * 10_000))
    eu.hot.update(1, gold=7)  # unsaved, and live
    before = eu.hot.get(1)
    moved = realms.move(1, "us")
    assert (moved.source, moved.target, moved.step) == ("eu", "us", "active")
    assert us.restore_full_state(1).outcome == "restored"
    assert us.hot.get(1).fields == before.fields
    assert all(_rows(us.engine, 1).values())
    assert not _rows(eu.engine, 1)["inventory_items"]
    assert eu.restore_full_state(1).outcome == "not_found"
    us.hot.update(1, gold=8)
    assert us.backup_full_state(1).outcome == "saved"


@pytest.mark.parametrize("step", STEPS)
def test_move_that_is_killed_can_be_taken_up_and_is_never_in_two_realms(
    realms: Realms,
    eu: GameStateOrchestrator,
    us: GameStateOrchestrator,
    full_core: FullCore,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    _with_rows(eu, 1, full_core(1))
    rows = _rows(eu.engine, 1)
    with monkeypatch.context() as killing, pytest.raises(Killed):
        _kill_at(killing, step)
        realms.move(1, "us")
    assert {one.char_id for one in realms.unfinished_moves()} == {1}
    assert _restored_in(realms) == ([] if step == "moved" else ["eu"])
    with pytest.raises(CharacterNotMoved, match="its move to realm 'us'"):
        realms.move(1, "asia", source="eu")
    assert realms.move(1, "us").step == "active"
    assert realms.move(1, "us").step == "active"  # once more does no harm
    assert realms.unfinished_moves() == []
    assert _restored_in(realms) == ["us"]
    assert _rows(us.engine, 1)["inventory_items"] == rows["inventory_items"]


def test_what_is_played_between_the_steps_moves_as_well(
    realms: Realms,
    eu: GameStateOrchestrator,
    us: GameStateOrchestrator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It logs in after its rows were copied, plays, and logs out; then it logs in and stays."""
    eu.hot.create(1, state="exploration", gold=1)
    logins = iter([2, 3])

    def play(name: str) -> None:
        if name == "inserted" and (gold := next(logins, None)):
            assert eu.restore_full_state(1).outcome == "restored"
            eu.hot.update(1, gold=gold)
            if gold == 2:
                eu.evict(1)

    monkeypatch.setattr(moving, "failpoint", play)
    realms.move(1, "us")
    us.restore_full_state(1)
    assert us.hot.get(1).fields["gold"] == "3"


def test_restore_that_has_read_the_row_before_the_move_brings_nothing_back(
    realms: Realms, eu: GameStateOrchestrator, us: GameStateOrchestrator
) -> None:
    eu.hot.create(1, state="exploration")
    eu.evict(1)
    from statesync.hot.commands.transfer import RestoreItem

    version = realms.move(1, "us").version
    (late,) = eu.hot.restore([RestoreItem(1, version, {"state": "exploration"})])
    assert late.core == "stale"  # type: ignore[union-attr]
    assert realms.move(1, "eu").target == "eu"  # and back at once, which it may
    assert eu.restore_full_state(1).outcome == "restored"
    assert us.restore_full_state(1).outcome == "not_found"


def test_who_is_tied_or_in_a_session_stays(realms: Realms, eu: GameStateOrchestrator) -> None:
    for char_id in (1, 2, 3, 4):
        eu.hot.create(char_id, state="exploration")
    eu.hot.update_together(Together().update(1, gold=1).update(2, gold=2))
    eu.hot.open_session("combat", [3], {"monsters": []})
    eu.hot.open_session("combat", [4], {"monsters": []})
    eu.evict(4)
    for char_id, reason in ((1, "it is tied"), (3, "in a session"), (4, "in a session")):
        with pytest.raises(CharacterNotMoved, match=reason):
            realms.move(char_id, "us")
    assert eu.backup_full_state(1).outcome == "saved"
    assert realms.move(1, "us").step == "active"


def test_what_cannot_be_moved_says_why(
    realms: Realms, eu: GameStateOrchestrator, us: GameStateOrchestrator, raw: Any
) -> None:
    with pytest.raises(CharacterNotFound):
        realms.move(9, "us")
    with pytest.raises(InvalidInput, match="no realm 'mars'"):
        realms.move(9, "mars")
    with pytest.raises(InvalidInput, match="from one realm to another"):
        realms.move(9, "us", source="us")
    for realm in (eu, us):
        realm.hot.create(1, state="exploration")
    with pytest.raises(CharacterNotMoved, match="eu and us have one of this id: name the source"):
        realms.move(1, "asia")
    with pytest.raises(CharacterNotMoved, match="Redis of realm 'us' holds a character"):
        realms.move(1, "us", source="eu")
    us.evict(1)
    with pytest.raises(CharacterNotMoved, match="realm 'us' has a character of this id"):
        realms.move(1, "us", source="eu")
    eu.hot.create(2, state="exploration")
    raw.hset(eu.hot.keys.core(2), "stats", "{")
    with pytest.raises(CharacterNotSaved):
        realms.move(2, "us")


def test_where_tells_what_each_realm_knows(realms: Realms, eu: GameStateOrchestrator) -> None:
    assert realms.where(1) == []
    eu.hot.create(1, state="exploration")
    (place,) = realms.where(1)
    assert (place.realm, place.is_live, place.version) == ("eu", True, None)
    realms.move(1, "us")
    there = {place.realm: place for place in realms.where(1)}
    assert there["us"].is_here
    assert not there["eu"].is_here
    assert there["eu"].move
    assert there["eu"].move.target == "us"
    with database.transaction(eu.engine) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM statesync_moves").scalar() == 1


def test_it_may_come_back_with_what_it_has_by_then(
    realms: Realms, eu: GameStateOrchestrator, us: GameStateOrchestrator, full_core: FullCore
) -> None:
    _with_rows(eu, 1, full_core(1))
    realms.move(1, "us")
    us.restore_full_state(1)
    axe = {"item_id": "axe", "kind": "axe", "quantity": 2}
    bag = us.hot.open_session("inventory", [1], {"items": [axe]})
    us.hot.update(1, gold=5, stats={"strength": 99})
    us.backup_full_state(1)
    us.hot.close_session("inventory", bag)
    us.backup_full_state(1)
    rows = _rows(us.engine, 1)
    realms.move(1, "eu")
    assert eu.restore_full_state(1).outcome == "restored"
    assert eu.hot.get(1).fields["gold"] == "5"
    assert eu.hot.get(1).stats == {"strength": 99}
    assert _rows(eu.engine, 1)["inventory_items"] == rows["inventory_items"]


def test_item_that_another_character_has_there_is_named(
    realms: Realms, eu: GameStateOrchestrator, us: GameStateOrchestrator, full_core: FullCore
) -> None:
    _with_rows(eu, 1, full_core(1))
    _give_sword_of_1(us, 2)
    with pytest.raises(CharacterNotMoved, match=r"realm 'us' refuses its rows: .*inventory_items"):
        realms.move(1, "us")
    assert _restored_in(realms) == ["eu"]


def test_worker_has_all_the_rights_that_a_move_needs(
    realms: Realms, eu: GameStateOrchestrator, full_core: FullCore
) -> None:
    _with_rows(eu, 1, full_core(1))
    with eu.engine.begin() as connection:
        connection.exec_driver_sql("CREATE ROLE mover LOGIN")
        for realm in realms.names:
            connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA game_{realm} TO mover")
    url = make_url(realms.settings("eu").database_url).set(username="mover")
    urls = url.render_as_string(hide_password=False).replace("game_eu", "game_{realm}")
    fleet = replace(realms.settings("eu"), realm="", realms="eu,us,asia", database_url=urls)
    try:
        with Realms(fleet) as mine:
            for realm in realms.names:
                grants = _granted(mine.orchestrator(realm).engine)
                with realms.orchestrator(realm).engine.begin() as connection:
                    for grant in grants:
                        connection.exec_driver_sql(grant)
            assert mine.move(1, "us").step == "active"
    finally:
        with eu.engine.begin() as connection:
            connection.exec_driver_sql("DROP OWNED BY mover")
            connection.exec_driver_sql("DROP ROLE mover")


def _granted(engine: Engine) -> list[str]:
    with engine.begin() as connection:
        return missing_grants(connection)
