"""A durable change is tried again, while it has time, if that may help."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from statesync import GameStore, Settings
from statesync.errors import DatabaseUnavailable
from statesync.lifecycle.reports import BackupReport
from statesync.state.outcomes import BackupOutcome


def away(_: Iterable[int]) -> list[BackupReport]:
    raise DatabaseUnavailable("PostgreSQL is away for a moment")


def saved_elsewhere(char_ids: Iterable[int]) -> list[BackupReport]:
    return [BackupReport(char_id, BackupOutcome.SUPERSEDED) for char_id in char_ids]


@pytest.mark.parametrize("first", [away, saved_elsewhere])
def test_first_try_may_fail(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    first: Callable[[Iterable[int]], list[BackupReport]],
) -> None:
    with GameStore(settings) as game:
        orchestrator = game._client.orchestrator
        backup_many = orchestrator.backup_many
        tries: list[object] = []

        def fails_once(char_ids: Iterable[int]) -> list[BackupReport]:
            tries.append(char_ids)
            return first(char_ids) if len(tries) == 1 else backup_many(char_ids)

        monkeypatch.setattr(orchestrator, "backup_many", fails_once)
        assert game.create(1, gold=1, durable=True) == 1
        assert game.is_durable(1, 1)
    assert len(tries) == 2
