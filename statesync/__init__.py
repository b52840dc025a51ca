"""statesync: a write-behind cache with restore for game state.

Redis holds every character hot, PostgreSQL holds it durable, and Celery workers move it between
the two. Game code needs ``LoginService`` and ``GameStore``, or their async twins; the
workers run ``GameStateOrchestrator``. A session type of your own is a ``SessionOrchestrator``.
"""

from typing import Any

from statesync import errors
from statesync.game.login import AsyncLoginService, LoggedIn, LoginService
from statesync.game.store import AsyncGameStore, GameStore
from statesync.hot.commands.together import Together
from statesync.hot.store import AsyncHotStore, HotStore
from statesync.lifecycle.deletion import DeletionReport
from statesync.lifecycle.orchestrator import BackupReport, GameStateOrchestrator, RestoreReport
from statesync.sessions.base import SessionOrchestrator, SessionReport
from statesync.settings import Settings
from statesync.state.characters import Character
from statesync.state.session_types import register
from statesync.state.sessions import Session

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
    from statesync.state.session_types import session_types
    from statesync.worker.app import app, settings

    try:
        settings()
        session_types()
    except (errors.SettingsError, errors.InvalidSessionType) as error:
        raise SystemExit(f"statesync: {error}") from None

    return app
