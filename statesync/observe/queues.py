"""Owns how many messages wait in the queues."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from statesync.settings import Settings
from statesync.worker.names import queues_of

if TYPE_CHECKING:
    from kombu import Connection

__all__ = ["broker_connection", "count", "count_if_there", "count_messages"]

_NOT_FOUND = 404


def count(settings: Settings) -> dict[str, int]:
    """Return how many messages wait in each queue of a realm; it does not try twice.

    Raises what the broker's transport does.
    """
    with broker_connection() as connection:
        return {queue: count_messages(connection, queue) for queue in queues_of(settings)}


def broker_connection() -> Connection:
    """Return a connection to the broker that does not try twice; it connects when it is used."""
    from statesync.worker.app import app

    return app.connection_for_read(transport_options={"max_retries": 0})


def count_messages(connection: Connection, queue: str) -> int:
    """Return how many messages wait in a queue; none if there is no such queue, which stays so."""
    return count_if_there(connection, queue) or 0


def count_if_there(connection: Connection, queue: str) -> int | None:
    """Return how many messages wait in a queue; None if there is no such queue."""
    from kombu.exceptions import ChannelError

    channel: Any
    with connection.channel() as channel:  # RabbitMQ closes it if it does not find the queue
        try:
            waiting: int = channel.queue_declare(queue, passive=True).message_count
        except ChannelError as error:
            if int(error.reply_code or 0) != _NOT_FOUND:
                raise
            return None
    return waiting
