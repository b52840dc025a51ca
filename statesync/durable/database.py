"""Owns the connection to PostgreSQL: the engine, how long it waits, and what its errors mean."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import psycopg2.extensions
from sqlalchemy import Connection, Dialect, Engine, Select, create_engine, event
from sqlalchemy.engine import Compiled
from sqlalchemy.exc import DBAPIError, InvalidatePoolError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry

from statesync import tracing
from statesync.durable import realms
from statesync.durable.alarms import Alarm
from statesync.durable.limits import begin, limits, opening
from statesync.durable.rights import missing_grants
from statesync.errors import DatabaseForbidden, DatabaseUnavailable, NotMigrated, SettingsError
from statesync.settings import Settings
from statesync.state.fields import dump_json, load_json, printable
from statesync.urls import mask_or_hide

__all__ = [
    "QUICK_SECONDS",
    "UNREADABLE",
    "Rejected",
    "connect",
    "fetch",
    "ping",
    "statement",
    "transaction",
    "work_of",
]

_REST_SECONDS = 1
"""How long a connection may lie in the pool before its next use tests it."""
_TCP = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
"""After some 25 s a connection is over whose other end is gone; sent data waits 15 s."""

QUICK_SECONDS = 15
"""How long what a player waits for, a login, waits for an answer."""
_CONNECT_SECONDS = 5
_GRACE_SECONDS = 2
"""A statement's own limit, which PostgreSQL keeps, comes before ours."""

_ANSWER = "statesync_answer_seconds"
"""The option of an engine that says how long to wait for an answer."""

_FAILED = psycopg2.extensions.TRANSACTION_STATUS_INERROR
_LOCKED = ("55P03", "40P01")  # lock_not_available, deadlock_detected
_MISTAKES = ("21", "22", "23", "42")  # cardinality, data, integrity, syntax: classes of errors
_BAD_DATA = ("22", "23", "54")  # data, integrity, a limit of PostgreSQL: classes of errors
_NO_RIGHT = "42501"  # insufficient_privilege
_NO_ENTRY = ("28000", "28P01", "3D000")  # authorization, password, no such database
_REFUSES_LOGIN = re.compile(
    r"authentication failed|no pg_hba\.conf entry|(role|database) \".*\" does not exist"
    r"|permission denied for database|not permitted to log in|no password supplied"
    r"|no such database"
)
"""What a refused login says, by PostgreSQL or PgBouncer: libpq gives no code for it."""
_READ_ONLY = "25006"  # read_only_sql_transaction
_NO_SUCH_TABLE = ("42P01", "42703")  # undefined table, undefined column

_SPAN = {"db.system.name": "postgresql"}

UNREADABLE = (ValueError, RecursionError)
"""What a row raises that Python has no value for: the year 20000, JSON a thousand deep."""


class Rejected(Exception):
    """PostgreSQL refused this data, or another transaction held a lock for too long."""

    def __init__(self, message: str, *, locked: bool) -> None:
        super().__init__(message)
        self.locked = locked


def connect(settings: Settings, *, answer_seconds: float | None = None) -> Engine:
    """Return an engine on the database of ``settings``; it connects when it is first used.

    A transaction that does not say otherwise waits ``answer_seconds`` for each answer, or else as
    long as a lease.
    """
    try:
        first = opening(limits(settings))
        engine = create_engine(
            settings.database_url,
            execution_options={
                _ANSWER: answer_seconds or settings.lease_seconds + _GRACE_SECONDS,
                realms.OPTION: settings.realm,
            },
            json_serializer=dump_json,
            json_deserializer=load_json,
            hide_parameters=True,
            connect_args=_connect_args(settings),
        )
    except (SQLAlchemyError, ValueError):
        shown = mask_or_hide(settings.database_url)
        raise SettingsError(
            f"STATESYNC_DATABASE_URL: {shown} is not accepted; it must be "
            "postgresql://user:password@host:port/database, and options in it -c name=value"
        ) from None
    event.listen(engine, "checkin", _note_use)
    event.listen(engine, "checkout", _ping_if_rested)
    event.listen(engine, "before_cursor_execute", partial(begin, first), retval=True)
    event.listen(engine, "before_cursor_execute", _expect_answer)
    event.listen(engine, "commit", _expect_answer)
    _engines.add(engine)
    return engine


def _connect_args(settings: Settings) -> dict[str, Any]:
    """Return how to connect; what the URL says wins."""
    ours: dict[str, Any] = {
        "connect_timeout": _CONNECT_SECONDS,
        **_TCP,
        "application_name": "statesync",
    }
    given = dict(parse_qsl(urlsplit(settings.database_url).query))
    # Each transaction sets the options itself.
    return {name: given.get(name, value) for name, value in ours.items()} | {"options": ""}


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _forget_connections() -> None:
    """Leave the connections of a fork to its parent."""
    for engine in list(_engines):
        engine.dispose(close=False)


os.register_at_fork(after_in_child=_forget_connections)


class _Wait:
    """The wait of a transaction for each answer; it ends by closing the connection."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self.connection: Any = None
        self._alarm = Alarm(self._shut)

    def begin(self, connection: Any, seconds: float | None) -> None:
        """Expect an answer within ``seconds`` from now."""
        self.connection = connection
        if seconds is not None:
            self._alarm.start(seconds)

    def end(self) -> None:
        """Expect no answer any more."""
        self._alarm.stop()

    def expired(self) -> bool:
        """Whether an answer did not come in time."""
        return self._alarm.rang

    def _shut(self) -> None:
        with (
            suppress(OSError, psycopg2.Error),
            socket.socket(fileno=os.dup(self.connection.fileno())) as connection,
        ):
            connection.shutdown(socket.SHUT_RDWR)


_current = threading.local()
"""``wait`` is that of the transaction that the thread is in."""


def _expect_answer(connection: Connection, *_: object) -> None:
    wait: _Wait | None = getattr(_current, "wait", None)
    if wait:
        wait.begin(connection.connection.dbapi_connection, wait.seconds)


@contextmanager
def _waiting(seconds: float | None) -> Iterator[_Wait]:
    """Limit how long a transaction of this thread waits for each answer."""
    outer = getattr(_current, "wait", None)
    _current.wait = wait = _Wait(seconds)
    try:
        yield wait
    finally:
        wait.end()
        _current.wait = outer


def _note_use(_: object, record: ConnectionPoolEntry) -> None:
    record.info["used_at"] = time.monotonic()


def _ping_if_rested(connection: Any, record: ConnectionPoolEntry, _: object) -> None:
    """Replace connections that a restart of PostgreSQL has ended.

    A ping before every transaction would cost each a round trip, and a connection can break in use
    anyway, which callers handle.
    """
    now = time.monotonic()
    if now - record.info.get("used_at", now) < _REST_SECONDS:
        return
    wait: _Wait | None = getattr(_current, "wait", None)
    if wait:
        wait.begin(connection, _CONNECT_SECONDS)
    try:
        with _autocommit(connection), connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except psycopg2.Error as error:
        raise InvalidatePoolError from error


@contextmanager
def _autocommit(driver_connection: Any) -> Iterator[None]:
    """Make each statement in a block a transaction of its own.

    Only the driver knows of it: SQLAlchemy's own way would ask the server.
    """
    driver_connection.autocommit = True
    try:
        yield
    finally:
        if not driver_connection.closed:
            driver_connection.autocommit = False


@contextmanager
def transaction(
    engine: Engine, *, answer_seconds: float | None = None, of_any_realm: bool = False
) -> Iterator[Connection]:
    """Run a block in a transaction: committed at its end, rolled back if it raises.

    Each statement is answered within ``answer_seconds``, or else the lease, or the connection is
    closed. The first one looks whose tables these are, unless they may be ``of_any_realm``. Raises
    Rejected if the data or a lock is the cause, NotMigrated, or DatabaseUnavailable.
    """
    seconds = answer_seconds or engine.get_execution_options().get(_ANSWER)
    with tracing.span("transaction", _SPAN, kind="CLIENT"), _waiting(seconds) as wait:
        try:
            if not of_any_realm and engine not in _checked:
                _check_realm(engine)
            with engine.begin() as connection:
                yield connection
        except Exception as error:
            if wait.expired():  # whatever a caller has made of the error
                raise DatabaseUnavailable(
                    f"PostgreSQL at {_address(engine)}: it does not answer"
                ) from None
            if isinstance(error, DBAPIError):
                raise _translated(error, engine) from None
            if isinstance(error, PoolTimeout):
                raise DatabaseUnavailable(
                    f"PostgreSQL at {_address(engine)}: all connections are busy"
                ) from None
            raise


_checked: weakref.WeakSet[Engine] = weakref.WeakSet()
"""Engines that are known to be on the tables of their own realm."""


def _check_realm(engine: Engine) -> None:
    with engine.begin() as connection:
        realms.check(connection, engine.get_execution_options().get(realms.OPTION, ""))
    _checked.add(engine)


@contextmanager
def statement(engine: Engine, *, answer_seconds: float | None = None) -> Iterator[Connection]:
    """Run one statement that is its own transaction: one round trip, not three.

    Raises as ``transaction`` does.
    """
    with (
        transaction(engine, answer_seconds=answer_seconds) as connection,
        _autocommit(connection.connection.dbapi_connection),
    ):
        yield connection


def fetch(
    connection: Connection, query: Select[Any], parameters: Mapping[str, Any]
) -> list[tuple[Any, ...]]:
    """Return the rows of a query as the driver reads them.

    For one row, SQLAlchemy's own way takes twice as long, and a player waits for it. Raises
    DBAPIError, and whatever the driver raises on a value that it cannot read.
    """
    compiled = _compiled(query, connection.dialect)
    driver_connection: Any = connection.connection.dbapi_connection
    try:
        with driver_connection.cursor() as cursor:
            values = {**compiled.params, **parameters}
            context = SimpleNamespace()  # listeners of others write to it
            sent = compiled.string
            for listener in connection.dispatch.before_cursor_execute:
                sent, values = listener(connection, cursor, sent, values, context, False)
            told = (cursor, sent, values, context, False)
            cursor.execute(sent, values)
            connection.dispatch.after_cursor_execute(connection, *told)
            rows: list[tuple[Any, ...]] = cursor.fetchall()
            return rows
    except psycopg2.Error as error:
        if driver_connection.closed:
            connection.invalidate(error)
        raise DBAPIError(None, None, error) from None


@lru_cache(maxsize=16)
def _compiled(query: Select[Any], dialect: Dialect) -> Compiled:
    return query.compile(dialect=dialect)


@contextmanager
def work_of(problem: str, connection: Connection | None = None) -> Iterator[None]:
    """Run a block of code that is not ours, a session type's, in our transaction.

    Raises Rejected, with ``problem`` before the cause, if the code or its data is wrong, and also
    if the code caught an error of PostgreSQL on ``connection``. Errors of the server pass through.
    """
    try:
        yield
        _check_not_failed(connection)
    except Exception as error:
        cause = f"{type(error).__name__}: {_first_line_of(error)}"
        if isinstance(error, DBAPIError):
            if _code(error) == _NO_RIGHT or _code(error)[:2] not in _MISTAKES:
                raise
            cause = _first_line(error)
        raise Rejected(f"{problem}: {cause}", locked=False) from error


def _check_not_failed(connection: Connection | None) -> None:
    if connection and connection.connection.get_transaction_status() == _FAILED:
        raise RuntimeError("it has caught an error of PostgreSQL, which ends the transaction")


def ping(engine: Engine) -> None:
    """Raise DatabaseUnavailable unless PostgreSQL answers."""
    with transaction(engine, answer_seconds=QUICK_SECONDS) as connection:
        connection.exec_driver_sql("SELECT 1")


def _translated(error: DBAPIError, engine: Engine) -> Exception:
    code, message = _code(error), _first_line(error)
    if code in _LOCKED:
        return Rejected(message, locked=True)
    if code[:2] in _BAD_DATA:
        return Rejected(message, locked=False)
    if code == _READ_ONLY:
        engine.dispose()  # a connection that is open stays so, when the server takes writes again
    advice = _advice(engine) if code in (_NO_RIGHT, *_NO_SUCH_TABLE) else ""
    if code in _NO_SUCH_TABLE and not advice:
        return NotMigrated(f"{message}; run `statesync migrate`")
    where = f"PostgreSQL at {_address(engine)}"
    no_entry = code in _NO_ENTRY or (not code and _REFUSES_LOGIN.search(message))
    if advice or no_entry or code == _NO_RIGHT:
        return DatabaseForbidden(f"{where}: {message}{advice}")
    return DatabaseUnavailable(f"{where}: {message}")


def _advice(engine: Engine) -> str:
    """Return how the owner of the tables gives us the rights that we lack, if it can be told."""
    try:
        with engine.connect() as connection:
            grants = missing_grants(connection)
    except SQLAlchemyError:
        return ""
    return f"; as the owner of the tables: {'; '.join(grants)}" if grants else ""


def _code(error: DBAPIError) -> str:
    return getattr(error.orig, "pgcode", None) or ""


def _first_line(error: DBAPIError) -> str:
    return _first_line_of(error.orig)


def _first_line_of(error: object) -> str:
    return printable(str(error).strip().split("\n")[0])


def _address(engine: Engine) -> str:
    return mask_or_hide(engine.url.render_as_string(hide_password=True))
