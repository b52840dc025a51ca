"""Owns the floor: loops with the drivers alone, without marks, fence and checks. It is not safe.

Its save is the fastest that we know in Python: one script reads a batch, its reply is decoded in C,
the JSON texts of the cores go as they are into one statement, in one process.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
import psycopg2
import redis
from psycopg2 import extensions

from statesync.durable.tables import STATS
from statesync.settings import Settings

__all__ = ["Floor", "connect", "restore"]

_BATCH = 500

_READ = """local hashes = {}
for i, id in ipairs(cmsgpack.unpack(ARGV[2])) do
    hashes[i] = redis.call('HGETALL', ARGV[1] .. id)
end
return cmsgpack.pack(hashes)"""
_HASHES = msgspec.msgpack.Decoder(list[list[str]])
_JSON_FIELDS = ("location", "bio", "stats")
_FIGHT_FIELDS = ("participants", "monsters", "turn_order")

_SAVE = f"""WITH cores AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset(%s) AS r (id bigint, version bigint, state text, current text,
    prev text, name text, gender text, created_at timestamptz, vitals jsonb,
    {" int, ".join(STATS)} int)
), saved AS (
    UPDATE characters c SET name = r.name, gender = r.gender, created_at = r.created_at,
    game_stage = state, location_id = current, prev_location_id = prev, vitals = r.vitals,
    version = r.version FROM cores r WHERE c.id = r.id
)
UPDATE character_stats s SET {", ".join(f"{name} = r.{name}" for name in STATS)}
    FROM cores r WHERE s.character_id = r.id
    AND ({", ".join(f"s.{name}" for name in STATS)}) IS DISTINCT FROM
    ({", ".join(f"r.{name}" for name in STATS)})"""  # noqa: S608 - of our own names
_SAVE_FIGHTS = """INSERT INTO sessions (id, session_type, payload, version)
    SELECT id, 'combat', payload, version FROM jsonb_to_recordset(%s) AS f
    (id uuid, payload jsonb, version bigint)
    ON CONFLICT (id) DO UPDATE SET payload = excluded.payload, version = excluded.version;
INSERT INTO session_characters (session_id, character_id)
    SELECT * FROM jsonb_to_recordset(%s) AS m (session_id uuid, character_id bigint)
    ON CONFLICT DO NOTHING"""
_MAKE_ROWS = """INSERT INTO characters (id) SELECT unnest(%(ids)s::bigint[]);
INSERT INTO character_stats (character_id) SELECT unnest(%(ids)s::bigint[])"""
_LOAD = "SELECT * FROM characters JOIN character_stats ON character_id = id WHERE id = ANY(%s)"


def connect(settings: Settings) -> tuple[Any, extensions.connection]:
    """Return a Redis client and a PostgreSQL connection, with nothing of ours between."""
    url = settings.database_url.replace("+psycopg2", "")
    return redis.Redis.from_url(settings.redis_url), psycopg2.connect(url)


class Floor:
    """Saves cores and fights: their rows are updated, whatever they hold."""

    def __init__(self, client: Any, connection: extensions.connection) -> None:
        self._connection = connection
        self._script = client.register_script(_READ)

    def make_rows(self, char_ids: Sequence[int]) -> None:
        """Make the rows that ``save`` updates."""
        with self._connection, self._connection.cursor() as cursor:
            cursor.execute(_MAKE_ROWS, {"ids": list(char_ids)})

    def save(self, char_ids: Sequence[int]) -> None:
        """Read cores and fights and update their rows, in batches."""
        for batch in _batches(char_ids):
            cores = self._read("ac:", batch)
            fighting = [
                (char_id, core["combat_session_id"])
                for char_id, core in zip(batch, cores, strict=True)
                if "combat_session_id" in core
            ]
            with self._connection, self._connection.cursor() as cursor:
                cursor.execute(_SAVE, (_array(map(_core_text, batch, cores)),))
                if fighting:
                    cursor.execute(_SAVE_FIGHTS, self._fights(fighting))

    def _read(self, prefix: str, ids: Sequence[int] | Sequence[str]) -> list[dict[str, str]]:
        reply = self._script(args=(prefix, msgspec.msgpack.encode(list(ids))))
        return [dict(zip(flat[::2], flat[1::2], strict=True)) for flat in _HASHES.decode(reply)]

    def _fights(self, fighting: Sequence[tuple[int, str]]) -> tuple[str, str]:
        """Return the fights and who is in them, as JSON."""
        fight_ids = list(dict.fromkeys(fight_id for _, fight_id in fighting))
        hashes = self._read("combat:session:", fight_ids)
        members = (
            f'{{"session_id":"{fight_id}","character_id":{char_id}}}'
            for char_id, fight_id in fighting
        )
        return _array(map(_fight_text, fight_ids, hashes)), _array(members)


def restore(client: Any, connection: extensions.connection, char_ids: Sequence[int]) -> None:
    """Read rows and write their cores, in batches, over whatever Redis holds."""
    for batch in _batches(char_ids):
        with client.pipeline(transaction=False) as pipe:
            for row in _load(connection, batch):
                pipe.hset(f"ac:{row[0]}", mapping=_core(row))
            pipe.execute()


def _batches(char_ids: Sequence[int]) -> Iterator[Sequence[int]]:
    return (char_ids[i : i + _BATCH] for i in range(0, len(char_ids), _BATCH))


def _array(texts: Iterable[str]) -> str:
    return f"[{','.join(texts)}]"


def _core_text(char_id: int, core: dict[str, str]) -> str:
    """Return a core as one JSON object, with the keys of its location, bio and stats in it."""
    inner = ",".join([core[name][1:-1] for name in _JSON_FIELDS])
    return (
        f'{{"id":{char_id},"version":{core["version"]},"state":"{core["state"]}",{inner},'
        f'"vitals":{core["vitals"]}}}'
    )


def _fight_text(fight_id: str, fight: dict[str, str]) -> str:
    payload = ",".join([f'"{name}":{fight[name]}' for name in _FIGHT_FIELDS])
    return f'{{"id":"{fight_id}","version":{fight["version"]},"payload":{{{payload}}}}}'


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
