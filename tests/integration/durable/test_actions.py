"""The record of what operators did: begun before, finished after, read a page at a time."""

from __future__ import annotations

from sqlalchemy import Engine

from statesync.durable import actions, database


def begin(engine: Engine, target: str) -> int:
    with database.transaction(engine) as connection:
        return actions.begin(connection, who="olga", what="retry", realm="eu", target=target)


def test_an_action_is_on_record_before_it_has_an_outcome(engine: Engine) -> None:
    action_id = begin(engine, "42")
    with database.transaction(engine) as connection:
        (begun,) = actions.page(connection, limit=10)
    assert begun[2:] == ("olga", "retry", "eu", "42", None)
    assert begun.at.tzinfo is not None
    with database.transaction(engine) as connection:
        actions.finish(connection, action_id, "done")
        assert actions.page(connection, limit=10) == [begun._replace(outcome="done")]


def test_other_actions_keep_their_outcome(engine: Engine) -> None:
    first, second = begin(engine, "1"), begin(engine, "2")
    with database.transaction(engine) as connection:
        actions.finish(connection, second, "done")
        found = {one.id: one.outcome for one in actions.page(connection, limit=10)}
    assert found == {first: None, second: "done"}


def test_pages_are_the_newest_first(engine: Engine) -> None:
    ids = [begin(engine, str(number)) for number in range(5)]
    with database.transaction(engine) as connection:
        first = actions.page(connection, limit=2)
        rest = actions.page(connection, before=first[-1].id, limit=10)
    assert [one.id for one in first + rest] == sorted(ids, reverse=True)


def test_a_target_that_is_no_text_is_escaped(engine: Engine) -> None:
    begin(engine, "a\0b\ud800")
    with database.transaction(engine) as connection:
        (found,) = actions.page(connection, limit=10)
    assert found.target == "a\\x00b\\ud800"
