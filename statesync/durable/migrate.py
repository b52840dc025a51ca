"""Owns the way to the newest tables: runs the Alembic migrations that come with the package."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

from statesync.durable import database

__all__ = ["downgrade", "head", "revision", "upgrade"]


def upgrade(engine: Engine, target: str = "head") -> str | None:
    """Migrate up to ``target``; returns the revision. Safe to run twice, also at once by two
    processes (Alembic's own state is global: not by two threads).

    Raises DatabaseUnavailable.
    """
    with database.transaction(engine) as connection:
        command.upgrade(_config(connection), target)
    return revision(engine)


def downgrade(engine: Engine, target: str) -> None:
    """Migrate down to ``target``, such as ``base``: drops tables with all that is in them."""
    with database.transaction(engine) as connection:
        command.downgrade(_config(connection), target)


def revision(engine: Engine) -> str | None:
    """Return the revision that the database is at; None where it was never migrated."""
    with database.transaction(engine) as connection:
        return MigrationContext.configure(connection).get_current_revision()


def head() -> str | None:
    """Return the newest revision."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def _config(connection: object = None) -> Config:
    package = Path(__file__).parents[1]
    installed = package / "migrations"
    config = Config()
    scripts = installed if installed.is_dir() else package.parent / "migrations"
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
