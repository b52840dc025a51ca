"""What a game adds to our tables (a unique name, a trigger) refuses its culprit alone."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, text

from statesync import GameStateOrchestrator
from tests.conftest import FullCore
from tests.integration.sessions.stores import rows

SAVED = "SELECT id FROM characters ORDER BY id"
UNIQUE_NAME = "CREATE UNIQUE INDEX one_name ON characters (name)"
KEEPS_OUT = """
CREATE FUNCTION keep_out() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RETURN NULL; END $$;
CREATE TRIGGER keep_out BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW
WHEN ({condition}) EXECUTE FUNCTION keep_out()
"""


def prepare(engine: Engine, sql: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(sql))


def test_name_that_is_taken(
    orchestrator: GameStateOrchestrator, engine: Engine, full_core: FullCore
) -> None:
    prepare(engine, UNIQUE_NAME)
    for char_id in range(1, 8):
        called = "Ann" if char_id in (2, 3) else f"Hero {char_id}"
        orchestrator.hot.create(char_id, **full_core(char_id, bio={"name": called}))
    reports = {r.char_id: r for r in orchestrator.backup_many(range(1, 8))}
    assert reports.pop(3).outcome == "quarantined"
    assert {r.outcome for r in reports.values()} == {"saved"}
    entry = orchestrator.hot.sync_state(3).quarantine
    assert entry is not None
    assert "one_name" in entry.error
    orchestrator.hot.update(4, bio={"name": "Ann"})
    orchestrator.hot.update(5, gold=1)
    assert [r.outcome for r in orchestrator.backup_many([4, 5])] == ["quarantined", "saved"]
    orchestrator.hot.update(3, bio={"name": "Eve"})
    assert orchestrator.backup_full_state(3).outcome == "saved"


def test_unique_field_of_a_session(
    orchestrator: GameStateOrchestrator, engine: Engine, full_core: FullCore
) -> None:
    prepare(engine, "CREATE UNIQUE INDEX one_arena ON sessions ((payload->>'arena'))")
    for char_id in (1, 2, 3):
        orchestrator.hot.create(char_id, **full_core(char_id))
        arena = "pit" if char_id > 1 else "hall"
        orchestrator.hot.open_session("combat", [char_id], {"arena": arena})
    reports = [r.outcome for r in orchestrator.backup_many([1, 2, 3])]
    assert reports == ["saved", "saved", "quarantined"]
    assert rows(engine, SAVED) == [(1,), (2,)]


@pytest.mark.parametrize(
    ("table", "condition"),
    [
        ("characters", "NEW.id = 2"),
        ("sessions", "NEW.payload->>'arena' = '2'"),
    ],
)
def test_trigger_that_keeps_a_row_out(
    orchestrator: GameStateOrchestrator,
    engine: Engine,
    full_core: FullCore,
    table: str,
    condition: str,
) -> None:
    prepare(engine, KEEPS_OUT.format(table=table, condition=condition))
    for char_id in (1, 2, 3):
        orchestrator.hot.create(char_id, **full_core(char_id))
        orchestrator.hot.open_session("combat", [char_id], {"arena": str(char_id)})
    reports = orchestrator.backup_many([1, 2, 3])
    assert [r.outcome for r in reports] == ["saved", "quarantined", "saved"]
    assert "has it a trigger or a rule?" in (reports[1].error or "")


def test_trigger_that_keeps_a_row_as_it_is(
    orchestrator: GameStateOrchestrator, engine: Engine, full_core: FullCore
) -> None:
    for char_id in (1, 2):
        orchestrator.hot.create(char_id, **full_core(char_id))
    orchestrator.backup_many([1, 2])
    prepare(engine, KEEPS_OUT.format(table="characters", condition="NEW.id = 2"))
    for char_id in (1, 2):
        orchestrator.hot.update(char_id, gold=1)
    reports = [r.outcome for r in orchestrator.backup_many([1, 2])]
    assert reports == ["saved", "quarantined"]
