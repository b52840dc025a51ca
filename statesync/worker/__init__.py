"""Celery: the application, its configuration, its tasks and the messages between workers."""
