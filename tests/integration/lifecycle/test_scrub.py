"""A scrub finds unsaved changes without a mark, and touches no other character."""

from __future__ import annotations

from typing import Any

import pytest

from statesync.hot.commands.operators import Found
from statesync.hot.keys import Keys
from statesync.hot.store import HotStore
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.lifecycle.scrub import differences, mark_differences, scrub_page
from tests.conftest import Driver, FullCore


def scrub(orchestrator: GameStateOrchestrator) -> int:
    """Scrub everything; returns how many were marked."""
    page = scrub_page(orchestrator)
    marked = page.marked
    while page.cursor:
        page = scrub_page(orchestrator, page.cursor)
        marked += page.marked
    return marked


def dirty(raw: Any, keys: Keys) -> set[bytes]:
    return set(raw.smembers(keys.dirty))


@pytest.fixture
def saved(orchestrator: GameStateOrchestrator, full_core: FullCore) -> HotStore:
    """Three characters, saved."""
    hot = orchestrator.hot
    for char_id in (1, 2, 3):
        hot.create(char_id, **full_core(char_id))
    orchestrator.backup_many([1, 2, 3])
    return hot


def test_saved_characters_are_left_alone(
    orchestrator: GameStateOrchestrator, saved: HotStore, raw: Any, keys: Keys
) -> None:
    assert scrub(orchestrator) == 0
    assert dirty(raw, keys) == set()


def test_a_forgotten_mark_and_a_lost_one_are_found_once(
    orchestrator: GameStateOrchestrator, saved: HotStore, raw: Any, keys: Keys
) -> None:
    raw.hset(keys.core(1), "gold", "7")
    raw.hincrby(keys.core(1), "version", 1)  # and no SADD
    saved.update(2, gold="8")
    raw.srem(keys.dirty, 2)
    raw.hset(keys.core(4), "state", "exploration")  # never saved, no version
    assert scrub(orchestrator) == 3
    assert dirty(raw, keys) == {b"1", b"2", b"4"}
    assert saved.sync_state(1).since_ms is not None
    assert scrub(orchestrator) == 0
    assert {r.outcome for r in orchestrator.backup_many([1, 2, 4])} == {"saved"}
    assert saved.status().counters["scrubbed"] == 3
    assert scrub(orchestrator) == 0


def test_claimed_and_quarantined_characters_are_left_alone(
    orchestrator: GameStateOrchestrator, saved: HotStore, raw: Any, keys: Keys
) -> None:
    for char_id in (1, 2):
        saved.update(char_id, gold="9")
    claim, _ = saved.claim(1, lease_us=60_000_000)
    lost, _ = saved.claim(2, lease_us=60_000_000)
    saved.quarantine(lost, error="no good", field="gold")
    assert scrub(orchestrator) == 0
    assert dirty(raw, keys) == set()
    assert saved.sync_state(1).token == claim.token


def test_an_unsaved_session_marks_the_characters_that_point_at_it(
    orchestrator: GameStateOrchestrator, saved: HotStore, raw: Any, keys: Keys
) -> None:
    fight = saved.open_session("combat", [1, 2], {"monsters": []})
    raw.delete(keys.dirty, keys.since)
    for char_id in (1, 2):  # as if the cores alone had been saved
        raw.hset(keys.core(char_id), "saved_version", raw.hget(keys.core(char_id), "version"))
    assert scrub(orchestrator) == 2
    assert dirty(raw, keys) == {b"1", b"2"}
    orchestrator.backup_many([1, 2])
    assert scrub(orchestrator) == 0
    raw.hset(keys.session("combat", str(fight)), "participants", "[1,2,3]")
    raw.hincrby(keys.session("combat", str(fight)), "version", 1)
    assert scrub(orchestrator) == 2  # the third is named, but is not in it
    assert {r.sessions["combat"] for r in orchestrator.backup_many([1, 2])} == {"saved"}


def test_what_only_looks_like_ours_is_passed_over(
    orchestrator: GameStateOrchestrator, saved: HotStore, raw: Any, keys: Keys
) -> None:
    for name in ("ac:0", "ac:x", "ac:99999999999999999999", "chat:session:1", "combat:session:a"):
        raw.hset(f"{keys.prefix}{name}", "version", 3)
    raw.set(keys.core(8), "no hash")
    raw.hset("other:ac:9", "version", 1)
    assert scrub(orchestrator) == 0
    raw.delete("other:ac:9")


def test_marking_and_scanning_on_every_server(store: Driver, full_core: FullCore) -> None:
    for char_id in range(1, 501):
        store.raw.hset(store.keys.core(char_id), "version", char_id)
    found, cursor, pages = set(), 0, 0
    while pages == 0 or cursor:
        cursor, _, char_ids, _, _ = store.scan(cursor, count=100)
        found |= set(char_ids)
        pages += 1
    assert found == set(range(1, 501))
    assert pages > 1
    assert store.mark_unsaved(1) is True
    assert store.mark_unsaved(1) is False
    assert store.mark_unsaved(501) is False


@pytest.mark.parametrize(
    "row",
    [
        "version = version + 1",
        "version = version - 1",
        "seal = 7, seal_version = version",
        "deleted_at = now()",
    ],
)
def test_a_clean_core_whose_row_is_of_another_history_is_marked(
    orchestrator: GameStateOrchestrator, saved: HotStore, raw: Any, keys: Keys, row: str
) -> None:
    raw.hset(keys.seals, "2", "created 5 6")
    with orchestrator.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE characters SET {row} WHERE id = 2")
    assert scrub(orchestrator) == 1
    assert dirty(raw, keys) == {b"2"}


def test_a_clean_core_whose_row_is_gone_is_marked(
    orchestrator: GameStateOrchestrator, saved: HotStore, raw: Any, keys: Keys
) -> None:
    with orchestrator.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM characters WHERE id = 2")
    assert scrub(orchestrator) == 1
    assert dirty(raw, keys) == {b"2"}


def test_a_known_seal_and_a_row_without_one_are_no_difference(
    orchestrator: GameStateOrchestrator, saved: HotStore, raw: Any, keys: Keys
) -> None:
    with orchestrator.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE characters SET seal = 5 + id, seal_version = version + id / 2"
        )
    raw.hset(keys.seals, "1", "6 9")  # the second row was saved without a seal since
    raw.hset(keys.seals, "2", "5")
    raw.hdel(keys.seals, "3")
    assert scrub(orchestrator) == 0


@pytest.mark.parametrize("row", ["seal = 7, seal_version = version", "version = version + 1"])
def test_a_session_whose_row_is_of_another_history_marks_those_that_point_at_it(
    orchestrator: GameStateOrchestrator, saved: HotStore, raw: Any, keys: Keys, row: str
) -> None:
    fight = saved.open_session("combat", [1, 2], {"monsters": []})
    orchestrator.backup_many([1, 2])
    raw.hset(keys.seals, str(fight), "5 6")
    raw.hdel(keys.core(2), "combat_session_id")
    with orchestrator.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE sessions SET {row}")
    assert scrub(orchestrator) == 1
    assert dirty(raw, keys) == {b"1"}


def test_what_changed_since_it_was_compared_is_not_marked_for_it(
    orchestrator: GameStateOrchestrator, saved: HotStore, raw: Any, keys: Keys
) -> None:
    page = Found(cursor=0, keys=1, char_ids=[1], sessions=[], evicted=[])
    with orchestrator.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE characters SET version = version + 1")
    found = differences(orchestrator, page)
    version, seals = int(raw.hget(keys.core(1), "version")), raw.hget(keys.seals, "1")
    raw.hset(keys.core(1), mapping={"version": version + 1, "saved_version": version + 1})
    assert mark_differences(saved, found) == 0
    raw.hset(keys.core(1), mapping={"version": version, "saved_version": version})
    raw.hset(keys.seals, "1", "5")
    assert mark_differences(saved, found) == 0
    raw.hset(keys.seals, "1", seals)
    assert mark_differences(saved, found) == 1
