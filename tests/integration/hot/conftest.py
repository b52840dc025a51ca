"""Characters in a session, for the tests of what is done to it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import pytest

if TYPE_CHECKING:
    from tests.conftest import Driver

BIG = 2**53 + 1
"""A number that a double cannot hold."""


@pytest.fixture
def party(store: Driver) -> list[int]:
    ids = [1, 2, BIG]
    for i in ids:
        store.create(i, state="exploration")
    store.raw.delete(store.keys.dirty)
    return ids


@pytest.fixture
def fight(store: Driver, party: list[int]) -> UUID:
    """An open fight of three, with no marks."""
    session = store.open_session("combat", party, {"monsters": [], "round": "1"}, state="combat")
    store.raw.delete(store.keys.dirty)
    assert isinstance(session, UUID)
    return session
