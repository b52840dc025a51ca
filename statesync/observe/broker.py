"""Owns what the doctor says of the broker and of the results."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from statesync.errors import StatesyncError
from statesync.hot.commands.health import Examined
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.observe.broker_rights import lacking_rights
from statesync.observe.check import Check, Topic, checked
from statesync.observe.queues import broker_connection, count_if_there, count_messages
from statesync.settings import Settings
from statesync.state.fields import counted
from statesync.urls import database_of, without_secrets
from statesync.worker.names import queues_of

if TYPE_CHECKING:
    from kombu import Connection

__all__ = ["check_broker", "check_results", "problem_of", "server_name"]

_RETRY_SECONDS = 60
"""The longest wait of a task for its next try."""
_KOMBU_VISIBILITY_SECONDS = 3600
"""What the broker's transport uses if nothing is set."""
_OLDEST_RABBITMQ = (3, 10)
# redis-py shows the client of each Sentinel, with all its options.
_SENTINEL_CLIENT = re.compile(r"<redis\..*?\bhost=([^,]*),port=(\d+),.*?\)>\)>\)> - ")


def problem_of(error: Exception, what: str, url: str) -> str:
    """Return what is wrong with the broker or the results: each transport has errors of its own.

    Their texts may have the URL with its password, which is hidden.
    """
    if isinstance(error, StatesyncError):
        return str(error)
    lines = _SENTINEL_CLIENT.sub(r"\1:\2 ", str(error)).strip().split("\n")
    text = f"{type(error).__name__}: {lines[0]}" if lines[0] else type(error).__name__
    return f"{what}: {without_secrets(text, url)}"


def server_name(info: dict[str, str]) -> str:
    """Return the name and the version that a server has, by its INFO."""
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info['redis_version']}"


def check_broker(orchestrator: GameStateOrchestrator, settings: Settings) -> Iterator[Check]:
    """Check that the broker answers, is apart from the state, and waits as long as a task takes."""
    with broker_connection() as connection:
        transport = connection.transport.driver_type
        if transport == "redis":
            yield from _check_redis(connection, orchestrator, settings)
        elif transport == "amqp":
            yield _check_rabbitmq(connection)
            yield _check_declarations(connection)
        else:
            yield checked(Topic.BROKER, transport)
        lengths = ", ".join(
            f"{queue} {count_messages(connection, queue)}" for queue in queues_of(settings)
        )
    yield checked(Topic.MESSAGES, f"waiting: {lengths}")


def _check_rabbitmq(connection: Connection) -> Check:
    told = connection.connection.server_properties
    version = tuple(map(int, re.findall(r"[0-9]+", told["version"])[:2]))
    advice = "RabbitMQ 3.10 or newer is needed: messages in quorum queues have to expire"
    is_old = told["product"] == "RabbitMQ" and version < _OLDEST_RABBITMQ
    return checked(Topic.BROKER, f"{told['product']} {told['version']}", fail=advice * is_old)


def _check_declarations(connection: Connection) -> Check:
    """Check that the queues that there are are as the workers declare them."""
    from kombu.exceptions import ChannelError

    from statesync.worker.app import app

    unlike = []
    for queue in app.amqp.queues.values():
        if count_if_there(connection, queue.name) is None:
            continue
        try:  # to declare a queue that there is changes nothing
            with connection.channel() as channel:
                queue(channel).queue_declare()
        except ChannelError:
            unlike.append(queue.name)
    return checked(
        Topic.DECLARATIONS,
        f"{', '.join(unlike)}: declared in another way" if unlike else "declared as workers do",
        fail="another application was first: delete them, start a worker, and give that "
        "application the settings of docs/operations.md#rabbitmq" * bool(unlike),
    )


def _check_redis(
    connection: Connection, orchestrator: GameStateOrchestrator, settings: Settings
) -> Iterator[Check]:
    from statesync.worker.app import app

    channel: Any = connection.default_channel
    yield _check_rights(channel, queues_of(settings)[0])
    info = channel.client.info()
    db = channel.client.connection_pool.connection_kwargs.get("db") or 0
    yield checked(Topic.BROKER, f"database {db} of {server_name(info)}")
    is_shared = _is_ours(orchestrator.hot.examine([]), settings, info["run_id"], int(db))
    advice = "set STATESYNC_BROKER_URL to another one: emptying the broker deletes the game"
    yield checked(
        Topic.DATABASES,
        "broker and state share one" if is_shared else "broker and state are apart",
        fail=advice if is_shared else "",
    )
    timeout = app.conf.broker_transport_options.get("visibility_timeout", _KOMBU_VISIBILITY_SECONDS)
    least = settings.lease_seconds + _RETRY_SECONDS
    yield checked(
        Topic.VISIBILITY_TIMEOUT,
        f"{timeout} s, for a lease of {settings.lease_seconds} s",
        fail="" if timeout >= least else f"set it to {least} s at least: tasks run twice at once",
    )


def _check_rights(channel: Any, queue: str) -> Check:
    lacking = lacking_rights(
        channel.client,
        queue=f"{channel.global_keyprefix}{queue}",
        channel=f"{channel.keyprefix_fanout}celery.pidbox",
    )
    if lacking is None:
        found = "not told by this Redis, which is older than 7"
    else:
        missing = f"{counted(len(lacking), 'command is', 'commands are')} missing"
        found = missing if lacking else "all that Celery needs"
    user = channel.client.connection_pool.connection_kwargs.get("username") or "default"
    advice = f"ACL SETUSER {user} {' '.join(lacking)}" if lacking else ""
    return checked(Topic.RIGHTS_IN_BROKER, found, fail=advice)


def _is_ours(examined: Examined, settings: Settings, run_id: str, db: int) -> bool:
    """Return whether our state is in database ``db`` of the server with this ``run_id``."""
    return examined.info["run_id"] == run_id and database_of(settings.redis_url) == db


def check_results(_: GameStateOrchestrator, __: Settings) -> Iterator[Check]:
    """Check that the results' server answers, if it is a Redis; others are only named."""
    from celery.backends.redis import RedisBackend

    from statesync.worker.app import app

    backend = app.backend
    if not isinstance(backend, RedisBackend):
        yield checked(Topic.RESULTS, type(backend).__name__)
        return
    info = backend.client.info()
    db = backend.client.connection_pool.connection_kwargs.get("db") or 0
    yield checked(Topic.RESULTS, f"database {db} of {server_name(info)}")
