"""What happens between two steps of a backup or a restore is neither lost nor mixed in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, text

from statesync import durable
from statesync.durable import database
from statesync.durable.results import CharacterDecision
from statesync.errors import DatabaseUnavailable
from statesync.hot.commands.claims import Claim
from statesync.hot.keys import Keys
from statesync.hot.store import HotStore
from statesync.lifecycle import claims as lifecycle_claims
from statesync.lifecycle import groups
from statesync.lifecycle.acknowledgement import acknowledgement
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.lifecycle.snapshots import Snapshot, decode, read_logs
from statesync.settings import Settings
from tests.conftest import FullCore

PARTY = [1, 2, 3]
LEASE = 60_000_000


@pytest.fixture
def fight(orchestrator: GameStateOrchestrator, full_core: FullCore) -> UUID:
    """A fight of three, saved."""
    hot = orchestrator.hot
    for char_id in PARTY:
        hot.create(char_id, **full_core(char_id))
    made = hot.open_session("combat", PARTY, {"round": "1"}, state="combat")
    hot.update_session("combat", made, log=["a", "b"])
    orchestrator.backup_many(PARTY)
    return made


def rows(engine: Engine, query: str) -> list[Any]:
    with engine.begin() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def evict_all(orchestrator: GameStateOrchestrator) -> None:
    for char_id in PARTY:
        orchestrator.evict(char_id)


# Backup


def test_batches_that_have_not_begun_are_given_back(
    unreachable: Settings, full_core: FullCore
) -> None:
    with GameStateOrchestrator.from_settings(replace(unreachable, batch_size=2)) as worker:
        for char_id in range(1, 6):
            worker.hot.create(char_id, **full_core(char_id))
        step = worker.hot.claim_dirty(
            lease_us=LEASE, max_in_flight=10, count=10, round_ms=60_000, whole=True
        )
        assert len(step.claims) == 5
        with pytest.raises(DatabaseUnavailable):
            worker.backup_claims(step.claims)
        status = worker.hot.status()
        assert (status.dirty, status.claimed) == (5, 0)


def test_claims_that_cannot_be_given_back_hide_no_error(settings: Settings) -> None:
    away = replace(settings, redis_url="unix:///nothing/there.sock")
    with HotStore.from_settings(away) as hot:
        lifecycle_claims.release(hot, [Claim(1, 1)])


def test_row_that_another_worker_makes_meanwhile(
    orchestrator: GameStateOrchestrator,
    other: GameStateOrchestrator,
    full_core: FullCore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    orchestrator.hot.create(1, **full_core())
    decide = durable.characters.decide

    def too_late(*args: Any, **kwargs: Any) -> dict[int, CharacterDecision]:
        monkeypatch.undo()
        decided = decide(*args, **kwargs)
        other.hot.update(1, gold="newer")
        assert other.backup_full_state(1).outcome == "saved"
        return decided

    monkeypatch.setattr(durable.characters, "decide", too_late)
    assert orchestrator.backup_full_state(1).outcome == "stale"


def take(orchestrator: GameStateOrchestrator, anchor: int) -> Snapshot:
    claim, _ = orchestrator.hot.claim(anchor, lease_us=LEASE)
    return decode(anchor, orchestrator.hot.snapshot(claim, lease_us=LEASE))


def test_group_is_acknowledged_under_the_claim_of_its_snapshot(
    orchestrator: GameStateOrchestrator, fight: UUID, engine: Engine
) -> None:
    snapshot = take(orchestrator, 3)
    with database.transaction(engine) as connection:
        (result,) = groups.save(connection, [snapshot], orchestrator.sessions)
    ack = acknowledgement(snapshot, result, ())
    assert [char_id for char_id, _ in ack.claims] == [3, 1, 2]


def test_group_is_not_acknowledged_under_the_claim_of_a_deleted_one(
    orchestrator: GameStateOrchestrator, fight: UUID, engine: Engine
) -> None:
    snapshot = take(orchestrator, 3)
    with database.transaction(engine) as connection:
        connection.execute(text("UPDATE characters SET deleted_at = now() WHERE id = 3"))
        (result,) = groups.save(connection, [snapshot], orchestrator.sessions)
    ack = acknowledgement(snapshot, result, ())
    assert [char_id for char_id, _ in ack.claims] == [1, 2, 3]
    assert [bool(token) for _, token in ack.claims] == [True, True, False]


def test_log_that_is_cut_after_the_snapshot_is_not_saved(
    orchestrator: GameStateOrchestrator, fight: UUID, engine: Engine, raw: Any, keys: Keys
) -> None:
    orchestrator.hot.update_session("combat", fight, log=["c", "d"])
    snapshot = take(orchestrator, 1)
    raw.ltrim(keys.session_log("combat", str(fight)), 0, 2)
    read_logs(orchestrator.hot, engine, orchestrator.sessions, [snapshot])
    assert snapshot.corrupt is not None
    assert "shorter" in snapshot.corrupt.reason


def test_log_is_compared_whole_if_its_session_is_invalid(
    orchestrator: GameStateOrchestrator, fight: UUID, engine: Engine, raw: Any, keys: Keys
) -> None:
    raw.lset(keys.session_log("combat", str(fight)), 0, '"other"')
    with engine.begin() as connection:
        durable.digests.invalidate(connection, [fight])
    orchestrator.hot.update_session("combat", fight, log=["c"])
    orchestrator.backup_full_state(1)
    entries = rows(engine, "SELECT entry FROM combat_log ORDER BY seq")
    assert entries == [("other",), ("b",), ("c",)]
    [(state,)] = rows(engine, "SELECT state FROM state_conflicts")
    assert state == {"log": [{"seq": 0, "entry": "a"}]}, "what it contradicted is kept"


def test_session_that_ended_keeps_its_time_whenever_it_is_saved(
    orchestrator: GameStateOrchestrator, fight: UUID, engine: Engine
) -> None:
    orchestrator.hot.close_session("combat", fight)
    snapshot = take(orchestrator, 1)
    ends = []
    for _ in range(2):
        with database.transaction(engine) as connection:
            groups.save(connection, [snapshot], orchestrator.sessions)
            durable.digests.invalidate(connection, [fight])
        ends += rows(engine, "SELECT closed_at FROM sessions")
        snapshot = take(orchestrator, 1)
    assert ends[0] == ends[1] != (None,)


# Restore


def test_core_and_session_are_read_at_one_instant(
    orchestrator: GameStateOrchestrator,
    fight: UUID,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    evict_all(orchestrator)
    having_open = durable.memberships.having_open

    def after_another_save(*args: Any) -> Any:
        with engine.begin() as connection:
            for change in (
                """UPDATE sessions SET payload = payload || '{"round": "2"}'""",
                """UPDATE characters SET extra = extra || '{"round": "2"}'""",
            ):
                connection.execute(text(change))
        return having_open(*args)

    monkeypatch.setattr(durable.memberships, "having_open", after_another_save)
    assert orchestrator.restore_full_state(1).sessions == {"combat": "restored"}
    core = orchestrator.hot.get(1)
    # Rows that are read again, on a busy machine, are both of the later instant.
    assert (
        core.fields.get("round", "1")
        == orchestrator.hot.get_session("combat", fight).fields["round"]
    )


def test_of_two_open_sessions_the_one_comes_back_that_the_core_points_at(
    orchestrator: GameStateOrchestrator, fight: UUID, engine: Engine
) -> None:
    evict_all(orchestrator)
    with engine.begin() as connection:
        newer = uuid4()
        session = "INSERT INTO sessions (id, session_type, payload, version, updated_at)"
        values = "VALUES (:id, 'combat', '{}', 1, now() + interval '1 hour')"
        connection.execute(text(f"{session} {values}"), {"id": newer})
        member = "INSERT INTO session_characters (session_id, character_id) VALUES (:id, 1)"
        connection.execute(text(member), {"id": newer})
    orchestrator.restore_full_state(1)
    assert orchestrator.hot.get(1).sessions == {"combat": fight}


def test_long_log_comes_back_whole(
    orchestrator: GameStateOrchestrator, fight: UUID, raw: Any, keys: Keys
) -> None:
    orchestrator.hot.update_session("combat", fight, log=list(range(2500)))
    orchestrator.backup_full_state(1)
    evict_all(orchestrator)
    orchestrator.restore_full_state(1)
    assert orchestrator.hot.read_log("combat", fight) == ["a", "b", *range(2500)]


def test_deletion_ends_memberships_though_none_of_the_session_is_loaded(
    orchestrator: GameStateOrchestrator, fight: UUID, engine: Engine
) -> None:
    evict_all(orchestrator)
    orchestrator.delete(1)
    members = "SELECT character_id FROM session_characters WHERE left_at IS NULL ORDER BY 1"
    assert rows(engine, members) == [(2,), (3,)]
