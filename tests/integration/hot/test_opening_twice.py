"""A session that is opened twice is opened once, if both ask for the same; if not, it is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from statesync.errors import SessionExists

if TYPE_CHECKING:
    from tests.conftest import Driver

PARTY = [1, 2]
FIGHT = uuid4()
FIELDS: dict[str, Any] = {"monsters": [1]}
CORE: dict[str, Any] = {"state": "combat", "rage": None}


@pytest.fixture
def fight(store: Driver) -> UUID:
    """A fight of 1 and 2 that a worker is saving; 3 stands by."""
    for char_id in (*PARTY, 3):
        store.create(char_id, rage=1)
    opened: UUID = store.open_session("combat", PARTY, FIELDS, CORE, session_id=FIGHT)
    store.snapshot(store.claim(1, lease_us=60_000_000).claim)
    return opened


def test_the_same_once_more_changes_nothing(store: Driver, fight: UUID) -> None:
    before = everything(store)
    assert store.open_session("combat", PARTY, FIELDS, CORE, session_id=fight) == fight
    assert everything(store) == before


OTHERS: dict[str, tuple[list[int], dict[str, Any], dict[str, Any]]] = {
    "other fields": (PARTY, {"monsters": [99]}, CORE),
    "a field less": (PARTY, {}, CORE),
    "a field more": (PARTY, FIELDS | {"round": "1"}, CORE),
    "other fields of the cores": (PARTY, FIELDS, CORE | {"gold": 5}),
    "a field of the cores that is not to be": (PARTY, FIELDS, CORE | {"state": "x"}),
    "fewer": ([1], FIELDS, CORE),
    "more": ([1, 2, 3], FIELDS, CORE),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_under_the_same_id_is_refused(store: Driver, fight: UUID, name: str) -> None:
    char_ids, fields, core = OTHERS[name]
    before = everything(store)
    with pytest.raises(SessionExists, match=str(fight)):
        store.open_session("combat", char_ids, fields, core, session_id=fight)
    assert everything(store) == before


def test_deleted_field_that_came_back_is_no_repeat(store: Driver, fight: UUID) -> None:
    store.update(2, rage=7)
    with pytest.raises(SessionExists):
        store.open_session("combat", PARTY, FIELDS, CORE, session_id=fight)


def test_closed_one_is_not_opened(store: Driver, fight: UUID) -> None:
    store.close_session("combat", fight)
    with pytest.raises(SessionExists):
        store.open_session("combat", PARTY, FIELDS, CORE, session_id=fight)


def everything(store: Driver) -> dict[bytes, dict[bytes, bytes]]:
    """All hashes of the test."""
    names = store.raw.scan_iter(f"{store.keys.prefix}*", _type="hash")
    return {name: store.raw.hgetall(name) for name in names}
