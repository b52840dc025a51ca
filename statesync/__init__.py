"""statesync: a write-behind cache with restore for game state.

Redis holds every character hot, PostgreSQL holds it durable, and Celery workers move it between
the two. Game code needs ``LoginService`` and ``GameStore``, or their async twins; the
workers run ``GameStateOrchestrator``. A session type of your own is a ``SessionOrchestrator``.
"""

from typing import Any

from statesync import errors
from statesync.codec import Character
from statesync.deletion import DeletionReport
from statesync.game_store import AsyncGameStore, GameStore
from statesync.hot import AsyncHotStore, HotStore
from statesync.login import AsyncLoginService, LoggedIn, LoginService
from statesync.orchestrator import BackupReport, GameStateOrchestrator, RestoreReport
from statesync.session_codec import Session
from statesync.session_types import register
from statesync.sessions.base import SessionOrchestrator, SessionReport
from statesync.settings import Settings
from statesync.together_commands import Together

__all__ = [
    "AsyncGameStore",
    "AsyncHotStore",
    "AsyncLoginService",
    "BackupReport",
    "Character",
    "DeletionReport",
    "GameStateOrchestrator",
    "GameStore",
    "HotStore",
    "LoggedIn",
    "LoginService",
    "RestoreReport",
    "Session",
    "SessionOrchestrator",
    "SessionReport",
    "Settings",
    "Together",
    "errors",
    "register",
]


def __getattr__(name: str) -> Any:
    """Give ``celery -A statesync`` its application, without importing Celery for anybody else.

    A wrong setting ends the process here with one line: Celery would print a traceback.
    """
    if name != "celery":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from statesync.app import app, settings
    from statesync.session_types import session_types

    try:
        settings()
        session_types()
    except (errors.SettingsError, errors.InvalidSessionType) as error:
        raise SystemExit(f"statesync: {error}") from None

    return app
