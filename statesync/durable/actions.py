"""Owns the record of what operators did on their page: who, when, what, and how it ended."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, insert, select, update

from statesync.durable.tables import operator_actions
from statesync.state.fields import MAX_ID

__all__ = ["Action", "begin", "finish", "page"]


class Action(NamedTuple):
    """One action of an operator."""

    id: int
    at: datetime
    who: str
    what: str
    realm: str
    target: str
    outcome: str | None
    """None while it is under way, and for good if the process ended before it could say."""


def begin(connection: Connection, *, who: str, what: str, realm: str, target: str) -> int:
    """Record that an action is about to be done; return its id.

    What is no text for PostgreSQL in ``target`` is escaped.
    """
    written = target.encode(errors="backslashreplace").decode().replace("\0", "\\x00")
    values = {"who": who, "what": what, "realm": realm, "target": written}
    statement = insert(operator_actions).values(values).returning(operator_actions.c.id)
    action_id: int = connection.execute(statement).scalar_one()
    return action_id


def finish(connection: Connection, action_id: int, outcome: str) -> None:
    """Record how an action ended."""
    is_it = operator_actions.c.id == action_id
    connection.execute(update(operator_actions).where(is_it).values(outcome=outcome))


def page(connection: Connection, *, before: int = MAX_ID, limit: int) -> list[Action]:
    """Return up to ``limit`` actions with ids below ``before``, the newest first."""
    query = (
        select(*(operator_actions.c[name] for name in Action._fields))
        .where(operator_actions.c.id < before)
        .order_by(operator_actions.c.id.desc())
        .limit(limit)
    )
    return [Action(*row) for row in connection.execute(query)]
