"""Owns how Flower is started: on loopback, behind a password, read-only, with what rows tell."""

from __future__ import annotations

import os
import secrets
import sys

from statesync.settings import Settings

__all__ = ["protect_flower"]

_COLUMNS = "name,args,result,state,received,runtime,worker,uuid"
"""With what a task was about, and what became of it: a quarantine is no failure of a task."""


def protect_flower(settings: Settings) -> None:
    """Keep Flower on loopback, behind a password and read-only, unless the environment says more.

    Its own defaults listen on every address without a password, and stop workers for anybody. A
    password that the environment does not give is random, so nobody gets in.
    """
    os.environ.setdefault("FLOWER_ADDRESS", "127.0.0.1")
    os.environ.setdefault("FLOWER_BASIC_AUTH", f"statesync:{secrets.token_urlsafe()}")
    os.environ.setdefault("FLOWER_READ_ONLY", "true")
    os.environ.setdefault("FLOWER_TASKS_COLUMNS", _COLUMNS)
    # Celery has loaded it if this process may become Flower.
    if command := sys.modules.get("flower.command"):
        from statesync.worker.guard import guarded

        command.Flower = guarded(command.Flower, settings.web_url)  # type: ignore[attr-defined]
