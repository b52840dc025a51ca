"""The registry: what cannot stand together is refused at start, in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from importlib.metadata import EntryPoint
from typing import Any
from uuid import UUID

import pytest

from statesync import Settings
from statesync.errors import InvalidInput, InvalidSessionType, SettingsError
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.sessions import CombatOrchestrator, SessionOrchestrator
from statesync.state import session_types
from statesync.state.references import is_session_uuid, session_uuid
from statesync.state.session_types import check_registry, find_type, register
from tests.registry import registered


@pytest.fixture(autouse=True)
def nothing_stays_registered() -> Iterator[None]:
    with registered():
        yield


def make(session_type: Any = "fishing", states: Any = (), base: type = SessionOrchestrator) -> Any:
    return type("Made", (base,), {"session_type": session_type, "states": states})


def test_our_own_are_there() -> None:
    assert session_types.names() == ["combat", "inventory", "scenario"]
    ours: dict[str, type] = dict(session_types.session_types())
    assert ours["combat"] is CombatOrchestrator
    assert session_types.types_by_state()["inventory"] == "inventory"


def test_registered_one_is_found() -> None:
    made = register(make())
    assert session_types.session_types()["fishing"] is made
    assert "fishing" in session_types.names()


@pytest.mark.parametrize("name", [None, "", "Fishing", "1st", "a-b", "a:b", "x" * 51, "*", "é", 5])
def test_name_that_cannot_be_a_key(name: Any) -> None:
    with pytest.raises(InvalidSessionType, match="lower-case letters, digits and _"):
        register(make(name))


def test_class_that_still_has_only_a_name() -> None:
    old = type("Old", (SessionOrchestrator,), {"name": "fishing"})
    with pytest.raises(InvalidSessionType, match=r"Old has no session_type.*= 'fishing'"):
        register(old)


def test_reference_fields_are_those_of_registered_types() -> None:
    ours = dict(session_types.reference_fields())
    assert ours == {f"{name}_session_id": name for name in ("combat", "inventory", "scenario")}
    register(make())
    assert session_types.reference_fields() == ours | {"fishing_session_id": "fishing"}


@pytest.mark.parametrize("states", ["fishing", [""], [5], [None]])
def test_states_that_are_none(states: Any) -> None:
    with pytest.raises(InvalidSessionType, match="a sequence of non-empty strings"):
        register(make(states=states))


def test_name_that_is_taken() -> None:
    with pytest.raises(InvalidSessionType, match="'combat' is registered twice: by statesync"):
        register(make("combat"))
    register(make())
    with pytest.raises(InvalidSessionType, match="'fishing' is registered twice"):
        register(make())
    assert session_types.names() == ["combat", "fishing", "inventory", "scenario"]


def test_state_that_is_taken() -> None:
    with pytest.raises(InvalidSessionType, match=r"'combat' is claimed by two .* and 'fishing'"):
        register(make(states=("combat",)))
    assert session_types.names() == ["combat", "inventory", "scenario"]


@pytest.mark.parametrize("thing", [object, "fishing", None, 5])
def test_what_is_no_session_type(thing: Any) -> None:
    with pytest.raises(InvalidSessionType, match="must be a subclass of SessionOrchestrator"):
        register(thing)


def test_entry_point_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = EntryPoint("fishing", "no_such_module:Fishing", session_types.ENTRY_POINTS)
    monkeypatch.setattr(session_types, "entry_points", lambda **_: [broken])
    session_types.clear_cache()
    with pytest.raises(InvalidSessionType, match=r"fishing = no_such_module:Fishing .* cannot be"):
        session_types.session_types()


def test_unknown_type_is_refused_with_what_there_is() -> None:
    with pytest.raises(InvalidSessionType, match="no session type 'x'; there are combat, inv"):
        find_type("x")
    game = GameStateOrchestrator.from_settings(Settings())
    with pytest.raises(InvalidSessionType, match="no session type 'x'; there are combat, inv"):
        _ = game.sessions["x"]
    game.close()


def test_fallback_state_must_lead_nowhere() -> None:
    with pytest.raises(SettingsError, match="STATESYNC_FALLBACK_STATE: 'combat' leads to a"):
        GameStateOrchestrator.from_settings(Settings(fallback_state="combat"))


def test_types_can_be_checked_without_being_registered() -> None:
    assert check_registry([make("a"), make("b", ("c",))]).keys() == {"a", "b"}


def test_session_ids_have_one_spelling() -> None:
    text = "123e4567-e89b-12d3-a456-426614174000"
    assert session_uuid(UUID(text)) == session_uuid(text.upper()) == text
    assert is_session_uuid(text)
    assert not is_session_uuid(text.upper())
    for wrong in ("x", "", None, 5, "combat:session:1"):
        assert not is_session_uuid(str(wrong))
        with pytest.raises(InvalidInput, match="is not a session id"):
            session_uuid(wrong)


class Kind(str, Enum):  # noqa: UP042 - what a game may have
    COMBAT = "combat"


def test_a_session_type_is_a_plain_str() -> None:
    for wrong in (Kind.COMBAT, 5, None, ["combat"]):
        with pytest.raises(InvalidSessionType, match="must be a str"):
            session_types.find_type(wrong)  # type: ignore[arg-type]
