"""Rows that another program wrote, in the columns of the contract, arrive as the contract says."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Collection
from operator import itemgetter
from typing import Any
from uuid import uuid4

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, text

from statesync import GameStateOrchestrator
from statesync.hot.keys import Keys
from tests.integration.sessions.stores import content, wipe
from tests.integration.sessions.strategies import logs, objects, texts, values

SQL = """
INSERT INTO characters (id, name, game_stage, version) VALUES
  (1, 'Ann', 'combat', 5), (2, 'Ben', 'combat', 1), (3, 'Cy', 'inventory', 1),
  (4, 'Dee', 'scenario', 1), (5, 'Eve', 'exploration', 1), (6, 'Fox', 'scenario', 1);
INSERT INTO sessions (id, session_type, payload, version) VALUES
  ('00000000-0000-0000-0000-00000000000a', 'combat',
   '{"monsters": [{"hp": 3}], "turn_order": [2, 1]}', 7);
INSERT INTO sessions (id, session_type) VALUES
  ('00000000-0000-0000-0000-00000000000b', 'inventory'),
  ('00000000-0000-0000-0000-00000000000c', 'scenario');
INSERT INTO sessions (id, session_type, closed_at) VALUES
  ('00000000-0000-0000-0000-00000000000d', 'scenario', now());
INSERT INTO session_characters (session_id, character_id) VALUES
  ('00000000-0000-0000-0000-00000000000a', 1), ('00000000-0000-0000-0000-00000000000a', 2),
  ('00000000-0000-0000-0000-00000000000b', 3), ('00000000-0000-0000-0000-00000000000c', 4),
  ('00000000-0000-0000-0000-00000000000d', 6);
INSERT INTO combat_log VALUES
  ('00000000-0000-0000-0000-00000000000a', 0, '{"hit": 1}'),
  ('00000000-0000-0000-0000-00000000000a', 1, '{"hit": 2}');
INSERT INTO inventory_items (item_id, character_id, kind, quantity, attributes) VALUES
  ('s1', 3, 'sword', 1, '{"rune": "fire"}'), ('a1', 3, 'arrow', 20, '{}');
INSERT INTO scenario_progress (character_id, quest_id, node, variables, graph) VALUES
  (4, 'crypt', 'hall', '{"keys": 2}', '{"hall": []}')
"""


def test_what_sql_wrote_arrives_as_the_contract_says(
    orchestrator: GameStateOrchestrator, engine: Engine, raw: Any, keys: Keys
) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(SQL)
    reports = orchestrator.restore_many(range(1, 7))
    assert [r.sessions for r in reports] == [
        {"combat": "restored"},
        {"combat": "live"},
        {"inventory": "restored"},
        {"scenario": "restored"},
        {},
        {},
    ]
    assert [r.fallback_from for r in reports] == [None, None, None, None, None, "scenario"]
    hot = orchestrator.hot
    assert [hot.get(i).state for i in (1, 3, 4, 5, 6)] == [
        *("combat", "inventory", "scenario", "exploration", "exploration")
    ]
    ids = {c: f"00000000-0000-0000-0000-00000000000{c}" for c in "abc"}
    fight = raw.hgetall(keys.session("combat", ids["a"]))
    assert json.loads(fight[b"monsters"]) == [{"hp": 3}]
    assert json.loads(fight[b"participants"]) == [1, 2]
    assert fight[b"version"] == b"7"
    log = raw.lrange(keys.session_log("combat", ids["a"]), 0, -1)
    assert [json.loads(entry) for entry in log] == [{"hit": 1}, {"hit": 2}]
    assert raw.hget(keys.core(2), "combat_session_id").decode() == ids["a"]
    bag = raw.hgetall(keys.session("inventory", ids["b"]))
    assert json.loads(bag[b"items"]) == [
        {"item_id": "a1", "kind": "arrow", "quantity": 20},
        {"item_id": "s1", "kind": "sword", "quantity": 1, "rune": "fire"},
    ]
    quest = raw.hgetall(keys.session("scenario", ids["c"]))
    assert (quest[b"quest_id"], quest[b"node"]) == (b"crypt", b"hall")
    assert json.loads(quest[b"variables"]) == {"keys": 2}
    assert json.loads(quest[b"graph"]) == {"hall": []}
    assert {r.outcome for r in orchestrator.backup_many(range(1, 7))} == {"saved", "unchanged"}
    with engine.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM inventory_items")).scalar() == 2


_first_ids = itertools.count(1, 10)

plain = st.text("abcß Ω", min_size=1, max_size=6)
owners = st.fixed_dictionaries(
    {
        "state": st.sampled_from(["exploration", "combat", "inventory", "scenario"]),
        "version": st.integers(0, 2**53),
        "name": st.none() | plain,
        "place": st.none() | plain,
        "luck": st.none() | st.integers(-(2**31), 2**31 - 1),
        "extra": st.dictionaries(st.text("xyz", min_size=4, max_size=6), plain, max_size=2),
        "items": st.none()
        | st.lists(st.tuples(plain, st.integers(0, 2**63 - 1), objects), max_size=3),
        "quest": st.none() | st.tuples(plain, st.none() | plain, objects, objects),
        "closed": st.booleans(),
    }
)
RESERVED = {"item_id", "kind", "quantity"}
JSON_COLUMNS = {"payload", "entry", "extra", "attributes", "variables", "graph"}


class Sql:
    """Writes rows as the contract says, and notes what Redis must hold after a restore."""

    def __init__(self, connection: Connection, first: int) -> None:
        self._connection, self._first = connection, first
        self.expected: dict[str, Any] = {}
        self.references: dict[int, set[str]] = defaultdict(set)

    def insert(self, table: str, **columns: Any) -> None:
        given = {
            name: json.dumps(value) if name in JSON_COLUMNS else value
            for name, value in columns.items()
        }
        places = (f"CAST(:{n} AS jsonb)" if n in JSON_COLUMNS else f":{n}" for n in given)
        names = f"({', '.join(given)}) VALUES ({', '.join(places)})"
        self._connection.execute(text(f"INSERT INTO {table} {names}"), given)

    def character(self, n: int, row: dict[str, Any]) -> None:
        char_id, version = self._first + n, row["version"]
        core = {"name": row["name"], "game_stage": row["state"], "location_id": row["place"]}
        self.insert("characters", id=char_id, extra=row["extra"], version=version, **core)
        self.insert("character_stats", character_id=char_id, luck=row["luck"])
        self.expected[f"ac:{char_id}"] = {**row["extra"], "version": str(version)}

    def session(self, session_type: str, members: Collection[int], **columns: Any) -> str:
        made = str(uuid4())
        self.insert("sessions", id=made, session_type=session_type, **columns)
        for n in members:
            self.insert("session_characters", session_id=made, character_id=self._first + n)
            if "closed_at" not in columns:
                self.references[n].add(session_type)
                self.expected[f"ac:{self._first + n}"][f"{session_type}_session_id"] = made
        return f"{session_type}:session:{made}"

    def fight(self, members: Collection[int], fields: dict[str, Any], log: list[Any]) -> None:
        name = self.session("combat", members, payload=fields, version=3)
        for seq, entry in enumerate(log):
            self.insert("combat_log", session_id=name[-36:], seq=seq, entry=entry)
        participants = [self._first + n for n in members]
        self.expected[name] = {**fields, "participants": participants, "version": "3"}
        if log:
            self.expected[f"{name}:log"] = log

    def bag(self, n: int, items: list[Any], *, closed: bool) -> None:
        ended = {"closed_at": "2026-11-01T12:00:00Z"} if closed else {}
        name = self.session("inventory", [n], **ended)
        items_in_redis: list[dict[str, Any]] = []
        for session_type, quantity, attributes in items:
            more = {k: v for k, v in attributes.items() if k not in RESERVED}
            thing = {"item_id": str(uuid4()), "kind": session_type, "quantity": quantity}
            owner = self._first + n
            self.insert("inventory_items", character_id=owner, **thing, attributes=more)
            items_in_redis.append(thing | more)
        if not closed:
            self.expected[name] = {"participants": [self._first + n], "version": "0"}
            if items_in_redis:
                self.expected[name]["items"] = sorted(items_in_redis, key=itemgetter("item_id"))

    def quest(self, n: int, quest: str, node: str | None, graph: Any, variables: Any) -> None:
        name = self.session("scenario", [n], payload={"quest_id": quest})
        progress = {"quest_id": quest, "graph": graph, "variables": variables}
        progress |= {} if node is None else {"node": node}
        self.insert("scenario_progress", character_id=self._first + n, **progress)
        self.expected[name] = {**progress, "participants": [self._first + n], "version": "0"}


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows_of=st.lists(owners, min_size=2, max_size=3),
    fighters=st.sets(st.sampled_from([0, 1])),
    fight=st.fixed_dictionaries(
        {"monsters": values}, optional={"turn_order": values, "mood": texts}
    ),
    log=logs,
)
def test_rows_of_others_arrive_as_the_contract_says(
    orchestrator: GameStateOrchestrator,
    engine: Engine,
    raw: Any,
    keys: Keys,
    rows_of: list[dict[str, Any]],
    fighters: set[int],
    fight: dict[str, Any],
    log: list[Any],
) -> None:
    first = next(_first_ids)
    with engine.begin() as connection:
        sql = Sql(connection, first)
        for n, row in enumerate(rows_of):
            sql.character(n, row)
        if fighters:
            sql.fight(sorted(fighters), fight, log)
        for n, row in enumerate(rows_of):
            if row["items"] is not None:
                sql.bag(n, row["items"], closed=row["closed"])
            if row["quest"] is not None:
                sql.quest(n, *row["quest"])
    ids = [first + n for n in range(len(rows_of))]
    reports = orchestrator.restore_many(ids)
    assert {r.outcome for r in reports} == {"restored"}
    found = content(raw, keys)
    for n, (row, report) in enumerate(zip(rows_of, reports, strict=True)):
        core = found[f"ac:{first + n}"]
        falls_back = row["state"] not in {"exploration", *sql.references[n]}
        assert report.fallback_from == (row["state"] if falls_back else None)
        assert core.pop("state") == ("exploration" if falls_back else row["state"])
        assert core.pop("saved_version") == str(row["version"])
        assert core.pop("bio", {}).get("name") == row["name"]
        assert core.pop("location", {}).get("current") == row["place"]
        assert core.pop("stats", {}).get("luck") == row["luck"]
        core.pop("vitals", None)
    assert found == sql.expected
    wipe(raw, keys)
