"""Whatever characters and sessions go through: once saved, all of it comes back."""

from __future__ import annotations

import itertools
import json
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from statesync import GameStateOrchestrator
from statesync.errors import (
    CharacterExists,
    CharacterNotLoaded,
    CharacterNotSaved,
    InSession,
    SessionClosed,
    SessionNotFound,
)
from statesync.hot.keys import Keys
from statesync.state import session_types
from statesync.state.sessions import json_fields
from tests.integration.sessions.stores import content, settle, wipe
from tests.integration.sessions.strategies import logs, objects, texts, values

_first_ids = itertools.count(1, 10)
CROWD = range(4)

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
player = st.sampled_from(CROWD)
players = st.sets(player, min_size=1)


def _with_fields(head: str, members: Any, *rest: Any) -> st.SearchStrategy[Any]:
    return type_names.flatmap(
        lambda name: st.tuples(st.just(head), st.just(name), members, FIELDS[name], *rest)
    )


steps = st.one_of(
    _with_fields("open", players),
    _with_fields("update", player, logs),
    _with_fields("bare", player, logs),
    st.tuples(st.just("join"), type_names, player, player),
    st.tuples(st.sampled_from(["leave", "close"]), type_names, player),
    st.tuples(st.sampled_from(["backup", "restore"]), players),
    st.tuples(st.just("evict"), player),
    st.tuples(st.just("gold"), player, st.integers(-9, 9)),
    st.tuples(st.just("lose")),
)


class Game:
    """A small game that plays a history; it ignores what is refused."""

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

    def open(self, session_type: str, members: set[int], fields: dict[str, Any]) -> None:
        self.hot.open_session(
            session_type, [self.ids[n] for n in sorted(members)], self._fields(fields)
        )

    def update(self, session_type: str, n: int, fields: dict[str, Any], log: list[Any]) -> None:
        log = log if session_types.find_type(session_type).has_log else []
        self.hot.update_session(
            session_type, self._session(session_type, n), self._fields(fields), log=log
        )

    def bare(self, session_type: str, n: int, fields: dict[str, Any], log: list[Any]) -> None:
        """The same, by a bare writer, which marks one participant."""
        session = str(self._session(session_type, n))
        if self.hot.get_session(session_type, session).closed:
            return
        written = {
            name: json.dumps(value) if name in json_fields(session_type) else value
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

    def backup(self, members: set[int]) -> None:
        loaded = [self.ids[n] for n in sorted(members) if self.hot.peek(self.ids[n])]
        reports = self.orchestrator.backup_many(loaded)
        assert {r.outcome for r in reports} <= {"saved", "unchanged"}, reports

    def restore(self, members: set[int]) -> None:
        self.orchestrator.restore_many([self.ids[n] for n in sorted(members)])

    def evict(self, n: int) -> None:
        self.orchestrator.evict(self.ids[n])

    def lose(self) -> None:
        """All of Redis is lost, and all characters log in again."""
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
