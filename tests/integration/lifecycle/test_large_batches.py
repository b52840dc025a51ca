"""A batch is bounded by bytes, and what PostgreSQL cannot take is its character's alone."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from sqlalchemy import Engine, event, text

from statesync.durable import database
from statesync.errors import DatabaseUnavailable
from statesync.hot.keys import Keys
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from tests.conftest import FullCore
from tests.integration.lifecycle.test_backup import outcomes, scalar, sweep_once
from tests.integration.sessions.stores import wipe

Orchestrator = GameStateOrchestrator

MIB = 1024 * 1024
INNOCENT = 161


@pytest.fixture
def in_transaction(orchestrator: Orchestrator) -> list[int]:
    """How many bytes of new rows each transaction carries, as JSON."""
    sizes = [0]
    event.listen(orchestrator.engine, "commit", lambda _: sizes.append(0))

    def note(*args: Any) -> None:
        statement, parameters = args[2], args[3]
        if "INSERT INTO characters" in statement:
            sizes[-1] += sum(len(str(value)) for value in parameters.values())

    event.listen(orchestrator.engine, "before_cursor_execute", note)
    return sizes


def test_hundreds_of_mib_in_one_batch_are_saved_in_little_memory(
    orchestrator: Orchestrator, engine: Engine, full_core: FullCore
) -> None:
    story = '"' * (MIB - 2000)  # in SQL it takes several times as much
    for char_id in range(1, INNOCENT):
        orchestrator.hot.create(char_id, **full_core(char_id, story=story))
    orchestrator.hot.create(INNOCENT, **full_core(INNOCENT))
    tracemalloc.start()
    try:
        found = outcomes(sweep_once(orchestrator))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert set(found.values()) == {"saved"}
    assert scalar(engine, "SELECT count(*) FROM characters") == INNOCENT
    assert peak < 200 * MIB


def test_transaction_is_bounded_by_bytes(
    orchestrator: Orchestrator, full_core: FullCore, in_transaction: list[int]
) -> None:
    for char_id in range(1, 481):
        orchestrator.hot.create(char_id, **full_core(char_id, story="x" * 100_000))
    assert set(outcomes(sweep_once(orchestrator)).values()) == {"saved"}
    assert 4 * MIB < max(in_transaction) < 9 * MIB


CLOSES_THE_CONNECTION = """
CREATE FUNCTION close_on_seven() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.name = 'Hero 7' THEN
    PERFORM pg_terminate_backend(pg_backend_pid());
    PERFORM pg_sleep(5);
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER close_on_seven BEFORE INSERT ON characters
  FOR EACH ROW EXECUTE FUNCTION close_on_seven();
"""


def test_one_that_postgresql_closes_the_connection_on_starves_no_other(
    orchestrator: Orchestrator, engine: Engine, full_core: FullCore
) -> None:
    with engine.begin() as connection:
        connection.execute(text(CLOSES_THE_CONNECTION))
    for char_id in range(1, 21):
        orchestrator.hot.create(char_id, **full_core(char_id))
    found = outcomes(sweep_once(orchestrator))
    assert found.pop(7) == "quarantined"
    assert set(found.values()) == {"saved"}
    entry = orchestrator.hot.sync_state(7).quarantine
    assert entry is not None
    assert "closes the connection" in entry.error
    assert orchestrator.hot.status().claimed == 0


def end_other_connections(engine: Engine) -> None:
    scalar(
        engine,
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )


def test_connection_that_is_lost_once_costs_one_more_try(
    orchestrator: Orchestrator, engine: Engine, full_core: FullCore
) -> None:
    orchestrator.hot.create(1, **full_core(1))
    with database.transaction(orchestrator.engine):
        pass  # the first transaction looks whose tables these are
    event.listen(orchestrator.engine, "begin", lambda _: end_other_connections(engine), once=True)
    assert orchestrator.backup_full_state(1).outcome == "saved"
    assert orchestrator.hot.sync_state(1) == (False, None, None, None)


def test_outage_during_a_save_is_no_characters_fault(
    orchestrator: Orchestrator,
    engine: Engine,
    full_core: FullCore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for char_id in range(1, 9):
        orchestrator.hot.create(char_id, **full_core(char_id))

    def away(*_: Any) -> None:
        end_other_connections(engine)

        def refuse(*_: Any) -> None:
            raise DatabaseUnavailable("PostgreSQL is away")

        monkeypatch.setattr("statesync.durable.database.ping", refuse)

    event.listen(orchestrator.engine, "begin", away, once=True)
    with pytest.raises(DatabaseUnavailable):
        sweep_once(orchestrator)
    monkeypatch.undo()
    assert orchestrator.hot.status()[:4] == (8, 0, 0, 0)
    assert set(outcomes(sweep_once(orchestrator)).values()) == {"saved"}


def bytes_of_answers(engine: Engine, table: str) -> list[int]:
    """Return, as they come, how many bytes of rows each statement on a table answers."""
    answers: list[int] = []

    @event.listens_for(engine, "after_cursor_execute")
    def measure(_: Any, cursor: Any, statement: str, *__: Any) -> None:
        if f"FROM {table}" in statement and cursor.description:
            answers.append(sum(len(str(row)) for row in cursor.fetchall()))
            if cursor.rowcount:
                cursor.scroll(0, mode="absolute")

    return answers


@pytest.mark.parametrize("where", ["characters", "sessions"])
def test_restore_reads_some_mib_at_once(
    orchestrator: Orchestrator, raw: Any, keys: Keys, where: str
) -> None:
    """Twenty of 0.9 MB each; PostgreSQL stores what is so uniform in a hundredth of it."""
    crowd, large = range(1, 21), "x" * 900_000
    for char_id in crowd:
        orchestrator.hot.create(char_id, state="exploration")
        if where == "characters":
            orchestrator.hot.update(char_id, blob=large)
        else:
            orchestrator.hot.open_session("combat", [char_id], {"blob": large})
    orchestrator.backup_many(crowd)
    wipe(raw, keys)
    answers = bytes_of_answers(orchestrator.engine, where)
    done: list[int] = []
    reports = orchestrator.restore_many([*crowd, 99], progress=done.append)
    assert [r.outcome for r in reports] == ["restored"] * 20 + ["not_found"]
    assert sum(answers) > 20 * 900_000
    assert max(answers) < 10 * MIB
    assert done[-1] == 21
