"""Characters in no session and no tie: saved in columns, with the guarantees of any group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine

from statesync import durable, lifecycle
from statesync.game.store import GameStore
from statesync.hot.commands.backup import Plain, RawSnapshot
from statesync.hot.commands.claims import Claim
from statesync.hot.keys import Keys
from statesync.hot.store import HotStore
from statesync.lifecycle import backup
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.lifecycle.plain import PlainSave, PlainSnapshot
from statesync.settings import Settings
from statesync.state.outcomes import BackupOutcome
from tests.conftest import FullCore
from tests.rewind import recorded

FOUR = [1, 2, 3, 4]


@pytest.fixture
def saved(orchestrator: GameStateOrchestrator, full_core: FullCore) -> HotStore:
    """Four characters, saved and loaded."""
    for char_id in FOUR:
        orchestrator.hot.create(char_id, **full_core(char_id, gold=10))
    orchestrator.backup_many(FOUR)
    return orchestrator.hot


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Return the characters that are saved as groups, transaction by transaction."""
    transactions: list[list[int]] = []
    save = lifecycle.groups.save

    def noted(connection: Any, todo: Any, *args: Any, **kwargs: Any) -> Any:
        transactions.append([char_id for group in todo for char_id in group.characters])
        return save(connection, todo, *args, **kwargs)

    monkeypatch.setattr(lifecycle.groups, "save", noted)
    return transactions


def take(hot: HotStore, claims: Sequence[Claim]) -> list[PlainSnapshot]:
    """Return the plain ones among the snapshots of characters."""
    tried = hot.try_snapshots([(claim, ()) for claim in claims], lease_us=10**8)
    return [PlainSnapshot.of(one) for one in tried if isinstance(one, Plain)]


def after_snapshot(monkeypatch: pytest.MonkeyPatch, hook: Callable[[], object]) -> None:
    """Call ``hook`` once, after the next snapshot of plain characters."""
    called: list[str] = []

    def failpoint(name: str) -> None:
        if name == "snapshot" and not called:
            called.append(name)
            hook()

    monkeypatch.setattr(backup, "failpoint", failpoint)


def golds(engine: Engine) -> dict[int, str | None]:
    with engine.begin() as connection:
        query = "SELECT id, extra->>'gold' AS gold FROM characters ORDER BY id"
        return {row.id: row.gold for row in connection.exec_driver_sql(query)}


def outcomes(orchestrator: GameStateOrchestrator, char_ids: list[int]) -> list[str]:
    return [report.outcome for report in orchestrator.backup_many(char_ids)]


def test_what_is_plain_needs_no_group(
    orchestrator: GameStateOrchestrator, saved: HotStore, engine: Engine, groups: list[list[int]]
) -> None:
    versions = [saved.update(char_id, gold=char_id) for char_id in FOUR[:3]]
    before = Counter(saved.status().counters)
    reports = orchestrator.backup_many(FOUR)
    assert [r.outcome for r in reports] == ["saved", "saved", "saved", "unchanged"]
    assert [r.version for r in reports[:3]] == [version + 1 for version in versions]
    assert groups == []
    assert Counter(saved.status().counters) - before == {"saved": 3, "unchanged": 1}
    assert golds(engine) == {1: "1", 2: "2", 3: "3", 4: "10"}
    assert saved.status()[:3] == (0, 0, 0)
    assert outcomes(orchestrator, FOUR) == ["unchanged"] * 4
    assert groups == []


def test_who_is_with_others_is_found_at_once(
    orchestrator: GameStateOrchestrator, saved: HotStore, groups: list[list[int]]
) -> None:
    saved.open_session("combat", [1, 2], {})
    saved.update_together({3: {"gold": 1}, 4: {"gold": 2}})
    reports = orchestrator.backup_many(FOUR)
    assert [r.outcome for r in reports] == ["saved"] * 4
    assert [r.sessions for r in reports[:2]] == [{"combat": "saved"}] * 2
    assert sorted(groups[0]) == FOUR
    assert outcomes(orchestrator, [3, 4]) == ["unchanged"] * 2
    assert len(groups) == 1  # they are tied no more


def test_who_has_left_a_fight_is_taken_out_of_it(
    orchestrator: GameStateOrchestrator, saved: HotStore, engine: Engine, raw: Any, keys: Keys
) -> None:
    saved.open_session("combat", [1, 2], {})
    orchestrator.backup_many(FOUR)
    raw.hdel(keys.core(1), "combat_session_id")
    raw.sadd(keys.dirty, 1)
    assert outcomes(orchestrator, [1]) == ["saved"]
    with engine.begin() as connection:
        query = "SELECT character_id FROM session_characters WHERE left_at IS NULL"
        assert connection.exec_driver_sql(query).scalars().all() == [2]


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("gold", b"\xff", "not UTF-8"),
        ("gold", b"a\0b", "NUL"),
        ("bio", b'{"name": "a\\u0000", "gender": "f"}', "NUL"),
        ("stats", b'{"luck": 4294967296}', "2^31"),
        ("version", b"x", "version"),
        ("saved_version", b"x", "saved_version"),
        ("saved_version", b"9" * 5000, "saved_version"),
    ],
)
def test_what_cannot_be_saved_holds_up_nobody(
    orchestrator: GameStateOrchestrator,
    saved: HotStore,
    engine: Engine,
    raw: Any,
    keys: Keys,
    field: str,
    value: bytes,
    error: str,
) -> None:
    for char_id in FOUR:
        saved.update(char_id, gold=50)
    raw.hset(keys.core(2), field, value)
    reports = orchestrator.backup_many(FOUR)
    assert [r.outcome for r in reports] == ["saved", "quarantined", "saved", "saved"]
    assert error in f"{reports[1].field}: {reports[1].error}"
    assert golds(engine) == {1: "50", 2: "10", 3: "50", 4: "50"}
    assert raw.hget(keys.core(2), field) == value


def test_locked_row_holds_up_nobody(
    orchestrator: GameStateOrchestrator, saved: HotStore, engine: Engine, raw: Any, keys: Keys
) -> None:
    for char_id in FOUR:
        saved.update(char_id, gold=50)
    with engine.begin() as connection:
        connection.exec_driver_sql("SELECT 1 FROM characters WHERE id = 2 FOR UPDATE")
        save = PlainSave(take(saved, [saved.claim(i, lease_us=10**8).claim for i in FOUR]))
        found = save.commit(engine)
    assert sorted(save.outcomes(found)[BackupOutcome.SAVED]) == [1, 3, 4]
    assert [one.claim.char_id for one in save.left] == [2]
    assert outcomes(orchestrator, [2]) == ["saved"]


def test_change_since_the_snapshot_stays_dirty(
    orchestrator: GameStateOrchestrator,
    saved: HotStore,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saved.update(1, gold=1)
    after_snapshot(monkeypatch, lambda: saved.update(1, gold=2))
    assert outcomes(orchestrator, [1]) == ["saved"]
    assert golds(engine)[1] == "1"
    assert saved.sync_state(1).dirty
    assert outcomes(orchestrator, [1]) == ["saved"]
    assert golds(engine)[1] == "2"


def test_claim_that_another_worker_has_taken_is_left_to_it(
    orchestrator: GameStateOrchestrator,
    other: GameStateOrchestrator,
    saved: HotStore,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saved.update(1, gold=1)

    def overtaken() -> None:
        saved.update(1, gold=2)
        other.evict(1)

    after_snapshot(monkeypatch, overtaken)
    assert outcomes(orchestrator, [1]) == ["stale"]
    assert golds(engine)[1] == "2"
    assert recorded(engine) == []
    assert saved.sync_state(1) == (False, None, None, None)


def test_row_of_another_history_is_not_overwritten(
    orchestrator: GameStateOrchestrator,
    other: GameStateOrchestrator,
    saved: HotStore,
    engine: Engine,
    raw: Any,
    keys: Keys,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The row has a seal that this snapshot does not know, and a lower version."""
    for _ in range(5):
        saved.update(1, gold=1)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE characters SET seal = 77 WHERE id = 1")
    assert outcomes(orchestrator, [1, 2]) == ["conflict", "unchanged"]
    assert golds(engine)[1] == "10"
    assert len(recorded(engine)) == 1


def test_connection_that_ends_in_a_save_costs_nothing(
    orchestrator: GameStateOrchestrator,
    saved: HotStore,
    engine: Engine,
    raw: Any,
    keys: Keys,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for char_id in FOUR:
        saved.update(char_id, gold=50)

    def ends(connection: Any, *_: Any) -> Any:
        connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")

    monkeypatch.setattr(durable.plain, "save", ends)
    assert outcomes(orchestrator, FOUR) == ["saved"] * 4
    assert golds(engine) == dict.fromkeys(FOUR, "50")
    assert [len(raw.hget(keys.seals, i).split()) for i in FOUR] == [1, 1, 1, 1]


def test_refused_batch_is_saved_but_for_the_culprit(
    orchestrator: GameStateOrchestrator, saved: HotStore, engine: Engine
) -> None:
    for char_id in FOUR:
        saved.update(char_id, gold=50)
    with engine.begin() as connection:
        check = "ADD CHECK (id <> 3 OR extra->>'gold' <> '50')"
        connection.exec_driver_sql(f"ALTER TABLE characters {check}")
    assert outcomes(orchestrator, FOUR) == ["saved", "saved", "quarantined", "saved"]


def test_nobody_is_plain_while_a_loss_is_settled(
    orchestrator: GameStateOrchestrator, saved: HotStore, raw: Any, keys: Keys
) -> None:
    claims = [saved.claim(i, lease_us=10**8).claim for i in FOUR]
    for flag in ("comparing", "settling", "recovering"):
        raw.hset(keys.servers, flag, "1")
        assert take(saved, claims) == []
        raw.hdel(keys.servers, flag)
    raw.hset(keys.seals, mapping=dict.fromkeys(map(str, FOUR), "5"))  # as if all were settled
    assert len(take(saved, claims)) == 4


def test_snapshot_that_is_sent_twice_has_one_seal(saved: HotStore, raw: Any, keys: Keys) -> None:
    claims = [saved.claim(i, lease_us=10**8).claim for i in FOUR]
    command = saved.commands.try_snapshots([(claim, ()) for claim in claims], lease_us=10**8)
    [first, *_], [second, *_] = saved.run(command), saved.run(command)
    assert isinstance(first, Plain)
    assert isinstance(second, RawSnapshot)
    assert second.cores[1]["version"] == str(first.version + 1)
    assert second.seals[1].words == (first.entry,)
    assert raw.hget(keys.seals, 1) == f"{first.entry} {first.head.seal}".encode()


def test_what_is_too_much_for_one_reply_comes_later(
    orchestrator: GameStateOrchestrator, saved: HotStore, groups: list[list[int]]
) -> None:
    for char_id in FOUR:
        saved.update(char_id, book="x" * 400_000)
    assert len(take(saved, [saved.claim(i, lease_us=10**8).claim for i in FOUR])) == 3
    assert outcomes(orchestrator, FOUR) == ["saved"] * 4


def test_redis_that_cannot_acknowledge_leaves_claims(
    orchestrator: GameStateOrchestrator,
    saved: HotStore,
    engine: Engine,
    raw: Any,
    keys: Keys,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saved.update(1, gold=50)

    def breaks() -> None:
        raw.delete(keys.quarantine)
        raw.set(keys.quarantine, "no hash")

    after_snapshot(monkeypatch, breaks)
    assert outcomes(orchestrator, [1]) == ["saved"]
    assert "saved, not acknowledged" in caplog.text
    assert raw.zscore(keys.claimed, 1)


def test_plain_snapshot_is_under_the_claim(saved: HotStore) -> None:
    claims = [saved.claim(i, lease_us=10**8).claim for i in FOUR]
    saved.claim(2, lease_us=10**9)
    assert [one.raw.claim.char_id for one in take(saved, claims)] == [1, 3, 4]


def test_mark_set_after_the_claim_is_cleared_by_the_snapshot(
    orchestrator: GameStateOrchestrator, saved: HotStore, engine: Engine, raw: Any, keys: Keys
) -> None:
    claim = saved.claim(1, lease_us=10**8).claim
    raw.hset(keys.core(1), "gold", "77")
    raw.sadd(keys.dirty, 1)
    assert [r.outcome for r in orchestrator.backup_claims([claim])] == ["saved"]
    assert golds(engine)[1] == "77"
    assert saved.sync_state(1) == (False, None, None, None)


def test_core_that_lacks_a_field_is_left_to_the_groups(
    orchestrator: GameStateOrchestrator, saved: HotStore, engine: Engine, raw: Any, keys: Keys
) -> None:
    raw.hdel(keys.core(2), "vitals")
    claims = [saved.claim(i, lease_us=10**8).claim for i in FOUR]
    save = PlainSave(take(saved, claims))
    save.commit(engine)
    assert [one.claim.char_id for one in save.left] == [2]
    orchestrator.backup_claims(claims)
    assert raw.hexists(keys.core(2), "vitals")  # the row has them


def test_who_has_a_note_is_not_plain(orchestrator: GameStateOrchestrator, saved: HotStore) -> None:
    saved.note_deletion(1)
    version = saved.update(1, gold=50) + 1
    assert take(saved, [saved.claim(1, lease_us=10**8).claim]) == []
    [report] = orchestrator.backup_many([1])
    assert (report.outcome, report.version) == ("saved", version + 1)


def set_row(engine: Engine, what: str) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE characters SET {what} WHERE id = 1")


def test_row_with_a_higher_number_is_not_overwritten(
    orchestrator: GameStateOrchestrator, saved: HotStore, engine: Engine
) -> None:
    """A writer has put the number back: it is raised first."""
    saved.update(1, gold=50)
    set_row(engine, "version = 100, seal_version = 100")
    [report] = orchestrator.backup_many([1])
    assert report.outcome == "saved"
    assert report.version is not None
    assert report.version > 100


def test_row_that_an_older_worker_has_written_is_judged_by_its_number(
    orchestrator: GameStateOrchestrator, saved: HotStore, engine: Engine, groups: list[list[int]]
) -> None:
    for _ in range(3):
        saved.update(1, gold=50)
    set_row(engine, "version = version + 1")
    assert outcomes(orchestrator, [1]) == ["saved"]
    assert groups == [[1]]


def test_deleted_row_is_not_written(
    orchestrator: GameStateOrchestrator, saved: HotStore, engine: Engine
) -> None:
    saved.update(1, gold=50)
    set_row(engine, "deleted_at = now()")
    orchestrator.backup_many([1])
    assert golds(engine)[1] == "10"


def test_bare_change_is_saved(
    orchestrator: GameStateOrchestrator,
    saved: HotStore,
    engine: Engine,
    raw: Any,
    keys: Keys,
    groups: list[list[int]],
) -> None:
    """It raises no version, so the row may seem to hold it."""
    raw.hset(keys.core(1), "gold", "77")
    assert outcomes(orchestrator, [1, 2]) == ["saved", "unchanged"]
    assert golds(engine)[1] == "77"
    raw.hset(keys.core(1), "stats", '{"luck": 99}')
    assert outcomes(orchestrator, [1, 2]) == ["saved", "unchanged"]
    assert groups == []


def test_nonces_are_recorded(
    orchestrator: GameStateOrchestrator,
    settings: Settings,
    saved: HotStore,
    raw: Any,
    keys: Keys,
    groups: list[list[int]],
) -> None:
    with GameStore(settings) as store:
        receipt = store.update(1, gold=5, receipt=True)
        assert store.is_durable(1, receipt) is False
        orchestrator.backup_many(FOUR)
        assert store.is_durable(1, receipt) is True
    assert groups == []
    assert not raw.exists(keys.nonces)


def test_who_is_in_a_session_of_an_unknown_type_is_left(
    orchestrator: GameStateOrchestrator, saved: HotStore, engine: Engine, raw: Any, keys: Keys
) -> None:
    session_id = str(uuid4())
    raw.hset(keys.session("siege", session_id), mapping={"participants": "[1]"})
    raw.hset(keys.core(1), mapping={"siege_session_id": session_id, "gold": "77"})
    assert outcomes(orchestrator, [1, 2]) == ["released", "unchanged"]
    assert golds(engine)[1] == "10"
    assert len(raw.hget(keys.seals, 1).split()) == 1


def test_neighbours_of_what_is_no_utf8_are_plain(
    orchestrator: GameStateOrchestrator,
    saved: HotStore,
    raw: Any,
    keys: Keys,
    groups: list[list[int]],
) -> None:
    raw.hset(keys.core(2), "gold", b"\xff")
    raw.hset(keys.core(3), b"\xfe", "1")
    found = ["unchanged", "quarantined", "quarantined", "unchanged"]
    assert outcomes(orchestrator, FOUR) == found
    assert groups == []


@pytest.mark.parametrize("batch_size", [1, 2])
def test_one_that_a_message_names_twice_counts_once(
    orchestrator: GameStateOrchestrator,
    saved: HotStore,
    monkeypatch: pytest.MonkeyPatch,
    batch_size: int,
) -> None:
    older, newer = (saved.claim(1, lease_us=10**8).claim for _ in range(2))
    monkeypatch.setattr(orchestrator._backup, "batch_size", batch_size)
    reports = orchestrator.backup_claims([newer, older])
    assert reports.counts() == {BackupOutcome.UNCHANGED: 1}
    assert [report.outcome for report in reports] == ["unchanged"]
