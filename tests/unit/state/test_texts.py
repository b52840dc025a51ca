"""Texts for messages: ids are named up to a limit, so that a line of a log stays one line."""

from __future__ import annotations

import pytest

from statesync.state.fields import listed


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1, "1"),
        (2, "1, 2"),
        (20, ", ".join(map(str, range(1, 21)))),
        (23, ", ".join(map(str, range(1, 21))) + " and 3 more"),
    ],
)
def test_ids_of_a_sentence(number: int, text: str) -> None:
    assert listed(range(1, number + 1)) == text
