"""Owns how game code enqueues a backup, beside any Celery application that the game has."""

from __future__ import annotations

from typing import Self

from statesync.errors import BrokerUnavailable
from statesync.settings import Settings
from statesync.worker.names import QueueName, TaskName

__all__ = ["BackupSender", "enqueue_backup"]

_POOL_SIZE = 10
_CONNECT_SECONDS = 4
_TRANSPORT_OPTIONS = {"socket_connect_timeout": 5, "socket_timeout": 10}


def enqueue_backup(settings: Settings) -> BackupSender:
    """Return what sends backup tasks to the broker of ``settings``; it connects on first use."""
    return BackupSender(settings)


class BackupSender:
    """Sends the backup task of a character when it is called. Threads may share it.

    The game's Celery application stays the current one. Connections come from a pool of its own,
    because Celery's pools, and the limit of their size, belong to all applications of a process.
    ``CELERY_BROKER_URL`` and its like are the game's, and have no effect here.
    """

    def __init__(self, settings: Settings) -> None:
        # Only a game that enqueues pays for the import.
        from celery import Celery
        from kombu import Connection

        self._settings = settings
        self._app = Celery(
            "statesync.sender",
            loader="celery.loaders.app:AppLoader",
            config_source={"broker_url": settings.broker_url},
            fixups=(),
            set_as_current=False,
        )
        self._pool = Connection(
            settings.broker_url,
            connect_timeout=_CONNECT_SECONDS,
            transport_options=_TRANSPORT_OPTIONS,
        ).Pool(limit=_POOL_SIZE)

    def __call__(self, char_id: int) -> None:
        """Send the task. Raises BrokerUnavailable."""
        from kombu.exceptions import OperationalError

        try:
            with self._pool.acquire(block=True) as connection:
                self._app.send_task(
                    TaskName.BACKUP_FULL_STATE.value,
                    args=(char_id,),
                    queue=self._settings.queue(QueueName.BACKUP),
                    expires=self._settings.lease_seconds,
                    ignore_result=True,
                    retry_policy={"max_retries": 1},
                    connection=connection,
                )
        except OperationalError as error:
            raise BrokerUnavailable(f"the broker: {error}") from None

    def close(self) -> None:
        """Close all connections."""
        self._pool.force_close_all()
        self._app.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
