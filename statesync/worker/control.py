"""Owns what workers tell when they are asked: which session types they know."""

from __future__ import annotations

from celery.worker.control import inspect_command

from statesync.state.session_types import names
from statesync.worker.names import SESSION_TYPES

__all__ = ["session_types"]


@inspect_command(name=SESSION_TYPES)
def session_types(_: object) -> list[str]:
    """Return the names of the session types that this worker can save and load."""
    return names()
