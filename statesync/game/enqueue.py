"""Owns how game code enqueues a backup, beside any Celery application that the game has."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Self

from statesync import tracing
from statesync.errors import BrokerUnavailable
from statesync.settings import Settings
from statesync.worker.brokers import sender_settings
from statesync.worker.names import QueueName, TaskName, of_realm
from statesync.worker.rows import about

if TYPE_CHECKING:
    from celery import Celery

__all__ = ["BackupSender", "enqueue_backup"]

_POOL_SIZE = 10
_CONNECT_SECONDS = 4
_ANSWER_SECONDS = 10


def enqueue_backup(settings: Settings) -> BackupSender:
    """Return what sends backup tasks to the broker of ``settings``; it connects on first use."""
    return BackupSender(settings)


class BackupSender:
    """Sends the backup task of a character when it is called. Threads may share it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._app, self._pid = _application(settings), os.getpid()

    def __call__(self, char_id: int) -> None:
        """Send the task. Raises BrokerUnavailable."""
        from kombu.exceptions import OperationalError

        if self._pid != os.getpid():  # a fork's connections belong to its parent
            self._app, self._pid = _application(self._settings), os.getpid()
        queue = self._settings.queue(QueueName.BACKUP)
        attributes = {"messaging.destination.name": queue, "messaging.operation.type": "send"}
        try:
            with tracing.span(f"send {queue}", attributes, kind="PRODUCER"):
                self._app.send_task(
                    TaskName.BACKUP_FULL_STATE.value,
                    args=(char_id,),
                    kwargs=of_realm(self._settings),
                    queue=queue,
                    expires=self._settings.lease_seconds,
                    ignore_result=True,
                    headers=tracing.headers(),
                    argsrepr=about(TaskName.BACKUP_FULL_STATE, self._settings, char_id),
                    retry_policy={"max_retries": 1},
                )
        except OperationalError as error:
            raise BrokerUnavailable(f"the broker: {error}") from None

    def close(self) -> None:
        """Close all connections."""
        if self._pid == os.getpid():
            self._app.amqp.producer_pool.connections.force_close_all()
        self._app.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _application(settings: Settings) -> Celery:
    """Return an application that shares nothing with the game's own.

    It is never the current one, it has connections of its own, since Celery's pools and the limit
    of their size belong to all applications of a process, and ``CELERY_BROKER_URL``,
    ``CELERY_CONFIG_MODULE``, ``CELERY_LOADER`` and Django's settings do not reach it.
    """
    # Only a game that enqueues pays for these imports.
    from celery import Celery
    from celery.app.amqp import AMQP
    from kombu import Connection
    from kombu.pools import ProducerPool

    config = sender_settings(settings, seconds=_ANSWER_SECONDS)
    broker = Connection(
        config["broker_url"],
        connect_timeout=_CONNECT_SECONDS,
        transport_options=config["broker_transport_options"],
    )

    class OwnPool(AMQP):
        producer_pool = ProducerPool(broker.Pool(limit=_POOL_SIZE), limit=_POOL_SIZE)

    return Celery(
        "statesync.sender",
        amqp=OwnPool,
        loader="celery.loaders.app:AppLoader",
        config_source=config,
        fixups=[],
        set_as_current=False,
    )
