"""Sessions in PostgreSQL: two first saves at once, and memberships of types that nobody knows."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

import pytest
from sqlalchemy import Engine, text

from statesync import durable
from statesync.durable import database
from statesync.durable.results import Busy, Raced
from statesync.durable.rows import core_rows
from statesync.state.characters import Character
from statesync.state.seals import Seals
from statesync.state.sessions import Session


def test_new_row_raced(engine: Engine) -> None:
    session = Session("combat", uuid4(), {}, 1)
    with database.transaction(engine) as connection:
        durable.sessions.write(
            connection, [session], [], {session.id: {}}, saved=(), seals={session.id: Seals(1)}
        )
    with pytest.raises(Raced), database.transaction(engine) as connection:
        durable.sessions.write(
            connection, [session], [], {session.id: {}}, saved=(), seals={session.id: Seals(1)}
        )


def test_memberships_of_unknown_types_are_left_alone(engine: Engine) -> None:
    session = Session("combat", uuid4(), {}, 1, members=(1,))
    with database.transaction(engine) as connection:
        durable.characters.write(connection, [core_rows(Character(1, version=1), 1)], [])
        durable.sessions.write(
            connection, [session], [], {session.id: {}}, saved=[1], seals={session.id: Seals(1)}
        )
        for type_names, stays in ((["scenario"], True), (["scenario", "combat"], False)):
            durable.memberships.end(connection, [1], lambda _: [], type_names, [])
            assert bool(durable.memberships.current(connection, [1])) is stays


def test_memberships_of_sessions_saved_with_them_and_pointed_at_are_left_alone(
    engine: Engine,
) -> None:
    session = Session("combat", uuid4(), {}, 1, members=(1,))
    with database.transaction(engine) as connection:
        durable.characters.write(connection, [core_rows(Character(1, version=1), 1)], [])
        durable.sessions.write(
            connection, [session], [], {session.id: {}}, saved=[1], seals={session.id: Seals(1)}
        )
        texts = [str(session.id)]
        for pointed_at, saved in (([], texts), (texts, []), (texts, texts)):
            assert (
                durable.memberships.end(
                    connection, [1], {1: pointed_at}.__getitem__, ["combat"], saved
                )
                == []
            )
        left = durable.memberships.end(connection, [1], lambda _: [], ["combat"], [str(uuid4())])
    assert left == [(1, "combat", session.id)]


def test_locked_one_is_busy_for_who_does_not_wait(engine: Engine) -> None:
    session = Session("combat", uuid4(), {}, 1)
    seals = {session.id: Seals(1)}
    with database.transaction(engine) as connection:
        durable.sessions.write(connection, [session], [], {session.id: {}}, saved=(), seals=seals)
    with engine.connect() as holder, database.transaction(engine) as connection:
        holder.execute(text("SELECT 1 FROM sessions FOR UPDATE"))
        later = replace(session, version=2)
        decided = durable.sessions.decide(connection, [later], seals, wait=False)
        holder.rollback()
    assert decided == {session.id: Busy()}
