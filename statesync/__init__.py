"""statesync: a write-behind cache with restore for game state.

Redis holds every character hot, PostgreSQL holds it durable, and Celery workers move it between
the two. Game code needs ``HotStore`` or ``AsyncHotStore``; the workers run
``GameStateOrchestrator``.
"""

from typing import Any

from statesync import errors
from statesync.codec import Character
from statesync.hot import AsyncHotStore, HotStore
from statesync.orchestrator import BackupReport, GameStateOrchestrator, RestoreReport
from statesync.settings import Settings

__all__ = [
    "AsyncHotStore",
    "BackupReport",
    "Character",
    "GameStateOrchestrator",
    "HotStore",
    "RestoreReport",
    "Settings",
    "errors",
]


def __getattr__(name: str) -> Any:
    """Give ``celery -A statesync`` its application, without importing Celery for anybody else.

    A wrong setting ends the process here with one line: Celery would print a traceback.
    """
    if name != "celery":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from statesync.app import app, settings

    try:
        settings()
    except errors.SettingsError as error:
        raise SystemExit(f"statesync: {error}") from None

    return app
