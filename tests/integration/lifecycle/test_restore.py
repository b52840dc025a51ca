"""restore: never overwrites, whatever plays, logins and logouts go on at the same time."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine, event, text

from statesync.errors import InvalidCharId, RedisUnavailable
from statesync.hot.command import Command
from statesync.hot.keys import Keys
from statesync.lifecycle.orchestrator import GameStateOrchestrator, RestoreReport
from statesync.state.outcomes import RestoreOutcome

if TYPE_CHECKING:
    from tests.conftest import FullCore

Orchestrator = GameStateOrchestrator


@pytest.fixture
def saved(orchestrator: Orchestrator, full_core: FullCore) -> int:
    """Character 1: in PostgreSQL, not in Redis, never evicted. Its version is the value."""
    hot = orchestrator.hot
    hot.create(1, **full_core(gold="saved"))
    version = orchestrator.backup_full_state(1).version
    hot.evict(1, tombstone_ms=1)
    assert version is not None
    return version


def test_restored_whole(orchestrator: Orchestrator, saved: int, full_core: FullCore) -> None:
    assert orchestrator.restore_full_state(1) == RestoreReport(1, RestoreOutcome.RESTORED, saved)
    read = orchestrator.hot.get(1)
    assert read.core() == full_core(gold="saved")
    assert (read.version, read.saved_version) == (saved, saved)
    assert not orchestrator.hot.sync_state(1).dirty
    assert orchestrator.backup_full_state(1).outcome == "unchanged"


def test_live_is_left_alone(orchestrator: Orchestrator, saved: int) -> None:
    orchestrator.restore_full_state(1)
    orchestrator.hot.update(1, gold="played")
    report = orchestrator.restore_full_state(1)
    assert (report.outcome, report.version) == ("live", saved + 1)
    assert orchestrator.hot.get(1).fields["gold"] == "played"


def test_not_found(orchestrator: Orchestrator) -> None:
    assert orchestrator.restore_full_state(7) == RestoreReport(7, RestoreOutcome.NOT_FOUND)
    assert orchestrator.hot.peek(7) is None


def test_deleted_is_not_found(orchestrator: Orchestrator, engine: Engine, saved: int) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE characters SET deleted_at = now()"))
    assert orchestrator.restore_full_state(1).outcome == "not_found"


def test_many_in_order(orchestrator: Orchestrator, saved: int) -> None:
    orchestrator.hot.create(3)
    seen: list[int] = []
    reports = orchestrator.restore_many([3, 1, 2, 1], progress=seen.append)
    assert [(report.char_id, report.outcome) for report in reports] == [
        (3, "live"),
        (1, "restored"),
        (2, "not_found"),
    ]
    assert seen == [3]
    counters = orchestrator.hot.status().counters
    assert (counters["restored"], counters["live"], counters["not_found"]) == (1, 1, 1)


@pytest.mark.parametrize("bad", [0, -1, 2**63, True, "1", [1]])
def test_no_id_is_refused(orchestrator: Orchestrator, bad: Any) -> None:
    with pytest.raises(InvalidCharId):
        orchestrator.restore_many([1, bad])


def test_row_made_by_plain_sql_gets_vitals(orchestrator: Orchestrator, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO characters (id, name, game_stage) VALUES (5, 'Bo', 'exploration')")
        )
        connection.execute(
            text("INSERT INTO character_stats (character_id, endurance) VALUES (5, 10)")
        )
    assert orchestrator.restore_full_state(5) == RestoreReport(5, RestoreOutcome.RESTORED, 0)
    read = orchestrator.hot.get(5)
    assert (read.bio, read.stats) == ({"name": "Bo"}, {"endurance": 10})
    assert read.vitals is not None
    assert read.vitals["hp"] == {"cur": 150, "max": 150}
    assert orchestrator.backup_full_state(5).outcome == "saved"


def test_row_with_nothing_in_it(orchestrator: Orchestrator, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO characters (id) VALUES (5)"))
    assert orchestrator.restore_full_state(5).outcome == "restored"
    assert orchestrator.hot.peek(5) == (0, {}, True)
    orchestrator.hot.update(5, state="exploration")
    assert orchestrator.backup_full_state(5).outcome == "saved"


def test_row_read_before_an_eviction_is_refused(
    orchestrator: Orchestrator, other: Orchestrator, saved: int
) -> None:
    """While a slow login holds an old row, the character is played, saved and evicted."""

    def meanwhile(_: object) -> None:
        other.restore_full_state(1)
        other.hot.update(1, gold="newer")
        other.evict(1)

    event.listen(orchestrator.engine, "commit", meanwhile, once=True)
    report = orchestrator.restore_full_state(1)
    assert report.outcome == "restored"
    assert (report.version or 0) > saved
    assert orchestrator.hot.get(1).fields["gold"] == "newer"


def test_login_during_a_logout(orchestrator: Orchestrator, other: Orchestrator, saved: int) -> None:
    orchestrator.restore_full_state(1)
    orchestrator.hot.update(1, gold="newest")

    def login(_: object) -> None:
        assert other.restore_full_state(1).outcome == "live"

    event.listen(orchestrator.engine, "commit", login, once=True)
    orchestrator.evict(1)
    assert other.restore_full_state(1).outcome == "restored"
    assert other.hot.get(1).fields["gold"] == "newest"


def test_two_logins_at_once_end_in_one_state(
    orchestrator: Orchestrator, other: Orchestrator, saved: int, full_core: FullCore
) -> None:
    both_have_read = threading.Barrier(2)
    reports: list[RestoreReport] = []

    def login(worker: Orchestrator) -> None:
        def meet(_: object) -> None:
            both_have_read.wait(30)

        event.listen(worker.engine, "commit", meet, once=True)
        reports.append(worker.restore_full_state(1))

    threads = [threading.Thread(target=login, args=(worker,)) for worker in (orchestrator, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(report.outcome for report in reports) == ["live", "restored"]
    read = orchestrator.hot.get(1)
    assert (read.core(), read.version) == (full_core(gold="saved"), saved)


def test_everyone_comes_back_after_a_wipe(
    orchestrator: Orchestrator, raw: Any, keys: Keys, full_core: FullCore
) -> None:
    hot = orchestrator.hot
    ids = list(range(1, 1201))
    hot.run_many([hot.commands.create(i, **full_core(i)) for i in ids])
    orchestrator.backup_many(ids)
    for key in raw.scan_iter(f"{keys.prefix}*"):
        raw.delete(key)
    reports = orchestrator.restore_many(ids)
    assert {report.outcome for report in reports} == {"restored"}
    cores = hot.run_many([hot.commands.get(i) for i in ids])
    assert [core.core() for core in cores if not isinstance(core, Exception)] == [
        full_core(i) for i in ids
    ]


def test_repeated_restores_stage_a_log_once(
    orchestrator: Orchestrator,
    full_core: FullCore,
    raw: Any,
    keys: Keys,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hot = orchestrator.hot
    hot.create(1, **full_core())
    fight = hot.open_session("combat", [1], {"monsters": []})
    hot.update_session("combat", fight, log=["hit"] * 1500)
    orchestrator.backup_full_state(1)
    raw.delete(keys.core(1), keys.session("combat", str(fight)))

    send = hot.run_many

    def lose_connection_after_staging(todo: Sequence[Command[Any]]) -> list[Any]:
        staging = [one for one in todo if one.keys and ":staged:" in one.keys[0]]
        results = send(staging or todo)
        if staging:
            raise RedisUnavailable("cut off")
        return results

    with monkeypatch.context() as patch:
        patch.setattr(hot, "run_many", lose_connection_after_staging)
        for _ in range(3):
            with pytest.raises(RedisUnavailable):
                orchestrator.restore_full_state(1)
    assert len(list(raw.scan_iter(f"{keys.prefix}statesync:staged:*"))) == 1
    assert orchestrator.restore_full_state(1).sessions == {"combat": "restored"}
    assert len(hot.read_log("combat", fight)) == 1500
    assert not list(raw.scan_iter(f"{keys.prefix}statesync:staged:*"))


# What a restore changes is saved


def rewrite(engine: Engine, *statements: str) -> None:
    """Have another program change the rows."""
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def test_that_a_session_has_ended_is_saved(
    orchestrator: Orchestrator, saved: int, engine: Engine
) -> None:
    orchestrator.restore_full_state(1)
    orchestrator.hot.open_session("inventory", [1], {"items": []})
    orchestrator.evict(1)
    rewrite(engine, "UPDATE sessions SET closed_at = now()")
    assert orchestrator.restore_full_state(1).sessions == {"inventory": "ended"}
    assert orchestrator.hot.get(1).sessions == {}
    assert orchestrator.hot.sync_state(1).dirty


def test_that_it_fell_back_to_another_state_is_saved(
    orchestrator: Orchestrator, saved: int, engine: Engine
) -> None:
    rewrite(engine, "UPDATE characters SET game_stage = 'combat'")
    assert orchestrator.restore_full_state(1).fallback_from == "combat"
    assert orchestrator.hot.get(1).state == "exploration"
    assert orchestrator.hot.sync_state(1).dirty


def test_that_another_program_put_it_into_a_session_is_saved(
    orchestrator: Orchestrator, saved: int, engine: Engine
) -> None:
    rewrite(
        engine,
        "INSERT INTO sessions (id, session_type, payload, version) "
        "VALUES ('00000000-0000-0000-0000-000000000001', 'combat', '{}', 1)",
        "INSERT INTO session_characters (session_id, character_id) "
        "VALUES ('00000000-0000-0000-0000-000000000001', 1)",
    )
    assert orchestrator.restore_full_state(1).sessions == {"combat": "restored"}
    assert orchestrator.hot.sync_state(1).dirty


def test_what_is_as_its_row_gets_no_mark(orchestrator: Orchestrator, saved: int) -> None:
    orchestrator.restore_full_state(1)
    assert not orchestrator.hot.sync_state(1).dirty


@pytest.mark.parametrize("in_postgresql", [False, True])
def test_a_core_that_is_no_hash_is_no_live_one(
    orchestrator: Orchestrator, raw: Any, keys: Keys, *, in_postgresql: bool
) -> None:
    if in_postgresql:
        orchestrator.hot.create(1, state="exploration")
        orchestrator.evict(1)
    raw.set(keys.core(1), "s")
    report = orchestrator.restore_full_state(1)
    assert (report.outcome, report.version) == ("failed", None)
    assert "the key is not of the type" in (report.error or "")
    assert raw.get(keys.core(1)) == b"s"
