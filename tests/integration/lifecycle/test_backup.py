"""backup: every outcome, and what a crash, a race or a broken neighbour must not do."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine, event, text

from statesync.durable import database
from statesync.durable.results import Unknown
from statesync.errors import (
    CharacterNotLoaded,
    CharacterNotSaved,
    DatabaseUnavailable,
    InvalidCharId,
)
from statesync.hot.keys import Keys
from statesync.lifecycle import groups
from statesync.lifecycle.orchestrator import BackupReport, GameStateOrchestrator
from statesync.lifecycle.snapshots import decode
from statesync.settings import Settings
from statesync.state.outcomes import BackupOutcome
from tests.rewind import lost_cores

if TYPE_CHECKING:
    from tests.conftest import FullCore
    from tests.rewind import Rewind

Orchestrator = GameStateOrchestrator


def once(engine: Engine, moment: str, hook: Callable[[], object]) -> None:
    """Call ``hook`` at the next ``begin`` or ``commit`` of ``engine``, inside its work."""

    event.listen(engine, moment, lambda _: hook(), once=True)


def row(engine: Engine, char_id: int = 1) -> dict[str, Any]:
    with engine.begin() as connection:
        query = text("SELECT * FROM characters WHERE id = :id")
        return dict(connection.execute(query, {"id": char_id}).mappings().one())


def scalar(engine: Engine, query: str) -> Any:
    with engine.begin() as connection:
        return connection.execute(text(query)).scalar()


def outcomes(reports: Sequence[BackupReport]) -> dict[int, str]:
    return {report.char_id: report.outcome for report in reports}


def sweep_once(orchestrator: Orchestrator) -> list[BackupReport]:
    """Claim what is dirty and save it, as one tick of the schedule and a worker do."""
    claims = orchestrator.hot.claim_dirty(
        lease_us=60_000_000, max_in_flight=1000, count=1000, round_ms=60_000, whole=True
    ).claims
    return [*orchestrator.backup_claims(claims)]


# Outcomes


def test_saved(orchestrator: Orchestrator, engine: Engine, full_core: FullCore) -> None:
    orchestrator.hot.create(1, **full_core())
    assert orchestrator.backup_full_state(1) == BackupReport(1, BackupOutcome.SAVED, version=2)
    assert (row(engine)["version"], row(engine)["name"]) == (2, "Hero 1")


@pytest.mark.parametrize("count", range(4))
def test_first_save_holds_all_own_fields(
    orchestrator: Orchestrator, engine: Engine, full_core: FullCore, count: int
) -> None:
    own = {f"own{i}": str(i) for i in range(count)}
    fields = {**full_core(), **own, "combat_session_id": None, "guild": None}
    orchestrator.hot.create(1, **fields)
    orchestrator.backup_full_state(1)
    assert row(engine)["extra"] == own
    assert orchestrator.hot.sync_state(1) == (False, None, None, None)
    read = orchestrator.hot.get(1)
    assert (read.version, read.saved_version) == (2, 2)
    assert orchestrator.hot.status().counters["saved"] == 1


def test_unchanged(orchestrator: Orchestrator, engine: Engine, full_core: FullCore) -> None:
    orchestrator.hot.create(1, **full_core())
    orchestrator.backup_full_state(1)
    before = row(engine)
    for _ in range(3):
        assert orchestrator.backup_full_state(1) == BackupReport(
            1, BackupOutcome.UNCHANGED, version=2
        )
    orchestrator.hot.mark_dirty(1)
    sweep_once(orchestrator)
    assert row(engine)["name"] == before["name"]
    assert orchestrator.hot.status().dirty == 0
    assert orchestrator.hot.evict(1)


def test_bare_writer_is_saved(
    orchestrator: Orchestrator, engine: Engine, raw: Any, keys: Keys
) -> None:
    raw.hset(keys.core(1), mapping={"state": "combat", "bio": '{"name":"Bo"}'})
    raw.sadd(keys.dirty, 1)
    assert outcomes(sweep_once(orchestrator)) == {1: "saved"}
    raw.hset(keys.core(1), "state", "trade")
    raw.sadd(keys.dirty, 1)
    assert outcomes(sweep_once(orchestrator)) == {1: "saved"}
    assert row(engine)["game_stage"] == "trade"


def test_stale(
    orchestrator: Orchestrator, other: Orchestrator, engine: Engine, full_core: FullCore
) -> None:
    """A slow worker with an old snapshot cannot overwrite what a faster one saved."""
    hot = other.hot
    hot.create(1, **full_core(gold="old"))

    def faster() -> None:
        hot.update(1, gold="new")
        assert other.backup_full_state(1).outcome == "saved"

    once(orchestrator.engine, "begin", faster)
    report = orchestrator.backup_full_state(1)
    assert (report.outcome, report.version) == ("stale", row(engine)["version"])
    assert row(engine)["extra"]["gold"] == "new"
    assert scalar(engine, "SELECT count(*) FROM state_conflicts") == 0
    assert not hot.status().settling, "no server went back"
    assert hot.sync_state(1) == (False, None, None, None)


def test_old_snapshot_is_fenced_by_the_row(
    orchestrator: Orchestrator, engine: Engine, full_core: FullCore
) -> None:
    hot = orchestrator.hot
    hot.create(1, **full_core(gold="old"))
    claim, _ = hot.claim(1, lease_us=60_000_000)
    old = hot.snapshot(claim)
    hot.update(1, gold="new")
    saved = orchestrator.backup_full_state(1)
    with database.transaction(engine) as connection:
        (outcome,) = groups.save(connection, [decode(1, old)], {})
    assert outcome.characters == {1: Unknown(saved.version or 0, row(engine)["seal"])}
    assert row(engine)["extra"]["gold"] == "new"


def test_superseded(orchestrator: Orchestrator, engine: Engine, full_core: FullCore) -> None:
    hot = orchestrator.hot
    hot.create(1, **full_core())
    old, _ = hot.claim(1, lease_us=60_000_000)
    new, _ = hot.claim(1, lease_us=60_000_000)
    assert outcomes(orchestrator.backup_claims([old])) == {1: "superseded"}
    assert scalar(engine, "SELECT count(*) FROM characters") == 0
    assert hot.sync_state(1).token == new.token
    assert outcomes(orchestrator.backup_claims([new])) == {1: "saved"}


def test_same_message_twice(orchestrator: Orchestrator, full_core: FullCore) -> None:
    orchestrator.hot.create(1, **full_core())
    claims = orchestrator.hot.claim_dirty(
        lease_us=60_000_000, max_in_flight=10, count=10, round_ms=60_000, whole=True
    ).claims
    assert outcomes(orchestrator.backup_claims(claims)) == {1: "saved"}
    assert outcomes(orchestrator.backup_claims(claims)) == {1: "superseded"}


def test_conflict(
    orchestrator: Orchestrator, engine: Engine, rewind: Rewind, full_core: FullCore
) -> None:
    """Redis goes back in time: what PostgreSQL holds is live again, what was played is recorded."""
    hot = orchestrator.hot
    hot.create(1, **full_core(gold="10"))
    orchestrator.backup_full_state(1)
    before = rewind.moment()
    hot.update(1, gold="20")
    saved = orchestrator.backup_full_state(1)
    rewind.to(before)
    for gold in range(11, 31):  # its number passes the row's
        hot.update(1, gold=str(gold))
    assert orchestrator.backup_full_state(1) == BackupReport(
        1, BackupOutcome.CONFLICT, version=saved.version
    )
    assert row(engine)["extra"]["gold"] == hot.get(1).fields["gold"] == "20"
    [(char_id, lost)] = lost_cores(engine)
    assert (char_id, lost["gold"]) == (1, "30")
    assert hot.sync_state(1) == (False, None, None, None)
    hot.update(1, gold="21")
    assert orchestrator.backup_full_state(1).outcome == "saved"


def test_quarantined(
    orchestrator: Orchestrator, engine: Engine, raw: Any, keys: Keys, full_core: FullCore
) -> None:
    hot = orchestrator.hot
    hot.create(1, **full_core())
    raw.hset(keys.core(1), "stats", "{broken")
    report = orchestrator.backup_full_state(1)
    assert (report.outcome, report.field) == ("quarantined", "stats")
    assert "not valid JSON" in (report.error or "")
    sync_state = hot.sync_state(1)
    assert (sync_state.dirty, sync_state.token) == (False, None)
    assert sync_state.quarantine is not None
    assert (sync_state.quarantine.field, sync_state.quarantine.attempts) == ("stats", 1)
    assert raw.hget(keys.core(1), "stats") == b"{broken"
    orchestrator.backup_full_state(1)
    again = hot.sync_state(1).quarantine
    assert again is not None
    assert again.attempts == 2
    hot.update(1, stats={"luck": 1})
    assert orchestrator.backup_full_state(1).outcome == "saved"
    assert hot.sync_state(1).quarantine is None
    assert row(engine)["version"] == hot.get(1).version


def test_missing_is_loud_where_changes_are_lost(
    orchestrator: Orchestrator,
    raw: Any,
    keys: Keys,
    full_core: FullCore,
    caplog: pytest.LogCaptureFixture,
) -> None:
    orchestrator.hot.create(1, **full_core())
    raw.delete(keys.core(1))
    with caplog.at_level(logging.ERROR):
        (report,) = sweep_once(orchestrator)
    assert report.outcome == "missing"
    assert "changes were lost" in (report.error or "")
    assert "changes were lost" in caplog.text
    assert orchestrator.hot.sync_state(1).quarantine is not None


def test_missing_is_quiet_where_nothing_was_dirty(
    orchestrator: Orchestrator, caplog: pytest.LogCaptureFixture
) -> None:
    report = orchestrator.backup_full_state(1)
    assert report.outcome == "missing"
    assert caplog.text == ""
    assert orchestrator.hot.sync_state(1) == (False, None, None, None)


def test_deleted(orchestrator: Orchestrator, engine: Engine, full_core: FullCore) -> None:
    hot = orchestrator.hot
    hot.create(1, **full_core(gold="1"))
    orchestrator.backup_full_state(1)
    hot.note_deletion(1)
    scalar(engine, "UPDATE characters SET deleted_at = now() RETURNING 1")
    hot.update(1, gold="2")
    assert orchestrator.backup_full_state(1).outcome == "deleted"
    assert row(engine)["extra"]["gold"] == "1"
    sync_state = hot.sync_state(1)
    assert (sync_state.dirty, sync_state.token) == (False, None)
    assert sync_state.quarantine is not None


@pytest.mark.parametrize("bad", [0, -1, 2**63, True, "42; DROP", [1]])
def test_no_id_is_refused_before_anything_is_done(orchestrator: Orchestrator, bad: Any) -> None:
    with pytest.raises(InvalidCharId):
        orchestrator.backup_many([1, bad])
    assert orchestrator.hot.status().claimed == 0


def test_lost_field_comes_back_from_the_row(
    orchestrator: Orchestrator, engine: Engine, raw: Any, keys: Keys, full_core: FullCore
) -> None:
    hot = orchestrator.hot
    hot.create(1, **full_core())
    orchestrator.backup_full_state(1)
    raw.hdel(keys.core(1), "stats", "vitals")
    hot.update(1, gold="5")
    assert orchestrator.backup_full_state(1).outcome == "saved"
    assert hot.get(1).core() == full_core(gold="5")
    assert row(engine)["extra"]["gold"] == "5"


# A failing character never holds up another


BROKEN: dict[str, Any] = {
    "broken JSON": {"bio": b"{"},
    "NaN": {"vitals": b'{"hp":{"cur":NaN,"max":1}}'},
    "lone surrogate": {"bio": b'{"name":"\\ud800"}'},
    "NUL": {"bio": b'{"name":"\\u0000"}'},
    "NUL in a field": {"note": b"\0"},
    "deeply nested": {"bio": b'{"a":' + b"[" * 100_000},
    "large": {"bio": b'{"name":"' + b"x" * 50_000_000 + b'"}'},
    "no hash": None,
}


@pytest.mark.parametrize("session_type", BROKEN)
def test_one_broken_of_thirty(
    orchestrator: Orchestrator, raw: Any, keys: Keys, full_core: FullCore, session_type: str
) -> None:
    for char_id in range(1, 31):
        orchestrator.hot.create(char_id, **full_core(char_id))
    if BROKEN[session_type] is None:
        raw.delete(keys.core(13))
        raw.set(keys.core(13), "x")
    else:
        raw.hset(keys.core(13), mapping=BROKEN[session_type])
    found = outcomes(sweep_once(orchestrator))
    assert found.pop(13) == "quarantined"
    assert found == {char_id: "saved" for char_id in range(1, 31) if char_id != 13}
    entry = orchestrator.hot.sync_state(13).quarantine
    assert entry is not None
    assert BROKEN[session_type] is None or (entry.field or "").startswith(
        next(iter(BROKEN[session_type]))
    )
    for name, value in (BROKEN[session_type] or {}).items():
        assert raw.hget(keys.core(13), name) == value
    raw.delete(keys.core(13))


def test_culprit_that_only_postgresql_refuses_is_found(
    orchestrator: Orchestrator, engine: Engine, full_core: FullCore
) -> None:
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE characters ADD CHECK (name <> 'Hero 7')"))
    for char_id in range(1, 31):
        orchestrator.hot.create(char_id, **full_core(char_id))
    found = outcomes(sweep_once(orchestrator))
    assert found.pop(7) == "quarantined"
    assert set(found.values()) == {"saved"}
    assert scalar(engine, "SELECT count(*) FROM characters") == 29
    entry = orchestrator.hot.sync_state(7).quarantine
    assert entry is not None
    assert "check constraint" in entry.error


def test_locked_row_does_not_hold_up_the_others(
    orchestrator: Orchestrator, engine: Engine, full_core: FullCore
) -> None:
    def hurry(connection: Any, _: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '50ms'")
        connection.commit()

    event.listen(orchestrator.engine, "connect", hurry)
    hot = orchestrator.hot
    for char_id in range(1, 9):
        hot.create(char_id, **full_core(char_id))
    sweep_once(orchestrator)
    for char_id in range(1, 9):
        hot.update(char_id, gold="1")
    with engine.begin() as connection:
        connection.execute(text("SELECT 1 FROM characters WHERE id = 5 FOR UPDATE"))
        found = outcomes(sweep_once(orchestrator))
    assert found.pop(5) == "released"
    assert set(found.values()) == {"saved"}
    assert hot.sync_state(5).dirty
    assert outcomes(sweep_once(orchestrator)) == {5: "saved"}


# Evict


def test_evict_saves_first(orchestrator: Orchestrator, engine: Engine, full_core: FullCore) -> None:
    hot = orchestrator.hot
    hot.create(1, **full_core(gold="1"))
    assert hot.evict(1) is False
    report = orchestrator.evict(1)
    assert report is not None
    assert report.outcome == "saved"
    assert row(engine)["extra"]["gold"] == "1"
    with pytest.raises(CharacterNotLoaded):
        hot.get(1)
    assert hot.status()[:4] == (0, 0, 0, 0)
    assert orchestrator.evict(1) is None


def test_evict_refuses_what_never_stops_changing(
    orchestrator: Orchestrator, full_core: FullCore
) -> None:
    hot = orchestrator.hot
    hot.create(1, **full_core())
    count = iter(range(1000))

    def change(_: object) -> None:
        hot.update(1, gold=next(count))

    event.listen(orchestrator.engine, "commit", change)
    with pytest.raises(CharacterNotSaved):
        orchestrator.evict(1)
    assert hot.peek(1) is not None
    assert hot.sync_state(1).dirty


def test_evict_refuses_what_cannot_be_saved(
    orchestrator: Orchestrator, raw: Any, keys: Keys, full_core: FullCore
) -> None:
    orchestrator.hot.create(1, **full_core())
    raw.hset(keys.core(1), "bio", "{")
    with pytest.raises(CharacterNotSaved):
        orchestrator.evict(1)
    assert raw.hget(keys.core(1), "bio") == b"{"


# Servers away


def test_database_away_keeps_the_marks_and_the_secret(
    unreachable: Settings, full_core: FullCore
) -> None:
    worker = GameStateOrchestrator.from_settings(unreachable)
    with worker.hot as hot:
        for char_id in (1, 2):
            hot.create(char_id, **full_core(char_id))
        with pytest.raises(DatabaseUnavailable) as caught:
            sweep_once(worker)
        assert "hunter2" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert (hot.status().dirty, hot.status().claimed) == (2, 0)
        with pytest.raises(DatabaseUnavailable):
            worker.restore_full_state(3)
        with pytest.raises(DatabaseUnavailable):
            database.ping(worker.engine)
        with pytest.raises(DatabaseUnavailable):
            worker.evict(1)
        assert hot.get(1).core() == full_core(1)
