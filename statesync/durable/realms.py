"""Owns whose tables these are: a realm writes its name into its schema, and refuses another's.

The two tables are made by a migration in a realm; where there is only one world, there are none.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    MetaData,
    Table,
    Text,
    func,
    insert,
    select,
    text,
)

from statesync.durable.tables import metadata, moment
from statesync.errors import DatabaseForbidden, NotMigrated

__all__ = ["OPTION", "check", "moves", "take"]

OPTION = "statesync_realm"
"""The option of an engine that says whose tables they have to be."""

_metadata = MetaData(naming_convention=metadata.naming_convention)

_realm = Table("statesync_realm", _metadata, Column("name", Text, primary_key=True))

moves = Table(
    "statesync_moves",
    _metadata,
    Column("character_id", BigInteger, primary_key=True, autoincrement=False),
    Column("source", Text, nullable=False),
    Column("target", Text, nullable=False),
    # durable/moves.py has the steps.
    Column("step", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    moment("changed_at"),
)

_IS_THERE = text("SELECT to_regclass(:name) IS NOT NULL")


def check(connection: Connection, realm: str) -> None:
    """Refuse tables of another realm. Raises DatabaseForbidden, or NotMigrated if they have none.

    Without realms, ``realm`` is empty, and so is the name of the tables.
    """
    name = _name(connection)
    if name == realm:
        return
    if name is None and realm:
        raise NotMigrated(f"the tables are not of realm {realm!r} yet; run `statesync migrate`")
    if name is not None:
        raise DatabaseForbidden(
            f"PostgreSQL: these tables are of realm {name!r}, and "
            + (f"we are realm {realm!r}" if realm else "STATESYNC_REALM names none")
        )


def take(connection: Connection, realm: str) -> None:
    """Write the name of the realm into its schema, which is made if there is none yet.

    Raises DatabaseForbidden if the tables are another realm's.
    """
    if realm:
        # The second of two migrations waits here.
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7391846513)")
        _make_schema(connection)
        _metadata.create_all(connection)
        if _name(connection) is None:
            connection.execute(insert(_realm).values(name=realm))
    check(connection, realm)


def _make_schema(connection: Connection) -> None:
    """Make the schema that the ``search_path`` of the URL names, if it names one."""
    if connection.scalar(select(func.current_schema())) is None:
        first = str(connection.scalar(text("SHOW search_path"))).partition(",")[0]
        connection.exec_driver_sql(f"CREATE SCHEMA IF NOT EXISTS {first.strip()}")


def _name(connection: Connection) -> str | None:
    if not connection.scalar(_IS_THERE, {"name": _realm.name}):
        return None
    return connection.scalar(select(_realm.c.name))
