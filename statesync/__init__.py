"""statesync: a write-behind cache with restore for game state.

Redis holds every character hot, PostgreSQL holds it durable, and Celery workers move it between
the two. A game needs ``GameStore`` and ``LoginService``, or their async twins; the workers run
``GameStateOrchestrator``. A session type of a game's own is a ``SessionOrchestrator``.
"""

from typing import TYPE_CHECKING

from statesync import errors
from statesync.game.async_login import AsyncLoginService
from statesync.game.async_store import AsyncGameStore
from statesync.game.client import LoggedIn
from statesync.game.login import LoginService
from statesync.game.store import GameStore
from statesync.hot.commands.together import Together
from statesync.hot.reverts import Reverted
from statesync.lifecycle.orchestrator import (
    BackupReport,
    DeletionReport,
    GameStateOrchestrator,
    RestoreReport,
)
from statesync.lifecycle.realms import Realms
from statesync.sessions.base import SessionOrchestrator, SessionReport
from statesync.settings import Settings
from statesync.state.characters import Character
from statesync.state.outcomes import (
    BackupOutcome,
    DeletionOutcome,
    RestoreOutcome,
    SessionOutcome,
)
from statesync.state.receipts import Receipt
from statesync.state.session_types import register
from statesync.state.sessions import Session

if TYPE_CHECKING:
    from celery import Celery

__all__ = [
    "AsyncGameStore",
    "AsyncLoginService",
    "BackupOutcome",
    "BackupReport",
    "Character",
    "DeletionOutcome",
    "DeletionReport",
    "GameStateOrchestrator",
    "GameStore",
    "LoggedIn",
    "LoginService",
    "Realms",
    "Receipt",
    "RestoreOutcome",
    "RestoreReport",
    "Reverted",
    "Session",
    "SessionOrchestrator",
    "SessionOutcome",
    "SessionReport",
    "Settings",
    "Together",
    "errors",
    "register",
]


def __getattr__(name: str) -> "Celery":
    """Give ``celery -A statesync`` its application; nothing else imports Celery here.

    A wrong setting ends the process with one line: Celery would print a traceback.
    """
    if name != "celery":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import logging

    from statesync import logs
    from statesync.state.session_types import session_types
    from statesync.worker.app import app, settings
    from statesync.worker.digest import set_up_digest
    from statesync.worker.flower import protect_flower

    try:
        own = settings()
        session_types()
    except (errors.SettingsError, errors.InvalidSessionType) as error:
        raise SystemExit(f"statesync: {error}") from None
    protect_flower(own)
    if not logging.getLogger().handlers:  # Flower keeps these; a worker and beat make their own
        logs.configure(own.log_format, logging.WARNING)
        set_up_digest()
    return app
