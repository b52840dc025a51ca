"""Sessions in PostgreSQL: the first save of a session meets the first save of another worker."""

from __future__ import annotations

from uuid import uuid4

import pytest
from sqlalchemy import Engine

from statesync import durable
from statesync.durable import database
from statesync.durable.results import Raced
from statesync.state.sessions import Session


def test_new_row_raced(engine: Engine) -> None:
    session = Session("combat", uuid4(), {}, 1)
    with database.transaction(engine) as connection:
        durable.sessions.write(connection, [session], [], {session.id: {}}, ())
    with pytest.raises(Raced), database.transaction(engine) as connection:
        durable.sessions.write(connection, [session], [], {session.id: {}}, ())
