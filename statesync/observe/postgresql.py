"""Owns what the doctor says of PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

from statesync.durable import database
from statesync.durable import migrate as migrations
from statesync.durable.limits import different_limits
from statesync.durable.rights import missing_grants
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.observe.check import Check, Topic, checked
from statesync.settings import Settings
from statesync.state.fields import counted

__all__ = ["check_postgresql"]

_OLDEST_POSTGRESQL = 12


def check_postgresql(orchestrator: GameStateOrchestrator, settings: Settings) -> Iterator[Check]:
    """Check the version, the time limits, the tables and our rights."""
    with database.transaction(orchestrator.engine) as connection:
        version, is_replica, read_only = connection.exec_driver_sql(
            "SELECT current_setting('server_version'), pg_is_in_recovery(), "
            "current_setting('transaction_read_only')"
        ).one()
        limits = "; ".join(different_limits(connection, settings))
    found, advice = f"PostgreSQL {version}", ""
    if int(version.split(".")[0]) < _OLDEST_POSTGRESQL:
        advice = f"PostgreSQL {_OLDEST_POSTGRESQL} or newer is needed"
    elif is_replica:
        found += ", a replica: it takes no writes"
        advice = "point STATESYNC_DATABASE_URL at the primary"
    elif read_only == "on":
        orchestrator.engine.dispose()  # who is connected keeps the setting: look anew next time
        found += ": it takes no writes"
        advice = (
            "find who has set default_transaction_read_only, for the server, the database or our "
            "role, and take it off"
        )
    yield checked(Topic.POSTGRESQL, found, fail=advice)
    yield checked(
        Topic.TIME_LIMITS,
        limits or "in force in every transaction",
        fail="find what stands before PostgreSQL and drops `SET LOCAL`" * bool(limits),
    )
    revision, head = migrations.revision(orchestrator.engine), migrations.head()
    advice = "" if revision == head else f"run `statesync migrate`: the newest is {head}"
    found = f"revision {revision}" if revision else "no tables yet"
    yield checked(Topic.MIGRATIONS, found, fail=advice)
    with database.transaction(orchestrator.engine) as connection:
        grants = missing_grants(connection)
    missing = f"{counted(len(grants), 'grant is', 'grants are')} missing"
    found = missing if grants else "all that a worker needs"
    yield checked(Topic.RIGHTS, found, fail="; ".join(grants))
