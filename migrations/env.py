"""Runs migrations: `statesync migrate`, or `alembic` in a checkout, on STATESYNC_DATABASE_URL."""

from alembic import context
from sqlalchemy import Connection

from statesync.durable import migrate
from statesync.durable.database import connect
from statesync.durable.tables import metadata
from statesync.settings import Settings


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        version_table=migrate.VERSION_TABLE,
        target_metadata=metadata,
        compare_server_default=True,
    )
    with context.begin_transaction():
        connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        # The second of two migrations waits here, and then finds nothing left to do.
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7391846512)")
        migrate.move_revision(connection, context.get_context(), context.script)
        context.run_migrations()


given_connection = context.config.attributes.get("connection")
if given_connection is not None:
    _run(given_connection)
else:
    with connect(Settings.from_env()).connect() as own_connection:
        _run(own_connection)
