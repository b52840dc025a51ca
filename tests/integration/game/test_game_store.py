"""Durable now: an operation returns when PostgreSQL has it, or says what is known."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, event, text

from statesync import (
    AsyncGameStore,
    GameStateOrchestrator,
    GameStore,
    LoginService,
    Settings,
    Together,
)
from statesync.errors import (
    CharacterNotLoaded,
    GroupTooLarge,
    InvalidCharId,
    InvalidInput,
    NotDurable,
    PreconditionFailed,
    SessionNotLoaded,
)
from statesync.hot.keys import Keys
from statesync.hot.members import MAX_TIED
from statesync.hot.store import HotStore


@pytest.fixture
def game(settings: Settings) -> Iterator[GameStore]:
    with GameStore(settings) as made:
        for char_id in (1, 2, 3):
            made.create(char_id, gold=100)
        yield made


def saved_gold(engine: Engine) -> dict[int, int]:
    with engine.connect() as connection:
        found = connection.execute(text("SELECT id, (extra->>'gold')::int FROM characters"))
        return {row[0]: row[1] for row in found}


def count(engine: Engine, table: str) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


def test_every_change_can_be_durable(game: GameStore, engine: Engine) -> None:
    game.create(9, gold=1, durable=True)
    assert saved_gold(engine) == {9: 1}
    game.update(9, gold=2, durable=True)
    assert saved_gold(engine) == {9: 2}
    game.update_together({1: {"gold": 0}, 2: {"gold": 200}}, durable=True)
    assert saved_gold(engine) == {9: 2, 1: 0, 2: 200}
    game.mark_dirty(3, durable=True)
    assert saved_gold(engine)[3] == 100
    fight = game.open_session("combat", [1, 2], {"turn": "1"}, durable=True)
    assert count(engine, "session_characters WHERE left_at IS NULL") == 2
    game.update_session("combat", fight, {"turn": "2"}, log=[{"hit": 1}], durable=True)
    assert count(engine, "combat_log") == 1
    game.join_session("combat", fight, 3, durable=True)
    assert count(engine, "session_characters WHERE left_at IS NULL") == 3
    game.leave_session("combat", fight, 1, durable=True)
    assert count(engine, "session_characters WHERE left_at IS NULL") == 2
    game.close_session("combat", fight, durable=True)
    assert count(engine, "sessions WHERE closed_at IS NOT NULL") == 1
    shop = Together().expect(1, gold=0).update(1, gold=5)
    game.update_together(shop, durable=True)
    assert saved_gold(engine)[1] == 5


def test_what_is_not_accepted_says_so_itself(game: GameStore, engine: Engine) -> None:
    with pytest.raises(CharacterNotLoaded):
        game.update(99, gold=1, durable=True)
    with pytest.raises(PreconditionFailed):
        game.update_together(Together().expect(1, gold=0).update(1, gold=5), durable=True)
    assert saved_gold(engine) == {}


def test_receipt_can_be_asked_about_and_waited_for(game: GameStore, engine: Engine) -> None:
    version = game.update(1, gold=7)
    assert not game.is_durable(1, version)
    game.wait_durable(1, version)
    assert game.is_durable(1, version)
    assert saved_gold(engine) == {1: 7}
    assert not game.is_durable(77, 1)
    with pytest.raises(NotDurable, match="never had version 9999"):
        game.wait_durable(1, 9999)
    with pytest.raises(InvalidCharId):
        game.is_durable(0, 1)


def test_change_of_who_logged_out_meanwhile_is_durable(
    game: GameStore, orchestrator: GameStateOrchestrator
) -> None:
    version = game.update(1, gold=7)
    orchestrator.evict(1)
    game.wait_durable(1, version)
    with pytest.raises(NotDurable, match="character 1 is missing"):
        game.wait_durable(1, version + 10)


def test_what_cannot_be_saved_is_in_redis_and_says_why(
    game: GameStore, raw: Any, keys: Keys, engine: Engine
) -> None:
    raw.hset(keys.core(1), "stats", "{")
    with pytest.raises(NotDurable, match=r"not known to be in.*character 1 is quarantined"):
        game.update_together({1: {"gold": 0}, 2: {"gold": 200}}, durable=True)
    assert game.get(2).fields["gold"] == "200"
    assert saved_gold(engine) == {}


def test_one_failure_is_not_the_others(game: GameStore, raw: Any, keys: Keys) -> None:
    raw.hset(keys.core(1), "stats", "{")
    todo = [game.commands.update(i, gold=1, durable=True) for i in (1, 2, 3)]
    results = game.run_many(todo)
    assert isinstance(results[0], NotDurable)
    assert results[1:] == [2, 2]


def test_without_postgresql_it_says_what_is_known(unreachable: Settings) -> None:
    with GameStore(unreachable, durable_seconds=0) as game:
        with pytest.raises(NotDurable, match=r"not known to be in.*PostgreSQL at") as failed:
            game.create(1, gold=5, durable=True)
        assert failed.value.char_ids == (1,)
        assert game.get(1).fields == {"gold": "5"}
        assert game._hot.sync_state(1).dirty


def test_a_session_of_characters_that_are_gone_is_not_changed(
    game: GameStore, orchestrator: GameStateOrchestrator, raw: Any, keys: Keys
) -> None:
    fight = game.open_session("combat", [1, 2], {"turn": "1"})
    orchestrator.backup_many([1, 2])
    raw.delete(keys.core(1), keys.core(2))
    with pytest.raises(SessionNotLoaded, match="no loaded character is in combat:session:"):
        game.update_session("combat", fight, {"turn": "2"}, durable=True)


def test_many_share_a_transaction(game: GameStore) -> None:
    callers = 40
    for char_id in range(10, 10 + callers):
        game.create(char_id)
    commits = []
    engine = game._client.orchestrator.engine
    first, go_on = threading.Event(), threading.Event()

    def hold(_: Any) -> None:
        commits.append(1)
        first.set()
        go_on.wait(30)

    event.listen(engine, "commit", hold)
    with ThreadPoolExecutor(callers) as threads:
        waiting = [threads.submit(game.update, 1, gold=1, durable=True)]
        assert first.wait(30)
        # The others come while the first is being committed; so they share the next rounds.
        versions = [game.update(i, gold=1) for i in range(10, 10 + callers)]
        waits = [
            game._client.group_commit.wait_for(i, version) for i, version in enumerate(versions, 10)
        ]
        go_on.set()
        for wait in waits:
            wait.result()
        assert waiting[0].result() == 2
    event.remove(engine, "commit", hold)
    assert all(game.is_durable(i, version) for i, version in enumerate(versions, 10))
    assert len(commits) <= 6, "one round: a few transactions, however many wait"


def test_full_tie_is_saved_and_the_change_goes_on(
    game: GameStore, engine: Engine, raw: Any, keys: Keys
) -> None:
    for char_id in range(10, 10 + 2 * MAX_TIED):
        game.create(char_id, gold=100)
    for char_id in range(10, 9 + 2 * MAX_TIED):
        game.update_together({char_id: {"gold": 0}, char_id + 1: {"gold": 200}})
        for tie in raw.keys(keys.tie("*")):
            assert raw.hlen(tie) <= MAX_TIED
    assert len(saved_gold(engine)) >= MAX_TIED


def test_full_tie_that_cannot_be_saved_is_refused(game: GameStore, raw: Any, keys: Keys) -> None:
    for char_id in range(10, 11 + MAX_TIED):
        game.create(char_id, gold=100)
    for char_id in range(10, 9 + MAX_TIED):
        game.update_together({char_id: {}, char_id + 1: {}})
    raw.hset(keys.core(10), "stats", "{")
    with pytest.raises(GroupTooLarge):
        game.update_together({9 + MAX_TIED: {"gold": 0}, 10 + MAX_TIED: {"gold": 200}})
    assert game.get(10 + MAX_TIED).fields["gold"] == "100"


def test_asyncio_waits_without_blocking(settings: Settings, engine: Engine) -> None:
    async def play() -> None:
        async with AsyncGameStore(settings) as game:
            await asyncio.gather(*(game.create(i, gold=i, durable=True) for i in range(1, 151)))
            receipts = await game.update_together({1: {"gold": 0}, 2: {"gold": 3}})
            assert not await game.is_durable(1, receipts[1])
            await game.wait_durable(1, receipts[1])
            assert await game.is_durable(2, receipts[2])
            with pytest.raises(NotDurable, match="never had"):
                await game.wait_durable(1, 9999)

    asyncio.run(play())
    saved = saved_gold(engine)
    assert len(saved) == 150
    assert saved[1] + saved[2] == 3


def test_closed_store_takes_no_more(settings: Settings) -> None:
    game = GameStore(settings)
    game.create(1, durable=True)
    game.close()
    with pytest.raises(InvalidInput, match="the store is closed"):
        game.wait_durable(1, 1)


def test_durable_change_while_the_store_closes_is_made(settings: Settings, hot: HotStore) -> None:
    game = GameStore(settings)
    game.create(1)
    game._client.group_commit.close()
    with pytest.raises(NotDurable, match="the store is closed"):
        game.update(1, gold=2, durable=True)
    game.close()
    assert hot.get(1).fields == {"gold": "2"}
    assert hot.sync_state(1).dirty


def test_change_of_state_can_be_durable(game: GameStore, engine: Engine) -> None:
    LoginService(game).change_state(1, "trading", gold=9, durable=True)
    assert saved_gold(engine) == {1: 9}


def test_own_fields_have_any_name_and_none_deletes(game: GameStore, engine: Engine) -> None:
    game.update(1, {"durable": 3, "version": "x"}, durable=True)
    assert game.get(1).fields == {"gold": "100", "durable": "3", "version": "x"}
    with engine.connect() as connection:
        extra = connection.execute(text("SELECT extra FROM characters WHERE id = 1")).scalar_one()
    assert extra == {"gold": "100", "durable": "3", "version": "x"}
    LoginService(game).logout(1)
    restored = LoginService(game).login(1).character
    assert restored.fields == {"gold": "100", "durable": "3", "version": "x"}
    game.update_together(Together().expect(1, {"flag": None}).update(1, {"gold": None}))
    game.update(1, version=None)
    assert game.get(1).fields == {"durable": "3"}
    with pytest.raises(PreconditionFailed):
        game.update_together(Together().expect(1, gold=1).update(2, gold=5))
    game.update_together(Together().expect(1, gold=None).update(2, gold=5))
    with pytest.raises(InvalidInput, match="durable"):
        game.update(1, durable=3)  # type: ignore[arg-type]


def test_a_wrong_version_harms_no_other_caller(game: GameStore) -> None:
    for wrong in ("1", -1, 1.0, None, True):
        with pytest.raises(InvalidInput, match="is not a version"):
            game.wait_durable(1, wrong)  # type: ignore[arg-type]
        with pytest.raises(InvalidInput, match="is not a version"):
            game.is_durable(1, wrong)  # type: ignore[arg-type]
    game.update(2, gold=1, durable=True)


def test_a_closed_store_is_closed_for_everything(settings: Settings) -> None:
    game = GameStore(settings)
    game.create(1)
    service = LoginService(game)
    game.close()
    game.close()
    closed: list[Callable[[], object]] = [
        lambda: game.get(1),
        lambda: game.update(1, gold=1),
        lambda: game.run_many([game.commands.get(1)]),
        lambda: game.is_durable(1, 1),
        lambda: service.login(1),
        lambda: service.logout(1),
    ]
    for call in closed:
        with pytest.raises(InvalidInput, match="the store is closed"):
            call()


def test_a_store_for_asyncio_belongs_to_one_event_loop(settings: Settings) -> None:
    game = AsyncGameStore(settings)
    with asyncio.Runner() as first, asyncio.Runner() as second:
        assert first.run(game.create(1)) == 1
        for call in (game.create(2), game.aclose()):
            with pytest.raises(InvalidInput, match="belongs to another event loop"):
                second.run(call)
        first.run(game.aclose())


def test_a_command_shows_what_it_is_about_and_no_script(game: GameStore) -> None:
    assert "redis.call" not in repr(game.commands.update(1, gold=1))
