"""Owns what Celery needs, built from statesync's settings; ``overrides`` may replace any of it."""

from __future__ import annotations

from typing import Any

from kombu import Queue

from statesync.settings import Settings
from statesync.worker.names import QueueName, TaskName

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
    """Return the queues: apart, so that a login does not wait behind a flood of backups."""
    backup = settings.queue(QueueName.BACKUP)
    return {
        "task_default_queue": backup,
        # With a queue prefix, messages of other applications on the same broker are left alone.
        "task_queues": [Queue(settings.queue(name)) for name in QueueName],
        "task_routes": {
            "statesync.sync_*": {"queue": settings.queue(QueueName.SYNC)},
            # Bulk work: a login that arrives meanwhile finds its own queue empty.
            TaskName.RESTORE_BATCH.value: {"queue": backup},
            "statesync.restore_*": {"queue": settings.queue(QueueName.RESTORE)},
            "statesync.*": {"queue": backup},
        },
        "task_create_missing_queues": False,
    }


def _connections(settings: Settings) -> CelerySettings:
    """Return how to reach the broker and the results, for as long as it takes."""
    options = {
        # The broker delivers an unacknowledged message again after this: more than any task of
        # ours takes, and more than a retry waits.
        "visibility_timeout": max(3600, 4 * settings.lease_seconds),
        "socket_connect_timeout": 5,
        "socket_timeout": 30,
        "socket_keepalive": True,
        "health_check_interval": 25,
    }
    return {
        "broker_url": settings.broker_url,
        "result_backend": settings.result_url,
        "broker_transport_options": options,
        "result_backend_transport_options": options,
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
    # A slice that waits long is of use all the same; and the clocks of two machines may differ.
    slices = _every(settings.slice_seconds, TaskName.SYNC_SLICE, expires=settings.sync_seconds)
    schedule = {"sync-slice": slices}
    if settings.scrub_seconds:
        scrub_seconds = settings.scrub_seconds
        schedule["scrub"] = _every(scrub_seconds, TaskName.SCRUB, expires=scrub_seconds)
    return {
        "beat_scheduler": "celery.beat:Scheduler",
        "beat_max_loop_interval": min(settings.sync_seconds, 60),
        "beat_schedule": schedule,
    }


def _every(seconds: float, task: TaskName, *, expires: int) -> dict[str, Any]:
    return {
        "task": task.value,
        "schedule": float(seconds),
        "options": {"expires": expires, "ignore_result": True},
    }
