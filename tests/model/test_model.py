"""The protocol holds in every order of its steps, and it needs each of its parts."""

from __future__ import annotations

import pytest

from tests.model.configurations import FINE, SLOW, world
from tests.model.mutations import BROKEN, DEEP
from tests.model.search import search

WHOLE = {repr(configuration): configuration for _, configuration in BROKEN.values()}
"""The worlds of the mutations, each once."""


@pytest.mark.parametrize("name", FINE)
def test_every_order_is_fine(name: str) -> None:
    found = search(world(FINE[name]))
    print(name, found)
    assert not found.broken, str(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_every_order_is_fine_in_more_states(name: str) -> None:
    found = search(world(SLOW[name]))
    print(name, found)
    assert not found.broken, str(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE, ids=range(len(WHOLE)))
def test_with_all_parts_nothing_breaks(name: str) -> None:
    found = search(world(WHOLE[name]))
    assert not found.broken, str(found)


@pytest.mark.parametrize(
    "wrong",
    [pytest.param(one, marks=[pytest.mark.slow] if one in DEEP else []) for one in BROKEN],
)
def test_every_part_is_needed(wrong: str) -> None:
    invariant, configuration = BROKEN[wrong]
    found = search(world(configuration), wrong)
    print(wrong, found)
    assert found.broken == invariant, str(found)


def test_without_ties_four_steps_are_enough() -> None:
    _, configuration = BROKEN["no ties"]
    assert len(search(world(configuration), "no ties").way) == 4
