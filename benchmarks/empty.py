"""Owns an empty Celery application, ``celery -A benchmarks.empty worker``: what Celery takes."""

from celery import Celery

__all__ = ["QUEUE", "app"]

QUEUE = "empty"

app = Celery("empty")  # the broker: CELERY_BROKER_URL
