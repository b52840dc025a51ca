"""Owns the floor: loops with the drivers alone, without marks, fence and checks. It is not safe."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from multiprocessing import get_context
from multiprocessing.pool import Pool
from typing import Any

import psycopg2
import redis
from psycopg2 import extensions

from benchmarks.characters import core_row, fight_key, fight_row, stats_row
from statesync.durable.tables import STATS
from statesync.settings import Settings

__all__ = ["connect", "process_pool", "restore", "save", "save_in_process", "shares"]

_BATCH = 500

_COLUMNS = "name text, gender text, created_at timestamptz, game_stage text, location_id text,"
_COLUMNS += " prev_location_id text, vitals jsonb, extra jsonb, version bigint"
_NAMES = [column.split()[0] for column in _COLUMNS.split(", ")]
_SAVE = f"""WITH saved AS (
    INSERT INTO characters (id, {", ".join(_NAMES)})
    SELECT * FROM json_to_recordset(%(rows)s) AS r (id bigint, {_COLUMNS})
    ON CONFLICT (id) DO UPDATE SET
    {", ".join(f"{name} = excluded.{name}" for name in _NAMES)} RETURNING id)
INSERT INTO character_stats (character_id, {", ".join(STATS)}, extra)
    SELECT * FROM json_to_recordset(%(stats)s) AS s
    (character_id bigint, {" int, ".join(STATS)} int, extra jsonb)
    WHERE (SELECT count(*) FROM saved) > 0
    ON CONFLICT (character_id) DO UPDATE SET
    {", ".join(f"{name} = excluded.{name}" for name in STATS)}"""  # noqa: S608 - of our own names
_SAVE_FIGHTS = """INSERT INTO sessions (id, session_type, payload, version)
    SELECT * FROM json_to_recordset(%(fights)s) AS f
    (id uuid, session_type text, payload jsonb, version bigint)
    ON CONFLICT (id) DO UPDATE SET payload = excluded.payload, version = excluded.version;
INSERT INTO session_characters (session_id, character_id)
    SELECT * FROM json_to_recordset(%(members)s) AS m (session_id uuid, character_id bigint)
    ON CONFLICT DO NOTHING"""
_LOAD = "SELECT * FROM characters JOIN character_stats ON character_id = id WHERE id = ANY(%s)"


def connect(settings: Settings) -> tuple[Any, extensions.connection]:
    """Return a Redis client and a PostgreSQL connection, with nothing of ours between."""
    url = settings.database_url.replace("+psycopg2", "")
    return redis.Redis.from_url(settings.redis_url), psycopg2.connect(url)


def save(client: Any, connection: extensions.connection, char_ids: Sequence[int]) -> None:
    """Read cores and fights and write their rows, in batches."""
    for batch in _batches(char_ids):
        cores = _read_hashes(client, [f"ac:{char_id}" for char_id in batch])
        by_id = list(zip(batch, cores, strict=True))
        rows = [core_row(char_id, core) for char_id, core in by_id]
        stats = [stats_row(char_id, core) for char_id, core in by_id]
        members = [
            {"session_id": core[b"combat_session_id"].decode(), "character_id": char_id}
            for char_id, core in by_id
            if b"combat_session_id" in core
        ]
        fights = _read_fights(client, {str(member["session_id"]) for member in members})
        with connection, connection.cursor() as cursor:
            cursor.execute(_SAVE, {"rows": json.dumps(rows), "stats": json.dumps(stats)})
            if fights:
                both = {"fights": json.dumps(fights), "members": json.dumps(members)}
                cursor.execute(_SAVE_FIGHTS, both)


def restore(client: Any, connection: extensions.connection, char_ids: Sequence[int]) -> None:
    """Read rows and write their cores, in batches, over whatever Redis holds."""
    for batch in _batches(char_ids):
        with client.pipeline(transaction=False) as pipe:
            for row in _load(connection, batch):
                pipe.hset(f"ac:{row[0]}", mapping=_core(row))
            pipe.execute()


def _batches(char_ids: Sequence[int]) -> Iterator[Sequence[int]]:
    return (char_ids[i : i + _BATCH] for i in range(0, len(char_ids), _BATCH))


def _read_fights(client: Any, fight_ids: set[str]) -> list[dict[str, Any]]:
    ordered = sorted(fight_ids)
    hashes = _read_hashes(client, [fight_key(fight_id) for fight_id in ordered])
    return [fight_row(fight_id, fields) for fight_id, fields in zip(ordered, hashes, strict=True)]


def _read_hashes(client: Any, keys: Sequence[str]) -> list[dict[bytes, bytes]]:
    with client.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.hgetall(key)
        return list(pipe.execute())


def _load(connection: extensions.connection, char_ids: Sequence[int]) -> list[tuple[Any, ...]]:
    """Read rows in one round trip."""
    connection.autocommit = True  # a transaction would make it three
    with connection.cursor() as cursor:
        cursor.execute(_LOAD, (list(char_ids),))
        rows = cursor.fetchall()
    connection.autocommit = False
    return rows


def _core(row: Iterable[Any]) -> dict[str, str]:
    char_id, name, gender, created_at, stage, place, before, vitals, *rest = row
    return {
        "state": stage,
        "bio": json.dumps({"name": name, "gender": gender, "created_at": str(created_at)}),
        "location": json.dumps({"current": place, "prev": before}),
        "vitals": json.dumps(vitals),
        "stats": json.dumps(dict(zip(STATS, rest[-9:-1], strict=True))),
        "id": str(char_id),
    }


# The floor's worker processes


def process_pool(processes: int) -> contextlib.AbstractContextManager[Pool]:
    """Return a pool for ``save_in_process``; Ctrl-C is its parent's business."""
    ignore_sigint = (signal.SIGINT, signal.SIG_IGN)
    return get_context("spawn").Pool(processes, signal.signal, ignore_sigint)


def save_in_process(settings: Settings, char_ids: Sequence[int], seconds: float = 0) -> float:
    """Save in a process of a pool, again and again for ``seconds``.

    Returns the seconds of CPU that it took.
    """
    client, connection = _connections(settings)
    before = time.process_time()
    until = time.monotonic() + seconds
    while True:
        save(client, connection, char_ids)
        if time.monotonic() >= until:
            return time.process_time() - before


@cache
def _connections(settings: Settings) -> tuple[Any, extensions.connection]:
    return connect(settings)


def shares(char_ids: Sequence[int], processes: int) -> list[Sequence[int]]:
    """Return ids in a share for each process."""
    share = -(-len(char_ids) // processes)
    return [char_ids[i : i + share] for i in range(0, len(char_ids), share)]
