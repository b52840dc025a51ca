"""What is known of groups, put together."""

from __future__ import annotations

from statesync.snapshots import merge
from statesync.transfer_commands import References


def test_strangers_stay_apart() -> None:
    known: dict[int, References] = {1: {1: {"combat": "a"}}, 2: {2: {"combat": "b"}}, 3: {3: {}}}
    assert merge(known) == known


def test_of_one_session_the_first_has_all() -> None:
    a, b = {"combat": "a"}, {"combat": "a", "scenario": "q"}
    assert merge({1: {1: a}, 2: {2: b}, 3: {3: {"scenario": "q"}}}) == {
        1: {1: a, 2: b, 3: {"scenario": "q"}}
    }


def test_groups_that_meet_late_are_one() -> None:
    known = {1: {1: {"combat": "a"}}, 2: {2: {"combat": "b"}}, 3: {3: {"combat": "b"}, 1: {}}}
    (together,) = merge(known).values()
    assert together == {1: {"combat": "a"}, 2: {"combat": "b"}, 3: {"combat": "b"}}


def test_what_is_known_of_somebody_is_not_forgotten() -> None:
    named, looked_at = {1: {"combat": "a"}, 2: {}}, {2: {"inventory": "i"}}
    assert merge({1: named, 2: looked_at}) == {1: {1: {"combat": "a"}, 2: {"inventory": "i"}}}


def test_same_id_of_another_type_is_another_session() -> None:
    known = {1: {1: {"combat": "a"}}, 2: {2: {"scenario": "a"}}}
    assert merge(known) == known
