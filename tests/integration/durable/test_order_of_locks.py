"""Every transaction locks rows in the order of their ids, so that two never wait for each other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, text

from statesync import durable
from statesync.durable import database
from statesync.durable.rows import core_rows
from statesync.lifecycle import deletion
from statesync.state.characters import Character
from statesync.state.seals import Seals
from statesync.state.sessions import Session

Decide = Callable[[Connection], object]


def waiting(engine: Engine) -> int:
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    with engine.begin() as connection:
        found = connection.execute(text(f"{query} AND datname = current_database()"))
        return int(found.scalar_one())


def holds_later_row(engine: Engine, table: str, first: Any, last: Any, decide: Decide) -> bool:
    """Run ``decide`` while the first row is locked; return whether it has locked the last one."""
    lock = f"SELECT id FROM {table} WHERE id = :id FOR UPDATE SKIP LOCKED"

    def run() -> None:
        with database.transaction(engine) as connection:
            decide(connection)

    with engine.connect() as holder:
        assert holder.execute(text(lock), {"id": first}).all()
        thread = threading.Thread(target=run)
        thread.start()
        while not waiting(engine):
            assert thread.is_alive()
            time.sleep(0.005)
        with engine.connect() as other:
            free = other.execute(text(lock), {"id": last}).all()
        holder.rollback()
        thread.join()
    return not free


def test_characters(engine: Engine) -> None:
    pair = [core_rows(Character(char_id, version=1), 1) for char_id in (2, 1)]
    for one in pair:  # one by one, so that the table holds 2 before 1
        with database.transaction(engine) as connection:
            durable.characters.write(connection, [one], [])

    def decide(connection: Connection) -> object:
        return durable.characters.decide(connection, pair, dict.fromkeys((1, 2), Seals(2)))

    assert not holds_later_row(engine, "characters", 1, 2, decide)


def test_sessions(engine: Engine) -> None:
    first, last = UUID(int=1), UUID(int=2)
    pair = [Session("combat", session_id, {}, 1) for session_id in (last, first)]
    for one in pair:
        with database.transaction(engine) as connection:
            durable.sessions.write(
                connection, [one], [], {one.id: {}}, saved=(), seals={one.id: Seals(1)}
            )

    def decide(connection: Connection) -> object:
        return durable.sessions.decide(connection, pair, dict.fromkeys((first, last), Seals(2)))

    assert not holds_later_row(engine, "sessions", first, last, decide)


def test_sessions_of_a_deletion(engine: Engine) -> None:
    first, last = UUID(int=1), UUID(int=2)
    with database.transaction(engine) as connection:
        connection.execute(text("INSERT INTO characters (id, version) VALUES (1, 1)"))
        for session_id in (last, first):
            values = {"id": session_id}
            session = "INSERT INTO sessions (id, session_type, payload, version)"
            connection.execute(text(f"{session} VALUES (:id, 'combat', '{{}}', 1)"), values)
            member = "INSERT INTO session_characters (session_id, character_id) VALUES (:id, 1)"
            connection.execute(text(member), values)

    def decide(connection: Connection) -> object:
        return deletion._open_sessions(connection, 1)

    assert not holds_later_row(engine, "sessions", first, last, decide)
