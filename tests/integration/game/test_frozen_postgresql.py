"""A PostgreSQL that is frozen, not gone: nobody waits for it longer than was agreed."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import psutil
import pytest

from statesync import AsyncGameStore, GameStateOrchestrator, GameStore, LoginService, Settings
from statesync.durable import database
from statesync.embedded.servers import Servers
from statesync.errors import DatabaseUnavailable, NotDurable
from statesync.hot.store import HotStore
from statesync.lifecycle import restore
from tests.conftest import FullCore

DURABLE_SECONDS = 1.0
LATEST_SECONDS = 2.0
"""A caller has its answer a second after its deadline."""


@pytest.fixture
def freeze(embedded: Servers) -> Iterator[Callable[[], None]]:
    """Stop PostgreSQL and all its backends; the end of the test lets them go on."""
    assert embedded.postgres.process
    postmaster = psutil.Process(embedded.postgres.process.pid)
    stopped = []

    def stop() -> None:
        postmaster.send_signal(signal.SIGSTOP)  # first: it starts no further backend
        stopped.append(postmaster)
        for backend in postmaster.children(recursive=True):
            backend.send_signal(signal.SIGSTOP)
            stopped.append(backend)

    yield stop
    for process in stopped:
        process.send_signal(signal.SIGCONT)


@contextmanager
def takes_at_most(seconds: float) -> Iterator[None]:
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < seconds


def test_durable_has_its_deadline(settings: Settings, freeze: Callable[[], None]) -> None:
    game = GameStore(settings, durable_seconds=DURABLE_SECONDS)
    version = game.create(1, gold=1, durable=True)
    freeze()
    with takes_at_most(LATEST_SECONDS), pytest.raises(NotDurable, match="does not answer"):
        game.update(1, gold=2, durable=True)
    assert game.get(1).fields["gold"] == "2"
    # The thread is in the middle of that save.
    with takes_at_most(LATEST_SECONDS), pytest.raises(NotDurable):
        game.wait_durable(1, version + 1)
    with takes_at_most(LATEST_SECONDS), pytest.raises(NotDurable):
        game.wait_durable(1, version + 1, timeout=0)
    with takes_at_most(LATEST_SECONDS):
        game.close()


def test_durable_has_its_deadline_for_asyncio(
    settings: Settings, freeze: Callable[[], None]
) -> None:
    async def play() -> None:
        async with AsyncGameStore(settings, durable_seconds=DURABLE_SECONDS) as game:
            version = await game.create(1, gold=1, durable=True)
            freeze()
            with takes_at_most(LATEST_SECONDS):
                calls = (game.update(1, gold=2, durable=True), game.wait_durable(1, version))
                results = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(result) for result in results] == [NotDurable, NotDurable]

    asyncio.run(play())


def test_what_was_not_durable_is_saved_afterwards(
    embedded: Servers, settings: Settings, orchestrator: GameStateOrchestrator
) -> None:
    assert embedded.postgres.process
    postmaster = psutil.Process(embedded.postgres.process.pid)
    with GameStore(settings, durable_seconds=DURABLE_SECONDS) as game:
        game.create(1, durable=True)
        processes = [postmaster, *postmaster.children(recursive=True)]
        for process in processes:
            process.send_signal(signal.SIGSTOP)
        with pytest.raises(NotDurable):
            game.update(1, gold=2, durable=True)
        for process in processes:
            process.send_signal(signal.SIGCONT)
        version = game.update(1, gold=3, durable=True)
        assert game.is_durable(1, version)


@pytest.mark.parametrize("rested", [False, True])
def test_login_has_a_bound(
    settings: Settings,
    freeze: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    rested: bool,
) -> None:
    monkeypatch.setattr(restore, "QUICK_SECONDS", 1)
    monkeypatch.setattr(database, "_CONNECT_SECONDS", 1)
    monkeypatch.setattr(database, "_REST_SECONDS", 0 if rested else 60)
    with GameStore(settings) as game:
        service = LoginService(game)
        game.create(1)
        service.logout(1)
        freeze()
        with takes_at_most(8), pytest.raises(DatabaseUnavailable):
            service.login(1)


def test_backup_is_bounded_by_the_lease(
    settings: Settings, hot: HotStore, full_core: FullCore, freeze: Callable[[], None]
) -> None:
    orchestrator = GameStateOrchestrator.from_settings(replace(settings, lease_seconds=1))
    hot.create(1, **full_core())
    orchestrator.backup_full_state(1)
    hot.update(1, gold=1)
    freeze()
    with takes_at_most(5), pytest.raises(DatabaseUnavailable, match="it does not answer"):
        orchestrator.backup_full_state(1)
    orchestrator.close()
    assert hot.sync_state(1).dirty, "its claim is given back"


def test_a_slow_answer_in_time_is_no_fault(settings: Settings) -> None:
    own = database.connect(settings)
    with database.transaction(own, answer_seconds=2) as connection:
        for _ in range(3):
            connection.exec_driver_sql("SELECT pg_sleep(1)")
    own.dispose()


def test_a_connection_that_is_given_back_is_left_alone(settings: Settings) -> None:
    own = database.connect(settings)
    with database.transaction(own, answer_seconds=0.2) as connection:
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    time.sleep(0.5)
    with database.transaction(own) as connection:
        assert connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one() == pid
    own.dispose()
