"""Logging in and out among processes and writers that never rest: nothing goes back or is lost."""

from __future__ import annotations

import logging
import multiprocessing
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from statesync import GameStore, LoginService, Settings
from statesync.errors import CharacterNotLoaded, CharacterNotSaved, SessionNotFound
from statesync.hot.keys import Keys
from statesync.hot.store import HotStore
from statesync.lifecycle.orchestrator import GameStateOrchestrator

if TYPE_CHECKING:
    from multiprocessing.synchronize import Barrier, Event

    from sqlalchemy import Engine

    from tests.conftest import FullCore

spawn = multiprocessing.get_context("spawn")
MANY = 40


@pytest.fixture
def service(settings: Settings) -> Iterator[LoginService]:
    with GameStore(settings) as store:
        yield LoginService(store)


def log_in_together(env: dict[str, str], barrier: Barrier, answers: Any) -> None:
    """Log the same characters in at the same moment as another process does."""
    with GameStore(Settings.from_env(env)) as store:
        service = LoginService(store)
        for char_id in range(1, MANY + 1):
            barrier.wait(60)
            character, sessions, report = service.login(char_id)
            core = {**character.core(), "version": character.version}
            held = {
                session_type: (s.id, s.fields, s.version) for session_type, s in sessions.items()
            }
            answers.put((char_id, report.outcome, core, held))


def test_two_processes_log_in_to_one_state(
    service: LoginService, settings: Settings, hot: HotStore, full_core: FullCore
) -> None:
    for i in range(1, MANY + 1):
        hot.create(i, **full_core(i))
        hot.open_session("inventory", [i], {"items": [], "filters": {"of": i}})
        if i % 2 == 0:
            fight = hot.open_session("combat", [i - 1, i], {"monsters": [i]}, state="combat")
            hot.update_session("combat", fight, log=list(range(i)))
    for i in range(1, MANY + 1):
        service.logout(i)
    barrier, answers = spawn.Barrier(2), spawn.Queue()
    processes = [
        spawn.Process(target=log_in_together, args=(settings.to_env(), barrier, answers))
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    seen: dict[int, list[Any]] = {}
    for _ in range(2 * MANY):
        char_id, *answer = answers.get(timeout=60)
        seen.setdefault(char_id, []).append(answer)
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    for char_id, (one, two) in seen.items():
        assert one[1:] == two[1:]
        assert sorted([one[0], two[0]]) in (["live", "restored"], ["live", "live"])
        character, sessions = hot.get_full_state(char_id)
        assert {**character.core(), "version": character.version} == one[1]
        assert set(sessions) == {"combat", "inventory"}
        length = char_id + char_id % 2
        assert sessions["combat"].log_length == length
        assert hot.read_log("combat", sessions["combat"].id) == list(range(length))


def disturb(env: dict[str, str], what: str, stop: Event) -> None:
    """Back up, log out or log in one character over and over, from a process of its own."""
    with GameStore(Settings.from_env(env)) as store:
        service = LoginService(store)
        works: dict[str, Any] = {
            "backup": service._client.orchestrator.backup_full_state,
            "logout": service.logout,
            "login": service.login,
        }
        while not stop.is_set():
            with suppress(CharacterNotSaved, CharacterNotLoaded):
                works[what](1)


@pytest.mark.slow
def test_a_login_always_gets_the_newest_state_of_core_and_session(
    service: LoginService, settings: Settings, engine: Engine, hot: HotStore, full_core: FullCore
) -> None:
    """One player counts in core and inventory; other processes back up, evict and log in."""
    hot.create(1, **full_core(), count="0")
    bag = hot.open_session("inventory", [1], {"items": [], "filters": {"count": 0}})
    stop = spawn.Event()
    processes = [
        spawn.Process(target=disturb, args=(settings.to_env(), what, stop))
        for what in ("backup", "logout", "login")
    ]
    for process in processes:
        process.start()
    restored = 0
    try:
        in_core = in_bag = 0
        while in_bag < 300 or restored < 20:
            character, sessions, report = service.login(1)
            restored += report.outcome == "restored"
            assert character.fields["count"] == str(in_core)
            assert sessions["inventory"].id == bag
            assert sessions["inventory"].fields["filters"] == {"count": in_bag}
            with suppress(CharacterNotLoaded):
                hot.update(1, count=in_core + 1)
                in_core += 1
            with suppress(SessionNotFound):
                hot.update_session("inventory", bag, {"filters": {"count": in_bag + 1}})
                in_bag += 1
            if in_bag % 5 == 0:
                with suppress(CharacterNotSaved):
                    service.logout(1)
    finally:
        stop.set()
        for process in processes:
            process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    with engine.connect() as connection:
        assert not connection.exec_driver_sql("SELECT * FROM state_conflicts").all()
    assert hot.list_quarantine() == (0, [])


@contextmanager
def writing(write: Any) -> Iterator[list[int]]:
    """Write a growing number all the time; gives the numbers that were accepted."""
    stop = threading.Event()
    accepted: list[int] = []
    failed: list[BaseException] = []

    def run() -> None:
        number = 0
        try:
            while not stop.is_set():
                number += 1
                write(number)
                accepted.append(number)
        except CharacterNotLoaded:
            pass  # logged out: the game plays him no more
        except BaseException as error:
            failed.append(error)

    writer = threading.Thread(target=run)
    writer.start()
    try:
        yield accepted
    finally:
        stop.set()
        writer.join()
    assert failed == []


@pytest.mark.parametrize("bare", [False, True], ids=["client", "bare"])
def test_a_logout_under_constant_writes_loses_none(
    bare: bool,
    service: LoginService,
    hot: HotStore,
    raw: Any,
    keys: Keys,
    full_core: FullCore,
) -> None:
    hot.create(1, **full_core())

    def write(number: int) -> None:
        if not bare:
            hot.update(1, gold=number)
            return
        with raw.pipeline(transaction=True) as pipe:
            pipe.hset(keys.core(1), "gold", number)
            pipe.sadd(keys.dirty, 1)
            pipe.execute()

    for _ in range(15):
        before = int(service.login(1).character.fields.get("gold", "0"))
        with writing(write) as accepted, suppress(CharacterNotSaved):
            while not accepted:
                pass
            service.logout(1)
        # Whatever became of the logout, and whether the bare writer has begun a new core.
        service._client.orchestrator.backup_full_state(1)
        character = service.login(1).character
        assert character.fields["gold"] == str(accepted[-1] if accepted else before)
        assert (character.bio or {})["name"] == "Hero 1"
        assert character.stats
    assert hot.list_quarantine() == (0, [])


def test_one_of_four_logs_out_and_in_while_the_others_play_on(
    service: LoginService,
    other: GameStateOrchestrator,
    hot: HotStore,
    raw: Any,
    keys: Keys,
    full_core: FullCore,
) -> None:
    for i in (1, 2, 3, 4):
        hot.create(i, **full_core(i))
    fight = hot.open_session("combat", [1, 2, 3, 4], {"turn": "0"}, state="combat")
    lock = threading.Lock()

    def play(number: int) -> None:
        # A turn, and a breath for who wants to log out.
        with lock:
            hot.update_session("combat", fight, {"turn": str(number)}, log=[number])
            other.backup_full_state(2 + number % 3)

    away = 0
    with writing(play) as turns:
        for _ in range(20):
            before = len(turns)
            with lock:
                service.logout(1)
                assert hot.peek(1) is None
                away += 1
            while len(turns) < before + 2:
                pass
            character, sessions, report = service.login(1)
            assert report.sessions == {"combat": "live"}
            assert character.sessions == {"combat": fight}
            assert int(sessions["combat"].fields["turn"]) >= before
            assert sessions["combat"].participants == (1, 2, 3, 4)
    assert away == 20
    assert hot.read_log("combat", fight) == turns
    for i in (1, 2, 3, 4):
        service.logout(i)
    assert not raw.exists(keys.session("combat", str(fight)))
    _, sessions, _ = service.login(3)
    assert sessions["combat"].fields["turn"] == str(turns[-1])
    assert hot.read_log("combat", fight) == turns


def test_the_warning_of_a_lost_broker_names_no_password(
    settings: Settings, hot: HotStore, full_core: FullCore, caplog: pytest.LogCaptureFixture
) -> None:
    hot.create(1, **full_core())
    away = replace(settings, broker_url="redis://:hunter2@127.0.0.1:1/1")
    with GameStore(away) as store, caplog.at_level(logging.DEBUG):
        version = LoginService(store).change_state(1, "trading")
    assert hot.get(1).version == version
    assert hot.sync_state(1).dirty
    assert "trouble begins: the broker: " in caplog.text
    assert "hunter2" not in caplog.text
