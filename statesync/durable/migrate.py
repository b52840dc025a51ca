"""Owns the way to the newest tables: runs the Alembic migrations that come with the package.

Our revision is in a table of its own, so that a game's own Alembic works in the same database.
Older releases kept it in ``alembic_version``; it moves over with the next ``upgrade``.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine

from statesync.durable import database, realms

__all__ = ["VERSION_TABLE", "downgrade", "head", "move_revision", "revision", "upgrade"]

VERSION_TABLE = "statesync_alembic_version"

_SHARED = sa.table("alembic_version", sa.column("version_num"))
"""Alembic's default, where older releases kept our revision."""
_TABLES_OF_OLDER_RELEASES = frozenset(
    {
        "character_stats",
        "characters",
        "combat_log",
        "inventory_items",
        "scenario_progress",
        "session_characters",
        "sessions",
        "state_conflicts",
    }
)


def upgrade(engine: Engine, target: str = "head", *, realm: str = "") -> str | None:
    """Migrate up to ``target``; returns the revision. Safe to run twice, also at once by two
    processes (Alembic's own state is global: not by two threads).

    In a realm its name is written into the schema. Raises DatabaseUnavailable, DatabaseForbidden if
    the tables are another realm's.
    """
    with database.transaction(engine, of_any_realm=True) as connection:
        realms.take(connection, realm)
        command.upgrade(_config(connection), target)
    return revision(engine)


def downgrade(engine: Engine, target: str) -> None:
    """Migrate down to ``target``, such as ``base``: drops tables with all that is in them."""
    with database.transaction(engine) as connection:
        command.downgrade(_config(connection), target)


def revision(engine: Engine) -> str | None:
    """Return the revision of our tables, moved over or not; None if they were never migrated."""
    with database.transaction(engine, of_any_realm=True) as connection:
        # First the older place: a move that commits between the two is seen in the newer one.
        return (
            _shared_revision(connection)
            or MigrationContext.configure(
                connection, opts={"version_table": VERSION_TABLE}
            ).get_current_revision()
        )


def head() -> str | None:
    """Return the newest revision."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def move_revision(
    connection: Connection, context: MigrationContext, scripts: ScriptDirectory
) -> None:
    """Move our revision from the table that older releases share with a game, if it is there.

    The rows of a game stay; a table that held nothing else is dropped. For env.py, which holds the
    lock that keeps two migrations apart.
    """
    moved = _shared_revision(connection)
    if moved is None:
        return
    # A game that adds its own row meanwhile must not lose it with the table.
    connection.exec_driver_sql(f"LOCK TABLE {_SHARED.name} IN ACCESS EXCLUSIVE MODE")
    context.stamp(scripts, moved)
    connection.execute(_SHARED.delete().where(_SHARED.c.version_num == moved))
    if not connection.scalar(sa.select(sa.exists(sa.select(_SHARED)))):
        connection.exec_driver_sql(f"DROP TABLE {_SHARED.name}")


def _shared_revision(connection: Connection) -> str | None:
    """Return our revision if ``alembic_version`` holds it and our own table does not exist.

    A game may call its revisions as we do: the tables tell which revision is ours.
    """
    inspector = sa.inspect(connection)
    tables = set(inspector.get_table_names())
    if VERSION_TABLE in tables or not {_SHARED.name, *_TABLES_OF_OLDER_RELEASES} <= tables:
        return None
    columns = {column["name"] for column in inspector.get_columns("sessions")}
    ours = "0002" if "digest" in columns else "0001"
    found = sa.select(_SHARED).where(_SHARED.c.version_num == ours)
    return ours if connection.scalar(sa.select(sa.exists(found))) else None


def _config(connection: Connection | None = None) -> Config:
    package = Path(__file__).parents[1]
    installed = package / "migrations"
    config = Config()
    scripts = installed if installed.is_dir() else package.parent / "migrations"
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
