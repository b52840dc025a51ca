"""What Celery itself needs, built from statesync's settings.

Celery imports this module by its name; one in the working directory goes before the one that
is installed with the package.
"""

from kombu import Queue

from statesync.settings import Settings

_settings = Settings.from_env()

broker_url = _settings.broker_url
result_backend = _settings.result_url

# JSON only: a message is data and never code.
task_serializer = result_serializer = "json"
accept_content = result_accept_content = ["json"]

# A login must not wait behind a flood of backups: queues apart, and one message at a time for each
# worker process, so that nothing is held back behind a long one.
task_default_queue = _settings.queue("backup")
# The last one is where another application's message goes that names no queue. On a broker that
# is shared with other Celery applications, set a queue prefix: then their messages are left alone.
task_queues = [Queue(_settings.queue(name)) for name in ("restore", "sync", "backup", "celery")]
task_routes = {
    "statesync.sync_dirty": {"queue": _settings.queue("sync")},
    # Bulk work: a login that comes in meanwhile finds its own queue empty.
    "statesync.restore_batch": {"queue": _settings.queue("backup")},
    "statesync.restore_*": {"queue": _settings.queue("restore")},
    "statesync.*": {"queue": _settings.queue("backup")},
}
task_create_missing_queues = False
worker_prefetch_multiplier = 1

# A message goes when its work is done. One whose pool process was killed under it is not run again:
# work that kills its process would do so for ever. The claim's lease brings the character back, at
# the pace of the leases, and who waits for a result is told (WorkerLostError).
task_acks_late = True
task_reject_on_worker_lost = False
# A backup goes on while the broker is away; delivered again, it does no harm.
worker_cancel_long_running_tasks_on_connection_loss = False
# An unacknowledged message is delivered again after this; more than any task of ours takes, and
# more than a retry waits.
_visibility = max(3600, 4 * _settings.lease_seconds)
visibility_timeout = _visibility
_connection = {
    "visibility_timeout": _visibility,
    "socket_connect_timeout": 5,
    "socket_timeout": 30,
    "socket_keepalive": True,
    "health_check_interval": 25,
}
broker_transport_options = _connection
result_backend_transport_options = _connection
broker_connection_retry_on_startup = True
broker_connection_max_retries = None  # try for as long as it takes
task_publish_retry_policy = {"max_retries": 3, "interval_start": 0.1, "interval_max": 1}

result_expires = _settings.result_seconds
task_track_started = True

# SIGTERM finishes what runs. SIGQUIT waits this long for it and then puts it back in the queue.
worker_soft_shutdown_timeout = min(_settings.lease_seconds, 30)
worker_enable_soft_shutdown_on_idle = True
worker_hijack_root_logger = True

# No state on disk: a sweep that comes early or twice does no harm.
beat_scheduler = "celery.beat:Scheduler"
beat_max_loop_interval = min(_settings.sync_seconds, 60)
beat_schedule = {
    "sync-dirty": {
        "task": "statesync.sync_dirty",
        "schedule": float(_settings.sync_seconds),
        "options": {"expires": _settings.sync_seconds, "ignore_result": True},
    }
}
if _settings.scrub_seconds:
    beat_schedule["scrub"] = {
        "task": "statesync.scrub",
        "schedule": float(_settings.scrub_seconds),
        "options": {"expires": _settings.scrub_seconds, "ignore_result": True},
    }
