"""What is known of groups, put together."""

from __future__ import annotations

from uuid import UUID, uuid4

from statesync.durable.results import Behind, Busy, HeldBack
from statesync.durable.rows import core_rows
from statesync.hot.commands.backup import Head, RawSnapshot
from statesync.lifecycle.snapshots import GroupResult, Snapshot, add
from statesync.lifecycle.tries import merge
from statesync.state.characters import Character
from statesync.state.references import SessionRef

HEAD = Head(0, False, False, False, 0, 0)


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


def snapshot(**versions: int) -> Snapshot:
    """Make a snapshot of characters, named ``c1``, ``c2``, …, at versions."""
    characters = {int(name[1:]): version for name, version in versions.items()}
    rows = {i: core_rows(Character(i, version=v), 0) for i, v in characters.items()}
    return Snapshot(min(characters), RawSnapshot(HEAD, {}, {}, {}, {}, {}, {}), rows)


def test_of_two_snapshots_that_overlap_the_later_one_stays() -> None:
    earlier, later = snapshot(c1=5, c2=5), snapshot(c2=6, c3=2)
    for order in ((earlier, later), (later, earlier)):
        snapshots: dict[int | UUID, Snapshot] = {}
        for one in order:
            add(snapshots, one)
        assert snapshots == {2: later, 3: later}


def test_size_is_that_of_characters_and_sessions() -> None:
    cores: dict[int, dict[str, str]] = {1: {"gold": "123"}, 2: {}}
    sessions = {SessionRef("combat", "a"): (5, {"round": "12345"})}
    raw = RawSnapshot(HEAD, {}, cores, sessions, {}, {}, {})
    assert Snapshot(1, raw, {}).bytes() == 7 + 10


def test_busy_is_one_of_which_any_row_is_locked() -> None:
    session = uuid4()
    results = (
        (GroupResult(saved=False, characters={1: Busy()}, sessions={}), True),
        (GroupResult(saved=False, characters={1: HeldBack()}, sessions={session: Busy()}), True),
        (
            GroupResult(saved=False, characters={1: HeldBack()}, sessions={session: Behind(3)}),
            False,
        ),
    )
    for result, is_busy in results:
        one = snapshot(c1=1)
        assert not one.is_busy
        one.result = result
        assert one.is_busy is is_busy
