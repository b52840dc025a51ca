"""A revert: under traffic, of what nobody can decode, and what is left if it is disturbed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine

from statesync.durable import conflicts
from statesync.errors import DatabaseWentBack
from statesync.hot.keys import Keys
from statesync.hot.store import HotStore
from statesync.lifecycle import recover, servers
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.lifecycle.revert import record_dropped
from tests.conftest import FullCore
from tests.integration.lifecycle.test_backup import scalar
from tests.rewind import Rewind, lost_cores, lost_sessions, recorded

PARTY = [1, 2]
Before = Callable[[Callable[[], object]], None]


@pytest.fixture
def fight(orchestrator: GameStateOrchestrator, full_core: FullCore, rewind: Rewind) -> UUID:
    """A fight of two at round 0. Redis has forgotten round 1, which is saved, with 1 gold for 1."""
    hot = orchestrator.hot
    for char_id in (1, 2, 3):
        hot.create(char_id, **full_core(char_id))
    made = hot.open_session("combat", PARTY, {"round": "0"})
    orchestrator.backup_many([1, 2, 3])
    before = rewind.moment()
    hot.update_session("combat", made, {"round": "1"})
    hot.update(1, gold="saved")
    orchestrator.backup_many(PARTY)
    rewind.to(before)
    hot.update(1, gold="live")
    return made


@pytest.fixture
def before_it(orchestrator: GameStateOrchestrator, monkeypatch: pytest.MonkeyPatch) -> Before:
    """Have something happen between the snapshot of a group and its revert."""

    def do(hook: Callable[[], object]) -> None:
        revert_it = orchestrator.hot.revert

        def after_the_hook(group: Any) -> Any:
            monkeypatch.undo()
            hook()
            return revert_it(group)

        monkeypatch.setattr(orchestrator.hot, "revert", after_the_hook, raising=False)

    return do


def is_as_saved(hot: HotStore, fight: UUID) -> bool:
    return (
        hot.get(1).fields["gold"] == "saved"
        and hot.get_session("combat", fight).fields["round"] == "1"
        and all(hot.get(i).sessions == {"combat": fight} for i in PARTY)
    )


def dropped(hot: HotStore, raw: Any) -> list[bytes]:
    return [*raw.scan_iter(f"{hot.keys.prefix}statesync:dropped*")]


def test_what_is_played_until_the_very_step_is_recorded(
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    fight: UUID,
    engine: Engine,
    before_it: Before,
) -> None:
    def play() -> None:
        hot.update(1, gold="later")
        hot.update_session("combat", fight, {"round": "later"}, log=["later"])

    before_it(play)
    assert {r.outcome for r in orchestrator.backup_many(PARTY)} == {"conflict"}
    assert is_as_saved(hot, fight)
    assert hot.read_log("combat", fight) == []
    assert dict(lost_cores(engine))[1]["gold"] == "later"
    assert [session["round"] for _, session in lost_sessions(engine)] == ["later"]
    assert hot.status()[:3] == (0, 0, 0)


def test_group_that_has_grown_is_reverted_whole_in_the_next_round(
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    fight: UUID,
    engine: Engine,
    before_it: Before,
) -> None:
    before_it(lambda: hot.update_together({1: {"gold": "of 3"}, 3: {"gold": "of 1"}}))
    assert orchestrator.backup_full_state(1).outcome == "conflict"
    assert is_as_saved(hot, fight)
    assert "gold" not in hot.get(3).fields, "half a trade would be left"
    assert sorted(i for i, _ in lost_cores(engine)) == [1, 2, 3]
    assert hot.status()[:3] == (0, 0, 0)


def test_worker_that_has_lost_its_claims_reverts_nothing(
    orchestrator: GameStateOrchestrator,
    other: GameStateOrchestrator,
    hot: HotStore,
    fight: UUID,
    engine: Engine,
    before_it: Before,
) -> None:
    def be_faster() -> None:
        assert other.backup_full_state(2).outcome == "conflict"
        hot.update(1, gold="newer")

    before_it(be_faster)
    assert orchestrator.backup_full_state(1).outcome in ("superseded", "stale")
    assert hot.get(1).fields["gold"] == "newer"
    assert [core["gold"] for i, core in lost_cores(engine) if i == 1] == ["live"]
    assert orchestrator.backup_full_state(1).outcome == "saved"


def test_participant_that_has_come_back_meanwhile_is_reverted_too(
    orchestrator: GameStateOrchestrator,
    other: GameStateOrchestrator,
    hot: HotStore,
    fight: UUID,
    before_it: Before,
    raw: Any,
    keys: Keys,
) -> None:
    raw.delete(keys.core(2))
    before_it(lambda: other.restore_full_state(2))
    assert orchestrator.backup_full_state(1).outcome == "conflict"
    assert is_as_saved(hot, fight)


def test_marks_of_a_member_that_is_not_loaded_stay(
    orchestrator: GameStateOrchestrator, hot: HotStore, fight: UUID, raw: Any, keys: Keys
) -> None:
    raw.delete(keys.core(2))
    raw.sadd(keys.dirty, 2)
    raw.zadd(keys.since, {"2": 1})
    raw.hset(keys.nonces, "2", "a")
    assert orchestrator.backup_full_state(1).outcome == "conflict"
    assert not hot.sync_state(1).dirty
    assert hot.sync_state(2).dirty
    assert (raw.zscore(keys.since, 2), raw.hget(keys.nonces, 2)) == (1, b"a")
    assert hot.peek(2) is None


@pytest.mark.parametrize(
    "field", [{"version": "²"}, {"version": "9" * 30}, {"note": b"\0\xff"}, {"stats": "{"}]
)
def test_what_nobody_can_decode_is_recorded_as_it_is(
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    fight: UUID,
    engine: Engine,
    before_it: Before,
    raw: Any,
    keys: Keys,
    field: dict[str, Any],
) -> None:
    before_it(lambda: raw.hset(keys.core(1), mapping=field))
    assert orchestrator.backup_full_state(1).outcome == "conflict"
    assert is_as_saved(hot, fight)
    assert dict(lost_cores(engine))[1]["gold"] == "live"
    assert dropped(hot, raw) == []


def test_core_that_cannot_be_decoded_is_set_to_its_row(
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    fight: UUID,
    engine: Engine,
    raw: Any,
    keys: Keys,
) -> None:
    raw.hset(keys.core(1), "stats", "{")
    assert {r.outcome for r in orchestrator.backup_many(PARTY)} == {"conflict"}
    assert is_as_saved(hot, fight)
    assert dict(lost_cores(engine))[1]["stats"] == "{"
    assert hot.list_quarantine() == (0, [])


def test_session_whose_participants_nobody_can_read_is_recorded_all_the_same(
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    fight: UUID,
    engine: Engine,
    before_it: Before,
    raw: Any,
    keys: Keys,
) -> None:
    session = keys.session("combat", str(fight))
    before_it(lambda: raw.hset(session, "participants", "["))
    assert orchestrator.backup_full_state(1).outcome == "conflict"
    [lost] = [one for one in recorded(engine) if one.session_id]
    assert (lost.char_id, lost.state["session"]["participants"]) == (1, "[")


def test_core_that_is_no_hash_any_more_holds_up_no_record(
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    fight: UUID,
    engine: Engine,
    before_it: Before,
    raw: Any,
    keys: Keys,
) -> None:
    def overwrite() -> None:
        raw.delete(keys.core(1))
        raw.set(keys.core(1), "x")

    before_it(overwrite)
    assert orchestrator.backup_full_state(1).outcome in ("conflict", "quarantined")
    record_dropped(hot, engine)
    assert {i for i, _ in lost_cores(engine)} >= {2}


def test_core_that_is_no_hash_is_repaired_before_its_group_shows_the_loss(
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    fight: UUID,
    engine: Engine,
    raw: Any,
    keys: Keys,
) -> None:
    raw.delete(keys.core(2))
    raw.set(keys.core(2), "x")
    assert {r.outcome for r in orchestrator.backup_many(PARTY)} == {"quarantined"}
    assert (hot.get(1).fields["gold"], recorded(engine)) == ("live", [])
    raw.delete(keys.core(2))
    assert orchestrator.restore_full_state(2).outcome == "restored"
    assert {r.outcome for r in orchestrator.backup_many(PARTY)} == {"conflict"}
    assert is_as_saved(hot, fight)
    assert dict(lost_cores(engine))[1]["gold"] == "live"
    assert hot.status().counters["redis_went_back"] == 1
    assert hot.list_quarantine() == (0, [])


@pytest.mark.parametrize("entry", ["x", "{}", '{"divergence": 1, "members": ["x:y"]}'])
def test_foreign_entry_holds_up_no_record(
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    fight: UUID,
    engine: Engine,
    raw: Any,
    keys: Keys,
    entry: str,
) -> None:
    raw.hset(keys.dropped, "0", entry)
    assert orchestrator.backup_full_state(1).outcome == "conflict"
    assert sorted(i for i, _ in lost_cores(engine)) == PARTY
    assert orchestrator.backup_full_state(1).outcome == "unchanged"


def test_game_and_log_are_told_who_was_reverted(
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    fight: UUID,
    raw: Any,
    keys: Keys,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with raw.pubsub() as heard:
        heard.subscribe(keys.reverted)
        assert heard.get_message(timeout=30)["type"] == "subscribe"
        orchestrator.backup_full_state(1)
        message = heard.get_message(timeout=30)
    assert message, "nobody was told"
    told = json.loads(message["data"])
    assert told == {"char_ids": PARTY, "sessions": [f"combat:session:{fight}"]}
    assert hot.status().counters["reverted"] == 2
    assert "another history of characters 1, 2: they are set to it" in caplog.text


def test_same_loss_found_again_is_recorded_once_and_another_one_too(
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    fight: UUID,
    engine: Engine,
    rewind: Rewind,
) -> None:
    """A crash loop that replays the same does not grow; what is played in between is kept."""
    looped = rewind.moment()
    for _ in range(3):
        rewind.to(looped)
        assert orchestrator.backup_full_state(1).outcome == "conflict"
    assert [core["gold"] for i, core in lost_cores(engine) if i == 1] == ["live"]
    rewind.to(looped)
    hot.update(1, gold="another")
    assert orchestrator.backup_full_state(1).outcome == "conflict"
    assert [core["gold"] for i, core in lost_cores(engine) if i == 1] == ["live", "another"]


def test_group_in_which_both_servers_went_back_is_quarantined(
    orchestrator: GameStateOrchestrator, hot: HotStore, fight: UUID, engine: Engine
) -> None:
    older = "version = version - 1, seal = 5, seal_version = version - 1"
    scalar(engine, f"UPDATE characters SET {older} WHERE id = 2 RETURNING 1")
    before = scalar(engine, "SELECT array_agg((version, extra)::text ORDER BY id) FROM characters")
    with pytest.raises(DatabaseWentBack):  # that side is on record first: nothing is restored now
        orchestrator.backup_many(PARTY)
    for _ in range(2):  # each counts once
        recover.recover(orchestrator, lease_us=60_000_000)
        _, found = hot.list_quarantine()
        assert sorted(one.name for one in found) == ["1", "2"]
        assert all("both servers went back" in one.error for one in found)
        both, postgresql = servers.losses(hot, engine)
        assert (both.side, both.quarantined, postgresql.side) == ("both", 2, "postgresql")
    after = scalar(engine, "SELECT array_agg((version, extra)::text ORDER BY id) FROM characters")
    assert (after, recorded(engine)) == (before, [])
    assert hot.get(1).fields["gold"] == "live"


def test_recording_that_fails_is_done_by_the_next_sweep(
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    fight: UUID,
    engine: Engine,
    raw: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(conflicts, "record", _fails)
        with pytest.raises(ZeroDivisionError):
            orchestrator.backup_full_state(1)
    assert is_as_saved(hot, fight)
    assert recorded(engine) == []
    assert len(dropped(hot, raw)) > 1
    assert record_dropped(hot, engine) == 3
    assert dict(lost_cores(engine))[1]["gold"] == "live"
    assert dropped(hot, raw) == []


def _fails(*_: Any) -> None:
    raise ZeroDivisionError
