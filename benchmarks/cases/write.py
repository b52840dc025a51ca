"""Owns ``write``, what a save costs the servers: rows, WAL, and bytes to and from Redis."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Sequence
from uuid import uuid4

import psycopg2.errors
from sqlalchemy import Engine, create_engine

from benchmarks import naive
from benchmarks.bench import Bench
from benchmarks.characters import FIGHTERS, fight_id, fight_key
from benchmarks.contest import Contest, Contests

__all__ = ["write"]

_CHARACTERS = 2000
_FIGHTING = 500
_LOG_ENTRIES = 200

_ROWS = "SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_user_tables"
_WAL = "SELECT pg_current_wal_insert_lsn() - '0/0'"
# A backend hands its counts in when it ends, before it leaves this list.
_OTHER_BACKENDS = """SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
    AND backend_type = 'client backend'"""


class _Meter:
    """Reads what the servers have counted so far."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        time.sleep(0.5)  # a backend that has just ended is still listed
        self._strangers = self._ask(_OTHER_BACKENDS)

    def read(self, *engines: Engine) -> dict[str, float]:
        """Return all counters, by unit; the connections of ``engines`` are closed."""
        for engine in engines:
            engine.dispose()
        while self._ask(_OTHER_BACKENDS) > self._strangers:
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
            (value,) = cursor.fetchone() or (0,)
            return float(value)


def write(bench: Bench) -> Contests:
    """Save characters that PostgreSQL has already and of which little or much has changed.

    Each contestant has characters of its own. The warm-up round takes the full-page images that
    follow a checkpoint, so what is counted is what the saves themselves write. The broker's
    messages are not in it: a task for each character would add its own.
    """
    ids = range(1, 1 + 2 * min(len(bench.ids), _CHARACTERS))
    fighters = ids[: 2 * _FIGHTING]
    meter = _Meter(bench)

    bench.clear()
    bench.write_characters(ids)
    yield from _saves(bench, meter, "nothing changed", ids, _mark)
    yield from _saves(bench, meter, "location changed", ids, _move)
    yield from _saves(bench, meter, "everything changed", ids, _rewrite)

    bench.clear()
    bench.write_characters(fighters, fighting_percent=100)
    _log(bench, fighters, _LOG_ENTRIES)
    name = f"log of {_LOG_ENTRIES} entries and one more"
    yield from _saves(bench, meter, name, fighters, _log_one_more)


def _saves(
    bench: Bench,
    meter: _Meter,
    name: str,
    char_ids: Sequence[int],
    change: Callable[[Bench, Sequence[int]], object],
) -> Contests:
    half = len(char_ids) // 2
    our_ids, naive_ids = char_ids[:half], char_ids[half:]
    engine = create_engine(bench.settings.database_url)
    with bench.orchestrator() as orchestrator:

        def save_naively(ids: Sequence[int]) -> None:
            for char_id in ids:
                naive.save_character(bench.client, engine, char_id)

        def turn(ids: Sequence[int], save: Callable[[Sequence[int]], object]) -> dict[str, float]:
            change(bench, ids)
            before = meter.read(orchestrator.engine, engine)
            save(ids)
            after = meter.read(orchestrator.engine, engine)
            return {unit: (after[unit] - before[unit]) / len(ids) for unit in after}

        orchestrator.backup_many(our_ids)
        save_naively(naive_ids)
        _settle(bench)
        contestants = {
            "statesync": lambda: turn(our_ids, orchestrator.backup_many),
            "naive": lambda: turn(naive_ids, save_naively),
        }
        yield Contest(f"save, {name}", "rows a character", contestants)
    engine.dispose()


def _settle(bench: Bench) -> None:
    """Do now what PostgreSQL would do, and write to the WAL for, at some moment of a round.

    A user without the right to do it relies on the median.
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
    bench.write_characters(ids, train=True)


def _log_one_more(bench: Bench, ids: Sequence[int]) -> None:
    _log(bench, ids, 1)
    _mark(bench, ids)


def _log(bench: Bench, ids: Sequence[int], entries: int) -> None:
    with bench.client.pipeline(transaction=False) as pipe:
        for char_id in ids[::FIGHTERS]:
            key = fight_key(fight_id(char_id))
            pipe.rpush(f"{key}:log", *(_entry() for _ in range(entries)))
            pipe.hincrby(key, "version", 1)
        pipe.execute()


def _entry() -> str:
    """Return an entry like no other, so that PostgreSQL cannot compress a log of them."""
    fighter, damage = uuid4(), secrets.randbelow(100)
    return f'{{"who": "{fighter}", "does": "strike", "at": "wolf 2", "damage": {damage}}}'
