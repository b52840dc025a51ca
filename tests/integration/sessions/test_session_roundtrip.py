"""What is in Redis comes back as it was, and what SQL wrote arrives as the contract says."""

from __future__ import annotations

import itertools
import json
from typing import Any
from uuid import uuid4

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from statesync.hot.keys import Keys
from statesync.lifecycle.orchestrator import GameStateOrchestrator

_ids = itertools.count(1, 10)

# What PostgreSQL's jsonb and a JSON parser agree on; no NUL, no lone surrogates.
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
numbers = st.integers(-(2**63), 2**63 - 1) | st.integers(-(10**6), 10**6).map(lambda n: n / 8)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(texts, values, max_size=3)
own_names = st.text("abcxyzß", min_size=4, max_size=8)

fights = st.fixed_dictionaries(
    {"monsters": values, "turn_order": values}, optional={"mood": texts, "round": texts}
)
quests = st.fixed_dictionaries(
    {"quest_id": texts.filter(bool), "graph": objects, "node": texts, "variables": objects},
    optional={"hint": texts},
)
items = st.lists(
    st.fixed_dictionaries(
        {"kind": texts.filter(bool), "quantity": st.integers(0, 2**63 - 1)},
        optional={"rune": values, "attributes": values, "character_id": values},
    ),
    max_size=4,
)
cores = st.fixed_dictionaries(
    {"state": st.sampled_from(["exploration", "combat", "inventory", "scenario"])},
    optional={"bio": objects.filter(lambda o: not o.keys() & {"name", "gender", "created_at"})},
)
worlds = st.fixed_dictionaries(
    {
        "cores": st.lists(cores, min_size=4, max_size=4),
        "fights": st.lists(st.tuples(st.sets(st.integers(0, 3), min_size=1), fights), max_size=2),
        "quests": st.lists(st.tuples(st.sets(st.integers(0, 3), min_size=1), quests), max_size=2),
        "bags": st.lists(st.tuples(st.integers(0, 3), items, values), max_size=3),
        "log": st.lists(values, max_size=4),
        "own": st.dictionaries(own_names, texts, max_size=2),
    }
)


def content(raw: Any, keys: Keys) -> dict[bytes, Any]:
    """Return all characters, sessions and logs in Redis, with JSON decoded."""
    found: dict[bytes, Any] = {}
    for key in raw.scan_iter(f"{keys.prefix}*", count=1000):
        if key.endswith(b":log"):
            found[key] = [json.loads(entry) for entry in raw.lrange(key, 0, -1)]
        elif b":session:" in key or key.startswith(f"{keys.prefix}ac:".encode()):
            found[key] = {name: decoded(name, v) for name, v in raw.hgetall(key).items()}
    return found


JSON = b"location bio stats vitals monsters turn_order items filters graph variables participants"


def decoded(name: bytes, value: bytes) -> Any:
    return json.loads(value) if name in JSON.split() else value


def wipe(raw: Any, keys: Keys) -> None:
    for key in raw.scan_iter(f"{keys.prefix}*", count=1000):
        raw.delete(key)


def write_world(raw: Any, keys: Keys, world: dict[str, Any]) -> list[int]:
    """Write a world as a game does that knows nothing of statesync; returns the characters."""
    first = next(_ids)
    ids = [first + n for n in range(4)]
    references: dict[int, dict[str, str]] = {i: {} for i in ids}

    def open_session(session_type: str, among: Any, fields: dict[str, Any], log: Any = ()) -> None:
        members = [
            ids[n] for n in sorted(among) if f"{session_type}_session_id" not in references[ids[n]]
        ]
        if not members:
            return
        session = str(uuid4())
        written = {k: v if isinstance(v, str) and k.encode() not in JSON.split() else json.dumps(v)
                   for k, v in fields.items()}  # fmt: skip
        written["participants"] = json.dumps(members)
        raw.hset(keys.session(session_type, session), mapping=written)
        if log:
            raw.rpush(keys.session_log(session_type, session), *map(json.dumps, log))
        for i in members:
            references[i][f"{session_type}_session_id"] = session

    for among, fight in world["fights"]:
        open_session("combat", among, fight, world["log"])
    for among, quest in world["quests"]:
        open_session("scenario", among, quest)
    for n, held, filters in world["bags"]:
        named = [{"item_id": str(uuid4()), **item} for item in held]
        open_session("inventory", {n}, {"items": named, "filters": filters})
    for i, core in zip(ids, world["cores"], strict=True):
        state = core["state"]
        if state != "exploration" and f"{state}_session_id" not in references[i]:
            state = "exploration"  # a state without its session falls back: another test
        fields = {k: json.dumps(v) for k, v in core.items()} | {"state": state}
        raw.hset(keys.core(i), mapping=fields | references[i] | world["own"])
        raw.sadd(keys.dirty, i)
    return ids


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(world=worlds)
def test_backup_wipe_restore_gives_the_same(
    orchestrator: GameStateOrchestrator, raw: Any, keys: Keys, world: dict[str, Any]
) -> None:
    ids = write_world(raw, keys, world)
    reports = orchestrator.backup_many(ids)
    assert {r.outcome for r in reports} == {"saved"}, reports
    assert orchestrator.hot.status().dirty == 0
    before = content(raw, keys)
    wipe(raw, keys)
    assert {r.outcome for r in orchestrator.restore_many(ids)} == {"restored"}
    assert content(raw, keys) == before
    assert {r.outcome for r in orchestrator.backup_many(ids)} == {"unchanged"}
    assert content(raw, keys) == before
    wipe(raw, keys)


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
