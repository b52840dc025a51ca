"""PgBouncer in transaction mode: nothing relies on a session, and the time limits hold."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import Engine, create_engine, make_url

from statesync import Settings
from statesync.durable import database
from statesync.durable.database import Rejected
from statesync.durable.limits import different_limits
from statesync.embedded.servers import Servers
from statesync.errors import DatabaseForbidden
from tests.acceptance.whole_life import live_whole_life
from tests.pgbouncer import PgBouncer, pgbouncer

pytestmark = pytest.mark.usefixtures("stack")


@pytest.fixture(scope="module", params=["", "options"], ids=["strict", "ignores-options"])
def pooler(request: pytest.FixtureRequest, embedded: Servers) -> Iterator[PgBouncer]:
    """Run PgBouncer as it comes, and told to drop start-up options."""
    with pgbouncer(embedded.sockets, ignored=request.param) as running:
        yield running


@pytest.fixture
def pooled(pooler: PgBouncer, settings: Settings) -> Settings:
    """The test's settings, through PgBouncer."""
    name = str(make_url(settings.database_url).database)
    return replace(settings, database_url=pooler.url(name))


@pytest.mark.slow
@pytest.mark.parametrize("pooler", [""], ids=["strict"], indirect=True)
def test_the_whole_life_of_characters(pooled: Settings, embedded: Servers) -> None:
    live_whole_life(embedded, pooled)


def test_every_transaction_has_the_limits_and_leaves_none_to_others(pooled: Settings) -> None:
    engine = database.connect(pooled)

    def look(alone: bool) -> list[str]:
        run = database.statement if alone else database.transaction
        with run(engine) as connection:
            return different_limits(connection, pooled)

    with ThreadPoolExecutor(8) as threads:  # more than PgBouncer has connections
        assert not any(threads.map(look, [True, False] * 50))
    engine.dispose()
    foreign = create_engine(pooled.database_url)
    with foreign.connect() as connection:
        found = different_limits(connection, pooled)
    assert found[:3] == [
        "statement_timeout is 0, not 2min",
        "lock_timeout is 0, not 5s",
        "idle_in_transaction_session_timeout is 0, not 15s",
    ]
    foreign.dispose()


@pytest.mark.parametrize("alone", [True, False])
def test_a_locked_row_is_waited_for_no_longer(
    pooled: Settings, engine: Engine, alone: bool
) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO characters (id, version) VALUES (1, 1)")
    own = database.connect(
        replace(pooled, database_url=f"{pooled.database_url}&options=-c lock_timeout=50ms")
    )
    run = database.statement if alone else database.transaction
    lock = "SELECT 1 FROM characters FOR UPDATE"
    with engine.begin() as holder:
        holder.exec_driver_sql(lock)
        with pytest.raises(Rejected, match="lock timeout") as refused, run(own) as connection:
            connection.exec_driver_sql(lock)
    assert refused.value.locked
    own.dispose()


def test_a_refused_login_is_no_outage(settings: Settings, embedded: Servers) -> None:
    with pgbouncer(embedded.sockets, databases="other") as other:
        for user, says in (("nobody_here", "authentication failed"), ("postgres", "no such")):
            url = other.url("game", user)
            own = database.connect(replace(settings, database_url=url))
            with pytest.raises(DatabaseForbidden, match=says):
                database.ping(own)
            own.dispose()
