"""Owns the connection to PostgreSQL: the engine, its time limits, and what its errors mean."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2.extensions
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, InvalidatePoolError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry

from statesync.errors import DatabaseUnavailable, NotMigrated, SettingsError
from statesync.settings import Settings, mask_or_hide
from statesync.state.fields import dump_json, load_json

__all__ = ["Rejected", "connect", "ping", "statement", "transaction", "work_of"]

_LOCK_SECONDS = 5
_REST_SECONDS = 1
_IDLE_SECONDS = 15
"""After this a transaction whose worker was stopped in the middle gives its locks back."""


_FAILED = psycopg2.extensions.TRANSACTION_STATUS_INERROR
_MISTAKES = ("21", "22", "23", "42")
"""Classes of PostgreSQL's errors: too many rows, data, integrity, and a statement that is wrong."""


class Rejected(Exception):
    """PostgreSQL refused this data, or waited too long for a lock that somebody else holds."""

    def __init__(self, message: str, *, locked: bool) -> None:
        super().__init__(message)
        self.locked = locked


def connect(settings: Settings) -> Engine:
    """Return an engine on the database of ``settings``; it connects when it is first used."""
    limits = {
        "statement_timeout": settings.lease_seconds,
        "lock_timeout": _LOCK_SECONDS,
        "idle_in_transaction_session_timeout": _IDLE_SECONDS,
    }
    try:
        engine = create_engine(
            settings.database_url,
            json_serializer=dump_json,
            json_deserializer=load_json,
            hide_parameters=True,
            connect_args={
                "connect_timeout": 5,
                "application_name": "statesync",
                "options": " ".join(f"-c {name}={s * 1000}" for name, s in limits.items()),
            },
        )
    except (SQLAlchemyError, ValueError):
        shown = mask_or_hide(settings.database_url)
        raise SettingsError(
            f"STATESYNC_DATABASE_URL: {shown} is not accepted; "
            "it must be postgresql://user:password@host:port/database"
        ) from None
    event.listen(engine, "checkin", _note_use)
    event.listen(engine, "checkout", _ping_after_rest)
    return engine


def _note_use(_: object, record: ConnectionPoolEntry) -> None:
    record.info["used"] = time.monotonic()


def _ping_after_rest(connection: Any, record: ConnectionPoolEntry, _: object) -> None:
    """Have connections made anew that a restart of PostgreSQL has ended. Asking every time would be
    a round trip for every transaction; that one breaks while in use the caller is told anyway."""
    if time.monotonic() - record.info.get("used", time.monotonic()) < _REST_SECONDS:
        return
    try:
        with _alone(connection), connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except psycopg2.Error as error:
        raise InvalidatePoolError from error


@contextmanager
def _alone(raw: Any) -> Iterator[None]:
    """Let each statement on a driver's connection be a transaction by itself. Only the driver knows
    of it; SQLAlchemy's way to say so asks the server."""
    raw.autocommit = True
    try:
        yield
    finally:
        if not raw.closed:
            raw.autocommit = False


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """Run a block in a transaction: committed at its end, rolled back where it raises.

    Raises Rejected where the data or a lock is the cause, NotMigrated, or DatabaseUnavailable.
    """
    try:
        with engine.begin() as connection:
            yield connection
    except DBAPIError as error:
        raise _meaning(error, engine) from None
    except PoolTimeout:
        raise DatabaseUnavailable(
            f"PostgreSQL at {_where(engine)}: all connections are busy"
        ) from None


@contextmanager
def statement(engine: Engine) -> Iterator[Connection]:
    """Run one statement that is its own transaction: one round trip, not three.

    Raises as ``transaction`` does.
    """
    with (
        transaction(engine) as connection,
        _alone(connection.connection.dbapi_connection),
    ):
        yield connection


@contextmanager
def work_of(whose: str, connection: Connection | None = None) -> Iterator[None]:
    """Run code that is not ours, in our transaction: what is wrong with it or its data, and not
    with a server, is Rejected, with its name. So is an error that it has kept to itself."""
    try:
        yield
        _check_alive(connection)
    except Exception as error:
        shown = f"{type(error).__name__}: {error}"
        if isinstance(error, DBAPIError):
            if (getattr(error.orig, "pgcode", None) or "")[:2] not in _MISTAKES:
                raise
            shown = str(error.orig).strip().split("\n")[0]
        raise Rejected(f"{whose}: {shown}", locked=False) from error


def _check_alive(connection: Connection | None) -> None:
    if connection and connection.connection.get_transaction_status() == _FAILED:
        raise RuntimeError("it has caught an error of PostgreSQL, which ends the transaction")


def ping(engine: Engine) -> None:
    """Raise DatabaseUnavailable unless PostgreSQL answers."""
    with transaction(engine) as connection:
        connection.exec_driver_sql("SELECT 1")


def _meaning(error: DBAPIError, engine: Engine) -> Exception:
    code = getattr(error.orig, "pgcode", None) or ""
    message = str(error.orig).strip().split("\n")[0]
    if code in ("55P03", "40P01"):  # lock_not_available, deadlock_detected
        return Rejected(message, locked=True)
    if code[:2] in ("22", "23", "54"):  # data, integrity, a limit of PostgreSQL
        return Rejected(message, locked=False)
    if code in ("42P01", "42703"):  # undefined table, undefined column
        return NotMigrated(f"{message}; run `statesync migrate`")
    return DatabaseUnavailable(f"PostgreSQL at {_where(engine)}: {message}")


def _where(engine: Engine) -> str:
    return mask_or_hide(engine.url.render_as_string(hide_password=True))
