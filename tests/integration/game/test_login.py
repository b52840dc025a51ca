"""Logging in and out: one state, the newest one, whoever else is at work."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine

from statesync import AsyncLoginService, LoginService, Settings
from statesync.errors import (
    BrokerUnavailable,
    CharacterNotFound,
    CharacterNotLoaded,
    CharacterNotSaved,
    InvalidCharId,
)
from statesync.hot.keys import Keys
from statesync.hot.store import HotStore
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from tests.conftest import FullCore


@pytest.fixture
def enqueued() -> list[int]:
    """The characters whose backups were enqueued."""
    return []


@pytest.fixture
def service(orchestrator: GameStateOrchestrator, enqueued: list[int]) -> LoginService:
    return LoginService(orchestrator, enqueued.append)


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
    assert {r.outcome for r in service.orchestrator.backup_many([1, 3, 4])} == {"saved"}
    logged_in = service.login(2)
    assert logged_in.sessions["combat"].fields["round"] == "2"
    assert logged_in.report.sessions == {"combat": "live"}


def test_character_that_never_stands_still_stays(
    service: LoginService, hot: HotStore, full_core: FullCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    hot.create(1, **full_core())
    backup = service.orchestrator.backup_full_state

    def and_a_change(char_id: int) -> Any:
        report = backup(char_id)
        hot.update(char_id, gold=1)
        return report

    monkeypatch.setattr(service.orchestrator, "backup_full_state", and_a_change)
    with pytest.raises(CharacterNotSaved):
        service.logout(1)
    assert hot.get(1).fields["gold"] == "1"
    assert hot.sync_state(1).dirty


LOGIN = """
import sys
from statesync import LoginService, Settings
service = LoginService.from_settings(Settings.from_env())
print("ready", flush=True)
sys.stdin.readline()
character, sessions, report = service.login(1)
print(report.outcome, character.fields["gold"], character.sessions["combat"], flush=True)
service.close()
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
    service.orchestrator.hot.create(1, **full_core(), count="0")
    bystander = LoginService(other, lambda _: None)
    stop = threading.Event()

    def disturb(work: Any) -> None:
        while not stop.is_set():
            try:
                work(1)
            except (CharacterNotSaved, CharacterNotLoaded):
                continue

    works = (other.backup_full_state, bystander.logout, bystander.login)
    with ThreadPoolExecutor(3) as pool:
        disturbed = [pool.submit(disturb, work) for work in works]
        try:
            for count in range(1, 60):
                while True:
                    seen = service.login(1).character
                    assert seen.fields["count"] == str(count - 1)
                    try:
                        service.orchestrator.hot.update(1, count=count)
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
        for done in disturbed:
            done.result()


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
    with LoginService.from_settings(away) as service, caplog.at_level(logging.WARNING):
        service.change_state(1, "trading")
    assert hot.sync_state(1).dirty
    assert "character 1 is saved by the next sweep: the broker" in caplog.text


def test_asyncio_has_the_same(
    orchestrator: GameStateOrchestrator, enqueued: list[int], full_core: FullCore
) -> None:
    def failing(char_id: int) -> None:
        enqueued.append(char_id)
        raise BrokerUnavailable("away")

    async def play() -> None:
        service = AsyncLoginService(LoginService(orchestrator, failing))
        orchestrator.hot.create(1, **full_core())
        await service.change_state(1, "trading", gold=1)
        assert await service.logout(1)
        both = await asyncio.gather(service.login(1), service.login(1))
        assert {b.character.fields["gold"] for b in both} == {"1"}
        with pytest.raises(CharacterNotFound):
            await service.login(9)

    asyncio.run(play())
    assert enqueued == [1]


def test_async_service_from_settings(settings: Settings, engine: Engine, keys: Keys) -> None:
    async def peek() -> None:
        async with AsyncLoginService.from_settings(settings) as service:
            with pytest.raises(CharacterNotFound):
                await service.login(1)

    asyncio.run(peek())
