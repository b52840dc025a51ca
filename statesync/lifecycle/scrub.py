"""Owns the search for unsaved changes that nothing marks, page by page over all of Redis.

A mark may be missing because a bare writer forgot or did not live to set it, or because somebody
deleted it. Safe to run twice and at any time: each character is checked and marked in one script.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from statesync import durable
from statesync.durable import database
from statesync.hot.store import unwrap
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.state.sessions import Session

__all__ = ["PAUSE_SECONDS", "ScrubPage", "scrub_page"]

log = logging.getLogger(__name__)

PAUSE_SECONDS = 0.01
"""Between two pages, so that Redis belongs to the game: some 20,000 keys a second at most."""
_LOOK_AT = 200
"""Small enough that no script holds Redis for more than about a millisecond."""


@dataclass(frozen=True, slots=True)
class ScrubPage:
    """What one page held."""

    cursor: int
    """Where the next page starts; 0 at the end."""
    keys: int
    """How many keys there are in all."""
    peeked: int
    """About how many keys were looked at."""
    characters: int
    sessions: int
    marked: int
    """Characters that were unsaved without a mark, and are dirty now."""


def scrub_page(orchestrator: GameStateOrchestrator, cursor: int = 0) -> ScrubPage:
    """Mark who is unsaved without a mark among some of the keys, from ``cursor`` on.

    A core says by its ``saved_version`` what is saved; of a session PostgreSQL says it, and whoever
    points at it is marked. Raises ServerUnavailable.
    """
    hot = orchestrator.hot
    found = hot.scan(cursor, count=_LOOK_AT)
    todo: list[tuple[int, tuple[str, str] | None]] = [(char_id, None) for char_id in found.char_ids]
    for session in _unsaved_sessions(orchestrator, found.sessions):
        todo += [(i, (session.session_type, str(session.id))) for i in session.participants]
    replies = hot.run_many([hot.commands.mark_unsaved(*item) for item in todo])
    marked = [char_id for (char_id, _), reply in zip(todo, replies, strict=True) if unwrap(reply)]
    if marked:
        log.warning("unsaved without a mark, now dirty: characters %s", marked)
        hot.count({"scrubbed": len(marked)})
    return ScrubPage(
        found.cursor,
        found.keys,
        _LOOK_AT,
        len(found.char_ids),
        len(found.sessions),
        len(marked),
    )


def _unsaved_sessions(
    orchestrator: GameStateOrchestrator, names: list[tuple[str, str]]
) -> list[Session]:
    """Return the sessions of which Redis holds a newer version than PostgreSQL."""
    if not names:
        return []
    hot = orchestrator.hot
    # Redis first: what is saved meanwhile is newer in PostgreSQL, and nobody is marked for it. One
    # that is gone or cannot be read is the business of its participants' backup.
    replies = hot.run_many([hot.commands.get_session(*name) for name in names])
    held = [reply for reply in replies if isinstance(reply, Session)]
    with database.transaction(orchestrator.engine) as connection:
        saved = durable.sessions.versions(connection, [str(session.id) for session in held])
    return [session for session in held if session.version > saved.get(str(session.id), -1)]
