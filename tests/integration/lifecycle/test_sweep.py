"""The sweep: from the dirty set to messages, within its bounds."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from statesync.errors import BrokerUnavailable, DatabaseUnavailable
from statesync.hot.commands.claims import Claim
from statesync.hot.keys import Keys
from statesync.hot.store import HotStore
from statesync.lifecycle.claims import release, requeue
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.lifecycle.sweep import catch_up, drain, sweep
from statesync.settings import Settings
from statesync.state.outcomes import BackupOutcome

if TYPE_CHECKING:
    from tests.conftest import FullCore


class Messages:
    """Stands in for the broker: what was dispatched."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.sent: list[list[Claim]] = []
        self.fail_at = fail_at

    def __call__(self, claims: Sequence[Claim]) -> None:
        if len(self.sent) == self.fail_at:
            raise BrokerUnavailable("the broker is away")
        self.sent.append(list(claims))

    @property
    def ids(self) -> list[int]:
        return sorted(claim.char_id for claims in self.sent for claim in claims)


def mark(raw: Any, keys: Keys, char_ids: Iterable[int]) -> None:
    ids = list(char_ids)
    for start in range(0, len(ids), 10_000):
        raw.sadd(keys.dirty, *ids[start : start + 10_000])


@pytest.fixture
def small(settings: Settings) -> Settings:
    """Batches of 10, above a backlog of 20."""
    return replace(settings, batch_size=10, batch_above=20, max_in_flight=10_000)


@pytest.mark.parametrize("backlog", [0, 1, 20])
def test_small_backlog_goes_one_by_one(
    hot: HotStore, raw: Any, keys: Keys, small: Settings, backlog: int
) -> None:
    ids = list(range(1, backlog + 1))
    if ids:
        mark(raw, keys, ids)
    one, batch = Messages(), Messages()
    report = sweep(hot, small, one, batch)
    assert (report.claimed, report.batches, report.left, report.requeued) == (backlog, 0, 0, 0)
    assert one.ids == ids
    assert all(len(claims) == 1 for claims in one.sent)
    assert batch.sent == []


def test_large_backlog_goes_in_batches(
    hot: HotStore, raw: Any, keys: Keys, small: Settings
) -> None:
    mark(raw, keys, range(1, 526))
    one, batch = Messages(), Messages()
    report = sweep(hot, small, one, batch)
    assert (report.claimed, report.batches, report.left) == (525, 53, 0)
    assert batch.ids == list(range(1, 526))
    assert [len(claims) for claims in batch.sent] == [10] * 52 + [5]
    assert one.sent == []


def test_in_flight_is_bounded(hot: HotStore, raw: Any, keys: Keys, small: Settings) -> None:
    mark(raw, keys, range(1, 101))
    bounded = replace(small, max_in_flight=50)
    batch = Messages()

    def acknowledge() -> None:
        for claims in batch.sent:
            for claim in claims:
                hot.acknowledge(claim)

    report = sweep(hot, bounded, batch, batch)
    assert (report.claimed, report.left) == (50, 50)
    assert sweep(hot, bounded, batch, batch).claimed == 0
    acknowledge()
    last = sweep(hot, bounded, batch, batch)
    assert (last.claimed, last.left) == (50, 0)


def test_batch_that_ends_goes_on_with_a_sweep_that_did_not_fit(
    hot: HotStore, raw: Any, keys: Keys, small: Settings
) -> None:
    mark(raw, keys, range(1, 101))
    bounded = replace(small, max_in_flight=50)
    batch = Messages()
    sweep(hot, bounded, batch, batch)
    catch_up(hot, bounded, batch)
    assert len(batch.ids) == 50, "no more may be in flight"
    for claims in batch.sent[:2]:
        for claim in claims:
            hot.acknowledge(claim)
    for ended in (1, 2):
        catch_up(hot, bounded, batch)
        assert [len(claims) for claims in batch.sent] == [10] * (5 + ended), "one for one"
    assert hot.status().counters["claimed"] == 70
    raw.delete(keys.claimed)
    catch_up(hot, bounded, batch)
    assert [len(claims) for claims in batch.sent] == [10] * 9, "two, for those that are lost"
    catch_up(hot, bounded, batch)
    assert batch.ids == list(range(1, 101)), "the last ones are not left to the schedule"
    mark(raw, keys, [200])
    catch_up(hot, bounded, batch)
    assert hot.status().dirty == 1, "what is marked afterwards is"


def test_batch_that_ends_claims_nothing_while_postgresql_is_recovered(
    hot: HotStore, raw: Any, keys: Keys, small: Settings
) -> None:
    mark(raw, keys, range(1, 101))
    bounded = replace(small, max_in_flight=50)
    batch = Messages()
    sweep(hot, bounded, batch, batch)
    raw.delete(keys.claimed)
    raw.hset(keys.servers, "recovering", "1")
    assert hot.status().recovering
    catch_up(hot, bounded, batch)
    assert len(batch.ids) == 50
    raw.hdel(keys.servers, "recovering")
    catch_up(hot, bounded, batch)
    assert len(batch.ids) > 50


def late_by(raw: Any, keys: Keys, milliseconds: int) -> None:
    """Put back when the round began."""
    raw.hincrby(keys.sweep, "began_ms", -milliseconds)


def test_slices_of_an_interval_take_each_once_and_evenly(
    hot: HotStore, raw: Any, keys: Keys, settings: Settings
) -> None:
    slow = replace(settings, sync_seconds=86_400)
    mark(raw, keys, range(1, 2001))
    batch = Messages()
    report = sweep(hot, slow, batch, batch, whole=False)
    assert (report.claimed, report.left) == (0, 2000), "the round begins"
    claimed = []
    for _ in range(4):
        late_by(raw, keys, slow.round_ms // 4 + 1)
        report = sweep(hot, slow, batch, batch, whole=False)
        claimed.append(report.claimed)
    assert all(300 < some < 700 for some in claimed), claimed
    assert batch.ids == list(range(1, 2001))
    assert len(batch.sent) <= 8, "each slice goes out in batches, since the backlog is large"


def test_batch_that_ends_goes_on_if_the_schedule_is_late(
    hot: HotStore, raw: Any, keys: Keys, settings: Settings
) -> None:
    slow = replace(settings, sync_seconds=86_400)
    mark(raw, keys, range(1, 8001))  # so many that a slice ends some pages
    batch = Messages()
    sweep(hot, slow, batch, batch, whole=False)
    catch_up(hot, slow, batch)
    assert batch.ids == []
    late_by(raw, keys, slow.round_ms // 4)
    sweep(hot, slow, batch, batch, whole=False)
    on_time = len(batch.ids)
    late_by(raw, keys, round(1900 * slow.slice_seconds))
    catch_up(hot, slow, batch)
    assert len(batch.ids) == on_time, "the next slice may be on its way"
    late_by(raw, keys, slow.round_ms // 4)
    catch_up(hot, slow, batch)
    assert on_time + 300 < len(batch.ids) <= on_time + 2 * slow.batch_size


@pytest.mark.parametrize("case", [(20, 3, 3), (100, 2, 20), (100, 0, 0)])
def test_broker_away_gives_claims_back(
    hot: HotStore, raw: Any, keys: Keys, small: Settings, case: tuple[int, int, int]
) -> None:
    backlog, fail_at, handed_over = case
    mark(raw, keys, range(1, backlog + 1))
    messages = Messages(fail_at)
    with pytest.raises(BrokerUnavailable):
        sweep(hot, small, messages, messages)
    status = hot.status()
    assert (status.dirty, status.claimed) == (backlog - handed_over, handed_over)


def test_ended_leases_are_handed_over_again(
    hot: HotStore, raw: Any, keys: Keys, small: Settings
) -> None:
    raw.zadd(keys.claimed, {str(i): 1 for i in range(1, 501)})
    raw.zadd(keys.since, {str(i): 1 for i in range(1, 501)})
    batch = Messages()
    report = sweep(hot, small, batch, batch)
    assert (report.requeued, report.claimed) == (500, 500)
    assert batch.ids == list(range(1, 501))
    assert hot.status().counters["requeued"] == 500


def test_worker_that_dies_with_a_claim_on_a_clean_one_raises_no_alarm(
    hot: HotStore, orchestrator: GameStateOrchestrator, small: Settings
) -> None:
    """A backup that comes after the eviction claims a character that is gone, and dies."""
    hot.create(1, state="x")
    orchestrator.evict(1)
    hot.claim(1, lease_us=0)
    messages = Messages()
    report = sweep(hot, small, messages, messages)
    assert (report.requeued, report.claimed, messages.ids) == (1, 0, [])
    assert drain(orchestrator, small, 5).outcomes == {}


def test_clean_one_whose_claim_ended_after_a_snapshot_is_saved(
    hot: HotStore, orchestrator: GameStateOrchestrator, small: Settings, raw: Any, keys: Keys
) -> None:
    hot.create(1, state="x")
    orchestrator.backup_full_state(1)
    claim = hot.claim(1, lease_us=0).claim
    raw.hset(keys.core(1), "state", "y")  # and no mark: the snapshot's version alone tells
    hot.snapshot(claim)
    assert drain(orchestrator, small, 5).outcomes == {BackupOutcome.SAVED: 1}
    assert not hot.status().claimed


def test_two_sweeps_claim_each_once(hot: HotStore, raw: Any, keys: Keys, small: Settings) -> None:
    mark(raw, keys, range(1, 2001))
    inner, outer = Messages(), Messages()

    def dispatch(claims: Sequence[Claim]) -> None:
        outer(claims)
        if len(outer.sent) == 1:
            sweep(hot, small, inner, inner)

    sweep(hot, small, dispatch, dispatch)
    assert sorted(outer.ids + inner.ids) == list(range(1, 2001))
    assert inner.ids


def test_memory_does_not_grow_with_the_backlog(
    hot: HotStore, raw: Any, keys: Keys, settings: Settings
) -> None:
    wide = replace(settings, max_in_flight=1_000_000)
    handed_over = 0

    def dispatch(claims: Sequence[Claim]) -> None:
        nonlocal handed_over
        handed_over += len(claims)

    peaks = {}
    for backlog in (10_000, 100_000):
        mark(raw, keys, range(1, backlog + 1))
        handed_over = 0
        tracemalloc.start()
        sweep(hot, wide, dispatch, dispatch)
        peaks[backlog] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert handed_over == backlog
        raw.delete(keys.claimed, keys.since)
    assert peaks[100_000] < 2 * peaks[10_000] + 1_000_000


def test_drain_saves_everything(
    orchestrator: GameStateOrchestrator, small: Settings, full_core: FullCore
) -> None:
    hot = orchestrator.hot
    for char_id in range(1, 26):
        hot.create(char_id, **full_core(char_id))
    seen: list[int] = []
    report = drain(orchestrator, small, 30, lambda status: seen.append(status.dirty))
    assert report.complete
    assert report.outcomes == {"saved": 25}
    assert seen[-1] == 0


def test_drain_reports_what_others_hold(
    orchestrator: GameStateOrchestrator, small: Settings, full_core: FullCore
) -> None:
    orchestrator.hot.create(1, **full_core())
    orchestrator.hot.claim(1, lease_us=60_000_000)
    report = drain(orchestrator, small, 0)
    assert (report.complete, report.dirty, report.claimed) == (False, 0, 1)


def test_drain_without_a_database_keeps_the_marks(
    unreachable: Settings, full_core: FullCore
) -> None:
    worker = GameStateOrchestrator.from_settings(unreachable)
    worker.hot.create(1, **full_core())
    with pytest.raises(DatabaseUnavailable):
        drain(worker, unreachable, 0)
    assert worker.hot.sync_state(1).dirty
    worker.close()


@pytest.mark.parametrize("is_dirty_again", [False, True])
def test_drain_takes_over_claims_that_stand_still(
    orchestrator: GameStateOrchestrator,
    small: Settings,
    full_core: FullCore,
    monkeypatch: pytest.MonkeyPatch,
    is_dirty_again: bool,
) -> None:
    monkeypatch.setattr("statesync.lifecycle.sweep._STILL_SECONDS", 0.1)
    hot = orchestrator.hot
    for char_id in range(1, 26):
        hot.create(char_id, **full_core(char_id))
    lost, _ = hot.claim(1, lease_us=3_600_000_000)  # an hour, and its message is gone
    if is_dirty_again:
        hot.update(1, gold=1)
    report = drain(orchestrator, small, 30)
    assert (report.complete, report.outcomes) == (True, {"saved": 25})
    assert orchestrator.backup_claims([lost])[0].outcome == "superseded"


def test_drain_ends_with_the_batch_under_way_and_holds_nothing(
    orchestrator: GameStateOrchestrator, small: Settings, full_core: FullCore, raw: Any, keys: Keys
) -> None:
    for char_id in range(1, 101):
        orchestrator.hot.create(char_id, **full_core(char_id))
    raw.hset(keys.core(101), "stats", "{broken")
    orchestrator.backup_full_state(101)
    report = drain(orchestrator, small, 0)
    assert (report.outcomes, report.dirty, report.claimed) == ({"saved": 10}, 90, 0)
    assert (report.complete, report.quarantined) == (False, 1)


def test_a_sweep_that_is_interrupted_gives_its_claims_back(
    hot: HotStore, raw: Any, keys: Keys, small: Settings
) -> None:
    mark(raw, keys, range(1, 101))

    def interrupt(_: Sequence[Claim]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(hot, small, interrupt, interrupt)
    assert (hot.status().dirty, hot.status().claimed) == (100, 0)


def test_drain_outlives_an_outage(
    hot: HotStore,
    orchestrator: GameStateOrchestrator,
    settings: Settings,
    full_core: FullCore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hot.create(1, **full_core(1))
    backup_claims = orchestrator.backup_claims

    def away_once(claims: Sequence[Claim]) -> Any:
        monkeypatch.undo()
        release(hot, claims)
        raise DatabaseUnavailable("PostgreSQL is away")

    monkeypatch.setattr(orchestrator, "backup_claims", away_once)
    report = drain(orchestrator, settings, 30)
    assert orchestrator.backup_claims == backup_claims
    assert (report.complete, report.outcomes) == (True, {BackupOutcome.SAVED: 1})


@pytest.mark.parametrize("ends", ["lease", "release"])
def test_claim_that_ends_without_a_snapshot_leaves_a_mark(
    orchestrator: GameStateOrchestrator, hot: HotStore, full_core: FullCore, ends: str
) -> None:
    """A comparison of everything live has left the character to its claim."""
    hot.create(1, **full_core())
    orchestrator.backup_full_state(1)
    claim = hot.claim(1, lease_us=1).claim
    gone = hot.claim(2, lease_us=1).claim  # not loaded: nothing is lost
    if ends == "lease":
        requeue(hot)
    else:
        release(hot, [claim, gone])
    assert hot.sync_state(1).dirty
    assert not hot.sync_state(2).dirty
    assert orchestrator.backup_full_state(1).outcome == "unchanged"


def test_claim_that_has_ended_before_is_given_back_without_a_mark(
    orchestrator: GameStateOrchestrator, hot: HotStore, full_core: FullCore
) -> None:
    hot.create(1, **full_core())
    claim = hot.claim(1, lease_us=10**8).claim
    orchestrator.backup_claims([claim])
    release(hot, [claim])
    assert not hot.sync_state(1).dirty
