"""Owns the Celery application and what a worker process holds: its settings, its orchestrator."""

from __future__ import annotations

import gc
import logging
import os
from functools import cache
from typing import Any

from celery import Celery
from celery.app.amqp import AMQP
from celery.loaders.app import AppLoader
from celery.signals import (
    after_setup_logger,
    after_setup_task_logger,
    beat_init,
    worker_before_create_process,
    worker_init,
    worker_process_init,
    worker_process_shutdown,
    worker_shutdown,
)
from celery.utils.log import get_multiprocessing_logger

from statesync import logs, tracing
from statesync.errors import ServerUnavailable
from statesync.hot.store import HotStore
from statesync.lifecycle.realms import Realms
from statesync.lifecycle.troubles import Troubles
from statesync.settings import Settings
from statesync.worker.config import CelerySettings, celery_settings
from statesync.worker.liveness import LivenessConnection, LivenessStep, liveness
from statesync.worker.logs import task_fields
from statesync.worker.names import QueueName
from statesync.worker.overrides import read_overrides

__all__ = ["DeclaringAMQP", "Loader", "app", "realms", "settings", "troubles"]

log = logging.getLogger(__name__)

_BATCH_OBJECTS = 100_000
_NICE = 10
"""How far a worker that saves stands back for the game and the servers, which have 0."""


class Loader(AppLoader):
    """Configures the application when it is first asked for a setting.

    Celery's own loader would import a module that the environment names.
    """

    def read_configuration(self, env: str = "") -> CelerySettings:  # noqa: ARG002
        """Return the settings of Celery. Raises SettingsError."""
        return _configuration()[1]


class DeclaringAMQP(AMQP):
    """Has a worker declare all queues, also those that it does not serve.

    RabbitMQ leads what has waited for its countdown back to any of them.
    """

    Connection = LivenessConnection

    def TaskConsumer(self, channel: Any, *args: Any, **more: Any) -> Any:  # noqa: N802
        """Declare the queues, then return what reads from those that are served."""
        for queue in self.queues.values():
            queue(channel).declare()
        return super().TaskConsumer(channel, *args, **more)


app = Celery(
    "statesync",
    amqp=DeclaringAMQP,
    loader=f"{__name__}:Loader",
    include=["statesync.worker.tasks", "statesync.worker.control"],
)
app.steps["consumer"].add(LivenessStep)


def settings() -> Settings:
    """Return the settings of this process. Raises SettingsError, also for a wrong one of Celery."""
    return _configuration()[0]


@cache
def _configuration() -> tuple[Settings, CelerySettings]:
    own = Settings.from_env()
    return own, celery_settings(own) | read_overrides(own)


@cache
def realms() -> Realms:
    """Return the realms of this process, made when its first task runs: after any fork."""
    return Realms(settings())


@cache
def troubles(realm: str = "") -> Troubles:
    """Return what this process knows of servers that refuse its work in a realm."""
    return Troubles(realms().orchestrator(realm).hot, realms().settings(realm))


@worker_init.connect
@beat_init.connect
def show_that_it_lives(**_: object) -> None:
    """Begin to show that this process is not stuck, if somebody wants to know."""
    liveness.begin(settings().liveness_file)


@after_setup_logger.connect
@after_setup_task_logger.connect
def shape_lines(logger: logging.Logger, **_: object) -> None:
    """Give the handlers that Celery has made for a logger our form of a line."""
    # Only a process that logs for Celery pays for its imports.
    from statesync.worker.digest import set_up_digest

    # Celery gives the logger of the pool handlers of its own, and does not tell of them.
    of_pool = get_multiprocessing_logger()
    for handler in (*logger.handlers, *(of_pool.handlers if of_pool else ())):
        handler.setFormatter(logs.formatter(settings().log_format, handler.formatter, task_fields))
    set_up_digest()


@worker_before_create_process.connect
def freeze(**_: object) -> None:
    """Have a fork share what is loaded: the collector would write to every object."""
    gc.collect()
    gc.freeze()


@worker_process_init.connect
def tune_gc(**_: object) -> None:
    """Spare the collector what the process has loaded, and most of each batch.

    A batch makes many objects at once, which are gone with it, and no cycles.
    """
    gc.freeze()
    gc.set_threshold(_BATCH_OBJECTS, 20, 20)


@worker_process_init.connect
def yield_to_the_game(**_: object) -> None:
    """Let others on this machine go first, if this process saves; one for logins alone does not."""
    backups = {one.queue(QueueName.BACKUP) for one in settings().each_realm()}
    if backups & app.amqp.queues.consume_from.keys():
        os.nice(_NICE)


@worker_process_init.connect
def trace(**_: object) -> None:
    """Have the tasks of this process traced, if the environment says where to."""
    tracing.start_worker()


@worker_process_shutdown.connect
def end_traces(**_: object) -> None:
    """Lose no span of the last tasks."""
    tracing.stop_worker()


@worker_shutdown.connect
def log_what_is_left(**_: object) -> None:
    """Log what a worker that has ended leaves to the others."""
    for one in settings().each_realm():
        where = f" in realm {one.realm}" if one.realm else ""
        try:
            with HotStore.from_settings(one) as hot:
                left = hot.status()
        except ServerUnavailable as error:
            log.warning("stopped; what is left%s is not known: %s", where, error)
        else:
            log.warning(
                "stopped; left to others%s: %d dirty, %d claimed", where, left.dirty, left.claimed
            )
