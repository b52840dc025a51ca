"""Session types of a game's own: the example works, and mistakes cost the type's sessions alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text

from statesync import GameStateOrchestrator, Session, SessionOrchestrator, Settings
from statesync.errors import (
    CharacterNotRestored,
    InvalidSessionType,
)
from statesync.game.client import log_in
from statesync.hot.keys import Keys
from statesync.hot.store import HotStore
from tests.conftest import FullCore
from tests.integration.sessions.stores import rows, wipe
from tests.registry import registered

with registered():  # the example registers itself; it is not meant for other tests
    from examples import fishing


CATCH = [{"fish": "carp", "grams": 900}, {"fish": "pike", "grams": 4000}]
PARTY = [1, 2, 3]


@pytest.fixture
def party(hot: HotStore, full_core: FullCore) -> list[int]:
    for char_id in PARTY:
        hot.create(char_id, **full_core(char_id))
    return PARTY


class Broken(SessionOrchestrator):
    """A type that makes one mistake at a time."""

    session_type = "broken"
    mistake = ""

    @classmethod
    def check(cls, fields: Mapping[str, Any]) -> None:
        if cls.mistake == "check":
            raise KeyError(*fields)

    def payload(self, session: Session) -> dict[str, Any]:
        return {"x": 1 / 0} if self.mistake == "payload" else session.fields

    def save(self, connection: Connection, snapshots: Sequence[Session]) -> None:
        if self.mistake == "save":
            raise KeyError("save")
        if self.mistake == "no table":
            connection.execute(text("SELECT * FROM no_such_table"))

    def load(self, connection: Connection, char_ids: Sequence[int]) -> dict[int, Session]:
        if self.mistake == "load":
            connection.execute(text("SELECT * FROM no_such_table"))
        return self.open_sessions(connection, char_ids)


@pytest.fixture
def broken(orchestrator: GameStateOrchestrator) -> Iterator[GameStateOrchestrator]:
    with registered(Broken):
        yield GameStateOrchestrator(orchestrator.hot, orchestrator.engine)
    Broken.mistake = ""


@pytest.mark.parametrize("mistake", ["check", "payload", "save", "no table"])
def test_broken_type_holds_up_its_own_players_alone(
    broken: GameStateOrchestrator, mistake: str, full_core: FullCore
) -> None:
    for i in range(1, 10):
        broken.hot.create(i, **full_core(i))
    broken.hot.open_session("broken", [3, 4], {"a": "b"})
    Broken.mistake = mistake
    reports = broken.backup_many(range(1, 10))
    bad = [r for r in reports if r.outcome == "quarantined"]
    assert [r.char_id for r in bad] == [3, 4]
    assert {r.outcome for r in reports if r not in bad} == {"saved"}
    named = {
        "check": "the session type's check of it fails: KeyError",
        "payload": "the session type 'broken' cannot save it: ZeroDivisionError",
        "save": "the session type 'broken' cannot save it: KeyError: 'save'",
        "no table": 'cannot save it: relation "no_such_table" does not exist',
    }
    assert all(named[mistake] in (r.error or "") for r in bad)
    Broken.mistake = ""
    assert {r.outcome for r in broken.backup_many([3])} == {"saved"}


def test_type_that_cannot_load_holds_up_its_own_players_alone(
    broken: GameStateOrchestrator, full_core: FullCore, raw: Any, keys: Keys
) -> None:
    for i in range(1, 10):
        broken.hot.create(i, **full_core(i))
    broken.hot.open_session("broken", [3], {"a": "b"})
    broken.backup_many(range(1, 10))
    wipe(raw, keys)
    Broken.mistake = "load"
    reports = {r.char_id: r for r in broken.restore_many(range(1, 10))}
    assert reports.pop(3).outcome == "failed"
    assert {r.outcome for r in reports.values()} == {"restored"}
    assert broken.hot.peek(3) is None
    with pytest.raises(CharacterNotRestored, match="'broken' cannot load it: relation"):
        log_in(broken, 3)
    Broken.mistake = ""
    assert broken.restore_full_state(3).sessions == {"broken": "restored"}


def test_log_needs_to_say_how_much_is_saved() -> None:
    class Silent(SessionOrchestrator):
        session_type = "fish"
        has_log = True

    with pytest.raises(InvalidSessionType, match="saved_log"), registered(Silent):
        pass


class NoJson(SessionOrchestrator):
    session_type = "fish"

    def payload(self, session: Session) -> dict[str, Any]:
        return {"x": object()}


class Swallows(SessionOrchestrator):
    session_type = "fish"

    def save(self, connection: Connection, snapshots: Any) -> None:
        with suppress(Exception):
            connection.execute(text("SELECT 1/0"))


class TooManyRows(SessionOrchestrator):
    session_type = "fish"

    def save(self, connection: Connection, snapshots: Any) -> None:
        connection.execute(text("SELECT (SELECT 1 UNION SELECT 2)"))


@pytest.mark.usefixtures("party")
@pytest.mark.parametrize("session_type", [NoJson, Swallows, TooManyRows])
def test_mistake_of_a_type_is_its_sessions_alone(
    hot: HotStore, settings: Settings, session_type: type[SessionOrchestrator]
) -> None:
    with registered(session_type):
        game = GameStateOrchestrator.from_settings(settings)
        hot.open_session("fish", [1], {"a": "1"})
        reports = game.backup_many([1, 2])
        assert [r.outcome for r in reports] == ["quarantined", "saved"]
        assert "the session type 'fish' cannot save it" in (reports[0].error or "")
        game.close()


class BadLog(SessionOrchestrator):
    session_type = "fish"
    has_log = True

    def saved_log(self, connection: Connection, session_ids: Any) -> Any:
        if BadLog.bad in session_ids:
            raise KeyError("the log")
        return {}

    bad: Any = None


class CatchesInLog(BadLog):
    def saved_log(self, connection: Connection, session_ids: Any) -> Any:
        with suppress(Exception):
            connection.execute(text("SELECT 1/0"))
        return {}


class NoNumbers(BadLog):
    def saved_log(self, connection: Connection, session_ids: Any) -> Any:
        return dict.fromkeys(session_ids, "many")


@pytest.mark.usefixtures("party")
@pytest.mark.parametrize("session_type", [BadLog, CatchesInLog, NoNumbers])
def test_type_that_cannot_say_how_much_log_it_has_holds_up_its_own_players_alone(
    hot: HotStore, settings: Settings, engine: Engine, session_type: type[BadLog]
) -> None:
    with registered(session_type), GameStateOrchestrator.from_settings(settings) as game:
        BadLog.bad = hot.open_session("fish", [1], {})
        fight = hot.open_session("combat", [2], {})
        good = hot.open_session("fish", [3], {})
        for name, session_id in (("fish", BadLog.bad), ("combat", fight), ("fish", good)):
            hot.update_session(name, session_id, log=[1])
        reports = game.backup_many([1, 2, 3])
        outcome = "saved" if session_type is BadLog else "quarantined"
        assert [r.outcome for r in reports] == ["quarantined", "saved", outcome]
        assert "the session type 'fish' cannot say" in (reports[0].error or "")
        assert f"fish:session:{BadLog.bad}" in (reports[0].field or "")
        assert hot.peek_session("fish", good) > 0
        assert (1,) not in rows(engine, "SELECT id FROM characters"), "nothing of it is saved"
        assert hot.status().claimed == 0


LOADED: dict[str, Any] = {
    "no mapping": lambda _: 7,
    "no session": lambda _: {1: "fish"},
    "no JSON in a field": lambda session: {1: replace(session, fields={"a": object()})},
    "no JSON in the log": lambda session: {1: replace(session, log=({1j},), log_length=1)},
    "no fields": lambda session: {1: replace(session, fields=None)},
    "no version": lambda session: {1: replace(session, version="x")},
}


class LoadsNonsense(SessionOrchestrator):
    session_type = "fish"
    nonsense: Any = None

    def load(self, connection: Connection, char_ids: Sequence[int]) -> Any:
        found = self.open_sessions(connection, char_ids)
        return LoadsNonsense.nonsense(found[1]) if 1 in found else found


@pytest.fixture
def nonsense(
    orchestrator: GameStateOrchestrator, party: list[int]
) -> Iterator[GameStateOrchestrator]:
    """1 and 3 are saved, each in a session of a type whose load is wrong for 1."""
    LoadsNonsense.nonsense = staticmethod(lambda session: {1: session})
    with registered(LoadsNonsense):
        game = GameStateOrchestrator(orchestrator.hot, orchestrator.engine)
        for char_id in (1, 3):
            game.hot.open_session("fish", [char_id], {"a": "1"})
        game.backup_many(party)
        yield game


@pytest.mark.parametrize("what", LOADED)
def test_type_that_loads_nonsense_holds_up_its_own_players_alone(
    nonsense: GameStateOrchestrator, raw: Any, keys: Keys, what: str
) -> None:
    wipe(raw, keys)
    LoadsNonsense.nonsense = staticmethod(LOADED[what])
    reports = {r.char_id: r for r in nonsense.restore_many(PARTY)}
    assert {i: r.outcome.value for i, r in reports.items()} == {
        1: "failed",
        2: "restored",
        3: "restored",
    }
    assert "the session type 'fish' cannot load it" in (reports[1].error or "")


@pytest.mark.parametrize("what", LOADED)
def test_type_that_loads_nonsense_in_a_conflict_holds_up_its_own_players_alone(
    nonsense: GameStateOrchestrator, engine: Engine, what: str
) -> None:
    LoadsNonsense.nonsense = staticmethod(LOADED[what])
    with engine.begin() as connection:
        connection.execute(text("UPDATE sessions SET version = 100"))
    for char_id in PARTY:
        nonsense.hot.update(char_id, gold=1)
    for session_id in nonsense.hot.get(1).sessions, nonsense.hot.get(3).sessions:
        nonsense.hot.update_session("fish", session_id["fish"], {"a": "2"})
    reports = nonsense.backup_many(PARTY)
    assert [r.outcome for r in reports] == ["quarantined", "saved", "conflict"]
    assert "the session type 'fish' cannot load it" in (reports[0].error or "")
    assert nonsense.hot.status().claimed == 0


# The example of the docs


def test_example_is_as_short_as_we_say() -> None:
    assert len(Path(fishing.__file__).read_text().splitlines()) < 40


def test_example_keeps_its_catch_in_its_own_table(
    orchestrator: GameStateOrchestrator, engine: Engine, full_core: FullCore
) -> None:
    with registered(fishing.FishingTrip):
        game = GameStateOrchestrator(orchestrator.hot, orchestrator.engine)
        with engine.begin() as connection:
            connection.exec_driver_sql(fishing.TABLE)
        game.hot.create(1, **full_core())
        trip = game.hot.open_session("fishing", [1], {"catch": CATCH}, state="fishing")
        game.backup_full_state(1)
    assert rows(engine, "SELECT * FROM fishing_catch ORDER BY place") == [
        (trip, 0, "carp", 900),
        (trip, 1, "pike", 4000),
    ]
