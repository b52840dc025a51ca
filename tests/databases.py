"""Owns the databases of the tests: each test has one to itself, empty, and it is used again.

To make a database and remove it takes longer than most tests. So a database whose schema is as the
template's is emptied and given to the next test; any other is left until the servers end.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2

from statesync.durable import database, migrate
from statesync.durable.tables import metadata
from statesync.embedded.servers import Servers

__all__ = ["Databases"]

_TEMPLATE = "template_statesync"

# Whatever a test may have changed in the schema: columns, rights, triggers, constraints, indexes,
# functions, options of the database, the revision.
_SCHEMA = """
SELECT ARRAY(SELECT (relname, relkind, relacl, relhastriggers, reloptions)::text
             FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1),
       ARRAY(SELECT (attrelid::regclass, attname, atttypid, attacl)::text
             FROM pg_attribute JOIN pg_class ON attrelid = pg_class.oid
             WHERE relnamespace = 'public'::regnamespace AND NOT attisdropped ORDER BY 1),
       ARRAY(SELECT (conname, conrelid::regclass)::text
             FROM pg_constraint WHERE connamespace = 'public'::regnamespace ORDER BY 1),
       ARRAY(SELECT proname::text
             FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY 1),
       ARRAY(SELECT tgname::text FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1),
       ARRAY(SELECT setconfig::text
             FROM pg_db_role_setting JOIN pg_database ON setdatabase = pg_database.oid
             WHERE datname = current_database() ORDER BY 1),
       ARRAY(SELECT nspname::text FROM pg_namespace WHERE nspname !~ '^pg_' ORDER BY 1),
       ARRAY(SELECT version_num::text FROM statesync_alembic_version)
"""
_END_OTHERS = """
SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


class Databases:
    """The databases on the embedded server, made from one migrated template."""

    def __init__(self, embedded: Servers) -> None:
        self._embedded = embedded
        self._numbers = itertools.count(1)
        self._free: list[str] = []
        self._create(_TEMPLATE, "template0")
        engine = database.connect(embedded.settings(database_url=embedded.database_url(_TEMPLATE)))
        migrate.upgrade(engine)
        engine.dispose()
        with self._cursor(_TEMPLATE) as cursor:
            self._schema = self._read_schema(cursor)

    def make(self, *, empty: bool = False) -> str:
        """Make a database from the template, or an empty one; return its name."""
        name = f"t{next(self._numbers)}"
        self._create(name, "template0" if empty else _TEMPLATE)
        return name

    def take(self) -> str:
        """Return the name of a database without rows."""
        return self._free.pop() if self._free else self.make()

    def give_back(self, name: str) -> None:
        """Empty a database for the next test, if its schema is as it was."""
        try:
            with self._cursor(name) as cursor:
                cursor.execute(_END_OTHERS)
                if self._read_schema(cursor) != self._schema:
                    return
                for table in reversed(metadata.sorted_tables):
                    cursor.execute(f"DELETE FROM {table.name}")
                cursor.execute("ALTER SEQUENCE state_conflicts_id_seq RESTART")
        except psycopg2.Error:  # the test has done something to it, or to its server
            return
        self._free.append(name)

    def _create(self, name: str, template: str) -> None:
        with self._cursor("postgres") as cursor:
            cursor.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')

    @staticmethod
    def _read_schema(cursor: Any) -> object:
        cursor.execute(_SCHEMA)
        return cursor.fetchone()

    @contextmanager
    def _cursor(self, name: str) -> Iterator[Any]:
        connection = psycopg2.connect(
            host=str(self._embedded.sockets), user="postgres", dbname=name
        )
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                yield cursor
        finally:
            connection.close()
