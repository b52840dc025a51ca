"""Owns the Celery application: ``celery -A statesync worker | beat | flower``.

Its settings stand in ``celeryconfig.py``.
"""

from __future__ import annotations

import gc
import logging
import os
import secrets
from collections.abc import Callable
from functools import cache

from celery import Celery
from celery.signals import worker_process_init, worker_shutdown
from kombu.exceptions import OperationalError

from statesync.errors import BrokerUnavailable, ServerUnavailable
from statesync.hot.store import HotStore
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.settings import Settings

__all__ = ["app", "enqueue_backup", "orchestrator", "settings"]

log = logging.getLogger(__name__)

app = Celery("statesync", include=["statesync.worker.tasks"])
app.config_from_object("celeryconfig")

# Flower's own defaults listen on every address and ask nobody for a password. Unless told
# otherwise it stays on loopback, and without a password nobody gets in.
os.environ.setdefault("FLOWER_ADDRESS", "127.0.0.1")
os.environ.setdefault("FLOWER_BASIC_AUTH", f"statesync:{secrets.token_urlsafe()}")


def enqueue_backup(at: Settings) -> Callable[[int], None]:
    """Return what sends the backup task of a character to the broker of ``at``, for game code.

    It raises BrokerUnavailable.
    """
    sender = Celery("statesync.sender", broker=at.broker_url, set_as_current=False)
    sender.conf.broker_transport_options = {"socket_connect_timeout": 5, "socket_timeout": 10}

    def enqueue(char_id: int) -> None:
        try:
            sender.send_task(
                "statesync.backup_full_state",
                args=(char_id,),
                queue=at.queue("backup"),
                expires=at.lease_seconds,
                ignore_result=True,
                retry_policy={"max_retries": 1},
            )
        except OperationalError as error:
            raise BrokerUnavailable(f"the broker: {error}") from None

    return enqueue


@cache
def settings() -> Settings:
    """Return the settings of this process."""
    return Settings.from_env()


@cache
def orchestrator() -> GameStateOrchestrator:
    """Return the orchestrator of this process, made when its first task runs: after any fork."""
    return GameStateOrchestrator.from_settings(settings())


_OBJECTS_OF_A_BATCH = 100_000


@worker_process_init.connect
def look_for_garbage_less_often(**_: object) -> None:
    """Keep the collector from going through what the process has loaded, and through each batch
    many times over: a batch makes many objects at once, which are gone with it, and no cycles."""
    gc.freeze()
    gc.set_threshold(_OBJECTS_OF_A_BATCH, 20, 20)


@worker_shutdown.connect
def say_what_is_left(**_: object) -> None:
    """Log what a worker that has ended leaves to the others."""
    try:
        with HotStore.from_settings(settings()) as hot:
            left = hot.status()
    except ServerUnavailable as error:
        log.warning("stopped; what is left is not known: %s", error)
    else:
        log.warning("stopped; left to others: %d dirty, %d claimed", left.dirty, left.claimed)
