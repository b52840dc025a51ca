"""Celery: the application, its settings and its tasks."""
