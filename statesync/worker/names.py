"""Owns the names of tasks and queues, which games and workers agree on. It imports no Celery."""

from __future__ import annotations

from enum import StrEnum

from statesync.settings import Settings

__all__ = ["SESSION_TYPES", "QueueName", "TaskName", "of_realm", "queues_of"]

SESSION_TYPES = "statesync_session_types"
"""What workers are asked for the session types that they know."""


class TaskName(StrEnum):
    """How a message names its task."""

    BACKUP_FULL_STATE = "statesync.backup_full_state"
    """Save one character."""
    BACKUP_BATCH = "statesync.backup_batch"
    """Save characters that a sweep has claimed."""
    RESTORE_FULL_STATE = "statesync.restore_full_state"
    """Load one character into Redis if it is absent."""
    RESTORE_BATCH = "statesync.restore_batch"
    """Load many characters into Redis if they are absent."""
    SYNC_DIRTY = "statesync.sync_dirty"
    """Sweep all of the dirty list."""
    SYNC_SLICE = "statesync.sync_slice"
    """Sweep what is due of the dirty list."""
    SCRUB = "statesync.scrub"
    """Mark unsaved characters that have no mark."""


class QueueName(StrEnum):
    """The queues of a worker; ``Settings.queue`` puts the prefix before each."""

    RESTORE = "restore"
    """Logins."""
    SYNC = "sync"
    """Sweeps."""
    BACKUP = "backup"
    """Backups, and all other bulk work."""
    CELERY = "celery"
    """Celery's own default: messages of other applications that name no queue."""


def queues_of(settings: Settings) -> list[str]:
    """Return the queues of one realm, or of the one world, by their real names."""
    return [settings.queue(name) for name in (QueueName.RESTORE, QueueName.SYNC, QueueName.BACKUP)]


def of_realm(settings: Settings) -> dict[str, str]:
    """Return the keyword by which a message names its realm; none if there is only one world."""
    return {"realm": settings.realm} if settings.realm else {}
