"""The wait for PostgreSQL goes on through short trouble, and to the end of the store."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from statesync import GameStore, Settings
from statesync.errors import DatabaseUnavailable, NotDurable
from statesync.game.group_commit import GroupCommit
from statesync.lifecycle.orchestrator import BackupReport
from statesync.state.outcomes import BackupOutcome


@pytest.fixture
def game(settings: Settings) -> Iterator[GameStore]:
    """A store with one character, saved."""
    with GameStore(settings) as made:
        made.create(1, gold=1, durable=True)
        yield made


def commit_of(game: GameStore) -> GroupCommit:
    return game._client.group_commit


def fail_once(
    game: GameStore, monkeypatch: pytest.MonkeyPatch, error: BaseException, then: Any = None
) -> None:
    """Have the next save of the group commit fail."""

    def away(*_: Any) -> Any:
        monkeypatch.undo()
        if then:
            then()
        raise error

    monkeypatch.setattr(game._client.orchestrator, "backup_many", away)


def test_trouble_of_a_moment_costs_one_more_try(
    game: GameStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_once(game, monkeypatch, DatabaseUnavailable("PostgreSQL is away"))
    version = game.update(1, gold=2, durable=True)
    assert game.is_durable(1, version)
    saved_version = game.get(1).saved_version
    assert saved_version is not None
    assert game.is_durable(1, saved_version), "that very version"
    assert not game.is_durable(1, saved_version + 1)


def test_defect_tells_its_caller_and_leaves_the_others_alone(
    game: GameStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_once(game, monkeypatch, RuntimeError("a defect"))
    with pytest.raises(NotDurable, match="a defect"):
        game.update(1, gold=2, durable=True)
    game.update(1, gold=3, durable=True)


@pytest.mark.parametrize("receipt", ["the change", "any save from now on"])
@pytest.mark.parametrize("outcome", [BackupOutcome.SUPERSEDED, BackupOutcome.RELEASED])
def test_save_by_another_worker_is_looked_at_again(
    game: GameStore, monkeypatch: pytest.MonkeyPatch, outcome: BackupOutcome, receipt: str
) -> None:
    version = game.update(1, gold=2)
    orchestrator, tries = game._client.orchestrator, []
    backup_many = orchestrator.backup_many

    def elsewhere(char_ids: Any) -> Any:
        tries.append(char_ids)
        return [BackupReport(1, outcome)] if len(tries) == 1 else backup_many(char_ids)

    monkeypatch.setattr(orchestrator, "backup_many", elsewhere)
    commit = commit_of(game)
    waits_for_it = receipt == "the change"
    (commit.wait_for(1, int(version)) if waits_for_it else commit.submit([1])).result(60)
    assert len(tries) > 1, "the row that was there does not have it"
    assert game.is_durable(1, version)


def test_wait_for_nobody_fails(game: GameStore) -> None:
    with pytest.raises(NotDurable, match="none of them is loaded"):
        commit_of(game).submit([77]).result(60)


def test_who_waits_for_another_try_is_saved_though_the_store_closes(
    game: GameStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, version = commit_of(game), game.update(1, gold=2)

    def close() -> None:
        threading.Thread(target=commit.close).start()
        while not commit._closed:
            time.sleep(0.001)

    fail_once(game, monkeypatch, DatabaseUnavailable("PostgreSQL is away"), then=close)
    commit.wait_for(1, int(version)).result(60)
