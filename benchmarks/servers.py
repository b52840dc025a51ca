"""Owns where a run takes place: embedded servers, near or far away, or those of the settings."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.floor import connect
from benchmarks.proxy import in_front_of
from statesync.durable import database, migrate
from statesync.embedded.servers import Child
from statesync.embedded.stack import stack
from statesync.errors import InvalidInput, NotMigrated
from statesync.hot.store import HotStore
from statesync.settings import Settings

__all__ = ["TABLES", "Place", "embedded", "given"]

TABLES = "characters, sessions, state_conflicts"
"""All others hang on these."""


class Place(NamedTuple):
    """Where a run takes place."""

    settings: Settings
    folder: Path
    """For logs."""
    servers: Mapping[str, Child]
    """The processes of the servers, where they are ours."""


@contextlib.contextmanager
def embedded(delay_ms: float) -> Iterator[Place]:
    """Give servers of our own."""
    quiet: dict[str, Any] = {"sync_seconds": 3600, "scrub_seconds": 0, "lease_seconds": 600}
    with stack(**quiet) as running, contextlib.ExitStack() as exits:
        on = running.servers
        if delay_ms:
            on = exits.enter_context(in_front_of(on, delay_ms))
        processes = {"PostgreSQL": on.postgres, "Redis": on.valkey}
        yield Place(on.settings(**quiet), on.folder, processes)


@contextlib.contextmanager
def given() -> Iterator[Place]:
    """Give the servers of the environment's settings, which must be empty.

    Raises InvalidInput where they are not, since a benchmark deletes what it finds; NotMigrated;
    ServerUnavailable.
    """
    settings = replace(Settings.from_env(), key_prefix="")  # the floor knows of no prefix
    if not settings.broker_url.startswith("redis"):
        raise InvalidInput("the benchmarks look into the broker's queues, so it must be Redis")
    with HotStore.from_settings(settings) as hot:
        hot.status()  # raises our own error where there is no Redis
    engine = database.connect(settings)
    try:
        if migrate.revision(engine) != migrate.head():
            raise NotMigrated("the database lacks the newest tables; run: statesync migrate")
    finally:
        engine.dispose()
    client, connection = connect(settings)
    with contextlib.closing(client), contextlib.closing(connection):
        if client.dbsize():
            raise InvalidInput(
                "the Redis database of STATESYNC_REDIS_URL is not empty, and a benchmark empties "
                "it; give it one of its own, such as redis://host:port/9"
            )
        with connection, connection.cursor() as cursor:
            for table in TABLES.split(", "):
                cursor.execute(f"SELECT EXISTS (SELECT FROM {table})")  # noqa: S608 - our own name
                if cursor.fetchone()[0]:
                    raise InvalidInput(
                        f"the table {table} of STATESYNC_DATABASE_URL is not empty, and a "
                        "benchmark empties it; give it a database of its own"
                    )
    with tempfile.TemporaryDirectory(prefix="statesync-") as folder:
        yield Place(settings, Path(folder), {})
