"""A game that forks after it used its store: the child has its own connections and thread."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable

import pytest

from statesync import GameStore, LoginService, Settings

CHILD_SECONDS = 20.0


def in_child(work: Callable[[], object]) -> str:
    """Run ``work`` in a fork; returns what it returned, or its error, as text."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = str(work())
        except BaseException as error:
            answer = repr(error)
        os.write(write_end, answer.encode())
        os._exit(0)
    os.close(write_end)
    try:
        ready, _, _ = select.select([read_end], [], [], CHILD_SECONDS)
        return os.read(read_end, 10_000).decode() if ready else "it never came back"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(read_end)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_durable_in_a_fork(settings: Settings) -> None:
    with GameStore(settings, durable_seconds=10) as game:
        game.create(1, gold=1, durable=True)
        version = int(in_child(lambda: game.update(1, gold=2, durable=True)))
        assert game.is_durable(1, version)
        # The parent's thread and connections still work: the child has closed none of them.
        version = game.update(1, gold=3, durable=True)
        assert game.is_durable(1, version)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_login_and_close_in_a_fork(settings: Settings) -> None:
    with GameStore(settings, durable_seconds=10) as game:
        service = LoginService(game)
        game.create(1, gold=1, durable=True)
        service.logout(1)

        def play() -> int:
            service.login(1)
            version = game.update(1, gold=2, durable=True)
            game.close()
            return version

        assert int(in_child(play)) > 1
        assert service.login(1).character.fields["gold"] == "2"
