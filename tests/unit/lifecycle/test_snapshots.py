"""What is known of groups, put together."""

from __future__ import annotations

from statesync.lifecycle.snapshots import merge


def names(*texts: str) -> dict[int, frozenset[str]]:
    return {i: frozenset(text.split()) for i, text in enumerate(texts, 1)}


def test_strangers_stay_apart() -> None:
    known = names("1 combat:a", "2 combat:b", "3")
    assert merge(known) == known


def test_of_one_session_the_first_has_all() -> None:
    known = names("1 combat:a", "2 combat:a scenario:q", "3 scenario:q")
    assert merge(known) == names("1 2 3 combat:a scenario:q")


def test_groups_that_meet_late_are_one() -> None:
    known = names("1 combat:a", "2 combat:b", "1 3 combat:b")
    assert merge(known) == names("1 2 3 combat:a combat:b")


def test_of_one_tie_the_first_has_all() -> None:
    assert merge(names("t", "2 t")) == names("1 2 t")


def test_same_id_of_another_type_is_another_session() -> None:
    known = names("1 combat:a", "2 scenario:a")
    assert merge(known) == known
