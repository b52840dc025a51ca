"""Owns what each of our transactions sets for itself: its time limits, and what the URL adds.

It travels in one message with the first statement of the transaction, so it costs no round trip. A
pooler such as PgBouncer refuses start-up options or drops them, and what one client sets for its
session, another one would meet.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import psycopg2.extensions
from sqlalchemy import Connection, text

from statesync.settings import Settings

__all__ = ["begin", "different_limits", "limits", "opening"]

_IDLE = psycopg2.extensions.TRANSACTION_STATUS_IDLE

_LOCK_SECONDS = 5
"""How long a statement waits for a lock."""
_IDLE_SECONDS = 15
"""After this PostgreSQL ends a transaction whose worker was stopped in the middle."""

_OPTION = re.compile(r"\s*(?:-c\s*|--)([A-Za-z_][\w.-]*)=((?:\\.|[^\s\\])*)(?:\s+|$)")
"""One word of libpq's ``options``; a backslash stands before a space in a value."""


def limits(settings: Settings) -> dict[str, str]:
    """Return the settings of a transaction by name; the ``options`` in the URL win over ours.

    Raises ValueError if those are not of the form ``-c name=value``.
    """
    ours = {
        "statement_timeout": f"{settings.lease_seconds}s",
        "lock_timeout": f"{_LOCK_SECONDS}s",
        "idle_in_transaction_session_timeout": f"{_IDLE_SECONDS}s",
        # In another zone a moment at the end of the year 9999 is in one that Python lacks.
        "timezone": "UTC",
    }
    given = dict(parse_qsl(urlsplit(settings.database_url).query)).get("options", "")
    return ours | _parse(given)


def _parse(options: str) -> dict[str, str]:
    found, end = {}, 0
    while end < len(options):
        word = _OPTION.match(options, end)
        if not word:
            raise ValueError("its options must be of the form -c name=value")
        found[word[1].replace("-", "_").lower()] = re.sub(r"\\(.)", r"\1", word[2])
        end = word.end()
    return found


def opening(values: Mapping[str, str]) -> str:
    """Return the statements that set ``values`` until the transaction ends.

    Not ``set_config``, which would take a list as it is: that made saves dearer for PostgreSQL.
    """
    return "; ".join(f"SET LOCAL {name} = {_quoted(value)}" for name, value in values.items())


def _quoted(value: str) -> str:
    """Return a value, or the parts of a list such as ``search_path``, as literals.

    They have no percent sign, which the driver would take for a parameter.
    """
    parts = (part.strip().strip('"') for part in value.split(","))
    escaped = (re.sub(r"[\\'%]", lambda found: f"\\x{ord(found[0]):02x}", part) for part in parts)
    return ", ".join(f"E'{part}'" for part in escaped)


def begin(
    first: str, connection: Connection, _: object, query: str, parameters: Any, *__: object
) -> tuple[str, Any]:
    """Put ``first`` before a statement that begins a transaction, in the same message."""
    driver_connection: Any = connection.connection.dbapi_connection
    begins = driver_connection.get_transaction_status() == _IDLE
    return (f"{first}; {query}" if begins else query), parameters


def different_limits(connection: Connection, settings: Settings) -> list[str]:
    """Return what is not in force in the transaction of ``connection``: its name, what is, and what
    should be."""
    expected = limits(settings)
    query = text("SELECT current_setting(name) FROM unnest(CAST(:names AS text[])) AS name")
    names = {"names": list(expected)}
    found = connection.scalars(query, names).all()
    connection.exec_driver_sql(opening(expected))
    wanted = connection.scalars(query, names).all()  # as PostgreSQL writes it
    compared = zip(expected, found, wanted, strict=True)
    return [
        f"{name} is {is_now}, not {should}" for name, is_now, should in compared if is_now != should
    ]
