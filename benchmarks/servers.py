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
from statesync.embedded.child import Child
from statesync.embedded.stack import stack
from statesync.errors import InvalidInput, NotMigrated
from statesync.hot.store import HotStore
from statesync.settings import Settings

__all__ = ["TABLES", "Place", "embedded", "given"]

TABLES = "characters, sessions, state_conflicts"
"""All others refer to these."""


class Place(NamedTuple):
    """Where a run takes place."""

    settings: Settings
    folder: Path
    """For logs."""
    servers: Mapping[str, Child]
    """The processes of embedded servers; empty for any others."""


@contextlib.contextmanager
def embedded(delay_ms: float) -> Iterator[Place]:
    """Give servers of our own, behind a proxy if there is a delay."""
    quiet: dict[str, Any] = {"sync_seconds": 3600, "scrub_seconds": 0, "lease_seconds": 600}
    with stack(**quiet) as running, contextlib.ExitStack() as exits:
        servers = running.servers
        if delay_ms:
            servers = exits.enter_context(in_front_of(servers, delay_ms))
        processes = {"PostgreSQL": servers.postgres, "Redis": servers.valkey}
        yield Place(servers.settings(**quiet), servers.folder, processes)


@contextlib.contextmanager
def given() -> Iterator[Place]:
    """Give the servers of the environment's settings.

    Raises InvalidInput if they are not empty, since a run deletes what it finds; NotMigrated;
    ServerUnavailable.
    """
    settings = replace(Settings.from_env(), key_prefix="")  # the floor knows no prefix
    if not settings.broker_url.startswith("redis"):
        raise InvalidInput("the benchmarks look into the broker's queues, so it must be Redis")
    _check_reachable(settings)
    client, connection = connect(settings)
    with contextlib.closing(client), contextlib.closing(connection):
        if client.dbsize():
            raise InvalidInput(
                "the Redis database of STATESYNC_REDIS_URL is not empty, and a benchmark empties "
                "it; give it one of its own, such as redis://host:port/9"
            )
        with connection, connection.cursor() as cursor:
            _check_empty(cursor)
    with tempfile.TemporaryDirectory(prefix="statesync-") as folder:
        yield Place(settings, Path(folder), {})


def _check_reachable(settings: Settings) -> None:
    """Raise ServerUnavailable or NotMigrated, which name the server, not a driver's error."""
    with HotStore.from_settings(settings) as store:
        store.status()
    engine = database.connect(settings)
    try:
        if migrate.revision(engine) != migrate.head():
            raise NotMigrated("the database lacks the newest tables; run: statesync migrate")
    finally:
        engine.dispose()


def _check_empty(cursor: Any) -> None:
    for table in TABLES.split(", "):
        cursor.execute(f"SELECT EXISTS (SELECT FROM {table})")  # noqa: S608 - our own name
        if cursor.fetchone()[0]:
            raise InvalidInput(
                f"the table {table} of STATESYNC_DATABASE_URL is not empty, and a "
                "benchmark empties it; give it a database of its own"
            )
