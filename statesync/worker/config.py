"""Owns what Celery needs, built from statesync's settings; ``overrides`` may replace any of it."""

from __future__ import annotations

from typing import Any

from kombu import Exchange, Queue

from statesync.errors import InvalidInput
from statesync.settings import Settings
from statesync.worker.brokers import is_rabbitmq, reach_broker, reach_results
from statesync.worker.names import QueueName, TaskName, of_realm, queues_of
from statesync.worker.rows import about
from statesync.worker.turns import Turns

__all__ = ["CelerySettings", "celery_settings"]

CelerySettings = dict[str, Any]
"""Celery's settings by their lower-case names."""


def celery_settings(settings: Settings) -> CelerySettings:
    """Return all settings of Celery that are not its defaults."""
    return {
        **_MESSAGES,
        **_DELIVERY,
        **_routing(settings),
        **_connections(settings),
        **_stopping(settings),
        **_schedule(settings),
        "result_expires": settings.result_seconds,
        "task_track_started": True,
        "worker_hijack_root_logger": True,
    }


_MESSAGES: CelerySettings = {
    # JSON only: a message is data and never code.
    "task_serializer": "json",
    "result_serializer": "json",
    "accept_content": ["json"],
    "result_accept_content": ["json"],
}

_ANSWER_SECONDS = 30
"""How long the broker and the results may take for an answer."""

_DELIVERY: CelerySettings = {
    # A worker process reserves one message at a time: none waits behind a long one.
    "worker_prefetch_multiplier": 1,
    # A message goes when its work is done. If the work kills its process, the message is not run
    # again: it would do so for ever. The claim's lease brings the character back, at the pace of
    # the leases, and a caller that waits for the result gets a WorkerLostError.
    "task_acks_late": True,
    "task_reject_on_worker_lost": False,
    # A backup goes on while the broker is away; delivered again, it does no harm.
    "worker_cancel_long_running_tasks_on_connection_loss": False,
}


def _routing(settings: Settings) -> CelerySettings:
    """Return the queues: apart, so that a login does not wait behind a flood of backups.

    Each realm has its own three. A worker takes from its queues in turn, so no realm waits behind
    the flood of another.
    """
    celery = settings.queue_prefix + QueueName.CELERY
    queues = [name for one in settings.each_realm() for name in queues_of(one)]
    return {
        "task_default_queue": settings.each_realm()[0].queue(QueueName.BACKUP),
        # With a queue prefix, messages of other applications on the same broker are left alone.
        "task_queues": [_queue(settings, name) for name in (*queues, celery)],
        "task_routes": [_Router(settings)],
        "task_create_missing_queues": False,
    }


class _Router:
    """Gives the queue of a task, by its name and its realm."""

    def __init__(self, settings: Settings) -> None:
        self._queue_of = {one.realm: one.queue for one in settings.each_realm()}

    def __call__(
        self, name: str, _: object, kwargs: dict[str, Any] | None, *__: object, **___: object
    ) -> dict[str, str] | None:
        """Return where a message goes; None if its task is none of ours."""
        if not name.startswith("statesync."):
            return None
        realm = (kwargs or {}).get("realm", "")
        if not isinstance(realm, str) or realm not in self._queue_of:
            known = ", ".join(filter(None, self._queue_of)) or "none"
            raise InvalidInput(f"{name} has to name a realm, as realm=…; here there are {known}")
        return {"queue": self._queue_of[realm](_queue_name(name))}


def _queue_name(task: str) -> QueueName:
    if task.startswith("statesync.sync_"):
        return QueueName.SYNC
    # Bulk work, a batch: a login that arrives meanwhile finds its own queue empty.
    if task == TaskName.RESTORE_FULL_STATE:
        return QueueName.RESTORE
    return QueueName.BACKUP


def _queue(settings: Settings, name: str) -> Queue:
    """Return a queue as the broker of the settings has it.

    RabbitMQ keeps a quorum queue on several nodes, and holds back what has a countdown in queues
    of its own, from which only an exchange of this type leads back. Its key is one word.
    """
    if not is_rabbitmq(settings.broker_url):
        return Queue(name)
    return Queue(
        name,
        Exchange(f"{settings.queue_prefix}statesync", type="topic"),
        routing_key=name.replace(".", "/"),
        queue_arguments={"x-queue-type": "quorum"},
    )


_IN_TURNS = {"queue_order_strategy": f"{Turns.__module__}:{Turns.__qualname__}"}


def _connections(settings: Settings) -> CelerySettings:
    """Return how to reach the broker and the results, for as long as it takes."""
    # Redis delivers an unacknowledged message again after this: more than any task of ours takes,
    # and more than a retry waits.
    common = {
        "visibility_timeout": max(3600, 4 * settings.lease_seconds),
        "socket_keepalive": True,
        "health_check_interval": 25,
    }
    broker_url, broker = reach_broker(settings, seconds=_ANSWER_SECONDS)
    result_url, results = reach_results(settings, seconds=_ANSWER_SECONDS)
    return {
        "broker_url": broker_url,
        "result_backend": result_url,
        "broker_transport_options": common | _IN_TURNS | broker,
        "result_backend_transport_options": common | results,
        # Celery's client of the results does not read them among its options.
        "redis_socket_timeout": _ANSWER_SECONDS,
        "redis_socket_connect_timeout": results.get("socket_connect_timeout"),
        # A RabbitMQ that is frozen is noticed within a minute.
        "broker_heartbeat": 30,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # A master that comes back as a replica refuses writes: to be waited for, like an outage.
        "broker_channel_error_retry": True,
        "task_publish_retry_policy": {"max_retries": 3, "interval_start": 0.1, "interval_max": 1},
    }


def _stopping(settings: Settings) -> CelerySettings:
    """Return how a worker ends: SIGTERM finishes what runs, SIGQUIT puts it back after a while."""
    return {
        "worker_soft_shutdown_timeout": min(settings.lease_seconds, 30),
        "worker_enable_soft_shutdown_on_idle": True,
    }


def _schedule(settings: Settings) -> CelerySettings:
    """Return what beat sends. It keeps nothing on disk: an early or a second sweep does no harm."""
    schedule: dict[str, Any] = {}
    for one in settings.each_realm():
        of_one = f":{one.realm}" if one.realm else ""
        # A slice that waits long is of use all the same; and the clocks of two machines may differ.
        schedule[f"sync-slice{of_one}"] = _every(
            one.slice_seconds, TaskName.SYNC_SLICE, one, expires=one.sync_seconds
        )
        if one.scrub_seconds:
            schedule[f"scrub{of_one}"] = _every(
                one.scrub_seconds, TaskName.SCRUB, one, expires=one.scrub_seconds
            )
    return {
        "beat_scheduler": "statesync.worker.beat:Scheduler",
        "beat_max_loop_interval": min(settings.sync_seconds, 60),
        "beat_schedule": schedule,
    }


def _every(seconds: float, task: TaskName, settings: Settings, *, expires: int) -> dict[str, Any]:
    return {
        "task": task.value,
        "schedule": float(seconds),
        "kwargs": of_realm(settings),
        "options": {
            "expires": expires,
            "ignore_result": True,
            "argsrepr": about(task, settings),
        },
    }
