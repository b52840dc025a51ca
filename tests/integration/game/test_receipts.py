"""Durable means this change: its nonce tells, whatever its number, and whatever Redis forgot."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, text

from statesync import (
    AsyncGameStore,
    BackupReport,
    GameStateOrchestrator,
    GameStore,
    Receipt,
    Settings,
    Together,
    durable,
)
from statesync.durable.losses import Loss, Side
from statesync.errors import InvalidInput, NotDurable
from statesync.hot.keys import Keys
from statesync.state import receipts
from tests.integration.durable.test_receipts import lose

OTHER_FIGHT = uuid4()


@pytest.fixture
def game(settings: Settings) -> Iterator[GameStore]:
    with GameStore(settings) as made:
        for char_id in (1, 2, 3):
            made.create(char_id, gold=100, durable=True)
        yield made


class Moment:
    """What Redis held at a moment, to which it can go back."""

    def __init__(self, raw: Any, keys: Keys) -> None:
        self.raw, self.pattern = raw, f"{keys.prefix}*"
        self.values = {key: raw.dump(key) for key in raw.scan_iter(self.pattern)}

    def go_back(self) -> None:
        """Have Redis forget all since."""
        for key in list(self.raw.scan_iter(self.pattern)):
            self.raw.delete(key)
        for key, value in self.values.items():
            self.raw.restore(key, 0, value)


def test_what_redis_forgot_is_not_durable_whatever_passes_its_number(
    game: GameStore, raw: Any, keys: Keys
) -> None:
    before = Moment(raw, keys)
    receipt = game.update(1, gems=500, receipt=True)
    before.go_back()
    for gold in range(4):
        version = game.update(1, gold=gold, durable=True)
    assert version > receipt
    assert game.is_durable(1, receipt) is False
    with pytest.raises(NotDurable, match=r"\(characters 1\): a server has forgotten the change$"):
        game.wait_durable(1, receipt)


CHANGES: dict[str, Callable[[GameStore], object]] = {
    "create": lambda game: game.create(9, durable=True),
    "update": lambda game: game.update(1, gems=500, durable=True),
    "update_together": lambda game: game.update_together({1: {}, 2: {"gold": 0}}, durable=True),
    "open_session": lambda game: game.open_session("combat", [1, 2], {}, durable=True),
}


@pytest.mark.parametrize("name", CHANGES)
def test_forgotten_before_its_snapshot_it_is_not_durable(
    game: GameStore, raw: Any, keys: Keys, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    orchestrator = game._client.orchestrator
    backup_many, before = orchestrator.backup_many, Moment(raw, keys)

    def forgets(char_ids: Iterable[int]) -> list[BackupReport]:
        before.go_back()
        return backup_many(char_ids)

    monkeypatch.setattr(orchestrator, "backup_many", forgets)
    with pytest.raises(NotDurable, match="a server has forgotten the change"):
        CHANGES[name](game)


def test_any_save_that_holds_the_change_makes_it_durable(
    game: GameStore, orchestrator: GameStateOrchestrator, raw: Any, keys: Keys
) -> None:
    receipt = game.update(1, gold=5, receipt=True)
    assert game.is_durable(1, receipt) is False
    orchestrator.backup_full_state(1)
    assert game.is_durable(1, receipt) is True
    assert raw.hgetall(keys.nonces) == {}
    orchestrator.evict(1)
    game.wait_durable(1, receipt)


def test_a_change_that_changes_nothing_is_durable(game: GameStore) -> None:
    game.update(1, gold=5, durable=True)
    receipt = game.update(1, gold=5, durable=True)
    assert game.is_durable(1, receipt) is True
    game.mark_dirty(1, durable=True)


def test_a_receipt_of_a_session_can_be_asked_about(game: GameStore) -> None:
    fight = game.open_session("combat", [1, 2], {}, durable=True)
    receipt = game.update_session("combat", fight, log=["hit"], receipt=True)
    assert game.is_durable(2, receipt) is False
    game.wait_durable(2, receipt)
    assert game.is_durable(1, receipt) is True
    version = game.update_session("combat", fight, log=["hit"])
    for ask in (game.is_durable, game.wait_durable):
        with pytest.raises(InvalidInput, match="is the version of a session"):
            ask(1, version)


def test_what_was_done_before_is_durable_with_the_next_save(game: GameStore) -> None:
    fight = game.open_session("combat", [1, 2], {})
    game.leave_session("combat", fight, 2)
    game.leave_session("combat", fight, 2, durable=True)
    game.close_session("combat", fight)
    game.close_session("combat", fight, durable=True)
    for _ in range(2):
        game.open_session("combat", [3], {"monsters": []}, session_id=OTHER_FIGHT, durable=True)


def test_a_change_that_leaves_the_loaded_alone_is_durable(
    game: GameStore, orchestrator: GameStateOrchestrator
) -> None:
    fight = game.open_session("combat", [1, 2], {}, durable=True)
    orchestrator.evict(2)
    receipt = game.update_session("combat", fight, log=["hit"], durable=True)
    assert game.is_durable(2, receipt) is True


def test_a_receipt_outlives_its_process(game: GameStore) -> None:
    receipt = game.update(1, gold=5, durable=True)
    kept = (int(receipt), receipt.nonce)
    assert game.is_durable(1, Receipt(kept[0], 1, kept[1])) is True
    assert game.is_durable(1, Receipt(kept[0], 1, receipts.new_nonce())) is False


def test_a_receipt_of_another_character_is_refused(game: GameStore) -> None:
    traded = game.update_together({1: {}, 2: {}}, receipt=True)
    for ask in (game.is_durable, game.wait_durable):
        with pytest.raises(InvalidInput, match="the receipt is of character 2, not of 1"):
            ask(1, traded[2])


def test_a_receipt_that_postgresql_may_have_deleted_is_unknown(
    game: GameStore, engine: Engine
) -> None:
    old = Receipt(2, 1, "0" * 12 + receipts.new_nonce()[12:])
    assert game.is_durable(1, old) is None
    with pytest.raises(NotDurable, match="unknown: PostgreSQL keeps the receipts of seven days"):
        game.wait_durable(1, old)
    with engine.begin() as connection:
        durable.receipts.record(connection, [str(old.nonce)])
    assert game.is_durable(1, old) is True


def test_a_bare_version_tells_nothing_after_a_loss(
    game: GameStore, engine: Engine, settings: Settings
) -> None:
    version = game.update(1, gold=5, durable=True)
    receipt = game.update(1, gold=6, receipt=True)
    assert game.is_durable(1, int(version)) is True
    lose(engine, settings.prefix, seconds_ago=60)
    assert game.is_durable(1, int(version)) is None
    assert game.is_durable(1, version) is True
    assert game.is_durable(1, int(receipt)) is False, "PostgreSQL has no version as high"
    with pytest.raises(NotDurable, match=r"unknown: a server went back.*receipt=True"):
        game.wait_durable(1, int(receipt))
    game.wait_durable(1, receipt)
    game.update(1, gold=7, durable=True)


def test_a_receipt_that_postgresql_has_lost_is_unknown(
    game: GameStore, engine: Engine, settings: Settings
) -> None:
    receipt = game.update(1, gold=5, durable=True)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM durable_changes"))
    assert game.is_durable(1, receipt) is False
    lose(engine, settings.prefix, seconds_ago=0, side="postgresql")
    with engine.begin() as connection:
        durable.losses.record(
            connection, settings.prefix, Loss(side=Side.REDIS, found_at=datetime.now(UTC))
        )
    assert game.is_durable(1, receipt) is None, "whatever else has happened since"
    with pytest.raises(NotDurable, match="unknown: PostgreSQL went back"):
        game.wait_durable(1, receipt)
    later = game.update(1, gold=6, receipt=True)
    assert game.is_durable(1, later) is False
    game.wait_durable(1, later)


@pytest.mark.parametrize("come_back", ["restore", "create"])
def test_a_core_that_was_lost_takes_its_changes_along(
    game: GameStore, orchestrator: GameStateOrchestrator, raw: Any, keys: Keys, come_back: str
) -> None:
    char_id = 1 if come_back == "restore" else 9
    if come_back == "create":
        game.create(9)
    receipt = game.update(char_id, gems=500, receipt=True)
    raw.delete(keys.core(char_id))
    if come_back == "create":
        game.create(9)
    else:
        orchestrator.restore_full_state(1)
    game.update(char_id, gold=6, durable=True)
    assert game.is_durable(char_id, receipt) is False


def test_what_is_reverted_says_so(
    game: GameStore, orchestrator: GameStateOrchestrator, raw: Any, keys: Keys
) -> None:
    before = Moment(raw, keys)
    game.update(1, gold=5, durable=True)
    before.go_back()
    with pytest.raises(NotDurable, match="character 1 is conflict: "):
        game.update(1, gems=500, durable=True)
    assert game.get(1).fields == {"gold": "5"}


def test_what_is_played_after_its_deletion_is_not_durable(
    game: GameStore, engine: Engine, orchestrator: GameStateOrchestrator
) -> None:
    orchestrator.delete(1)
    game.create(1, gold=5)
    receipt = game.update(1, gold=6, receipt=True)
    with pytest.raises(NotDurable, match="character 1 is deleted: "):
        game.wait_durable(1, receipt)
    assert game.is_durable(1, receipt) is False


def test_a_trade_with_one_that_is_deleted_is_not_durable(game: GameStore, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE characters SET deleted_at = now() WHERE id = 1"))
    with pytest.raises(NotDurable):
        game.update_together(Together().update(1, gold=0).update(2, gold=200), durable=True)


def test_the_async_store_does_the_same(settings: Settings, raw: Any, keys: Keys) -> None:
    async def play() -> None:
        async with AsyncGameStore(settings) as store:
            receipt = await store.create(1, gold=1, receipt=True)
            assert await store.is_durable(1, receipt) is False
            await store.wait_durable(1, receipt)
            assert await store.is_durable(1, receipt) is True
            before = Moment(raw, keys)
            lost = await store.update(1, gold=2, receipt=True)
            before.go_back()
            with pytest.raises(NotDurable, match="a server has forgotten the change"):
                await store.wait_durable(1, lost)

    asyncio.run(play())
