"""Shared sessions under real workers: what a crowd of writers, sweeps and crashes leaves behind."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine

from statesync import HotStore, Settings, errors
from statesync.hot.keys import Keys
from tests.acceptance.conftest import Game, wait_until
from tests.acceptance.test_cli import run_json
from tests.acceptance.test_contract import rows, waiting_for_a_lock
from tests.acceptance.test_faults import middle_of_a_write
from tests.conftest import FullCore

pytestmark = pytest.mark.usefixtures("celery_setup")

MONSTERS = [{"id": "orc", "hp": 30, "loot": ["axe", None]}, {"id": "rat", "hp": 2.5}]
GRAPH = {"gate": ["hall", "cellar"], "hall": []}
FINE = {"saved", "unchanged", "superseded", "stale"}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Short leases and small batches, so that a test need not wait, and there are several."""
    return replace(settings, lease_seconds=2, batch_above=10, batch_size=20, max_in_flight=1000)


class Bare:
    """A game that knows nothing of statesync: only the contract's keys and fields."""

    def __init__(self, raw: Any, settings: Settings) -> None:
        self.raw = raw
        self.prefix = settings.key_prefix

    def key(self, name: str) -> str:
        return f"{self.prefix}{name}"

    def write(
        self,
        char_ids: list[int],
        fields: dict[str, Any] | None = None,
        sessions: dict[str, dict[str, Any]] | None = None,
        log: dict[str, list[Any]] | None = None,
    ) -> None:
        """Write the same fields to some cores, and sessions by their names, and mark the cores."""
        with self.raw.pipeline(transaction=True) as pipe:
            for char_id in char_ids:
                if fields:
                    pipe.hset(self.key(f"ac:{char_id}"), mapping=fields)
            for name, values in (sessions or {}).items():
                pipe.hset(self.key(name), mapping=values)
            for name, entries in (log or {}).items():
                if entries:
                    pipe.rpush(self.key(f"{name}:log"), *map(json.dumps, entries))
            pipe.sadd(self.key("dirty_accounts"), *char_ids)
            pipe.execute()

    def open(
        self,
        session_type: str,
        char_ids: list[int],
        fields: dict[str, Any],
        log: Any = (),
        **core: Any,
    ) -> str:
        """Open a session and return its name."""
        session_id = str(uuid4())
        name = f"{session_type}:session:{session_id}"
        values = {k: v if isinstance(v, str) else json.dumps(v) for k, v in fields.items()}
        values["participants"] = json.dumps(char_ids)
        core[f"{session_type}_session_id"] = session_id
        self.write(char_ids, core, {name: values}, {name: list(log)})
        return name

    def fight(self, char_ids: list[int], turn: int = 0) -> str:
        """Open a fight; core, session and log all carry the turn, so that halves can be seen."""
        fields = {"monsters": MONSTERS, "turn_order": char_ids, "turn": turn}
        return self.open("combat", char_ids, fields, [{"turn": turn}], state="combat", turn=turn)

    def play(self, name: str, char_ids: list[int], turn: int) -> None:
        """Play one turn of a fight: everybody in it and the fight change together."""
        self.write(char_ids, {"turn": turn}, {name: {"turn": turn}}, {name: [{"turn": turn}]})

    def content(self) -> dict[str, Any]:
        """Return all that Redis holds of characters and sessions, JSON decoded."""
        found: dict[str, Any] = {}
        for key in self.raw.scan_iter(f"{self.prefix}*", count=1000):
            name = key.decode().removeprefix(self.prefix)
            if name.startswith(("statesync:", "dirty_accounts")):
                continue
            if name.endswith(":log"):
                found[name] = [json.loads(entry) for entry in self.raw.lrange(key, 0, -1)]
            else:
                held = self.raw.hgetall(key)
                found[name] = {f.decode(): decoded(v) for f, v in held.items()}
        return found

    def wipe(self) -> None:
        """Lose everything."""
        self.raw.delete(*self.raw.scan_iter(f"{self.prefix}*", count=1000))


def decoded(written: bytes) -> Any:
    try:
        return json.loads(written)
    except ValueError:
        return written.decode()


@pytest.fixture
def bare(raw: Any, settings: Settings) -> Bare:
    return Bare(raw, settings)


def uuid_of(name: str) -> UUID:
    return UUID(name.rpartition(":")[2])


def halves(engine: Engine) -> list[tuple[Any, ...]]:
    """Return the open fights that PostgreSQL shows at another turn than somebody in them, or
    without somebody, or with another log: one statement sees one moment."""
    return rows(
        engine,
        """
        SELECT s.id, s.payload->>'turn', array_agg(c.extra->>'turn'),
               (SELECT max((l.entry->>'turn')::int) FROM combat_log l WHERE l.session_id = s.id)
        FROM sessions s
        JOIN session_characters sc ON sc.session_id = s.id
        JOIN characters c ON c.id = sc.character_id
        WHERE s.session_type = 'combat' AND s.closed_at IS NULL
        GROUP BY s.id
        HAVING bool_or(c.extra->>'turn' IS DISTINCT FROM s.payload->>'turn')
            OR count(*) <> jsonb_array_length(s.payload->'participants')
            OR (SELECT max((l.entry->>'turn')::int) FROM combat_log l WHERE l.session_id = s.id)
               IS DISTINCT FROM (s.payload->>'turn')::int
        """,
    )


@contextmanager
def watching(engine: Engine) -> Iterator[None]:
    """Look at PostgreSQL all the time: no half of a group may ever be seen."""
    stop = threading.Event()
    seen: list[Any] = []

    def watch() -> None:
        while not stop.is_set() and not seen:
            seen.extend(halves(engine))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()
    assert seen == []
    assert halves(engine) == []


def turns(engine: Engine) -> dict[UUID, str]:
    """Return the turn that each fight is at in PostgreSQL."""
    return dict(rows(engine, "SELECT id, payload->>'turn' FROM sessions"))


def nothing_went_wrong(engine: Engine, hot: HotStore) -> None:
    assert hot.list_quarantine() == (0, [])
    assert not rows(engine, "SELECT 1 FROM state_conflicts")


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
    sessions = {name: held for name, held in found.items() if ":session:" in name}
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
        name: {f: v for f, v in held.items() if f.endswith("_session_id") or f == "state"}
        for name, held in found.items()
        if name.startswith("ac:")
    }
    assert references == {
        "ac:1": {"state": "combat", "combat_session_id": str(fight)},
        "ac:2": {"state": "combat", "combat_session_id": str(fight)},
        "ac:3": {"state": "inventory", "inventory_session_id": str(bag)},
        "ac:4": {"state": "scenario", "scenario_session_id": str(quest)},
        "ac:5": {"state": "exploration"},
    }
    # Saved over again from what came back, the rows say the same.
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
            # Some are shared by two of a fight, some by two who do nothing else.
            if n % 2:
                bare.open("scenario", four[:2], quest)
            else:
                bare.open("scenario", [10_000 + n, 20_000 + n], quest, state="scenario")
        game.sync_until_clean(hot)
        by_type = "SELECT session_type, count(*) FROM sessions WHERE closed_at IS NULL GROUP BY 1"
        assert dict(rows(engine, by_type)) == {"combat": 400, "inventory": 1200, "scenario": 400}
        before = bare.content()
        bare.wipe()
        done = run_json(settings, "restore", "--all-active")
        assert done["outcomes"] == {"restored": 2000}
        assert done["sessions"]["restored"] == 2000
        assert set(done["sessions"]) == {"restored", "live"}
        assert done["fallbacks"] == 0
        after = bare.content()
        assert after.keys() == before.keys()
        differ = {n: (before[n], after[n]) for n in before if before[n] != after[n]}
        assert differ == {}
        assert hot.status().dirty == 0
        again = run_json(settings, "restore", "--all-active")
        assert (again["outcomes"], set(again["sessions"])) == ({"live": 2000}, {"live"})
        assert bare.content() == before


def test_workers_killed_in_the_middle_of_saving_fights_lose_nothing(
    game: Game, bare: Bare, engine: Engine, hot: HotStore
) -> None:
    parties = [list(range(10 * n + 1, 10 * n + 5)) for n in range(10)]
    fights = [bare.fight(party) for party in parties]
    game.sync_until_clean(hot)
    with watching(engine):
        for turn in (1, 2):
            for name, party in zip(fights, parties, strict=True):
                bare.play(name, party, turn)
            with middle_of_a_write(engine, parties[4][2]):
                game.send("sync_dirty")
                # Some groups are saved at once, this one stands in its transaction.
                wait_until(lambda: waiting_for_a_lock(engine))
                game.worker.kill()
            assert hot.status().claimed > 0
            assert turns(engine)[uuid_of(fights[4])] == str(turn - 1)
            game.worker = game.stack.start_worker(f"worker-after-{turn}")
            game.sync_until_clean(hot)
            assert turns(engine) == {uuid_of(name): str(turn) for name in fights}
    logs = rows(engine, "SELECT DISTINCT count(*) FROM combat_log GROUP BY session_id")
    assert logs == [(3,)]
    nothing_went_wrong(engine, hot)


def test_four_direct_backups_of_one_fight_at_once(
    game: Game, bare: Bare, engine: Engine, hot: HotStore
) -> None:
    game.stack.start_worker("worker-2")
    name = bare.fight([1, 2, 3, 4])
    with watching(engine):
        for turn in range(1, 21):
            bare.play(name, [1, 2, 3, 4], turn)
            results = [game.send("backup_full_state", i) for i in (1, 2, 3, 4)]
            outcomes = [result.get(timeout=60)["outcome"] for result in results]
            assert set(outcomes) <= FINE
            # Whoever was superseded was so by one who has ended as well.
            assert turns(engine) == {uuid_of(name): str(turn)}
    game.sync_until_clean(hot)
    log = rows(engine, "SELECT seq, (entry->>'turn')::int FROM combat_log ORDER BY 1")
    assert log == [(turn, turn) for turn in range(21)]
    nothing_went_wrong(engine, hot)


def test_fights_closed_by_the_client_while_workers_sweep(
    game: Game, raw: Any, keys: Keys, engine: Engine, hot: HotStore, full_core: FullCore
) -> None:
    parties = [list(range(10 * n + 1, 10 * n + 5)) for n in range(5)]
    for char_id in (i for party in parties for i in party):
        hot.create(char_id, **full_core(char_id))
    fights = [
        hot.open_session("combat", p, {"monsters": MONSTERS}, state="combat") for p in parties
    ]
    stop = threading.Event()
    written: dict[UUID, int] = dict.fromkeys(fights, 0)
    ends: dict[UUID, str] = {}

    def play(session: UUID) -> None:
        try:
            while True:
                hot.update_session("combat", session, {"turn": "x"}, log=[written[session]])
                written[session] += 1
        except errors.StatesyncError as error:
            ends[session] = repr(error)

    def sweep() -> None:
        while not stop.is_set():
            game.call("sync_dirty")

    players = [threading.Thread(target=play, args=[session]) for session in fights]
    sweeper = threading.Thread(target=sweep)
    for thread in (*players, sweeper):
        thread.start()
    try:
        saved = "SELECT count(*) FROM combat_log WHERE seq = 20"
        wait_until(lambda: rows(engine, saved) == [(5,)])
        for number, session in enumerate(fights):
            hot.close_session("combat", session, {"result": f"won {number}"})
            for char_id in parties[number]:
                hot.update(char_id, state="exploration")
        for player in players:
            player.join()
    finally:
        stop.set()
        sweeper.join()
    game.sync_until_clean(hot)
    assert all("Session" in end for end in ends.values()), ends
    found = rows(engine, "SELECT id, payload->>'result', closed_at IS NULL FROM sessions")
    assert {i: (result, is_open) for i, result, is_open in found} == {
        session: (f"won {number}", False) for number, session in enumerate(fights)
    }
    logs = rows(engine, "SELECT session_id, count(*), max(seq) + 1 FROM combat_log GROUP BY 1")
    assert {i: (count, end) for i, count, end in logs} == {i: (n, n) for i, n in written.items()}
    for session, party in zip(fights, parties, strict=True):
        assert not raw.exists(keys.session("combat", str(session)))
        assert not raw.exists(keys.session_log("combat", str(session)))
        for char_id in party:
            assert hot.get(char_id).sessions == {}
    stages = "SELECT DISTINCT game_stage, extra ? 'combat_session_id' FROM characters"
    assert rows(engine, stages) == [("exploration", False)]
    nothing_went_wrong(engine, hot)


class TestTwoBeats:
    """Beat started twice by mistake, and a game that sweeps as well."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return replace(settings, sync_seconds=1, lease_seconds=60)

    def test_and_two_sweeps_at_once_do_no_harm(
        self, game: Game, bare: Bare, engine: Engine, hot: HotStore
    ) -> None:
        for n in (1, 2):
            game.stack.start(f"beat-{n}", "beat", "--loglevel", "INFO")
        parties = [list(range(10 * n + 1, 10 * n + 5)) for n in range(20)]
        fights = [bare.fight(party) for party in parties]
        last = 0
        with watching(engine):
            seen: set[str] = set()
            while len(seen) < 5:
                last += 1
                for name, party in zip(fights, parties, strict=True):
                    bare.play(name, party, last)
                for result in [game.send("sync_dirty") for _ in range(2)]:
                    result.get(timeout=60)
                seen.update(turns(engine).values())
            # By the beats alone, without a sweep of ours.
            wait_until(lambda: turns(engine) == {uuid_of(name): str(last) for name in fights})
        wait_until(lambda: (hot.status().dirty, hot.status().claimed) == (0, 0))
        logs = rows(engine, "SELECT DISTINCT count(*) FROM combat_log GROUP BY session_id")
        assert logs == [(last + 1,)]
        nothing_went_wrong(engine, hot)


def test_a_fight_closed_while_it_is_being_saved_keeps_its_end(
    game: Game, raw: Any, keys: Keys, engine: Engine, hot: HotStore, full_core: FullCore
) -> None:
    for char_id in (1, 2):
        hot.create(char_id, **full_core(char_id))
    fight = hot.open_session("combat", [1, 2], {"monsters": MONSTERS})
    hot.update_session("combat", fight, log=["begins"])
    game.sync_until_clean(hot)
    hot.update_session("combat", fight, {"round": "2"}, log=["goes on"])
    with middle_of_a_write(engine, 2):
        backup = game.send("backup_full_state", 1)
        wait_until(lambda: waiting_for_a_lock(engine))
        # The snapshot is taken: it holds an open fight, and knows nothing of its end.
        hot.update_session("combat", fight, log=["ends"])
        hot.close_session("combat", fight, {"result": "won"})
    assert backup.get(timeout=60)["outcome"] == "saved"
    game.sync_until_clean(hot)
    assert rows(engine, "SELECT payload->>'result', closed_at IS NULL FROM sessions") == [
        ("won", False)
    ]
    log = rows(engine, "SELECT entry FROM combat_log ORDER BY seq")
    assert log == [("begins",), ("goes on",), ("ends",)]
    assert not raw.exists(keys.session("combat", str(fight)))
    assert hot.get(1).sessions == hot.get(2).sessions == {}
