"""A recovery ends without what cannot be saved; that is on record, and saved once it can be."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine

from statesync.durable import limits
from statesync.durable.losses import Loss
from statesync.errors import DatabaseWentBack
from statesync.hot.commands.claims import Claim
from statesync.hot.commands.servers import LossFlag
from statesync.lifecycle import recover, servers
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.lifecycle.sweep import scheduled_sweep
from statesync.settings import Settings
from tests.conftest import FullCore

LEASE_US = 60_000_000


@pytest.fixture
def played(
    settings: Settings, full_core: FullCore, monkeypatch: pytest.MonkeyPatch
) -> Iterator[GameStateOrchestrator]:
    """Six characters, saved, three sweeps; then one leaves, and PostgreSQL is put back."""
    monkeypatch.setattr(recover, "PAGE_KEYS", 3)
    monkeypatch.setattr("statesync.lifecycle.sweep._SETTLE_SECONDS", 600)
    monkeypatch.setattr(recover, "_WAIT_SECONDS", 0)
    monkeypatch.setattr(limits, "_LOCK_SECONDS", 0.05)
    with GameStateOrchestrator.from_settings(settings) as made:
        for char_id in range(1, 7):
            made.hot.create(char_id, **full_core(char_id))
        made.backup_many(range(1, 7))
        for _ in range(3):
            servers.count_sweep(made.hot, made.engine)
        made.evict(6)
        with made.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE server_counters SET sweeps = sweeps - 2")
            connection.exec_driver_sql(
                "UPDATE characters SET version = version - 1, location_id = 'cave'"
            )
        yield made


def locations(engine: Engine) -> dict[int, str]:
    with engine.begin() as connection:
        found = connection.exec_driver_sql("SELECT id, location_id FROM characters ORDER BY id")
        return {row.id: row.location_id for row in found}


@contextmanager
def locked(engine: Engine, char_id: int) -> Iterator[None]:
    """Lock a row from outside."""
    with engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
        connection.exec_driver_sql(f"SELECT FROM characters WHERE id = {char_id} FOR UPDATE")
        yield


@contextmanager
def in_a_raid(raw: Any, game: GameStateOrchestrator, char_id: int) -> Iterator[None]:
    """Have a character in a session of a type that no worker here knows."""
    raid = str(uuid4())
    key = game.hot.keys.session("raid", raid)
    raw.hset(key, mapping={"version": 1, "participants": f"[{char_id}]"})
    raw.hset(game.hot.keys.core(char_id), "raid_session_id", raid)
    yield
    raw.hdel(game.hot.keys.core(char_id), "raid_session_id")
    raw.delete(key)


def sweep(game: GameStateOrchestrator, settings: Settings) -> None:
    """Sweep as the schedule does, and save what it dispatches at once, as a worker does."""

    def save(claims: Sequence[Claim]) -> None:
        with suppress(DatabaseWentBack):
            game.backup_claims(claims)

    scheduled_sweep(game, settings, save, save)


def only_loss(game: GameStateOrchestrator) -> Loss:
    (loss,) = servers.losses(game.hot, game.engine)
    return loss


def test_a_recovery_by_sweeps_ends_without_what_stays_locked(
    played: GameStateOrchestrator,
    settings: Settings,
    engine: Engine,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with locked(engine, 4):
        for _ in range(4):
            sweep(played, settings)
            assert played.hot.status().recovering
        assert only_loss(played).recovered_at is None
        with caplog.at_level(logging.ERROR):
            sweep(played, settings)
        assert not played.hot.status().recovering
        assert "4 (another transaction holds a lock" in caplog.messages[-1]
        loss = only_loss(played)
        assert loss.recovered_at
        assert [(one.char_id, "lock" in one.reason) for one in loss.left] == [(4, True)]
        assert (loss.saved_again, [one.char_id for one in loss.not_live]) == (4, [6])
        assert played.restore_full_state(6).outcome == "restored"
        sweep(played, settings)
        assert not played.hot.status().recovering, "as long as it is locked"
    assert locations(engine)[4] == "cave"


def test_what_was_left_is_saved_once_it_can_be_and_the_record_stays(
    played: GameStateOrchestrator, settings: Settings, engine: Engine, raw: Any
) -> None:
    with locked(engine, 4), in_a_raid(raw, played, 2):
        report = recover.recover(played, lease_us=LEASE_US)
        assert sorted(one.char_id for one in report.not_saved) == [2, 4]
        assert report.left == 2
        reasons = dict(report.not_saved)
        assert "lock" in reasons[4]
        assert "'raid'" in reasons[2] or "raid:" in reasons[2]
        before = only_loss(played)
        assert sorted(before.left) == sorted(report.not_saved)
    sweep(played, settings)  # their backups find the loss once more
    assert played.hot.status().recovering
    assert only_loss(played).recovered_at is None
    sweep(played, settings)
    assert not played.hot.status().recovering
    assert set(locations(engine).values()) == {"harbour", "cave"}
    assert locations(engine)[6] == "cave"
    after = only_loss(played)
    assert (after.found_at, after.not_live) == (before.found_at, before.not_live)
    assert (after.left, after.saved_again) == ([], 4), "the fifth by its own backup"
    assert after.recovered_at
    assert played.hot.status().counters["postgresql_went_back"] == 1
    assert [one.char_id for one in after.not_live] == [6]


def test_a_recovery_that_goes_on_keeps_who_is_left_still(
    played: GameStateOrchestrator, settings: Settings, engine: Engine, raw: Any
) -> None:
    with locked(engine, 4):
        with in_a_raid(raw, played, 2):
            recover.recover(played, lease_us=LEASE_US)
        sweep(played, settings)
        for _ in range(5):
            sweep(played, settings)
        assert not played.hot.status().recovering
        assert [one.char_id for one in only_loss(played).left] == [4]
    assert locations(engine)[2] == "harbour"


def test_a_new_loss_that_shows_at_another_character_has_an_entry_of_its_own(
    played: GameStateOrchestrator, settings: Settings, engine: Engine
) -> None:
    with locked(engine, 4):
        recover.recover(played, lease_us=LEASE_US)
        with engine.begin() as connection:
            connection.exec_driver_sql("UPDATE characters SET version = version - 1 WHERE id = 1")
        played.hot.update(1, gold=7)
        sweep(played, settings)
        new, old = servers.losses(played.hot, engine)
        assert (new.found_by, new.recovered_at, new.not_live) == ("backup", None, [])
        assert (old.found_by, [one.char_id for one in old.left]) == ("sweep", [4])


def test_only_who_has_the_comparison_ends_it(
    played: GameStateOrchestrator, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers.count_sweep(played.hot, engine)

    def scan(*args: Any, **options: Any) -> Any:
        found = type(played.hot).scan(played.hot, *args, **options)
        if found.cursor == 0:  # a loss that is found meanwhile begins the comparison anew
            played.hot.note_loss(LossFlag.SETTLING)
        return found

    monkeypatch.setattr(played.hot, "scan", scan)
    assert not recover.settle(played, lease_us=LEASE_US, seconds=600)
    assert only_loss(played).recovered_at is None
    assert played.hot.status()[6:] == (True, True, True)
