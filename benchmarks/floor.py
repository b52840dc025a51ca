"""Owns what statesync is compared with: the naive twin, and the floor. Neither is safe.

Run as a Celery application (``celery -A benchmarks.floor worker``) it is the naive twin.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg2
import redis
import redis.asyncio
from celery import Celery
from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Session

from statesync.durable.tables import (
    STATS,
    character_stats,
    characters,
    session_characters,
    sessions,
)
from statesync.settings import Settings

__all__ = [
    "app",
    "async_client",
    "connect",
    "floor_load",
    "floor_restore",
    "floor_save",
    "naive_nothing",
    "naive_save",
    "naive_sweep",
    "save_naively",
]

_STEP = 500


def connect(settings: Settings) -> tuple[Any, Any]:
    """Return a client and a connection, with nothing of ours between."""
    url = settings.database_url.replace("+psycopg2", "")
    return redis.Redis.from_url(settings.redis_url), psycopg2.connect(url)


def async_client(settings: Settings) -> Any:
    """Return a client for asyncio, with nothing of ours between."""
    return redis.asyncio.Redis.from_url(settings.redis_url)


class _Base(DeclarativeBase):
    pass


class _Character(_Base):
    __table__ = characters


class _Stats(_Base):
    __table__ = character_stats


class _Fight(_Base):
    __table__ = sessions


class _Member(_Base):
    __table__ = session_characters


def _decoded(char_id: int, core: dict[bytes, bytes]) -> dict[str, Any]:
    bio = json.loads(core.get(b"bio", b"{}"))
    location = json.loads(core.get(b"location", b"{}"))
    return {
        "id": char_id,
        "name": bio.get("name"),
        "gender": bio.get("gender"),
        "created_at": bio.get("created_at"),
        "game_stage": core.get(b"state", b"").decode(),
        "location_id": location.get("current"),
        "prev_location_id": location.get("prev"),
        "vitals": json.loads(core.get(b"vitals", b"{}")),
        "extra": {},
        "version": int(core.get(b"version", b"0")),
    }


def _fight(fight_id: str, held: dict[bytes, bytes]) -> dict[str, Any]:
    payload = {name: json.loads(held[name.encode()]) for name in _FIGHT}
    version = int(held[b"version"])
    return {"id": fight_id, "session_type": "combat", "payload": payload, "version": version}


_FIGHT = ("participants", "monsters", "turn_order")


# The naive twin

app = Celery("naive")  # the broker: CELERY_BROKER_URL
app.conf.task_default_queue = "naive"
app.conf.task_ignore_result = True
_connected: list[Any] = []


def _connections() -> list[Any]:
    if not _connected:
        settings = Settings.from_env()
        client = redis.Redis.from_url(settings.redis_url)
        _connected.extend([client, create_engine(settings.database_url)])
    return _connected


def save_naively(client: Any, engine: Engine, char_id: int) -> None:
    """Save a character, and the fight it is in, as one would write it first."""
    core = client.hgetall(f"ac:{char_id}")
    row = _decoded(char_id, core)
    row["created_at"] = datetime.fromisoformat(row["created_at"])
    with Session(engine) as session:
        session.merge(_Character(**row))
        stats = json.loads(core.get(b"stats", b"{}"))
        session.merge(_Stats(character_id=char_id, extra={}, **stats))
        if fight_id := core.get(b"combat_session_id", b"").decode():
            key = f"combat:session:{fight_id}"
            fight = _fight(fight_id, client.hgetall(key))
            log = [json.loads(entry) for entry in client.lrange(f"{key}:log", 0, -1)]
            fight["id"] = UUID(fight_id)
            fight["payload"]["log"] = log
            session.merge(_Fight(**fight))
            session.merge(_Member(session_id=fight["id"], character_id=char_id))
        session.commit()
    client.srem("dirty_accounts", char_id)


# Two of one fight may both find that its row is not there yet.
@app.task(name="naive.save", autoretry_for=(IntegrityError,), default_retry_delay=0)
def naive_save(char_id: int) -> None:
    """Save a character in a task of its own."""
    client, engine = _connections()
    save_naively(client, engine, char_id)


@app.task(name="naive.sweep")
def naive_sweep() -> None:
    """Send a task for each dirty character."""
    client, _ = _connections()
    for name in client.smembers("dirty_accounts"):
        naive_save.delay(int(name))


@app.task(name="naive.nothing")
def naive_nothing() -> None:
    """Do nothing: what is left is what Celery costs."""


# The floor

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


def _steps(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    return (ids[i : i + _STEP] for i in range(0, len(ids), _STEP))


def floor_save(client: Any, connection: Any, ids: Sequence[int]) -> None:
    """Read cores and fights and write their rows, in batches; no marks, no fence, no checks."""
    for step in _steps(ids):
        cores = _hashes(client, [f"ac:{char_id}" for char_id in step])
        rows = [_decoded(i, core) for i, core in zip(step, cores, strict=True)]
        stats = [
            {"character_id": i, "extra": {}, **json.loads(core[b"stats"])}
            for i, core in zip(step, cores, strict=True)
        ]
        members = [
            {"session_id": core[b"combat_session_id"].decode(), "character_id": i}
            for i, core in zip(step, cores, strict=True)
            if b"combat_session_id" in core
        ]
        fight_ids = sorted({str(member["session_id"]) for member in members})
        held = _hashes(client, [f"combat:session:{fight_id}" for fight_id in fight_ids])
        fights = [_fight(*fight) for fight in zip(fight_ids, held, strict=True)]
        with connection, connection.cursor() as cursor:
            cursor.execute(_SAVE, {"rows": json.dumps(rows), "stats": json.dumps(stats)})
            if fights:
                both = {"fights": json.dumps(fights), "members": json.dumps(members)}
                cursor.execute(_SAVE_FIGHTS, both)


def _hashes(client: Any, keys: Sequence[str]) -> list[Any]:
    with client.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.hgetall(key)
        return list(pipe.execute())


def floor_load(connection: Any, ids: Sequence[int]) -> list[Any]:
    """Read rows in one round trip."""
    connection.autocommit = True  # else it would be three
    with connection.cursor() as cursor:
        cursor.execute(_LOAD, (list(ids),))
        rows = list(cursor.fetchall())
    connection.autocommit = False
    return rows


def floor_restore(client: Any, connection: Any, ids: Sequence[int]) -> None:
    """Read rows and write their cores, in batches; whatever is there is written over."""
    for step in _steps(ids):
        with client.pipeline(transaction=False) as pipe:
            for row in floor_load(connection, step):
                pipe.hset(f"ac:{row[0]}", mapping=_core(row))
            pipe.execute()


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
