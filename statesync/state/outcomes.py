"""Owns the outcomes: what can become of a backup, a restore, a deletion, and of a session in them.

Each member is its own text in JSON, in counters and in the results of tasks.
"""

from __future__ import annotations

from enum import StrEnum

__all__ = ["BackupOutcome", "DeletionOutcome", "RestoreOutcome", "SessionOutcome"]


class BackupOutcome(StrEnum):
    """What became of one character in a backup."""

    SAVED = "saved"
    """PostgreSQL holds this state now, and did not before."""
    UNCHANGED = "unchanged"
    """PostgreSQL held this state already; no row was touched."""
    STALE = "stale"
    """PostgreSQL holds a newer state, which another worker has saved."""
    SUPERSEDED = "superseded"
    """The claim passed to another worker, which saves the character."""
    CONFLICT = "conflict"
    """Redis went back in time: what was live is recorded, and the row is live now."""
    QUARANTINED = "quarantined"
    """The character cannot be saved; its data stays in Redis until an operator repairs it."""
    MISSING = "missing"
    """The core is gone from Redis: if the character was dirty, changes were lost."""
    DELETED = "deleted"
    """The character is deleted in PostgreSQL; nothing of it is saved."""
    RELEASED = "released"
    """Its row was locked, for example; it is dirty again, and a later sweep saves it."""


class RestoreOutcome(StrEnum):
    """What became of one character in a restore."""

    RESTORED = "restored"
    """Loaded from PostgreSQL."""
    LIVE = "live"
    """Already in Redis; left alone."""
    NOT_FOUND = "not_found"
    """PostgreSQL has no such character, or it is deleted."""
    FAILED = "failed"
    """A session type cannot load its session, or Redis holds something else under its key."""


class SessionOutcome(StrEnum):
    """What became of one session in a backup or a restore."""

    SAVED = "saved"
    """PostgreSQL holds this state now, and did not before."""
    UNCHANGED = "unchanged"
    """PostgreSQL held this state already."""
    CLOSED = "closed"
    """Saved for good: it was closed."""
    MISSING = "missing"
    """A core points at it, but it is gone from Redis; what PostgreSQL has of it stays."""
    QUARANTINED = "quarantined"
    """It cannot be read, so it cannot be saved."""
    RESTORED = "restored"
    """Loaded from PostgreSQL."""
    LIVE = "live"
    """Already in Redis; left alone."""
    ENDED = "ended"
    """The core pointed at it, but PostgreSQL has nothing open of it to restore."""
    LEFT = "left"
    """The core does not point at it any more; nothing was restored."""
    NOT_FOUND = "not_found"
    """The character has no session of that type."""


class DeletionOutcome(StrEnum):
    """What became of a deletion."""

    DELETED = "deleted"
    """The character is gone from both stores, now or before."""
    NOT_FOUND = "not_found"
    """Neither store has such a character."""
