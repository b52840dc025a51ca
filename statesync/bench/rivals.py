"""Owns what statesync is compared with: the naive twin, and the floor. Neither is safe.

Run as a Celery application (``celery -A statesync.bench.rivals worker``) it is the naive twin.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import psycopg2
import psycopg2.extensions
import redis
from celery import Celery
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Session

from statesync.models import STATS, character_stats, characters
from statesync.settings import Settings

__all__ = ["app", "floor_load", "floor_restore", "floor_save", "naive_save", "naive_sweep"]

STEP = 500


class _Base(DeclarativeBase):
    pass


class _Character(_Base):
    __table__ = characters


class _Stats(_Base):
    __table__ = character_stats


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


@app.task(name="naive.save")
def naive_save(char_id: int) -> None:
    """Save a character as one would write it first."""
    client, engine = _connections()
    core = client.hgetall(f"ac:{char_id}")
    with Session(engine) as session:
        session.merge(_Character(**_decoded(char_id, core)))
        stats = json.loads(core.get(b"stats", b"{}"))
        session.merge(_Stats(character_id=char_id, extra={}, **stats))
        session.commit()
    client.srem("dirty_accounts", char_id)


@app.task(name="naive.sweep")
def naive_sweep() -> None:
    """Send a task for each dirty character."""
    client, _ = _connections()
    for name in client.smembers("dirty_accounts"):
        naive_save.delay(int(name))


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
_LOAD = "SELECT * FROM characters JOIN character_stats ON character_id = id WHERE id = ANY(%s)"


def connect(settings: Settings) -> tuple[Any, Any]:
    """Return a client and a connection, with nothing of ours between."""
    url = settings.database_url.replace("+psycopg2", "")
    return redis.Redis.from_url(settings.redis_url), psycopg2.connect(url)


def _steps(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    return (ids[i : i + STEP] for i in range(0, len(ids), STEP))


def floor_save(client: Any, connection: Any, ids: Sequence[int]) -> None:
    """Read cores and write their rows, in batches; no marks, no fence, no checks."""
    for step in _steps(ids):
        with client.pipeline(transaction=False) as pipe:
            for char_id in step:
                pipe.hgetall(f"ac:{char_id}")
            cores = pipe.execute()
        rows = [_decoded(i, core) for i, core in zip(step, cores, strict=True)]
        stats = [
            {"character_id": i, "extra": {}, **json.loads(core[b"stats"])}
            for i, core in zip(step, cores, strict=True)
        ]
        with connection, connection.cursor() as cursor:
            cursor.execute(_SAVE, {"rows": json.dumps(rows), "stats": json.dumps(stats)})


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
