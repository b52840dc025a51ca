"""What our own three session types keep, each in its way, and any history of sessions over them.

``test_session_suite`` has what every type owes, whoever made it.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Collection
from contextlib import suppress
from operator import itemgetter
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, text

from statesync.errors import (
    CharacterExists,
    CharacterNotLoaded,
    CharacterNotSaved,
    InSession,
    InvalidField,
    SessionClosed,
    SessionNotFound,
)
from statesync.hot.keys import Keys
from statesync.hot.store import HotStore
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.state import session_types
from tests.conftest import FullCore

ROWS = "SELECT {}, xmin::text FROM {} ORDER BY 1"


def rows(engine: Engine, query: str) -> list[Any]:
    with engine.begin() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def item(item_id: str, quantity: int = 1, **attributes: Any) -> dict[str, Any]:
    return {"item_id": item_id, "kind": "cup", "quantity": quantity, **attributes}


JSON = b"location bio stats vitals monsters turn_order items filters graph variables participants"


def content(raw: Any, keys: Keys) -> dict[str, Any]:
    """Return all characters, sessions and logs in Redis, with JSON decoded."""
    found: dict[str, Any] = {}
    for key in raw.scan_iter(f"{keys.prefix}*", count=1000):
        name = key.decode().removeprefix(keys.prefix)
        if name.endswith(":log"):
            found[name] = [json.loads(entry) for entry in raw.lrange(key, 0, -1)]
        elif name.startswith("ac:") or name.partition(":")[0] in session_types.names():
            found[name] = {
                field.decode(): json.loads(value) if field in JSON.split() else value.decode()
                for field, value in raw.hgetall(key).items()
            }
    return found


def wipe(raw: Any, keys: Keys) -> None:
    for key in raw.scan_iter(f"{keys.prefix}*", count=1000):
        raw.delete(key)


def settle(game: GameStateOrchestrator, char_ids: list[int]) -> None:
    """Save until nothing is dirty: clearing a closed session's references is a change, too."""
    for _ in range(6):
        if not game.hot.status().dirty:
            return
        game.backup_many(char_ids)
    raise AssertionError(f"always dirty: {game.backup_many(char_ids)}")


# Combat


@pytest.fixture
def fight(hot: HotStore, full_core: FullCore) -> UUID:
    """An open fight of two."""
    for i in (1, 2):
        hot.create(i, **full_core(i))
    return hot.open_session("combat", [1, 2], {"monsters": [], "turn_order": []}, state="combat")


def test_log_of_a_bare_writer_grows_by_its_tail_alone(
    fight: UUID, orchestrator: GameStateOrchestrator, engine: Engine, raw: Any, keys: Keys
) -> None:
    log = keys.session_log("combat", str(fight))
    raw.rpush(log, *(json.dumps({"turn": i}) for i in range(100_000)))
    raw.sadd(keys.dirty, 1)
    assert orchestrator.backup_full_state(1).sessions == {"combat": "saved"}
    with engine.begin() as connection:
        connection.exec_driver_sql(
            """
            CREATE TABLE sent (op text, seq bigint);
            CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $body$ BEGIN
              INSERT INTO sent VALUES (TG_OP, coalesce(NEW.seq, OLD.seq));
              RETURN coalesce(NEW, OLD);
            END $body$;
            CREATE TRIGGER note BEFORE INSERT OR UPDATE OR DELETE ON combat_log
              FOR EACH ROW EXECUTE FUNCTION note();
            """
        )
    raw.rpush(log, "null", '"x"', "[1.5]")
    raw.sadd(keys.dirty, 2)
    orchestrator.backup_full_state(2)
    # A row that is offered and then skipped would be seen by the trigger as well.
    assert rows(engine, "SELECT op, seq FROM sent ORDER BY 2") == [
        ("INSERT", 100_000),
        ("INSERT", 100_001),
        ("INSERT", 100_002),
    ]
    assert rows(engine, "SELECT entry FROM combat_log WHERE seq >= 100000 ORDER BY seq") == [
        (None,),
        ("x",),
        ([1.5],),
    ]
    assert orchestrator.backup_full_state(1).outcome == "unchanged"
    assert rows(engine, "SELECT count(*) FROM sent") == [(3,)]


def test_log_saved_again_after_a_lost_acknowledgement_has_no_row_twice(
    fight: UUID, hot: HotStore, orchestrator: GameStateOrchestrator, engine: Engine, raw: Any,
    keys: Keys,
) -> None:  # fmt: skip
    orchestrator.backup_many([1, 2])
    hot.update_session("combat", fight, log=["a", "b"])
    held = {key: raw.hgetall(key) for key in (keys.core(1), keys.core(2))}
    session = raw.hgetall(keys.session("combat", str(fight)))
    orchestrator.backup_full_state(1)
    # As if Redis had never heard of that save: the marks and the versions are what they were.
    for key, fields in [*held.items(), (keys.session("combat", str(fight)), session)]:
        raw.hset(key, mapping=fields)
    raw.sadd(keys.dirty, 1, 2)
    hot.update_session("combat", fight, log=["c"])
    settle(orchestrator, [1, 2])
    log = "SELECT seq, entry FROM combat_log ORDER BY 1"
    assert rows(engine, log) == [(0, "a"), (1, "b"), (2, "c")]


# Inventory


@pytest.mark.parametrize(
    ("items", "at"),
    [
        ([item("a"), item("b", -1)], "items[1].quantity"),
        ([item("a"), item("b", 2**63)], "items[1].quantity"),
        ([item("a"), {**item("b"), "quantity": 1.5}], "items[1].quantity"),
        ([item("a"), item("b"), item("a")], "items[2].item_id"),
        ([item("a"), {"item_id": "b", "quantity": 1}], "items[1].kind"),
        ([item("a"), "b"], "items[1]"),
        ("a", "items"),
    ],
    ids=[
        "below zero",
        "beyond 2^63-1",
        "a fraction",
        "twice",
        "without kind",
        "no item",
        "no list",
    ],
)
def test_item_that_is_none_is_named_and_holds_up_nobody_else(
    hot: HotStore,
    orchestrator: GameStateOrchestrator,
    engine: Engine,
    raw: Any,
    keys: Keys,
    full_core: FullCore,
    items: Any,
    at: str,
) -> None:
    for i in (1, 2, 3):
        hot.create(i, **full_core(i))
    bag = hot.open_session("inventory", [1], {"items": [item("a")]})
    hot.open_session("inventory", [2], {"items": [item("z")]})
    orchestrator.backup_many([1, 2, 3])
    with pytest.raises(InvalidField) as refused:
        hot.update_session("inventory", bag, {"items": items})
    assert refused.value.field == at
    with pytest.raises(InvalidField):
        hot.open_session("inventory", [3], {"items": items})
    assert hot.status().dirty == 0, "a refused change changes nothing"

    raw.hset(keys.session("inventory", str(bag)), "items", json.dumps(items))
    raw.sadd(keys.dirty, 1)
    hot.update(2, gold=1)
    reports = orchestrator.backup_many([1, 2, 3])
    assert [r.outcome for r in reports] == ["quarantined", "saved", "unchanged"]
    entry = hot.sync_state(1).quarantine
    assert entry is not None
    assert entry.field == reports[0].field == f"inventory:session:{bag}.{at}"
    assert rows(engine, "SELECT item_id, quantity FROM inventory_items ORDER BY 1") == [
        ("a", 1),
        ("z", 1),
    ]
    hot.update_session("inventory", bag, {"items": [item("a", 7)]})
    settle(orchestrator, [1])
    assert rows(engine, "SELECT quantity FROM inventory_items WHERE item_id = 'a'") == [(7,)]
    assert hot.sync_state(1).quarantine is None


def test_item_that_moves_has_one_owner_and_others_are_not_touched(
    hot: HotStore, orchestrator: GameStateOrchestrator, engine: Engine, full_core: FullCore
) -> None:
    for i in (1, 2):
        hot.create(i, **full_core(i))
    bags = {
        i: hot.open_session("inventory", [i], {"items": [item(f"{i}-{n}") for n in range(50)]})
        for i in (1, 2)
    }
    settle(orchestrator, [1, 2])
    before = dict(rows(engine, ROWS.format("item_id", "inventory_items")))
    hot.update_session("inventory", bags[1], {"items": [item(f"1-{n}") for n in range(1, 50)]})
    moved = [*(item(f"2-{n}") for n in range(50)), item("1-0", rune={"fire": None})]
    hot.update_session("inventory", bags[2], {"items": moved})
    orchestrator.backup_full_state(2)  # the one who has it now is saved first
    orchestrator.backup_full_state(1)
    after = dict(rows(engine, ROWS.format("item_id", "inventory_items")))
    assert {i for i in before if before[i] != after[i]} == {"1-0"}
    assert rows(
        engine, "SELECT character_id, attributes FROM inventory_items WHERE item_id = '1-0'"
    ) == [(2, {"rune": {"fire": None}})]


# Scenario


def test_quest_is_in_the_columns_of_each_of_its_participants(
    hot: HotStore, orchestrator: GameStateOrchestrator, engine: Engine, full_core: FullCore
) -> None:
    for i in (1, 2):
        hot.create(i, **full_core(i))
    quest = {"quest_id": "crypt", "node": "hall", "graph": {"hall": ["well"]}, "variables": [1]}
    session = hot.open_session("scenario", [1, 2], quest)
    settle(orchestrator, [1, 2])
    progress = (
        "SELECT character_id, quest_id, node, graph, variables FROM scenario_progress ORDER BY 1"
    )
    assert rows(engine, progress) == [(i, "crypt", "hall", {"hall": ["well"]}, [1]) for i in (1, 2)]
    before = rows(engine, ROWS.format("character_id", "scenario_progress"))
    hot.leave_session("scenario", session, 2)
    hot.update_session("scenario", session, {"node": "well"})
    settle(orchestrator, [1, 2])
    assert [row[2] for row in rows(engine, progress)] == ["well", "hall"]
    assert rows(engine, ROWS.format("character_id", "scenario_progress"))[1] == before[1]


_BAG = ("inventory", {"items": [item("a")]}, {"filters": {"kind": "cup"}})
_QUEST = ("scenario", {"quest_id": "q", "node": "a", "graph": {"a": []}}, {"quest_id": "q"})


@pytest.mark.parametrize(
    ("session_type", "before", "fields", "played"),
    [
        pytest.param("combat", {"monsters": [1]}, {"mood": "grim"}, True, id="combat"),
        pytest.param(*_BAG, False, id="first bag"),
        pytest.param(*_BAG, True, id="second bag"),
        pytest.param(*_QUEST, False, id="first quest"),
        pytest.param(*_QUEST, True, id="quest played again"),
    ],
)
def test_field_that_a_session_never_had_does_not_appear(
    hot: HotStore,
    orchestrator: GameStateOrchestrator,
    raw: Any,
    keys: Keys,
    session_type: str,
    before: dict[str, Any],
    fields: dict[str, Any],
    played: bool,
) -> None:
    hot.create(1, state="exploration")
    if played:
        hot.close_session(session_type, hot.open_session(session_type, [1], before))
        settle(orchestrator, [1])
    hot.open_session(session_type, [1], fields)
    settle(orchestrator, [1])
    held = content(raw, keys)
    wipe(raw, keys)
    orchestrator.restore_full_state(1)
    assert content(raw, keys) == held


# Any history

_first_ids = itertools.count(1, 10)
CROWD = range(4)

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5)
numbers = st.integers(-(2**63), 2**63 - 1) | st.integers(-(10**6), 10**6).map(lambda n: n / 8)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
objects = st.dictionaries(texts, values, max_size=2)
extra = {"mood": texts}
things = st.lists(
    st.fixed_dictionaries(
        {"kind": texts.filter(bool), "quantity": st.integers(0, 2**63 - 1)},
        optional={"rune": values},
    ),
    max_size=3,
)
FIELDS: dict[str, Any] = {
    "combat": st.fixed_dictionaries({"monsters": values}, optional={"turn_order": values, **extra}),
    "inventory": st.fixed_dictionaries({"items": things}, optional={"filters": values, **extra}),
    "scenario": st.fixed_dictionaries(
        # With a node at least: see test_field_that_a_session_never_had_does_not_appear.
        {"quest_id": st.sampled_from(["crypt", "Ω"]), "node": texts},
        optional={"graph": objects, "variables": objects, **extra},
    ),
}
type_names = st.sampled_from(sorted(FIELDS))
who = st.sampled_from(CROWD)
some = st.sets(who, min_size=1)


def _with_fields(head: str, among: Any, *rest: Any) -> st.SearchStrategy[Any]:
    return type_names.flatmap(
        lambda k: st.tuples(st.just(head), st.just(k), among, FIELDS[k], *rest)
    )


logs = st.lists(values, max_size=3)
steps = st.one_of(
    _with_fields("open", some),
    _with_fields("update", who, logs),
    _with_fields("bare", who, logs),
    st.tuples(st.just("join"), type_names, who, who),
    st.tuples(st.sampled_from(["leave", "close"]), type_names, who),
    st.tuples(st.sampled_from(["backup", "restore"]), some),
    st.tuples(st.just("evict"), who),
    st.tuples(st.just("gold"), who, st.integers(-9, 9)),
    st.tuples(st.just("lose")),
)


class Game:
    """A small game that plays a history; what it may not do is refused and left."""

    def __init__(self, orchestrator: GameStateOrchestrator, raw: Any) -> None:
        self.orchestrator, self.hot, self.raw = orchestrator, orchestrator.hot, raw
        self.keys = self.hot.keys
        first = next(_first_ids)
        self.ids = [first + n for n in CROWD]

    def play(self, step: tuple[Any, ...]) -> None:
        operation, *args = step
        refused = (CharacterNotLoaded, CharacterNotSaved, InSession, SessionClosed, SessionNotFound)
        with suppress(*refused):
            getattr(self, operation)(*args)

    def _session(self, session_type: str, n: int) -> UUID:
        found = self.hot.get(self.ids[n]).sessions.get(session_type)
        if found is None:
            raise SessionNotFound(session_type)
        return found

    def _fields(self, fields: dict[str, Any]) -> dict[str, Any]:
        if "items" not in fields:
            return fields
        return fields | {"items": [{"item_id": str(uuid4()), **i} for i in fields["items"]]}

    def open(self, session_type: str, among: set[int], fields: dict[str, Any]) -> None:
        self.hot.open_session(
            session_type, [self.ids[n] for n in sorted(among)], self._fields(fields)
        )

    def update(self, session_type: str, n: int, fields: dict[str, Any], log: list[Any]) -> None:
        log = log if session_types.find_type(session_type).has_log else []
        self.hot.update_session(
            session_type, self._session(session_type, n), self._fields(fields), log=log
        )

    def bare(self, session_type: str, n: int, fields: dict[str, Any], log: list[Any]) -> None:
        """The same, by a game that knows nothing of statesync and marks one of them alone."""
        session = str(self._session(session_type, n))
        if self.hot.get_session(session_type, session).closed:
            return
        written = {
            name: json.dumps(value) if name.encode() in JSON.split() else value
            for name, value in self._fields(fields).items()
        }
        with self.raw.pipeline(transaction=True) as pipe:
            pipe.hset(self.keys.session(session_type, session), mapping=written)
            if log and session_types.find_type(session_type).has_log:
                pipe.rpush(self.keys.session_log(session_type, session), *map(json.dumps, log))
            pipe.sadd(self.keys.dirty, self.ids[n])
            pipe.execute()

    def join(self, session_type: str, n: int, to: int) -> None:
        self.hot.join_session(session_type, self._session(session_type, to), self.ids[n])

    def leave(self, session_type: str, n: int) -> None:
        self.hot.leave_session(session_type, self._session(session_type, n), self.ids[n])

    def close(self, session_type: str, n: int) -> None:
        self.hot.close_session(session_type, self._session(session_type, n))

    def gold(self, n: int, gold: int) -> None:
        self.hot.update(self.ids[n], gold=gold)

    def backup(self, among: set[int]) -> None:
        loaded = [self.ids[n] for n in sorted(among) if self.hot.peek(self.ids[n])]
        reports = self.orchestrator.backup_many(loaded)
        assert {r.outcome for r in reports} <= {"saved", "unchanged"}, reports

    def restore(self, among: set[int]) -> None:
        self.orchestrator.restore_many([self.ids[n] for n in sorted(among)])

    def evict(self, n: int) -> None:
        self.orchestrator.evict(self.ids[n])

    def lose(self) -> None:
        """All of Redis is lost, and everybody logs in again."""
        wipe(self.raw, self.keys)
        self.orchestrator.restore_many(self.ids)


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(history=st.lists(steps, min_size=3, max_size=14))
def test_whatever_was_played_comes_back_as_it_was(
    orchestrator: GameStateOrchestrator, raw: Any, keys: Keys, history: list[Any]
) -> None:
    game = Game(orchestrator, raw)
    for i in game.ids:
        with suppress(CharacterExists):
            game.hot.create(i, state="exploration", gold=0)
    orchestrator.backup_many(game.ids)
    for step in history:
        game.play(step)
    orchestrator.restore_many(game.ids)
    settle(orchestrator, game.ids)
    before = content(raw, keys)
    wipe(raw, keys)
    reports = orchestrator.restore_many(game.ids)
    assert {r.outcome for r in reports} == {"restored"}
    assert content(raw, keys) == before
    assert orchestrator.hot.status().dirty == 0
    assert {r.outcome for r in orchestrator.backup_many(game.ids)} == {"unchanged"}
    wipe(raw, keys)


# The reverse: rows that statesync never wrote, with the contract's columns alone

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
    """Writes rows as somebody who knows the contract alone, and says what is to come of them."""

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

    def session(self, session_type: str, among: Collection[int], **columns: Any) -> str:
        made = str(uuid4())
        self.insert("sessions", id=made, session_type=session_type, **columns)
        for n in among:
            self.insert("session_characters", session_id=made, character_id=self._first + n)
            if "closed_at" not in columns:
                self.references[n].add(session_type)
                self.expected[f"ac:{self._first + n}"][f"{session_type}_session_id"] = made
        return f"{session_type}:session:{made}"

    def fight(self, among: Collection[int], fields: dict[str, Any], log: list[Any]) -> None:
        name = self.session("combat", among, payload=fields, version=3)
        for seq, entry in enumerate(log):
            self.insert("combat_log", session_id=name[-36:], seq=seq, entry=entry)
        participants = [self._first + n for n in among]
        self.expected[name] = {**fields, "participants": participants, "version": "3"}
        if log:
            self.expected[f"{name}:log"] = log

    def bag(self, n: int, items: list[Any], *, closed: bool) -> None:
        ended = {"closed_at": "2026-11-01T12:00:00Z"} if closed else {}
        name = self.session("inventory", [n], **ended)
        held: list[dict[str, Any]] = []
        for session_type, quantity, attributes in items:
            more = {k: v for k, v in attributes.items() if k not in RESERVED}
            thing = {"item_id": str(uuid4()), "kind": session_type, "quantity": quantity}
            owner = self._first + n
            self.insert("inventory_items", character_id=owner, **thing, attributes=more)
            held.append(thing | more)
        if not closed:
            self.expected[name] = {"participants": [self._first + n], "version": "0"}
            if held:
                self.expected[name]["items"] = sorted(held, key=itemgetter("item_id"))

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
    fight=st.fixed_dictionaries({"monsters": values}, optional={"turn_order": values, **extra}),
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
