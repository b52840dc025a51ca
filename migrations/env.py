"""Runs migrations: `statesync migrate`, or `alembic` in a checkout, on STATESYNC_DATABASE_URL."""

from alembic import context
from sqlalchemy import Connection

from statesync.durable.database import connect
from statesync.durable.tables import metadata
from statesync.settings import Settings


def _run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata, compare_server_default=True)
    with context.begin_transaction():
        connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        # Two that migrate at once: the second waits, and finds nothing left to do.
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7391846512)")
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    _run(given)
else:
    with connect(Settings.from_env()).connect() as own:
        _run(own)
