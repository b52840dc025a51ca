"""Session types: what one provides, and our own three."""

from statesync.session_types import register
from statesync.sessions.base import SessionOrchestrator, SessionReport

__all__ = ["SessionOrchestrator", "SessionReport", "register"]
