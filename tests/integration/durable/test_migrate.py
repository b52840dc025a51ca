"""Migrations lead to the models, up, down and up again."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
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
    engine = database.connect(embedded.settings(database_url=url))
    yield engine
    engine.dispose()


def tables(engine: Engine) -> set[str]:
    return set(inspect(engine).get_table_names())


def rows(engine: Engine, table: str) -> list[str]:
    with engine.connect() as connection:
        found = connection.exec_driver_sql(f"SELECT version_num FROM {table} ORDER BY 1")
        return list(found.scalars())


def execute(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def test_up_down_up(empty: Engine) -> None:
    assert migrate.revision(empty) is None
    assert migrate.upgrade(empty) == migrate.head()
    assert tables(empty) == {*metadata.tables, migrate.VERSION_TABLE}
    assert migrate.upgrade(empty) == migrate.head(), "run twice, there is nothing left to do"
    migrate.downgrade(empty, "base")
    assert tables(empty) == {migrate.VERSION_TABLE}
    assert migrate.upgrade(empty) == migrate.head()
    assert tables(empty) == {*metadata.tables, migrate.VERSION_TABLE}


def test_migrations_lead_to_the_models(engine: Engine) -> None:
    with engine.connect() as connection:
        options = {"compare_server_default": True, "version_table": migrate.VERSION_TABLE}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []


MIGRATE = """
from statesync.durable import database, migrate
from statesync.settings import Settings

print(migrate.upgrade(database.connect(Settings.from_env())))
"""


def migrate_twice_at_once(empty: Engine, embedded: Servers) -> None:
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


def test_two_may_migrate_at_once(empty: Engine, embedded: Servers) -> None:
    migrate_twice_at_once(empty, embedded)


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
        query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        while not first.exec_driver_sql(query).scalar():
            assert second.is_alive()
            time.sleep(0.01)
        second.join(0.2)
        assert second.is_alive()
        first.rollback()
    second.join()
    assert reached == [migrate.head()]


class TestAGameWithAnAlembicOfItsOwn:
    """Each has a table of its own for its revision, in either order."""

    ENV = """
from alembic import context

context.configure(connection=context.config.attributes["connection"], target_metadata=None)
with context.begin_transaction():
    context.run_migrations()
"""
    REVISION = """
from alembic import op

revision, down_revision = "{revision}", {down_revision}


def upgrade() -> None:
    op.execute("CREATE TABLE guilds_{revision} (id int)")


def downgrade() -> None:
    op.execute("DROP TABLE guilds_{revision}")
"""

    @pytest.fixture
    def game(self, tmp_path: Path) -> Config:
        """A history with revisions of the same names as ours."""
        versions = tmp_path / "versions"
        versions.mkdir()
        (tmp_path / "env.py").write_text(self.ENV)
        for revision, down_revision in (("0001", None), ("0002", "0001"), ("0003", "0002")):
            text = self.REVISION.format(revision=revision, down_revision=repr(down_revision))
            (versions / f"{revision}.py").write_text(text)
        config = Config()
        config.set_main_option("script_location", str(tmp_path))
        config.set_main_option("path_separator", "os")
        return config

    def upgrade_game(self, game: Config, engine: Engine, target: str = "head") -> None:
        with engine.begin() as connection:
            game.attributes["connection"] = connection
            command.upgrade(game, target)

    @pytest.mark.parametrize("game_revision", ["0001", "0002", "0003"])
    def test_before_us(self, empty: Engine, game: Config, game_revision: str) -> None:
        self.upgrade_game(game, empty, game_revision)
        assert migrate.revision(empty) is None
        assert migrate.upgrade(empty) == migrate.head()
        assert set(metadata.tables) < tables(empty)
        assert rows(empty, "alembic_version") == [game_revision]
        self.upgrade_game(game, empty)
        assert "guilds_0003" in tables(empty)
        assert migrate.upgrade(empty) == migrate.head()
        assert rows(empty, "alembic_version") == ["0003"]

    def test_after_us(self, empty: Engine, game: Config) -> None:
        migrate.upgrade(empty)
        self.upgrade_game(game, empty)
        assert migrate.upgrade(empty) == migrate.revision(empty) == migrate.head()
        assert rows(empty, "alembic_version") == ["0003"]
        assert {"guilds_0001", "guilds_0003", *metadata.tables} < tables(empty)

    def test_after_an_older_release_of_ours(self, empty: Engine, game: Config) -> None:
        as_older_releases_left_it(empty, "0002")
        migrate.upgrade(empty)
        self.upgrade_game(game, empty)
        assert rows(empty, "alembic_version") == ["0003"]
        assert migrate.upgrade(empty) == migrate.head()


def as_older_releases_left_it(engine: Engine, revision: str) -> None:
    """Older releases keep our revision in ``alembic_version``, as Alembic does by default."""
    migrate.upgrade(engine, revision)
    execute(
        engine,
        f"ALTER TABLE {migrate.VERSION_TABLE} RENAME TO alembic_version",
        f"ALTER INDEX {migrate.VERSION_TABLE}_pkc RENAME TO alembic_version_pkc",
    )


class TestADatabaseOfAnOlderRelease:
    @pytest.mark.parametrize("revision", ["0001", "0002"])
    def test_moves_over(self, empty: Engine, revision: str) -> None:
        as_older_releases_left_it(empty, revision)
        assert migrate.revision(empty) == revision
        for _ in range(2):
            assert migrate.upgrade(empty) == migrate.revision(empty) == migrate.head()
            assert tables(empty) == {*metadata.tables, migrate.VERSION_TABLE}

    def test_the_rows_of_a_game_stay(self, empty: Engine) -> None:
        as_older_releases_left_it(empty, "0002")
        execute(empty, "INSERT INTO alembic_version VALUES ('0001'), ('4f2a')")
        migrate.upgrade(empty)
        assert rows(empty, "alembic_version") == ["0001", "4f2a"]
        assert rows(empty, migrate.VERSION_TABLE) == [migrate.head()]

    def test_two_may_move_it_at_once(self, empty: Engine, embedded: Servers) -> None:
        as_older_releases_left_it(empty, "0001")
        migrate_twice_at_once(empty, embedded)
        assert tables(empty) == {*metadata.tables, migrate.VERSION_TABLE}

    def test_a_move_that_is_cut_off_has_not_begun(self, empty: Engine) -> None:
        as_older_releases_left_it(empty, "0001")
        with pytest.raises(DatabaseUnavailable), database.transaction(empty) as connection:
            command.upgrade(migrate._config(connection), "head")
            connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")
        assert migrate.revision(empty) == "0001"
        assert rows(empty, "alembic_version") == ["0001"]
        assert migrate.VERSION_TABLE not in tables(empty)

    def test_alembic_in_a_checkout_moves_it_too(self, empty: Engine, embedded: Servers) -> None:
        as_older_releases_left_it(empty, "0001")
        own = embedded.settings(database_url=embedded.database_url(str(empty.url.database)))
        for words in (["upgrade", "head"], ["current"]):
            shown = subprocess.run(
                [sys.executable, "-m", "alembic", *words],
                env=dict(os.environ) | own.to_env(),
                cwd=Path(migrate.__file__).parents[2],
                capture_output=True,
                text=True,
                check=True,
            )
        assert f"{migrate.head()} (head)" in shown.stdout
        assert tables(empty) == {*metadata.tables, migrate.VERSION_TABLE}


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


def test_the_record_of_actions_only_adds(empty: Engine) -> None:
    """The release before works with the tables of this one: none that it knows has changed."""
    migrate.upgrade(empty, "0003")

    def known() -> dict[str, list[str]]:
        inspector = inspect(empty)
        return {
            name: [str(sorted(column.items(), key=str)) for column in inspector.get_columns(name)]
            for name in inspector.get_table_names()
        }

    before = known()
    migrate.upgrade(empty)
    after = known()
    assert after.keys() - before.keys() == {"operator_actions"}
    assert {name: after[name] for name in before} == before
