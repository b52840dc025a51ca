"""Logging in and out: one state, the newest one, whoever else is at work."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from statesync import AsyncGameStore, AsyncLoginService, GameStore, LoginService, Settings
from statesync.errors import (
    BrokerUnavailable,
    CharacterNotFound,
    CharacterNotLoaded,
    CharacterNotSaved,
    InvalidCharId,
    InvalidInput,
)
from statesync.hot.store import HotStore
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from tests.conftest import FullCore


@pytest.fixture
def enqueued() -> list[int]:
    """The characters whose backups were enqueued."""
    return []


@pytest.fixture
def service(settings: Settings, enqueued: list[int]) -> Iterator[LoginService]:
    with GameStore(settings) as store:
        store._client.__dict__["_enqueue"] = enqueued.append
        yield LoginService(store)
        del store._client.__dict__["_enqueue"]


def test_login_returns_the_character_with_its_sessions(
    service: LoginService, hot: HotStore, full_core: FullCore
) -> None:
    hot.create(1, **full_core(gold="5"))
    fight = hot.open_session("combat", [1], {"monsters": [1]}, state="combat")
    assert service.login(1).report.outcome == "live"
    saved = service.logout(1)
    assert saved
    assert (saved.outcome, saved.sessions) == ("saved", {"combat": "saved"})
    assert hot.peek(1) is None
    character, sessions, report = service.login(1)
    assert (character.state, character.fields["gold"]) == ("combat", "5")
    assert character.sessions == {"combat": fight}
    assert sessions["combat"].fields["monsters"] == [1]
    assert (report.outcome, report.sessions) == ("restored", {"combat": "restored"})


def test_who_is_nowhere_is_not_found(service: LoginService) -> None:
    with pytest.raises(CharacterNotFound, match="character 5 is neither in Redis nor"):
        service.login(5)
    with pytest.raises(InvalidCharId):
        service.login(0)
    assert service.logout(5) is None


def test_logout_of_one_of_four_and_back(
    service: LoginService, hot: HotStore, full_core: FullCore
) -> None:
    for i in (1, 2, 3, 4):
        hot.create(i, **full_core(i))
    fight = hot.open_session("combat", [1, 2, 3, 4], {"round": "1"}, state="combat")
    service.logout(2)
    hot.update_session("combat", fight, {"round": "2"}, log=["2 is away"])
    assert not hot.sync_state(2).dirty
    assert {r.outcome for r in service._client.orchestrator.backup_many([1, 3, 4])} == {"saved"}
    logged_in = service.login(2)
    assert logged_in.sessions["combat"].fields["round"] == "2"
    assert logged_in.report.sessions == {"combat": "live"}


def test_character_that_never_stands_still_stays(
    service: LoginService, hot: HotStore, full_core: FullCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    hot.create(1, **full_core())
    backup = service._client.orchestrator.backup_full_state

    def and_a_change(char_id: int) -> Any:
        report = backup(char_id)
        hot.update(char_id, gold=1)
        return report

    monkeypatch.setattr(service._client.orchestrator, "backup_full_state", and_a_change)
    with pytest.raises(CharacterNotSaved):
        service.logout(1)
    assert hot.get(1).fields["gold"] == "1"
    assert hot.sync_state(1).dirty


LOGIN = """
import sys
from statesync import GameStore, LoginService, Settings
store = GameStore(Settings.from_env())
service = LoginService(store)
print("ready", flush=True)
sys.stdin.readline()
character, sessions, report = service.login(1)
print(report.outcome, character.fields["gold"], character.sessions["combat"], flush=True)
store.close()
"""


def test_two_processes_log_in_to_one_state(
    service: LoginService, hot: HotStore, settings: Settings, full_core: FullCore
) -> None:
    hot.create(1, **full_core(gold="7"))
    fight = hot.open_session("combat", [1], {"monsters": []}, state="combat")
    service.logout(1)
    children = [
        subprocess.Popen(
            [sys.executable, "-c", LOGIN],
            env=settings.to_env(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for child in children:
        assert child.stdout
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin
        child.stdin.write("\n")
        child.stdin.flush()
    seen = [child.communicate(timeout=60)[0].split() for child in children]
    assert sorted(outcome for outcome, _, _ in seen) in (["live", "restored"], ["live", "live"])
    assert {(gold, session) for _, gold, session in seen} == {("7", str(fight))}
    assert hot.get_session("combat", fight).version == 2


@pytest.mark.slow
def test_logins_among_logouts_and_backups_never_go_back(
    service: LoginService, settings: Settings, other: GameStateOrchestrator, full_core: FullCore
) -> None:
    """One player counts, and logs out and in again; others back up, evict and log in all the
    while. Whoever logs in sees what was counted last."""
    service._client.orchestrator.hot.create(1, **full_core(), count="0")
    stop = threading.Event()

    def disturb(work: Any) -> None:
        while not stop.is_set():
            try:
                work(1)
            except (CharacterNotSaved, CharacterNotLoaded):
                continue

    with GameStore(settings) as store, ThreadPoolExecutor(3) as pool:
        bystander = LoginService(store)
        works = (other.backup_full_state, bystander.logout, bystander.login)
        disturbed = [pool.submit(disturb, work) for work in works]
        try:
            for count in range(1, 60):
                while True:
                    seen = service.login(1).character
                    assert seen.fields["count"] == str(count - 1)
                    try:
                        service._client.orchestrator.hot.update(1, count=count)
                        break
                    except CharacterNotLoaded:
                        continue  # a bystander logged it out
                if count % 3 == 0:
                    try:
                        service.logout(1)
                    except CharacterNotSaved:
                        continue
        finally:
            stop.set()
        for work in disturbed:
            work.result()


def test_change_of_state_is_written_and_its_backup_enqueued(
    service: LoginService, hot: HotStore, enqueued: list[int], full_core: FullCore
) -> None:
    hot.create(1, **full_core())
    version = service.change_state(1, "trading", gold=3)
    assert (hot.get(1).state, hot.get(1).fields["gold"], hot.get(1).version) == (
        *("trading", "3"),
        version,
    )
    assert hot.sync_state(1).dirty
    assert enqueued == [1]
    with pytest.raises(CharacterNotLoaded):
        service.change_state(2, "trading")
    assert enqueued == [1]


def test_change_of_state_without_a_broker_waits_for_the_sweep(
    settings: Settings,
    hot: HotStore,
    full_core: FullCore,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Any,
) -> None:
    hot.create(1, **full_core())
    away = replace(settings, broker_url=f"redis+socket://{tmp_path}/nothing.sock")
    with GameStore(away) as store, caplog.at_level(logging.WARNING):
        LoginService(store).change_state(1, "trading")
    assert hot.sync_state(1).dirty
    assert "trouble begins: the broker: " in caplog.text


def test_fields_of_a_change_of_state_have_any_name(service: LoginService, hot: HotStore) -> None:
    hot.create(1, state="exploration", gold=1)
    service.change_state(1, "trading", {"durable": 3, "version": "x", "gold": None}, guild="a")
    found = hot.get(1)
    assert found.state == "trading"
    assert found.fields == {"durable": "3", "version": "x", "guild": "a"}
    with pytest.raises(InvalidInput, match="the new state is the second argument"):
        service.change_state(1, "trading", {"state": "exploration"})


def test_asyncio_has_the_same(
    settings: Settings, hot: HotStore, enqueued: list[int], full_core: FullCore
) -> None:
    def failing(char_id: int) -> None:
        enqueued.append(char_id)
        raise BrokerUnavailable("away")

    async def play() -> None:
        async with AsyncGameStore(settings) as store:
            store._client.__dict__["_enqueue"] = failing
            service = AsyncLoginService(store)
            await store.create(1, full_core())
            await service.change_state(1, "trading", gold=1)
            assert await service.logout(1)
            both = await asyncio.gather(service.login(1), service.login(1))
            assert {b.character.fields["gold"] for b in both} == {"1"}
            with pytest.raises(CharacterNotFound):
                await service.login(9)
            del store._client.__dict__["_enqueue"]

    asyncio.run(play())
    assert enqueued == [1]


def test_a_service_does_not_close_the_store_it_is_given(settings: Settings) -> None:
    with GameStore(settings) as store:
        for char_id in (1, 2):
            store.create(char_id)
            assert LoginService(store).login(char_id).report.outcome == "live"
