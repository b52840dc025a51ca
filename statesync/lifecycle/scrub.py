"""Owns the scrub: the search, over all of Redis, for unsaved changes without a dirty mark.

A mark is missing if a game wrote to Redis and did not set it, died before it did, or deleted it. A
scrub is safe to run twice and at any time: one script checks and marks each character.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from statesync import durable
from statesync.durable import database
from statesync.hot.store import unwrap
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.state.references import SessionRef
from statesync.state.sessions import Session

__all__ = ["ScrubPage", "scrub_page", "scrub_pages"]

log = logging.getLogger(__name__)

_PAUSE_SECONDS = 0.01
"""Between two pages, so that Redis belongs to the game: at most some 20,000 keys a second."""
_PAGE_KEYS = 200
"""Small enough that no script holds Redis for more than about a millisecond."""


@dataclass(frozen=True, slots=True)
class ScrubPage:
    """What one page contained."""

    cursor: int
    """Where the next page starts; 0 at the end."""
    keys: int
    """How many keys Redis has in all."""
    peeked: int
    """About how many keys this page covered."""
    characters: int
    sessions: int
    marked: int
    """Characters that were unsaved without a mark, and are dirty now."""

    def counts(self) -> dict[str, int]:
        """Return what a scrub adds up over its pages: characters, sessions, marked."""
        return {"characters": self.characters, "sessions": self.sessions, "marked": self.marked}


def scrub_pages(orchestrator: GameStateOrchestrator, cursor: int = 0) -> Iterator[ScrubPage]:
    """Scrub page by page from ``cursor`` to the end, with a pause before each next page.

    Raises as ``scrub_page`` does.
    """
    while True:
        page = scrub_page(orchestrator, cursor)
        yield page
        cursor = page.cursor
        if cursor == 0:
            return
        time.sleep(_PAUSE_SECONDS)


def scrub_page(orchestrator: GameStateOrchestrator, cursor: int = 0) -> ScrubPage:
    """Mark the characters of one page that are unsaved without a mark.

    A core's ``saved_version`` says whether it is saved. PostgreSQL says whether a session is saved;
    if not, the characters that point at it are marked. Raises ServerUnavailable.
    """
    hot = orchestrator.hot
    found = hot.scan(cursor, count=_PAGE_KEYS)
    suspects: list[tuple[int, SessionRef | None]] = [(char_id, None) for char_id in found.char_ids]
    for session in _unsaved_sessions(orchestrator, found.sessions):
        suspects += [(char_id, session.ref) for char_id in session.participants]
    replies = hot.run_many([hot.commands.mark_unsaved(*suspect) for suspect in suspects])
    marked = [
        char_id for (char_id, _), reply in zip(suspects, replies, strict=True) if unwrap(reply)
    ]
    if marked:
        log.warning("unsaved without a mark, now dirty: characters %s", marked)
        hot.count({"scrubbed": len(marked)})
    return ScrubPage(
        cursor=found.cursor,
        keys=found.keys,
        peeked=_PAGE_KEYS,
        characters=len(found.char_ids),
        sessions=len(found.sessions),
        marked=len(marked),
    )


def _unsaved_sessions(
    orchestrator: GameStateOrchestrator, session_refs: Sequence[tuple[str, str]]
) -> list[Session]:
    """Return the sessions of which Redis holds a newer version than PostgreSQL.

    Leaves out sessions that are gone or cannot be read: the backup of their participants reports
    these.
    """
    if not session_refs:
        return []
    hot = orchestrator.hot
    # Redis first: a session that is saved in between is newer in PostgreSQL, and not marked.
    replies = hot.run_many([hot.commands.get_session(*ref) for ref in session_refs])
    live = [reply for reply in replies if isinstance(reply, Session)]
    with database.transaction(orchestrator.engine) as connection:
        saved = durable.sessions.versions(connection, [str(session.id) for session in live])
    return [session for session in live if session.version > saved.get(str(session.id), -1)]
