"""Characters in PostgreSQL: one comes back as it was saved, and a row never goes back."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine, text

from statesync import durable
from statesync.durable import database
from statesync.durable.results import CharacterResult, Deleted, Incomplete, Raced, Saved, Unknown
from statesync.durable.rows import core_rows
from statesync.hot.commands.backup import Head, RawSnapshot
from statesync.lifecycle import groups
from statesync.lifecycle.snapshots import Snapshot
from statesync.state.characters import Character
from statesync.state.seals import CREATED, Seals

if TYPE_CHECKING:
    from tests.conftest import FullCore


def character(core: dict[str, Any], version: int = 10, char_id: int = 1) -> Character:
    """Make the character that the store would read from such a core."""
    names = ("state", "location", "bio", "stats", "vitals")
    own = {name: value for name, value in core.items() if name not in names}
    typed = {name: value for name, value in core.items() if name in names}
    return Character(char_id, fields=own, version=version, **typed)


def seals(version: int) -> Seals:
    """Make the seals of a character that was created here and snapshotted at every version."""
    return Seals(version, (CREATED, *map(str, range(1, version))))


def group(snapshot: Character, known: Seals) -> Snapshot:
    """Make the group of one."""
    char_id = snapshot.char_id
    head = Head(0, False, False, False, 0, known.own)
    raw = RawSnapshot(head, {}, {char_id: {}}, {}, {}, {char_id: known}, {})
    return Snapshot(char_id, raw, {char_id: core_rows(snapshot, known.own)})


def save(engine: Engine, *snapshots: Character) -> dict[int, CharacterResult]:
    with database.transaction(engine) as connection:
        todo = [group(snapshot, seals(snapshot.version)) for snapshot in snapshots]
        outcomes = groups.save(connection, todo, {})
    return {char_id: r for outcome in outcomes for char_id, r in outcome.characters.items()}


def load(engine: Engine, *char_ids: int) -> dict[int, Character]:
    with database.transaction(engine) as connection:
        return durable.characters.load(connection, char_ids)


def scalar(engine: Engine, query: str) -> Any:
    with engine.begin() as connection:
        return connection.execute(text(query)).scalar()


def xmins(engine: Engine) -> tuple[str, str]:
    """Return which transactions wrote character 1 and its stats."""
    return (
        scalar(engine, "SELECT xmin::text FROM characters WHERE id = 1"),
        scalar(engine, "SELECT xmin::text FROM character_stats WHERE character_id = 1"),
    )


VARIATIONS: list[dict[str, Any]] = [
    {},
    {"stats": {"luck": 1, "stealth": 5, "": 0}},
    {"stats": {}},
    {"stats": {"stealth": -(2**31), "luck": 2**31 - 1}},
    {"bio": {"name": "Ω", "gender": "x", "created_at": "2026-11-01T12:00:00+00:00", "t": [1, {}]}},
    {"bio": {"name": None, "gender": None, "created_at": None}},
    {"bio": {"title": None}},
    {"bio": {}},
    {"bio": {"name": "n", "created_at": "2026-11-01T14:00:00+02:00"}},
    {"bio": {"name": "n", "created_at": "2026-11-01T12:00:00Z"}},
    {"bio": {"name": "n", "created_at": "2026-11-01T12:00:00.123456+00:00"}},
    {"bio": {"name": "n", "created_at": 1_790_000_000}},
    {"bio": {"name": "n", "created_at": 1_790_000_000.25}},
    {"bio": {"name": "", "gender": ""}},
    {"location": {"current": 17, "prev": 3}},
    {"location": {"current": 17, "prev": None}},
    {"location": {"current": "a", "prev": "b", "x": 1.5}},
    {"location": {}},
    {"vitals": {}},
    {"vitals": {"hp": {"cur": 1, "max": 2, "regen": 0.5}}},
    {"gold": "5", "bio_note": "x", "": "empty name", "weiß": "ß\n\t"},
    {"extra": "a field of this name", "version_note": "1"},
]


@pytest.mark.parametrize("change", VARIATIONS, ids=str)
def test_everything_comes_back(engine: Engine, full_core: FullCore, change: dict[str, Any]) -> None:
    saved = character(full_core(**change))
    assert save(engine, saved) == {1: Saved(10, changed=True, seal=10)}
    loaded = load(engine, 1)[1]
    assert loaded == replace(saved, saved_version=10, seal=10)
    assert loaded.core() == full_core(**change)


@pytest.mark.parametrize("change", VARIATIONS, ids=str)
def test_same_state_is_seen_as_the_same(
    engine: Engine, full_core: FullCore, change: dict[str, Any]
) -> None:
    saved = character(full_core(**change))
    save(engine, saved)
    assert save(engine, replace(saved, version=11)) == {1: Saved(10, changed=False, seal=10)}


def test_own_field_may_be_named_like_a_core_field_of_extra(engine: Engine) -> None:
    saved = Character(1, state="a", fields={"name": "x", "id": "y"}, version=1)
    save(engine, saved)
    assert load(engine, 1)[1] == replace(saved, saved_version=1, seal=1)


def test_columns_are_what_the_contract_says(engine: Engine, full_core: FullCore) -> None:
    save(engine, character(full_core()))
    with engine.begin() as connection:
        row = connection.execute(text("SELECT * FROM characters")).mappings().one()
        stats = connection.execute(text("SELECT * FROM character_stats")).mappings().one()
    assert (row["name"], row["game_stage"], row["location_id"], row["prev_location_id"]) == (
        ("Hero 1", "exploration", "harbour", "forest")
    )
    assert row["created_at"].isoformat().startswith("2026-11-01T12:00:00")
    assert row["extra"]["guild"] == "Wölfe"
    assert row["vitals"]["hp"] == {"cur": 70, "max": 170}
    assert (stats["strength"], stats["luck"], stats["extra"]) == (10, 17, {})


def test_older_version_is_refused(engine: Engine, full_core: FullCore) -> None:
    save(engine, character(full_core(gold="new"), 10))
    before = xmins(engine)
    for older in (1, 9):
        assert save(engine, character(full_core(gold="old"), older)) == {1: Unknown(10, 10)}
    assert xmins(engine) == before
    assert load(engine, 1)[1].fields["gold"] == "new"


def test_same_version_of_another_history_is_refused(engine: Engine, full_core: FullCore) -> None:
    save(engine, character(full_core(gold="a"), 10))
    other = group(character(full_core(gold="b"), 10), Seals(77, (CREATED,)))
    with database.transaction(engine) as connection:
        (result,) = groups.save(connection, [other], {})
    assert result.characters == {1: Unknown(10, 10)}
    assert save(engine, character(full_core(gold="a"), 10)) == {1: Saved(10, changed=True, seal=10)}
    assert load(engine, 1)[1].fields["gold"] == "a"


def test_newer_version_is_written(engine: Engine, full_core: FullCore) -> None:
    save(engine, character(full_core(gold="a"), 10))
    for version, gold in ((11, "b"), (40, "c")):
        result = save(engine, character(full_core(gold=gold), version))
        assert result == {1: Saved(version, changed=True, seal=version)}
        assert load(engine, 1)[1].fields["gold"] == gold


def test_unchanged_row_is_not_touched(engine: Engine, full_core: FullCore) -> None:
    save(engine, character(full_core(), 10))
    before = xmins(engine)
    save(engine, character(full_core(), 11))
    assert xmins(engine) == before


def test_stats_are_not_touched_if_only_the_location_changed(
    engine: Engine, full_core: FullCore
) -> None:
    save(engine, character(full_core(), 10))
    row, stats = xmins(engine)
    save(engine, character(full_core(location={"current": "x"}), 11))
    assert xmins(engine)[0] != row
    assert xmins(engine)[1] == stats


def test_changed_stats_are_written(engine: Engine, full_core: FullCore) -> None:
    save(engine, character(full_core(), 10))
    _, stats = xmins(engine)
    save(engine, character(full_core(stats={"luck": 1}), 11))
    assert xmins(engine)[1] != stats
    assert load(engine, 1)[1].stats == {"luck": 1}


@pytest.mark.parametrize("stats", [{"luck": 1}, {"luck": 1, "stealth": 5}, {"stealth": 5}, {}])
def test_stats_that_lack_some_or_have_others_are_not_touched(
    engine: Engine, full_core: FullCore, stats: dict[str, int]
) -> None:
    save(engine, character(full_core(stats=stats), 10))
    _, before = xmins(engine)
    save(engine, character(full_core(stats=stats, location={"current": "x"}), 11))
    assert xmins(engine)[1] == before


def test_stats_of_a_batch_are_written_where_they_differ(
    engine: Engine, full_core: FullCore
) -> None:
    before = [{"luck": 1}, {"luck": 1}, {"luck": 1, "a ],[ b": 5}, {"luck": 1}, {"stealth": 5}]
    after = [{"luck": 1}, {"luck": 11}, {"luck": 1}, {"luck": 1, ") (": 5}, {"stealth": 6}]
    save(engine, *(character(full_core(stats=s), 10, i) for i, s in enumerate(before, 1)))
    scalar(engine, "DELETE FROM character_stats WHERE character_id = 1 RETURNING 1")
    moved = {"current": "x"}
    snapshots = (full_core(stats=stats, location=moved) for stats in after)
    save(engine, *(character(core, 11, i) for i, core in enumerate(snapshots, 1)))
    saved = load(engine, *range(1, 6))
    assert [saved[i].stats for i in range(1, 6)] == after


def test_batch_tells_each_apart(engine: Engine, full_core: FullCore) -> None:
    save(engine, *(character(full_core(i), 10, i) for i in (1, 2, 3, 4)))
    scalar(engine, "UPDATE characters SET deleted_at = now() WHERE id = 4 RETURNING 1")
    results = save(
        engine,
        character(full_core(1, gold="1"), 11, 1),
        character(full_core(2, gold="1"), 5, 2),
        character(full_core(3), 11, 3),
        character(full_core(4, gold="1"), 11, 4),
        character(full_core(5), 1, 5),
    )
    assert results == {
        1: Saved(11, changed=True, seal=11),
        2: Unknown(10, 10),
        3: Saved(10, changed=False, seal=10),
        4: Deleted(),
        5: Saved(1, changed=True, seal=1),
    }
    assert load(engine, 1, 2, 3, 4, 5, 6).keys() == {1, 2, 3, 5}


def test_new_row_raced(engine: Engine, full_core: FullCore) -> None:
    """Two transactions insert the same character: the second waits, begins again, and is fenced."""
    results: list[Any] = []

    def second() -> None:
        try:
            save(engine, character(full_core(gold="old"), 5))
        except Raced:
            results.append(save(engine, character(full_core(gold="old"), 5)))

    thread = threading.Thread(target=second)
    with database.transaction(engine) as first:
        durable.characters.write(first, [core_rows(character(full_core(gold="new"), 9), 9)], [])
        thread.start()
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        waiting += " AND datname = current_database()"
        while scalar(engine, waiting) == 0:
            assert thread.is_alive()
    thread.join()
    assert results == [{1: Unknown(9, 9)}]
    assert load(engine, 1)[1].fields["gold"] == "new"


@pytest.mark.parametrize("lost", ["state", "location", "bio", "stats", "vitals"])
def test_snapshot_that_lost_a_field_does_not_delete_it(
    engine: Engine, full_core: FullCore, lost: str
) -> None:
    save(engine, character(full_core(), 10))
    partial = {name: value for name, value in full_core(gold="1").items() if name != lost}
    result = save(engine, character(partial, 12))[1]
    assert isinstance(result, Incomplete)
    assert result.row.core() == full_core()
    assert load(engine, 1)[1].version == 10


def test_moment_comes_back_in_utc_whatever_the_zone_of_the_server(
    engine: Engine, full_core: FullCore
) -> None:
    save(engine, character(full_core(), 10))
    with database.transaction(engine) as connection:
        connection.exec_driver_sql("SET LOCAL timezone = 'Asia/Tokyo'")
        loaded = durable.characters.load(connection, [1])[1]
    assert loaded.bio == full_core()["bio"]


def test_deleted_one_has_no_version(engine: Engine, full_core: FullCore) -> None:
    save(engine, *(character(full_core(i), 10, i) for i in (1, 2)))
    scalar(engine, "UPDATE characters SET deleted_at = now() WHERE id = 2 RETURNING 1")
    with database.transaction(engine) as connection:
        assert durable.characters.versions(connection, [1, 2, 3]) == {1: 10}


def test_large_id_and_batch(engine: Engine, full_core: FullCore) -> None:
    ids = [2**63 - 1, *range(1, 500)]
    results = save(engine, *(character(full_core(i), 1, i) for i in ids))
    assert set(results) == set(ids)
    assert all(isinstance(result, Saved) for result in results.values())
    assert load(engine, *ids).keys() == set(ids)
    assert save(engine) == {}
