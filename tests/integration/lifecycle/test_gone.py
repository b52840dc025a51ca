"""A bare write to a character that is not live does not hide what PostgreSQL has lost of it."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine

from statesync.durable.losses import NotLive
from statesync.errors import DatabaseWentBack
from statesync.lifecycle import recover, servers
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from tests.conftest import FullCore

LEASE_US = 60_000_000


@pytest.fixture
def left(orchestrator: GameStateOrchestrator, full_core: FullCore) -> GameStateOrchestrator:
    """Two characters that were saved and have left, and one that is live; three sweeps."""
    for char_id in (1, 2, 3):
        orchestrator.hot.create(char_id, **full_core(char_id))
    for char_id in (1, 2):
        orchestrator.evict(char_id)
    for _ in range(3):
        servers.count_sweep(orchestrator.hot, orchestrator.engine)
    return orchestrator


def write(raw: Any, game: GameStateOrchestrator, char_id: int) -> None:
    """Write to a character as a game does that knows nothing of statesync."""
    raw.hset(game.hot.keys.core(char_id), "gold", "7")
    raw.sadd(game.hot.keys.dirty, char_id)


def put_back(engine: Engine) -> None:
    """Put PostgreSQL back: 1 was older, 2 was not there yet."""
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE server_counters SET sweeps = sweeps - 2")
        connection.exec_driver_sql(
            "UPDATE characters SET version = version - 1, location_id = 'cave' WHERE id = 1"
        )
        connection.exec_driver_sql("DELETE FROM characters WHERE id = 2")


def has_row(engine: Engine, char_id: int) -> bool:
    with engine.begin() as connection:
        query = "SELECT FROM characters WHERE id = %s"
        return bool(connection.exec_driver_sql(query, (char_id,)).rowcount)


@pytest.mark.parametrize("by_hand", [True, False])
def test_who_was_written_to_is_listed_as_well(
    left: GameStateOrchestrator, engine: Engine, raw: Any, by_hand: bool
) -> None:
    for char_id in (1, 2):
        write(raw, left, char_id)
    put_back(engine)
    if by_hand:
        recover.recover(left, lease_us=LEASE_US)
    else:
        servers.count_sweep(left.hot, engine)
        recover.settle(left, lease_us=LEASE_US, seconds=600)
    (loss,) = servers.losses(left.hot, engine)
    assert sorted(loss.not_live) == [NotLive(1, 2, 1), NotLive(2, 2, None)]
    assert left.backup_full_state(1).outcome == "saved"
    core = left.hot.get(1)
    assert core.location
    assert (core.fields["gold"], core.location["current"]) == ("7", "cave")
    assert not has_row(engine, 2)
    _, (entry,) = left.hot.list_quarantine()
    assert "PostgreSQL has no row of it any more" in entry.error


def test_a_write_to_a_character_whose_row_is_gone_does_not_become_it(
    left: GameStateOrchestrator, engine: Engine, raw: Any
) -> None:
    put_back(engine)
    write(raw, left, 2)
    report = left.backup_full_state(2)
    assert report.outcome == "quarantined"
    assert "PostgreSQL has no row of it any more" in (report.error or "")
    assert not has_row(engine, 2)
    raw.delete(left.hot.keys.tombstone(2))  # in ten minutes
    left.hot.retry_quarantined(2)
    assert left.backup_full_state(2).outcome == "saved", "an operator says that it is a new one"


def test_create_makes_a_new_one(
    left: GameStateOrchestrator, engine: Engine, full_core: FullCore
) -> None:
    put_back(engine)
    left.hot.create(2, **full_core(2))
    assert left.backup_full_state(2).outcome == "saved"
    assert has_row(engine, 2)


def test_a_write_to_who_has_never_left_makes_a_character(
    left: GameStateOrchestrator, engine: Engine, raw: Any
) -> None:
    write(raw, left, 1)
    write(raw, left, 9)
    reports = left.backup_many([1, 9])
    assert [report.outcome for report in reports] == ["saved", "saved"]


@pytest.mark.parametrize("is_known", [False, True])
def test_bare_write_waits_until_what_its_row_lacks_is_on_record(
    left: GameStateOrchestrator, engine: Engine, raw: Any, is_known: bool
) -> None:
    """The row is older than what has left: laid over it, the write would hide what is lost."""
    write(raw, left, 1)
    with engine.begin() as connection:
        older = "version = version - 1, location_id = 'cave'"
        connection.exec_driver_sql(f"UPDATE characters SET {older} WHERE id = 1")
    if is_known:
        servers.note_postgresql_went_back(left.hot, engine, [3])
        assert left.backup_full_state(1).outcome == "released"
    else:
        with pytest.raises(DatabaseWentBack):
            left.backup_full_state(1)
    assert left.hot.status().recovering
    recover.recover(left, lease_us=LEASE_US)
    [loss] = servers.losses(left.hot, engine)
    assert [one.char_id for one in loss.not_live] == [1]
    assert left.backup_full_state(1).outcome == "saved"
    with engine.begin() as connection:
        query = "SELECT location_id, extra->>'gold' FROM characters WHERE id = 1"
        assert tuple(connection.exec_driver_sql(query).one()) == ("cave", "7")
