"""Owns how it is known that a server went back in time: each remembers the other's counter.

Sweeps count in both. The server whose counter is below what the other remembers of it was put back:
a copied file, a replica without the tail, a restored backup. A server that has started since the
last count may have lost less than that. Then everything live is compared with its rows.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import UTC, datetime

from msgspec.structs import replace
from sqlalchemy import Engine

from statesync import durable
from statesync.durable import database
from statesync.durable.losses import Loss, Side
from statesync.durable.servers import Counters
from statesync.errors import DatabaseWentBack
from statesync.hot.commands.servers import Counted, LossFlag
from statesync.hot.store import HotStore

__all__ = [
    "Side",
    "count_sweep",
    "is_count_due",
    "losses",
    "note_postgresql_went_back",
    "note_redis_went_back",
]

log = logging.getLogger(__name__)


_CONSEQUENCES = {
    Side.REDIS: "what is live and PostgreSQL does not know is set aside and set to its row",
    Side.POSTGRESQL: "nothing is restored until all that is live is saved again",
    Side.BOTH: "what is live is saved again; what both have lost is quarantined",
}


def is_count_due(hot: HotStore, engine: Engine, *, round_ms: int) -> bool:
    """Return whether to count a sweep: none was for a round, or a server is not as the other knows.

    It only reads, and locks nothing. Raises ServerUnavailable and NotMigrated.
    """
    prefix = hot.keys.prefix
    with database.statement(engine, answer_seconds=database.QUICK_SECONDS) as connection:
        counters = durable.servers.read(connection, prefix)
    return counters is None or hot.is_count_due(
        postgresql_sweeps=counters.sweeps,
        postgresql_run_id=counters.run_id,
        redis_sweeps=counters.redis_sweeps,
        redis_run_id=counters.redis_run_id,
        round_ms=round_ms,
    )


def count_sweep(hot: HotStore, engine: Engine) -> int | None:
    """Count a sweep in both servers, and note if one of them went back or has started.

    Returns Redis' counter. While another sweep counts, it does nothing and returns None. A crash
    between two steps loses nothing: the next sweep finds the same. Raises ServerUnavailable and
    NotMigrated.
    """
    prefix = hot.keys.prefix
    with database.transaction(engine, answer_seconds=database.QUICK_SECONDS) as connection:
        counters = durable.servers.lock(connection, prefix)
        if counters is None:
            return None
        counted = hot.count_sweep(
            postgresql_sweeps=counters.sweeps,
            postgresql_run_id=counters.run_id,
            redis_sweeps=counters.redis_sweeps,
            redis_run_id=counters.redis_run_id,
            is_recovering=counters.is_recovering,
        )
        durable.servers.count(
            connection,
            prefix,
            sweeps=counters.sweeps + 1,
            redis_sweeps=counted.redis_sweeps,
            redis_run_id=counted.redis_run_id,
        )
        side = _side(counted, counters)
        if side:
            durable.losses.record(connection, prefix, _found(side, counters, counted))
    # Not before it is committed: a memory of what never was would be a false alarm.
    hot.note_postgresql(
        counted.postgresql_sweeps, sweeps=counters.sweeps + 1, run_id=counters.run_id
    )
    if side and (counted.redis_is_news or counted.postgresql_is_news):
        _tell_news(hot, side, counted)
    elif counted.has_started:
        log.warning(
            "a server has started since the last sweep: everything live is compared with its row"
        )
    return counted.redis_sweeps


def note_redis_went_back(hot: HotStore, engine: Engine) -> None:
    """Put on record that Redis went back, as a backup found; at most once in one run of Redis.

    Raises DatabaseWentBack if Redis has forgotten that PostgreSQL is being recovered: then nobody
    can say which side is right. Raises ServerUnavailable.
    """
    if not hot.note_loss(LossFlag.SETTLING, asks_only=True):
        return
    # On record first: the flag is what keeps others from recording it.
    with database.transaction(engine) as connection:
        known = durable.losses.all_losses(connection, hot.keys.prefix)
        side = Side.BOTH if durable.losses.is_recovering(known) else Side.REDIS
        found = Loss(side=side, found_at=_now(), found_by="backup")
        durable.losses.record(connection, hot.keys.prefix, found)
    if side is Side.BOTH:  # before the other flag: what is known already is not asked for again
        hot.note_loss(LossFlag.RECOVERING)
    if hot.note_loss(LossFlag.SETTLING):
        _tell(hot, side, ["redis_went_back"], found_by="backup")
    if side is Side.BOTH:
        raise DatabaseWentBack


def note_postgresql_went_back(hot: HotStore, engine: Engine, char_ids: Iterable[int]) -> None:
    """Put on record that PostgreSQL went back, as the backup of some characters found.

    If a recovery has left one of them, it is the same loss, which goes on. Raises
    ServerUnavailable.
    """
    if not hot.note_loss(LossFlag.RECOVERING, asks_only=True):
        return
    with database.transaction(engine) as connection:
        goes_on = durable.losses.reopen(connection, hot.keys.prefix, char_ids)
        if not goes_on:
            found = Loss(side=Side.POSTGRESQL, found_at=_now(), found_by="backup")
            durable.losses.record(connection, hot.keys.prefix, found)
    is_news = hot.note_loss(LossFlag.RECOVERING)
    if is_news and goes_on:
        log.warning("what the recovery of PostgreSQL has left can be saved now: it goes on")
    elif is_news:
        _tell(hot, Side.POSTGRESQL, ["postgresql_went_back"], found_by="backup")


def losses(hot: HotStore, engine: Engine) -> list[Loss]:
    """Return the last ten losses, newest first. Raises DatabaseUnavailable and NotMigrated."""
    with database.transaction(engine) as connection:
        return durable.losses.all_losses(connection, hot.keys.prefix)[::-1]


def _side(counted: Counted, counters: Counters) -> Side | None:
    """Return which server went back; both, if Redis did while PostgreSQL was being recovered."""
    if counted.redis_went_back:
        is_both = counted.postgresql_went_back or counters.is_recovering
        return Side.BOTH if is_both else Side.REDIS
    return Side.POSTGRESQL if counted.postgresql_went_back else None


def _found(side: Side, counters: Counters, counted: Counted) -> Loss:
    """Return what a sweep found, for the record."""
    loss = Loss(side=side, found_at=_now())
    if counted.redis_sweeps < counters.redis_sweeps:
        loss = replace(loss, redis_sweeps=(counters.redis_sweeps, counted.redis_sweeps))
    if counted.postgresql_went_back:
        pair = (int(counted.postgresql_sweeps), counters.sweeps)
        loss = replace(loss, postgresql_sweeps=pair)
    return loss


def _now() -> datetime:
    return datetime.now(UTC)


def _tell_news(hot: HotStore, side: Side, counted: Counted) -> None:
    news = {
        "redis_went_back": counted.redis_is_news,
        "postgresql_went_back": counted.postgresql_is_news,
    }
    _tell(hot, side, [name for name, is_news in news.items() if is_news], found_by="sweep")
    if counted.redis_is_news and not counted.redis_sweeps:
        log.error(
            "Redis has counted no sweep: if it is empty, `statesync restore --all-active` loads "
            "who was playing"
        )


def _tell(hot: HotStore, side: Side, counters: Iterable[str], *, found_by: str) -> None:
    log.error(
        "%s went back in time, as a %s found: %s",
        side.servers,
        found_by,
        _CONSEQUENCES[side],
        extra={"server": side},
    )
    hot.count(dict.fromkeys(counters, 1))
