"""Saves that end without an answer: the seals of a core are bounded, and nothing is lost by it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, event

from statesync.durable import database
from statesync.errors import DatabaseUnavailable
from statesync.hot.keys import Keys
from statesync.hot.store import HotStore
from statesync.lifecycle import groups
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.lifecycle.snapshots import Snapshot, decode
from statesync.settings import Settings
from statesync.state.seals import FULL_BYTES
from tests.conftest import FullCore
from tests.integration.lifecycle.test_backup import row, scalar
from tests.rewind import recorded

LEASE = 60_000_000
PARTY = [1, 2]


def in_doubt(hot: HotStore, char_id: int = 1) -> list[Snapshot]:
    """Take snapshots, of which nobody hears again, until there is no room for another seal."""
    taken = []
    while len(hot.run(hot.commands.read_seals([str(char_id)]))[str(char_id)].words or ()) < 40:
        claim, _ = hot.claim(char_id, lease_us=LEASE)
        try:
            taken.append(decode(char_id, hot.snapshot(claim, lease_us=LEASE)))
        except AssertionError:  # full
            break
    return taken


def entry(raw: Any, keys: Keys, member: object = 1) -> list[str]:
    return (raw.hget(keys.seals, str(member)) or b"").decode().split()


@pytest.fixture
def saved(orchestrator: GameStateOrchestrator, full_core: FullCore) -> HotStore:
    for char_id in PARTY:
        orchestrator.hot.create(char_id, **full_core(char_id, gold="0"))
    orchestrator.backup_many(PARTY)
    return orchestrator.hot


@pytest.mark.parametrize("which", [0, -1])
def test_commit_that_comes_after_the_cut_is_refused(
    orchestrator: GameStateOrchestrator,
    saved: HotStore,
    engine: Engine,
    raw: Any,
    keys: Keys,
    which: int,
) -> None:
    taken = in_doubt(saved)
    assert len(" ".join(entry(raw, keys))) > FULL_BYTES
    saved.update(1, gold="1")
    assert orchestrator.backup_full_state(1).outcome == "saved"
    assert entry(raw, keys) == [str(row(engine)["seal"])]
    with database.transaction(engine) as connection:
        [result] = groups.save(connection, [taken[which]], {})
    assert not result.saved
    assert row(engine)["extra"]["gold"] == "1"
    assert recorded(engine) == []


@pytest.mark.parametrize("which", [0, 5, -1])
def test_commit_that_came_before_the_cut_is_known(
    orchestrator: GameStateOrchestrator,
    saved: HotStore,
    engine: Engine,
    raw: Any,
    keys: Keys,
    which: int,
) -> None:
    saved.update(1, gold="1")
    taken = in_doubt(saved)
    with database.transaction(engine) as connection:
        groups.save(connection, [taken[which]], {})
    saved.update(1, gold="2")
    assert orchestrator.backup_full_state(1).outcome == "saved"
    assert row(engine)["extra"]["gold"] == "2"
    assert entry(raw, keys) == [str(row(engine)["seal"])]
    assert recorded(engine) == []


def test_new_character_is_quarantined_and_kept(
    orchestrator: GameStateOrchestrator, hot: HotStore, engine: Engine, full_core: FullCore
) -> None:
    """The insert of its row may still come, and nothing can refuse it."""
    hot.create(1, **full_core())
    in_doubt(hot)
    report = orchestrator.backup_full_state(1)
    assert report.outcome == "quarantined"
    assert "without an answer" in (report.error or "")
    assert scalar(engine, "SELECT count(*) FROM characters") == 0
    assert hot.get(1).core() == full_core()


def test_whole_group_gets_room(
    orchestrator: GameStateOrchestrator,
    saved: HotStore,
    engine: Engine,
    raw: Any,
    keys: Keys,
) -> None:
    fight: UUID = saved.open_session("combat", PARTY, {"round": "1"})
    orchestrator.backup_many(PARTY)
    in_doubt(saved)
    saved.update_session("combat", fight, {"round": "2"})
    assert {r.outcome for r in orchestrator.backup_many(PARTY)} == {"saved"}
    assert scalar(engine, "SELECT payload->>'round' FROM sessions") == "2"
    assert [len(entry(raw, keys, member)) for member in (*PARTY, fight)] == [1, 1, 2]
    assert recorded(engine) == []
    assert saved.status()[:3] == (0, 0, 0)


@pytest.mark.parametrize("is_new", [True, False])
def test_outage_before_the_commit_leaves_no_seal(
    orchestrator: GameStateOrchestrator,
    settings: Settings,
    saved: HotStore,
    full_core: FullCore,
    raw: Any,
    keys: Keys,
    is_new: bool,
) -> None:
    """PostgreSQL was not reached, so nothing is in doubt, however often that is tried."""
    char_id = 9 if is_new else 1
    if is_new:
        saved.create(9, **full_core(9))
    before = entry(raw, keys, char_id)
    nowhere = "postgresql+psycopg2://bob@/x?host=/nowhere"
    with GameStateOrchestrator.from_settings(replace(settings, database_url=nowhere)) as away:
        for _ in range(3):
            saved.update(char_id, gold="5")
            with pytest.raises(DatabaseUnavailable):
                away.backup_full_state(char_id)
    assert entry(raw, keys, char_id) == before
    assert orchestrator.backup_full_state(char_id).outcome == "saved"


@pytest.mark.parametrize("is_new", [True, False])
def test_commit_without_an_answer_keeps_its_seal(
    orchestrator: GameStateOrchestrator,
    saved: HotStore,
    full_core: FullCore,
    engine: Engine,
    raw: Any,
    keys: Keys,
    is_new: bool,
) -> None:
    """It may still be made: then Redis has to know the row."""
    char_id = 9 if is_new else 1
    if is_new:
        saved.create(9, **full_core(9))
    saved.update(char_id, gold="5")
    before = entry(raw, keys, char_id)

    def ends(connection: Any) -> None:
        connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")

    event.listen(orchestrator.engine, "commit", ends, once=True)
    with pytest.raises(DatabaseUnavailable):
        orchestrator.backup_full_state(char_id)
    assert len(entry(raw, keys, char_id)) == len(before) + 1
    assert orchestrator.backup_full_state(char_id).outcome == "saved"
    assert recorded(engine) == []


@pytest.mark.parametrize("way", ["plain", "groups"])
@pytest.mark.parametrize("junk", ["x" * 700, "1" * 700, "1" * 5000, "é" * 400, "81" + " " * 700])
def test_entry_that_others_have_filled_holds_up_nobody(
    orchestrator: GameStateOrchestrator,
    saved: HotStore,
    raw: Any,
    keys: Keys,
    request: pytest.FixtureRequest,
    junk: str,
    way: str,
) -> None:
    if way == "groups":
        request.getfixturevalue("all_as_groups")
    raw.hset(keys.seals, 1, junk)
    for char_id in PARTY:
        saved.update(char_id, gold="5")
    reports = orchestrator.backup_many(PARTY)
    assert [r.outcome for r in reports] == ["quarantined", "saved"]
    assert "statesync:seals" in (reports[0].error or "")


@pytest.mark.parametrize("junk", ["9" * 19, "²", "v²", " ", ""])
def test_word_that_is_no_seal_is_none(
    orchestrator: GameStateOrchestrator,
    saved: HotStore,
    engine: Engine,
    raw: Any,
    keys: Keys,
    junk: str,
) -> None:
    known = raw.hget(keys.seals, 1).decode()
    raw.hset(keys.seals, 1, f"{known} {junk}")
    for char_id in PARTY:
        saved.update(char_id, gold="5")
    assert [r.outcome for r in orchestrator.backup_many(PARTY)] == ["saved"] * 2
    assert recorded(engine) == []
    assert entry(raw, keys)[-1] == str(row(engine)["seal"])
