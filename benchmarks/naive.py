"""Owns the naive twin: the Celery application that one writes first. It loses updates.

``celery -A benchmarks.naive worker`` runs it.
"""

from __future__ import annotations

import json
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

import redis
from celery import Celery
from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Session

from benchmarks.characters import core_row, fight_key, fight_row, stats_row
from statesync.durable.tables import character_stats, characters, session_characters, sessions
from statesync.settings import Settings

__all__ = ["QUEUE", "app", "do_nothing", "save", "save_character", "sweep"]

QUEUE = "naive"

app = Celery("naive")  # the broker: CELERY_BROKER_URL
app.conf.task_default_queue = QUEUE
app.conf.task_ignore_result = True


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


def save_character(client: Any, engine: Engine, char_id: int) -> None:
    """Save a character, and the fight it is in, as one would write it first."""
    core = client.hgetall(f"ac:{char_id}")
    row = core_row(char_id, core)
    row["created_at"] = datetime.fromisoformat(row["created_at"])
    with Session(engine) as session:
        session.merge(_Character(**row))
        session.merge(_Stats(**stats_row(char_id, core)))
        if fight_id := core.get(b"combat_session_id", b"").decode():
            _merge_fight(session, client, fight_id)
            session.merge(_Member(session_id=UUID(fight_id), character_id=char_id))
        session.commit()
    client.srem("dirty_accounts", char_id)


def _merge_fight(session: Session, client: Any, fight_id: str) -> None:
    key = fight_key(fight_id)
    row = fight_row(fight_id, client.hgetall(key))
    row["id"] = UUID(fight_id)
    row["payload"]["log"] = [json.loads(entry) for entry in client.lrange(f"{key}:log", 0, -1)]
    session.merge(_Fight(**row))


@cache
def _connections() -> tuple[Any, Engine]:
    """Return this worker process's connections, made by its first task: after any fork."""
    settings = Settings.from_env()
    return redis.Redis.from_url(settings.redis_url), create_engine(settings.database_url)


# Two tasks of one fight may both find that its row does not exist yet.
@app.task(name="naive.save", autoretry_for=(IntegrityError,), default_retry_delay=0)
def save(char_id: int) -> None:
    """Save a character in a task of its own."""
    client, engine = _connections()
    save_character(client, engine, char_id)


@app.task(name="naive.sweep")
def sweep() -> None:
    """Send a task for each dirty character."""
    client, _ = _connections()
    for member in client.smembers("dirty_accounts"):
        save.delay(int(member))


@app.task(name="naive.nothing")
def do_nothing() -> None:
    """Do nothing: what is left is what Celery costs."""
