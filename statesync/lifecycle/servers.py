"""Owns how it is known that a server went back in time: each remembers the other's counter.

Every sweep counts in both. The server whose counter is below what the other remembers of it was put
back: a copied file, a replica without the tail, a restored backup. A server that has started since
the last sweep may have lost less than one sweep. Then everything live is compared with its rows.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Engine

from statesync import durable
from statesync.durable import database
from statesync.durable.servers import Counters, Loss
from statesync.hot.commands.servers import Counted, LossFlag
from statesync.hot.store import HotStore

__all__ = [
    "Side",
    "count_sweep",
    "last_loss",
    "note_postgresql_went_back",
    "note_redis_went_back",
]

log = logging.getLogger(__name__)


class Side(StrEnum):
    """Which server went back in time."""

    REDIS = "redis"
    """PostgreSQL is right: what is live is recorded, and set to its rows."""
    POSTGRESQL = "postgresql"
    """Redis is right: what is live is saved again."""
    BOTH = "both"
    """Nobody can say: a group in which both went back is quarantined."""

    @property
    def servers(self) -> str:
        """How people are told of it: the name of the server, or of both."""
        return _SERVERS[self]


_SERVERS = {
    Side.REDIS: "Redis",
    Side.POSTGRESQL: "PostgreSQL",
    Side.BOTH: "Redis and PostgreSQL",
}
_CONSEQUENCES = {
    Side.REDIS: "what is live and PostgreSQL does not know is set aside and set to its row",
    Side.POSTGRESQL: "nothing is restored until all that is live is saved again",
    Side.BOTH: "what is live is saved again; what both have lost is quarantined",
}
_COUNTERS = {
    Side.REDIS: ("redis_went_back",),
    Side.POSTGRESQL: ("postgresql_went_back",),
    Side.BOTH: ("redis_went_back", "postgresql_went_back"),
}


def count_sweep(hot: HotStore, engine: Engine) -> bool:
    """Count a sweep in both servers, and note if one of them went back or has started.

    While another sweep counts, it does nothing and returns False. A crash between two steps loses
    nothing: the next sweep finds the same. Raises ServerUnavailable and NotMigrated.
    """
    prefix = hot.keys.prefix
    with database.transaction(engine, answer_seconds=database.QUICK_SECONDS) as connection:
        counters = durable.servers.lock(connection, prefix)
        if counters is None:
            return False
        counted = hot.count_sweep(
            postgresql_sweeps=counters.sweeps,
            postgresql_run_id=counters.run_id,
            redis_sweeps=counters.redis_sweeps,
            redis_run_id=counters.redis_run_id,
        )
        durable.servers.count(
            connection,
            prefix,
            sweeps=counters.sweeps + 1,
            redis_sweeps=counted.redis_sweeps,
            redis_run_id=counted.redis_run_id,
        )
        side = _side(counted.redis_went_back, counted.postgresql_went_back)
        if side:
            durable.servers.record_loss(connection, prefix, _details(side, counters, counted))
    # Not before it is committed: a memory of what never was would be a false alarm.
    hot.note_postgresql(
        counted.postgresql_sweeps, sweeps=counters.sweeps + 1, run_id=counters.run_id
    )
    if news := _side(counted.redis_is_news, counted.postgresql_is_news):
        _tell(hot, news, found_by="a sweep")
    elif counted.has_started:
        log.warning(
            "a server has started since the last sweep: everything live is compared with its row"
        )
    return True


def note_redis_went_back(hot: HotStore, engine: Engine, *, found_by: str = "backup") -> None:
    """Put on record that Redis went back, as somebody found; at most once in one run of Redis.

    Raises ServerUnavailable.
    """
    _note(hot, engine, Side.REDIS, LossFlag.SETTLING, found_by)


def note_postgresql_went_back(hot: HotStore, engine: Engine, *, found_by: str = "backup") -> None:
    """Put on record that PostgreSQL went back, as somebody found; once until it is recovered.

    Raises ServerUnavailable.
    """
    _note(hot, engine, Side.POSTGRESQL, LossFlag.RECOVERING, found_by)


def last_loss(hot: HotStore, engine: Engine) -> Loss | None:
    """Return the last loss on record. Raises DatabaseUnavailable and NotMigrated."""
    with database.transaction(engine) as connection:
        return durable.servers.last_loss(connection, hot.keys.prefix)


def _note(hot: HotStore, engine: Engine, side: Side, flag: LossFlag, found_by: str) -> None:
    if not hot.note_loss(flag, asks_only=True):
        return
    # On record first: the flag is what keeps others from recording it.
    with database.transaction(engine) as connection:
        details = {"side": side, "found_at": _now(), "found_by": found_by}
        durable.servers.record_loss(connection, hot.keys.prefix, details)
    if hot.note_loss(flag):
        _tell(hot, side, found_by=f"a {found_by}")


def _side(redis: bool, postgresql: bool) -> Side | None:
    if redis and postgresql:
        return Side.BOTH
    if redis:
        return Side.REDIS
    return Side.POSTGRESQL if postgresql else None


def _details(side: Side, counters: Counters, counted: Counted) -> dict[str, Any]:
    """Return what stands on record; a pair is what the other server remembered, and what it is."""
    details: dict[str, Any] = {"side": side, "found_at": _now(), "found_by": "sweep"}
    if counted.redis_went_back:
        details["redis_sweeps"] = [counters.redis_sweeps, counted.redis_sweeps]
    if counted.postgresql_went_back:
        details["postgresql_sweeps"] = [int(counted.postgresql_sweeps), counters.sweeps]
    return details


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _tell(hot: HotStore, side: Side, *, found_by: str) -> None:
    log.error("%s went back in time, as %s found: %s", side.servers, found_by, _CONSEQUENCES[side])
    hot.count(dict.fromkeys(_COUNTERS[side], 1))
