# statesync: settings of Celery that replace those of statesync/worker/config.py
#
# Celery's workers, beat and Flower run this file if they start in its folder, because of its first
# line, or if STATESYNC_CELERYCONFIG is its path. Each lower-case name is a setting of Celery, see
# https://docs.celeryq.dev/en/stable/userguide/configuration.html; an unknown one is refused.
# The broker, the results, the queues' prefix and the schedule are settings of statesync:
# docs/operations.md has them.
#
# Examples:
#
# worker_concurrency = 8
# worker_max_tasks_per_child = 10_000
# worker_log_format = "%(asctime)s %(levelname)s %(message)s"
# worker_send_task_events = True
