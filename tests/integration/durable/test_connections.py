"""A connection to PostgreSQL: its limits, its transactions, and what becomes of its errors."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from sqlalchemy import Engine, func, literal, select, text
from sqlalchemy.exc import DBAPIError

from statesync import Settings
from statesync.durable import database
from statesync.durable.database import Rejected
from statesync.errors import DatabaseUnavailable


def fail(engine: Engine, code: str) -> None:
    """Have PostgreSQL refuse something with an error code."""
    with database.transaction(engine) as connection:
        connection.exec_driver_sql(
            f"DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{code}'; END $$"
        )


@pytest.mark.parametrize(
    ("code", "locked"),
    [("55P03", True), ("40P01", True), ("22001", False), ("23505", False), ("54000", False)],
)
def test_locks_and_data_are_told_from_trouble(engine: Engine, code: str, locked: bool) -> None:
    with pytest.raises(Rejected, match="no") as refused:
        fail(engine, code)
    assert refused.value.locked is locked


@pytest.mark.parametrize("code", ["53100", "57P01", "58030", "XX000"])
def test_trouble_is_no_ones_data(engine: Engine, code: str) -> None:
    with pytest.raises(DatabaseUnavailable):
        fail(engine, code)


def test_connection_that_takes_no_writes_is_left(engine: Engine) -> None:
    """It stays so, even if the server's default is another one by now."""
    with engine.connect() as connection:
        connection.exec_driver_sql("SET default_transaction_read_only = on")
        connection.commit()
    for takes_writes in (False, True):
        with contextlib.ExitStack() as refused:
            if not takes_writes:
                refused.enter_context(pytest.raises(DatabaseUnavailable, match="read-only"))
            with database.transaction(engine) as connection:
                connection.exec_driver_sql("INSERT INTO characters (id, version) VALUES (1, 1)")


def test_statement_alone_leaves_later_transactions_whole(engine: Engine) -> None:
    with database.statement(engine) as connection:
        first = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    with pytest.raises(Rejected), database.transaction(engine) as connection:
        assert connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one() == first
        connection.exec_driver_sql("INSERT INTO characters (id, version) VALUES (1, 1)")
        connection.exec_driver_sql("SELECT 1 / 0")
    with database.transaction(engine) as connection:
        assert not connection.exec_driver_sql("SELECT 1 FROM characters").all()


@pytest.mark.parametrize("alone", [True, False])
def test_fetch_fails_as_any_statement_does(engine: Engine, alone: bool) -> None:
    run = database.statement if alone else database.transaction
    with pytest.raises(Rejected, match="division by zero"), run(engine) as connection:
        database.fetch(connection, select(literal(1) / 0), {})
    with engine.begin() as connection, pytest.raises(DatabaseUnavailable), run(engine) as other:
        ((pid,),) = database.fetch(other, select(func.pg_backend_pid()), {})
        connection.exec_driver_sql(f"SELECT pg_terminate_backend({pid}, 5000)")
        database.fetch(other, select(literal(1)), {})
    with run(engine) as connection:
        assert database.fetch(connection, select(literal(1)), {}) == [(1,)]


def test_nothing_lasts_longer_than_the_limits(engine: Engine, settings: Settings) -> None:
    limits = {
        "statement_timeout": settings.lease_seconds,
        "lock_timeout": 5,
        "idle_in_transaction_session_timeout": 15,
    }
    with database.transaction(engine) as connection:
        for name, seconds in limits.items():
            query = "SELECT setting::int FROM pg_settings WHERE name = :name"
            assert connection.execute(text(query), {"name": name}).scalar_one() == 1000 * seconds


def test_what_players_wrote_stands_in_no_error(engine: Engine) -> None:
    with engine.connect() as connection, pytest.raises(DBAPIError) as error:
        connection.execute(text("SELECT 1 / length(:name)"), {"name": ""})
    assert "hidden" in str(error.value)


def test_wait_goes_on_after_one_within_it() -> None:
    with database._waiting(30) as outer:
        with database._waiting(1) as inner:
            assert database._current.wait is inner
        assert database._current.wait is outer
    assert database._current.wait is None


def test_the_url_may_say_how_to_connect(settings: Settings) -> None:
    more = "&options=-csearch_path%3Dgm,%5C%20odd%25&application_name=ours&connect_timeout=3"
    engine = database.connect(replace(settings, database_url=settings.database_url + more))
    query = "SELECT current_setting('search_path'), current_setting('application_name')"
    limits = "SELECT current_setting('lock_timeout'), current_setting('timezone')"
    with database.transaction(engine) as connection:
        assert connection.exec_driver_sql(query).one() == ('gm, "odd%"', "ours")
        assert connection.exec_driver_sql(limits).one() == ("5s", "UTC")
    engine.dispose()


def test_an_error_of_code_that_is_not_ours_is_one_printable_line(engine: Engine) -> None:
    with (
        pytest.raises(Rejected) as refused,
        database.transaction(engine) as connection,
        database.work_of("it fails", connection),
    ):
        raise ValueError("\x1b[2Jgone\nmore")
    assert str(refused.value) == "it fails: ValueError: \\x1b[2Jgone"
