"""The contract of sessions: plain Redis commands and plain SQL on both ends, tasks by name."""

from __future__ import annotations

import random
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine

from statesync import GameStore, LoginService, Settings
from statesync.hot.store import HotStore
from tests.acceptance.bare import Bare
from tests.acceptance.command_line import run_json
from tests.acceptance.conftest import WAIT_SECONDS, Game, nothing_went_wrong, wait_until
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
GRAPH = {"gate": ["hall", "cellar"], "hall": []}
QUEST = {"quest_id": "crypt", "graph": {"gate": ["hall"]}, "node": "gate", "variables": {"keys": 2}}


def open_session(
    bare: Bare,
    session_type: str,
    char_ids: list[int],
    fields: dict[str, Any],
    *log: list[Any],
    **core: Any,
) -> str:
    """Open a session that has a version already, and return its id."""
    name = bare.open(session_type, char_ids, fields | {"version": 1}, *log, **core)
    return name.rpartition(":")[2]


def test_bare_sessions_are_saved_and_restored_by_name(
    game: Game,
    raw: Any,
    settings: Settings,
    engine: Engine,
    hot: HotStore,
    bare: Bare,
) -> None:
    combat = {"monsters": MONSTERS, "turn_order": [2, 1]}
    fight = open_session(bare, "combat", [1, 2], combat, [{"hit": 1}, {"hit": 2}], state="combat")
    bag = open_session(bare, "inventory", [1], {"items": ITEMS, "filters": {"kind": None}})
    quest = open_session(bare, "scenario", [3], QUEST, state="scenario")
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
    before = bare.content()
    bare.wipe()
    report = game.call("restore_full_state", 1)
    assert report["sessions"] == {"combat": "restored", "inventory": "restored"}
    assert game.call("restore_batch", [1, 2, 3]) == {"live": 1, "restored": 2}
    assert bare.content() == before


def test_one_broken_session_holds_up_its_own_players_alone(
    game: Game,
    raw: Any,
    settings: Settings,
    engine: Engine,
    hot: HotStore,
    bare: Bare,
) -> None:
    for i in range(1, 29):
        open_session(bare, "inventory", [i], {"items": []}, state="inventory")
    fight = open_session(
        bare, "combat", [29, 30], {"monsters": "{", "turn_order": []}, state="combat"
    )
    game.sync_until_clean(hot)
    assert rows(engine, "SELECT count(*) FROM characters") == [(28,)]
    _, entries = hot.list_quarantine()
    assert {entry.name for entry in entries} == {"29", "30"}
    assert {entry.field for entry in entries} == {f"combat:session:{fight}.monsters"}
    key = f"{settings.prefix}combat:session:{fight}"
    assert raw.hget(key, "monsters") == b"{"
    raw.hset(key, "monsters", "[]")
    bare_write(raw, settings, 30, state="combat")
    game.sync_until_clean(hot)
    assert rows(engine, "SELECT count(*) FROM characters") == [(30,)]
    assert hot.list_quarantine() == (0, [])


def test_everybody_comes_back_after_a_loss_of_redis(
    game: Game, raw: Any, settings: Settings, hot: HotStore, bare: Bare
) -> None:
    chance = random.Random(3)
    for i in range(1, 2001, 4):
        party = [i, i + 1, i + 2, i + 3]
        session_type = chance.choice(["combat", "scenario", "alone"])
        if session_type == "combat":
            log = [{"turn": n} for n in range(chance.randrange(5))]
            open_session(bare, "combat", party, {"monsters": MONSTERS}, log, state="combat")
        elif session_type == "scenario":
            open_session(bare, "scenario", party, QUEST, state="scenario")
        for j in party:
            if session_type == "alone" or chance.random() < 0.3:
                state = {"state": "inventory"} if session_type == "alone" else {}
                items = [{"item_id": f"{j}-{n}", "kind": "x", "quantity": n} for n in range(3)]
                open_session(bare, "inventory", [j], {"items": items, "filters": {}}, **state)
    game.sync_until_clean(hot)
    before = bare.content()
    bare.wipe()
    report = run_json(settings, "restore", "--all-active")
    assert (report["outcomes"], report["fallbacks"]) == ({"restored": 2000}, 0)
    assert report["sessions"]["restored"] == sum(
        ":session:" in name and not name.endswith(":log") for name in before
    )
    assert bare.content() == before
    assert run_json(settings, "restore", "--all-active")["outcomes"] == {"live": 2000}


def test_logins_do_not_wait_behind_a_bulk_restore(
    game: Game, raw: Any, settings: Settings, hot: HotStore, bare: Bare
) -> None:
    for i in range(1, 1001):
        bare_write(raw, settings, i, state="exploration")
    game.sync_until_clean(hot)
    bare.wipe()
    game.signal_worker(signal.SIGSTOP)  # so that it meets all of them at once
    bulk = [
        game.app.send_task(
            "statesync.restore_batch",
            args=[list(range(1, 1001))],
            queue=settings.queue("backup"),
        )
        for _ in range(100)
    ]
    login = game.send("restore_full_state", 1000)
    game.signal_worker(signal.SIGCONT)
    assert login.get(timeout=WAIT_SECONDS)["outcome"] in ("restored", "live")
    assert sum(bulk[-1].get(timeout=WAIT_SECONDS).values()) == 1000
    assert login.date_done < bulk[-1].date_done, "it was sent last"


def test_a_change_of_state_is_saved_without_a_sweep(
    game: Game, raw: Any, settings: Settings, engine: Engine
) -> None:
    bare_write(raw, settings, 1, state="exploration")
    with GameStore(settings) as store:
        LoginService(store).change_state(1, "trading")
    wait_until(lambda: rows(engine, "SELECT game_stage FROM characters") == [("trading",)])


def test_a_type_of_a_game_s_own_needs_a_worker_that_includes_it(
    game: Game,
    raw: Any,
    settings: Settings,
    engine: Engine,
    hot: HotStore,
    bare: Bare,
) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(TABLE)
    catch = [{"fish": "carp", "grams": 900}]
    open_session(bare, "fishing", [1], {"catch": catch, "place": "lake"}, state="fishing")
    left = game.call("backup_full_state", 1)
    assert left["outcome"] == "released"
    assert "fishing" in left["error"]
    assert rows(engine, "SELECT id FROM characters") == [], "no half of it is saved"
    game.worker.kill()
    words = ["worker", "-n", "angler@%h", "--include", "examples.fishing", "--loglevel", "INFO"]
    root = str(Path(__file__).parents[2])
    game.stack.wait_worker(game.stack.start("angler", *words, env={"PYTHONPATH": root}))
    assert game.call("backup_full_state", 1)["sessions"] == {"fishing": "saved"}
    assert rows(engine, "SELECT fish, grams FROM fishing_catch") == [("carp", 900)]
    before = bare.content()
    bare.wipe()
    assert game.call("restore_full_state", 1)["sessions"] == {"fishing": "restored"}
    assert bare.content() == before


def test_rows_with_only_the_contracts_columns_come_back(
    game: Game, bare: Bare, engine: Engine, hot: HotStore
) -> None:
    fight, bag, quest, ended = (uuid4() for _ in range(4))
    with engine.begin() as connection:
        connection.exec_driver_sql(f"""
    INSERT INTO characters (id, name, game_stage, location_id, version) VALUES
        (1, 'Ann', 'combat', 'pit', 5), (2, 'Bob', 'combat', 'pit', 6),
        (3, 'Cid', 'inventory', 'inn', 7), (4, 'Dan', 'scenario', 'inn', 8),
        (5, 'Eve', 'combat', 'pit', 9);
    INSERT INTO character_stats (character_id, strength) VALUES (1, 3);
    INSERT INTO sessions (id, session_type, payload, version, closed_at) VALUES
        ('{fight}', 'combat', '{{"monsters": [{{"hp": 3}}], "turn_order": [2, 1]}}', 3, NULL),
        ('{bag}', 'inventory', '{{"filters": {{"kind": "sword"}}}}', 4, NULL),
        ('{quest}', 'scenario', '{{}}', 1, NULL),
        ('{ended}', 'combat', '{{"monsters": []}}', 2, now());
    INSERT INTO session_characters (session_id, character_id) VALUES
        ('{fight}', 1), ('{fight}', 2), ('{bag}', 3), ('{quest}', 4), ('{ended}', 5);
    INSERT INTO combat_log (session_id, seq, entry)
        SELECT '{fight}', seq, to_jsonb(seq) FROM generate_series(0, 2500) seq;
    INSERT INTO inventory_items (item_id, character_id, kind, quantity, attributes) VALUES
        ('axe', 3, 'axe', 1, '{{"edge": 2}}'), ('bow', 3, 'bow', 2, '{{}}');
    INSERT INTO scenario_progress (character_id, quest_id, node, variables, graph) VALUES
        (4, 'q1', 'hall', '{{"a": 1}}', '{{"hall": []}}');
    """)
    reports = [game.call("restore_full_state", i) for i in range(1, 6)]
    assert [(r["outcome"], r["sessions"], r["fallback_from"]) for r in reports] == [
        ("restored", {"combat": "restored"}, None),
        ("restored", {"combat": "live"}, None),
        ("restored", {"inventory": "restored"}, None),
        ("restored", {"scenario": "restored"}, None),
        ("restored", {}, "combat"),
    ]
    found = bare.content()
    sessions = {name: content for name, content in found.items() if ":session:" in name}
    assert sessions.pop(f"combat:session:{fight}:log") == list(range(2501))
    assert sessions == {
        f"combat:session:{fight}": {
            "monsters": [{"hp": 3}],
            "turn_order": [2, 1],
            "participants": [1, 2],
            "version": 3,
        },
        f"inventory:session:{bag}": {
            "items": [
                {"item_id": "axe", "kind": "axe", "quantity": 1, "edge": 2},
                {"item_id": "bow", "kind": "bow", "quantity": 2},
            ],
            "filters": {"kind": "sword"},
            "participants": [3],
            "version": 4,
        },
        f"scenario:session:{quest}": {
            "quest_id": "q1",
            "node": "hall",
            "variables": {"a": 1},
            "graph": {"hall": []},
            "participants": [4],
            "version": 1,
        },
    }
    references = {
        name: {f: v for f, v in fields.items() if f.endswith("_session_id") or f == "state"}
        for name, fields in found.items()
        if name.startswith("ac:")
    }
    assert references == {
        "ac:1": {"state": "combat", "combat_session_id": str(fight)},
        "ac:2": {"state": "combat", "combat_session_id": str(fight)},
        "ac:3": {"state": "inventory", "inventory_session_id": str(bag)},
        "ac:4": {"state": "scenario", "scenario_session_id": str(quest)},
        "ac:5": {"state": "exploration"},
    }
    # Another save of what came back leaves the rows as they are.
    game.sync_until_clean(hot)
    assert rows(engine, "SELECT count(*), min(seq), max(seq) FROM combat_log") == [(2501, 0, 2500)]
    items = rows(engine, "SELECT item_id, quantity FROM inventory_items ORDER BY 1")
    assert items == [("axe", 1), ("bow", 2)]
    nothing_went_wrong(engine, hot)


class TestWiped:
    """A total loss of Redis."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return replace(settings, lease_seconds=60, batch_size=200, max_in_flight=10_000)

    @pytest.mark.slow
    def test_2000_mixed_open_sessions_all_come_back(
        self, game: Game, bare: Bare, settings: Settings, engine: Engine, hot: HotStore
    ) -> None:
        for n in range(400):
            four = list(range(4 * n + 1, 4 * n + 5))
            name = bare.fight(four, turn=n)
            bare.write(four, log={name: [{"hit": i, "by": four[i % 4]} for i in range(n % 30)]})
            for char_id in four[:3]:
                items = [
                    {"item_id": f"i{char_id}-{9 - i}", "kind": "gem", "quantity": i, "cut": i / 4}
                    for i in range(char_id % 7)
                ]
                bare.open("inventory", [char_id], {"items": items, "filters": {}})
            quest = {
                "quest_id": f"q{n % 5}",
                "graph": GRAPH,
                "node": "hall",
                "variables": {"n": n, "deep": {"list": [None, True]}},
                "note": "text, not JSON: [",
            }
            # Some are shared by two of a fight, some by two that do nothing else.
            if n % 2:
                bare.open("scenario", four[:2], quest)
            else:
                bare.open("scenario", [10_000 + n, 20_000 + n], quest, state="scenario")
        game.sync_until_clean(hot)
        by_type = "SELECT session_type, count(*) FROM sessions WHERE closed_at IS NULL GROUP BY 1"
        assert dict(rows(engine, by_type)) == {"combat": 400, "inventory": 1200, "scenario": 400}
        before = bare.content()
        bare.wipe()
        report = run_json(settings, "restore", "--all-active")
        assert report["outcomes"] == {"restored": 2000}
        assert report["sessions"]["restored"] == 2000
        assert set(report["sessions"]) == {"restored", "live"}
        assert report["fallbacks"] == 0
        after = bare.content()
        assert after.keys() == before.keys()
        differ = {n: (before[n], after[n]) for n in before if before[n] != after[n]}
        assert differ == {}
        assert hot.status().dirty == 0
        again = run_json(settings, "restore", "--all-active")
        assert (again["outcomes"], set(again["sessions"])) == ({"live": 2000}, {"live"})
        assert bare.content() == before
