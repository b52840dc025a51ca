"""Migrations lead to the models, up, down and up again."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, event, inspect

from statesync.durable import database, migrate
from statesync.durable.tables import metadata
from statesync.embedded.servers import Servers
from statesync.errors import DatabaseUnavailable, NotMigrated
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.settings import Settings

if TYPE_CHECKING:
    from tests.conftest import NewDatabase


@pytest.fixture
def empty(embedded: Servers, new_database: NewDatabase) -> Iterator[Engine]:
    """A database without tables."""
    url = embedded.database_url(new_database(empty=True))
    made = database.connect(embedded.settings(database_url=url))
    yield made
    made.dispose()


def tables(engine: Engine) -> set[str]:
    return set(inspect(engine).get_table_names())


def test_up_down_up(empty: Engine) -> None:
    assert migrate.revision(empty) is None
    assert migrate.upgrade(empty) == migrate.head()
    assert tables(empty) == {*metadata.tables, "alembic_version"}
    assert migrate.upgrade(empty) == migrate.head(), "run twice, there is nothing left to do"
    migrate.downgrade(empty, "base")
    assert tables(empty) == {"alembic_version"}
    assert migrate.upgrade(empty) == migrate.head()
    assert tables(empty) == {*metadata.tables, "alembic_version"}


def test_migrations_lead_to_the_models(engine: Engine) -> None:
    with engine.connect() as connection:
        options = {"compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []


MIGRATE = """
from statesync.durable import database, migrate
from statesync.settings import Settings

print(migrate.upgrade(database.connect(Settings.from_env())))
"""


def test_two_may_migrate_at_once(empty: Engine, embedded: Servers) -> None:
    own = embedded.settings(database_url=embedded.database_url(str(empty.url.database)))
    started = [
        subprocess.Popen(
            [sys.executable, "-c", MIGRATE],
            env=dict(os.environ) | own.to_env(),
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    printed = [process.communicate()[0].strip() for process in started]
    assert printed == [migrate.head()] * 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_second_waits_for_as_long_as_the_first_takes(empty: Engine, engine: Engine) -> None:
    def hurry(connection: Any, _: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '50ms'")
        connection.commit()

    event.listen(empty, "connect", hurry)
    reached: list[str | None] = []
    second = threading.Thread(target=lambda: reached.append(migrate.upgrade(empty)))
    with empty.connect() as first:
        first.exec_driver_sql("SELECT pg_advisory_xact_lock(7391846512)")
        second.start()
        second.join(0.5)
        first.rollback()
    second.join()
    assert reached == [migrate.head()]


def test_empty_database_says_what_to_do(
    empty: Engine, settings: Settings, embedded: Servers
) -> None:
    url = embedded.database_url(str(empty.url.database))
    worker = GameStateOrchestrator.from_settings(
        Settings(redis_url=settings.redis_url, database_url=url, key_prefix=settings.key_prefix)
    )
    worker.hot.create(1, gold=1)
    with pytest.raises(NotMigrated, match="run `statesync migrate`"):
        worker.backup_full_state(1)
    with pytest.raises(NotMigrated):
        worker.restore_full_state(2)
    status = worker.hot.status()
    assert status.dirty + status.claimed == 1, "nothing is lost"
    assert status.quarantined == 0
    worker.close()


def test_database_away(unreachable: Settings) -> None:
    engine = database.connect(unreachable)
    with pytest.raises(DatabaseUnavailable) as caught:
        migrate.upgrade(engine)
    assert "hunter2" not in str(caught.value)
