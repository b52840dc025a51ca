"""What happens while a backup is under way is saved next, and undone by nobody."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine

from statesync.durable import database
from statesync.hot.keys import Keys
from statesync.lifecycle import commit, groups, plain
from statesync.lifecycle.orchestrator import BackupReport
from statesync.lifecycle.snapshots import decode
from tests.integration.lifecycle.test_backup import Orchestrator, once, outcomes, row, sweep_once
from tests.rewind import recorded

if TYPE_CHECKING:
    from tests.conftest import FullCore


@pytest.fixture
def wipe(raw: Any, keys: Keys) -> Callable[[], None]:
    """Lose everything that is in Redis."""

    def run() -> None:
        for key in raw.scan_iter(f"{keys.prefix}*"):
            raw.delete(key)

    return run


def test_change_during_the_write_is_saved_next(
    orchestrator: Orchestrator, engine: Engine, full_core: FullCore
) -> None:
    hot = orchestrator.hot
    hot.create(1, **full_core(gold="1"))
    once(orchestrator.engine, "commit", lambda: hot.update(1, gold="2"))
    assert orchestrator.backup_full_state(1).outcome == "saved"
    assert row(engine)["extra"]["gold"] == "1"
    assert hot.sync_state(1).dirty
    assert outcomes(sweep_once(orchestrator)) == {1: "saved"}
    assert row(engine)["extra"]["gold"] == "2"


def test_bare_change_during_the_write_is_saved_next(
    orchestrator: Orchestrator, engine: Engine, raw: Any, keys: Keys, full_core: FullCore
) -> None:
    orchestrator.hot.create(1, **full_core(gold="1"))

    def write() -> None:
        raw.hset(keys.core(1), "gold", "2")
        raw.sadd(keys.dirty, 1)

    once(orchestrator.engine, "commit", write)
    orchestrator.backup_full_state(1)
    assert outcomes(sweep_once(orchestrator)) == {1: "saved"}
    assert row(engine)["extra"]["gold"] == "2"


def test_constantly_changing_character_advances(
    orchestrator: Orchestrator, engine: Engine, full_core: FullCore
) -> None:
    hot = orchestrator.hot
    hot.create(1, **full_core(gold="0"))
    seen = []
    for gold in range(1, 6):
        once(orchestrator.engine, "begin", partial(hot.update, 1, gold=str(gold)))
        assert outcomes(sweep_once(orchestrator)) == {1: "saved"}
        seen.append(row(engine)["extra"]["gold"])
    assert seen == ["0", "1", "2", "3", "4"]


def test_crash_after_commit_is_healed(
    orchestrator: Orchestrator, other: Orchestrator, engine: Engine, full_core: FullCore
) -> None:
    """The worker dies between commit and acknowledge: its lease brings the character back."""
    hot = orchestrator.hot
    hot.create(1, **full_core())
    claim, _ = hot.claim(1, lease_us=0)  # a lease that ends at once
    snapshot = decode(1, hot.snapshot(claim))
    with database.transaction(engine) as connection:
        groups.save(connection, [snapshot], {})
    assert hot.requeue(10).dirty == 1
    assert outcomes(sweep_once(other)) == {1: "unchanged"}
    assert hot.sync_state(1) == (False, None, None, None)
    assert hot.get(1).core() == full_core()


def zombie_after_wipe(
    orchestrator: Orchestrator, other: Orchestrator, wipe: Callable[[], None], changes: int
) -> BackupReport:
    """Stop a worker after its snapshot; wipe Redis; play on; let it continue."""
    hot = other.hot
    for gold in range(changes):
        hot.update(1, gold=f"before {gold}")

    def meanwhile() -> None:
        wipe()
        assert other.restore_full_state(1).outcome == "restored"
        hot.update(1, gold="after")
        assert other.backup_full_state(1).outcome == "saved"

    once(orchestrator.engine, "begin", meanwhile)
    return orchestrator.backup_full_state(1)


def test_zombie_after_a_wipe_does_not_undo(
    orchestrator: Orchestrator,
    other: Orchestrator,
    engine: Engine,
    wipe: Callable[[], None],
    full_core: FullCore,
) -> None:
    other.hot.create(1, **full_core(gold="first"))
    other.backup_full_state(1)
    report = zombie_after_wipe(orchestrator, other, wipe, 1)
    assert report.outcome in ("stale", "superseded")
    assert row(engine)["extra"]["gold"] == "after"
    assert other.hot.get(1).fields["gold"] == "after"


def test_zombie_after_a_wipe_with_a_higher_version_does_not_undo(
    orchestrator: Orchestrator,
    other: Orchestrator,
    engine: Engine,
    wipe: Callable[[], None],
    full_core: FullCore,
) -> None:
    """The zombie's snapshot bears a version that the restored character has not reached yet."""
    other.hot.create(1, **full_core(gold="first"))
    other.backup_full_state(1)
    zombie_after_wipe(orchestrator, other, wipe, 10)
    sweep_once(other)
    assert other.hot.get(1).fields["gold"] == "after"
    assert row(engine)["extra"]["gold"] == "after"


@pytest.mark.parametrize("way", ["plain", "groups"])
def test_worker_that_is_stopped_right_after_its_commit_keeps_the_seal(
    orchestrator: Orchestrator,
    engine: Engine,
    full_core: FullCore,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    way: str,
) -> None:
    """As by Ctrl-C: without the seal, Redis would not know the row."""
    hot = orchestrator.hot
    hot.create(1, **full_core())
    orchestrator.backup_full_state(1)
    if way == "groups":
        request.getfixturevalue("all_as_groups")
    hot.update(1, gold="1")

    def stopped(name: str) -> None:
        if name == "committed":
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        for module in (plain, commit):
            patched.setattr(module, "failpoint", stopped)
        orchestrator.backup_full_state(1)
    hot.update(1, gold="2")
    assert orchestrator.backup_full_state(1).outcome == "saved"
    assert recorded(engine) == []
