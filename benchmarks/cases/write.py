"""Owns what a save costs the servers: rows, write-ahead log, and bytes to and from Redis."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Sequence
from uuid import uuid4

import psycopg2.errors
from sqlalchemy import Engine, create_engine

from benchmarks.bench import Bench
from benchmarks.characters import IN_A_FIGHT, fight_id
from benchmarks.contest import Contest, Contests
from benchmarks.floor import save_naively
from statesync import GameStateOrchestrator

__all__ = ["write"]

_CHARACTERS = 2000
_FIGHTERS = 500
_LOG = 200

_ROWS = "SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_user_tables"
_WAL = "SELECT pg_current_wal_insert_lsn() - '0/0'"
# A backend hands its counts in when it ends, before it leaves this list.
_OTHERS = """SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
    AND backend_type = 'client backend'"""


class _Meter:
    """Reads what the servers have counted so far."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        time.sleep(0.5)  # whoever has just gone is still listed
        self._strangers = self._ask(_OTHERS)

    def read(self, *engines: Engine) -> dict[str, float]:
        """Return all counters, by unit; the connections of ``engines`` are closed."""
        for engine in engines:
            engine.dispose()
        while self._ask(_OTHERS) > self._strangers:
            time.sleep(0.01)
        stats = self._bench.client.info("stats")
        return {
            "rows a character": self._ask(_ROWS),
            "bytes of WAL a character": self._ask(_WAL),
            "bytes from and to Redis a character": stats["total_net_input_bytes"]
            + stats["total_net_output_bytes"],
        }

    def _ask(self, query: str) -> float:
        with self._bench.connection as connection, connection.cursor() as cursor:
            cursor.execute(query)
            return float(cursor.fetchone()[0])


def write(bench: Bench) -> Contests:
    """Saves of characters that are in PostgreSQL already, of which little or much has changed.

    Each contestant has characters of its own. The round to warm up takes the full-page images that
    follow a checkpoint, so that what is counted is what the saves themselves write. The broker's
    messages are not in it: a task for each character would add its own.
    """
    many = range(1, 1 + 2 * min(len(bench.ids), _CHARACTERS))
    fighters = many[: 2 * _FIGHTERS]
    meter = _Meter(bench)

    bench.clear()
    bench.fill(many)
    yield from _case(bench, meter, "nothing changed", many, _mark)
    yield from _case(bench, meter, "location changed", many, _move)
    yield from _case(bench, meter, "everything changed", many, _rewrite)

    bench.clear()
    bench.fill(fighters, percent=100)
    _log(bench, fighters, _LOG)
    name = f"log of {_LOG} entries and one more"
    yield from _case(bench, meter, name, fighters, _log_one_more)


def _case(
    bench: Bench,
    meter: _Meter,
    name: str,
    everybody: Sequence[int],
    change: Callable[[Bench, Sequence[int]], object],
) -> Contests:
    half = len(everybody) // 2
    game = GameStateOrchestrator.from_settings(bench.settings)
    engine = create_engine(bench.settings.database_url)

    def save_naively_all(ids: Sequence[int]) -> None:
        for char_id in ids:
            save_naively(bench.client, engine, char_id)

    def saving(ids: Sequence[int], save: Callable[[Sequence[int]], object]) -> dict[str, float]:
        change(bench, ids)
        before = meter.read(game.engine, engine)
        save(ids)
        after = meter.read(game.engine, engine)
        return {unit: (after[unit] - before[unit]) / len(ids) for unit in after}

    game.backup_many(everybody[:half])
    save_naively_all(everybody[half:])
    _settle(bench)
    contestants = {
        "statesync": lambda: saving(everybody[:half], game.backup_many),
        "naive": lambda: saving(everybody[half:], save_naively_all),
    }
    yield Contest(f"save, {name}", "rows a character", contestants)
    game.close()
    engine.dispose()


def _settle(bench: Bench) -> None:
    """Do now what PostgreSQL would do at some moment of a round, and write to the log for.

    A user who may do neither has the median.
    """
    bench.connection.autocommit = True
    with bench.connection.cursor() as cursor:
        for statement in ("VACUUM", "CHECKPOINT"):
            with contextlib.suppress(psycopg2.errors.InsufficientPrivilege):
                cursor.execute(statement)
    bench.connection.autocommit = False


def _mark(bench: Bench, ids: Sequence[int]) -> None:
    bench.client.sadd("dirty_accounts", *ids)


def _move(bench: Bench, ids: Sequence[int]) -> None:
    place = f'{{"current": "room {time.monotonic_ns()}", "prev": "town"}}'
    with bench.client.pipeline(transaction=False) as pipe:
        for char_id in ids:
            pipe.hset(f"ac:{char_id}", "location", place)
            pipe.hincrby(f"ac:{char_id}", "version", 1)
        pipe.execute()
    _mark(bench, ids)


def _rewrite(bench: Bench, ids: Sequence[int]) -> None:
    bench.fill(ids, train=True)


def _log_one_more(bench: Bench, ids: Sequence[int]) -> None:
    _log(bench, ids, 1)
    _mark(bench, ids)


def _log(bench: Bench, ids: Sequence[int], entries: int) -> None:
    with bench.client.pipeline(transaction=False) as pipe:
        for char_id in ids[::IN_A_FIGHT]:
            key = f"combat:session:{fight_id(char_id)}"
            pipe.rpush(f"{key}:log", *(_entry() for _ in range(entries)))
            pipe.hincrby(key, "version", 1)
        pipe.execute()


def _entry() -> str:
    """Return a line of a log of which no two are alike, so that PostgreSQL cannot fold them."""
    who, damage = uuid4(), secrets.randbelow(100)
    return f'{{"who": "{who}", "does": "strike", "at": "wolf 2", "damage": {damage}}}'
