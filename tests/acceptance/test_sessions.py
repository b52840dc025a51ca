"""Sessions from outside: bare Redis commands, tasks by name, plain SQL."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine

from statesync import HotStore, LoginService, Settings
from statesync.embedded.servers import Servers
from tests.acceptance.conftest import Game, wait_until
from tests.acceptance.test_cli import run_json
from tests.acceptance.test_contract import bare_write, rows

pytestmark = pytest.mark.usefixtures("celery_setup")

MONSTERS = [{"id": "orc", "hp": 30}, {"id": "rat", "hp": 2.5}]
ITEMS = [
    {"item_id": "sword-1", "kind": "sword", "quantity": 1, "rune": "fire"},
    {"item_id": "arrow-1", "kind": "arrow", "quantity": 20},
]
# As in examples/fishing.py, which only the worker imports.
TABLE = """CREATE TABLE fishing_catch (session_id uuid REFERENCES sessions (id) ON DELETE CASCADE,
    place int, fish text, grams int, PRIMARY KEY (session_id, place))"""
QUEST = {"quest_id": "crypt", "graph": {"gate": ["hall"]}, "node": "gate", "variables": {"keys": 2}}

BareSession = Callable[..., str]


@pytest.fixture
def bare_session(raw: Any, settings: Settings) -> BareSession:
    """Write a session as a game does that knows nothing of statesync; returns its id."""

    def write(
        session_type: str, char_ids: list[int], fields: dict[str, Any], log: Any = (), **core: Any
    ) -> str:
        session = str(uuid4())
        key = f"{settings.key_prefix}{session_type}:session:{session}"
        held = {k: v if isinstance(v, str) else json.dumps(v) for k, v in fields.items()}
        with raw.pipeline(transaction=True) as pipe:
            pipe.hset(key, mapping=held | {"participants": json.dumps(char_ids), "version": 1})
            if log:
                pipe.rpush(f"{key}:log", *map(json.dumps, log))
            for i in char_ids:
                mapping = {f"{session_type}_session_id": session} | core
                pipe.hset(f"{settings.key_prefix}ac:{i}", mapping=mapping)
            pipe.sadd(f"{settings.key_prefix}dirty_accounts", *char_ids)
            pipe.execute()
        return session

    return write


def content(raw: Any, settings: Settings) -> dict[bytes, Any]:
    """Return all characters, sessions and logs in Redis, with JSON decoded."""
    found: dict[bytes, Any] = {}
    core = f"{settings.key_prefix}ac:".encode()
    keys = [
        key
        for key in raw.scan_iter(f"{settings.key_prefix}*", count=5000)
        if b":session:" in key or key.startswith(core)
    ]
    with raw.pipeline(transaction=False) as pipe:
        for key in keys:
            if key.endswith(b":log"):
                pipe.lrange(key, 0, -1)
            else:
                pipe.hgetall(key)
        replies = pipe.execute()
    for key, held in zip(keys, replies, strict=True):
        if isinstance(held, dict):
            found[key] = {name: decoded(value) for name, value in held.items()}
        else:
            found[key] = [decoded(entry) for entry in held]
    return found


def decoded(value: bytes) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def wipe(raw: Any, settings: Settings) -> None:
    keys = list(raw.scan_iter(f"{settings.key_prefix}*", count=5000))
    raw.delete(*keys)


def test_bare_sessions_are_saved_and_restored_by_name(
    game: Game,
    raw: Any,
    settings: Settings,
    engine: Engine,
    hot: HotStore,
    bare_session: BareSession,
) -> None:
    fight = bare_session("combat", [1, 2], {"monsters": MONSTERS, "turn_order": [2, 1]},
                         [{"hit": 1}, {"hit": 2}], state="combat")  # fmt: skip
    bag = bare_session("inventory", [1], {"items": ITEMS, "filters": {"kind": None}})
    quest = bare_session("scenario", [3], QUEST, state="scenario")
    game.sync_until_clean(hot)
    found = rows(engine, "SELECT id::text, session_type, closed_at FROM sessions")
    assert set(found) == {
        (fight, "combat", None),
        (bag, "inventory", None),
        (quest, "scenario", None),
    }
    payload = rows(engine, f"SELECT payload FROM sessions WHERE id = '{fight}'")[0][0]
    assert (payload["monsters"], payload["turn_order"]) == (MONSTERS, [2, 1])
    assert rows(engine, "SELECT seq, entry FROM combat_log ORDER BY seq") == [
        (0, {"hit": 1}), (1, {"hit": 2})
    ]  # fmt: skip
    assert rows(
        engine,
        "SELECT item_id, character_id, kind, quantity, attributes FROM inventory_items ORDER BY 1",
    ) == [("arrow-1", 1, "arrow", 20, {}), ("sword-1", 1, "sword", 1, {"rune": "fire"})]
    assert rows(
        engine, "SELECT character_id, quest_id, node, variables, graph FROM scenario_progress"
    ) == [(3, "crypt", "gate", {"keys": 2}, {"gate": ["hall"]})]
    members = "SELECT session_id::text, character_id FROM session_characters ORDER BY 2, 1"
    assert set(rows(engine, members)) == {(fight, 1), (bag, 1), (fight, 2), (quest, 3)}
    before = content(raw, settings)
    wipe(raw, settings)
    report = game.call("restore_full_state", 1)
    assert report["sessions"] == {"combat": "restored", "inventory": "restored"}
    assert game.call("restore_batch", [1, 2, 3]) == {"live": 1, "restored": 2}
    assert content(raw, settings) == before


def test_one_broken_session_holds_up_its_own_players_alone(
    game: Game,
    raw: Any,
    settings: Settings,
    engine: Engine,
    hot: HotStore,
    bare_session: BareSession,
) -> None:
    for i in range(1, 29):
        bare_session("inventory", [i], {"items": []}, state="inventory")
    fight = bare_session("combat", [29, 30], {"monsters": "{", "turn_order": []}, state="combat")
    game.sync_until_clean(hot)
    assert rows(engine, "SELECT count(*) FROM characters") == [(28,)]
    _, entries = hot.list_quarantine()
    assert {entry.name for entry in entries} == {"29", "30"}
    assert {entry.field for entry in entries} == {f"combat:session:{fight}.monsters"}
    key = f"{settings.key_prefix}combat:session:{fight}"
    assert raw.hget(key, "monsters") == b"{"
    raw.hset(key, "monsters", "[]")
    bare_write(raw, settings, 30, state="combat")
    game.sync_until_clean(hot)
    assert rows(engine, "SELECT count(*) FROM characters") == [(30,)]
    assert hot.list_quarantine() == (0, [])


def test_everybody_comes_back_after_a_loss_of_redis(
    game: Game, raw: Any, settings: Settings, hot: HotStore, bare_session: BareSession
) -> None:
    chance = random.Random(3)
    for i in range(1, 2001, 4):
        party = [i, i + 1, i + 2, i + 3]
        session_type = chance.choice(["combat", "scenario", "alone"])
        if session_type == "combat":
            log = [{"turn": n} for n in range(chance.randrange(5))]
            bare_session("combat", party, {"monsters": MONSTERS}, log, state="combat")
        elif session_type == "scenario":
            bare_session("scenario", party, QUEST, state="scenario")
        for j in party:
            if session_type == "alone" or chance.random() < 0.3:
                state = {"state": "inventory"} if session_type == "alone" else {}
                items = [{"item_id": f"{j}-{n}", "kind": "x", "quantity": n} for n in range(3)]
                bare_session("inventory", [j], {"items": items, "filters": {}}, **state)
    game.sync_until_clean(hot)
    before = content(raw, settings)
    wipe(raw, settings)
    report = run_json(settings, "restore", "--all-active")
    assert (report["outcomes"], report["fallbacks"]) == ({"restored": 2000}, 0)
    assert report["sessions"]["restored"] == sum(
        b":session:" in key and not key.endswith(b":log") for key in before
    )
    assert content(raw, settings) == before
    assert run_json(settings, "restore", "--all-active")["outcomes"] == {"live": 2000}


def test_logins_do_not_wait_behind_a_bulk_restore(
    game: Game, raw: Any, settings: Settings, hot: HotStore
) -> None:
    for i in range(1, 1001):
        bare_write(raw, settings, i, state="exploration")
    game.sync_until_clean(hot)
    wipe(raw, settings)
    bulk = [
        game.app.send_task(
            "statesync.restore_batch",
            args=[list(range(1, 1001))],
            queue=settings.queue("backup"),
        )
        for _ in range(100)
    ]
    login = game.send("restore_full_state", 1000)
    assert login.get(timeout=60)["outcome"] in ("restored", "live")
    assert not bulk[-1].ready(), "it was sent first, and is still at work"
    assert sum(bulk[-1].get(timeout=60).values()) == 1000


def test_a_change_of_state_is_saved_without_a_sweep(
    game: Game, raw: Any, settings: Settings, engine: Engine
) -> None:
    bare_write(raw, settings, 1, state="exploration")
    with LoginService.from_settings(settings) as service:
        service.change_state(1, "trading")
    wait_until(lambda: rows(engine, "SELECT game_stage FROM characters") == [("trading",)])


def test_a_type_of_a_game_s_own_needs_a_worker_that_includes_it(
    game: Game,
    raw: Any,
    settings: Settings,
    engine: Engine,
    hot: HotStore,
    bare_session: BareSession,
) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(TABLE)
    catch = [{"fish": "carp", "grams": 900}]
    trip = bare_session("fishing", [1], {"catch": catch, "place": "lake"}, state="fishing")
    assert game.call("backup_full_state", 1)["sessions"] == {}, "it is left alone"
    assert rows(engine, "SELECT extra FROM characters") == [({"fishing_session_id": trip},)]
    game.worker.kill()
    words = ["worker", "-n", "angler@%h", "--include", "examples.fishing", "--loglevel", "INFO"]
    root = str(Path(__file__).parents[2])
    game.stack.wait_worker(game.stack.start("angler", *words, env={"PYTHONPATH": root}))
    assert game.call("backup_full_state", 1)["sessions"] == {"fishing": "saved"}
    assert rows(engine, "SELECT fish, grams FROM fishing_catch") == [("carp", 900)]
    before = content(raw, settings)
    wipe(raw, settings)
    assert game.call("restore_full_state", 1)["sessions"] == {"fishing": "restored"}
    assert content(raw, settings) == before


HALF = """
CREATE TABLE half (session uuid);
CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $body$ BEGIN
  INSERT INTO half
    SELECT s.id FROM sessions s JOIN session_characters m ON m.session_id = s.id
    JOIN characters c ON c.id = m.character_id
    GROUP BY s.id HAVING count(DISTINCT c.extra->>'round') > 1
      OR min(c.extra->>'round') IS DISTINCT FROM min(s.payload->>'round');
  RETURN NULL;
END $body$;
CREATE CONSTRAINT TRIGGER of_characters AFTER INSERT OR UPDATE ON characters
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION watch();
"""


def saved_more(hot: HotStore, before: int) -> Callable[[], bool]:
    return lambda: hot.status().counters.get("saved", 0) > before


class TestShortLeases:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        """Short leases, so that a killed worker's claims come back soon; small batches."""
        return replace(settings, lease_seconds=2, batch_above=10, batch_size=5)

    @pytest.mark.slow
    def test_killed_workers_leave_no_half_of_a_fight(
        self,
        game: Game,
        embedded: Servers,
        raw: Any,
        settings: Settings,
        engine: Engine,
        hot: HotStore,
        bare_session: BareSession,
    ) -> None:
        with engine.begin() as connection:
            connection.exec_driver_sql(HALF)
        parties = [[i, i + 1, i + 2, i + 3] for i in range(1, 161, 4)]
        fights = [bare_session("combat", p, {"round": "0"}, round="0") for p in parties]
        for turn in range(1, 6):
            for party, fight in zip(parties, fights, strict=True):
                with raw.pipeline(transaction=True) as pipe:
                    key = f"{settings.key_prefix}combat:session:{fight}"
                    pipe.hset(key, "round", turn)
                    pipe.rpush(f"{key}:log", turn)
                    for i in party:
                        pipe.hset(f"{settings.key_prefix}ac:{i}", "round", turn)
                    pipe.sadd(f"{settings.key_prefix}dirty_accounts", *party)
                    pipe.execute()
            before = hot.status().counters.get("saved", 0)
            game.send("sync_dirty")
            game.send("sync_dirty")
            wait_until(saved_more(hot, before))
            game.worker.kill()
            game.worker = game.stack.start_worker(f"worker-{turn + 1}")
        game.sync_until_clean(hot)
        assert rows(engine, "SELECT DISTINCT extra->>'round' FROM characters") == [("5",)]
        assert rows(engine, "SELECT DISTINCT payload->>'round' FROM sessions") == [("5",)]
        assert rows(engine, "SELECT count(*), count(DISTINCT seq) FROM combat_log") == [(200, 5)]
        assert rows(engine, "SELECT count(*) FROM half") == [(0,)]
        assert hot.list_quarantine() == (0, [])
