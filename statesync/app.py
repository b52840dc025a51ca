"""Owns the Celery application: ``celery -A statesync worker | beat | flower``.

Its settings stand in ``celeryconfig.py``.
"""

from __future__ import annotations

import os
import secrets
from functools import cache

from celery import Celery

from statesync.orchestrator import GameStateOrchestrator
from statesync.settings import Settings

__all__ = ["app", "orchestrator", "settings"]

app = Celery("statesync", include=["statesync.tasks"])
app.config_from_object("celeryconfig")

# Flower's own defaults listen on every address and ask nobody for a password. Unless told
# otherwise it stays on loopback, and without a password nobody gets in.
os.environ.setdefault("FLOWER_ADDRESS", "127.0.0.1")
os.environ.setdefault("FLOWER_BASIC_AUTH", f"statesync:{secrets.token_urlsafe()}")


@cache
def settings() -> Settings:
    """Return the settings of this process."""
    return Settings.from_env()


@cache
def orchestrator() -> GameStateOrchestrator:
    """Return the orchestrator of this process, made when its first task runs: after any fork."""
    return GameStateOrchestrator.from_settings(settings())
