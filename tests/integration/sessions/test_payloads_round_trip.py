"""Any payload that a game writes comes back from PostgreSQL as it was."""

from __future__ import annotations

import itertools
import json
from typing import Any
from uuid import uuid4

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from statesync import GameStateOrchestrator
from statesync.hot.keys import Keys
from statesync.state.sessions import json_fields
from tests.integration.sessions.stores import content, wipe
from tests.integration.sessions.strategies import objects, texts, values

_ids = itertools.count(1, 10)

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


def write_world(raw: Any, keys: Keys, world: dict[str, Any]) -> list[int]:
    """Write a world as a bare writer does. Returns the ids of its characters."""
    first = next(_ids)
    ids = [first + n for n in range(4)]
    references: dict[int, dict[str, str]] = {i: {} for i in ids}

    def open_session(session_type: str, chosen: Any, fields: dict[str, Any], log: Any = ()) -> None:
        members = [
            ids[n] for n in sorted(chosen) if f"{session_type}_session_id" not in references[ids[n]]
        ]
        if not members:
            return
        session = str(uuid4())
        as_json = json_fields(session_type)
        written = {
            name: value if isinstance(value, str) and name not in as_json else json.dumps(value)
            for name, value in fields.items()
        }
        written["participants"] = json.dumps(members)
        raw.hset(keys.session(session_type, session), mapping=written)
        if log:
            raw.rpush(keys.session_log(session_type, session), *map(json.dumps, log))
        for i in members:
            references[i][f"{session_type}_session_id"] = session

    for chosen, fight in world["fights"]:
        open_session("combat", chosen, fight, world["log"])
    for chosen, quest in world["quests"]:
        open_session("scenario", chosen, quest)
    for n, bag, filters in world["bags"]:
        named = [{"item_id": str(uuid4()), **item} for item in bag]
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
